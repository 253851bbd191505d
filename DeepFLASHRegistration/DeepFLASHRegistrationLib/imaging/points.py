# SPDX-License-Identifier: Apache-2.0
"""Landmarks: Slicer's .fcsv and .mrk.json, and .csv."""

from __future__ import annotations

import csv
import io
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..support.errors import InputError
from .files import POINTS, atomic

TO_LPS = {"LPS": np.array([1.0, 1.0, 1.0]), "RAS": np.array([-1.0, -1.0, 1.0])}
_FCSV_COLUMNS = ["id", "x", "y", "z", "ow", "ox", "oy", "oz", "vis", "sel", "lock", "label", "desc", "associatedNodeID"]


@dataclass
class _Form:
    """A parsed file: what is needed to read its points, and to write it again with others."""

    points: np.ndarray
    labels: list[str]
    space: str
    kind: str
    content: Any


def read_points(path: str | os.PathLike) -> tuple[np.ndarray, list[str]]:
    """Reads landmarks.

    .fcsv and .mrk.json name their coordinate system (RAS or LPS) themselves. A .csv holds LPS mm, as ITK and ANTs
    expect: columns x, y[, z] and optionally label, named in a header line or in that order.

    Returns:
        (n, 3) float64 in LPS mm ((n, 2) from a .csv without z), and n labels ("" where there is none).

    Raises:
        InputError: unreadable, of unknown kind, without points, or with coordinates that are not finite numbers.
    """
    form = _parse(Path(path))
    return form.points, form.labels


def write_points(
    path: str | os.PathLike, points: np.ndarray, labels: list[str] | None = None, like: str | os.PathLike | None = None
) -> None:
    """Writes landmarks.

    Args:
        path: .fcsv, .mrk.json or .csv.
        points: (n, 3) or, for .csv, (n, 2), LPS mm.
        labels: n labels; default: those of `like`, else 1 to n.
        like: the file the points came from. If it is of the same kind, everything but the coordinates (and labels, if
            given) is kept as it was: coordinate system, colors, descriptions, further columns.

    Raises:
        InputError: unknown kind, or another number of points than `like` has.
    """
    path = Path(path)
    points = np.asarray(points, dtype=np.float64)
    kind = _kind(path)
    if points.ndim != 2 or points.shape[1] not in (2, 3) or (points.shape[1] == 2 and kind != ".csv"):
        raise InputError(f"{path}: cannot hold points of shape {points.shape}. Pass (n, 3), or (n, 2) for .csv.")
    source = _parse(Path(like)) if like is not None else None
    if source is not None and len(source.points) != len(points):
        raise InputError(f"{path}: {len(points)} points, but {like} has {len(source.points)}. Pass the same number.")
    if source is not None and labels is None:
        labels = source.labels
    if source is None or source.kind != kind or source.points.shape != points.shape:
        source = _empty(kind, points, labels if labels is not None else [str(i + 1) for i in range(len(points))])
        labels = None
    text = _WRITERS[kind](source, points * TO_LPS[source.space][: points.shape[1]], labels)
    with atomic(path) as temporary:
        temporary.write_text(text, encoding="utf-8", newline="")


def _kind(path: Path) -> str:
    for suffix in POINTS:
        if path.name.lower().endswith(suffix):
            return suffix
    raise InputError(f"{path}: unknown kind of landmark file. Use {', '.join(POINTS)}.")


def _parse(path: Path) -> _Form:
    kind = _kind(path)
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: cannot be read ({error}). Check the path.") from error
    try:
        form = _READERS[kind](text)
    except InputError as error:
        raise InputError(f"{path}: {error}") from error
    except (ValueError, KeyError, IndexError, TypeError, AttributeError) as error:
        raise InputError(f"{path}: is no valid {kind} file ({error}). Save it again.") from error
    if not len(form.points):
        raise InputError(f"{path}: holds no points. Place some, or leave the file out.")
    if not np.isfinite(form.points).all():
        raise InputError(f"{path}: holds coordinates that are not finite numbers. Correct them.")
    return form


def _numbers(rows: list[list[str]]) -> np.ndarray:
    return np.array([[float(value) for value in row] for row in rows], dtype=np.float64)


def _read_fcsv(text: str) -> _Form:
    space, columns, rows = "RAS", _FCSV_COLUMNS, []
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
    if space not in TO_LPS:
        raise InputError(f"its coordinate system {space} is unknown. Save it in RAS or LPS.")
    where = [columns.index(c) for c in "xyz"]
    label = columns.index("label") if "label" in columns else None
    points = _numbers([[row[i] for i in where] for _, row in rows]).reshape(-1, 3)
    labels = [row[label] if label is not None and label < len(row) else "" for _, row in rows]
    return _Form(points * TO_LPS[space], labels, space, ".fcsv", (lines, rows, where, label))


def _write_fcsv(form: _Form, points: np.ndarray, labels: list[str] | None) -> str:
    lines, rows, where, label = form.content
    lines = list(lines)
    for i, (number, row) in enumerate(rows):
        row = list(row)
        for column, value in zip(where, points[i], strict=True):
            row[column] = _text(value)
        if labels is not None and label is not None and label < len(row):
            row[label] = labels[i]
        lines[number] = _line(row)
    return "\n".join(lines) + "\n"


