# SPDX-License-Identifier: Apache-2.0
"""A bare transform file where a result could be: what carries things over without a geodesic."""

from __future__ import annotations

import os
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from ..imaging.files import TRANSFORMS
from ..imaging.grid import Grid
from ..imaging.io import flattened
from ..imaging.transform_files.itk_dense import displacements, moved
from ..imaging.transform_files.registration_object import read_deformable, registration_kind
from ..imaging.transforms import nonlinear_dimension, read_affine_with_notes, read_displacement_field, spread_points
from ..problem.deformation import Deformation
from ..support.errors import InputError

_FIELDS = (".nii", ".nii.gz", ".nrrd", ".nhdr", ".mha", ".mhd")
# Part of what is carried that lies beyond a field, from which on it is said.
_BEYOND = 0.05


def is_transform(path: str | os.PathLike) -> bool:
    """Whether a path names a linear transform, a displacement field or a registration of DICOM, and no result."""
    named = os.fspath(path).lower().endswith(TRANSFORMS + _FIELDS) and not Path(path).is_dir()
    return named or bool(registration_kind(path))


def _is_field(path: str | os.PathLike) -> bool:
    return os.fspath(path).lower().endswith(_FIELDS)


def for_images(
    path: str | os.PathLike, to: str, origin: Grid, target: Grid | None
) -> tuple[Deformation | Field, Grid, tuple[str, ...]]:
    """What resamples images by a transform.

    Args:
        path: a linear transform as read_affine_with_notes takes it, a displacement field, another transform of ITK, or
            a deformable registration of DICOM.
        to: "fixed" or "moving", the space of the target.
        origin: where the image lies that is resampled.
        target: where its values are wanted; None for the grid of the field.

    Returns:
        The map, the target, and notes.

    Raises:
        InputError: it cannot be used, or there is no target.
    """
    field, said, onto = None, (), origin if origin.plane is not None else None
    if _is_field(path):
        field = Field.read(path, onto)
        target = target or flattened(Path(path), field.domain)
    elif target is None:
        raise InputError(
            f"{path}: does not say on which voxels the output shall lie. Name an image of those: --reference IMAGE."
        )
    elif registration_kind(path) == "deformable":
        field, said = _of_dicom(path, *((target, origin) if to == "fixed" else (origin, target)), onto)
    elif nonlinear_dimension(path):
        space = target if target.plane is None else target.lifted()
        field = Field(space, displacements(Path(path), space), str(path), onto)
    if origin.ndim != target.ndim:
        raise InputError(
            f"{path}: the output's voxels have {target.ndim} dimensions, the image has {origin.ndim}. Pass images of "
            "as many dimensions."
        )
    if field is not None:
        return field, target, said + _noted(field, origin, target)
    found, notes = _linear(path, target.ndim, to, origin, target)
    return found, target, notes


def _noted(field: Field, origin: Grid, target: Grid) -> tuple[str, ...]:
    """What is to be said of a field between two grids; InputError if it has other dimensions."""
    space, around = (grid if grid.plane is None else grid.lifted() for grid in (target, origin))
    d = field.domain.ndim
    if space.ndim != d:
        raise InputError(
            f"{field.name}: is a {d}-D field, but the images are {space.ndim}-D. Pass a {space.ndim}-D one."
        )
    # Not on the outer faces, where rounding decides.
    points = space.center + 0.98 * (spread_points(space) - space.center)
    notes = field.reach(points)
    if around.shape.count(1) == 0 and not around.contains(field.points(points, "fixed_to_moving")).any():
        notes += (f"{field.name}: takes nothing of the output's voxels into the image: check that it belongs to both",)
    return notes


def for_points(
    path: str | os.PathLike, to: str, origin: Grid | None, target: Grid | None
) -> tuple[Deformation | Field | Nonlinear, tuple[str, ...]]:
    """What moves points by a transform: through space, also where the images are slices of it.

    Args:
        path, to: as for for_images.
        origin, target: the grids of the images, where they are known.

    Returns:
        The map, and notes.

    Raises:
        InputError: it cannot be used.
    """
    if _is_field(path):
        return Field.read(path), ()
    if registration_kind(path) == "deformable":
        return _of_dicom(path, *((target, origin) if to == "fixed" else (origin, target)))
    d = nonlinear_dimension(path)
    if d:
        return Nonlinear(str(path), Grid((1,) * d, np.eye(d + 1))), ()
    grids = [grid.lifted() if grid is not None and grid.plane is not None else grid for grid in (origin, target)]
    return _linear(path, next((grid.ndim for grid in grids if grid is not None), None), to, *grids)


def _of_dicom(
    path: str | os.PathLike, fixed: Grid | None, moving: Grid | None, onto: Grid | None = None
) -> tuple[Field, tuple[str, ...]]:
    """A deformable registration of DICOM."""
    lattice, vectors, matrix, notes = read_deformable(Path(path), fixed, moving)
    last = None if np.array_equal(matrix, np.eye(4)) else matrix
    return Field(lattice, vectors, str(path), onto, last), notes


