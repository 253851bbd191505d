# SPDX-License-Identifier: Apache-2.0
"""Reading and writing images, label maps and masks.

Everything outside is LPS mm; every writer puts a complete file in place by one atomic rename, or leaves nothing.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from ..support.errors import InputError
from . import dicom
from .files import atomic, is_folder, quiet, unreadable, unwritable
from .grid import Grid
from .nifti import is_nifti, read_voxels, write_nifti
from .volume import Volume, checked_image, checked_labels, checked_mask

_TWO_FILES = {".mhd": ".mha", ".nhdr": ".nrrd", ".hdr": ".nii", ".img": ".nii"}


def read_volume(path: str | os.PathLike) -> Volume:
    """Reads an image file or a DICOM folder as a float32 Volume.

    NIfTI, NRRD, MetaImage and whatever else SimpleITK reads; of DICOM a folder with one series, or any file of a
    series. A 3-D image with a single slice becomes a 2-D volume whose grid remembers its `plane`.

    Raises:
        InputError: unreadable, 4-D, several components, complex, empty, not finite anywhere, or constant.
    """
    return checked_image(_read(path))


def read_labels(path: str | os.PathLike) -> Volume:
    """Reads a label map as an int32 Volume; a float file is accepted if all its values are integers.

    Raises:
        InputError: as read_volume, and if a value is no integer or there is no label.
    """
    return checked_labels(_read(path))


def read_mask(path: str | os.PathLike) -> Volume:
    """Reads a mask as a uint8 Volume: 1 where the file is not 0.

    Raises:
        InputError: as read_volume, and if the mask is empty.
    """
    return checked_mask(_read(path))


def read_grid(path: str | os.PathLike) -> Grid:
    """Reads where the voxels of an image file or a DICOM folder lie, whatever they hold.

    Of more than three dimensions the first three; a 3-D image with a single slice gives a 2-D grid with a `plane`.

    Raises:
        InputError: unreadable, or a line of voxels.
    """
    path = Path(path)
    with quiet(), _named(path):
        if is_folder(path):
            return _flattened(path, Grid.from_image(dicom.read_folder(path)[0]))
        reader = _header(path)
        names = dicom.series_around(reader)
        return _flattened(path, Grid.from_image(dicom.read_series(path, names)[0] if len(names) > 1 else reader))


def _read(path: str | os.PathLike) -> Volume:
    path = Path(path)
    with quiet(), _named(path):
        if is_folder(path):
            image, notes = dicom.read_folder(path)
            grid, data = Grid.from_image(image), sitk.GetArrayFromImage(image)
        else:
            grid, data, notes = _read_file(path)
        grid = _flattened(path, grid)
    return Volume(grid, data.reshape(grid.shape), str(path), tuple(notes))


@contextmanager
def _named(path: Path) -> Iterator[None]:
    """Names the file in what a grid has against it."""
    try:
        yield
    except InputError:
        raise
    except ValueError as error:
        raise InputError(f"{path}: {error}") from error


def _flattened(path: Path, grid: Grid) -> Grid:
    """A grid of one slice as a 2-D grid, others as they are."""
    if grid.shape.count(1) >= grid.ndim - 1:
        raise InputError(f"{path}: of shape {grid.shape[::-1]}, a line of voxels. Pass a 2-D or 3-D image.")
    return grid.flattened() if grid.ndim == 3 and 1 in grid.shape else grid


def _header(path: Path) -> sitk.ImageFileReader:
    if path.stat().st_size == 0:
        raise InputError(f"{path}: the file is empty. Copy or export it again.")
    reader = sitk.ImageFileReader()
    reader.SetFileName(str(path))
    try:
        reader.ReadImageInformation()
    except RuntimeError as error:
        raise unreadable(path, error) from error
    return reader


def _read_file(path: Path) -> tuple[Grid, np.ndarray, list[str]]:
    reader = _header(path)
    names = dicom.series_around(reader)
    if len(names) > 1:
        image, notes = dicom.read_series(path, names)
        note = f"{path}: read with the other {len(names) - 1} files of its DICOM series"
        return Grid.from_image(image), sitk.GetArrayFromImage(image), [note, *notes]
    _check_one_component(path, reader)
    size = list(reader.GetSize())
    if len(size) > 3:
        reader.SetExtractSize(size[:3] + [0] * (len(size) - 3))
    if is_nifti(path):
        data = read_voxels(path, tuple(size[:3][::-1]))
        if data is not None:
            return Grid.from_image(reader), data, []
    try:
        image = reader.Execute()
    except RuntimeError as error:
        raise unreadable(path, error) from error
    return Grid.from_image(image), sitk.GetArrayFromImage(image), []


def _check_one_component(path: Path, reader: sitk.ImageFileReader) -> None:
    if "complex" in sitk.GetPixelIDValueAsString(reader.GetPixelID()):
        raise InputError(f"{path}: holds complex values. Export the magnitude.")
    components = reader.GetNumberOfComponents()
    if components > 1:
        raise InputError(
            f"{path}: has {components} components per voxel (RGB or vectors). Pass a gray-value image of one component."
        )
    size = reader.GetSize()
    if any(n > 1 for n in size[3:]):
        raise InputError(
            f"{path}: is {len(size)}-D, of size {'x'.join(map(str, size))}. Extract one volume (one time point) first."
        )


def write_volume(path: str | os.PathLike, volume: Volume) -> None:
    """Writes an image, label map or mask: NIfTI (.nii, .nii.gz) or what SimpleITK writes (.nrrd, .mha, ...).

    The element type is that of the data (booleans as uint8, 64-bit integers as int32). A slice of 3-D space is
    written as a 3-D image of one slice.

    Raises:
        InputError: unknown suffix, or a folder that does not exist or may not be written.
    """
    grid, data = volume.grid, _storable(path, volume.data)
    if grid.plane is not None:
        data = np.expand_dims(data, grid.slice_axis)
        grid = grid.lifted()
    if is_nifti(path):
        with atomic(path) as temporary:
            write_nifti(temporary, grid, data, 0)
        return
    write_image(path, grid, data, vector=False)


def write_image(path: str | os.PathLike, grid: Grid, data: np.ndarray, vector: bool) -> None:
    """Writes an array (*grid.shape), or of vectors (*grid.shape, d), in one of SimpleITK's formats of one file."""
    suffix = Path(path).suffix.lower()
    if suffix in _TWO_FILES:
        raise InputError(f"{path}: {suffix} needs two files. Write {_TWO_FILES[suffix]} instead.")
    image = grid.apply_to(sitk.GetImageFromArray(data, isVector=vector))
    writer = sitk.ImageFileWriter()
    with atomic(path) as temporary:
        writer.SetFileName(str(temporary))
        writer.SetUseCompression(True)
        try:
            with quiet():
                writer.Execute(image)
        except RuntimeError as error:
            if "Unable to determine ImageIO writer" in str(error):
                raise InputError(f"{path}: unknown kind of image file. Name it .nii.gz, .nrrd or .mha.") from error
            raise unwritable(path) from error


def _storable(path: str | os.PathLike, data: np.ndarray) -> np.ndarray:
    if data.dtype.kind == "b":
        return data.astype(np.uint8)
    if data.dtype == np.float16:
        return data.astype(np.float32)
    if data.dtype.kind in "iu" and data.dtype.itemsize == 8:
        if data.min() < -(2**31) or data.max() >= 2**31:
            raise InputError(f"{path}: values beyond 32 bits cannot be written. Renumber the labels.")
        return data.astype(np.int32)
    return data
