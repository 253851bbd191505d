# SPDX-License-Identifier: Apache-2.0
"""Damaged image files, made from small valid ones by a seed, and a program that reads them all.

`python image_fuzzing.py FOLDER COUNT FIRST [KIND …]` reads COUNT files of each kind (a fiftieth, if a process of its
own reads each), by the seeds from FIRST on, and prints one line of JSON for each kind; a case that ends the process is
named in FOLDER/case.txt. Thousands by hand:

    PYTHONPATH=DeepFLASHRegistration:Testing/helpers python Testing/helpers/image_fuzzing.py $(mktemp -d) 5000 0
"""

from __future__ import annotations

import json
import re
import shutil
import struct
import sys
import time
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import SimpleITK as sitk
from DeepFLASHRegistrationLib.imaging import io
from DeepFLASHRegistrationLib.imaging.volume import Volume
from DeepFLASHRegistrationLib.support.errors import InputError
from imaging_shapes import noise, oblique

GRID = oblique()
MEMORY = 256 << 20  # bytes, more than before: a library's own buffers, but nothing that a header asked for
SECONDS, WAITING = 5, 90  # of this process's own work; and of another one's, which starts when the machine has time
_HUGE = (
    0,
    -1,
    1,
    7,
    255,
    9999,
    32767,
    65535,
    10**6,
    2**31 - 1,
    2**31,
    2**32 - 1,
    10**12,
    2**63 - 1,
    1e300,
    "nan",
    "inf",
)


def _itk(name: str, array: np.ndarray, compressed: bool = False, vector: bool = False) -> Callable[[Path], Path]:
    def write(folder: Path) -> Path:
        made = sitk.GetImageFromArray(array, isVector=vector)
        made = GRID.apply_to(made) if made.GetDimension() == 3 else made
        sitk.WriteImage(made, str(folder / name), compressed)
        return folder / name

    return write


def _nifti(name: str, form: str) -> Callable[[Path], Path]:
    """With nibabel: NIfTI-2, big endian, two files, Analyze, FreeSurfer."""

    def write(folder: Path) -> Path:
        import nibabel

        kind = getattr(nibabel, form.removesuffix("-big"))
        affine = np.diag([2.0, 1.5, 1.0, 1.0])
        header = nibabel.Nifti1Header(endianness=">") if form.endswith("-big") else None
        data = noise(GRID, np.int16)
        nibabel.save(kind(data, affine) if header is None else kind(data, affine, header), folder / name)
        return folder / name

    return write


def _pillow(name: str, array: np.ndarray, mode: str) -> Callable[[Path], Path]:
    def write(folder: Path) -> Path:
        from PIL import Image

        height, width = array.shape[:2]
        Image.frombytes(mode, (width, height), array.tobytes()).save(folder / name)
        return folder / name

    return write


def _ours(name: str) -> Callable[[Path], Path]:
    def write(folder: Path) -> Path:
        io.write_volume(folder / name, Volume(GRID, noise(GRID)))
        return folder / name

    return write


