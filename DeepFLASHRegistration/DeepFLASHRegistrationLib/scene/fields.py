# SPDX-License-Identifier: Apache-2.0
"""Displacement fields as the grid transforms of Slicer, and evaluating those."""

from __future__ import annotations

from collections.abc import Generator

import numpy as np
import slicer
import vtk
from vtk.util.numpy_support import numpy_to_vtk, vtk_to_numpy

from ..imaging.grid import Grid
from .arrays import arrayFromImage, atOnce, emptyImage, slabs
from .geometry import LPS_RAS, ijkToRasOfGrid, vtkMatrixFrom

# What a result's transform node carries beside the field: a reference to its exact inverse, and the affine map.
INVERSE_ROLE = "DeepFLASH.inverse"
AFFINE_ATTRIBUTE = "DeepFLASH.affine"  # 16 numbers, row by row, fixed -> moving in RAS mm


def gridTransform(
    field: np.ndarray, grid: Grid, target: Grid | None = None, then: np.ndarray | None = None
) -> slicer.vtkOrientedGridTransform:
    """A displacement field as Slicer's grid transform, in RAS mm.

    Args:
        field: (*grid.shape, d) LPS mm; x of the grid goes to x + field.
        grid: where the field is sampled; a 2-D grid's plane says where in space.
        target: of a 2-D field, the grid in whose plane the images of the points lie (default: the same plane).
        then: (4, 4) in RAS mm, an affine map to apply after the displacement.

    Returns:
        The transform, with the precision of `field` (float32 or float64). Outside the grid VTK repeats the border.
    """
    return atOnce(gridTransformInSteps(field, grid, target, then))


def gridTransformInSteps(
    field: np.ndarray, grid: Grid, target: Grid | None = None, then: np.ndarray | None = None
) -> Generator[None, None, slicer.vtkOrientedGridTransform]:
    """As gridTransform, which it returns at its end; between its steps a window may handle its events."""
    displacement = _inSpace(field, grid, grid if target is None else target)
    matrix = ijkToRasOfGrid(grid)
    if grid.ndim == 2:
        # One slice more on each side: readers of files apply nothing a hair outside of a single one.
        displacement = np.repeat(displacement, 3, axis=grid.slice_axis)
        matrix[:, 3] -= matrix[:, 2 - grid.slice_axis]
    image = emptyImage(displacement.shape, displacement.dtype)
    converted = arrayFromImage(image)
    signs = np.array([-1, -1, 1], displacement.dtype)
    for slab in slabs(displacement):
        np.multiply(displacement[slab], signs, out=converted[slab])
        yield
    if then is not None:
        points = np.moveaxis(np.indices(converted.shape[:3])[::-1], 0, -1) @ matrix[:3, :3].T + matrix[:3, 3]
        converted[:] = (points + converted) @ then[:3, :3].T + then[:3, 3] - points
    spacing = np.linalg.norm(matrix[:3, :3], axis=0)
    image.SetSpacing(spacing)
    image.SetOrigin(matrix[:3, 3])
    transform = slicer.vtkOrientedGridTransform()
    transform.SetDisplacementGridData(image)
    transform.SetGridDirectionMatrix(vtkMatrixFrom(matrix[:3, :3] / spacing))
    transform.SetInterpolationModeToCubic()  # as of transforms that Slicer has read from a file
    return transform


def _inSpace(field: np.ndarray, grid: Grid, target: Grid) -> np.ndarray:
    if grid.ndim == 3:
        return field
    dtype = field.dtype
    axis = grid.slice_axis
    if grid.plane is None:
        return np.expand_dims(np.concatenate([field, np.zeros_like(field[..., :1])], -1), axis)
    points = grid.index_to_physical(np.stack(np.indices(grid.shape), -1))
    return np.expand_dims((target.lift(points + field) - grid.lift(points)).astype(dtype), axis)


def affineInSpace(affine: np.ndarray, grid: Grid, target: Grid) -> np.ndarray:
    """The affine point map of a 2-D or 3-D problem, LPS mm from `grid`'s to `target`'s space, as (4, 4) in RAS mm."""
    if grid.ndim == 2:
        start, end = _frame(grid), _frame(target)
        inPlane = np.eye(4)
        inPlane[:2, :2] = affine[:2, :2]
        inPlane[:2, 3] = affine[:2, 2]
        affine = end @ inPlane @ np.linalg.inv(start)
    return LPS_RAS @ affine @ LPS_RAS


def affineInPlane(matrix: np.ndarray, grid: Grid, target: Grid) -> np.ndarray:
    """The reverse of affineInSpace for 2-D grids: (4, 4) in RAS mm as (3, 3) in-plane mm. What is lost is how far it
    moves points off the planes, which may lie at different depths.

    Raises:
        ValueError: it turns the one plane out of the other.
    """
    matrix = np.linalg.inv(_frame(target)) @ LPS_RAS @ matrix @ LPS_RAS @ _frame(grid)
    if np.abs(matrix[2, :2]).max() > 1e-3:
        raise ValueError("The planes are not parallel after this transform.")
    return matrix[np.ix_((0, 1, 3), (0, 1, 3))]


def _frame(grid: Grid) -> np.ndarray:
    """(4, 4) from in-plane mm and the height above the plane to LPS mm."""
    frame = np.eye(4)
    if grid.plane is not None:
        frame[:3, :2] = grid.plane[:3, :2]
        frame[:3, 2] = grid.normal
        frame[:3, 3] = grid.plane[:3, 2]
    return frame


def transformedPoints(transform: vtk.vtkAbstractTransform, points: np.ndarray) -> np.ndarray:
    """(N, 3) float64 RAS points through a transform."""
    source = vtk.vtkPoints()
    source.SetData(numpy_to_vtk(np.ascontiguousarray(points, dtype=np.float64), deep=True))
    moved = vtk.vtkPoints()
    moved.SetDataTypeToDouble()
    transform.TransformPoints(source, moved)
    return vtk_to_numpy(moved.GetData()).copy()
