# SPDX-License-Identifier: Apache-2.0
"""The report: one HTML file with everything inside.

The file loads nothing from anywhere and runs no script; it opens in any browser, in light and dark, and
prints.
"""

from __future__ import annotations

import dataclasses
import html
import math
import os
import re
import unicodedata
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from . import figures
from .imaging.files import atomic
from .imaging.grid import Grid
from .imaging.volume import Volume
from .metrics import folded_voxels
from .verdict import Verdict, change, criteria, mean, verdict

if TYPE_CHECKING:
    from .registration import Result

__all__ = ["FILES", "Verdict", "render", "verdict", "write_report"]

# What the output folder holds -------------------------------------------------------------------------------

FILES = {
    "warped.nii.gz": "The moving image on the fixed image's grid, in its own intensities.",
    "labels.nii.gz": "The moving labels on the fixed image's grid.",
    "fixed_to_moving.nii.gz": "Displacement field in LPS mm (ITK, intent 1006), affine included. "
    "Resamples images and labels onto the fixed image.",
    "moving_to_fixed.nii.gz": "Its inverse, from the same geodesic. Moves points and surfaces of the moving image.",
    "affine.tfm": "The affine part alone, fixed to moving, as an ITK transform.",
    "log_jacobian.nii.gz": "Natural logarithm of the determinant of fixed_to_moving: "
    "0 keeps volumes, 0.69 is twice the volume in the moving image.",
    "velocity.safetensors": "The initial velocity and all that is needed to recompute every map, "
    "at any time and on any grid.",
    "result.json": "Metrics, parameters, convergence, timings and versions, for programs.",
    "report.html": "This report.",
}


# The report -------------------------------------------------------------------------------------------------


def write_report(
    path: str | os.PathLike[str],
    result: Result,
    fixed: Volume,
    moving: Volume,
    fixed_labels: Volume | None = None,
) -> None:
    """Writes the report of a registration as one HTML file; it appears complete or not at all.

    path: the file; result: what register() returned for the images `fixed` and `moving`; fixed_labels: labels
    of the fixed image, on any grid, to draw beside the propagated ones. Raises OSError if the file cannot be
    written.
    """
    page = render(result, fixed, moving, fixed_labels).encode("utf-8")
    with atomic(path) as temporary:
        temporary.write_bytes(page)


def render(result: Result, fixed: Volume, moving: Volume, fixed_labels: Volume | None = None) -> str:
    """The report's HTML text; arguments as for `write_report`."""
    metrics = result.metrics
    names = [_text(name) for name in _titles(fixed.name or "fixed image", moving.name or "moving image")]
    body = [
        f'<header><p class="kind">DeepFLASH registration report</p>'
        f"<h1>{names[1]} <span>onto</span> {names[0]}</h1>"
        f'<p class="sub">{_summary_line(result, fixed)}</p></header>',
        _verdict_section(result),
        _cards(metrics, result.timings),
        _Pictures(result, fixed, fixed_labels).sections(),
        _charts(result, fixed),
        _label_section(metrics.get("dice"), metrics.get("volume_change"), result.fixed_grid.ndim),
        _landmark_section(metrics.get("landmarks")),
        _details("All metrics", _table(_rows(metrics, skip=("dice", "volume_change", "landmarks")))),
        _details("Parameters", _parameter_table(result.parameters)),
        _details("Provenance and timings", _provenance(result, fixed, moving)),
        _notes([*result.notes, *fixed.notes, *moving.notes]),
        _file_section(result),
    ]
    # The policy makes sure that not even a hostile name could load or run anything.
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta http-equiv="Content-Security-Policy" content="default-src \'none\'; img-src data:; '
        "style-src 'unsafe-inline'\">"
        '<meta name="viewport" content="width=device-width, initial-scale=1"><meta name="color-scheme" '
        f'content="light dark"><title>{names[1]} onto {names[0]} – registration report</title>'
        f"<style>{_STYLE}</style></head><body><main>{''.join(body)}</main></body></html>\n"
    )


def _titles(*names: str) -> list[str]:
    """Names as the heading shows them: of a path the file's name, and as many of its folders as tell it from others."""
    # "T1 w/o contrast" is no path.
    parts = [re.split(r"[/\\]", n) if re.search(r"\.[A-Za-z]+$", n) else [n] for n in names]
    count = 1
    while count < max(map(len, parts)) and len({tuple(p[-count:]) for p in parts}) < len(parts):
        count += 1
    return ["/".join(p[-count:]) for p in parts]


