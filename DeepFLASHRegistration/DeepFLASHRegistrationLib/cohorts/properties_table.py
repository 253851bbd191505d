# SPDX-License-Identifier: Apache-2.0
"""The properties of methods as tables: for people, and for programs."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..report.tables import escaped
from .comparison_table import columns, spread
from .motions import EXCHANGED, keys
from .properties import Properties

_WORDS = {"uu": "[U,U]", "wu": "[W,U]"}
NOTE = (
    "Of the images on a wider grid each, resampled by cubic splines where voxels do not meet voxels: [U,U], both moved "
    "alike; [W,U], the fixed one by half of the motion and the moving one by half of it back. What stands here is how "
    "far the map then leads from where the map of the images at rest, moved along, leads; what comes back through the "
    "map of the exchanged images, or through the map's own inverse, and how the derivative of that differs from the "
    "identity. Means over the object of the mean and, in parentheses, of the 95th percentile; in voxels of the working "
    "grid, but for derivatives and folds. A map that does not move is equivariant and its own inverse: the last column "
    "says how far the maps move points after the alignment."
)


@dataclass(frozen=True)
class Column:
    """A property: its key among the figures, its title, the unit of its figures, and the key of the images that have
    to be registered for it besides those at rest."""

    key: str
    title: str
    unit: str = "voxels"
    needs: str = ""


def all_columns() -> list[Column]:
    """All properties, in the order in which they are shown."""
    found = [Column(key, f"{_WORDS[kind]} {name}", needs=key) for key, (kind, name) in keys().items()]
    for which, word, needs in (("exchanged", "exchanged", EXCHANGED), ("own", "own inverse", "")):
        found.append(Column(f"inverse_{which}", f"Inverse error, {word}", needs=needs))
        found.append(Column(f"gradient_{which}", f"its derivative, {word}", "", needs))
    return [*found, Column("folds", "Folds, %", "percent"), Column("move", "Moves")]


def lines(found: Sequence[Properties]) -> list[dict[str, Any]]:
    """For JSON: one for each method, alignment and property, with means and standard deviations over the pairs."""
    result = []
    for method, alignment in dict.fromkeys((each.method, each.alignment) for each in found):
        rows = [each for each in found if (each.method, each.alignment) == (method, alignment)]
        for column in all_columns():
            there = [each.figures[column.key] for each in rows if column.key in each.figures]
            line = {"method": method, "alignment": alignment, "property": column.key, "title": column.title}
            line |= {"unit": column.unit, "pairs": len(there), "failed": sum(_missing(each, column) for each in rows)}
            for name in ("mean", "p95"):
                value = spread([figures[name] for figures in there])
                line[name] = None if value is None else dict(zip(("mean", "sd"), value, strict=True))
            result.append(line)
    return result


def _missing(each: Properties, column: Column) -> bool:
    """Whether a property cannot be had of a pair."""
    return each.state == "failed" or column.needs in each.missing


def as_csv(found: Sequence[Properties]) -> str:
    """A row for each pair, method, alignment and property."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["pair", "method", "alignment", "property", "unit", "mean", "p95", "max", "reason"])
    for each in found:
        for column in all_columns():
            figures = each.figures.get(column.key, {})
            values = [f"{figures[name]:.6g}" if name in figures else "" for name in ("mean", "p95", "max")]
            reason = " ".join((each.reason or each.missing.get(column.needs, "")).split())
            writer.writerow([each.pair, each.method, each.alignment, column.title, column.unit, *values, reason])
    return text.getvalue()


def _table(found: Sequence[Properties]) -> list[list[str]]:
    rows = [["", "alignment", *(column.title for column in all_columns())]]
    by_line: dict[tuple[str, str], list[str]] = {}
    for line in lines(found):
        by_line.setdefault((line["method"], line["alignment"]), []).append(cell(line))
    return rows + [[*name, *cells] for name, cells in by_line.items()]


def cell(line: Mapping[str, Any]) -> str:
    """What stands in a table for one of `lines`."""
    text = "–"
    if line["mean"] is not None:
        text = f"{line['mean']['mean']:.3f}"
        text += "" if line["property"] == "folds" else f" ({line['p95']['mean']:.3f})"
    return text + (f" [-{line['failed']}]" if line["failed"] else "")


def as_text(found: Sequence[Properties]) -> str:
    """As a table to read, a row for each property."""
    return columns(list(map(list, zip(*_table(found), strict=True))))


def section(found: Sequence[Properties]) -> str:
    """The same as a part of the page."""
    head, *rows = _table(found)
    titles = "".join(f"<th>{escaped(title)}</th>" for title in ("Method", *head[1:]))
    body = "".join(
        f'<tr><th scope="row">{escaped(name)}</th>' + "".join(f"<td>{escaped(cell)}</td>" for cell in cells) + "</tr>"
        for name, *cells in rows
    )
    reasons: dict[str, None] = {}
    for each in found:
        for why in (each.reason, *each.missing.values()):
            if why:
                reasons[f"<li><b>{escaped(each.pair)}</b>, {escaped(each.method)}: {escaped(why)}</li>"] = None
    table = f'<table class="methods"><thead><tr>{titles}</tr></thead>{body}</table>'
    more = f"<ul>{''.join(reasons)}</ul>" if reasons else ""
    return f'<section><h2>Properties</h2><div class="wide">{table}</div><p>{escaped(NOTE)}</p>{more}</section>'