def _read_json(text: str) -> _Form:
    content = json.loads(text)
    points, labels, spaces = [], [], []
    for markup in content["markups"]:
        space = markup.get("coordinateSystem", "LPS").upper()
        if space not in TO_LPS:
            raise InputError(f"its coordinate system {space} is unknown. Save it in RAS or LPS.")
        spaces.append(space)
        for point in _placed(markup):
            points.append(np.array(point["position"], dtype=np.float64) * TO_LPS[space])
            labels.append(str(point.get("label", "")))
    if len(set(spaces)) > 1:
        raise InputError("its markups are in different coordinate systems. Save them in one.")
    return _Form(np.array(points).reshape(-1, 3), labels, spaces[0] if spaces else "LPS", ".mrk.json", content)


def _placed(markup: dict) -> list[dict]:
    """The control points that have a position (a template's may be still to be placed)."""
    return [p for p in markup.get("controlPoints", []) if p.get("positionStatus", "defined") == "defined"]


def _write_json(form: _Form, points: np.ndarray, labels: list[str] | None) -> str:
    content = json.loads(json.dumps(form.content))
    placed = [point for markup in content["markups"] for point in _placed(markup)]
    for i, point in enumerate(placed):
        point["position"] = [float(v) for v in points[i]]
        if labels is not None:
            point["label"] = labels[i]
    return json.dumps(content, indent=4) + "\n"


def _read_csv(text: str) -> _Form:
    delimiter = ";" if ";" in text.partition("\n")[0] else ","
    rows = [row for row in csv.reader(io.StringIO(text), delimiter=delimiter) if any(cell.strip() for cell in row)]
    header = None
    if rows and not _is_number(rows[0][0]):
        header, rows = [cell.strip().lower() for cell in rows[0]], rows[1:]
        if not {"x", "y"} <= set(header):
            raise InputError("its header names no columns x, y, z. Name them, or leave the header out.")
        where = [header.index(c) for c in "xyz" if c in header]
        label = header.index("label") if "label" in header else None
    else:
        width = len(rows[0]) if rows else 0
        numeric = 3 if width > 2 and _is_number(rows[0][2]) else 2
        where, label = list(range(numeric)), numeric if width > numeric else None
    points = _numbers([[row[i] for i in where] for row in rows]).reshape(-1, len(where))
    labels = [row[label] if label is not None and label < len(row) else "" for row in rows]
    first = text.splitlines()[0] if header is not None else None
    return _Form(points, labels, "LPS", ".csv", (first, rows, where, label, delimiter))


def _write_csv(form: _Form, points: np.ndarray, labels: list[str] | None) -> str:
    first, rows, where, label, delimiter = form.content
    lines = [] if first is None else [first]
    for i, row in enumerate(rows):
        row = list(row)
        for column, value in zip(where, points[i], strict=True):
            row[column] = _text(value)
        if labels is not None and label is not None and label < len(row):
            row[label] = labels[i]
        lines.append(_line(row, delimiter))
    return "\n".join(lines) + "\n"


def _empty(kind: str, points: np.ndarray, labels: list[str]) -> _Form:
    """A file of the given kind without history; coordinates are filled in by its writer."""
    n, d = points.shape
    if kind == ".csv":
        return _Form(
            points,
            labels,
            "LPS",
            kind,
            (",".join("xyz"[:d]) + ",label", [[""] * d + [text] for text in labels], list(range(d)), d, ","),
        )
    if kind == ".fcsv":
        lines = [
            "# Markups fiducial file version = 5.0",
            "# CoordinateSystem = LPS",
            "# columns = " + ",".join(_FCSV_COLUMNS),
        ]
        rows = [
            (3 + i, [str(i + 1), "", "", "", "0", "0", "0", "1", "1", "1", "0", labels[i], "", ""]) for i in range(n)
        ]
        return _Form(points, labels, "LPS", kind, (lines + [""] * n, rows, [1, 2, 3], 11))
    markup = {
        "type": "Fiducial",
        "coordinateSystem": "LPS",
        "coordinateUnits": "mm",
        "controlPoints": [
            {"id": str(i + 1), "label": labels[i], "position": [], "positionStatus": "defined"} for i in range(n)
        ],
    }
    schema = (
        "https://raw.githubusercontent.com/slicer/slicer/master/Modules/Loadable/Markups/Resources/Schema/"
        "markups-schema-v1.0.3.json#"
    )
    return _Form(points, labels, "LPS", kind, {"@schema": schema, "markups": [markup]})


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _text(value: float) -> str:
    return repr(round(float(value), 6))


def _line(row: list[str], delimiter: str = ",") -> str:
    buffer = io.StringIO()
    csv.writer(buffer, delimiter=delimiter, lineterminator="").writerow(row)
    return buffer.getvalue()


_READERS = {".fcsv": _read_fcsv, ".mrk.json": _read_json, ".csv": _read_csv}
_WRITERS = {".fcsv": _write_fcsv, ".mrk.json": _write_json, ".csv": _write_csv}
