# SPDX-License-Identifier: Apache-2.0
"""Outlines of propagated against fixed segments."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import slicer

from ..labels import labelsFromNode
from ..propagation import segmentationOfLabels
from .toggle import Toggle
from .views import nodesOfClass

PROPAGATED_WIDTH, FIXED_WIDTH = 3, 1
_LIGHTER = 0.65  # how much white the fixed outlines get


def lighter(color: Sequence[float]) -> tuple[float, ...]:
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

    def hide(self) -> None:
        """Takes them away."""
        copies = [node.GetSegmentation() for node in self._temporary]
        super().hide()
        for copy in copies:  # else each segment, as it goes, would be erased from the label map that they share
            for identifier in copy.GetSegmentIDs():
                copy.GetSegment(identifier).RemoveAllRepresentations()

    def _show(self) -> None:
        with self.changes.together():  # each change of a display would draw all its segments anew
            displays = [
                self._outlined(self.propagated, PROPAGATED_WIDTH, tuple),
                self._outlined(self.fixed, FIXED_WIDTH, lighter),
            ]
            # All others, the moving one above all, would cover these or be taken for them.
            for other in nodesOfClass(self.scene, "vtkMRMLSegmentationDisplayNode"):
                if other not in displays and other.GetVisibility():
                    self.changes.set(other, "Visibility", 0)

    def _outlined(
        self, node: slicer.vtkMRMLNode, width: int, shade: Callable[[Sequence[float]], Sequence[float]]
    ) -> slicer.vtkMRMLSegmentationDisplayNode:
        if not node.IsA("vtkMRMLSegmentationNode"):
            return self._copied(node, width, shade)
        node.CreateDefaultDisplayNodes()
        display, segmentation = node.GetDisplayNode(), node.GetSegmentation()
        for name, value in _look(width):
            self.changes.set(display, name, value)
        for identifier in segmentation.GetSegmentIDs():
            color = segmentation.GetSegment(identifier).GetColor()
            if (shaded := tuple(shade(color))) != tuple(color):
                self.changes.set(display, "SegmentOverrideColor", *shaded, key=(identifier,))
        return display

    def _copied(
        self,
        node: slicer.vtkMRMLLabelMapVolumeNode,
        width: int,
        shade: Callable[[Sequence[float]], Sequence[float]],
    ) -> slicer.vtkMRMLSegmentationDisplayNode:
        labels = labelsFromNode(node)
        colors = node.GetDisplayNode().GetColorNode() if node.GetDisplayNode() is not None else None
        copy = self.temporary("vtkMRMLSegmentationNode", f"{node.GetName()} outlines")
        # What changes of a display that has segments makes Slicer list these one by one, and take them off again later,
        # a hundredth of a second each: so it is ready before it gets them.
        display = self.scene.AddNewNodeByClass("vtkMRMLSegmentationDisplayNode")
        for name, value in _look(width):
            getattr(display, f"Set{name}")(value)
        copy.SetAndObserveDisplayNodeID(display.GetID())
        copy.SetAndObserveSegmentation(segmentationOfLabels(labels, colors, shade))
        return display


def _look(width: int) -> tuple[tuple[str, Any], ...]:
    """Of outlines and nothing else: properties of a segmentation's display."""
    return (
        ("Visibility", 1),
        ("Visibility2D", 1),
        ("Visibility2DFill", 0),
        ("Visibility2DOutline", 1),
        ("Opacity", 1.0),
        ("Opacity2DOutline", 1.0),
        ("SliceIntersectionThickness", width),
    )
