# SPDX-License-Identifier: Apache-2.0
"""Reading FreeSurfer's .mgz and .mgh (surfer.nmr.mgh.harvard.edu/fswiki/FsTutorial/MghFormat)."""

from __future__ import annotations

import math
import struct
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np

from ...support.errors import InputError
from ..grid import Grid
from .stored import StoredImage
from .streams import Stream

SUFFIXES = (".mgz", ".mgh", ".mgh.gz")
_HEADER = 284
_TYPES = {0: ">u1", 1: ">i4", 3: ">f4", 4: ">i2", 10: ">u2"}


def open_mgh(path: Path) -> StoredImage:
    """Opens a file.

    Raises:
        InputError: damaged, cut off, or of a kind of number that is not read.
    """
    with Stream(path) as stream:
        raw = stream.read(_HEADER)
        capacity = stream.capacity
    if len(raw) < _HEADER or struct.unpack_from(">i", raw)[0] & 0xFF != 1:
        raise InputError(f"{path}: is no image of FreeSurfer, or its header is damaged. Copy or export it again.")
    width, height, depth, frames, code = struct.unpack_from(">5i", raw, 4)
    if min(width, height, depth, frames) < 1 or code not in _TYPES:
        raise InputError(
            f"{path}: its header is damaged (sizes {width}, {height}, {depth}, {frames}, data type {code}). "
            "Copy or export it again."
        )
    kind = np.dtype(_TYPES[code])
    if _HEADER + width * height * depth * frames * kind.itemsize > capacity:
        raise InputError(f"{path}: the file is cut off, voxels are missing. Copy or export it again.")
    notes = []
    good, *numbers = struct.unpack_from(">h15f", raw, 28)
    if good != 1:
        # What FreeSurfer takes then: 1 mm, coronal slices.
        numbers = [1, 1, 1, -1, 0, 0, 0, 0, -1, 0, 1, 0, 0, 0, 0]
        notes.append("it does not say where it lies; coronal slices of 1 mm voxels were assumed, as FreeSurfer does")
    numbers = np.array(numbers, dtype=np.float64)
    spacing, center = numbers[:3], numbers[12:]
    if not (np.abs(numbers) < 1e12).all() or spacing.min() <= 0:
        raise InputError(f"{path}: its geometry is damaged (voxels of {spacing} mm). Copy or export it again.")
    linear = numbers[3:12].reshape(3, 3).T * spacing
    # The middle is that of FreeSurfer: half the size, not half the size less one.
    origin = center - linear @ (np.array([width, height, depth]) / 2)
    affine = np.eye(4)
    affine[:3, :3] = (np.diag([-1, -1, 1]) @ linear)[:, ::-1]
    affine[:3, 3] = origin * [-1, -1, 1]
    grid = Grid((depth, height, width), affine)
    return StoredImage(
        path, grid, frames, partial(_volumes, path, kind, (frames, *grid.shape)), bytes_of=kind.itemsize, notes=notes
    )


def _volumes(path: Path, kind: np.dtype, shape: tuple[int, ...], first: int, stop: int) -> Iterator[np.ndarray]:
    count = math.prod(shape[1:])
    with Stream(path) as stream:
        stream.skip(_HEADER + first * count * kind.itemsize)
        for _ in range(first, stop):
            yield stream.array(kind, count).reshape(shape[1:]).astype(kind.newbyteorder("="), copy=False)
        stream.finish((shape[0] - stop) * count * kind.itemsize)
