# SPDX-License-Identifier: Apache-2.0
"""Reading NIfTI-1 and 2, in one file or two, packed or not, of either byte order, and Analyze 7.5 (nifti1.h, nifti2.h).

Read here and not by ITK, which knows no NIfTI-2, takes NaN for 0 and a file that was cut off for a whole one, and
mirrors by a negative pixdim; where the voxels lie is nevertheless as ITK has it (nifti_geometry.py).
"""

from __future__ import annotations

import math
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from ...support.errors import InputError
from ...support.memory import check_free
from ..grid import Grid
from .nifti import INTENT_DISPLACEMENT, INTENT_VECTOR, TYPES, is_nifti
from .nifti_geometry import Orientation, place
from .stored import StoredImage
from .streams import Stream

_COLORS = {128: 3, 2304: 4}  # RGB24, RGBA32
_COLOR_CHANNELS = (2, 512)  # uint8, uint16
_NAMES = {1: "single bits", 32: "complex", 1792: "complex", 2048: "complex", 1536: "128-bit floating-point"}
_WHOLE_NUMBERS = {"i8": 1024, "u8": 1280}
_VECTORS = (1005, INTENT_DISPLACEMENT, INTENT_VECTOR)  # symmetric matrices, displacements, vectors
_PAIR = {".hdr": ".img", ".img": ".hdr"}
_LONGEST = 540
_SECONDS = {8: 1.0, 16: 1e-3, 24: 1e-6}  # of xyzt_units


@dataclass(frozen=True)
class _Header:
    """What is used of a header."""

    kind: str  # "one file", "two files" or "analyze"
    order: str
    dim: tuple[int, ...]
    code: int
    intent: int
    intent_name: bytes
    offset: float
    length: int  # of the header itself
    slope: float
    intercept: float
    orientation: Orientation
    step: float  # from one volume to the next, in the unit of time


def open_nifti(path: Path) -> StoredImage | None:
    """Opens a file of NIfTI or Analyze; None if it is something else, by what is in it.

    Raises:
        InputError: damaged, cut off, of a kind of number that is not read, or nothing says where its voxels lie.
    """
    found = _opened(path)
    return None if found is None else _image(path, *found)


def stated_intent(path: Path) -> tuple[int, bytes]:
    """The code and the name of a file's intent, what its values mean; 0 and nothing if it is no NIfTI.

    Raises:
        InputError: its header is damaged.
    """
    found = _opened(path)
    return (0, b"") if found is None else (found[1].intent, found[1].intent_name)


def read_vectors(path: Path) -> tuple[Grid, np.ndarray] | None:
    """Reads a file of one vector per voxel; None if it is something else than NIfTI.

    Here and not by ITK, which leaves out the scaling of floating-point vectors (scl_slope) and crashes on that of
    integers.

    Returns:
        The grid, of two axes if the file has one slice and vectors of two components, and float32 (*grid.shape, d).
        Displacements (intent 1006), which are RAS by definition, are turned to LPS as ITK turns them.

    Raises:
        InputError: as open_nifti, or there are no vectors.
    """
    found = _opened(path)
    if found is None:
        return None
    stored, header = _image(path, *found), found[1]
    if not stored.vectors or header.intent not in (INTENT_DISPLACEMENT, INTENT_VECTOR):
        components = max(stored.count, stored.channels)
        raise InputError(
            f"{path}: is {stored.grid.ndim}-D with {components} components per voxel, no displacement field (NIfTI's "
            f"intent is {header.intent}, not 1006 or 1007). Pass a file of as many components as dimensions."
        )
    grid = stored.grid
    if stored.count == 2 and grid.ndim == 3 and grid.shape[0] == 1:
        grid = _grid(place(header.orientation, str(path))[0], [*grid.shape[::-1]], 2)
    check_free(path, 8 * grid.size * stored.count)
    vectors = np.empty((*grid.shape, stored.count), np.float32)
    for axis, values in enumerate(stored.volumes(0, stored.count)):
        turned = header.intent == INTENT_DISPLACEMENT and axis < 2
        vectors[..., axis] = (np.negative(values, dtype=np.float32) if turned else values).reshape(grid.shape)
    return grid, vectors


def _opened(path: Path) -> tuple[Path, _Header] | None:
    """The file of the voxels, and the header."""
    headers = _header_file(path)
    try:
        with Stream(headers) as stream:
            raw = stream.read(_LONGEST)
    except InputError:
        if is_nifti(path):
            raise
        return None
    header = _parsed(raw, path)
    if header is None:
        return None
    return path if header.kind == "one file" else _data_file(headers), header


