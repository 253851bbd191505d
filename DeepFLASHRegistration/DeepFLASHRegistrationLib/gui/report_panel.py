# SPDX-License-Identifier: Apache-2.0
"""The verdict and the tables of a result."""

from __future__ import annotations

from html import escape
from typing import Any

import slicer
from slicer.i18n import tr as _

from ..registration.verdict_words import sentence
from ..scene.verdict_attribute import verdictOf
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