_GRAY = noise(GRID, np.uint8)
_FOUR = np.stack([noise(GRID, np.int16)] * 3)
KINDS: dict[str, Callable[[Path], Path]] = {
    "nii": _ours("a.nii"),
    "nii.gz": _ours("a.nii.gz"),
    "nii 4-D": _itk("a4.nii", _FOUR),
    "nii color": _itk("c.nii", np.stack([_GRAY] * 3, -1), vector=True),
    "nifti-2": _nifti("n2.nii", "Nifti2Image"),
    "big endian": _nifti("big.nii", "Nifti1Image-big"),
    "hdr/img": _nifti("pair.hdr", "Nifti1Pair"),
    "analyze": _nifti("analyze.hdr", "AnalyzeImage"),
    "mgh": _nifti("a.mgh", "MGHImage"),
    "mgz": _nifti("a.mgz", "MGHImage"),
    "nrrd": _itk("a.nrrd", noise(GRID)),
    "nrrd gzip": _itk("z.nrrd", noise(GRID, np.int16), compressed=True),
    "nrrd vectors": _itk("v.nrrd", noise(GRID, np.float32, 3), vector=True),
    "nhdr": _itk("a.nhdr", noise(GRID)),
    "mha": _itk("a.mha", noise(GRID)),
    "mha zlib": _itk("z.mha", noise(GRID, np.int16), compressed=True),
    "mha 4-D": _itk("a4.mha", _FOUR),
    "mhd": _itk("a.mhd", noise(GRID, np.int16)),
    "mhd zlib": _itk("z.mhd", noise(GRID, np.int16), compressed=True),
    "png": _itk("a.png", _GRAY[0]),
    "png color": _itk("c.png", np.stack([_GRAY[0]] * 3, -1), vector=True),
    "png opacity": _pillow("la.png", np.stack([_GRAY[0]] * 2, -1), "LA"),
    "tif color": _pillow("rgb.tif", np.stack([_GRAY[0]] * 3, -1), "RGB"),
    "tif": _itk("a.tif", _GRAY[0].astype(np.uint16)),
    "tif stack": _itk("s.tif", _GRAY, compressed=True),
    "jpg": _itk("a.jpg", _GRAY[0]),
    "bmp": _itk("a.bmp", _GRAY[0]),
    "gipl": _itk("a.gipl", noise(GRID, np.int16)),
    "vtk": _itk("a.vtk", noise(GRID)),
    "hdf5": _itk("a.hdf5", noise(GRID)),
    "mrc": _itk("a.mrc", noise(GRID)),
    "jp2": _itk("a.jp2", np.tile(_GRAY[0], (8, 8))),
    "jp2 color": _itk("c.jp2", np.tile(np.stack([_GRAY[0]] * 3, -1), (8, 8, 1)), vector=True),
    "hdf5 vectors": _itk("v.h5", noise(GRID, np.float32, 3), vector=True),
    "lsm": _itk("a.lsm", _GRAY),
    "minc": _itk("a.mnc", noise(GRID)),
}
# Read in a process of their own, which takes a third of a second: fewer of them.
APART = dict.fromkeys(("gipl", "vtk", "hdf5", "mrc", "jp2", "jp2 color", "hdf5 vectors", "lsm", "minc"), 50)


# How many voxels a byte of these may hold; of the others, one.
_PACKED = dict.fromkeys(
    (
        "nii.gz",
        "mgz",
        "nrrd gzip",
        "mha zlib",
        "mhd zlib",
        "tif stack",
        "png",
        "png color",
        "png opacity",
        "tif",
        "tif color",
    ),
    3000,
)
_PACKED |= dict.fromkeys(("jpg", "hdf5", "hdf5 vectors", "jp2", "jp2 color", "lsm", "minc"), 3000) | {"bmp": 8}


