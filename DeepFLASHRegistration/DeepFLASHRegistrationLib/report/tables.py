# SPDX-License-Identifier: Apache-2.0
"""The tables of the report, as HTML."""

from __future__ import annotations

import dataclasses
import html
import math
import unicodedata
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ..imaging.grid import Grid
from ..imaging.volume import Volume
from ..registration.verdict_words import change

if TYPE_CHECKING:
    from ..problem.parameters import Parameters
    from ..registration.result import Result


_METRIC_NAMES = {
    "similarity_before": "Correlation in the mask, affine only",
    "similarity_after": "Correlation in the mask, registered",
    "mean_dice_before": "Mean Dice, affine only",
    "mean_dice_after": "Mean Dice, registered",
    "folds": "Folded voxels, central differences",
    "folds_strict": "Folded voxels, corner simplices",
    "smallest_determinant": "Smallest determinant",
    "largest_determinant": "Largest determinant",
    "sd_log_determinant": "Standard deviation of the log determinant",
    "inverse_error_mm": "Inverse-consistency error, mm",
    "geodesic_length_mm": "Geodesic length, mm",
    "largest_displacement_mm": "Largest displacement, mm",
    "overlap": "Overlap of the foregrounds (Dice)",
    "border_hits": "Fixed foreground mapped outside the moving image (fraction)",
    "voxel_mm": "Voxel edge (geometric mean), mm",
    "ndim": "Dimensions",
    "agreement": "Agreement inside both objects, on few cells",
    "reached": "similarity that was minimized",
    "floor": "the same, turned by half",
    "information": "mutual information",
    "information_floor": "mutual information, turned by half",
    "share": "part of the possible above what is reached turned by half",
    "turned": "axis of the half turn",
    "mirrored": "axis along which the mirrored image agrees better",
    "turn_degrees": "Turn of the alignment against the headers, degrees",
    "scale": "Scale of the alignment, or its inverse",
    "object_mm": "Edge of a cube as large as the fixed object, mm",
    "cut": "Outside the other field of view",
    "what": "what",
    "part": "part of it",
}


def label_section(dice: Mapping | None, changes: Mapping | None, ndim: int) -> str:
    """Dice and volumes per label, as metrics "dice" and "volume_change" have them; empty without either."""
    changes = {str(k): v for k, v in (changes or {}).items()}
    if not dice and not changes:
        return ""
    unit = "mm³" if ndim == 3 else "mm²"
    if dice:
        head = (
            "Label",
            "Dice before",
            "Dice after",
            "0 – 1",
            f"Moving, {unit}",
            f"Warped, {unit}",
            f"Fixed, {unit}",
            "Volume change",
        )
        rows = []
        for label, row in dice.items():
            before, after = row["before"], row["after"]
            cells = [escaped(label), _figure(before, ".3f"), _figure(after, ".3f"), _dumbbell(before, after)]
            cells += [_figure(row[f"volume_{which}_mm3"], ",.0f") for which in ("moving", "warped", "fixed")]
            percent = changes.get(str(label))
            rows.append((*cells, "–" if percent is None else change(float(percent))))
    else:
        head = ("Label", "Volume change")
        rows = [(escaped(label), change(float(percent))) for label, percent in changes.items()]
    cells = "".join(
        "<tr>" + f'<th scope="row">{r[0]}</th>' + "".join(f"<td>{c}</td>" for c in r[1:]) + "</tr>" for r in rows
    )
    titles = "".join(f"<th>{h}</th>" for h in head)
    table = f'<table class="numbers"><thead><tr>{titles}</tr></thead>{cells}</table>'
    note = "<p>Volume change is from the moving labels to the warped ones. "
    note += "A dash: the label is missing in one of the images, or too small to tell.</p>"
    return collapsible(f"Labels ({len(rows)})", note + table, opened=len(rows) <= 12)


def _dumbbell(before: float | None, after: float | None) -> str:
    if before is None or after is None:
        return ""
    a, b = 2 + 96 * before, 2 + 96 * after
    style = "up" if after >= before else "down"
    return (
        f'<svg class="dumbbell" viewBox="0 0 100 10" role="img" aria-label="{before:.2f} to {after:.2f}">'
        f'<path class="mesh" d="M2 5H98"/><path class="{style}" d="M{a:.1f} 5H{b:.1f}"/>'
        f'<circle class="before" cx="{a:.1f}" cy="5" r="2.4"/>'
        f'<circle class="{style}" cx="{b:.1f}" cy="5" r="3.2"/></svg>'
    )


def landmark_section(landmarks: Mapping | None) -> str:
    """Errors per pair, as the metric "landmarks" has them; empty without."""
    if not landmarks or not len(landmarks["after_mm"]):
        return ""
    pairs = list(zip(landmarks["before_mm"], landmarks["after_mm"]))
    names = landmarks.get("names") or [""] * len(pairs)
    steered = landmarks.get("steered")
    told = [""] * len(pairs) if steered is None else [f"<td>{'yes' if each else 'no'}</td>" for each in steered]
    rows = "".join(
        f'<tr><th scope="row">{escaped(name) or i}</th>'
        f"<td>{_figure(b, '.2f')}</td><td>{_figure(a, '.2f')}</td>{by}</tr>"
        for i, ((b, a), name, by) in enumerate(zip(pairs, names, told), 1)
    )
    more = "" if steered is None else "<th>Steered</th>"
    head = f"<thead><tr><th>Pair</th><th>Before, mm</th><th>After, mm</th>{more}</tr></thead>"
    table = f'<table class="numbers">{head}{rows}</table>'
    return collapsible(f"Landmarks ({len(pairs)})", table, opened=len(pairs) <= 12)


