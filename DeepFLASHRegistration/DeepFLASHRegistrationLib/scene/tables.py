# SPDX-License-Identifier: Apache-2.0
"""The numbers of a result as tables."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from numbers import Real
from typing import Any

import slicer
import vtk

from .translation import tr as _


def metricRows(result: Any) -> list[dict[str, Any]]:
    """Rows (quantity, before, after, unit) of what result.metrics holds."""
    metrics: Mapping[str, Any] = result.metrics
    rows: list[dict[str, Any]] = []

    def add(quantity: str, after: Any, before: Any = None, unit: str = "") -> None:
        if after is not None or before is not None:
            rows.append({"Quantity": quantity, "Before": _text(before), "After": _text(after), "Unit": unit})

    add("Similarity (cross-correlation)", metrics.get("similarity_after"), metrics.get("similarity_before"))
    for each in metrics.get("channels") or ():
        add(f"Similarity of {each['name']} ({each['similarity']})", each["after"], each["before"])
    agreement = metrics.get("agreement") or {}
    add("Agreement inside both objects", agreement.get("reached"))
    add("Agreement inside, turned by half", agreement.get("floor"))
    add("Mean Dice", metrics.get("mean_dice_after"), metrics.get("mean_dice_before"))
    landmarks = metrics.get("landmarks") or {}
    add("Mean landmark distance", _mean(landmarks.get("after_mm")), _mean(landmarks.get("before_mm")), "mm")
    for key, quantity in (("folds", "Folded voxels"), ("folds_strict", "Folded voxels (strict)")):
        folds = metrics.get(key)
        add(quantity, folds.get("count") if isinstance(folds, Mapping) else folds)
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


@dataclass(frozen=True)
class Cell:
    """What a table shows, and what it is sorted by: a number, or text; None comes last."""

    text: str
    key: float | str | None


def shownTable(node: slicer.vtkMRMLTableNode) -> tuple[list[str], list[list[Cell]]]:
    """Titles and rows of a table that metricRows or labelRows was written to, as people read it: rounded, with unit."""
    rows = _rowsOf(node)
    if rows and "Quantity" in rows[0]:
        return [_("Quantity"), _("Before"), _("After")], [
            [
                Cell(row["Quantity"], row["Quantity"]),
                _withUnit(row["Before"], row["Unit"]),
                _withUnit(row["After"], row["Unit"]),
            ]
            for row in rows
        ]
    titles = {title: _SHOWN[title] for title in (rows[0] if rows else ()) if title in _SHOWN}
    shown = [[_rounded(row[title], *how[1:]) for title, how in titles.items()] for row in rows]
    return [how[0]() for how in titles.values()], shown


def tableText(titles: list[str], rows: list[list[Cell]]) -> str:
    """A shown table as text that spreadsheets understand."""
    return "\n".join("\t".join(line) for line in [titles, *([cell.text for cell in row] for row in rows)])


# Columns of labelRows, comparison.Comparison and templates that fit: title, decimals, and what a number is divided by.
_SHOWN = {
    "Name": (lambda: _("Label"), 0, 1.0),
    "Dice before": (lambda: _("Dice before"), 3, 1.0),
    "Dice after": (lambda: _("Dice after"), 3, 1.0),
    "Subject": (lambda: _("Subject"), 0, 1.0),
    "Distance": (lambda: _("Distance"), 1, 1.0),
    "Far from the rest": (lambda: _("Far"), 0, 1.0),
    "Sides exchanged": (lambda: _("Flipped"), 0, 1.0),
    "Method": (lambda: _("Method"), 0, 1.0),
    "Verdict": (lambda: _("Verdict"), 0, 1.0),
    "Correlation": (lambda: _("Correlation"), 3, 1.0),
    "Folds": (lambda: _("Folds"), 0, 1.0),
    "Inverse error (mm)": (lambda: _("Inverse error (mm)"), 2, 1.0),
    "Seconds": (lambda: _("Seconds"), 1, 1.0),
    "Volume warped (mm3)": (lambda: _("Volume (ml)"), 2, 1000.0),
    "Volume change (%)": (lambda: _("Change (%)"), 1, 1.0),
}


def _rowsOf(node: slicer.vtkMRMLTableNode) -> list[dict[str, Any]]:
    """The rows of a table node; numbers are numbers, as far as the table knows them."""
    table = node.GetTable()
    columns = [table.GetColumn(index) for index in range(table.GetNumberOfColumns())] if table is not None else []
    return (
        [{column.GetName(): column.GetValue(row) for column in columns} for row in range(table.GetNumberOfRows())]
        if columns
        else []
    )


def _withUnit(text: str, unit: str) -> Cell:
    try:
        number = float(text)
    except ValueError:
        return Cell(text, text or None)
    return Cell(f"{text} {unit}".strip(), number)


def _rounded(value: Any, decimals: int, divisor: float) -> Cell:
    try:
        number = float(value) / divisor
    except ValueError:
        return Cell(value, value.lower())
    if math.isnan(number):
        return Cell("", None)
    return Cell(f"{number:.{decimals}f}", number)


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
    if isinstance(value, Real) and not isinstance(value, int):
        return f"{value:.3g}" if abs(value) < 999.5 else f"{value:.0f}"
    return str(value)
