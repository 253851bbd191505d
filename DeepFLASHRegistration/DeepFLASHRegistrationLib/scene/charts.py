# SPDX-License-Identifier: Apache-2.0
"""Convergence and histogram as plot charts. A chart that exists keeps its series and tables."""

from __future__ import annotations

from typing import Any

import numpy as np
import slicer

from ..report.views import rough_foreground, thinned
from .tables import writeTable
from .transaction import Transaction
from .translation import tr as _

_BINS = 60
_QUANTILE = 0.998  # of voxels whose log determinant lies within the histogram
_BLUE, _ORANGE, _GREEN = (0.12, 0.47, 0.71), (1.0, 0.5, 0.05), (0.17, 0.63, 0.17)


def writeConvergenceChart(
    transaction: Transaction, chart: slicer.vtkMRMLPlotChartNode, name: str, history: list[dict[str, Any]]
) -> None:
    """The energy over the accepted iterations of all levels (entries of result.history), and what it is the sum of.

    The image part is the dissimilarity as the energy counts it: so all curves have one unit, and one axis suits them.
    """
    rows = [
        {
            "Iteration": index,
            "Level": int(entry["level"]) + 1,
            "Energy": float(entry["energy"]),
            "Images": float(entry["energy"] - entry["regularization"]),
            "Regularization": float(entry["regularization"]),
            "Dissimilarity": float(entry["similarity"]),
            "Smallest determinant": float(entry["smallest_determinant"]),
        }
        for index, entry in enumerate(history)
    ]
    table = _table(transaction, chart, name)
    writeTable(table, rows)
    for index, (column, color) in enumerate((("Energy", _BLUE), ("Images", _ORANGE), ("Regularization", _GREEN))):
        series = _series(transaction, chart, index, column, table)
        series.SetPlotType(slicer.vtkMRMLPlotSeriesNode.PlotTypeScatter)
        series.SetXColumnName("Iteration")
        series.SetYColumnName(column)
        # A level may be a single point, of which a line would show nothing.
        series.SetMarkerStyle(slicer.vtkMRMLPlotSeriesNode.MarkerStyleCircle)
        series.SetMarkerSize(4)
        series.SetColor(*color)
    _title(chart, _("Convergence"), _("accepted iterations of all levels"), _("energy (no unit)"))


def logHistogram(logJacobian: np.ndarray, fixed: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """How often which log determinant occurs where the fixed image shows something.

    Background is most of an image, does not move, and would be all that the histogram shows. Voxels are thinned out,
    as in the report: they tell no less, and the largest image takes no time.

    Returns:
        percent of these voxels, and edges, of bins that are symmetric around 0. The few beyond them count in the
        outermost ones; voxels without logarithm (folded) are left out.
    """
    part = thinned(logJacobian)
    values = logJacobian[part][rough_foreground(fixed[part])]
    values = values[np.isfinite(values)]
    limit = max(float(np.quantile(np.abs(values), _QUANTILE)) if values.size else 0.0, 1e-3)
    edges = np.linspace(-limit, limit, _BINS + 1)
    counts = np.histogram(np.clip(values, -limit, limit), edges)[0]
    return 100 * counts / max(values.size, 1), edges


def writeHistogramChart(
    transaction: Transaction, chart: slicer.vtkMRMLPlotChartNode, name: str, histogram: tuple[np.ndarray, np.ndarray]
) -> None:
    """A histogram of log determinants: percent and edges."""
    percent, edges = histogram
    rows = [
        {"Log determinant": float(center), "Percent": float(value)}
        for center, value in zip((edges[1:] + edges[:-1]) / 2, percent, strict=True)
    ]
    table = _table(transaction, chart, name)
    writeTable(table, rows)
    series = _series(transaction, chart, 0, "Volume change", table)
    series.SetPlotType(slicer.vtkMRMLPlotSeriesNode.PlotTypeScatterBar)
    series.SetXColumnName("Log determinant")
    series.SetYColumnName("Percent")
    series.SetColor(*_BLUE)
    chart.SetLegendVisibility(False)
    horizontal = _("log Jacobian determinant (0: as large)")
    _title(chart, _("Volume change"), horizontal, _("percent of the object's voxels"))


def _title(chart: slicer.vtkMRMLPlotChartNode, title: str, horizontal: str, vertical: str) -> None:
    chart.SetTitle(title)
    chart.SetXAxisTitle(horizontal)
    chart.SetYAxisTitle(vertical)


def _table(transaction: Transaction, chart: slicer.vtkMRMLPlotChartNode, name: str) -> slicer.vtkMRMLTableNode:
    series = chart.GetNthPlotSeriesNode(0)
    table = series.GetTableNode() if series is not None else None
    return transaction.lend(table) if table is not None else transaction.create("vtkMRMLTableNode", f"{name} data")


def _series(
    transaction: Transaction, chart: slicer.vtkMRMLPlotChartNode, index: int, name: str, table: slicer.vtkMRMLTableNode
) -> slicer.vtkMRMLPlotSeriesNode:
    series = chart.GetNthPlotSeriesNode(index)
    if series is not None:
        transaction.lend(series)
    else:
        series = transaction.create("vtkMRMLPlotSeriesNode", name)
        series.SetName(name)  # as it is: the legend of a second chart shall not say "Energy_1"
        chart.AddAndObservePlotSeriesNodeID(series.GetID())
    series.SetAndObserveTableNodeID(table.GetID())
    return series
