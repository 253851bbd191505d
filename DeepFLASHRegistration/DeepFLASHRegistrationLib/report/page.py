# SPDX-License-Identifier: Apache-2.0
"""The page: what stands where in the report."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ..imaging.files import atomic
from ..imaging.intensities import without_padding
from ..imaging.volume import Volume
from ..problem.subject import Subject
from ..registration import verdict_words as words
from ..registration.verdict import mean
from .charts import Series, line_chart, log_histogram
from .pictures import Pictures
from .style import STYLE
from .tables import (
    channel_section,
    collapsible,
    duration,
    escaped,
    kept_section,
    label_section,
    landmark_section,
    metric_rows,
    parameter_table,
    provenance,
    table_of,
    total_seconds,
)
from .views import rough_foreground, thinned

if TYPE_CHECKING:
    from ..registration.result import Result


FILES = {
    "warped.nii.gz": "The moving image on the fixed image's grid, in its own intensities.",
    "labels.nii.gz": "The moving labels on the fixed image's grid.",
    "segmentation.seg.nrrd": "The moving segmentation there, with its names, colors and overlaps.",
    "fixed_to_moving.nii.gz": "Displacement field in LPS mm (ITK, intent 1006), affine included. "
    "Resamples images and labels onto the fixed image.",
    "moving_to_fixed.nii.gz": "Its inverse, from the same geodesic. Moves points and surfaces of the moving image.",
    "affine.tfm": "The affine part alone, fixed to moving, as an ITK transform.",
    "log_jacobian.nii.gz": "Natural logarithm of the determinant of fixed_to_moving: "
    "0 keeps volumes, 0.69 is twice the volume in the moving image.",
    "uncertainty.nii.gz": "By how many mm the prediction of fixed_to_moving scatters when it is made at random.",
    "velocity.safetensors": "The initial velocity and all that is needed to recompute every map, "
    "at any time and on any grid.",
    "result.json": "Metrics, parameters, convergence, timings and versions, for programs.",
    "report.html": "This report.",
}

_SYMBOLS = {
    "good": '<circle cx="12" cy="12" r="11"/><path d="M6.5 12.5l3.8 3.8 7.2-8"/>',
    "check": '<path class="fill" d="M12 1.5L23.3 21.8H.7Z"/><path d="M12 8.5v6.2M12 17.6v1.2"/>',
    "failed": '<path class="fill" d="M7.4.8h9.2l6.6 6.6v9.2l-6.6 6.6H7.4L.8 16.6V7.4Z"/><path d="M8 8l8 8M16 8l-8 8"/>',
}
_HEADLINES = {
    "good": ("Good", "Every criterion is met. Look at the pictures all the same."),
    "check": ("Check", "Usable, but look at what is listed here before you rely on it."),
    "failed": ("Failed", "Do not use this result before the points listed here are resolved."),
}


def write_report(
    path: str | os.PathLike[str],
    result: Result,
    fixed: Subject,
    moving: Subject,
    files: Collection[str] | None = None,
) -> None:
    """Writes the report of a registration as one HTML file; it appears complete or not at all.

    path: the file; result: what register() returned for `fixed` and `moving`; labels of the fixed
    subject, on any grid, are drawn beside the propagated ones; files: names of those beside the report, by default all
    that a result of images and label maps has. Raises OSError if the file cannot be written.
    """
    page = render(result, fixed, moving, files).encode("utf-8")
    with atomic(path) as temporary:
        temporary.write_bytes(page)


def render(result: Result, fixed: Subject, moving: Subject, files: Collection[str] | None = None) -> str:
    """The report's HTML text; arguments as for `write_report`."""
    metrics = result.metrics
    shown, _ = without_padding(fixed.image)
    names = [escaped(name) for name in _titles(fixed.name or "fixed image", moving.name or "moving image")]
    body = [
        f'<header><p class="kind">DeepFLASH registration report</p>'
        f"<h1>{names[1]} <span>onto</span> {names[0]}</h1>"
        f'<p class="sub">{_summary_line(result, fixed.image)}</p></header>',
        _verdict_section(result),
        _cards(metrics, result.timings),
        Pictures(result, shown, fixed.label_map).sections(),
        _charts(result, shown),
        label_section(metrics.get("dice"), metrics.get("volume_change"), result.fixed_grid.ndim),
        landmark_section(metrics.get("landmarks")),
        channel_section(metrics.get("channels")),
        kept_section(metrics.get("kept")),
        collapsible(
            "All metrics",
            table_of(metric_rows(metrics, skip=("dice", "volume_change", "landmarks", "channels", "kept", "unusual"))),
        ),
        collapsible("Parameters", parameter_table(result.parameters)),
        collapsible("Provenance and timings", provenance(result, fixed.image, moving.image)),
        _notes([*result.notes, *fixed.notes, *moving.notes]),
        _file_section(_usual(result) if files is None else files),
    ]
    # The policy makes sure that not even a hostile name could load or run anything.
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta http-equiv="Content-Security-Policy" content="default-src \'none\'; img-src data:; '
        "style-src 'unsafe-inline'\">"
        '<meta name="viewport" content="width=device-width, initial-scale=1"><meta name="color-scheme" '
        f'content="light dark"><title>{names[1]} onto {names[0]} – registration report</title>'
        f"<style>{STYLE}</style></head><body><main>{''.join(body)}</main></body></html>\n"
    )