def _text(value: Any) -> str:
    """Any value as HTML text: markup is shown, not obeyed, and so are control and direction characters."""
    text = str(value).encode("utf-8", "backslashreplace").decode("utf-8")  # undecodable bytes of file names
    text = "".join(c if unicodedata.category(c) not in ("Cc", "Cf", "Zl", "Zp") else f"\\u{ord(c):04x}" for c in text)
    return html.escape(text, quote=True)


def _summary_line(result: Result, fixed: Volume) -> str:
    grid = result.fixed_grid
    size = " × ".join(str(n) for n in grid.shape[::-1])
    spacing = " × ".join(f"{s:.3g}" for s in grid.spacing[::-1])
    parts = [f"{size} voxels of {spacing} mm"]
    for key in ("date", "device"):
        if result.provenance.get(key):
            parts.append(_text(result.provenance[key]))
    if result.timings:
        parts.append(f"{_seconds(_total(result.timings))}")
    return " · ".join(parts)


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


def _symbol(level: str) -> str:
    head = f'<svg class="symbol {level}" viewBox="0 0 24 24" role="img" aria-label="{level}">'
    return f"{head}{_SYMBOLS[level]}</svg>"


def _verdict_section(result: Result) -> str:
    word, advice = _HEADLINES[result.verdict.level]
    found = criteria(result.metrics, result.cancelled)
    reasons = "".join(f"<li>{_text(reason)}</li>" for reason in result.verdict.reasons)
    rows = "".join(
        f'<tr class="{c.level}"><td>{_symbol(c.level)}</td><th scope="row">{_text(c.name)}</th>'
        f"<td>{_text(c.sentence)}</td><td>{_text(c.limits)}</td></tr>"
        for c in found
    )
    head = "<thead><tr><td></td><th>Criterion</th><th>Finding</th><th>Limits</th></tr></thead>"
    table = f'<table class="criteria">{head}{rows}</table>'
    lists = f"<ul>{reasons}</ul>" if result.verdict.level != "good" else ""
    count = f"{sum(c.level == 'good' for c in found)} of {len(found)} criteria met"
    return (
        f'<section class="verdict {result.verdict.level}"><div class="head">{_symbol(result.verdict.level)}'
        f"<div><h2>{word}</h2><p>{advice}</p></div></div>{lists}"
        f"<details><summary>{count}</summary>{table}</details></section>"
    )


def _cards(metrics: Mapping[str, Any], timings: Mapping[str, float]) -> str:
    cards: list[tuple[str, str, str]] = []

    def from_to(name: str, before: Any, after: Any, form: str, unit: str = "") -> None:
        if before is not None and after is not None:
            cards.append((name, f"{after:{form}}{unit}", f"{before:{form}}{unit} before"))

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
        cards.append(("Time", _seconds(_total(timings)), "all phases"))
    inner = "".join(
        f'<div class="card"><p class="name">{_text(n)}</p><p class="value">{_text(v)}</p>'
        f'<p class="note">{_text(t)}</p></div>'
        for n, v, t in cards
    )
    return f'<section class="cards">{inner}</section>'


