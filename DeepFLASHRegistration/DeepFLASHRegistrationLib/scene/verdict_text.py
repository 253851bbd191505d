# SPDX-License-Identifier: Apache-2.0
"""The verdict, read back from the metrics table: so it is there after a scene was loaded, too."""

from __future__ import annotations

import slicer


def verdictOf(metricsTable: slicer.vtkMRMLTableNode | None) -> tuple[str, list[str]] | None:
    """Level and reasons of a table that writeResult made; None if it holds no verdict."""
    if metricsTable is None or metricsTable.GetTable() is None:
        return None
    table = metricsTable.GetTable()
    quantity, value = table.GetColumnByName("Quantity"), table.GetColumnByName("After")
    if quantity is None or value is None or table.GetNumberOfRows() == 0 or quantity.GetValue(0) != "Verdict":
        return None
    rows = range(1, table.GetNumberOfRows())
    return value.GetValue(0), [value.GetValue(row) for row in rows if quantity.GetValue(row) == "Reason"]
