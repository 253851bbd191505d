# SPDX-License-Identifier: Apache-2.0
"""Landmarks and surfaces of the moving image, carried to the fixed image as new nodes."""

from __future__ import annotations

import numpy as np
import slicer
import vtk
from vtk.util.numpy_support import numpy_to_vtk, vtk_to_numpy

from ..support.errors import InputError
from .appearance import copyLook
from .fields import transformedPoints
from .geometry import toWorld
from .translation import tr as _


def carriedMarkups(
    source: slicer.vtkMRMLMarkupsNode, target: slicer.vtkMRMLMarkupsNode, movingToFixed: vtk.vtkAbstractTransform
) -> None:
    """Makes `target` a copy of `source` (labels, descriptions, look) with its points carried; RAS point map."""
    matrix = toWorld(source)
    target.SetAndObserveTransformNodeID(None)
    target.CopyContent(source, True)
    points = np.array([source.GetNthControlPointPosition(index) for index in range(source.GetNumberOfControlPoints())])
    moved = transformedPoints(movingToFixed, points.reshape(-1, 3) @ matrix[:3, :3].T + matrix[:3, 3])
    modifying = target.StartModify()
    for index, point in enumerate(moved):
        if source.GetNthControlPointPositionStatus(index) == slicer.vtkMRMLMarkupsNode.PositionDefined:
            target.SetNthControlPointPosition(index, *point)
    target.EndModify(modifying)
    copyLook(source, target)


def carriedModel(
    source: slicer.vtkMRMLModelNode, target: slicer.vtkMRMLModelNode, movingToFixed: vtk.vtkAbstractTransform
) -> None:
    """Makes `target` the surface of `source` with its vertices carried; RAS point map."""
    original, matrix = meshOf(source), toWorld(source)
    mesh = original.NewInstance()
    mesh.DeepCopy(original)
    vertices = vtk_to_numpy(mesh.GetPoints().GetData()) @ matrix[:3, :3].T + matrix[:3, 3]
    points = vtk.vtkPoints()
    points.SetData(numpy_to_vtk(transformedPoints(movingToFixed, vertices).astype(np.float32), deep=True))
    mesh.SetPoints(points)
    # Normals of the old shape would shade the new one wrongly.
    mesh.GetPointData().SetNormals(None)
    mesh.GetCellData().SetNormals(None)
    target.SetAndObserveTransformNodeID(None)
    target.SetAndObserveMesh(mesh)
    copyLook(source, target)


def meshOf(model: slicer.vtkMRMLModelNode) -> vtk.vtkPointSet:
    """The mesh of a model that can be carried.

    Raises:
        InputError: it is empty, or lies under a non-linear transform.
    """
    mesh = model.GetMesh()
    if mesh is None or mesh.GetNumberOfPoints() == 0:
        raise InputError(_("{model} holds no points. Choose a model that is loaded.").format(model=model.GetName()))
    toWorld(model)
    return mesh
