# SPDX-License-Identifier: Apache-2.0
"""A transform node of any kind as a map from the fixed to the moving image."""

from __future__ import annotations

import numpy as np
import slicer
import vtk

from ..imaging.grid import Grid
from ..problem.known_transform import SampledTransform
from ..support.errors import InputError
from .fields import transformedPoints
from .geometry import LPS_RAS, arrayFromVtkMatrix
from .translation import tr as _

# Points at which a transform is asked for; between them it counts as linear.
_MOST_POINTS = 1_000_000


def sampledTransform(node: slicer.vtkMRMLTransformNode, fixed: Grid, moving: Grid) -> SampledTransform:
    """What takes points of the fixed to the moving image, of a node that lays the moving volume on the fixed one where
    it is applied to it: linear, grid, B-spline, thin plate or several of them, whatever is above it.

    Args:
        fixed, moving: the grids of the images; of slices with their planes.

    Raises:
        InputError: it changes nothing.
    """
    general = vtk.vtkGeneralTransform()
    node.GetTransformFromWorld(general)
    steps = _steps(general)
    if not steps:
        raise InputError(_("The transform {name} changes nothing. Choose another one.").format(name=node.GetName()))
    factor = max(1.0, (fixed.size / _MOST_POINTS) ** (1 / fixed.ndim))
    grid = fixed.resampled(factor=factor) if factor > 1 else fixed
    points = grid.index_to_physical(np.stack(np.indices(grid.shape), -1).reshape(-1, grid.ndim))
    lifted = points if fixed.plane is None else fixed.lift(points)
    ras, there = lifted * LPS_RAS.diagonal()[:3], np.ones(len(points), dtype=bool)
    for step in steps:
        there &= _within(step, ras)
        ras = transformedPoints(step, ras)
    to = ras * LPS_RAS.diagonal()[:3]
    to = to if moving.plane is None else moving.project(to)
    displacement = (to - points).reshape(*grid.shape, grid.ndim)
    there &= np.isfinite(to).all(-1)
    linear = _lastLinear(steps) if fixed.ndim == 3 else None
    return SampledTransform(node.GetName(), grid, displacement, there.reshape(grid.shape), linear)


def _steps(general: vtk.vtkGeneralTransform) -> list[vtk.vtkAbstractTransform]:
    """The transforms that points go through, in that order."""
    found = vtk.vtkCollection()
    slicer.vtkMRMLTransformNode.FlattenGeneralTransform(found, general)
    return [found.GetItemAsObject(index) for index in range(found.GetNumberOfItems())]


def _within(step: vtk.vtkAbstractTransform, points: np.ndarray) -> np.ndarray:
    """Where a field says anything: VTK repeats its border outside. Of its inverse, which starts from the other side,
    that cannot be told."""
    if not isinstance(step, slicer.vtkOrientedGridTransform) or step.GetInverseFlag():
        return np.ones(len(points), dtype=bool)
    image = step.GetDisplacementGrid()
    matrix = np.eye(4) if step.GetGridDirectionMatrix() is None else arrayFromVtkMatrix(step.GetGridDirectionMatrix())
    axes = matrix[:3, :3] * image.GetSpacing()
    index = (points - image.GetOrigin()) @ np.linalg.inv(axes).T
    return ((index >= -0.5) & (index <= np.array(image.GetDimensions()) - 0.5)).all(-1)


def _lastLinear(steps: list[vtk.vtkAbstractTransform]) -> np.ndarray | None:
    """The product of the linear ones at the end, LPS mm, where nothing linear comes before the rest."""
    linear = [isinstance(step, vtk.vtkLinearTransform) for step in steps]
    count = linear.index(True) if True in linear else len(steps)
    if count == len(steps) or not all(linear[count:]):
        return None
    matrix = np.eye(4)
    for step in steps[count:]:
        matrix = arrayFromVtkMatrix(step.GetMatrix()) @ matrix
    return LPS_RAS @ matrix @ LPS_RAS
