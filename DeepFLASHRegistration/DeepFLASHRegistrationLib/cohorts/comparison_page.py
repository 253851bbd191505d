# SPDX-License-Identifier: Apache-2.0
"""A comparison of methods as files: a page for people, tables for programs."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import quote

from ..imaging.files import atomic
from ..problem.parameters import METHODS, Parameters
from ..registration.verdict import LEVELS
from ..report.charts import box_chart
from ..report.page import symbol
from ..report.style import STYLE
from ..report.tables import escaped
from . import properties_table
from .comparison import ALIGNMENT, Comparison, Measured
from .comparison_pictures import STYLE as PICTURES_STYLE
from .comparison_pictures import pictures
from .comparison_table import (
    FIGURES,
    JUDGING,
    MODEL_FIGURES,
    Line,
    as_text,
    dice_by_structure,
    lines,
    plain_lines,
    share_text,
)
from .properties import Properties
from .structures import Structures, of_all

_PROPERTIES = "properties.csv"
NAMES = ("comparison.html", "comparison.csv", "comparison.json")
# Of more structures than these no chart each is drawn.
_MOST_STRUCTURES = 12

_MORE_STYLE = """
.wide { overflow-x: auto } .methods td, .methods th { padding: 5px 14px 5px 0; text-align: right }
.methods td, .methods tbody th, .methods tr th:first-child { white-space: nowrap }
.methods th:first-child { text-align: left } .methods td { font-variant-numeric: tabular-nums }
.methods td.words { white-space: normal; min-width: 130px }
.methods small { display: block; color: var(--soft) } .methods .reference th { font-weight: 700 }
.pairs td, .pairs th { white-space: nowrap } .pairs a { color: var(--s1) }
.pairs .symbol { width: 14px; height: 14px; display: inline-block; margin: 0 5px -2px 0 }
"""


def write_comparison(
    comparisons: Sequence[Comparison],
    reference: str,
    structures: Structures,
    about: Mapping[str, Any],
    examined: Sequence[Properties] = (),
) -> str:
    """Writes comparison.html, .csv and .json into the comparisons' folder, and properties.csv if there are any; returns
    the tables as text.

    Args:
        comparisons: of the same methods, on the pairs as they are and as they are seen otherwise.
        reference: the method that the others are compared with.
        structures: what counts among the labels.
        about: what comparison.json says besides.
        examined: the methods' properties.

    Raises:
        InputError: SciPy is missing, or labels cannot be read.
        OSError: they cannot be written; earlier ones stay.
    """
    measured = [each for comparison in comparisons for each in of_all(structures, comparison)]
    first = comparisons[0]
    found = lines(measured, reference, first.entrants)
    by_structure = dice_by_structure(measured)
    settings = {each.name: each.parameters for each in first.entrants}
    values = {
        **about,
        "reference": reference,
        "methods": plain_lines(found),
        "structures": by_structure,
        "parameters": {name: parameters.to_dict() for name, parameters in settings.items()},
    }
    said = as_text(found, reference, by_structure if structures.groups else None)
    shown = pictures(first, measured)
    texts = {}
    if examined:
        values["properties"] = properties_table.lines(examined)
        texts[_PROPERTIES] = properties_table.as_csv(examined)
        shown = properties_table.section(examined) + shown
        said += "\n\n" + properties_table.as_text(examined)
    page = _page(first.pairs.path.name, measured, found, reference, settings, shown)
    texts |= zip(NAMES, (page, _table(measured), json.dumps(values, indent=1, allow_nan=False) + "\n"), strict=True)
    for name, text in texts.items():
        with atomic(first.top / name) as temporary:
            temporary.write_text(text, encoding="utf-8", newline="")
    return said


def _table(measured: Sequence[Measured]) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    names = list(dict.fromkeys(name for each in measured for name in each.structures))
    figures = [figure.name for figure in FIGURES]
    titles = ["pair", "method", "variant", "state", "verdict", *figures, "reason"]
    writer.writerow(titles + [f"dice: {name}" for name in names])
    for each in measured:
        values = [figure.read(each) if each.state == "done" else math.nan for figure in FIGURES]
        cells = [each.pair, each.method, each.variant, each.state, each.verdict, *map(_number, values)]
        cells.append(" ".join(each.reason.split()))
        writer.writerow(cells + [_number(each.structures.get(name, math.nan)) for name in names])
    return text.getvalue()


def _number(value: float) -> str:
    return "" if math.isnan(value) else f"{value:.6g}"


# ------------------------------------------------------------------------------------------------------------ the page


def _page(
    title: str,
    measured: Sequence[Measured],
    found: Sequence[Line],
    reference: str,
    settings: Mapping[str, Parameters],
    shown: str,
) -> str:
    pairs = dict.fromkeys(each.pair for each in measured)
    rest = sum(each.state == "open" for each in measured)
    sub = f"{len(pairs)} pairs, {len(settings)} methods, from the same alignment"
    sub += f"; {rest} registrations still to be done" if rest else ""
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta http-equiv="Content-Security-Policy" content="default-src \'none\'; img-src data:; '
        "style-src 'unsafe-inline'\">"
        '<meta name="viewport" content="width=device-width, initial-scale=1"><meta name="color-scheme" '
        f'content="light dark"><title>{escaped(title)} – methods</title><style>{STYLE}{_MORE_STYLE}{PICTURES_STYLE}'
        '</style></head><body><main><header><p class="kind">DeepFLASH comparison of methods</p>'
        f"<h1>{escaped(title)}</h1>"
        f'<p class="sub">{sub}</p></header>{_methods(found, reference)}{_charts(measured)}{shown}'
        f"{_pairs(measured)}{_settings(settings, measured)}</main></body></html>\n"
    )


def _methods(found: Sequence[Line], reference: str) -> str:
    shown = [figure for figure in FIGURES if any(figure.name in line.figures for line in found)]
    about = [name for name in MODEL_FIGURES if any(line.model.get(name) for line in found)]
    share = [f"Of {reference}'s gain"] if any(line.share is not None for line in found) else []
    titles = ("Method", "Pairs", *(f.title for f in shown), *share, *(MODEL_FIGURES[name] for name in about))
    head = "".join(f"<th>{escaped(title)}</th>" for title in titles)
    rows = []
    for line in found:
        cells = [f"{line.done}" + (f"<small>{line.failed} without a result</small>" if line.failed else "")]
        for figure in shown:
            cells.append(_method_cell(line, figure.name, figure.digits))
        cells += [share_text(line) for _ in share]
        words = "".join(f'<td class="words">{escaped(str(line.model.get(name) or ""))}</td>' for name in about)
        style = ' class="reference"' if line.method == reference else ""
        rows.append(
            f'<tr{style}><th scope="row">{escaped(line.title)}</th>'
            + "".join(f"<td>{c}</td>" for c in cells)
            + words
            + "</tr>"
        )
    note = (
        f"<p>Mean ± standard deviation over the pairs. Small: the mean difference to <b>{escaped(reference)}</b> over "
        "the pairs that both registered, with the p value of Wilcoxon's signed-rank test after Holm's correction. "
        "Seconds are those of the registration on this computer, and of the method without alignment, maps and "
        "measuring; memory is the most that its process, or a GPU, had taken.</p>"
    )
    table = f'<table class="methods"><thead><tr>{head}</tr></thead>{"".join(rows)}</table>'
    return f'<section><h2>Methods</h2><div class="wide">{table}</div>{note}</section>'


def _method_cell(line: Line, name: str, digits: int) -> str:
    if name not in line.figures:
        return "–"
    mean, sd = line.figures[name]
    text = f"{mean:.{digits}f} ± {sd:.{digits}f}"
    if name in JUDGING and name in line.differences:
        difference, _, _, p = line.differences[name]
        text += f"<small>{difference:+.{digits}f}{'' if math.isnan(p) else f', p = {p:.2g}'}</small>"
    return text


def _charts(measured: Sequence[Measured]) -> str:
    methods = list(dict.fromkeys(each.title for each in measured))
    done = [each for each in measured if each.state == "done"]
    charts = []
    for figure in FIGURES:
        groups = []
        for method in methods:
            values = [figure.read(each) for each in done if each.title == method]
            groups.append((method, [value for value in values if math.isfinite(value)]))
        if figure.name in (*JUDGING, "sd_log_determinant", "seconds") and any(values for _, values in groups):
            charts.append(f"<figure>{box_chart(groups, escaped(figure.title))}</figure>")
    found = dice_by_structure(done)
    if 1 < len(found) <= _MOST_STRUCTURES:
        for name, by_method in found.items():
            groups = [(method, by_method.get(method, [])) for method in methods]
            title = f"Dice of label {name}" if name.isdigit() else f"Dice: {name}"
            charts.append(f"<figure>{box_chart(groups, escaped(title))}</figure>")
    if not charts:
        return ""
    return f'<section><h2>Over the pairs</h2><div class="charts">{"".join(charts)}</div></section>'


def _pairs(measured: Sequence[Measured]) -> str:
    methods = list(dict.fromkeys(each.title for each in measured))
    by_pair: dict[str, dict[str, Measured]] = {}
    for each in measured:
        by_pair.setdefault(each.pair, {})[each.title] = each
    head = "".join(f"<th>{escaped(name)}</th>" for name in ("Pair", *methods))
    rows = "".join(
        f'<tr><th scope="row">{escaped(pair)}</th>'
        + "".join(f"<td>{_pair_cell(there.get(method))}</td>" for method in methods)
        + "</tr>"
        for pair, there in by_pair.items()
    )
    failed = [each for each in measured if each.state == "failed"]
    reasons = "".join(
        f"<li><b>{escaped(each.pair)}</b>, {escaped(each.title)}: {escaped(each.reason)}</li>" for each in failed
    )
    table = f'<table class="pairs"><thead><tr>{head}</tr></thead>{rows}</table>'
    more = f"<ul>{reasons}</ul>" if reasons else ""
    return f'<section><h2>Pairs</h2><div class="wide">{table}</div>{more}</section>'


def _pair_cell(each: Measured | None) -> str:
    if each is None or each.state != "done":
        return "no result" if each is not None and each.state == "failed" else "to be done"
    dice, similarity = (figure.read(each) for figure in (FIGURES[0], FIGURES[2]))
    text = f"Dice {dice:.3f}" if math.isfinite(dice) else f"r {similarity:.3f}"
    text = (symbol(each.verdict) if each.verdict in LEVELS else "") + text
    if each.method == ALIGNMENT:
        return text
    path = quote(f"{each.folder}/report.html")
    return f'<a href="{escaped(path)}">{text}</a>'


def _settings(settings: Mapping[str, Parameters], measured: Sequence[Measured]) -> str:
    items = []
    for name, parameters in settings.items():
        usual = Parameters.from_preset(parameters.preset).to_dict()
        changed = [f"{key} = {value}" for key, value in parameters.to_dict().items() if value != usual[key]]
        run = dict.fromkeys(each.run for each in measured if each.method == name and each.run)
        citation = METHODS[parameters.method].citation
        items.append(
            f"<li><b>{escaped(name)}</b>: preset {escaped(parameters.preset)}"
            + (f"; {escaped(', '.join(changed))}" if changed else "")
            + "".join(f"; <code>{escaped(text)}</code>" for text in run)
            + (f". <cite>{escaped(citation)}</cite>" if citation else "")
            + "</li>"
        )
    return f"<section><h2>Settings</h2><ul>{''.join(items)}</ul></section>"