class _Pictures:
    """The slices of one report: cut once, drawn once, referred to where they come again."""

    def __init__(self, result: Result, fixed: Volume, fixed_labels: Volume | None) -> None:
        self.result = result
        self.fixed = fixed
        self.grid: Grid = result.fixed_grid
        self.views = figures.views(self.grid)
        self.index = figures.foreground_center(fixed.data)
        images = (fixed.data, result.moving_affine.data, result.warped.data)
        cuts = [[view.cut(data, self.index) for view in self.views] for data in images]
        self.limits = figures.window(cuts[0]), figures.window([*cuts[1], *cuts[2]])
        self.gray = [[figures.gray(c, self.limits[min(i, 1)]) for c in row] for i, row in enumerate(cuts)]
        self.labels = result.labels
        self.fixed_labels = fixed_labels
        self.logs = [view.cut(result.log_jacobian.data, self.index) for view in self.views]
        found = np.concatenate([np.abs(log[np.isfinite(log)]) for log in self.logs])
        spread = float(np.percentile(found, 99.5)) if found.size else 0.0
        self.limit = min(max(spread, math.log(1.2)), math.log(8.0))
        counts = [result.metrics.get(key) for key in ("folds", "folds_strict")]
        self.folds = any(count and count["count"] for count in counts)
        self.folded = [self._folded(k) for k in range(len(self.views))]

    def sections(self) -> str:
        three = self.grid.ndim == 3
        where = "Slices through the middle of the fixed image's foreground." if three else ""
        return (
            self._section(
                "Images",
                [
                    ("Fixed", self._fixed),
                    ("Moving, affine only", self._before),
                    ("Moving, registered", self._warped),
                ],
                f"{where} {self._convention()} Both pictures of the moving image share one gray scale. "
                '<span class="screen">Point at a registered picture to see the fixed image there.</span>',
            )
            + self._section(
                "What is left",
                [
                    ("Difference before", lambda k: self._difference(k, 1)),
                    ("Difference after", lambda k: self._difference(k, 2)),
                    ("Checkerboard, fixed and registered", self._checkerboard),
                ],
                '<span class="key"><i class="orange"></i>registered brighter</span>'
                '<span class="key"><i class="blue"></i>fixed brighter</span> '
                "Each image on its own gray scale; "
                "between different contrasts the differences say little, the edges in the checkerboard more.",
            )
            + self._section("Deformation", self._deformation_columns(), self._deformation_caption())
        )

    def _section(self, title: str, columns: list[tuple[str, Callable[[int], str]]], caption: str) -> str:
        head = "".join(f'<p class="column">{name}</p>' for name, _ in columns)
        cells = "".join(draw(k) for k in range(len(self.views)) for _, draw in columns)
        return (
            f'<section class="pictures"><h2>{title}</h2><figure><div class="panels c{len(columns)}">'
            f"{head}{cells}</div><figcaption>{caption}</figcaption></figure></section>"
        )

    def _panel(self, k: int, name: str, content: str, index: tuple[int, ...] | None = None) -> str:
        """One picture, at `index` or where all are: SVG in pixel units of the slice, shown in millimeters."""
        view, (rows, columns) = self.views[k], self.gray[0][k].shape
        across, down = self.grid.spacing[view.across], self.grid.spacing[view.down]
        width, height = columns * across, rows * down
        size = 0.052 * width  # panels are equally wide on the page, and so are their letters
        left, right, top, bottom = view.letters
        letters = "".join(
            f'<text x="{x:.2f}" y="{y:.2f}" text-anchor="{anchor}">{letter}</text>'
            for letter, x, y, anchor in (
                (left, 0.3 * size, height / 2 + 0.35 * size, "start"),
                (right, width - 0.3 * size, height / 2 + 0.35 * size, "end"),
                (top, width / 2, size, "middle"),
                (bottom, width / 2, height - 0.35 * size, "middle"),
            )
            if letter
        )
        place = f'<text x="{0.35 * size:.2f}" y="{0.8 * size:.2f}" font-size="{0.72 * size:.2f}">'
        place += f"{self._place(view, index or self.index)}</text>"
        label = f"{name}, {view.name}" if view.name else name
        return (
            f'<svg class="panel" viewBox="0 0 {width:.3f} {height:.3f}" role="img" aria-label="{label}">'
            f'<g transform="scale({across:.6g} {down:.6g})">{content}</g>'
            f'<g class="letters" font-size="{size:.2f}">{letters}{place}</g></svg>'
        )

    def _place(self, view: figures.View, index: tuple[int, ...]) -> str:
        if view.normal is None:
            return view.name
        axis = ("sagittal", "coronal", "axial").index(view.name)
        at = float(self.grid.index_to_physical(np.array(index))[axis])
        return f"{view.name} {'LPS'[axis] if at >= 0 else 'RAI'[axis]} {abs(at):.0f} mm"

    def _image(self, pixels: np.ndarray, name: str = "") -> str:
        rows, columns = pixels.shape[:2]
        identity = f' id="{name}"' if name else ""
        return (
            f'<image{identity} width="{columns}" height="{rows}" preserveAspectRatio="none" '
            f'href="{figures.data_uri(pixels)}"/>'
        )

    def _fixed(self, k: int) -> str:
        return self._panel(k, "fixed", self._image(figures.to_bytes(self.gray[0][k]), f"fixed{k}"))

    def _before(self, k: int) -> str:
        return self._panel(k, "moving, affine only", self._image(figures.to_bytes(self.gray[1][k])))

    def _warped(self, k: int) -> str:
        warped = self._image(figures.to_bytes(self.gray[2][k]), f"warped{k}")
        return self._panel(k, "moving, registered", f'{warped}<use class="flip" href="#fixed{k}"/>')

    def _difference(self, k: int, which: int) -> str:
        name = ("difference before", "difference after")[which - 1]
        return self._panel(k, name, self._image(figures.difference_picture(self.gray[which][k], self.gray[0][k])))

    def _checkerboard(self, k: int) -> str:
        view, spacing = self.views[k], self.grid.spacing
        rows, columns = self.gray[0][k].shape
        edge = max(rows * spacing[view.down], columns * spacing[view.across]) / 9
        tile = edge / spacing[view.down], edge / spacing[view.across]
        return self._panel(k, "checkerboard", self._image(figures.checkerboard(self.gray[0][k], self.gray[2][k], tile)))

    def _convention(self) -> str:
        if not any(v.name for v in self.views):
            return ""
        tilt = max(v.tilt for v in self.views)
        text = "The patient's right is on the left (radiological convention)."
        if tilt > 1:
            text += f" The slices follow the fixed image's own axes, up to {tilt:.0f}° off the patient's."
        return text

    def _deformation_columns(self) -> list[tuple[str, Callable[[int], str]]]:
        columns = [
            ("Deformation grid on the registered", self._deformation_grid),
            ("Jacobian determinant", self._jacobian),
        ]
        if self.labels is not None:
            columns.append(
                ("Label outlines on the fixed" if self.fixed_labels else "Propagated labels", self._outlines)
            )
        return columns

    def _deformation_grid(self, k: int) -> str:
        result = self.result
        path = figures.deformation_grid(
            self.views[k], self.index, self.grid, result.affine, result.moving_to_fixed, result.inverse_grid
        )
        return self._panel(
            k, "deformation grid", f'<use class="dim" href="#warped{k}"/><path class="grid" d="{path}"/>'
        )

    def _jacobian(self, k: int) -> str:
        folded = self.folded[k]
        pixels = figures.determinant_picture(self.gray[0][k], self.logs[k], self.limit, folded)
        outline = f'<path class="fold" d="{figures.outline_path(*figures.outline(folded))}"/>' if folded.any() else ""
        return self._panel(k, "Jacobian determinant", self._image(pixels) + outline)

    def _folded(self, k: int) -> np.ndarray:
        """Folded pixels of a slice; by the strict criterion too if the field's grid continues the fixed."""
        folded = ~np.isfinite(self.logs[k])
        if not self.folds:
            return folded
        view, grid, outer = self.views[k], self.grid, self.result.field_grid
        start = outer.physical_to_index(grid.origin)
        offset = np.rint(start).astype(int)
        near = np.abs(start - offset).max() < 1e-3 and np.allclose(
            outer.affine[:-1, :-1], grid.affine[:-1, :-1], atol=1e-4
        )
        if not near or (offset < 0).any() or (offset + grid.shape > outer.shape).any():
            return folded
        box = [slice(o, o + n) for o, n in zip(offset, grid.shape)]
        middle = list(self.index)
        if view.normal is not None:
            at = int(offset[view.normal]) + self.index[view.normal]
            low, high = max(at - 1, 0), min(at + 2, outer.shape[view.normal])
            box[view.normal] = slice(low, high)
            middle[view.normal] = at - low
        part = self.result.fixed_to_moving[tuple(box)]
        return folded | view.cut(folded_voxels(part, Grid(part.shape[:-1], grid.affine)), middle)

    def _outlines(self, k: int) -> str:
        view, index = self.views[k], self._labeled_index(self.views[k])
        content = f'<use class="dim" href="#fixed{k}"/>'
        if index != self.index:
            other = figures.gray(view.cut(self.fixed.data, index), self.limits[0])
            content = self._image(figures.to_bytes(0.6 * other))
        edges = {"propagated": figures.outline(view.cut(self.labels.data, index))}
        if self.fixed_labels is not None:
            own = figures.outline(self._label_slice(self.fixed_labels, view, index))
            pairs = list(zip(own, edges["propagated"]))
            edges = {
                "own": tuple(a & ~b for a, b in pairs),
                "propagated": tuple(b & ~a for a, b in pairs),
                "both": tuple(a & b for a, b in pairs),
            }
        for name, found in edges.items():
            content += f'<path class="outline {name}" d="{figures.outline_path(*found)}"/>'
        return self._panel(k, "label outlines", content, index)

    def _labeled_index(self, view: figures.View) -> tuple[int, ...]:
        """The voxel that all pictures pass through; moved to where most labels are if its slice has none."""
        if view.normal is None or view.cut(self.labels.data, self.index).any():
            return self.index
        counts = np.count_nonzero(self.labels.data, axis=tuple(a for a in range(3) if a != view.normal))
        fullest = int(counts.argmax()) if counts.any() else self.index[view.normal]
        return (*self.index[: view.normal], fullest, *self.index[view.normal + 1 :])

    def _label_slice(self, labels: Volume, view: figures.View, index: Sequence[int]) -> np.ndarray:
        """Slice of labels on any grid, at the voxels of the fixed grid: nearest neighbor, 0 outside."""
        if labels.grid.same_as(self.grid):
            return view.cut(labels.data, index)
        shape = self.grid.shape
        rows, columns = np.indices((shape[view.down], shape[view.across])) + 0.5
        points = self.grid.index_to_physical(view.place(columns, rows, index, shape))
        at = np.rint(labels.grid.physical_to_index(points)).astype(int)
        inside = np.all((at >= 0) & (at < labels.grid.shape), axis=-1)
        found = labels.data[tuple(np.where(inside[..., None], at, 0)[..., a] for a in range(self.grid.ndim))]
        return np.where(inside, found, 0)

    def _deformation_caption(self) -> str:
        gradient = np.linspace(-1, 1, 181, dtype=np.float32)[None]
        strip = figures.determinant_picture(np.full_like(gradient, 0.5), gradient, 1.0, np.zeros(gradient.shape, bool))
        ticks = figures.factor_ticks(self.limit)
        marks = "".join(
            f'<path d="M{x:.1f} 13v4"/><text x="{x:.1f}" y="27">{t}</text>'
            for x, t in ((30 + 90 * (1 + at / self.limit), t) for at, t in ticks)
        )
        legend = (
            '<svg class="legend" viewBox="0 0 240 30" role="img" aria-label="color scale of the determinant">'
            f'<image x="30" width="180" height="12" preserveAspectRatio="none" '
            f'href="{figures.data_uri(strip)}"/>{marks}</svg>'
        )
        size = float(np.linalg.det(self.result.affine[:-1, :-1]))
        lines = [
            f"{legend} Determinant of fixed to moving, on a logarithmic scale: "
            '<span class="key"><i class="blue"></i>smaller in the moving image</span>'
            '<span class="key"><i class="orange"></i>larger in the moving image</span> '
            f"It includes the affine part, which has {size:.3g} everywhere."
        ]
        if self.folds:
            seen = "outlined in black" if any(f.any() for f in self.folded) else "none in these slices"
            lines[0] += f' <span class="key"><i class="fold"></i>folded voxels ({seen})</span>'
        lines.append("The grid is a regular one on the moving image after the affine part, carried along with it.")
        if self.labels is not None and self.fixed_labels is not None:
            lines.append(
                'Label outlines: <span class="key"><i class="line white"></i>both agree</span>'
                '<span class="key"><i class="line sky"></i>fixed image only</span>'
                '<span class="key"><i class="line orange"></i>propagated only</span>'
            )
        return "<br>".join(lines)


