# SPDX-License-Identifier: Apache-2.0
"""The button that leads to the comparison of methods, and what is shown of it in the module's window."""

from __future__ import annotations

from typing import Any

import slicer

from ..scene.outputs import OutputNodes
from .compare_dialog import CompareDialog


class ComparePanel:
    """*Compare methods…* of the .ui file.

    Attributes:
        dialog: what it opens.
    """

    def __init__(self, window: Any) -> None:
        """`window`: the module's widget."""
        self._window = window
        button = window.ui.compareButton
        self.dialog = CompareDialog(button, window.logic, self._show)  # gone with its button
        button.connect("clicked(bool)", lambda checked: self._open())
        window.addObserver(slicer.mrmlScene, slicer.mrmlScene.StartCloseEvent, self._onSceneStartClose)

    def _onSceneStartClose(self, caller: Any, event: Any) -> None:
        self.dialog.close()

    def _open(self) -> None:
        node = self._window._parameterNode
        if node:
            self.dialog.open(node.inputs(), self._window.form.parameters())

    def _show(self, nodes: OutputNodes) -> None:
        """Shows one of the results as if it were the last one."""
        window = self._window
        if window._parameterNode:
            window._parameterNode.setOutputs(nodes)
            window.update()
            window.displays.showResult()
            window.ui.displayCollapsibleButton.collapsed = window.ui.reportCollapsibleButton.collapsed = False
