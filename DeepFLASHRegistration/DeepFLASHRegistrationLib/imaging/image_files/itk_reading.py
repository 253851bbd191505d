# SPDX-License-Identifier: Apache-2.0
"""Reading what SimpleITK reads: NRRD, MetaImage, PNG, TIFF and many more, after a look at what it would not survive."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from ...support.errors import InputError
from ..files import quiet, unreadable
from ..grid import Grid
from . import metaimage, nrrd, wholeness
from .stored import StoredImage

# What claims to hold more voxels than this many times its bytes is damaged: nothing packs better.
_PACKED = 3000
_LEAST = 1 << 16
_COLORS = ("vector of 8-bit unsigned integer", "vector of 16-bit unsigned integer")
_PICTURES = (".png", ".tif", ".tiff")


def header(path: Path) -> sitk.ImageFileReader:
    """A reader that has read the header of a file.

    Raises:
        InputError: unreadable or damaged, or larger than the file can hold.
    """
    checked = metaimage.check(path) or nrrd.check(path)
    wholeness.check_picture(path)
    reader = sitk.ImageFileReader()
    reader.SetFileName(str(path))
    try:
        with quiet():  # ITK warns again when the voxels are read
            reader.ReadImageInformation()
    except RuntimeError as error:
        raise unreadable(path, error) from error
    if not checked:
        _check_length(path, reader)
    return reader


def _check_length(path: Path, reader: sitk.ImageFileReader) -> None:
    """Refuses a file that is too short for what its header promises."""
    size, length = reader.GetSize(), path.stat().st_size
    values = math.prod(size) * reader.GetNumberOfComponents()
    bits = re.search(r"(\d+)-bit", sitk.GetPixelIDValueAsString(reader.GetPixelID()))
    kind = sitk.ImageFileReader.GetImageIOFromFileName(str(path))
    needed = wholeness.least_bytes(path, kind, values, int(bits[1]) // 8 if bits else 1)
    if values > _PACKED * length + _LEAST or needed > length:
        raise InputError(
            f"{path}: the file is cut off, or its header is damaged: it cannot hold {'x'.join(map(str, size))} voxels. "
            "Copy or export it again."
        )


def stored(path: Path, reader: sitk.ImageFileReader) -> StoredImage:
    """The image of which `reader` has read the header.

    Raises:
        InputError: complex values, or vectors in more than three dimensions.
    """
    kind = sitk.GetPixelIDValueAsString(reader.GetPixelID())
    if "complex" in kind:
        raise InputError(f"{path}: holds complex values. Export the magnitude.")
    components, volumes = reader.GetNumberOfComponents(), math.prod(reader.GetSize()[3:])
    color = kind in _COLORS and (components in (3, 4) or (components == 2 and path.suffix.lower() in _PICTURES))
    if volumes > 1 and components > 1:
        raise InputError(
            f"{path}: has {components} components per voxel in each of {volumes} volumes. Extract one volume first."
        )
    notes: list[str] = []
    grid = _in_millimeters(path, Grid.from_image(reader), notes)
    color = color and not nrrd.is_list(path)
    vectors = components > 1 and not color
    read = partial(_components if vectors else _volumes, path, reader, notes)
    return StoredImage(grid, components if vectors else volumes, read, components if color else 1, vectors, notes=notes)


def _in_millimeters(path: Path, grid: Grid, notes: list[str]) -> Grid:
    factor, unit = nrrd.scale(path)
    if factor == 1 and not unit:
        factor, unit = metaimage.scale(path)
    if factor is None:
        notes.append(f'its unit "{unit}" is unknown; all lengths were taken for mm')
    elif factor != 1:
        notes.append(f'its unit is "{unit}"; all lengths were converted to mm (3D Slicer and ITK take them for mm)')
        affine = grid.affine.copy()
        affine[:-1] *= factor
        grid = replace(grid, affine=affine)
    return grid


def _execute(path: Path, reader: sitk.ImageFileReader, notes: list[str]) -> np.ndarray:
    metaimage.check_packed(path)
    nrrd.check_packed(path)
    with quiet() as warnings:
        try:
            array = sitk.GetArrayFromImage(reader.Execute())
        except RuntimeError as error:
            raise unreadable(path, error) from error
    notes += [text for text in (f"ITK warns: {warning}" for warning in warnings) if text not in notes]
    return array


def _volumes(path: Path, reader: sitk.ImageFileReader, notes: list[str], first: int, stop: int) -> Iterator[np.ndarray]:
    size = list(reader.GetSize())
    for number in range(first, stop):
        if len(size) > 3:
            reader.SetExtractSize(size[:3] + [0] * (len(size) - 3))
            reader.SetExtractIndex([0, 0, 0, *map(int, np.unravel_index(number, size[3:], order="F"))])
        yield _execute(path, reader, notes)


def _components(
    path: Path, reader: sitk.ImageFileReader, notes: list[str], first: int, stop: int
) -> Iterator[np.ndarray]:
    array = _execute(path, reader, notes)
    for number in range(first, stop):
        yield np.ascontiguousarray(array[..., number])