def _charts(result: Result, fixed: Volume) -> str:
    charts = []
    history = result.history
    if history:
        segments = [i for i, h in enumerate(history) if i == 0 or h["level"] != history[i - 1]["level"]]

        def column(key: str) -> np.ndarray:
            return np.array([h.get(key, math.nan) for h in history], dtype=np.float64)

        energy = [
            figures.Series("energy", "s1", column("energy")),
            figures.Series("similarity term", "s2", column("similarity")),
            figures.Series("regularization", "s3", column("regularization")),
        ]
        energy = [s for s in energy if np.isfinite(s.values).any()]
        x_title = "accepted iterations" + (", by level" if len(segments) > 1 else "")
        if energy:
            keys = "".join(f'<span class="key"><i class="stroke {s.style}"></i>{s.name}</span>' for s in energy)
            charts.append((figures.line_chart(energy, segments, x_title, "energy"), keys))
        smallest = column("smallest_determinant")
        if np.isfinite(smallest).any():
            series = [figures.Series("smallest determinant", "s1", smallest)]
            caption = "Smallest Jacobian determinant on the way; at 0 the map would fold."
            charts.append((figures.line_chart(series, segments, x_title, "smallest determinant"), caption))
    data = result.log_jacobian.data
    part = figures.thinned(data)
    values = data[part][figures.rough_foreground(fixed.data[part])]
    values = values[np.isfinite(values)]
    if values.size:
        limit = min(max(float(np.percentile(np.abs(values), 99.8)) * 1.1, math.log(1.2)), math.log(32.0))
        caption = "Jacobian determinant in the fixed foreground; "
        caption += f"the standard deviation of its logarithm is {values.std():.2f}."
        charts.append((figures.log_histogram(values, limit, "determinant", "percent of voxels"), caption))
    if not charts:
        return ""
    inner = "".join(f"<figure>{chart}<figcaption>{caption}</figcaption></figure>" for chart, caption in charts)
    return f'<section><h2>Convergence and distribution</h2><div class="charts">{inner}</div></section>'