def _linear(
    path: str | os.PathLike, ndim: int | None, to: str, origin: Grid | None, target: Grid | None
) -> tuple[Deformation, tuple[str, ...]]:
    """A linear transform as a deformation."""
    fixed, moving = (target, origin) if to == "fixed" else (origin, target)
    matrix, notes = read_affine_with_notes(path, ndim, fixed, moving)
    return resting(matrix), notes


def resting(affine: np.ndarray) -> Deformation:
    """An affine alone, (d+1, d+1) LPS mm fixed -> moving, as a deformation whose geodesic rests."""
    d = len(affine) - 1
    rest = np.zeros((d, *(1,) * d), np.float32)
    return Deformation(Grid((1,) * d, np.eye(d + 1)), 1.0, rest, 1.0, 1.0, 1.0, None, affine, 0.0)


@dataclass(frozen=True, eq=False)
class Field:
    """A displacement field of a file, as a map in its one direction: interpolated linearly, at rest outside, as in ITK;
    of a registration of DICOM with an affine after it.

    Attributes:
        domain: where the displacements are given.
        values: float32 (*domain.shape, d), LPS mm, fixed -> moving.
        name: what messages call it.
        onto: for slices of 3-D space: the grid whose plane the displaced points lie in (default: their own plane).
        last: (d+1, d+1) LPS mm, through which the displaced points go, wherever they are; None for nothing.
    """

    domain: Grid
    values: np.ndarray
    name: str
    onto: Grid | None = None
    last: np.ndarray | None = None

    @classmethod
    def read(cls, path: str | os.PathLike, onto: Grid | None = None) -> Field:
        """Reads one; InputError as read_displacement_field, and if a displacement is not finite."""
        domain, values = read_displacement_field(path)
        if not np.isfinite(values).all():
            raise InputError(f"{path}: holds displacements that are not finite. Compute it again.")
        return cls(domain, values, str(path), onto)

    def displacement(self, grid: Grid, direction: str, t: float = 1.0) -> np.ndarray:
        """As Deformation.displacement, from fixed to moving."""
        _require(self.name, direction, "fixed")
        if self.last is None and grid.same_as(self.domain, 1e-6):
            return self.values
        result = np.empty((*grid.shape, grid.ndim), np.float32)
        rest = [np.arange(n) for n in grid.shape[1:]]
        for k in range(grid.shape[0]):
            points = grid.index_to_physical(np.stack(np.meshgrid(k, *rest, indexing="ij"), -1).reshape(-1, grid.ndim))
            if grid.plane is None:
                moved = self._moved_by(points)
            else:
                lifted = grid.lift(points)
                moved = (self.onto or grid).project(lifted + self._moved_by(lifted)) - points
            result[k] = moved.reshape(result[k].shape)
        return result

    def points(self, points: np.ndarray, direction: str, t: float = 1.0) -> np.ndarray:
        """As Deformation.points, from fixed to moving."""
        _require(self.name, direction, "moving")
        return points + self._moved_by(points)

    def _moved_by(self, points: np.ndarray) -> np.ndarray:
        """Where points (n, d) go from where they are, the affine included."""
        displaced = self._at(points)
        if self.last is None:
            return displaced
        d = len(self.last) - 1
        return (points + displaced) @ self.last[:d, :d].T + self.last[:d, d] - points

    def _at(self, points: np.ndarray) -> np.ndarray:
        import torch

        from ..geodesics.sampling import sample_linear

        far = 2.0 * max(self.domain.shape)  # at rest as all that lies outside, and no overflow
        index = torch.from_numpy(self.domain.physical_to_index(points).clip(-far, far).astype(np.float32))
        return torch.stack([sample_linear(component, index) for component in self._components], -1).numpy()

    @cached_property
    def _components(self) -> list[Any]:
        """The displacements along x, y[, z], each a tensor of its own, which is sampled without a copy."""
        import torch

        return [torch.from_numpy(np.ascontiguousarray(self.values[..., c])) for c in range(self.domain.ndim)]

    def reach(self, points: np.ndarray) -> tuple[str, ...]:
        """A note where the field does not reach some of points (N, d), LPS mm."""
        beyond = 1 - float(self.domain.contains(points).mean()) if len(points) else 0.0
        if beyond <= _BEYOND:
            return ()
        what = "nothing was moved" if self.last is None else "nothing but its matrices moves"
        return (f"{self.name}: does not reach {100 * beyond:.0f} % of what is carried; there {what}",)


@dataclass(frozen=True, eq=False)
class Nonlinear:
    """A transform of ITK that is not linear, as a map of points in its one direction.

    Attributes:
        name: the file.
        domain: any grid of its dimension.
    """

    name: str
    domain: Grid

    def points(self, points: np.ndarray, direction: str, t: float = 1.0) -> np.ndarray:
        """As Deformation.points, from fixed to moving."""
        _require(self.name, direction, "moving")
        return moved(Path(self.name), points)


def _require(name: str, direction: str, other: str) -> None:
    if direction != "fixed_to_moving":
        raise InputError(
            f"{name}: is not linear, and so takes images to the space of the fixed image and points to that of the "
            "moving one, not the other way. Pass the inverse that was written with it (ANTs: *InverseWarp.nii.gz, "
            f"*InverseComposite.h5; deepflash: moving_to_fixed.nii.gz), and --to {other}."
        )
