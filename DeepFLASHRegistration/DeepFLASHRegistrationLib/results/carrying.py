# SPDX-License-Identifier: Apache-2.0
"""Carrying images, labels, points and surfaces over with a saved result, or with a transform of another program."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..imaging import io, points, surfaces
from ..imaging.dicom.doses import dose_object
from ..imaging.dicom.elements import RT_DOSE, storage_class
from ..imaging.dicom.objects import read_object
from ..imaging.dicom.registrations import matrix_type, write_object
from ..imaging.dicom.series import read_series
from ..imaging.files import POINTS, SURFACES
from ..imaging.grid import Grid
from ..imaging.image_files import series
from ..imaging.image_files.pictures import is_picture
from ..imaging.segmentation import (
    is_dicom_segmentation,
    is_segmentation,
    read_segmentation,
    write_segmentation,
)
from ..imaging.volume import Volume
from ..problem.belonging import elsewhere
from ..problem.deformation import Deformation
from ..registration.warping import warp, warp_labels, warp_segmentation
from ..support.errors import InputError
from ..support.memory import check_free
from ..support.torch_device import resolve_device, torch_threads
from . import bare_transform
from .bare_transform import Field, Nonlinear
from .through import Through, through
from .velocity import load_result
from .written_maps import WrittenMaps

# Any .json is taken for landmarks, so that a wrong one is refused as such.
_LANDMARKS = (*POINTS, ".json")


@dataclass(frozen=True)
class Carrying:
    """How something is carried over.

    Attributes:
        to: "fixed" or "moving", the space it shall lie in.
        time: 0 (affine alone) to 1 (the whole geodesic).
        reference: image whose grid an image or label map takes (default: that of the fixed or moving image); what it
            shows does not matter. With a bare transform it is the image in whose space the output lies.
        through: folder of a further result, whose moving image is the fixed one of the first: the fixed space is its.
        origin: with a bare transform, the image in whose space the input lies, where the transform needs its grid and
            the input has none or another one.
        labels: it is a label map.
        interpolation: "linear", "cubic" or "nearest", for images.
    """

    to: str = "fixed"
    time: float = 1.0
    reference: str | os.PathLike | None = None
    labels: bool = False
    interpolation: str = "linear"
    origin: str | os.PathLike | None = None
    through: str | os.PathLike | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.time <= 1:
            raise InputError(f"The time must lie between 0 (affine alone) and 1 (whole geodesic), not {self.time}.")
        if self.through is not None and self.time != 1:
            raise InputError("Two results one after the other have no time to choose. Leave --time or --through out.")


def carry(
    result: str | os.PathLike,
    source: str | os.PathLike,
    output: str | os.PathLike,
    how: Carrying,
    *,
    device: str = "auto",
    threads: int | None = None,
) -> list[str]:
    """Reads a file, carries it to the fixed or the moving image's space, and writes it.

    Of a file of several volumes (fMRI, diffusion) every one is carried, one after the other; of a picture its colors.

    Args:
        result: folder written by save_result, or its velocity.safetensors; or a bare transform: a linear one as
            read_affine_with_notes takes it, a displacement field, or another transform of ITK (a composite of ANTs).
        source: image, label map, landmarks or surface, in the space it shall leave; told apart by the suffix.
        output: file of the same kind.
        how: where to, and as what.
        device, threads: as in register().

    Returns:
        What was noticed or had to be guessed.

    Raises:
        InputError: a file cannot be used, or a transform lacks what it needs; nothing is written.
    """
    name = str(source).lower()
    bare, is_image = bare_transform.is_transform(result), not name.endswith(_LANDMARKS + SURFACES)
    if not is_image and (how.labels or (how.reference is not None and not bare)):
        raise InputError(f"{source}: a reference image or labels only make sense for images. Leave them out.")
    way = _of_transform(result, source, how, is_image) if bare else _of_result(result, how, device)
    with torch_threads(threads):
        if is_image:
            return way.resample(source, output)
        if name.endswith(_LANDMARKS):
            found, names = points.read_points(source)
            guessed = points.write_points(output, way.moved(found, source), names, like=source)
            return [*way.notes, *guessed]
        mesh = surfaces.read_mesh(source)
        surfaces.write_surface(output, way.moved(mesh.points, source), like=source)
        return [*way.notes, *mesh.notes]


def _of_result(result: str | os.PathLike, how: Carrying, device: str) -> _Way:
    if how.origin is not None:
        raise InputError(f"{result}: a result knows in whose space the input lies. Leave --source out.")
    saved = load_result(result)
    if how.through is not None:
        saved = through(saved, load_result(how.through), (str(result), str(how.through)))
    grids = saved.moving_grid, saved.fixed_grid
    return _Way(saved.deformation.on(resolve_device(device)), *(grids if how.to == "fixed" else grids[::-1]), how)


def _of_transform(result: str | os.PathLike, source: str | os.PathLike, how: Carrying, is_image: bool) -> _Way:
    if how.through is not None:
        raise InputError(f"{result}: is a bare transform; only results go on through another one. Leave --through out.")
    if how.time != 1:
        raise InputError(f"{result}: is a bare transform, without a time to choose. Leave --time out.")
    place = source if how.origin is None and is_image else how.origin
    origin, target = (None if path is None else _grid_of(path) for path in (place, how.reference))
    if not is_image:
        found, notes = bare_transform.for_points(result, how.to, origin, target)
        anywhere = Grid((1,) * found.domain.ndim, np.eye(found.domain.ndim + 1))
        return _Way(found, anywhere, anywhere, how, notes)
    found, target, notes = bare_transform.for_images(result, how.to, origin, target)
    return _Way(found, origin, target, how, notes)


class _Way:
    """From the space that something leaves, with a grid in it, to the one it enters."""

    def __init__(
        self,
        deformation: Deformation | WrittenMaps | Through | Field | Nonlinear,
        origin: Grid,
        target: Grid,
        how: Carrying,
        notes: Sequence[str] = (),
    ):
        self.how, self.deformation = how, deformation
        self.origin, self.target = origin, target
        self.notes = list(notes)
        # Points move with the tissue; images are resampled: each point of the new grid asks where it came from.
        directions = "moving_to_fixed", "fixed_to_moving"
        self.outwards, self.inwards = directions if how.to == "fixed" else directions[::-1]

    def moved(self, found: np.ndarray, source: str | os.PathLike) -> np.ndarray:
        """Points (N, d), or (N, 3) also of a slice, where they go."""
        origin, target = self.origin, self.target
        flat = origin.in_plane(found)
        if flat.shape[1] != origin.ndim:
            raise InputError(
                f"{source}: has {found.shape[1]}-D points, but the result is {origin.ndim}-D. Pass "
                f"{origin.ndim}-D points."
            )
        result = self.deformation.points(flat, self.outwards, self.how.time)
        if isinstance(self.deformation, Field):
            self.notes += self.deformation.reach(flat)
        if flat.shape[1] == found.shape[1]:
            return result
        if origin.plane is None:
            return np.c_[result, found[:, 2]]
        # What lies beside the slice stays as far beside it.
        onto = target if target.plane is not None else origin
        return onto.lift(result) + ((found - origin.plane[:3, 2]) @ origin.normal)[:, None] * onto.normal

    def resample(self, source: str | os.PathLike, output: str | os.PathLike) -> list[str]:
        """Reads an image or label map and writes it as it appears in the other space."""
        how, target = self.how, self.target
        if is_segmentation(source) and is_segmentation(output):
            return self._segments(source, output)
        grid = target if how.reference is None else _grid_of(how.reference)
        if is_dicom_segmentation(source):  # in which there is no image
            return self._one(source, output, grid)
        if os.fspath(output).lower().endswith(".dcm"):
            return self._dose(source, output)
        path, which = io.selection(source)
        stored = io.open_image(path)
        shown = io.flattened(path, stored.grid)
        self._check_dimension(source, shown.ndim)
        self._check_dimension(how.reference, grid.ndim)
        if which or self._as_labels(source) or (stored.count == 1 and stored.channels == 1):
            return self._one(source, output, grid, stored.outside)
        if stored.channels > 1 and stored.count > 1:
            raise InputError(f"{path}: holds {stored.count} pictures in color. Name one of them: '{path}[0]', ….")
        notes = [*self.notes, *(f"{path}: {note}" for note in stored.notes)]
        field = self.deformation.displacement(grid, self.inwards, how.time)
        if stored.channels > 1:
            (colors,) = stored.volumes(0, 1)
            colors = colors.reshape(*shown.shape, stored.channels)
            warped = [self._warped(shown, colors[..., c], grid, field) for c in range(stored.channels)]
            series.write_colors(output, grid, _as_before(np.stack(warped, -1), colors.dtype))
            return notes
        volumes = stored.volumes(0, stored.count)
        warped_volumes = (self._warped(shown, volume.reshape(shown.shape), grid, field) for volume in volumes)
        series.write_series(output, grid, warped_volumes, stored.count, stored.seconds)
        what = "volumes were carried"
        if stored.vectors:
            what = "components per voxel were carried, each for itself: vectors and tensors are not turned"
        return [*notes, f"{path}: all its {stored.count} {what}"]

    def _segments(self, source: str | os.PathLike, output: str | os.PathLike) -> list[str]:
        found = read_segmentation(source)
        grid = self.target if self.how.reference is None else _grid_of(self.how.reference)
        self._check_dimension(source, found.grid.ndim)
        self._check_dimension(self.how.reference, grid.ndim)
        field = self.deformation.displacement(grid, self.inwards, self.how.time)
        write_segmentation(output, warp_segmentation(found, grid, field))
        return [*self.notes, *self._place_noted(found.layers[0])]

    def _as_labels(self, source: str | os.PathLike) -> bool:
        """A segmentation holds labels, whatever its file is called for."""
        return self.how.labels or is_segmentation(source)

    def _check_dimension(self, path: str | os.PathLike | None, ndim: int) -> None:
        if ndim != self.target.ndim:
            raise InputError(
                f"{path}: has {ndim} dimensions, the result {self.target.ndim}. Pass an image of "
                f"{self.target.ndim} dimensions."
            )

    def _place_noted(self, labels: Volume) -> list[str]:
        other = "fixed" if self.how.to == "moving" else "moving"
        what = f"the {other} image that was registered" if self.how.origin is None else str(self.how.origin)
        text, _ = elsewhere(self.origin, labels, what)
        return [*labels.notes, *([text] if text else [])]

    def _dose(self, source: str | os.PathLike, output: str | os.PathLike) -> list[str]:
        """Carries a radiation dose of DICOM into another one."""
        if storage_class(Path(source)) != RT_DOSE:
            raise InputError(
                f"{output}: of images only radiation doses are written as DICOM, and {source} is none. Name the output "
                ".nii.gz; deepflash dicom writes registrations and segmentations."
            )
        if self.how.reference is None:
            raise InputError(f"{output}: needs the series to which it shall refer: --reference FOLDER.")
        series, volume = read_series(self.how.reference), io.read_volume(source)
        grid = series.grid
        self._check_dimension(source, volume.ndim)
        self._check_dimension(self.how.reference, grid.ndim)
        field = self.deformation.displacement(grid, self.inwards, self.how.time)
        data = self._warped(volume.grid, volume.data, grid, field, 0.0)
        linear = isinstance(self.deformation, Deformation) and self.deformation.rests(self.how.time)
        rigid = linear and matrix_type(self.deformation.affine) == "RIGID"
        found = dose_object(series, read_object(Path(source), voxels=False), grid, data, rigid)
        write_object(Path(output), found)
        rounded = f"{output}: its values were rounded by at most {float(found.DoseGridScaling) / 2:.2g}"
        return [*self.notes, *volume.notes, *self._frame_noted(volume), rounded]

    def _one(
        self, source: str | os.PathLike, output: str | os.PathLike, grid: Grid, outside: float | None = None
    ) -> list[str]:
        how = self.how
        labels = self._as_labels(source)
        volume = (io.read_labels if labels else io.read_volume)(source)
        self._check_dimension(source, volume.ndim)
        field = self.deformation.displacement(grid, self.inwards, how.time)
        notes = list(volume.notes)
        if labels:
            notes = self._place_noted(volume)
            data = warp_labels(volume, grid, field)
        else:
            shown = volume.with_data(volume.data > volume.data.min())
            text, wrong = elsewhere(self.origin, shown, "the image that was registered")
            notes += [text] if wrong else []
            data = self._warped(volume.grid, volume.data, grid, field, outside)
            if is_picture(output):  # which has no room for what cubic interpolation adds beside an edge
                data = np.clip(data, volume.data.min(), volume.data.max())
        io.write_volume(output, Volume(grid, data))
        return [*self.notes, *notes, *self._frame_noted(volume)]

    def _frame_noted(self, volume: Volume) -> list[str]:
        """A note if by DICOM the place of a volume is none in the space that it shall leave."""
        own, origin = volume.grid.frame_of_reference, self.origin.frame_of_reference
        if not own or not origin or own == origin:
            return []
        return [
            f"{volume.name}: lies in the frame of reference {own}, but the image that it is carried from in {origin}: "
            "nothing says that their mm mean the same places. Check that they belong together"
        ]

    def _warped(
        self, own: Grid, data: np.ndarray, grid: Grid, field: np.ndarray, outside: float | None = None
    ) -> np.ndarray:
        if data.dtype.kind == "f" and not np.isfinite(data).all():
            data = np.where(np.isfinite(data), data, np.min(data, where=np.isfinite(data), initial=np.inf))
            data = np.nan_to_num(data, posinf=0.0)  # a volume without any finite value
        outside = float(data.min()) if outside is None else outside
        return warp(Volume(own, data), grid, field, outside=outside, interpolation=self.how.interpolation)


def _grid_of(path: str | os.PathLike) -> Grid:
    """The grid of an image, on which there is room for values and displacements."""
    grid = io.read_grid(path)
    check_free(path, 4 * (grid.ndim + 2) * grid.size)
    return grid


def _as_before(values: np.ndarray, dtype: np.dtype) -> np.ndarray:
    """Interpolated values in the type that they had."""
    if dtype.kind not in "iu":
        return values.astype(dtype)
    limits = np.iinfo(dtype)
    return np.clip(np.rint(values), limits.min, limits.max).astype(dtype)
