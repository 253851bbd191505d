# SPDX-License-Identifier: Apache-2.0
"""Landmarks in tables of text (.csv, .tsv, .txt, .pts): LPS mm unless they state RAS."""

from __future__ import annotations

import csv
import io
import re
from dataclasses import dataclass

import numpy as np

from ...support.errors import InputError
from ..landmarks import checked_trust
from . import stated_space
from .point_file import PointFile, line_of, number_text

_DELIMITERS = {".csv": ",", ".tsv": "\t", ".txt": "\t", ".pts": " "}
_LABELS = ("label", "name", "landmark", "id", "index")
# Names of the columns, and the coordinate system that they state.
_COORDINATES: dict[tuple[str, ...], str | None] = {
    ("x", "y", "z"): None,
    ("r", "a", "s"): "RAS",
    ("l", "p", "s"): "LPS",
    ("x ras", "y ras", "z ras"): "RAS",
    ("x lps", "y lps", "z lps"): "LPS",
    ("x", "y"): None,
    ("x ras", "y ras"): "RAS",
    ("x lps", "y lps"): "LPS",
}
_GUESSED = (
    "has no header; the first number of each line was taken for the label, and the next three for x, y, z. If that is "
    "wrong, add a header line: x,y,z,label"
)
_MISSING = ("", "nan", "na", "n/a", "none", "null")
_DECIMAL_COMMA = re.compile(r"[+-]?\d+,\d+([eE][+-]?\d+)?")
_COMMENT = ("#", "%", "//")


@dataclass
class _Row:
    """A line (or, with quotes, several) of the file: its text and, of a point, its cells."""

    text: str
    cells: list[str]
    is_point: bool = False


@dataclass
class _Table:
    """What the writer needs."""

    rows: list[_Row]
    where: list[int]
    label: int | None
    delimiter: str
    decimal_comma: bool


def read(text: str, kind: str) -> PointFile:
    """Parses a table of columns x, y[, z] and optionally label.

    They are named in a header line (x y z; r a s and l p s as Slicer exports them, with a column "defined" that says
    which points have a position; also in a comment right before the first point), or stand in that order, the label
    first or last. Where four numbers stand in a line without a header, the first is the label if it is whole and grows
    from line to line (17, 18, 20), unless the fourth does so too or is the same in every line (a time, a weight of 1);
    the first is x if some of it has a fraction and the fourth is whole, all different or all the same. Else nobody
    knows: refused.

    A column "trust" tells to within how many mm each is placed.

    The coordinate system is what a comment ("# CoordinateSystem = RAS"), a column "space" or "system", or the names of
    the columns state (r, a, s; x_ras, y_ras, z_ras), which must not contradict each other; else LPS.

    In front of the points, .pts and .txt may have what IDAV Landmark ("Version 1.0"), the 300-W faces ("n_points: 3")
    and elastix ("point") write. Empty coordinates, or NaN, are a point without a position.
    """
    lines = text.splitlines()
    start, count = _preamble(lines) if kind in (".pts", ".txt") else (0, None)
    rows, delimiter = _rows(lines[start:])
    points = [row for row in rows if row.is_point]
    header = None
    if points and sum(_is_number(cell) for cell in points[0].cells) < 2:
        points[0].is_point = False
        header, points = [_name(cell) for cell in points[0].cells], points[1:]
    elif points:
        comments = lines[:start] + [row.text for row in rows[: rows.index(points[0])]]
        header = _commented_header(comments, len(points[0].cells))
    if count is not None and count != len(points):
        raise InputError(f"says that it holds {count} points, but holds {len(points)}. Copy it again.")
    cells = [row.cells for row in points]
    where, label, named, defined = _columns(header, cells)
    comments = [
        *lines[:start],
        *(row.text for row in rows if not row.is_point and row.text.lstrip().startswith(_COMMENT)),
    ]
    columned = stated_space.of_column(header, cells) if header else None
    space = stated_space.agreed([stated_space.of_comments(comments), columned, named])
    values = np.array([[_number(row[i]) for i in where] for row in cells], dtype=np.float64).reshape(-1, len(where))
    if defined is not None:
        values[[row[defined].strip().lower() in ("0", "false") for row in cells]] = np.nan
    labels = [row[label].strip() if label is not None and label < len(row) else "" for row in cells]
    trust = None
    if header and "trust" in header:
        column = header.index("trust")
        trust = [checked_trust(_number(row[column])) if column < len(row) else float("nan") for row in cells]
    comma = any(_DECIMAL_COMMA.fullmatch(row[i].strip()) for row in cells for i in where)
    before = [_Row(line, []) for line in lines[:start]]
    guessed = header is None and label == 0 and all(_is_number(row[0]) for row in cells)
    table = _Table(before + rows, where, label, delimiter, comma)
    return PointFile(values, labels, space, table, (_GUESSED,) if guessed else (), trust)


