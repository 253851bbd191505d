# SPDX-License-Identifier: Apache-2.0
"""The numbers of a result as tables."""

from __future__ import annotations

from collections.abc import Mapping
from numbers import Real
from typing import Any

import slicer
import vtk


def metricRows(result: Any) -> list[dict[str, Any]]:
    """Rows (quantity, before, after, unit) of what result.metrics holds."""
    metrics: Mapping[str, Any] = result.metrics
    rows: list[dict[str, Any]] = []

    def add(quantity: str, after: Any, before: Any = None, unit: str = "") -> None:
        if after is not None or before is not None:
            rows.append({"Quantity": quantity, "Before": _text(before), "After": _text(after), "Unit": unit})

    add("Similarity (cross-correlation)", metrics.get("similarity_after"), metrics.get("similarity_before"))
    agreement = metrics.get("agreement") or {}
    add("Agreement inside both objects", agreement.get("reached"))
    add("Agreement inside, turned by half", agreement.get("floor"))
    add("Mean Dice", metrics.get("mean_dice_after"), metrics.get("mean_dice_before"))
    landmarks = metrics.get("landmarks") or {}
    add("Mean landmark distance", _mean(landmarks.get("after_mm")), _mean(landmarks.get("before_mm")), "mm")
    for key, quantity in (("folds", "Folded voxels"), ("folds_strict", "Folded voxels (strict)")):
        folds = metrics.get(key)
        if isinstance(folds, Mapping):
            add(quantity, folds.get("count"))
            add(quantity, folds.get("percent"), unit="%")
        else:
            add(quantity, folds)
    add("Smallest determinant", metrics.get("smallest_determinant"))
    add("Largest determinant", metrics.get("largest_determinant"))
    add("Standard deviation of the log determinant", metrics.get("sd_log_determinant"))
    inverse = metrics.get("inverse_error_mm") or {}
    for key, name in (("mean", "mean"), ("p95", "95th percentile"), ("max", "largest")):
        add(f"Inverse consistency error, {name}", inverse.get(key), unit="mm")
    add("Length of the geodesic", metrics.get("geodesic_length_mm"))
    add("Largest displacement", metrics.get("largest_displacement_mm"), unit="mm")
    add("Turn of the alignment against the headers", metrics.get("turn_degrees"), unit="degrees")
    add("Scale of the alignment", metrics.get("scale"))
    add("Overlap of the images", metrics.get("overlap"))
    add("Fixed foreground that comes from outside the moving image", metrics.get("border_hits"))
    return rows


def labelRows(result: Any, names: Mapping[int, str]) -> list[dict[str, Any]]:
    """A row per label: Dice before and after, volumes, change of volume; as far as result.metrics knows them."""
    dice = {int(label): entry for label, entry in (result.metrics.get("dice") or {}).items()}
    change = {int(label): value for label, value in (result.metrics.get("volume_change") or {}).items()}
    labels = sorted(set(dice) | set(change))
    columns = {
        "Dice before": "before",
        "Dice after": "after",
        "Volume moving (mm3)": "volume_moving_mm3",
        "Volume warped (mm3)": "volume_warped_mm3",
        "Volume fixed (mm3)": "volume_fixed_mm3",
    }
    rows = []
    for label in labels:
        row: dict[str, Any] = {"Label": label, "Name": names.get(label, str(label))}
        if dice:
            row |= {title: _number(dice.get(label, {}).get(key)) for title, key in columns.items()}
        if change:
            row["Volume change (%)"] = _number(change.get(label))
        rows.append(row)
    return rows


def writeTable(node: slicer.vtkMRMLTableNode, rows: list[dict[str, Any]]) -> None:
    """Gives the table node these rows (dicts of equal keys); numbers stay numbers."""
    table = vtk.vtkTable()
    for title in rows[0] if rows else ():
        values = [row[title] for row in rows]
        if all(isinstance(value, int) for value in values):
            column: vtk.vtkAbstractArray = vtk.vtkIntArray()
        elif all(isinstance(value, Real) for value in values):
            column = vtk.vtkDoubleArray()
        else:
            column = vtk.vtkStringArray()
            values = [str(value) for value in values]
        column.SetName(title)
        for value in values:
            column.InsertNextValue(value)
        table.AddColumn(column)
    node.SetAndObserveTable(table)
    node.SetUseColumnTitleAsColumnHeader(True)


def _number(value: Any) -> float:
    return float("nan") if value is None else float(value)


def _mean(values: Any) -> float | None:
    values = list(values) if values is not None else []
    return sum(values) / len(values) if values else None


def _text(value: Any) -> str:
    if value is None or value != value:  # not measured, or NaN: not measurable
        return ""
    return f"{value:.4g}" if isinstance(value, Real) and not isinstance(value, int) else str(value)
