# SPDX-License-Identifier: Apache-2.0
"""Line charts and histograms as SVG; what they look like is in style.py."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from .overlays import polylines
from .style import STYLE
from .tables import escaped

CHART_WIDTH, CHART_HEIGHT = 360, 220
_LEFT, _RIGHT, _TOP, _BOTTOM = 46, 12, 14, 34


@dataclass(frozen=True)
class Series:
    """One line of a chart: name, style class (s1, s2, s3 in the style sheet), values (nan is a gap)."""

    name: str
    style: str
    values: np.ndarray


def line_chart(series: Sequence[Series], segments: Sequence[int], x_title: str, y_title: str) -> str:
    """SVG of series over 1, 2, ...; segments: where a new level starts, lines break and a rule is drawn.

    The vertical axis is logarithmic if all values are positive and span more than a factor of 20.
    """
    series = [s for s in series if np.isfinite(s.values).any()]
    values = np.concatenate([s.values[np.isfinite(s.values)] for s in series])
    low, high = float(values.min()), float(values.max())
    logarithmic = low > 0 and high > 20 * low
    n = max(len(s.values) for s in series)
    if logarithmic:
        low, high = math.log10(low), math.log10(high)
        ticks = [e + math.log10(m) for e in range(math.floor(low), math.ceil(high) + 1) for m in (1, 2, 5)]
        inner = [t for t in ticks if low <= t <= high]
        if len(inner) > 6:
            inner = [t for t in inner if abs(t - round(t)) < 1e-9]
        labels = [(t, short(10**t)) for t in inner]
        series = [Series(s.name, s.style, np.log10(np.where(s.values > 0, s.values, np.nan))) for s in series]
    else:
        if high == low:
            low, high = low - 0.5 * (abs(low) or 1.0), high + 0.5 * (abs(high) or 1.0)
        labels = [(t, short(t)) for t in nice_ticks(low, high)]
    margin = 0.05 * (high - low)
    low, high = low - margin, high + margin
    x = _scale(0.5, n + 0.5, _LEFT, CHART_WIDTH - _RIGHT)
    y = _scale(low, high, CHART_HEIGHT - _BOTTOM, _TOP)
    parts = [_horizontal_rule(y(t), text) for t, text in labels]
    bounds = [*segments, n]
    for number, (start, stop) in enumerate(zip(bounds, bounds[1:]), 1):
        if start:
            at = x(start + 0.5)
            parts.append(f'<path class="rule" d="M{at:.1f} {_TOP}V{CHART_HEIGHT - _BOTTOM}"/>')
        if len(segments) > 1:
            middle = x((start + stop) / 2 + 0.5)
            parts.append(f'<text class="tick" x="{middle:.1f}" y="{_TOP - 4}" text-anchor="middle">{number}</text>')
    for s in series:
        lines = []
        for start, stop in zip(bounds, bounds[1:]):
            at = np.arange(start, min(stop, len(s.values)))
            lines.append(polylines(np.stack([x(at + 1.0), y(s.values[at])], axis=-1)[None]))
            if len(at) == 1 and np.isfinite(s.values[at[0]]):
                at_x, at_y = x(start + 1), y(s.values[start])
                parts.append(f'<circle class="dot {s.style}" cx="{at_x:.1f}" cy="{at_y:.1f}" r="2"/>')
        parts.append(f'<path class="line {s.style}" d="{"".join(lines)}"/>')
    steps = [int(t) for t in nice_ticks(1, max(n, 2)) if t == int(t) and 1 <= t <= n]
    if 1 not in steps and (not steps or steps[0] > 1 + n / 12):
        steps.insert(0, 1)
    return _frame(parts, [(x(t), str(t)) for t in steps], x_title, y_title)


def log_histogram(values: np.ndarray, limit: float, x_title: str, y_title: str) -> str:
    """SVG histogram of logarithms in percent; the axis, symmetric to +-limit, is labeled with the factors."""
    inside = np.clip(values, -limit, limit)
    bins = 48
    counts = np.bincount(np.minimum((inside + limit) * (bins / (2 * limit)), bins - 1).astype(np.intp), minlength=bins)
    percent = 100.0 * counts / max(1, values.size)
    top = max(float(percent.max()), 1e-3) * 1.05
    x = _scale(-limit, limit, _LEFT, CHART_WIDTH - _RIGHT)
    y = _scale(0.0, top, CHART_HEIGHT - _BOTTOM, _TOP)
    parts = [_horizontal_rule(y(t), short(t)) for t in nice_ticks(0.0, top)]
    width = (CHART_WIDTH - _LEFT - _RIGHT) / bins
    for i, value in enumerate(percent):
        if value:
            side = "low" if i < bins / 2 else "high"
            height = y(0.0) - y(value)
            parts.append(
                f'<rect class="{side}" x="{_LEFT + i * width + 0.3:.1f}" y="{y(value):.1f}" '
                f'width="{width - 0.6:.1f}" height="{height:.1f}"/>'
            )
    parts.append(f'<path class="rule" d="M{x(0.0):.1f} {_TOP}V{CHART_HEIGHT - _BOTTOM}"/>')
    return _frame(parts, [(x(at), text) for at, text in factor_ticks(limit)], x_title, y_title)


def box_chart(groups: Sequence[tuple[str, Sequence[float]]], y_title: str) -> str:
    """SVG of a box for each group of values, a name and finite numbers: quartiles and median; whiskers reach to the
    outermost value within one and a half times the box, and what lies beyond is dots (Tukey)."""
    groups = [(name, np.sort(np.asarray(values, dtype=float))) for name, values in groups if len(values)]
    every = np.concatenate([values for _, values in groups])
    low, high = float(every.min()), float(every.max())
    margin = 0.06 * (high - low or abs(high) or 1.0)
    y = _scale(low - margin, high + margin, CHART_HEIGHT - _BOTTOM, _TOP)
    x = _scale(0, len(groups), _LEFT, CHART_WIDTH - _RIGHT)
    half = min(16.0, 0.3 * (x(1) - x(0)))
    parts = [_horizontal_rule(y(t), short(t)) for t in nice_ticks(low - margin, high + margin)]
    for number, (_, values) in enumerate(groups):
        at = x(number + 0.5)
        first, median, third = np.percentile(values, [25, 50, 75])
        reach = 1.5 * (third - first)
        inside = values[(values >= first - reach) & (values <= third + reach)]
        bottom, top = (y(float(value)) for value in (inside.min(), inside.max()))
        parts.append(
            f'<path class="axis" d="M{at:.1f} {bottom:.1f}V{y(first):.1f}M{at:.1f} {top:.1f}V{y(third):.1f}"/>'
        )
        parts.append(
            f'<rect class="box" x="{at - half:.1f}" y="{y(third):.1f}" width="{2 * half:.1f}" '
            f'height="{max(y(first) - y(third), 0.5):.1f}"/>'
        )
        parts.append(f'<path class="line s1" d="M{at - half:.1f} {y(median):.1f}H{at + half:.1f}"/>')
        beyond = values[(values < first - reach) | (values > third + reach)]
        parts += [f'<circle class="dot s1" cx="{at:.1f}" cy="{y(float(v)):.1f}" r="2"/>' for v in beyond]
    # Names stand in two rows by turns, each as long as two boxes.
    most, bottom = max(6, int((x(2) - x(0)) / 5.8)), CHART_HEIGHT - _BOTTOM
    for number, (name, _) in enumerate(groups):
        shown = escaped(name if len(name) <= most else f"{name[: most - 1]}…")
        row = bottom + 14 + 13 * (number % 2 if len(groups) > 4 else 0)
        parts.append(f'<text class="tick" x="{x(number + 0.5):.1f}" y="{row}" text-anchor="middle">{shown}</text>')
    return _frame(parts, [], "", y_title)


def standalone(svg: str) -> str:
    """A chart as a file of its own: with the name space and the style that it has from the page elsewhere."""
    return svg.replace("<svg ", '<svg xmlns="http://www.w3.org/2000/svg" ', 1).replace(
        ">", f"><style>{STYLE}</style>", 1
    )


def factor_ticks(limit: float) -> list[tuple[float, str]]:
    """Where to mark an axis of logarithms from -limit to limit, and the factor to write there (1/2, 1, 2)."""
    choices = ((1.03,), (1.1, 1.2), (1.25, 1.5), (1.5, 2), (2, 3), (2, 4, 8), (4, 16))
    factors = next(c for c, top in zip(choices, (1.1, 1.3, 1.6, 2.2, 4, 9, math.inf)) if limit <= math.log(top))
    factors = [f for f in factors if math.log(f) <= limit * 1.001]
    ticks = [(math.log(f), f"{f:g}") for f in factors] + [(-math.log(f), f"1/{f:g}") for f in factors]
    return sorted([*ticks, (0.0, "1")])


def nice_ticks(low: float, high: float, wanted: int = 5) -> list[float]:
    """Round numbers (1, 2 or 5 times a power of ten apart) between two bounds, about `wanted` of them."""
    if not high > low:
        return [low]
    rough = (high - low) / wanted
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(m * power for m in (1, 2, 5, 10) if m * power >= rough * 0.999)
    first = math.ceil(low / step - 1e-9)
    return [i * step for i in range(first, math.floor(high / step + 1e-9) + 1)]


def short(value: float) -> str:
    """A number as an axis shows it: at most four characters or so."""
    if value != 0 and (abs(value) >= 1e5 or abs(value) < 1e-3):
        mantissa, exponent = f"{value:.0e}".split("e")
        return f"{mantissa}e{int(exponent)}"
    return f"{value:.3g}" if abs(value) < 1000 else f"{value:.0f}"


def _scale(low: float, high: float, start: float, stop: float) -> Callable:
    return lambda value: start + (value - low) * ((stop - start) / (high - low))


def _horizontal_rule(at: float, text: str) -> str:
    return (
        f'<path class="mesh" d="M{_LEFT} {at:.1f}H{CHART_WIDTH - _RIGHT}"/>'
        f'<text class="tick" x="{_LEFT - 5}" y="{at + 3.5:.1f}" text-anchor="end">{text}</text>'
    )


def _frame(parts: list[str], x_ticks: list[tuple[float, str]], x_title: str, y_title: str) -> str:
    bottom = CHART_HEIGHT - _BOTTOM
    middle = (_TOP + bottom) / 2
    for at, text in x_ticks:
        parts.append(f'<path class="axis" d="M{at:.1f} {bottom}v4"/>')
        parts.append(f'<text class="tick" x="{at:.1f}" y="{bottom + 14}" text-anchor="middle">{text}</text>')
    parts.append(f'<path class="axis" d="M{_LEFT} {bottom}H{CHART_WIDTH - _RIGHT}"/>')
    center = (_LEFT + CHART_WIDTH - _RIGHT) / 2
    parts.append(f'<text class="title" x="{center}" y="{CHART_HEIGHT - 4}" text-anchor="middle">{x_title}</text>')
    parts.append(
        f'<text class="title" transform="translate(9 {middle}) rotate(-90)" text-anchor="middle">{y_title}</text>'
    )
    return (
        f'<svg class="chart" viewBox="0 0 {CHART_WIDTH} {CHART_HEIGHT}" role="img" '
        f'aria-label="{y_title}{f" against {x_title}" if x_title else ""}">{"".join(parts)}</svg>'
    )