def _label_section(dice: Mapping | None, changes: Mapping | None, ndim: int) -> str:
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
            cells = [_text(label), _figure(before, ".3f"), _figure(after, ".3f"), _dumbbell(before, after)]
            cells += [_figure(row[f"volume_{which}_mm3"], ",.0f") for which in ("moving", "warped", "fixed")]
            percent = changes.get(str(label))
            rows.append((*cells, "–" if percent is None else change(float(percent))))
    else:
        head = ("Label", "Volume change")
        rows = [(_text(label), change(float(percent))) for label, percent in changes.items()]
    cells = "".join(
        "<tr>" + f'<th scope="row">{r[0]}</th>' + "".join(f"<td>{c}</td>" for c in r[1:]) + "</tr>" for r in rows
    )
    titles = "".join(f"<th>{h}</th>" for h in head)
    table = f'<table class="numbers"><thead><tr>{titles}</tr></thead>{cells}</table>'
    note = "<p>Volume change is from the moving labels to the warped ones. "
    note += "A dash: the label is missing in one of the images, or too small to tell.</p>"
    return _details(f"Labels ({len(rows)})", note + table, opened=len(rows) <= 12)


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


def _landmark_section(landmarks: Mapping | None) -> str:
    if not landmarks or not len(landmarks["after_mm"]):
        return ""
    pairs = list(zip(landmarks["before_mm"], landmarks["after_mm"]))
    rows = "".join(
        f'<tr><th scope="row">{i}</th><td>{_figure(b, ".2f")}</td><td>{_figure(a, ".2f")}</td></tr>'
        for i, (b, a) in enumerate(pairs, 1)
    )
    head = "<thead><tr><th>Pair</th><th>Before, mm</th><th>After, mm</th></tr></thead>"
    table = f'<table class="numbers">{head}{rows}</table>'
    return _details(f"Landmarks ({len(pairs)})", table, opened=len(pairs) <= 12)


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
}


