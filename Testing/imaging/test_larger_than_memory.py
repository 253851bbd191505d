# SPDX-License-Identifier: Apache-2.0
"""Images larger than the memory are refused by their headers, before room is made for them."""

from __future__ import annotations

import gzip
import struct
import time
import zlib
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from DeepFLASHRegistrationLib.imaging import io
from DeepFLASHRegistrationLib.imaging.grid import Grid
from DeepFLASHRegistrationLib.imaging.image_files.nifti import header_of
from DeepFLASHRegistrationLib.imaging.volume import Volume
from DeepFLASHRegistrationLib.support import memory
from DeepFLASHRegistrationLib.support.errors import InputError
from imaging_shapes import image, noise, oblique

SIDE = 8000  # of 64-bit numbers: four terabytes
HUGE = Grid((SIDE,) * 3, np.eye(4))


def sparse(path: Path, header: bytes) -> Path:
    """A file of terabytes that takes no room on the disk."""
    path.write_bytes(header)
    try:
        with open(path, "r+b") as file:
            file.truncate(len(header) + 8 * SIDE**3)
    except OSError:
        pytest.skip("no sparse files of this size here")
    return path


def nifti(path: Path) -> Path:
    return sparse(path, header_of(HUGE, np.dtype("f8"), 0))


def nrrd(path: Path) -> Path:
    fields = f"type: double\ndimension: 3\nsizes: {SIDE} {SIDE} {SIDE}\nencoding: raw\nendian: little\n"
    return sparse(path, f"NRRD0005\n{fields}\n".encode())


def mha(path: Path) -> Path:
    fields = f"NDims = 3\nDimSize = {SIDE} {SIDE} {SIDE}\nElementSpacing = 1 1 1\nElementType = MET_DOUBLE\n"
    return sparse(path, f"ObjectType = Image\n{fields}BinaryData = True\nElementDataFile = LOCAL\n".encode())


def vtk(path: Path) -> Path:
    fields = f"DATASET STRUCTURED_POINTS\nDIMENSIONS {SIDE} {SIDE} {SIDE}\nSPACING 1 1 1\nORIGIN 0 0 0\n"
    values = f"POINT_DATA {SIDE**3}\nSCALARS scalars double 1\nLOOKUP_TABLE default\n"
    return sparse(path, f"# vtk DataFile Version 3.0\nmade\nBINARY\n{fields}{values}".encode())


def mgh(path: Path) -> Path:
    return sparse(
        path,
        struct.pack(">7ih15f", 1, SIDE, SIDE, SIDE, 1, 3, 0, 1, *[1.0] * 3, *np.eye(3).ravel(), 0, 0, 0).ljust(
            284, b"\0"
        ),
    )


@pytest.mark.parametrize("make", [nifti, nrrd, mha, vtk, mgh])
def test_images_of_terabytes_are_refused_before_they_are_read(tmp_path, make) -> None:
    path = make(tmp_path / f"a.{make.__name__.replace('nifti', 'nii')}")
    start = time.monotonic()
    for read in (io.read_volume, io.read_labels, io.read_mask):
        with pytest.raises(InputError, match=rf"{path.name}: to read it takes \d+\.\d GB of memory"):
            read(path)
    assert time.monotonic() - start < 60


def test_the_grid_of_an_image_of_terabytes_is_known(tmp_path) -> None:
    assert io.read_grid(nifti(tmp_path / "a.nii")).shape == HUGE.shape


@pytest.mark.parametrize("name", ["a.nii", "a.nii.gz", "a.nrrd", "a.mha", "a.png"])
def test_what_is_free_counts(tmp_path, monkeypatch, name) -> None:
    """An image of 3 MB as float32, and what it is read from."""
    grid = Grid((100, 100, 100), np.eye(4)) if name != "a.png" else Grid((1000, 1000), np.eye(3))
    data = np.tile(np.arange(100, dtype=np.uint8), grid.size // 100).reshape(grid.shape)
    io.write_volume(tmp_path / name, Volume(grid, data))
    for free, enough in ((4 << 20, False), (6 << 20, True)):
        monkeypatch.setattr(memory, "free_bytes", lambda free=free: free)
        if enough:
            assert np.array_equal(io.read_volume(tmp_path / name).data, data)
        else:
            with pytest.raises(InputError, match="of memory"):
                io.read_volume(tmp_path / name)


def test_all_components_of_a_vector_image_are_counted(tmp_path, monkeypatch) -> None:
    grid = oblique((50, 60, 70))
    sitk.WriteImage(image(noise(grid, np.float32, 3), grid, vector=True), str(tmp_path / "v.nrrd"))
    monkeypatch.setattr(memory, "free_bytes", lambda: 15 * grid.size)
    with pytest.raises(InputError, match="of memory"):
        io.read_volume(f"{tmp_path / 'v.nrrd'}[1]")
    monkeypatch.setattr(memory, "free_bytes", lambda: 16 * grid.size)
    assert io.read_volume(f"{tmp_path / 'v.nrrd'}[1]").grid.same_as(grid)


@pytest.mark.parametrize("encoding", ["gzip", "bzip2", "raw"])
def test_a_small_file_that_claims_a_trillion_voxels_is_refused(tmp_path, encoding) -> None:
    fields = f"type: uint8\ndimension: 3\nsizes: 10000 10000 10000\nencoding: {encoding}\n"
    (tmp_path / "a.nrrd").write_bytes(f"NRRD0005\n{fields}\n".encode() + gzip.compress(bytes(1000)))
    with pytest.raises(InputError, match="the file is cut off"):
        io.read_volume(tmp_path / "a.nrrd")


def bomb(beginning: bytes, form: int) -> bytes:
    """A hundred megabytes of zeros after a beginning, in a tenth of one."""
    packer = zlib.compressobj(1, zlib.DEFLATED, form)
    return packer.compress(beginning) + b"".join(packer.compress(bytes(1 << 24)) for _ in range(6)) + packer.flush()


@pytest.mark.parametrize("name", ["a.nii.gz", "a.nrrd", "a.mha", "a.mgz"])
def test_small_files_that_unpack_to_gigabytes_are_refused_soon(tmp_path, name) -> None:
    path, data = tmp_path / name, noise(oblique(), np.uint8)
    if name == "a.nii.gz":
        content = bomb(header_of(oblique(), data.dtype, 0) + data.tobytes(), 31)
    elif name == "a.mgz":
        content = bomb(struct.pack(">7ih", 1, 7, 6, 5, 1, 0, 0, 0).ljust(284, b"\0") + data.tobytes(), 31)
    elif name == "a.nrrd":
        fields = "NRRD0005\ntype: uint8\ndimension: 3\nsizes: 7 6 5\nencoding: gzip\n\n"
        content = fields.encode() + bomb(data.tobytes(), 31)
    else:
        fields = "NDims = 3\nDimSize = 7 6 5\nElementSpacing = 1 1 1\nElementType = MET_UCHAR\nCompressedData = True\n"
        content = f"ObjectType = Image\nBinaryData = True\n{fields}ElementDataFile = LOCAL\n".encode()
        content += bomb(data.tobytes(), 15)
    path.write_bytes(content)
    with pytest.raises(InputError, match="after its last voxel"):
        io.read_volume(path)
