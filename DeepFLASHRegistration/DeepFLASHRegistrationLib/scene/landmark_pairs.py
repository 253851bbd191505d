# SPDX-License-Identifier: Apache-2.0
"""Pairs of landmarks placed on a result: where it shows a structure, and where that belongs."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import slicer

from ..support.errors import InputError
from .fields import transformedPoints
from .hierarchy import parentOf, placeIn
from .inputs import Inputs
from .translation import tr as _

_POINTS = "vtkMRMLMarkupsFiducialNode"


def addPair(
    inputs: Inputs, transform: slicer.vtkMRMLTransformNode, shown: Sequence[float], belongs: Sequence[float]
) -> tuple[slicer.vtkMRMLMarkupsFiducialNode, slicer.vtkMRMLMarkupsFiducialNode]:
    """Adds a pair to the chosen point lists of both volumes, or to new ones where none is chosen.

    Args:
        inputs: those of the result.
        transform: of the result.
        shown: where the warped volume shows a structure, RAS mm in the world of the fixed volume.
        belongs: where that structure lies in the fixed volume, likewise.

    Returns:
        The lists of the fixed and of the moving volume.

    Raises:
        InputError: what is chosen on a side is no point list.
    """
    chosen = [inputs.fixedMarkups, inputs.movingMarkups]
    for node in chosen:
        if node is not None and not node.IsA(_POINTS):
            raise InputError(
                _("{name} is no point list, so no landmark is added to it. Choose point lists, or none.").format(
                    name=node.GetName()
                )
            )
    lists = [
        node if node is not None else _newList(volume, visible)
        for node, volume, visible in zip(chosen, (inputs.fixedVolume, inputs.movingVolume), (True, False))
    ]
    moving = transformedPoints(transform.GetTransformFromParent(), np.array([shown], dtype=np.float64))[0]
    label = _freeLabel(lists)
    for node, place in zip(lists, (belongs, moving)):
        node.AddControlPointWorld(place, label)
    return lists[0], lists[1]


def _newList(volume: slicer.vtkMRMLScalarVolumeNode, visible: bool) -> slicer.vtkMRMLMarkupsFiducialNode:
    """Points of the moving volume would lie beside what they belong to, where it is shown warped."""
    scene = volume.GetScene()
    node = scene.AddNewNodeByClass(_POINTS, scene.GenerateUniqueName(f"{volume.GetName()} corrections"))
    node.CreateDefaultDisplayNodes()
    if node.GetDisplayNode() is not None:
        node.GetDisplayNode().SetVisibility(visible)
    placeIn(node, parentOf(volume))
    return node


def _freeLabel(lists: Sequence[slicer.vtkMRMLMarkupsNode]) -> str:
    """By their names points belong together."""
    taken = {node.GetNthControlPointLabel(index) for node in lists for index in range(node.GetNumberOfControlPoints())}
    number = 1
    while f"pair {number}" in taken:
        number += 1
    return f"pair {number}"
