# SPDX-License-Identifier: Apache-2.0
"""The nodes of a registration."""

from __future__ import annotations

from dataclasses import dataclass, fields

import slicer


@dataclass
class Inputs:
    """The nodes that are registered; all but fixedVolume and movingVolume may be None. None is ever changed.

    Segmentations may be segmentations or label map volumes; masks also scalar volumes (inside where not 0). The
    segmentation, markups and model of the moving volume are carried to the fixed one; those of the fixed volume are
    compared with them. initialTransform is a linear one that would move the moving volume near the fixed one. Channels
    are further images of the same subjects (T2 beside T1, dose beside CT), compared besides.
    """

    fixedVolume: slicer.vtkMRMLScalarVolumeNode | None = None
    movingVolume: slicer.vtkMRMLScalarVolumeNode | None = None
    movingSegmentation: slicer.vtkMRMLNode | None = None
    fixedSegmentation: slicer.vtkMRMLNode | None = None
    fixedMask: slicer.vtkMRMLNode | None = None
    movingMask: slicer.vtkMRMLNode | None = None
    fixedMarkups: slicer.vtkMRMLMarkupsNode | None = None
    movingMarkups: slicer.vtkMRMLMarkupsNode | None = None
    movingModel: slicer.vtkMRMLModelNode | None = None
    initialTransform: slicer.vtkMRMLTransformNode | None = None
    fixedChannel: slicer.vtkMRMLScalarVolumeNode | None = None
    movingChannel: slicer.vtkMRMLScalarVolumeNode | None = None

    def nodes(self) -> dict[str, slicer.vtkMRMLNode]:
        """The chosen nodes by name."""
        return {each.name: getattr(self, each.name) for each in fields(self) if getattr(self, each.name) is not None}


def onlyPair(scene: slicer.vtkMRMLScene) -> tuple[slicer.vtkMRMLNode | None, slicer.vtkMRMLNode | None]:
    """Fixed and moving volume of a scene that holds two images and no more, else (None, None).

    A name that says which it is decides; else the one that was loaded first is fixed.
    """
    count = scene.GetNumberOfNodesByClass("vtkMRMLScalarVolumeNode")
    nodes = [scene.GetNthNodeByClass(index, "vtkMRMLScalarVolumeNode") for index in range(count)]
    images = [
        node
        for node in nodes
        if not node.IsA("vtkMRMLLabelMapVolumeNode")
        and not node.GetHideFromEditors()
        and node.GetImageData() is not None
    ]
    if len(images) != 2:
        return None, None
    first, second = images
    named = [[word in node.GetName().lower() for word in ("fixed", "moving")] for node in images]
    return (second, first) if named[0] == [False, True] or named[1] == [True, False] else (first, second)
