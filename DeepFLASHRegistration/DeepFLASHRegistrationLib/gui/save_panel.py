# SPDX-License-Identifier: Apache-2.0
"""The buttons below the tables: the files of a result, and the console call that does what the window would do."""

from __future__ import annotations

from typing import Any

import qt
import slicer
from slicer.i18n import tr as _

from ..process.runner import Run
from ..scene.as_python import pythonCall
from ..scene.reports import reportRun
from .telling import told


class SavePanel:
    """*Save report…* and *Copy as Python* of the .ui file."""

    def __init__(self, window: Any) -> None:
        """`window`: the module's widget."""
        self._window = window
        window.ui.saveButton.connect("clicked(bool)", lambda checked: self._save())
        window.ui.copyPythonButton.connect("clicked(bool)", lambda checked: self._copy())

    def update(self) -> None:
        """A button that cannot be pressed says why."""
        window = self._window
        save, copy = window.ui.saveButton, window.ui.copyPythonButton
        busy, hasSettings = window.runPanel.busy, window._parameterNode is not None
        save.enabled, copy.enabled = self.run() is not None and not busy, hasSettings
        if save.enabled:
            save.toolTip = save.statusTip
        elif busy:
            save.toolTip = _("Something is being computed. Wait for its end.")
        else:
            save.toolTip = _("There is no result of this pair yet. Register first.")
        copy.toolTip = copy.statusTip if hasSettings else _("There are no settings. Choose two volumes.")

    def run(self, folder: str = "") -> Run | None:
        """What writes the files of the result that is shown; None if there is none."""
        node = self._window._parameterNode
        return reportRun(self._window.runPanel.registration, node.inputs(), node.transform, folder) if node else None

    def chooseFolder(self) -> str:
        """Asks for a folder; "" if none was chosen."""
        return qt.QFileDialog.getExistingDirectory(slicer.util.mainWindow(), _("An empty folder for the report"))

    def _save(self) -> None:
        """Writes the files of the result into a folder, as the command line does."""
        window = self._window
        if folder := self.chooseFolder():
            run = self.run(folder)
            window.machinePanel.whenIdle(lambda: window._start(run), window.runPanel.status)

    def _copy(self) -> None:
        """Puts the console call of the present settings into the clipboard."""
        window, node = self._window, self._window._parameterNode
        with told(_("The parameters cannot be used.")):
            call = pythonCall(node.inputs(), window.form.parameters(), node.outputs())
            slicer.app.clipboard().setText(call)
            window.runPanel.status(_("The Python call is in the clipboard."))
