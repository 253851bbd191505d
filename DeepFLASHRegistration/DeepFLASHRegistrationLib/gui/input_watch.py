# SPDX-License-Identifier: Apache-2.0
"""What is chosen may change while it is chosen: its voxels, its transform, its name."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import slicer
import vtk
from slicer.util import VTKObservationMixin

_EVENTS = (
    vtk.vtkCommand.ModifiedEvent,
    slicer.vtkMRMLTransformableNode.TransformModifiedEvent,
    slicer.vtkMRMLVolumeNode.ImageDataModifiedEvent,
    slicer.vtkSegmentation.SourceRepresentationModified,
    slicer.vtkSegmentation.SegmentAdded,
    slicer.vtkSegmentation.SegmentRemoved,
)


class InputWatch(VTKObservationMixin):
    """Observes the chosen nodes."""

    def __init__(self, changed: Callable[[], None]) -> None:
        """`changed` is called whenever one of them changes or any is removed, which may be often."""
        super().__init__()
        self._changed, self._nodes = changed, []

    def setNodes(self, nodes: Iterable[slicer.vtkMRMLNode]) -> None:
        """Observes these nodes instead of the earlier ones."""
        nodes = list(nodes)
        if len(nodes) == len(self._nodes) and all(one is other for one, other in zip(nodes, self._nodes)):
            return
        self.removeObservers()
        self._nodes = nodes
        for node in {id(node): node for node in nodes}.values():
            for event in _EVENTS:
                self.addObserver(node, event, self._onChanged)
        if nodes:  # what comes with a result, such as its velocity, is not chosen but may be deleted
            self.addObserver(nodes[0].GetScene(), slicer.vtkMRMLScene.NodeRemovedEvent, self._onChanged)

    def _onChanged(self, caller: vtk.vtkObject, event: str) -> None:
        self._changed()
