# SPDX-License-Identifier: Apache-2.0
"""What methods reached over the same pairs, in figures: means and spreads, and paired differences to one of them."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from .comparison import ALIGNMENT, Measured
from .statistics import holm, wilcoxon


@dataclass(frozen=True)
class Figure:
    """A number of each pair: its name, what it is in words, how it is read, and digits behind the point."""

    name: str
    title: str
    read: Callable[[Measured], float]
    digits: int


def _landmarks(each: Measured) -> float:
    return each.figure("landmarks", "mean_after_mm")


# Of the alignment alone the state "after" is that before any deformation.
FIGURES = (
    Figure("dice", "Dice", lambda m: m.figure("mean_dice_after"), 4),
    Figure("landmarks_mm", "Landmarks, mm", _landmarks, 2),
    Figure("similarity", "Correlation", lambda m: m.figure("similarity_after"), 4),
    Figure("folds_strict", "Folded voxels", lambda m: m.figure("folds_strict", "count"), 1),
    Figure("sd_log_determinant", "Spread of log J", lambda m: m.figure("sd_log_determinant"), 3),
    Figure("inverse_error_p95_mm", "Inverse error, 95 %, mm", lambda m: m.figure("inverse_error_mm", "p95"), 3),
    Figure("seconds", "Seconds", lambda m: m.seconds, 2),
    Figure("memory_mb", "Memory, MB", lambda m: m.memory / 1e6 if m.memory else math.nan, 0),
)


@dataclass(frozen=True)
class Line:
    """A method: how many pairs it registered, by verdict, of how many; by figure its mean and standard deviation over
    these; and of figures that judge, the mean paired difference to the reference, its standard deviation, number of
    pairs, and p value after Holm's correction."""

    method: str
    done: int
    failed: int
    verdicts: Mapping[str, int]
    figures: Mapping[str, tuple[float, float]]
    differences: Mapping[str, tuple[float, float, int, float]]


JUDGING = ("dice", "landmarks_mm", "similarity")


def lines(measured: Iterable[Measured], reference: str) -> list[Line]:
    """A line for each method, in the order in which they come.

    Args:
        reference: the method that the others are compared with.

    Raises:
        InputError: SciPy is missing, and there is something to compare.
    """
    by_method: dict[str, list[Measured]] = {}
    for each in measured:
        by_method.setdefault(each.method, []).append(each)
    differences = {name: _differences(by_method, name, reference) for name in JUDGING}
    found = []
    for method, rows in by_method.items():
        done = [each for each in rows if each.state == "done"]
        figures = {f.name: spread([v for each in done if math.isfinite(v := f.read(each))]) for f in FIGURES}
        found.append(
            Line(
                method,
                len(done),
                sum(each.state == "failed" for each in rows),
                {level: sum(each.verdict == level for each in done) for level in ("good", "check", "failed")},
                {name: value for name, value in figures.items() if value is not None},
                {name: there[method] for name, there in differences.items() if method in there},
            )
        )
    return found


def spread(values: Sequence[float]) -> tuple[float, float] | None:
    """Mean and standard deviation; None without values."""
    if not values:
        return None
    return statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else 0.0


def _differences(
    by_method: Mapping[str, Sequence[Measured]], name: str, reference: str
) -> dict[str, tuple[float, float, int, float]]:
    read = next(figure.read for figure in FIGURES if figure.name == name)
    own = {each.pair: read(each) for each in by_method.get(reference, ()) if each.state == "done"}
    found, tests = {}, []
    for method, rows in by_method.items():
        if method in (reference, ALIGNMENT):
            continue
        both = [read(each) - own[each.pair] for each in rows if each.state == "done" and each.pair in own]
        both = [value for value in both if math.isfinite(value)]
        if both:
            found[method] = (*spread(both), len(both))
            tests.append(wilcoxon(both))
    return {method: (*value, p) for (method, value), p in zip(found.items(), holm(tests), strict=True)}


def structures(measured: Iterable[Measured]) -> dict[str, dict[str, list[float]]]:
    """Dice of each label by method, over the pairs that both images have it in: {label: {method: values}}."""
    found: dict[str, dict[str, list[float]]] = {}
    for each in measured:
        for label, row in (each.metrics.get("dice") or {}).items() if each.state == "done" else ():
            value = row.get("after")
            if isinstance(value, (int, float)):
                found.setdefault(str(label), {}).setdefault(each.method, []).append(float(value))
    return found


def plain_lines(found: Sequence[Line]) -> list[dict[str, Any]]:
    """For JSON; what is no number is None."""

    def number(value: float) -> float | None:
        return float(value) if np.isfinite(value) else None

    keys = ("mean", "sd", "pairs", "p_holm")
    return [
        {
            **{name: getattr(line, name) for name in ("method", "done", "failed")},
            "verdicts": dict(line.verdicts),
            "figures": {name: dict(zip(keys, map(number, value))) for name, value in line.figures.items()},
            "differences": {name: dict(zip(keys, map(number, value))) for name, value in line.differences.items()},
        }
        for line in found
    ]


def as_text(found: Sequence[Line], reference: str) -> str:
    """As a table to read."""
    shown = [figure for figure in FIGURES if any(figure.name in line.figures for line in found)]
    rows = [["", "pairs", *(figure.title for figure in shown)]]
    for line in found:
        cells = [line.method, str(line.done) + (f" (-{line.failed})" if line.failed else "")]
        rows.append([*cells, *(_cell(line, figure, reference) for figure in shown)])
    widths = [max(len(row[k]) for row in rows) for k in range(len(rows[0]))]
    return "\n".join(
        "  ".join(c.ljust(w) if k == 0 else c.rjust(w) for k, (c, w) in enumerate(zip(row, widths))).rstrip()
        for row in rows
    )


def _cell(line: Line, figure: Figure, reference: str) -> str:
    if figure.name not in line.figures:
        return ""
    mean, sd = line.figures[figure.name]
    text = f"{mean:.{figure.digits}f} ± {sd:.{figure.digits}f}"
    if figure.name == "dice" and figure.name in line.differences:
        difference, _, _, p = line.differences[figure.name]
        text += f" ({difference:+.4f}{'' if math.isnan(p) else f', p {p:.2g}'})"
    return text
