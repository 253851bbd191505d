# SPDX-License-Identifier: Apache-2.0
"""Reading what SimpleITK reads: NRRD, MetaImage, PNG, TIFF and many more.

What is checked here before ITK gets it is read at once, by the one reader of ITK that it was checked for; all else in
a process of its own (itk_isolated.py), where a file that ITK does not survive is only a message.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from ...support.errors import InputError
from ..files import quiet, unreadable
from ..grid import Grid
from . import bare_volumes, metaimage, nrrd, png, tiff, wholeness
from .itk_isolated import ItkImage, pixel_type, read_isolated
from .stated import Stated, notes_on
from .stored import StoredImage

_PICTURES = {"PNGImageIO", "JPEGImageIO", "BMPImageIO", "TIFFImageIO"}
# Readers that make up the direction of axes; VTK's and GIPL's headers are looked at.
_WITHOUT_AXES = ("MRCImageIO", "StimulateImageIO", "BioRadImageIO", "LSMImageIO")
_NO_SLICES = Stated((1.0, 1.0, None), "TIFF has no place for it", "nor does it state the direction of its axes")


def open_itk(path: Path) -> StoredImage:
    """Opens a file of any kind that SimpleITK reads.

    Raises:
        InputError: unreadable or damaged, larger than the file can hold, complex values, vectors in more than three
            dimensions, or voxels of no size.
    """
    name, stated = _checked(path)
    notes = notes_on(path, stated) if stated else []
    if not name:
        found = read_isolated(path)
        notes += [f"ITK warns: {warning}" for warning in found.warnings]
        no_axes = "its format has no place for the direction of its axes" if found.reader in _WITHOUT_AXES else ""
        notes += notes_on(path, Stated(found.spacing[:3], "the distance of its voxels", no_axes))
        return _stored(path, found, found.components, found.array.dtype, name, notes)
    factor, seen = tiff.look(path) if name == "TIFFImageIO" else (1, [])
    if name == "PNGImageIO":
        if png.has_gray_with_opacity(path):
            return _gray_with_opacity(path)
        factor = png.factor(path)
    reader = _header(path, name)
    notes += seen
    if name == "TIFFImageIO" and len(reader.GetSize()) == 3:
        notes += notes_on(path, replace(_NO_SLICES, remarks=(f"its {reader.GetSize()[2]} pages were read as slices",)))
    found = _stored(path, reader, reader.GetNumberOfComponents(), pixel_type(reader), name, notes)
    return found if factor == 1 else replace(found, read=partial(_divided, found.read, factor))


def _divided(
    read: Callable[[int, int], Iterator[np.ndarray]], factor: int, first: int, stop: int
) -> Iterator[np.ndarray]:
    """Values of fewer than 8 bits as they are stored: ITK stretches them to 255."""
    return (volume // np.uint8(factor) for volume in read(first, stop))


def _gray_with_opacity(path: Path) -> StoredImage:
    values = png.with_opacity(path)
    grid = Grid.from_image(sitk.GetImageFromArray(values[..., 0]))
    return StoredImage(path, grid, 1, lambda first, stop: iter([values][first:stop]), channels=2)


def _checked(path: Path) -> tuple[str, Stated | None]:
    """ITK's reader of a file that nothing of it can crash, or none; and what its header states of its geometry.

    Raises:
        InputError: the file is damaged.
    """
    if metaimage.check(path):
        return "MetaImageIO", metaimage.stated(path)
    if nrrd.check(path):
        return "NrrdImageIO", nrrd.stated(path)
    kind = wholeness.check_picture(path)
    return kind, None if kind else bare_volumes.stated(path)


def _header(path: Path, name: str) -> sitk.ImageFileReader:
    """A reader of this name that has read the header of a file."""
    reader = sitk.ImageFileReader()
    reader.SetImageIO(name)
    reader.SetFileName(str(path))
    try:
        with quiet():  # ITK warns again when the voxels are read
            reader.ReadImageInformation()
    except RuntimeError as error:
        raise unreadable(path, error) from error
    if name in _PICTURES:
        wholeness.check_length(path, name, reader)
    return reader


def _stored(
    path: Path,
    header: sitk.ImageFileReader | ItkImage,
    components: int,
    kind: np.dtype,
    name: str,
    notes: list[str],
) -> StoredImage:
    """The image of a header, or of one that is read already; `name`: of ITK's reader."""
    if kind.kind == "c":
        raise InputError(f"{path}: holds complex values. Export the magnitude.")
    volumes = math.prod(header.GetSize()[3:])
    if volumes > 1 and components > 1:
        raise InputError(
            f"{path}: has {components} components per voxel in each of {volumes} volumes. Extract one volume first."
        )
    color = kind in (np.uint8, np.uint16) and components in (3, 4)
    color = color and not nrrd.is_list(path)
    vectors = components > 1 and not color
    grid = _in_millimeters(path, Grid.from_image(header), notes)
    if isinstance(header, ItkImage):
        shape = (-1, *grid.shape, *([components] if components > 1 else []))
        read = partial(_volumes_of, header.array.reshape(shape), vectors)
    else:
        read = partial(_components if vectors else _volumes, path, header, notes)
    return StoredImage(
        path, grid, components if vectors else volumes, read, components if color else 1, vectors,
        nrrd.seconds(path) if vectors else 0.0, bytes_of=kind.itemsize, at_once=components if vectors else 1,
        notes=notes,
    )  # fmt: skip


def _in_millimeters(path: Path, grid: Grid, notes: list[str]) -> Grid:
    factor, unit = nrrd.scale(path)
    if factor == 1 and not unit:
        factor, unit = metaimage.scale(path)
    if factor is None:
        notes.insert(0, f'its unit "{unit}" is unknown; all lengths were taken for mm')
    elif factor != 1:
        converted = f'its unit is "{unit}"; all lengths were converted to mm (3D Slicer and ITK take them for mm)'
        notes.insert(0, converted)
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
    return _volumes_of(_execute(path, reader, notes)[None], True, first, stop)


def _volumes_of(array: np.ndarray, vectors: bool, first: int, stop: int) -> Iterator[np.ndarray]:
    """Of what is read: of vectors the components, else one after the other."""
    for number in range(first, stop):
        yield np.ascontiguousarray(array[0, ..., number]) if vectors else array[number]