def _rows(values: Mapping[str, Any], skip: Sequence[str] = ()) -> list[tuple[str, str]]:
    """A mapping, nested or not, as (name, value) text."""
    rows = []
    for key, value in values.items():
        if key in skip or value is None:
            continue
        name = _METRIC_NAMES.get(key, str(key))
        if isinstance(value, Mapping):
            rows += [(f"{name}: {inner}", text) for inner, text in _rows(value)]
        else:
            rows.append((name, _plain(value)))
    return rows


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


def _parameter_table(parameters: Any) -> str:
    if not dataclasses.is_dataclass(parameters):
        return _table(_rows(dict(parameters)))
    rows = []
    for field in dataclasses.fields(parameters):
        unit = field.metadata.get("unit") or ""
        value = _plain(getattr(parameters, field.name))
        rows.append((field.name, f"{value} {unit}".strip(), field.metadata.get("help") or ""))
    return _table(rows)


def _provenance(result: Result, fixed: Volume, moving: Volume) -> str:
    rows = [
        ("fixed image", f"{fixed.name}, {_geometry(fixed.grid)}"),
        ("moving image", f"{moving.name}, {_geometry(moving.grid)}"),
    ]
    rows += _rows(result.provenance)
    total = max(_total(result.timings), 1e-9)
    times = "".join(
        f'<tr><th scope="row">{_text(phase)}</th><td>{_seconds(seconds)}</td>'
        f'<td><span class="bar" style="width:{100 * seconds / total:.1f}%"></span></td></tr>'
        for phase, seconds in result.timings.items()
        if phase != "total"
    )
    return _table(rows) + f'<h3>Seconds per phase</h3><table class="times">{times}</table>'


def _total(timings: Mapping[str, float]) -> float:
    return float(timings["total"]) if "total" in timings else float(sum(timings.values()))


def _geometry(grid: Grid) -> str:
    size = " × ".join(str(n) for n in grid.shape[::-1])
    spacing = " × ".join(f"{s:.4g}" for s in grid.spacing[::-1])
    return f"{size} voxels, {spacing} mm"


def _seconds(value: float) -> str:
    return f"{value:.2f} s" if value < 10 else f"{value:.1f} s" if value < 100 else f"{value:.0f} s"


def _table(rows: Sequence[tuple[str, ...]]) -> str:
    body = "".join(
        "<tr>" + f'<th scope="row">{_text(row[0])}</th>' + "".join(f"<td>{_text(c)}</td>" for c in row[1:]) + "</tr>"
        for row in rows
    )
    return f"<table>{body}</table>"


def _details(title: str, content: str, opened: bool = False) -> str:
    head = f'<details class="block"{" open" if opened else ""}><summary><h2>{title}</h2></summary>'
    return f"{head}{content}</details>"


def _notes(notes: Sequence[str]) -> str:
    unique = list(dict.fromkeys(notes))
    if not unique:
        return ""
    return f"<section><h2>Notes</h2><ul>{''.join(f'<li>{_text(note)}</li>' for note in unique)}</ul></section>"


def _file_section(result: Result) -> str:
    rows = [(name, what) for name, what in FILES.items() if name != "labels.nii.gz" or result.labels is not None]
    return f'<section class="files"><h2>Files beside this report</h2>{_table(rows)}</section>'


