# SPDX-License-Identifier: Apache-2.0
"""The button by which a pair of landmarks is placed: two clicks in a slice that shows the result."""

from __future__ import annotations

from typing import Any

import slicer
from slicer.i18n import tr as _

from ..scene.landmark_pairs import addPair
from .delayed import delayed
from .telling import told


class PairButton:
    """*Add pair* of the .ui file: a line from where the warped volume shows a structure to where it belongs, as Slicer
    places lines, becomes a pair of landmarks that steers."""

    def __init__(self, window: Any) -> None:
        """`window`: the module's widget."""
        self._window = window
        self._line: slicer.vtkMRMLMarkupsLineNode | None = None
        self._later = delayed(self._finish, 0)
        window.ui.pairButton.connect("clicked(bool)", self._onClicked)
        event = slicer.vtkMRMLInteractionNode.InteractionModeChangedEvent
        window.addObserver(slicer.app.applicationLogic().GetInteractionNode(), event, self._onMode)
        window.addObserver(slicer.mrmlScene, slicer.mrmlScene.StartCloseEvent, self._onSceneStartClose)

    def update(self, reason: str) -> None:
        """`reason`: why no pair is of use now, "" if one is."""
        button = self._window.ui.pairButton
        button.enabled, button.toolTip = not reason, reason or button.statusTip
        button.checked = self._line is not None

    def _onClicked(self, checked: bool) -> None:
        mode = slicer.app.applicationLogic().GetInteractionNode()
        if not checked:
            mode.SwitchToViewTransformMode()  # which ends what was begun
            self._later.start()
            return
        self._line = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLMarkupsLineNode", "where it belongs")
        self._line.CreateDefaultDisplayNodes()
        self._line.SetSaveWithScene(False)
        selection = slicer.app.applicationLogic().GetSelectionNode()
        selection.SetReferenceActivePlaceNodeClassName("vtkMRMLMarkupsLineNode")
        selection.SetActivePlaceNodeID(self._line.GetID())
        mode.SetPlaceModePersistence(0)
        mode.SetCurrentInteractionMode(mode.Place)
        self._window.runPanel.status(
            _("Click where the warped volume shows a structure, and then where it belongs in the fixed volume.")
        )

    def _onMode(self, caller: Any, event: Any) -> None:
        if self._line is not None and caller.GetCurrentInteractionMode() != caller.Place:
            self._later.start()  # the second point is not defined yet

    def _finish(self) -> None:
        """The line is placed, or was given up: then nothing is added."""
        line, self._line = self._line, None
        if line is None or line.GetScene() is None:
            return
        ends = [[0.0] * 3 for _end in range(line.GetNumberOfDefinedControlPoints())]
        for index, end in enumerate(ends):
            line.GetNthControlPointPositionWorld(index, end)
        slicer.mrmlScene.RemoveNode(line)
        window, node = self._window, self._window._parameterNode
        window.runPanel.status("")
        if len(ends) == 2 and node is not None and node.transform is not None:
            with told(_("The pair cannot be added.")):
                fixed, moving = addPair(node.inputs(), node.transform, *ends)
                node.fixedMarkups, node.movingMarkups = fixed, moving
                if not window.form.values()["landmark_weight"]:
                    window.onRemedy({"landmark_weight": 1.0})
                count = fixed.GetNumberOfControlPoints()
                window.runPanel.status(_("{count} landmarks. Add more, or refine.").format(count=count))
        window._updateButtons()

    def _onSceneStartClose(self, caller: Any, event: Any) -> None:
        self._line = None
