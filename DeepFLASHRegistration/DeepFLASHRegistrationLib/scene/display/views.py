# SPDX-License-Identifier: Apache-2.0
"""The slice views of a scene, as far as nodes know them."""

from __future__ import annotations

import slicer

from ..translation import tr as _
from .changes import Changes

OWN_VIEW = "DeepFLASH"  # layout names of the views made here begin with it


def nodesOfClass(scene: slicer.vtkMRMLScene, className: str) -> list[slicer.vtkMRMLNode]:
    """All nodes of a class."""
    return [scene.GetNthNodeByClass(index, className) for index in range(scene.GetNumberOfNodesByClass(className))]


def userComposites(scene: slicer.vtkMRMLScene) -> list[slicer.vtkMRMLSliceCompositeNode]:
    """What says which volumes the user's slice views show; none without a window."""
    return [
        node
        for node in nodesOfClass(scene, "vtkMRMLSliceCompositeNode")
        if not (node.GetLayoutName() or "").startswith(OWN_VIEW)
    ]


def userSliceNodes(scene: slicer.vtkMRMLScene) -> list[slicer.vtkMRMLSliceNode]:
    """Where the user's slice views are."""
    return [
        node
        for node in nodesOfClass(scene, "vtkMRMLSliceNode")
        if not (node.GetLayoutName() or "").startswith(OWN_VIEW)
    ]


def setForegroundOpacity(changes: Changes, scene: slicer.vtkMRMLScene, opacity: float) -> None:
    """How much is seen of the foreground of the user's slice views, 0 to 1."""
    for composite in userComposites(scene):
        changes.set(composite, "ForegroundOpacity", opacity)


def showLayout(changes: Changes, scene: slicer.vtkMRMLScene, number: int, description: str) -> None:
    """Arranges the views as the XML text says, under a number that no other layout has.

    Raises:
        RuntimeError: there are no views to arrange.
    """
    layout = addLayout(scene, number, description)
    if layout is None:
        raise RuntimeError(_("There are no views to show this in."))
    if layout.GetViewArrangement() == number:  # from a scene that was saved while this was shown: not the user's own
        layout.SetViewArrangement(slicer.vtkMRMLLayoutNode.SlicerLayoutConventionalView)
    changes.set(layout, "ViewArrangement", number)
    application = getattr(slicer, "app", None)  # none in scripts that have no window
    if application is not None:
        import qt

        # A slice view that is new moves to the offset 0 in the first turn of the event loop: before it is placed.
        application.processEvents(qt.QEventLoop.ExcludeUserInputEvents)


def addLayout(scene: slicer.vtkMRMLScene, number: int, description: str) -> slicer.vtkMRMLLayoutNode | None:
    """Makes a layout known by its number; None where there are no views."""
    layout = scene.GetFirstNodeByClass("vtkMRMLLayoutNode")
    if layout is None:
        return None
    if not layout.IsLayoutDescription(number):
        layout.AddLayoutDescription(number, description)
    layout.SetLayoutDescription(number, description)
    return layout