def mutated(raw: bytes, seed: int) -> bytes:
    """The bytes, damaged in one of six ways."""
    rng = np.random.default_rng(seed)
    data = bytearray(raw)
    # Most of the harm is done in the header.
    reach = len(data) if rng.random() < 0.3 else min(len(data), 600)
    way = rng.integers(6)
    if way == 0:  # bits and bytes flipped
        for position in rng.integers(reach, size=rng.integers(1, 9)):
            data[position] = rng.integers(256) if rng.random() < 0.7 else data[position] ^ (1 << rng.integers(8))
    elif way == 1:  # cut off
        del data[rng.integers(len(data)) :]
    elif way == 2:  # cut out, or put in
        position, count = int(rng.integers(reach)), int(rng.integers(1, 40))
        data[position : position + count] = bytes(rng.integers(256, size=rng.integers(0, 60), dtype=np.uint8))
    elif way == 3:  # a number in words made huge
        found = list(re.finditer(rb"-?\d+(\.\d+)?", bytes(data[:1000])))
        if found:
            where = found[rng.integers(len(found))]
            data[where.start() : where.end()] = str(_HUGE[rng.integers(len(_HUGE))]).encode()
    elif way == 4:  # a number in bytes made huge
        form = "<>"[rng.integers(2)] + "hiqfd"[rng.integers(5)]
        value = _HUGE[rng.integers(len(_HUGE))]
        size = struct.calcsize(form)
        value = (
            float(value) if form[1] in "fd" else int(min(float(value), 2.0**62)) if value not in ("nan", "inf") else -1
        )
        if form[1] == "f":
            value = float(np.clip(value, -3e38, 3e38))
        if form[1] in "hiq":
            value = ((value + 2 ** (8 * size - 1)) % 2 ** (8 * size)) - 2 ** (8 * size - 1)
        position = int(rng.integers(max(reach - size, 1)))
        data[position : position + size] = struct.pack(form, value)
    else:  # a piece repeated
        position, count = int(rng.integers(reach)), int(rng.integers(1, 200))
        data[position:position] = data[position : position + count] * int(rng.integers(1, 20))
    return bytes(data)


def damaged(raw: bytes, seed: int) -> bytes:
    """As mutated; what is gzip is at times damaged inside and packed again."""
    if raw[:2] == b"\x1f\x8b" and seed % 3:
        packer = zlib.compressobj(1, zlib.DEFLATED, 31)
        return packer.compress(mutated(zlib.decompress(raw, 31), seed)) + packer.flush()
    return mutated(raw, seed)


def _peak_memory() -> int:
    """The most bytes that this process has had; 0 where the system does not tell."""
    try:
        import resource
    except ImportError:
        return 0
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def read_damaged(kind: str, folder: Path, count: int, first: int = 0) -> dict[str, object]:
    """Reads `count` damaged files of a kind; how many gave an image and how many a message, and what else happened."""
    place = folder / re.sub(r"\W", "_", kind)
    place.mkdir()
    path = KINDS[kind](place)
    files = sorted(place.iterdir())
    content = {file: file.read_bytes() for file in files}
    results = {"kind": kind, "read": 0, "refused": 0, "wrong": [], "slowest": 0.0}
    read = (io.read_volume, io.read_labels, io.read_mask, io.read_grid)
    for seed in range(first, first + max(count // APART.get(kind, 1), 1)):
        victim = files[seed % len(files)] if seed % 4 else path
        (folder / "case.txt").write_text(f"{kind}, seed {seed}")
        victim.write_bytes(damaged(content[victim], seed))
        length = sum(file.stat().st_size for file in files)
        start, work, memory = time.monotonic(), time.process_time(), _peak_memory()
        try:
            found = read[seed % 7 if seed % 7 < 4 else 0](path)
            results["read"] += 1
            if isinstance(found, Volume) and found.data.size > _PACKED.get(kind, 1) * length + 65536:
                results["wrong"].append(f"seed {seed}: {found.data.shape} voxels from nothing")
        except InputError as error:
            results["refused"] += 1
            if str(path.stem) not in str(error):
                results["wrong"].append(f"seed {seed}: names no file: {error}")
        except BaseException as error:  # whatever it is, it is what is looked for
            results["wrong"].append(f"seed {seed}: {type(error).__name__}: {str(error)[:200]}")
        seconds, work = time.monotonic() - start, time.process_time() - work
        more = _peak_memory() - memory
        results["slowest"] = max(results["slowest"], round(seconds, 2))
        if work > SECONDS or seconds > WAITING or more > MEMORY:
            results["wrong"].append(f"seed {seed}: {seconds:.1f} s, {more >> 20} MB")
        victim.write_bytes(content[victim])
    shutil.rmtree(place)
    return results


if __name__ == "__main__":
    for each in sys.argv[4:] or KINDS:
        print(json.dumps(read_damaged(each, Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))), flush=True)
