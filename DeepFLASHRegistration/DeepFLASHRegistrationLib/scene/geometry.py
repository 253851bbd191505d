# SPDX-License-Identifier: Apache-2.0
"""Where nodes lie in the world, as Grids; and Grids as the matrices that nodes want."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import slicer
import vtk

from ..imaging.grid import Grid
from ..support.errors import InputError
from .translation import tr as _

LPS_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])  # its own inverse


def vtkMatrixFrom(array: np.ndarray) -> vtk.vtkMatrix4x4:
    """A (4, 4) or (3, 3) array as vtkMatrix4x4 (the latter as its rotation part)."""
    array = np.asarray(array, dtype=np.float64)
    matrix = vtk.vtkMatrix4x4()
    for row in range(array.shape[0]):
        for column in range(array.shape[1]):
            matrix.SetElement(row, column, array[row, column])
    return matrix


def arrayFromVtkMatrix(matrix: vtk.vtkMatrix4x4) -> np.ndarray:
    """A vtkMatrix4x4 as (4, 4) float64."""
    return np.array([[matrix.GetElement(row, column) for column in range(4)] for row in range(4)])


def toWorld(node: slicer.vtkMRMLTransformableNode) -> np.ndarray:
    """(4, 4) matrix from the node's own RAS to the world's RAS: its chain of parent transforms.

    Raises:
        InputError: if a parent is not linear.
    """
    parent = node.GetParentTransformNode()
    if parent is None:
        return np.eye(4)
    if not parent.IsTransformToWorldLinear():
        raise InputError(
            _(
                "{name} is under the non-linear transform {parent}. Harden that transform on a copy of it, or take it "
                "out of the transform, and register that."
            ).format(name=node.GetName(), parent=parent.GetName())
        )
    matrix = vtk.vtkMatrix4x4()
    parent.GetMatrixTransformToWorld(matrix)
    return arrayFromVtkMatrix(matrix)


def checkLinear(initial: slicer.vtkMRMLTransformNode) -> None:
    """InputError if an initial transform, or one above it, is not linear."""
    if not initial.IsTransformToWorldLinear():
        raise InputError(
            _("The initial transform {name} is not linear. Choose a linear one.").format(name=initial.GetName())
        )


def ijkToWorld(volumeNode: slicer.vtkMRMLVolumeNode) -> np.ndarray:
    """(4, 4) matrix from a volume's voxel indices (i, j, k) to the world's RAS mm, linear parents included."""
    matrix = vtk.vtkMatrix4x4()
    volumeNode.GetIJKToRASMatrix(matrix)
    return toWorld(volumeNode) @ arrayFromVtkMatrix(matrix)


def gridFromIjkToRas(matrix: np.ndarray, dimensions: tuple[int, int, int], name: str) -> Grid:
    """The Grid of voxels with `dimensions` (i, j, k), placed by `matrix` (4, 4); a single slice gives a 2-D Grid."""
    affine = LPS_RAS @ matrix
    affine[:, :3] = affine[:, 2::-1]
    try:
        grid = Grid(tuple(dimensions[::-1]), affine)
    except ValueError as error:
        raise InputError(f"{name}: {error}") from error
    return grid.flattened() if 1 in grid.shape else grid


def gridFromVolume(volumeNode: slicer.vtkMRMLVolumeNode) -> Grid:
    """The Grid of a volume node in the world; of a single slice the 2-D Grid with its plane.

    Raises:
        InputError: if the node is empty, is under a non-linear transform, or its axes are sheared.
    """
    image = volumeNode.GetImageData()
    if image is None or image.GetNumberOfPoints() == 0:
        raise InputError(_("{name} holds no voxels. Choose a volume that is loaded.").format(name=volumeNode.GetName()))
    return gridFromIjkToRas(ijkToWorld(volumeNode), image.GetDimensions(), volumeNode.GetName())


def inSpace(grid: Grid) -> Grid:
    """The 3-D Grid: itself, or one slice for a 2-D Grid (in its plane; without one at height 0, 1 mm thick)."""
    if grid.ndim == 3:
        return grid
    if grid.plane is None:
        grid = replace(grid, plane=np.eye(4)[:, [0, 1, 3]])
    return grid.lifted()


def ijkToRasOfGrid(grid: Grid) -> np.ndarray:
    """(4, 4) matrix from voxel indices (i, j, k) of the grid (in space) to RAS mm."""
    matrix = LPS_RAS @ inSpace(grid).affine
    matrix[:, :3] = matrix[:, 2::-1]
    return matrix
