# SPDX-License-Identifier: Apache-2.0
"""Outlines of propagated against fixed segments."""

from __future__ import annotations

import slicer

from ..labels import labelsFromNode
from ..propagation import segmentationOfLabels
from .toggle import Toggle
from .views import nodesOfClass

PROPAGATED_WIDTH, FIXED_WIDTH = 3, 1
_LIGHTER = 0.65  # how much white the fixed outlines get


def lighter(color: tuple[float, float, float]) -> tuple[float, float, float]:
    """The color of the fixed outline of a segment of `color`."""
    return tuple(channel + (1 - channel) * _LIGHTER for channel in color)


class Outlines(Toggle):
    """Propagated segments as thick outlines in their colors, fixed ones as thin outlines in lighter colors.

    Where they agree, the thin line runs in the middle of the thick one.
    """

    def __init__(self, propagated: slicer.vtkMRMLNode, fixed: slicer.vtkMRMLNode) -> None:
        """Each a segmentation or a label map volume."""
        super().__init__(propagated.GetScene())
        self.propagated, self.fixed = propagated, fixed

    def _show(self) -> None:
        propagated, fixed = self._segmentation(self.propagated), self._segmentation(self.fixed)
        with self.changes.together():  # each change of a display would draw all its segments anew
            self._outlineBoth(propagated, fixed)

    def _outlineBoth(self, propagated: slicer.vtkMRMLSegmentationNode, fixed: slicer.vtkMRMLSegmentationNode) -> None:
        # All others, the moving one above all, would cover these or be taken for them.
        for other in nodesOfClass(self.scene, "vtkMRMLSegmentationDisplayNode"):
            if other not in (propagated.GetDisplayNode(), fixed.GetDisplayNode()) and other.GetVisibility():
                self.changes.set(other, "Visibility", 0)
        self._outline(propagated, PROPAGATED_WIDTH)
        self._outline(fixed, FIXED_WIDTH)
        display = fixed.GetDisplayNode()
        for identifier in fixed.GetSegmentation().GetSegmentIDs():
            color = fixed.GetSegmentation().GetSegment(identifier).GetColor()
            self.changes.set(display, "SegmentOverrideColor", *lighter(color), key=(identifier,))

    def _segmentation(self, node: slicer.vtkMRMLNode) -> slicer.vtkMRMLSegmentationNode:
        if node.IsA("vtkMRMLSegmentationNode"):
            node.CreateDefaultDisplayNodes()
            return node
        labels = labelsFromNode(node)
        colors = node.GetDisplayNode().GetColorNode() if node.GetDisplayNode() is not None else None
        copy = self.temporary("vtkMRMLSegmentationNode", f"{node.GetName()} outlines")
        copy.CreateDefaultDisplayNodes()  # first: it looks for each segment's color when that is added
        copy.SetAndObserveSegmentation(segmentationOfLabels(labels, colors))
        return copy

    def _outline(self, node: slicer.vtkMRMLSegmentationNode, width: int) -> None:
        display = node.GetDisplayNode()
        for name, value in (
            ("Visibility", 1),
            ("Visibility2D", 1),
            ("Visibility2DFill", 0),
            ("Visibility2DOutline", 1),
            ("Opacity", 1.0),
            ("Opacity2DOutline", 1.0),
            ("SliceIntersectionThickness", width),
        ):
            self.changes.set(display, name, value)
