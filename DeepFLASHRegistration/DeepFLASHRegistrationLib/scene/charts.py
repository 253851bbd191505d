# SPDX-License-Identifier: Apache-2.0
"""Convergence and histogram as plot charts. A chart that exists keeps its series and tables."""

from __future__ import annotations

from collections.abc import Generator
from typing import Any

import numpy as np
import slicer

from .arrays import slabs
from .tables import writeTable
from .transaction import Transaction

_BINS = 60
_BLUE, _ORANGE = (0.12, 0.47, 0.71), (1.0, 0.5, 0.05)


def writeConvergenceChart(
    transaction: Transaction, chart: slicer.vtkMRMLPlotChartNode, name: str, history: list[dict[str, Any]]
) -> None:
    """Energy and its similarity part over the accepted iterations of all levels (entries of result.history)."""
    rows = [
        {
            "Iteration": index,
            "Energy": float(entry["energy"]),
            "Similarity": float(entry["similarity"]),
            "Regularization": float(entry["regularization"]),
            "Smallest determinant": float(entry["smallest_determinant"]),
            "Level": int(entry["level"]),
        }
        for index, entry in enumerate(history)
    ]
    table = _table(transaction, chart, name)
    writeTable(table, rows)
    for index, (column, color) in enumerate((("Energy", _BLUE), ("Similarity", _ORANGE))):
        series = _series(transaction, chart, index, column, table)
        series.SetPlotType(slicer.vtkMRMLPlotSeriesNode.PlotTypeScatter)
        series.SetXColumnName("Iteration")
        series.SetYColumnName(column)
        series.SetMarkerStyle(slicer.vtkMRMLPlotSeriesNode.MarkerStyleNone)
        series.SetColor(*color)
    _title(chart, "Convergence", "iteration", "energy")


def logHistogramInSteps(logJacobian: np.ndarray) -> Generator[None, None, tuple[np.ndarray, np.ndarray]]:
    """How often which log determinant occurs, in short steps.

    Returns:
        counts and edges of bins that are symmetric around 0. Voxels without logarithm are left out.
    """
    limit = 1e-3
    for slab in slabs(logJacobian):
        values = np.abs(logJacobian[slab])
        limit = max(limit, float(values.max(initial=0.0, where=np.isfinite(values))))
        yield
    edges = np.linspace(-limit, limit, _BINS + 1)
    counts = np.zeros(_BINS, int)
    for slab in slabs(logJacobian):
        counts += np.histogram(logJacobian[slab], bins=_BINS, range=(-limit, limit))[0]
        yield
    return counts, edges


def writeHistogramChart(
    transaction: Transaction, chart: slicer.vtkMRMLPlotChartNode, name: str, histogram: tuple[np.ndarray, np.ndarray]
) -> None:
    """A histogram of log determinants: counts and edges."""
    counts, edges = histogram
    rows = [
        {"Log determinant": float(center), "Voxels": int(count)}
        for center, count in zip((edges[1:] + edges[:-1]) / 2, counts, strict=True)
    ]
    table = _table(transaction, chart, name)
    writeTable(table, rows)
    series = _series(transaction, chart, 0, "Log determinant", table)
    series.SetPlotType(slicer.vtkMRMLPlotSeriesNode.PlotTypeScatterBar)
    series.SetXColumnName("Log determinant")
    series.SetYColumnName("Voxels")
    series.SetColor(*_BLUE)
    _title(chart, "Volume change", "log Jacobian determinant", "voxels")


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
        chart.AddAndObservePlotSeriesNodeID(series.GetID())
    series.SetAndObserveTableNodeID(table.GetID())
    return series
