# SPDX-License-Identifier: Apache-2.0
"""Transforms of ITK that are not linear (ANTs' composites, B-splines), evaluated by ITK in a process of its own."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from ...support.errors import InputError
from ...support.isolation import Crashed, isolated, memory_to_read
from ..grid import Grid
from .itk_affine import opened

_SECONDS = 600.0


def displacements(path: Path, grid: Grid) -> np.ndarray:
    """By how much a transform moves the voxels of a grid.

    Returns:
        float32 (*grid.shape, d), LPS mm.

    Raises:
        InputError: no transform of ITK, damaged, of another dimension, or not finite.
    """
    geometry = [list(values) for values in grid.to_image_geometry()]
    return _evaluated("fill_field", path, np.zeros(0), geometry, 60 * grid.size)


def moved(path: Path, points: np.ndarray) -> np.ndarray:
    """Where a transform takes points (N, d), LPS mm: (N, d) float64; errors as those of `displacements`."""
    return _evaluated("move_points", path, points, points.shape[1], 60 * points.size)


def _evaluated(function: str, path: Path, points: np.ndarray, what: object, memory: int) -> np.ndarray:
    with tempfile.TemporaryDirectory() as folder:
        values = Path(folder) / "values.npy"
        np.save(values, points)
        try:
            isolated(
                f"imaging.transform_files.itk_dense:{function}",
                str(path),
                str(values),
                what,
                seconds=_SECONDS,
                memory=memory_to_read(path) + memory,
            )
        except Crashed as error:
            raise InputError(f"{path}: cannot be read ({error}). It may be damaged: save it again.") from error
        except InputError as error:
            raise InputError(f"{path}: {error}") from error
        result = np.load(values)
    if not np.isfinite(result).all():
        raise InputError(f"{path}: leads to places that are not finite. Compute it again.")
    return result


def fill_field(path: str, values: str, geometry: list[list[float]]) -> None:
    """Saves the displacements of a grid as .npy; in a process of its own."""
    size, spacing, origin, direction = geometry
    transform = _of_dimension(path, len(size))
    field = sitk.TransformToDisplacementField(transform, sitk.sitkVectorFloat32, size, origin, spacing, direction)
    np.save(values, sitk.GetArrayViewFromImage(field))


def move_points(path: str, values: str, dimension: int) -> None:
    """Moves the points of an .npy file; in a process of its own."""
    transform = _of_dimension(path, dimension)
    np.save(values, np.array([transform.TransformPoint(p) for p in np.load(values).tolist()]).reshape(-1, dimension))


def _of_dimension(path: str, dimension: int) -> sitk.Transform:
    transform = opened(path)
    if transform.GetDimension() != dimension:
        raise InputError(
            f"holds a {transform.GetDimension()}-D transform, but the images or points are {dimension}-D. Pass a "
            f"{dimension}-D one."
        )
    return transform
