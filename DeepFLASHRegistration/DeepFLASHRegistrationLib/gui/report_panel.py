# SPDX-License-Identifier: Apache-2.0
"""The verdict and the tables of a result."""

from __future__ import annotations

from html import escape
from typing import Any

import slicer
from slicer.i18n import tr as _

from ..registration.verdict_words import sentence
from ..scene.verdict_attribute import verdictOf
from .result_table import ResultTable
from .verdict_words import colorOf, longVerdict


class ReportPanel:
    """Shows what the tables of a result hold; they are in the scene, so it works for a loaded scene as well."""

    def __init__(self, ui: Any) -> None:
        self._ui = ui
        self._metrics, self._labels = ResultTable(ui.metricsTableView), ResultTable(ui.labelsTableView)

    def setTables(self, metrics: slicer.vtkMRMLTableNode | None, labels: slicer.vtkMRMLTableNode | None) -> None:
        """Shows these tables, and the verdict that the first one holds."""
        self._metrics.setTable(metrics)
        self._labels.setTable(labels)
        found = verdictOf(metrics)
        if found is None:
            self._ui.verdictLabel.text = _("There is no result yet.")
            return
        level = found.level
        points = "".join(f"<li>{escape(sentence(reason, _))}</li>" for reason in found.reasons)
        self._ui.verdictLabel.text = (
            f"<b style='color: {colorOf(level)}'>\u25cf {escape(longVerdict(level))}"
            f"</b><ul style='margin: 0'>{points}</ul>"
        )