def write(file: PointFile, points: np.ndarray, labels: list[str] | None) -> str:
    """The text with other points (n, d), as stored; rows of NaN are left as they are."""
    table: _Table = file.content
    lines, i = [], 0
    for row in table.rows:
        if not row.is_point:
            lines.append(row.text)
            continue
        cells = list(row.cells)
        if not np.isnan(points[i]).all():
            for column, value in zip(table.where, points[i], strict=True):
                text = number_text(value)
                cells[column] = text.replace(".", ",") if table.decimal_comma else text
        if labels is not None and table.label is not None and table.label < len(cells):
            cells[table.label] = labels[i]
        lines.append(line_of(cells, table.delimiter))
        i += 1
    return "\n".join(lines) + "\n"


def empty(points: np.ndarray, labels: list[str], kind: str) -> PointFile:
    """A new file for points (n, 2 or 3)."""
    d, delimiter = points.shape[1], _DELIMITERS[kind]
    if kind == ".pts":
        head, where, label = ["Version 1.0", str(len(points))], list(range(1, d + 1)), 0
        labels = [text or f"S{i:03d}" for i, text in enumerate(labels)]
        cells = [[text, *[""] * d] for text in labels]
    else:
        head, where, label = [delimiter.join([*"xyz"[:d], "label"])], list(range(d)), d
        cells = [[*[""] * d, text] for text in labels]
    rows = [_Row(line, []) for line in head] + [_Row("", row, True) for row in cells]
    return PointFile(points, labels, "LPS", _Table(rows, where, label, delimiter, False))


def _preamble(lines: list[str]) -> tuple[int, int | None]:
    """How many lines come before the points, and how many points they announce."""
    count = None
    for number, line in enumerate(lines):
        text = line.strip().lower()
        announced = re.fullmatch(r"(?:n_points\s*:\s*)?(\d{1,9})", text)
        if text == "index":
            raise InputError("holds voxel indices (of elastix), not mm. Write it as points.")
        if announced and count is None:
            count = int(announced.group(1))
        elif text and text not in ("{", "point") and not re.match(r"version\b", text) and not text.startswith(_COMMENT):
            return number, count
    return len(lines), count


def _rows(lines: list[str]) -> tuple[list[_Row], str]:
    """The lines with their cells, and what separates these: what makes numbers, or known names, of the first line."""
    first = next((line for line in lines if line.strip() and not line.lstrip().startswith(_COMMENT)), "")
    delimiter = ","
    for candidate in (",", ";", "\t", " "):
        cells = _split(first, candidate)
        names = {_name(cell) for cell in cells}
        known = any(set(columns) <= names for columns in _COORDINATES)
        # 1,5;2,5 is two numbers with a decimal comma, not a 1, a text and a 5.
        parts = [re.split(r"[;\t ]+", cell.strip()) for cell in cells]
        mixed = candidate == "," and any(len(part) > 1 and all(map(_is_number, part)) for part in parts)
        if known or (sum(_is_number(cell) for cell in cells) > 1 and not mixed):
            delimiter = candidate
            break
    if delimiter == " ":
        table = [(line, _split(line, " ")) for line in lines]
    else:
        reader, table, before = csv.reader(io.StringIO("\n".join(lines)), delimiter=delimiter), [], 0
        for cells in reader:
            table.append(("\n".join(lines[before : reader.line_num]), cells))
            before = reader.line_num
    rows = []
    for text, cells in table:
        empty = not any(cell.strip() for cell in cells) or text.strip() in ("{", "}")
        rows.append(_Row(text, cells, not empty and not text.lstrip().startswith(_COMMENT)))
    return rows, delimiter


