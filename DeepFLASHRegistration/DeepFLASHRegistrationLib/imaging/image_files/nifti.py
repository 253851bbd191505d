# SPDX-License-Identifier: Apache-2.0
"""Writing NIfTI-1 in one file with a fast gzip (nifti1.h of 2007); ITK's writer takes seconds to compress."""

from __future__ import annotations

import itertools
import os
import struct
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from ...support.errors import InputError
from ..grid import Grid
from .gzip_blocks import BLOCK, write_gzip, write_gzip_of_streams

INTENT_VECTOR, INTENT_DISPLACEMENT = 1007, 1006
TYPES = {"u1": 2, "i2": 4, "i4": 8, "f4": 16, "f8": 64, "i1": 256, "u2": 512, "u4": 768}


def is_nifti(path: str | os.PathLike) -> bool:
    """Whether a file is NIfTI by its name."""
    return str(path).lower().endswith((".nii", ".nii.gz"))


def write_nifti(path: Path, grid: Grid, data: np.ndarray) -> None:
    """Writes NIfTI-1 of one value per voxel."""
    header = header_of(grid, data.dtype, 0)
    body = memoryview(np.ascontiguousarray(data)).cast("B")
    with open(path, "wb") as file:
        if path.name.lower().endswith(".gz"):
            blocks = (body[i : i + BLOCK] for i in range(0, len(body), BLOCK))
            write_gzip(file, itertools.chain([header], blocks), data.dtype.kind == "f")
        else:
            file.write(header)
            file.write(body)


def write_vectors(path: Path, grid: Grid, slabs: Iterable[np.ndarray], intent: int) -> None:
    """Writes NIfTI-1 of d float32 components per voxel, which lie one behind the other in the file.

    slabs: (d, rows, ...) each, from the first row of the grid to the last.
    """
    header = header_of(grid, np.dtype(np.float32), intent)
    with open(path, "wb") as file:
        if path.name.lower().endswith(".gz"):
            write_gzip_of_streams(file, header, 4 * grid.size, grid.ndim, slabs)
            return
        file.write(header)
        done = 0
        for slab in slabs:
            for component, values in enumerate(slab):
                file.seek(len(header) + 4 * grid.size * component + done)
                file.write(np.ascontiguousarray(values).data)
            done += slab[0].nbytes


def rounded(values: np.ndarray, step: float, out: np.ndarray | None = None) -> np.ndarray:
    """Float32 values as multiples of a step, which changes each by at most half of it.

    Where the step is a power of two, the mantissas end in zeros: what they would hold beyond the step is noise that no
    compression can shrink. (Scaled integers would do better still, but ITK 5.4 crashes on vectors with a slope.)
    """
    out = np.multiply(values, np.float32(1 / step), out=out)
    np.rint(out, out=out)
    out *= np.float32(step)
    out += np.float32(0)  # -0 has another sign bit than its neighbors
    return out


def header_of(grid: Grid, dtype: np.dtype, intent: int) -> bytes:
    """The header of one volume of this type, or of vectors with an intent: 352 bytes in the order of the type."""
    code = TYPES.get(dtype.str[1:])
    if code is None:
        raise InputError(f"NIfTI cannot hold {dtype} values. Convert the data to float32 or int32.")
    d = grid.ndim
    if max(grid.shape) > 32767:
        raise InputError(f"NIfTI-1 holds at most 32767 voxels along an axis, not {max(grid.shape)}. Write .nrrd.")
    dim = [5 if intent else d, *grid.shape[::-1], *[1] * (3 - d), 1, d if intent else 1, 1, 1]
    # LPS to RAS, array order to i, j, k; a 2-D image lies in the plane z = 0, as ITK writes it.
    matrix = np.eye(4)
    matrix[:d, :d] = grid.affine[:d, :d][:, ::-1]
    matrix[:d, 3] = grid.origin
    matrix[:2] *= -1
    spacing = np.linalg.norm(matrix[:3, :3], axis=0)
    rotation = matrix[:3, :3] / spacing
    factor = 1.0 if np.linalg.det(rotation) > 0 else -1.0
    rotation = rotation * [1, 1, factor]
    pixdim = [factor, *spacing, *[1.0] * 4]
    order = "<" if dtype.byteorder in "<|" or (dtype.byteorder == "=" and np.little_endian) else ">"
    header = bytearray(352)
    put = struct.pack_into
    put(order + "i", header, 0, 348)
    header[38:39] = b"r"
    put(order + "8h", header, 40, *dim)
    put(order + "3h", header, 68, intent, code, dtype.itemsize * 8)
    put(order + "8f", header, 76, *pixdim)
    put(order + "3f", header, 108, 352.0, 1.0, 0.0)
    header[123] = 2  # mm
    put(order + "2h", header, 252, 1, 1)
    put(order + "6f", header, 256, *_quaternion(rotation), *matrix[:3, 3])
    put(order + "12f", header, 280, *matrix[:3].ravel())
    header[344:348] = b"n+1\x00"
    return bytes(header)


def _quaternion(rotation: np.ndarray) -> np.ndarray:
    """(b, c, d) of the unit quaternion with a >= 0 of a rotation matrix (nifti1.h, method 2)."""
    k = np.zeros((4, 4))
    r = rotation
    # The eigenvector of the largest eigenvalue is the quaternion, also of a matrix that is orthogonal to rounding only
    # (Bar-Itzhack, J. Guidance 23(6), 2000).
    k[0] = [r[0, 0] - r[1, 1] - r[2, 2], r[1, 0] + r[0, 1], r[2, 0] + r[0, 2], r[2, 1] - r[1, 2]]
    k[1, 1:] = [r[1, 1] - r[0, 0] - r[2, 2], r[2, 1] + r[1, 2], r[0, 2] - r[2, 0]]
    k[2, 2:] = [r[2, 2] - r[0, 0] - r[1, 1], r[1, 0] - r[0, 1]]
    k[3, 3] = np.trace(r)
    vector = np.linalg.eigh(k, UPLO="U")[1][:, -1]
    return vector[:3] * (-1 if vector[3] < 0 else 1)