def _titles(*names: str) -> list[str]:
    """Names as the heading shows them: of a path the file's name, and as many of its folders as tell it from others."""
    # "T1 w/o contrast" is no path.
    parts = [re.split(r"[/\\]", n) if re.search(r"\.[A-Za-z]+$", n) else [n] for n in names]
    count = 1
    while count < max(map(len, parts)) and len({tuple(p[-count:]) for p in parts}) < len(parts):
        count += 1
    return ["/".join(p[-count:]) for p in parts]


def _summary_line(result: Result, fixed: Volume) -> str:
    grid = result.fixed_grid
    size = " × ".join(str(n) for n in grid.shape[::-1])
    spacing = " × ".join(f"{s:.3g}" for s in grid.spacing[::-1])
    parts = [f"{size} voxels of {spacing} mm"]
    for key in ("date", "device"):
        if result.provenance.get(key):
            parts.append(escaped(result.provenance[key]))
    if result.timings:
        parts.append(f"{duration(total_seconds(result.timings))}")
    return " · ".join(parts)


def _verdict_section(result: Result) -> str:
    word, advice = _HEADLINES[result.verdict.level]
    found = result.verdict.criteria
    reasons = "".join(f"<li>{escaped(words.sentence(reason))}</li>" for reason in result.verdict.reasons)
    rows = "".join(
        f'<tr class="{c.level}"><td>{symbol(c.level)}</td><th scope="row">{escaped(words.title(c))}</th>'
        f"<td>{escaped(words.sentence(c))}</td><td>{escaped(words.limits(c))}</td></tr>"
        for c in found
    )
    head = "<thead><tr><td></td><th>Criterion</th><th>Finding</th><th>Limits</th></tr></thead>"
    table = f'<table class="criteria">{head}{rows}</table>'
    lists = f"<ul>{reasons}</ul>" if result.verdict.level != "good" else ""
    count = f"{sum(c.level == 'good' for c in found)} of {len(found)} criteria met"
    return (
        f'<section class="verdict {result.verdict.level}"><div class="head">{symbol(result.verdict.level)}'
        f"<div><h2>{word}</h2><p>{advice}</p></div></div>{lists}"
        f"<details><summary>{count}</summary>{table}</details></section>"
    )


def symbol(level: str) -> str:
    """The sign of a level of the verdict."""
    head = f'<svg class="symbol {level}" viewBox="0 0 24 24" role="img" aria-label="{level}">'
    return f"{head}{_SYMBOLS[level]}</svg>"


