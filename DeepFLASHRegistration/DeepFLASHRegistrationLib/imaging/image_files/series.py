# SPDX-License-Identifier: Apache-2.0
"""Writing several volumes, or colors, as one file; of NIfTI one volume after the other, so that none but it is held."""

from __future__ import annotations

import gzip
import itertools
import os
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import numpy as np
import SimpleITK as sitk

from ...support.errors import InputError
from ..files import atomic
from ..grid import Grid
from ..io import in_space, write_image, write_itk
from . import pictures
from .nifti import header_of, is_nifti

_MOST_VOLUMES = 32767  # along an axis of NIfTI-1
_COLORS = {3: (128, 24), 4: (2304, 32)}  # NIfTI's RGB24 and RGBA32, with their bits


def write_series(
    path: str | os.PathLike, grid: Grid, volumes: Iterator[np.ndarray], count: int, seconds: float = 0.0
) -> None:
    """Writes a 4-D image.

    Args:
        path: .nii, .nii.gz, .nrrd or .mha.
        grid: of each volume.
        volumes: `count` arrays (*grid.shape) of one type, as they come.
        seconds: from one volume to the next; 0 where that is unknown.

    Raises:
        InputError: what the format cannot hold; a volume that cannot be read.
    """
    path = Path(path)
    if pictures.is_picture(path):
        raise InputError(f"{path}: a picture holds one volume, not {count}. Name it .nii.gz, .nrrd or .mha.")
    first = next(volumes)
    space, _ = in_space(grid, first)
    solids = (in_space(grid, volume)[1] for volume in itertools.chain([first], volumes))
    if not is_nifti(path):
        _write_joined(path, space, solids, seconds)
        return
    if count > _MOST_VOLUMES:
        raise InputError(f"{path}: NIfTI-1 holds at most {_MOST_VOLUMES} volumes, not {count}. Name it .nrrd.")
    native = first.dtype.newbyteorder("=")
    header = bytearray(header_of(space, native, 0))
    order = _order(header)
    struct.pack_into(order + "h", header, 40, 4)
    struct.pack_into(order + "h", header, 48, count)
    struct.pack_into(order + "f", header, 92, seconds or 1.0)
    header[123] = 2 | (8 if seconds else 0)  # mm, s
    with atomic(path) as temporary, _opened(temporary) as file:
        file.write(header)
        for volume in solids:
            file.write(memoryview(np.ascontiguousarray(volume, dtype=native)).cast("B"))


def write_colors(path: str | os.PathLike, grid: Grid, data: np.ndarray) -> None:
    """Writes an image in color.

    Args:
        path: a picture (.png, .tif, …), .nrrd, .mha, or, of 8 bits and three or four channels, NIfTI.
        data: (*grid.shape, channels).

    Raises:
        InputError: what the format cannot hold.
    """
    path = Path(path)
    if pictures.is_picture(path):
        # Integers would be taken for labels, which no picture may change.
        pictures.write_picture(path, grid, data.astype(np.float32))
        return
    space, data = in_space(grid, data)
    if not is_nifti(path):
        write_image(path, space, data, vector=True)
        return
    if data.dtype != np.uint8 or data.shape[-1] not in _COLORS:
        raise InputError(f"{path}: NIfTI holds colors of 8 bits and 3 or 4 channels alone. Name it .nrrd or .png.")
    header = bytearray(header_of(space, data.dtype, 0))
    struct.pack_into(_order(header) + "2h", header, 70, *_COLORS[data.shape[-1]])
    with atomic(path) as temporary, _opened(temporary) as file:
        file.write(header)
        file.write(memoryview(np.ascontiguousarray(data)).cast("B"))


def _order(header: bytearray) -> str:
    return "<" if header[:4] == struct.pack("<i", 348) else ">"


def _opened(path: Path) -> BinaryIO:
    return gzip.GzipFile(path, "wb", 1, mtime=0) if path.name.lower().endswith(".gz") else open(path, "wb")


def _write_joined(path: Path, grid: Grid, volumes: Iterator[np.ndarray], seconds: float) -> None:
    """By ITK, which wants them all at once."""
    images = [grid.apply_to(sitk.GetImageFromArray(volume)) for volume in volumes]
    joined = sitk.JoinSeries(images, 0.0, seconds or 1.0)
    write_itk(path, joined)