def _companion(path: Path, suffixes: dict[str, str]) -> Path | None:
    """The other file of a pair, if this is one of a pair by its name, in the case of its suffix."""
    packed = ".gz" if path.name.lower().endswith(".gz") else ""
    stem = path.name[: len(path.name) - len(packed)]
    other = suffixes.get(stem[-4:].lower())
    if other is None:
        return None
    other = other.upper() if stem[-4:].isupper() else other
    choices = [path.with_name(stem[:-4] + other + end) for end in (packed, "" if packed else ".gz")]
    return next((c for c in choices if c.is_file()), choices[0])


def _header_file(path: Path) -> Path:
    other = _companion(path, {".img": ".hdr"})
    return other if other is not None and other.is_file() else path


def _data_file(headers: Path) -> Path:
    other = _companion(headers, {".hdr": ".img"})
    if other is None or not other.is_file():
        raise InputError(
            f"{headers}: is the header of an image in two files, and {other or 'the file of its voxels'} is not there. "
            "Copy both into one folder under the same name."
        )
    return other


def _parsed(raw: bytes, path: Path) -> _Header | None:
    for order in "<>":
        size = raw[:4]
        if size == struct.pack(order + "i", 348):
            if len(raw) < 348:
                raise _cut_off(path)
            kind = {b"n+1\0": "one file", b"ni1\0": "two files"}.get(raw[344:348]) or _analyze(raw, path, order)
            return _first(raw, order, kind) if kind else None
        if size == struct.pack(order + "i", 540) and raw[4:7] in (b"n+2", b"ni2"):
            if len(raw) < 540:
                raise _cut_off(path)
            return _second(raw, order, "one file" if raw[4:7] == b"n+2" else "two files")
    return None


def _analyze(raw: bytes, path: Path, order: str) -> str | None:
    """ "analyze" if a header without NIfTI's mark may be that; refused if its name says that it should be NIfTI."""
    if is_nifti(path):
        raise InputError(f"{path}: its header is damaged (NIfTI's mark is missing). Copy or export it again.")
    axes = struct.unpack_from(order + "h", raw, 40)[0]
    return "analyze" if 1 <= axes <= 7 and _companion(path, _PAIR) is not None else None


def _first(raw: bytes, order: str, kind: str) -> _Header:
    def get(form: str, offset: int) -> tuple:
        return struct.unpack_from(order + form, raw, offset)

    dim = get("8h", 40)
    codes, units, scaling = get("2h", 252), raw[123], get("2f", 112)
    if kind == "analyze":
        codes, units, scaling = (0, 0), 0, (1.0, 0.0)
    orientation = _orientation(dim, get("8f", 76), units, codes, get("6f", 256), get("12f", 280))
    intent, code = get("2h", 68)
    name, offset, step = raw[328:344], get("f", 108)[0], get("f", 92)[0]
    return _Header(kind, order, dim, code, intent, name, offset, 348, *scaling, orientation, step)


def _second(raw: bytes, order: str, kind: str) -> _Header:
    def get(form: str, offset: int) -> tuple:
        return struct.unpack_from(order + form, raw, offset)

    dim = get("8q", 16)
    orientation = _orientation(dim, get("8d", 104), get("i", 500)[0], get("2i", 344), get("6d", 352), get("12d", 400))
    intent, code, offset = get("i", 504)[0], get("h", 12)[0], get("q", 168)[0]
    name, step = raw[508:524], get("d", 136)[0]
    return _Header(kind, order, dim, code, intent, name, offset, 540, *get("2d", 176), orientation, step)


def _orientation(dim: tuple, pixdim: tuple, units: int, codes: tuple, quaternion: tuple, sform: tuple) -> Orientation:
    axes = min(max(dim[0], 0), 3)
    sizes = tuple(max(dim[a + 1], 1) if a < axes else 1 for a in range(3))
    return Orientation(
        sizes, axes, np.array(pixdim[:4]), units, *codes, np.array(quaternion), np.array(sform).reshape(3, 4)
    )


