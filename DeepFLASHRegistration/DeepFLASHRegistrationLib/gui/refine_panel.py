# SPDX-License-Identifier: Apache-2.0
"""The buttons that correct a result: on from it, and back to what it was before."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import slicer
from slicer.i18n import tr as _

from ..scene.checks import Check
from ..scene.refining import cannotRefine
from ..scene.runs import RegistrationRun
from .pair_button import PairButton
from .telling import told


class RefinePanel:
    """*Add pair*, *Refine* and *Undo* of the .ui file. What was before the last refinement is kept in memory, until the
    result is written anew or the scene is closed."""

    def __init__(self, window: Any) -> None:
        """`window`: the module's widget."""
        self._window = window
        self._last: RegistrationRun | None = None
        self._changed = ""
        self._pair = PairButton(window)
        window.ui.refineButton.connect("clicked(bool)", lambda checked: self._refine())
        window.ui.undoButton.connect("clicked(bool)", lambda checked: self._undo())
        window.addObserver(slicer.mrmlScene, slicer.mrmlScene.StartCloseEvent, self._onSceneStartClose)

    def setChanged(self, checks: Sequence[Check]) -> None:
        """What is said of volumes that are not what they were when they were registered."""
        self._changed = checks[0].text if checks else ""

    def setLast(self, run: RegistrationRun) -> None:
        """The registration whose result has just been written."""
        self._last = run if run.canBeUndone else None

    def update(self, missing: str) -> None:
        """Buttons that cannot be pressed say why; `missing`: why no registration can begin."""
        refine, undo = self._window.ui.refineButton, self._window.ui.undoButton
        reasons = [self._reason(missing), "" if self._canUndo else _("Nothing was refined since. Refine first.")]
        if self._window.runPanel.busy:
            reasons = [_("Something is being computed. Wait for its end.")] * 2
        self._pair.update(reasons[0])
        for button, reason in zip((refine, undo), reasons):
            button.enabled = not reason
            button.toolTip = reason or button.statusTip

    def _reason(self, missing: str) -> str:
        node = self._window._parameterNode
        if node is None or node.transform is None:
            return _("There is no result yet. Register first.")
        return missing or cannotRefine(node.transform, node.inputs(), self._window.form.parameters()) or self._changed

    @property
    def _canUndo(self) -> bool:
        """Whether the result that is shown is that of the last refinement."""
        node, last = self._window._parameterNode, self._last
        return node is not None and last is not None and last.canBeUndone and last.nodes.transform is node.transform

    def _refine(self) -> None:
        window = self._window
        transform = window._parameterNode.transform
        window.machinePanel.whenIdle(lambda: window._register(transform), window.runPanel.status)
        window._updateButtons()

    def _undo(self) -> None:
        window, run = self._window, self._last
        window.displays.clear()  # what is shown of a result changes how its nodes are displayed
        with told(_("The refinement cannot be undone.")):
            run.undo()
            window.runPanel.status(_("Undone. The result is what it was before it was refined."))
        self._last = None
        window.update()
        window.displays.showResult()

    def _onSceneStartClose(self, caller: Any, event: Any) -> None:
        self._last = None
