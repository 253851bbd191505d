# SPDX-License-Identifier: Apache-2.0
"""Damaged image files give an image or a message, and nothing else; more of them with DEEPFLASH_FUZZ=5000."""

import json
import os
import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from DeepFLASHRegistrationLib.imaging import io
from DeepFLASHRegistrationLib.imaging.volume import Volume
from DeepFLASHRegistrationLib.support.errors import InputError
from imaging_shapes import image, noise, oblique

pytest.importorskip("nibabel")
HELPERS = Path(__file__).resolve().parents[1] / "helpers"
COUNT = int(os.environ.get("DEEPFLASH_FUZZ", "50"))


def test_damaged_files_give_an_image_or_a_message(tmp_path) -> None:
    """Of every kind, in a process of its own, in bounded time and memory."""
    import image_fuzzing

    library = Path(io.__file__).resolve().parents[2]
    paths = os.pathsep.join([str(library), str(HELPERS), os.environ.get("PYTHONPATH", "")])
    command = [sys.executable, str(HELPERS / "image_fuzzing.py"), str(tmp_path), str(COUNT), "0"]
    ran = subprocess.run(
        command, env=os.environ | {"PYTHONPATH": paths}, capture_output=True, timeout=120 + COUNT, check=False
    )
    # Libraries print what they do not like of pictures in between.
    results = [json.loads(line) for line in ran.stdout.decode(errors="replace").splitlines() if line.startswith("{")]
    case = (tmp_path / "case.txt").read_text() if ran.returncode else ""
    assert ran.returncode == 0, f"{case} ended the process\n{ran.stderr.decode(errors='replace')[-2000:]}"
    assert [r["kind"] for r in results] == list(image_fuzzing.KINDS)
    assert not {r["kind"]: r["wrong"] for r in results if r["wrong"]}
    # The damage is real, and not all of it is fatal.
    assert all(r["refused"] > COUNT / 20 for r in results if r["kind"] not in image_fuzzing.APART)
    assert sum(r["read"] for r in results) > COUNT


# ---- each kind of damage that was found to crash ITK, or to be read in silence


def _changed(path: Path, old: bytes, new: bytes) -> Path:
    raw = path.read_bytes()
    assert raw.count(old) >= 1
    path.write_bytes(raw.replace(old, new, 1))
    return path


@pytest.mark.parametrize(
    ("suffix", "old", "new"),
    [
        (".mha", b"NDims = 3", b"NDims = 9999"),
        (".mha", b"NDims = 3", b"NDims = -3"),
        (".mha", b"DimSize = 7 6 5", b"DimSize = 7 6 5000000000"),
        (".mha", b"DimSize = 7 6 5", b"DimSize = 7 6"),
        (".mha", b"ElementDataFile = LOCAL", b"ElementDataFile = %s%n%s 1 9 1"),
        (".mha", b"ElementType = MET_FLOAT", b"ElementType = MET_OTHER"),
        (".nrrd", b"sizes: 7 6 5", b"sizes: 7 6 999999999999"),
        (".nrrd", b"dimension: 3", b"dimension: 16"),
        (".nrrd", b"space directions: (", b"space directions: (1,0,0) (0,1,0) (0,0,1) ("),
        (".nrrd", b"encoding: raw", b"encoding: cooked"),
    ],
)
def test_headers_that_itk_would_not_survive_are_refused(tmp_path, suffix, old, new) -> None:
    path = tmp_path / f"a{suffix}"
    sitk.WriteImage(image(noise(oblique()), oblique()), str(path))
    with pytest.raises(InputError, match=rf"a\{suffix}: .*(damaged|cut off)"):
        io.read_volume(_changed(path, old, new))


@pytest.mark.parametrize("seed", [90, 103])
def test_what_ends_the_process_in_which_itk_reads_it_is_a_message(tmp_path, seed) -> None:
    """By SIGSEGV and SIGFPE in ITK 5.4's reader of JPEG 2000."""
    import image_fuzzing

    path = image_fuzzing.KINDS["jp2"](tmp_path)
    io.read_volume(path)
    path.write_bytes(image_fuzzing.damaged(path.read_bytes(), seed))
    for read in (io.read_volume, io.read_grid):
        with pytest.raises(InputError, match=r"a\.jp2: .*damaged"):
            read(path)


@pytest.mark.parametrize(
    ("name", "beginning"),
    [("a.bin", b"\x89HDF\r\n\x1a\n"), ("a.jp2", b"\0\0\0\x0cjP  \r\n"), ("a", b"CDF\1"), ("a.hdr", b"anything")],
)
def test_itk_opens_no_unchecked_file_in_this_process(tmp_path, name, beginning, monkeypatch) -> None:
    """Whatever a file is called, and whatever its kind."""

    def forbidden() -> None:
        raise AssertionError("ITK was asked in this process")

    monkeypatch.setattr(sitk, "ImageFileReader", forbidden)
    (tmp_path / name).write_bytes(beginning + bytes(1000))
    with pytest.raises(InputError, match=name):
        io.read_volume(tmp_path / name)


@pytest.mark.parametrize("suffix", [".mha", ".nrrd", ".mhd", ".nhdr"])
def test_packed_voxels_whose_check_sum_is_wrong_are_refused(tmp_path, suffix) -> None:
    path = tmp_path / f"a{suffix}"
    sitk.WriteImage(image(noise(oblique(), np.int16), oblique()), str(path), True)
    data = next((p for p in tmp_path.iterdir() if p != path), path)
    raw = bytearray(data.read_bytes())
    raw[-3] ^= 8  # the sum of zlib, the length of gzip
    data.write_bytes(raw)
    with pytest.raises(InputError, match="damaged"):
        io.read_volume(path)


@pytest.mark.parametrize("name", ["a.png", "a.jpg", "a.bmp", "s.tif", "a.gipl", "a.vtk", "a.mrc", "a.mgh"])
def test_files_cut_short_are_refused(tmp_path, name) -> None:
    import image_fuzzing

    path = next(make for make in image_fuzzing.KINDS.values() if make(tmp_path).name == name)(tmp_path)
    io.read_volume(path)
    raw = path.read_bytes()
    path.write_bytes(raw[: len(raw) * 3 // 4])
    with pytest.raises(InputError, match=rf"{name}: .*(cut off|damaged)"):
        io.read_volume(path)


def test_pages_of_another_size_are_refused(tmp_path) -> None:
    path = tmp_path / "a.tif"
    sitk.WriteImage(image(noise(oblique(), np.uint8)), str(path))
    raw = bytearray(path.read_bytes())
    entry = struct.pack("<HHI", 256, 3, 1)  # the width of the second page
    second = raw.index(entry, raw.index(entry) + 1)
    raw[second + 8 : second + 10] = struct.pack("<H", 700)
    path.write_bytes(raw)
    with pytest.raises(InputError, match="pages differ"):
        io.read_volume(path)


def test_a_small_file_of_gigabytes_is_refused_before_room_is_made(tmp_path) -> None:
    path = tmp_path / "a.nii.gz"
    io.write_volume(path, Volume(oblique(), noise(oblique())))
    import gzip

    raw = bytearray(gzip.decompress(path.read_bytes()))
    raw[42:48] = struct.pack("<3h", 32767, 32767, 32767)
    path.write_bytes(gzip.compress(raw))
    with pytest.raises(InputError, match="cut off"):
        io.read_volume(path)