def _cards(metrics: Mapping[str, Any], timings: Mapping[str, float]) -> str:
    cards: list[tuple[str, str, str]] = []

    def from_to(name: str, before: Any, after: Any, form: str, unit: str = "") -> None:
        if before is not None and after is not None:
            cards.append((name, f"{after:{form}}{unit}", f"{before:{form}}{unit} before"))

    agreement = metrics.get("agreement")
    if agreement:
        note = f"{agreement['floor']:.2f} turned by half, where nothing lies right"
        cards.append(("Agreement inside", f"{agreement['reached']:.2f}", note))
    from_to("Correlation in the mask", metrics.get("similarity_before"), metrics.get("similarity_after"), ".3f")
    from_to("Mean Dice of labels", metrics.get("mean_dice_before"), metrics.get("mean_dice_after"), ".3f")
    landmarks = metrics.get("landmarks")
    if landmarks and len(landmarks["after_mm"]):
        from_to("Mean landmark error", mean(landmarks["before_mm"]), mean(landmarks["after_mm"]), ".2f", " mm")
    if metrics.get("folds") is not None:
        strict = metrics.get("folds_strict")
        note = f"{strict['count']} by the strict criterion" if strict is not None else "by central differences"
        cards.append(("Folded voxels", str(metrics["folds"]["count"]), note))
    if metrics.get("smallest_determinant") is not None:
        largest = metrics.get("largest_determinant")
        value = f"{metrics['smallest_determinant']:.2g}" + (f" … {largest:.2g}" if largest is not None else "")
        cards.append(("Determinant, range", value, "1 keeps volumes, ≤ 0 folds"))
    if metrics.get("inverse_error_mm") is not None:
        error = metrics["inverse_error_mm"]
        cards.append(
            (
                "Inverse error, mean",
                f"{error['mean']:.2g} mm",
                f"95 % below {error['p95']:.2g}, max {error['max']:.2g}",
            )
        )
    if metrics.get("largest_displacement_mm") is not None:
        cards.append(("Largest displacement", f"{metrics['largest_displacement_mm']:.1f} mm", "affine included"))
    if timings:
        cards.append(("Time", duration(total_seconds(timings)), "all phases"))
    inner = "".join(
        f'<div class="card"><p class="name">{escaped(n)}</p><p class="value">{escaped(v)}</p>'
        f'<p class="note">{escaped(t)}</p></div>'
        for n, v, t in cards
    )
    return f'<section class="cards">{inner}</section>'


def _charts(result: Result, fixed: Volume) -> str:
    charts = []
    history = result.history
    if history:
        segments = [i for i, h in enumerate(history) if i == 0 or h["level"] != history[i - 1]["level"]]

        def column(key: str) -> np.ndarray:
            return np.array([h.get(key, math.nan) for h in history], dtype=np.float64)

        energy = [
            Series("energy", "s1", column("energy")),
            Series("dissimilarity, weighted", "s2", column("energy") - column("regularization")),
            Series("regularization", "s3", column("regularization")),
        ]
        energy = [s for s in energy if np.isfinite(s.values).any()]
        x_title = "accepted iterations" + (", by level" if len(segments) > 1 else "")
        if energy:
            keys = "".join(f'<span class="key"><i class="stroke {s.style}"></i>{s.name}</span>' for s in energy)
            charts.append((line_chart(energy, segments, x_title, "energy"), keys))
        smallest = column("smallest_determinant")
        if np.isfinite(smallest).any():
            series = [Series("smallest determinant", "s1", smallest)]
            caption = "Smallest Jacobian determinant on the way; at 0 the map would fold."
            charts.append((line_chart(series, segments, x_title, "smallest determinant"), caption))
    data = result.log_jacobian.data
    part = thinned(data)
    values = data[part][rough_foreground(fixed.data[part])]
    values = values[np.isfinite(values)]
    if values.size:
        limit = min(max(float(np.percentile(np.abs(values), 99.8)) * 1.1, math.log(1.2)), math.log(32.0))
        caption = "Jacobian determinant in the fixed foreground; "
        caption += f"the standard deviation of its logarithm is {values.std():.2f}."
        charts.append((log_histogram(values, limit, "determinant", "percent of voxels"), caption))
    if not charts:
        return ""
    inner = "".join(f"<figure>{chart}<figcaption>{caption}</figcaption></figure>" for chart, caption in charts)
    return f'<section><h2>Convergence and distribution</h2><div class="charts">{inner}</div></section>'


def _notes(notes: Sequence[str]) -> str:
    unique = list(dict.fromkeys(notes))
    if not unique:
        return ""
    return f"<section><h2>Notes</h2><ul>{''.join(f'<li>{escaped(note)}</li>' for note in unique)}</ul></section>"


def _usual(result: Result) -> list[str]:
    there = {"labels.nii.gz": result.labels is not None, "uncertainty.nii.gz": result.uncertainty is not None}
    return [n for n in FILES if n != "segmentation.seg.nrrd" and there.get(n, True)]


def _file_section(files: Collection[str]) -> str:
    rows = [(name, FILES[name]) for name in files]
    return f'<section class="files"><h2>Files beside this report</h2>{table_of(rows)}</section>'
