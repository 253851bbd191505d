# SPDX-License-Identifier: Apache-2.0
"""Slicer's landmark tables (.fcsv)."""

from __future__ import annotations

import csv

import numpy as np

from ..landmarks import told_trust
from .point_file import PointFile, known_space, line_of, number_text

_COLUMNS = ["id", "x", "y", "z", "ow", "ox", "oy", "oz", "vis", "sel", "lock", "label", "desc", "associatedNodeID"]
_UNDEFINED, _DEFINED = "0", "2"  # vtkMRMLMarkupsNode::PositionUndefined, PositionDefined


def read(text: str) -> PointFile:
    """Parses a file; what follows the named columns is, since Slicer 5, the status of the position."""
    space, columns, rows = "RAS", _COLUMNS, []
    lines = text.splitlines()
    for number, line in enumerate(lines):
        if line.startswith("#"):
            name, _, value = line[1:].partition("=")
            if name.strip().lower() == "coordinatesystem":
                space = {"0": "RAS", "1": "LPS"}.get(value.strip(), value.strip().upper())
            elif name.strip().lower() == "columns":
                columns = [c.strip() for c in value.split(",")]
        elif line.strip():
            rows.append((number, next(csv.reader([line]))))
    known_space(space)
    where = [columns.index(c) for c in "xyz"]
    label = columns.index("label") if "label" in columns else None
    points = np.array([[float(row[i]) for i in where] for _, row in rows], dtype=np.float64).reshape(-1, 3)
    status = len(columns)
    unplaced = [len(row) > status and row[status].strip() not in ("", _DEFINED) for _, row in rows]
    points[np.array(unplaced, dtype=bool)] = np.nan
    labels = [row[label] if label is not None and label < len(row) else "" for _, row in rows]
    told = columns.index("desc") if "desc" in columns else len(columns)
    trust = [told_trust(row[told]) if told < len(row) else float("nan") for _, row in rows]
    return PointFile(points, labels, space, (lines, rows, where, label), (), trust)


def write(file: PointFile, points: np.ndarray, labels: list[str] | None) -> str:
    """The text with other points (n, 3), as stored; rows of NaN are left as they are."""
    lines, rows, where, label = file.content
    lines = list(lines)
    for i, (number, row) in enumerate(rows):
        row = list(row)
        if not np.isnan(points[i]).all():
            for column, value in zip(where, points[i], strict=True):
                row[column] = number_text(value)
        if labels is not None and label is not None and label < len(row):
            row[label] = labels[i]
        lines[number] = line_of(row)
    return "\n".join(lines) + "\n"


def empty(points: np.ndarray, labels: list[str]) -> PointFile:
    """A new file for points (n, 3); those of NaN are not placed."""
    lines = [
        "# Markups fiducial file version = 5.0",
        "# CoordinateSystem = LPS",
        "# columns = " + ",".join(_COLUMNS),
    ]
    rows = [
        (3 + i, [str(i + 1), "", "", "", "0", "0", "0", "1", "1", "1", "0", label, "", ""])
        for i, label in enumerate(labels)
    ]
    for (_, row), point in zip(rows, points, strict=True):
        if np.isnan(point).all():
            row[1:4] = ["0", "0", "0"]
            row += [_UNDEFINED, "0"]
    return PointFile(points, labels, "LPS", (lines + [""] * len(labels), rows, [1, 2, 3], 11))
