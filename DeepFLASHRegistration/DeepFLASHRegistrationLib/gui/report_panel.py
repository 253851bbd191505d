# SPDX-License-Identifier: Apache-2.0
"""The verdict and the tables of a result."""

from __future__ import annotations

from html import escape
from typing import Any

import slicer
from slicer.i18n import tr as _

from ..registration.verdict_words import sentence
from ..scene.verdict_attribute import verdictOf
from .run_panel import RunPanel
from .verdict_words import COLORS, longVerdict


class ReportPanel:
    """Shows what the tables of a result hold; they are in the scene, so it works for a loaded scene as well."""

    def __init__(self, ui: Any) -> None:
        self._ui = ui

    def setTables(self, metrics: slicer.vtkMRMLTableNode | None, labels: slicer.vtkMRMLTableNode | None) -> None:
        """Shows these tables, and the verdict that the first one holds."""
        for view, table in ((self._ui.metricsTableView, metrics), (self._ui.labelsTableView, labels)):
            view.setMRMLTableNode(table)
            view.visible = table is not None
        found = verdictOf(metrics)
        if found is None:
            self._ui.verdictLabel.text = _("There is no result yet.")
            return
        level = found.level
        points = "".join(f"<li>{escape(sentence(reason, _))}</li>" for reason in found.reasons)
        self._ui.verdictLabel.text = (
            f"<b style='color: {COLORS.get(level, 'gray')}'>\u25cf {escape(longVerdict(level))}"
            f"</b><ul style='margin: 0'>{points}</ul>"
        )

    def setActions(self, runPanel: RunPanel, hasSettings: bool) -> None:
        """The buttons below the tables; one that cannot be pressed says why."""
        save, copy = self._ui.saveButton, self._ui.copyPythonButton
        save.enabled, copy.enabled = runPanel.canBeSaved, hasSettings
        if runPanel.canBeSaved:
            save.toolTip = save.statusTip
        elif runPanel.busy:
            save.toolTip = _("Something is being computed. Wait for its end.")
        else:
            save.toolTip = _("The report is made of a registration of this pair in this session. Register first.")
        copy.toolTip = copy.statusTip if hasSettings else _("There are no settings. Choose two volumes.")
