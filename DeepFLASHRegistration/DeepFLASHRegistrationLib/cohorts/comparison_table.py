# SPDX-License-Identifier: Apache-2.0
"""What methods reached over the same pairs, in figures: means and spreads, and paired differences to one of them."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from .comparison import ALIGNMENT, Measured
from .entrants import Entrant
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
    Figure("seconds_alone", "Seconds, method alone", lambda m: m.seconds_alone, 2),
    Figure("memory_mb", "Memory, MB", lambda m: m.memory / 1e6 if m.memory else math.nan, 0),
    Figure("gpu_memory_mb", "GPU memory, MB", lambda m: m.device_memory / 1e6 if m.device_memory else math.nan, 0),
)


@dataclass(frozen=True)
class Line:
    """A method on the pairs, or on them seen otherwise.

    Attributes:
        method, variant: as in Measured.
        done, failed: how many pairs it registered, and how many not.
        verdicts: how many by level.
        figures: by name mean and standard deviation over the pairs that it registered.
        differences: of figures that judge, the mean paired difference to the reference, its standard deviation, number
            of pairs, and p value after Holm's correction.
        share: of the reference's gain of Dice over the alignment, by the means over the pairs that both registered;
            None where there is none.
        model: what is known of its trained model (entrants.Entrant.model).
    """

    method: str
    variant: str
    done: int
    failed: int
    verdicts: Mapping[str, int]
    figures: Mapping[str, tuple[float, float]]
    differences: Mapping[str, tuple[float, float, int, float]]
    share: float | None = None
    model: Mapping[str, Any] = field(default_factory=dict)

    @property
    def title(self) -> str:
        """The method and how the pairs are seen."""
        return f"{self.method}, {self.variant}" if self.variant else self.method


JUDGING = ("dice", "landmarks_mm", "similarity")


def lines(measured: Iterable[Measured], reference: str, entrants: Iterable[Entrant] = ()) -> list[Line]:
    """A line for each method, and for each on the pairs seen otherwise, in the order in which they come.

    Args:
        reference: the method that the others are compared with, on the pairs as they are seen there.
        entrants: the methods.

    Raises:
        InputError: SciPy is missing, and there is something to compare.
    """
    by_line: dict[tuple[str, str], list[Measured]] = {}
    for each in measured:
        by_line.setdefault((each.method, each.variant), []).append(each)
    differences = {name: _differences(by_line, name, reference) for name in JUDGING}
    models = {each.name: each.model() for each in entrants}
    found = []
    for (method, variant), rows in by_line.items():
        done = [each for each in rows if each.state == "done"]
        figures = {f.name: spread([v for each in done if math.isfinite(v := f.read(each))]) for f in FIGURES}
        found.append(
            Line(
                method,
                variant,
                len(done),
                sum(each.state == "failed" for each in rows),
                {level: sum(each.verdict == level for each in done) for level in ("good", "check", "failed")},
                {name: value for name, value in figures.items() if value is not None},
                {name: there[method, variant] for name, there in differences.items() if (method, variant) in there},
                _share(*(_dice(by_line.get((name, variant), ())) for name in (method, reference, ALIGNMENT))),
                models.get(method, {}),
            )
        )
    return found


def _dice(rows: Iterable[Measured]) -> dict[str, float]:
    values = {each.pair: FIGURES[0].read(each) for each in rows if each.state == "done"}
    return {pair: value for pair, value in values.items() if math.isfinite(value)}


def _share(own: Mapping[str, float], reference: Mapping[str, float], start: Mapping[str, float]) -> float | None:
    """The part of the reference's gain that a method has, over the pairs that both have."""
    both = own.keys() & reference.keys() & start.keys()
    whole = sum(reference[pair] - start[pair] for pair in both)
    return sum(own[pair] - start[pair] for pair in both) / whole if whole > 0 else None


def spread(values: Sequence[float]) -> tuple[float, float] | None:
    """Mean and standard deviation; None without values."""
    if not values:
        return None
    return statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else 0.0