def channel_section(channels: Sequence[Mapping] | None) -> str:
    """How alike further images are, as the metric "channels" has it; empty without."""
    if not channels:
        return ""
    rows = "".join(
        f'<tr><th scope="row">{escaped(each["name"])}</th><td>{escaped(each["similarity"])}</td>'
        f"<td>{each['weight']:g}</td><td>{_figure(each['before'], '.3f')}</td><td>{_figure(each['after'], '.3f')}</td>"
        "</tr>"
        for each in channels
    )
    head = "".join(f"<th>{title}</th>" for title in ("Image", "Compared by", "Weight", "Before", "After"))
    note = "<p>How alike further images are, 1 for images that are alike: with the alignment alone, and registered.</p>"
    table = f'<table class="numbers"><thead><tr>{head}</tr></thead>{rows}</table>'
    return collapsible(f"Further images ({len(channels)})", note + table, opened=True)


def kept_section(kept: Mapping | None) -> str:
    """What became of structures that were to be kept, as the metric "kept" has it; empty without."""
    if not kept:
        return ""
    rows = [
        (
            f"Label {label}",
            f"distances changed by {found['mean_percent']:.2f} % on average, 95 % by at most {found['p95_percent']:.2f}"
            if found["kind"] == "rigid"
            else f"volume changed by {found['percent']:+.2f} %",
        )
        for label, found in kept.items()
    ]
    return collapsible(f"Kept structures ({len(rows)})", table_of(rows), opened=True)


def metric_rows(values: Mapping[str, Any], skip: Sequence[str] = ()) -> list[tuple[str, str]]:
    """A mapping, nested or not, as (name, value) text."""
    rows = []
    for key, value in values.items():
        if key in skip or value is None or value == "":
            continue
        name = _METRIC_NAMES.get(key, str(key))
        if isinstance(value, Mapping):
            rows += [(f"{name}: {inner}", text) for inner, text in metric_rows(value)]
        else:
            rows.append((name, _plain(value)))
    return rows


def parameter_table(parameters: Parameters) -> str:
    """Every setting with its unit and what it does."""
    rows = []
    for field in dataclasses.fields(parameters):
        unit = field.metadata.get("unit") or ""
        value = _plain(getattr(parameters, field.name))
        title = (field.metadata.get("titles") or {}).get(value)
        shown = f"{value}: {title}" if title else f"{value} {unit}".strip()
        rows.append((field.name, shown, field.metadata.get("help") or ""))
    return table_of(rows)


def provenance(result: Result, fixed: Volume, moving: Volume) -> str:
    """What the result was made from, by what, and how long each phase took."""
    rows = [
        ("fixed image", f"{fixed.name}, {_geometry(fixed.grid)}"),
        ("moving image", f"{moving.name}, {_geometry(moving.grid)}"),
    ]
    rows += metric_rows(result.provenance)
    total = max(total_seconds(result.timings), 1e-9)
    times = "".join(
        f'<tr><th scope="row">{escaped(phase)}</th><td>{duration(seconds)}</td>'
        f'<td><span class="bar" style="width:{100 * seconds / total:.1f}%"></span></td></tr>'
        for phase, seconds in result.timings.items()
        if phase != "total"
    )
    return table_of(rows) + f'<h3>Seconds per phase</h3><table class="times">{times}</table>'


def _plain(value: Any) -> str:
    if isinstance(value, (float, np.floating)):
        return f"{float(value):.5g}"
    if isinstance(value, np.ndarray):
        value = value.tolist()
    if isinstance(value, (list, tuple)):
        return ", ".join(_plain(v) for v in value)
    return str(value)


def _figure(value: Any, form: str) -> str:
    return "–" if value is None or not math.isfinite(value) else f"{value:{form}}"


def _geometry(grid: Grid) -> str:
    size = " × ".join(str(n) for n in grid.shape[::-1])
    spacing = " × ".join(f"{s:.4g}" for s in grid.spacing[::-1])
    return f"{size} voxels, {spacing} mm"


def total_seconds(timings: Mapping[str, float]) -> float:
    """Of all phases."""
    return float(timings["total"]) if "total" in timings else float(sum(timings.values()))


def duration(value: float) -> str:
    """Seconds in three digits or so."""
    return f"{value:.2f} s" if value < 10 else f"{value:.1f} s" if value < 100 else f"{value:.0f} s"


def table_of(rows: Sequence[tuple[str, ...]]) -> str:
    """Rows of texts, the first of each its heading."""
    body = ""
    for heading, *cells in rows:
        columns = "".join(f"<td>{escaped(cell)}</td>" for cell in cells)
        body += f'<tr><th scope="row">{escaped(heading)}</th>{columns}</tr>'
    return f"<table>{body}</table>"


def collapsible(title: str, content: str, opened: bool = False) -> str:
    """A block that opens by a click on its title."""
    head = f'<details class="block"{" open" if opened else ""}><summary><h2>{title}</h2></summary>'
    return f"{head}{content}</details>"


def escaped(value: Any) -> str:
    """Any value as HTML text: markup is shown, not obeyed, and so are control and direction characters."""
    text = str(value).encode("utf-8", "backslashreplace").decode("utf-8")  # undecodable bytes of file names
    text = "".join(c if unicodedata.category(c) not in ("Cc", "Cf", "Zl", "Zp") else f"\\u{ord(c):04x}" for c in text)
    return html.escape(text, quote=True)