def _split(line: str, delimiter: str) -> list[str]:
    if delimiter == " ":
        line = " ".join(line.split())
    return next(csv.reader([line], delimiter=delimiter), [])


def _commented_header(lines: list[str], width: int) -> list[str] | None:
    """The names of so many columns, where the last line before the points is a comment that tells them."""
    last = next((line.strip() for line in reversed(lines) if line.strip()), "")
    if not last.startswith(_COMMENT):
        return None
    names = [_name(cell.strip("\"'")) for cell in re.split(r"[,;\s]+", last.lstrip("#%/ \t"))]
    return names if len(names) == width and any(set(columns) <= set(names) for columns in _COORDINATES) else None


def _columns(header: list[str] | None, rows: list[list[str]]) -> tuple[list[int], int | None, str | None, int | None]:
    """Where coordinates and label are, the system that their names state, and where it says if a point is defined."""
    if header is not None:
        there = [names for names in _COORDINATES if set(names) <= set(header)]
        there = [names for names in there if not any(set(names) < set(other) for other in there)]
        if len(there) > 1:
            both = " as well as ".join(", ".join(names) for names in there[:2])
            raise InputError(f"its header names {both}. Keep the coordinates of one system.")
        for names in there:
            label = next((header.index(name) for name in _LABELS if name in header), None)
            defined = header.index("defined") if "defined" in header else None
            return [header.index(name) for name in names], label, _COORDINATES[names], defined
        raise InputError("its header names no columns x, y, z. Name them, or leave the header out.")
    # The first line decides: what does not follow it further down is damage.
    numeric = [_is_number(cell) or _is_missing(cell) for cell in rows[0]] if rows else []
    width = len(numeric)
    labelled_first = width > 2 and not numeric[0] and numeric[1] and numeric[2]
    if width > 3 and all(numeric[:4]):
        labelled_first = _label_is_first(rows)
    start = 1 if labelled_first else 0
    d = 3 if width > start + 2 and numeric[start + 2] else 2
    label = 0 if labelled_first else d if any(len(row) > d for row in rows) else None
    return list(range(start, start + d)), label, None, None


def _label_is_first(rows: list[list[str]]) -> bool:
    """Of rows of four numbers, whether the first is the label and not x."""
    first, last = ([_number(row[column]) for row in rows if column < len(row)] for column in (0, 3))
    if _counts(first) and not _counts(last) and len(rows) > 1 and len(set(last)) > 1:
        return True
    whole = all(value.is_integer() for value in last)
    if any(value % 1 > 0 for value in first) and whole and len(set(last)) in (1, len(rows)):
        return False
    raise InputError(
        "has four numbers per line, and does not say which is x. Add a header line: x,y,z,label or label,x,y,z."
    )


def _counts(values: list[float]) -> bool:
    """Whether the values are whole, not negative, and grow; two, which may do so by chance, by 1."""
    steps = [b - a for a, b in zip(values, values[1:])]
    return (
        all(v.is_integer() and v >= 0 for v in values)
        and all(step > 0 for step in steps)
        and (len(steps) != 1 or steps == [1])
    )


def _name(cell: str) -> str:
    """A column's name without its unit."""
    name = re.sub(r"[\s_]*[\[(]?\bmm[\])]?$", "", cell.strip().lower().replace("_mm", " mm"))
    return stated_space.axis_of(name)


def _is_missing(text: str) -> bool:
    return text.strip().lower() in _MISSING


def _is_number(text: str) -> bool:
    try:
        _number(text)
    except ValueError:
        return False
    return not _is_missing(text) or text.strip().lower() == "nan"


def _number(text: str) -> float:
    text = text.strip()
    if text.lower() in _MISSING:
        return float("nan")
    return float(text.replace(",", ".") if _DECIMAL_COMMA.fullmatch(text) else text)