def _differences(
    by_line: Mapping[tuple[str, str], Sequence[Measured]], name: str, reference: str
) -> dict[tuple[str, str], tuple[float, float, int, float]]:
    read = next(figure.read for figure in FIGURES if figure.name == name)
    found, tests = {}, []
    for (method, variant), rows in by_line.items():
        if method in (reference, ALIGNMENT):
            continue
        own = {each.pair: read(each) for each in by_line.get((reference, variant), ()) if each.state == "done"}
        both = [read(each) - own[each.pair] for each in rows if each.state == "done" and each.pair in own]
        both = [value for value in both if math.isfinite(value)]
        if both:
            found[method, variant] = (*spread(both), len(both))
            tests.append(wilcoxon(both))
    return {line: (*value, p) for (line, value), p in zip(found.items(), holm(tests), strict=True)}


def dice_by_structure(measured: Iterable[Measured]) -> dict[str, dict[str, list[float]]]:
    """Dice of each structure by method, over the pairs that both images have it in: {name: {method: values}}."""
    found: dict[str, dict[str, list[float]]] = {}
    for each in measured:
        for name, value in each.structures.items():
            found.setdefault(name, {}).setdefault(each.title, []).append(value)
    return found


def plain_lines(found: Sequence[Line]) -> list[dict[str, Any]]:
    """For JSON; what is no number is None."""

    def number(value: float) -> float | None:
        return float(value) if np.isfinite(value) else None

    keys = ("mean", "sd", "pairs", "p_holm")
    return [
        {
            **{name: getattr(line, name) for name in ("method", "variant", "done", "failed")},
            "verdicts": dict(line.verdicts),
            "figures": {name: dict(zip(keys, map(number, value))) for name, value in line.figures.items()},
            "differences": {name: dict(zip(keys, map(number, value))) for name, value in line.differences.items()},
            "share_of_gain": line.share,
            "model": dict(line.model),
        }
        for line in found
    ]


# What of a trained model is known without registering anything, by its name in Entrant.model.
MODEL_FIGURES = {"weights_mb": "Weights, MB", "trained": "Training"}


def as_text(
    found: Sequence[Line], reference: str, by_structure: Mapping[str, Mapping[str, Sequence[float]]] | None = None
) -> str:
    """As a table to read, and one of structures where there are any: {name: {method: values}}."""
    shown = [figure for figure in FIGURES if any(figure.name in line.figures for line in found)]
    about = [name for name in MODEL_FIGURES if any(line.model.get(name) for line in found)]
    share = [f"of {reference}'s gain"] if any(line.share is not None for line in found) else []
    rows = [["", "pairs", *(figure.title for figure in shown), *share, *(MODEL_FIGURES[name] for name in about)]]
    for line in found:
        cells = [line.title, str(line.done) + (f" (-{line.failed})" if line.failed else "")]
        cells += [_cell(line, figure) for figure in shown]
        cells += [share_text(line) for _ in share] + [str(line.model.get(name) or "") for name in about]
        rows.append(cells)
    text = columns(rows)
    if by_structure:
        titles = [line.title for line in found]
        rows = [["", *titles]]
        for name, values in by_structure.items():
            cells = [spread(values.get(title, ())) for title in titles]
            rows.append([name, *("" if cell is None else f"{cell[0]:.4f} ± {cell[1]:.4f}" for cell in cells)])
        text += "\n\n" + columns(rows)
    return text


def share_text(line: Line) -> str:
    """The share of the reference's gain in words; nothing of the alignment, which has none."""
    return "" if line.share is None or line.method == ALIGNMENT else f"{100 * line.share:.0f} %"


def columns(rows: Sequence[Sequence[str]]) -> str:
    widths = [max(len(row[k]) for row in rows) for k in range(len(rows[0]))]
    return "\n".join(
        "  ".join(c.ljust(w) if k == 0 else c.rjust(w) for k, (c, w) in enumerate(zip(row, widths))).rstrip()
        for row in rows
    )


def _cell(line: Line, figure: Figure) -> str:
    if figure.name not in line.figures:
        return ""
    mean, sd = line.figures[figure.name]
    text = f"{mean:.{figure.digits}f} ± {sd:.{figure.digits}f}"
    if figure.name == "dice" and figure.name in line.differences:
        difference, _, _, p = line.differences[figure.name]
        text += f" ({difference:+.4f}{'' if math.isnan(p) else f', p {p:.2g}'})"
    return text