_STYLE = """
:root { --ink: #1b2430; --soft: #5a6675; --line: #d9dee5; --page: #fff; --card: #f5f7f9; --s1:#0b5fa5;
  --s2:#c2560a; --s3:#5a6675; --good: #0a6f5c; --good-bg: #e9f5f2; --check: #8a5a00; --check-bg: #fdf4df;
  --failed: #a3203c; --failed-bg: #fbebee; color-scheme: light }
@media (prefers-color-scheme:dark) {
 @media screen {
  :root { --ink: #e6eaef; --soft: #9aa7b5; --line: #323c48; --page: #12171d; --card: #1a2129; --s1:#69b3f2;
    --s2:#f2a45c; --s3:#9aa7b5; --good: #5cc9b0; --good-bg: #12302b; --check: #f0bd55; --check-bg: #352a10;
    --failed: #ff8c9e; --failed-bg: #3a161d; color-scheme: dark }
 }
}
* { box-sizing: border-box }
body { margin: 0; background: var(--page); color: var(--ink);
  font: 15px/1.5 system-ui,-apple-system,"Segoe UI",Roboto,"Helvetica Neue",Arial,sans-serif }
main { max-width: 1080px; margin: 0 auto; padding: 36px 28px 60px }
h1 { font-size: 25px; line-height: 1.25; margin: 2px 0 4px; font-weight: 650; overflow-wrap: anywhere }
h1 span { color: var(--soft); font-weight: 400 }
h2 { font-size: 17px; margin: 0 0 10px; font-weight: 650 }
h3 { font-size: 14px; margin: 18px 0 6px }
p { margin: 0 0 8px }
.kind { color: var(--soft); font-size: 13px; letter-spacing: .03em; margin: 0 }
.sub { color: var(--soft); margin: 0 }
header { border-bottom: 1px solid var(--line); padding-bottom: 16px; margin-bottom: 20px }
section { margin: 30px 0 }
.verdict { margin: 20px 0 14px; padding: 18px 22px; border-left: 6px solid; border-radius: 4px }
.verdict.good { background: var(--good-bg); border-color: var(--good) }
.verdict.check { background: var(--check-bg); border-color: var(--check) }
.verdict.failed { background: var(--failed-bg); border-color: var(--failed) }
.verdict .head { display: flex; gap: 16px; align-items: center }
.verdict .head .symbol { width: 44px; height: 44px; flex: none }
.verdict h2 { font-size: 22px; margin: 0 }
.verdict p { margin: 0 }
.verdict ul { margin: 12px 0 6px 60px; padding: 0 }
.verdict li { margin: 3px 0 }
.verdict details { margin: 8px 0 0 60px }
.verdict summary { color: var(--soft); cursor: pointer }
.symbol circle, .symbol .fill { fill: currentColor; stroke: none }
.symbol path:not(.fill) { fill: none; stroke: var(--page); stroke-width: 2.6; stroke-linecap: round;
  stroke-linejoin: round }
.symbol.good { color: var(--good) }
.symbol.check { color: var(--check) }
.symbol.failed { color: var(--failed) }
td .symbol { width: 16px; height: 16px; display: block; margin-top: 3px }
.cards { display: flex; flex-wrap: wrap; gap: 10px; margin: 14px 0 26px }
.card { flex: 1 1 215px; background: var(--card); border-radius: 4px; padding: 11px 14px }
.card p { margin: 0 }
.card .name, .card .note { color: var(--soft); font-size: 12.5px }
.card .value { font-size: 20px; font-weight: 600; font-variant-numeric: tabular-nums }
figure { margin: 0 }
figcaption { color: var(--soft); font-size: 13px; margin-top: 10px }
.panels { display: grid; gap: 6px 8px; align-items: start }
.panels.c3 { grid-template-columns: repeat(3,1fr) }
.panels.c2 { grid-template-columns: repeat(2,1fr); max-width: 714px }
.column { margin: 0 0 1px; font-size: 13.5px; font-weight: 600; align-self: end }
.panel { display: block; width: 100%; background: #000; border-radius: 2px; overflow: hidden }
.letters text { fill: #f3d77a; paint-order: stroke; stroke: #000; stroke-opacity: .75; stroke-width: .18em;
  stroke-linejoin: round; font-family: inherit; font-weight: 600 }
.dim { opacity: .6 }
.flip { opacity: 0 }
.panel:hover .flip { opacity: 1 }
.grid, .outline, .fold { fill: none; vector-effect: non-scaling-stroke; stroke-linejoin: round }
.grid { stroke: #ffe08a; stroke-width: .9; stroke-opacity: .85 }
.fold { stroke: #000; stroke-width: 1.2 }
.outline.own { stroke: #45b4ff; stroke-width: 1.6 }
.outline.propagated { stroke: #ff9417; stroke-width: 1.6 }
.outline.both { stroke: #fff; stroke-width: 1 }
.key { white-space: nowrap; margin-right: 12px; color: var(--ink) }
.key i { display: inline-block; width: 11px; height: 11px; border-radius: 2px; margin-right: 5px;
  vertical-align: -1px }
.key .line { height: 3px; width: 18px; vertical-align: 4px }
.key .orange { background: #e2841e }
.key .blue { background: #3a8cc8 }
.key .sky { background: #45b4ff }
.key .white { background: #fff; outline: 1px solid var(--soft) }
.key .fold { background: #f0ff00; outline: 1px solid var(--ink) }
.key .stroke { height: 0; width: 22px; border-radius: 0; vertical-align: 4px; border-top: 2px solid }
.key .s1 { border-color: var(--s1) }
.key .s2 { border-color: var(--s2); border-top-style: dashed }
.key .s3 { border-color: var(--s3); border-top-style: dotted }
.legend { display: block; width: 270px; margin: 0 0 6px -30px }
.legend text { font-size: 9.5px; text-anchor: middle; fill: var(--ink) }
.legend path { stroke: var(--soft) }
.charts { display: grid; grid-template-columns: repeat(auto-fit,minmax(300px,1fr)); gap: 18px }
.chart { width: 100%; display: block }
.chart text { font-family: inherit }
.tick { font-size: 10.5px; fill: var(--soft) }
.chart .title { font-size: 11.5px; fill: var(--ink) }
.chart path { fill: none }
.mesh { stroke: var(--line); stroke-width: 1 }
.axis { stroke: var(--soft); stroke-width: 1 }
.rule { stroke: var(--soft); stroke-width: 1; stroke-dasharray: 2 3 }
.line { stroke-width: 1.8; stroke-linejoin: round }
.line.s1 { stroke: var(--s1) }
.line.s2 { stroke: var(--s2); stroke-dasharray: 6 3 }
.line.s3 { stroke: var(--s3); stroke-dasharray: 1.5 2.5 }
.dot.s1 { fill: var(--s1) }
.dot.s2 { fill: var(--s2) }
.dot.s3 { fill: var(--s3) }
rect.low { fill: #3a8cc8 }
rect.high { fill: #e2841e }
table { border-collapse: collapse; width: 100%; font-size: 13.5px }
td, th { text-align: left; padding: 4px 14px 4px 0; border-bottom: 1px solid var(--line);
  vertical-align: top; overflow-wrap: anywhere }
th[scope=row] { font-weight: 500 }
thead th { overflow-wrap: normal; color: var(--soft); font-weight: 600; font-size: 12.5px }
.criteria th[scope=row], .files th[scope=row] { white-space: nowrap }
.criteria td:last-child { color: var(--soft); min-width: 170px }
.numbers td, .numbers th:not(:first-child) { text-align: right; font-variant-numeric: tabular-nums }
.dumbbell { width: 110px; height: 11px; vertical-align: middle }
.dumbbell .before { fill: var(--page); stroke: var(--soft); stroke-width: 1.2 }
path.up, path.down { stroke-width: 2 }
path.up { stroke: var(--s1) }
path.down { stroke: var(--s2) }
circle.up { fill: var(--s1) }
circle.down { fill: var(--s2) }
.times { max-width: 560px }
.times td:last-child { width: 55% }
.bar { display: block; height: 8px; margin-top: 6px; background: var(--s1); min-width: 1px }
.block { border-top: 1px solid var(--line); padding: 11px 0 }
.block h2 { display: inline; margin: 0 }
.block summary { cursor: pointer }
.block[open] summary { margin-bottom: 10px }
.block p { color: var(--soft); font-size: 13px }
@media (max-width:640px) {
 main { padding: 20px 14px }
 .verdict ul, .verdict details { margin-left: 0; padding-left: 18px }
}
@media print {
 @page { margin: 14mm }
 body { font-size: 9.5pt; -webkit-print-color-adjust: exact; print-color-adjust: exact }
 main { padding: 0; max-width: none }
 .pictures { break-before: page; break-inside: avoid }
 .panel, .charts, .card, tr { break-inside: avoid }
 table { font-size: 8.5pt }
 .verdict ul, .verdict details { margin-left: 0 }
 .verdict { padding: 12px 16px }
 .card { flex-basis: 150px }
 .charts { grid-template-columns: repeat(3,1fr) }
 .grid, .outline.own, .outline.propagated { stroke-width: .6 }
 .outline.both, .fold { stroke-width: .4 }
 h2, summary { break-after: avoid }
 .screen { display: none }
 details::details-content { content-visibility: visible; block-size: auto }
}
"""
