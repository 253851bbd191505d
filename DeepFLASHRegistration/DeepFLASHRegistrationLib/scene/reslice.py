# SPDX-License-Identifier: Apache-2.0
"""Nearest neighbor reslicing of label images that lie anywhere onto a grid that lies anywhere."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import slicer
import vtk

from .arrays import arrayFromImage
from .geometry import arrayFromVtkMatrix, ijkToWorld, vtkMatrixFrom


@dataclass(frozen=True)
class Placement:
    """Voxels in the world: (4, 4) from indices (i, j, k) to RAS mm, and how many there are along i, j, k."""

    ijkToWorld: np.ndarray
    dimensions: tuple[int, int, int]


def placementOfVolume(node: slicer.vtkMRMLVolumeNode) -> Placement:
    """Where a volume node's voxels lie in the world."""
    return Placement(ijkToWorld(node), node.GetImageData().GetDimensions())


def placementOfImage(image: slicer.vtkOrientedImageData, world: np.ndarray, shifted: bool = True) -> Placement:
    """Where an oriented image lies, given the matrix of its node to the world.

    Its extent may start anywhere; `shifted` counts indices from the extent's start.
    """
    matrix = vtk.vtkMatrix4x4()
    image.GetImageToWorldMatrix(matrix)
    placed = world @ arrayFromVtkMatrix(matrix)
    if shifted:
        placed[:, 3] = placed @ (*image.GetExtent()[::2], 1)
    return Placement(placed, image.GetDimensions())


def resliced(image: vtk.vtkImageData, ijkToWorldOfImage: np.ndarray, reference: Placement) -> np.ndarray:
    """Array (k, j, i) of the nearest voxels of `image` at the reference's voxels; 0 outside the image."""
    # In index space: the image's own spacing, origin and directions are part of the matrix already.
    plain = vtk.vtkImageData()
    plain.ShallowCopy(image)
    plain.SetSpacing(1, 1, 1)
    plain.SetOrigin(0, 0, 0)
    transform = vtk.vtkTransform()
    transform.SetMatrix(vtkMatrixFrom(np.linalg.inv(ijkToWorldOfImage) @ reference.ijkToWorld))
    reslice = vtk.vtkImageReslice()
    reslice.SetInputData(plain)
    reslice.SetResliceTransform(transform)
    reslice.SetInterpolationModeToNearestNeighbor()
    reslice.SetBackgroundLevel(0)
    reslice.SetOutputSpacing(1, 1, 1)
    reslice.SetOutputOrigin(0, 0, 0)
    reslice.SetOutputExtent(
        0, reference.dimensions[0] - 1, 0, reference.dimensions[1] - 1, 0, reference.dimensions[2] - 1
    )
    reslice.Update()
    return arrayFromImage(reslice.GetOutput()).copy()