def _image(path: Path, data: Path, header: _Header) -> StoredImage:
    axes = header.dim[0]
    if not 1 <= axes <= 7 or any(n < 0 for n in header.dim[1 : axes + 1]) or header.dim[1] == 0:
        raise InputError(f"{path}: its header is damaged (sizes {header.dim}). Copy or export it again.")
    sizes = [max(n, 1) for n in header.dim[1 : axes + 1]] + [1] * (7 - axes)
    kind, channels = _element(path, header)
    voxels = math.prod(sizes[:3])
    count = math.prod(sizes[3:])
    start = _start(path, header)
    with Stream(data) as stream:
        if start + voxels * count * channels * kind.itemsize > stream.capacity:
            raise _cut_off(path)
    matrix, notes = place(header.orientation, str(path))
    if header.kind == "analyze":
        notes.insert(0, "it is Analyze 7.5, which does not say which side is left")
    grid = _grid(matrix, sizes, axes)
    scaling = (header.slope, header.intercept)
    if not all(map(math.isfinite, scaling)) or header.slope == 0 or scaling == (1, 0) or channels > 1:
        scaling = None
    shape = (count, *grid.shape, *([channels] if channels > 1 else []))
    volumes = partial(_volumes, data, start, kind, shape, scaling)
    vectors = header.intent in _VECTORS and sizes[3] == 1
    if vectors and count in (3, 4) and header.code in _COLOR_CHANNELS:  # what ITK makes of a picture in color
        return StoredImage(path, grid, 1, partial(_together, volumes, count), count, notes=notes)
    seconds = header.step * _SECONDS.get(header.orientation.units & 56, 0.0)
    seconds = seconds if math.isfinite(seconds) and seconds > 0 and not vectors else 0.0
    bytes_of = kind.itemsize if scaling is None else 8
    return StoredImage(path, grid, count, volumes, channels, vectors, seconds, bytes_of=bytes_of, notes=notes)


def _together(volumes: Callable[[int, int], Iterator[np.ndarray]], count: int, *_: int) -> Iterator[np.ndarray]:
    """The components as channels of the one volume that they are."""
    yield np.stack(list(volumes(0, count)), axis=-1)


def _cut_off(path: Path) -> InputError:
    return InputError(f"{path}: the file is cut off, or its header is damaged. Copy or export it again.")


def _element(path: Path, header: _Header) -> tuple[np.dtype, int]:
    """The kind of number, and how many of it make a voxel."""
    if header.code in _COLORS:
        return np.dtype("u1"), _COLORS[header.code]
    known = {code: name for name, code in {**TYPES, **_WHOLE_NUMBERS}.items()}
    if header.code not in known:
        name = _NAMES.get(header.code)
        if name == "complex":
            raise InputError(f"{path}: holds complex values. Export the magnitude.")
        if name is None:
            raise InputError(f"{path}: its header is damaged (data type {header.code}). Copy or export it again.")
        raise InputError(f"{path}: holds {name} values. Export it as 32-bit floating-point numbers.")
    return np.dtype(header.order + known[header.code]), 1


def _start(path: Path, header: _Header) -> int:
    offset, least = header.offset, 0
    if header.kind == "one file":
        least = header.length
        offset = offset or least + 4
    if not math.isfinite(offset) or offset < least:
        raise InputError(f"{path}: its header is damaged (vox_offset {offset:g}). Copy or export it again.")
    return int(offset)


def _grid(matrix: np.ndarray, sizes: list[int], axes: int) -> Grid:
    """The grid of a matrix from i, j, k to RAS mm."""
    matrix = np.diag([-1, -1, 1, 1]) @ matrix
    # A file of two axes is a picture in the plane of x and y, unless it says that it lies otherwise in space.
    if axes <= 2 and np.abs(matrix[2, :2]).max() <= 1e-3 * np.linalg.norm(matrix[:3, :2], axis=0).min():
        affine = np.eye(3)
        affine[:2, :2] = matrix[:2, 1::-1]
        affine[:2, 2] = matrix[:2, 3]
        return Grid((sizes[1], sizes[0]), affine)
    affine = np.eye(4)
    affine[:3, :3] = matrix[:3, 2::-1]
    affine[:3, 3] = matrix[:3, 3]
    return Grid(tuple(sizes[2::-1]), affine)


def _volumes(
    data: Path,
    offset: int,
    kind: np.dtype,
    shape: tuple[int, ...],
    scaling: tuple[float, float] | None,
    first: int,
    stop: int,
) -> Iterator[np.ndarray]:
    """Volumes of a file that holds shape[0] of them."""
    count = math.prod(shape[1:])
    with Stream(data) as stream:
        stream.skip(offset + first * count * kind.itemsize)
        for _ in range(first, stop):
            values = stream.array(kind, count).reshape(shape[1:])
            if scaling is not None:
                values = values * np.float64(scaling[0]) + np.float64(scaling[1])
            yield values.astype(kind.newbyteorder("="), copy=False) if scaling is None else values
        stream.finish((shape[0] - stop) * count * kind.itemsize)
