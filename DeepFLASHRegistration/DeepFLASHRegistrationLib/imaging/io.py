# SPDX-License-Identifier: Apache-2.0
"""Reading and writing images, label maps and masks.

Everything outside is LPS mm; every writer puts a complete file in place by one atomic rename, or leaves nothing.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from ..support.errors import InputError
from . import segmentation
from .colors import luminance
from .dicom.reading import open_file, open_folder
from .files import atomic, is_folder, quiet, unwritable
from .grid import Grid
from .image_files import mgh, pictures
from .image_files.itk_reading import open_itk
from .image_files.nifti import is_nifti, write_nifti
from .image_files.nifti_reading import open_nifti
from .image_files.stored import StoredImage
from .volume import Volume, checked_image, checked_labels, checked_mask

_TWO_FILES = {".mhd": ".mha", ".nhdr": ".nrrd", ".hdr": ".nii", ".img": ".nii"}
# Of what SimpleITK writes, what holds origin and direction, and is read again as it was.
_WRITTEN = (".nrrd", ".mha", ".mnc", ".hdf5", ".h5")
_SELECTION = re.compile(r"(.+)\[(\d{1,9}|mean)\]", re.DOTALL)


def read_volume(path: str | os.PathLike) -> Volume:
    """Reads an image file or a DICOM folder as a float32 Volume.

    NIfTI, NRRD, MetaImage, FreeSurfer's .mgz and whatever else SimpleITK reads; of DICOM a folder with one image, or
    any file of one (scouts and reports beside it are left out, tilted and missing slices interpolated, with a note).
    Of a file of several volumes (4-D, vectors) 'file[3]' names the fourth and 'file[mean]' their mean; of colors the
    luminance is taken. A 3-D image with a single slice becomes a 2-D volume whose grid remembers its `plane`.

    Raises:
        InputError: unreadable, several volumes, complex, empty, not finite anywhere, or constant.
    """
    return checked_image(_read(path, _luminance))


def read_labels(path: str | os.PathLike, numbers: dict[str, int] | None = None) -> Volume:
    """Reads a label map, or a segmentation of Slicer (.seg.nrrd) or DICOM (SEG), as an int32 Volume.

    Values within 0.01 of integers are rounded. ``numbers``: see segmentation.label_map.

    Raises:
        InputError: as read_volume, and if a value is no integer, there is no label, or there are colors.
    """
    if segmentation.is_segmentation(path):
        return checked_labels(segmentation.label_map(segmentation.read_segmentation(path), numbers))
    return checked_labels(_read(path, _gray, exact=True))


def read_mask(path: str | os.PathLike) -> Volume:
    """Reads a mask as a uint8 Volume: 1 where the file is not 0.

    Raises:
        InputError: as read_volume, and if the mask is empty, or there are colors.
    """
    return checked_mask(_read(path, _gray, exact=True))


def read_grid(path: str | os.PathLike) -> Grid:
    """Reads where the voxels of an image file or a DICOM folder lie, whatever they hold.

    Of more than three dimensions the first three; a 3-D image with a single slice gives a 2-D grid with a `plane`.

    Raises:
        InputError: unreadable, or a line of voxels.
    """
    path, _ = selection(path)
    if segmentation.is_dicom_segmentation(path):
        return segmentation.read_segmentation(path).grid
    with quiet(), named(path):
        return flattened(path, open_image(path).grid)


def open_image(path: str | os.PathLike) -> StoredImage:
    """Opens an image file or a DICOM folder, to read its volumes one by one and with their colors.

    Raises:
        InputError: unreadable, or complex.
    """
    path = Path(path)
    with quiet(), named(path):
        if is_folder(path):
            return open_folder(path)
        if path.stat().st_size == 0:
            raise InputError(f"{path}: the file is empty. Copy or export it again.")
        if path.name.lower().endswith(mgh.SUFFIXES):
            return mgh.open_mgh(path)
        found = open_nifti(path) or open_file(path)
        return found or open_itk(path)


def _read(
    name: str | os.PathLike, of_colors: Callable[[np.ndarray, str], tuple[np.ndarray, str]], exact: bool = False
) -> Volume:
    """One volume of what a name stands for; `exact`: InputError if its values had to be interpolated."""
    path, which = selection(name)
    stored = open_image(path)
    if exact and stored.interpolated:
        raise InputError(
            f"{path}: no labels or masks can be read from such slices: {stored.notes[-1]}. Export them as NIfTI, NRRD."
        )
    with quiet(), named(path):
        grid = flattened(path, stored.grid)
        data = _one_volume(path, stored, which, exact)
        notes = list(stored.notes)
        if stored.channels > 1:
            data, note = of_colors(data, str(path))
            notes.append(note)
    notes = [note if note.startswith(f"{path}: ") else f"{path}: {note}" for note in notes]
    return Volume(grid, data.reshape(grid.shape), str(name), tuple(notes))


def selection(name: str | os.PathLike) -> tuple[Path, str]:
    """The file, and which of its volumes: '' if none is named, else a number or 'mean'."""
    found = _SELECTION.fullmatch(os.fspath(name))
    if found is None or os.path.lexists(name) or not os.path.lexists(found[1]):
        return Path(name), ""
    return Path(found[1]), found[2]


def _one_volume(path: Path, stored: StoredImage, which: str, exact: bool) -> np.ndarray:
    count = stored.count
    if which == "mean" and exact:
        raise InputError(f"{path}[mean]: the mean of labels or masks is none. Name one of them: '{path}[0]', ….")
    if which == "mean":
        total = np.float64(0)
        for volume in stored.volumes(0, count):
            total = total + volume
        return (total / count).astype(np.float32)
    if which and int(which) >= count:
        raise InputError(f"{path}[{which}]: the file holds {count} volume{'s' * (count > 1)}, counted from 0.")
    if not which and count > 1:
        what = f"has {count} components per voxel (vectors)" if stored.vectors else f"holds {count} volumes (4-D)"
        raise InputError(
            f"{path}: {what}. Name one of them (one time point, one component): '{path}[0]' to '{path}[{count - 1}]'"
            + ("." if exact else f", or their mean: '{path}[mean]'.")
            + _listed(stored.names)
        )
    number = int(which or 0)
    (volume,) = stored.volumes(number, number + 1)  # to the end, where damage shows
    return volume


def _listed(names: list[str]) -> str:
    lines = [f"\n  [{number}] {name}" for number, name in enumerate(names[:20])]
    return "".join(lines) + (f"\n  and {len(names) - 20} more" if len(names) > 20 else "")


def _luminance(data: np.ndarray, name: str) -> tuple[np.ndarray, str]:
    return luminance(data)


def _gray(data: np.ndarray, name: str) -> tuple[np.ndarray, str]:
    gray, note = luminance(data)
    if gray.dtype != data.dtype:
        raise InputError(
            f"{name}: is in color, with {data.shape[-1]} components per voxel. Pass labels and masks as numbers, one "
            "component."
        )
    return gray, note


@contextmanager
def named(path: Path) -> Iterator[None]:
    """Names the file in what a grid has against it."""
    try:
        yield
    except InputError:
        raise
    except ValueError as error:
        raise InputError(f"{path}: {error}") from error


def flattened(path: Path, grid: Grid) -> Grid:
    """A grid of one slice as a 2-D grid, others as they are."""
    if grid.shape.count(1) >= grid.ndim - 1:
        raise InputError(f"{path}: of shape {grid.shape[::-1]}, a line of voxels. Pass a 2-D or 3-D image.")
    return grid.flattened() if grid.ndim == 3 and 1 in grid.shape else grid


def write_volume(path: str | os.PathLike, volume: Volume) -> None:
    """Writes an image, label map or mask: NIfTI (.nii, .nii.gz) or what SimpleITK writes (.nrrd, .mha, ...).

    Pictures (.png, .tif, .jpg, .bmp) get whole numbers of 8 or 16 bits (pictures.py). Elsewhere the element type is
    that of the data (booleans as uint8, 64-bit integers as int32), and a slice of 3-D space is written as a 3-D image
    of one slice. As .seg.nrrd each label becomes a segment.

    Raises:
        InputError: a suffix that is unknown or loses the place, values that the format cannot hold (in a segmentation
            what is no label), or a folder that does not exist or may not be written.
    """
    if pictures.is_picture(path):
        pictures.write_picture(path, volume.grid, volume.data)
        return
    if segmentation.is_segmentation(path):
        segmentation.write_segmentation(path, segmentation.segmentation_of(volume))
        return
    grid, data = in_space(volume.grid, _storable(path, volume.data))
    if is_nifti(path):
        with atomic(path) as temporary:
            write_nifti(temporary, grid, data)
        return
    write_image(path, grid, data, vector=False)


def in_space(grid: Grid, data: np.ndarray) -> tuple[Grid, np.ndarray]:
    """A slice of 3-D space as a 3-D grid and array of one slice; others as they are."""
    if grid.plane is None:
        return grid, data
    return grid.lifted(), np.expand_dims(data, grid.slice_axis)


def write_image(path: str | os.PathLike, grid: Grid, data: np.ndarray, vector: bool) -> None:
    """Writes an array (*grid.shape), or of vectors (*grid.shape, d), in one of SimpleITK's formats of one file."""
    suffix = Path(path).suffix.lower()
    if suffix in _TWO_FILES:
        raise InputError(f"{path}: {suffix} needs two files. Write {_TWO_FILES[suffix]} instead.")
    write_itk(path, grid.apply_to(sitk.GetImageFromArray(data, isVector=vector)))


def write_itk(path: str | os.PathLike, image: sitk.Image) -> None:
    """Writes an image in one of SimpleITK's formats, compressed; complete or not at all."""
    suffix = Path(path).suffix.lower()
    if suffix not in _WRITTEN:
        raise InputError(
            f"{path}: unknown kind of image file, or one that cannot hold where the voxels lie. Name it .nii.gz, .nrrd "
            "or .mha."
        )
    writer = sitk.ImageFileWriter()
    with atomic(path) as temporary:
        writer.SetFileName(str(temporary))
        writer.SetUseCompression(True)
        try:
            with quiet():
                writer.Execute(image)
        except RuntimeError as error:
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
