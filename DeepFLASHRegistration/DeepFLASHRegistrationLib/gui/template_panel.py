# SPDX-License-Identifier: Apache-2.0
"""The section that shows a template that was made outside, and its subjects."""

from __future__ import annotations

from typing import Any

import qt
import slicer
from slicer.i18n import tr as _

from ..scene.templates import SubjectRun, TemplateNodes
from .result_table import ResultTable
from .telling import told


class TemplatePanel:
    """*Template* of the .ui file: the folder, the subjects with their verdicts, and the one that is shown.

    Attributes:
        template: what was loaded last; None before.
    """

    def __init__(self, window: Any) -> None:
        """`window`: the module's widget."""
        self._window = window
        self.template: TemplateNodes | None = None
        self._subjects = ResultTable(window.ui.templateTableView)
        window.ui.templateTableView.setSelectionMode(qt.QAbstractItemView.SingleSelection)
        window.ui.templateTableView.connect("doubleClicked(QModelIndex)", lambda index: self._show())
        window.ui.templateTableView.connect("clicked(QModelIndex)", lambda index: self.update())
        window.ui.templateLoadButton.connect("clicked(bool)", lambda checked: self._load())
        window.ui.templateSubjectButton.connect("clicked(bool)", lambda checked: self._show())
        window.addObserver(slicer.mrmlScene, slicer.mrmlScene.StartCloseEvent, self._onSceneStartClose)
        self._subjects.setTable(None)

    def update(self) -> None:
        """The button says why it cannot be pressed."""
        ui, reason = self._window.ui, ""
        if self.template is None:
            reason = _("No template is loaded. Load one.")
        elif self._window.runPanel.busy:
            reason = _("Something is being computed. Wait for its end.")
        elif not self._subjects.selected():
            reason = _("Choose a subject in the table.")
        ui.templateSubjectButton.enabled = not reason
        ui.templateSubjectButton.toolTip = reason or ui.templateSubjectButton.statusTip

    def chooseFolder(self) -> str:
        """Asks for a folder; "" if none was chosen."""
        title = _("A folder written by deepflash template")
        return qt.QFileDialog.getExistingDirectory(slicer.util.mainWindow(), title)

    def _load(self) -> None:
        if folder := self.chooseFolder():
            with told(_("The template cannot be loaded.")):
                self.template = self._window.logic.loadTemplate(folder)
                self._subjects.setTable(self.template.table)
                slicer.util.setSliceViewerLayers(background=self.template.volume, foreground=None, fit=True)
        self._window._updateButtons()

    def _show(self) -> None:
        window, name = self._window, self._subjects.selected()
        if self.template is not None and name:
            window.machinePanel.whenIdle(lambda: self._begin(name), window.runPanel.status)
        window._updateButtons()

    def _begin(self, name: str) -> bool:
        """Chooses the template and the subject, and starts what shows it; whether that was possible."""
        window, started, node = self._window, False, self._window._parameterNode
        if node and self.template is not None:  # the scene may have been closed meanwhile
            with told(_("The subject cannot be shown.")):
                run = SubjectRun(self.template, name, None, *window.logic.machine.choice()[:2])
                inputs = run.inputs
                node.fixedVolume, node.movingVolume = inputs.fixedVolume, inputs.movingVolume
                node.fixedSegmentation, node.movingSegmentation = inputs.fixedSegmentation, inputs.movingSegmentation
                run.outputs = node.outputsToWrite()
                started = window.runPanel.start(run)
        window._updateButtons()
        return started

    def _onSceneStartClose(self, caller: Any, event: Any) -> None:
        self.template = None
        self._subjects.setTable(None)
