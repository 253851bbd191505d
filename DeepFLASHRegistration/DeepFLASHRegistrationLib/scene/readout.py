# SPDX-License-Identifier: Apache-2.0
"""What a result says of one point of the fixed image."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import slicer
import vtk

from .fields import AFFINE_ATTRIBUTE
from .geometry import ijkToWorld, toWorld
from .labels import nameOfLabel


@dataclass(frozen=True)
class Reading:
    """At one point; None where the result does not hold it.

    Attributes:
        displacement: mm to its partner in the moving image, the linear alignment included.
        deformation: mm of that beyond the alignment.
        determinant: how many times as large tissue is in the moving image; NaN where it folds.
        segments: names of the propagated segments there, None without a segmentation.
    """

    displacement: float | None = None
    deformation: float | None = None
    determinant: float | None = None
    segments: tuple[str, ...] | None = None


def read(
    ras: np.ndarray,
    fixedVolume: slicer.vtkMRMLScalarVolumeNode,
    transform: slicer.vtkMRMLTransformNode | None = None,
    logJacobianVolume: slicer.vtkMRMLScalarVolumeNode | None = None,
    segmentation: slicer.vtkMRMLNode | None = None,
) -> Reading | None:
    """The values at a point of the world, in RAS mm; None outside the fixed volume. The nodes may be gone or empty."""
    if _voxel(fixedVolume, ras) is None:
        return None
    displacement = deformation = determinant = None
    if transform is not None and transform.GetScene() is not None:
        there = np.array(transform.GetTransformFromParent().TransformPoint(ras))
        displacement = float(np.linalg.norm(there - ras))
        text = transform.GetAttribute(AFFINE_ATTRIBUTE)
        if text:
            aligned = np.array([float(value) for value in text.split()]).reshape(4, 4) @ [*ras, 1]
            deformation = float(np.linalg.norm(there - aligned[:3]))
    voxel = _voxel(logJacobianVolume, ras)
    if voxel is not None:
        value = logJacobianVolume.GetImageData().GetScalarComponentAsDouble(*voxel, 0)
        determinant = math.exp(value) if math.isfinite(value) else math.nan
    return Reading(displacement, deformation, determinant, _segments(segmentation, ras))


def _voxel(volume: slicer.vtkMRMLVolumeNode | None, ras: np.ndarray) -> tuple[int, int, int] | None:
    """(i, j, k) of the voxel at a point; None beside the volume, or without one."""
    if volume is None or volume.GetScene() is None or volume.GetImageData() is None:
        return None
    return _inside(volume.GetImageData(), np.linalg.inv(ijkToWorld(volume)), ras)


def _inside(image: vtk.vtkImageData, toIndex: np.ndarray, ras: np.ndarray) -> tuple[int, int, int] | None:
    index = np.rint((toIndex @ [*ras, 1])[:3]).astype(int)
    extent = np.array(image.GetExtent()).reshape(3, 2)
    inside = (extent[:, 0] <= index).all() and (index <= extent[:, 1]).all()
    return tuple(int(i) for i in index) if inside else None


def _segments(node: slicer.vtkMRMLNode | None, ras: np.ndarray) -> tuple[str, ...] | None:
    if node is None or node.GetScene() is None:
        return None
    if node.IsA("vtkMRMLLabelMapVolumeNode"):
        voxel = _voxel(node, ras)
        label = 0 if voxel is None else int(node.GetImageData().GetScalarComponentAsDouble(*voxel, 0))
        return (nameOfLabel(node, label),) if label else ()
    own = np.linalg.inv(toWorld(node)) @ [*ras, 1]
    name = slicer.vtkSegmentationConverter.GetSegmentationBinaryLabelmapRepresentationName()
    segmentation, found = node.GetSegmentation(), []
    matrix = vtk.vtkMatrix4x4()
    for identifier in segmentation.GetSegmentIDs():
        segment = segmentation.GetSegment(identifier)
        image = segment.GetRepresentation(name)
        if image is None or image.GetNumberOfPoints() == 0:
            continue
        image.GetWorldToImageMatrix(matrix)
        voxel = _inside(image, np.eye(4), matrix.MultiplyPoint(own)[:3])
        if voxel is not None and image.GetScalarComponentAsDouble(*voxel, 0) == segment.GetLabelValue():
            found.append(segment.GetName())
    return tuple(found)
