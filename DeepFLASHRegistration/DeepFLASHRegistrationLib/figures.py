# SPDX-License-Identifier: Apache-2.0
"""Pictures for the report: slices in patient axes as PNG, overlays and charts as SVG text.

Needs numpy alone. Pixel arrays are (rows, columns[, 3]) from the top left; SVG overlays are in pixel units of
the slice they lie on, where pixel (row r, column c) covers [c, c+1] x [r, r+1].
"""

from __future__ import annotations

import base64
import itertools
import math
import struct
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from .imaging.grid import Grid
from .metrics import map_points

# Blue - white - orange: told apart in every common color blindness. Positive values are orange.
DIVERGING = np.array(
    [
        (6, 62, 130),
        (58, 140, 200),
        (160, 206, 235),
        (246, 246, 246),
        (252, 200, 120),
        (226, 132, 30),
        (140, 66, 0),
    ],
    dtype=np.float32,
)
# Far from all of these and from gray for every reader (see the test), with a black outline.
FOLD_COLOR = np.array((240, 255, 0), dtype=np.float32)


# Slices in patient axes -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class View:
    """One way to look at an array: which of its axes run to the right and down on the screen, and which way.

    name: "axial", "coronal", "sagittal", or "" for a plain 2-D image; normal: the array axis looked along,
    None in 2-D; letters: what lies at the left, right, top and bottom edge (L/R, A/P, S/I; empty if unknown);
    tilt: degrees between the array's axis and the patient's.
    """

    name: str
    normal: int | None
    across: int
    down: int
    flip_across: bool
    flip_down: bool
    letters: tuple[str, str, str, str]
    tilt: float

    def cut(self, data: np.ndarray, index: Sequence[int]) -> np.ndarray:
        """The slice (rows, columns) of an array that passes through the voxel `index`."""
        plane = data if self.normal is None else data[(slice(None),) * self.normal + (int(index[self.normal]),)]
        if self.across < self.down:
            plane = plane.T
        return plane[:: -1 if self.flip_down else 1, :: -1 if self.flip_across else 1]

    def place(self, columns: np.ndarray, rows: np.ndarray, index: Sequence[int], shape: Sequence[int]) -> np.ndarray:
        """Array indices (..., d) of the slice's points at (column, row), pixel centers at halves."""
        result = np.empty((*np.shape(columns), len(shape)))
        result[...] = index
        for axis, flip, at in ((self.across, self.flip_across, columns), (self.down, self.flip_down, rows)):
            result[..., axis] = shape[axis] - at - 0.5 if flip else at - 0.5
        return result

    def project(self, index: np.ndarray, shape: Sequence[int]) -> np.ndarray:
        """(column, row) on the slice, (..., 2), of array indices (..., d): the inverse of `place`."""
        sides = ((self.across, self.flip_across), (self.down, self.flip_down))
        return np.stack([shape[a] - index[..., a] - 0.5 if f else index[..., a] + 0.5 for a, f in sides], axis=-1)


def views(grid: Grid) -> list[View]:
    """The views of a grid: axial, coronal and sagittal in 3-D, one in 2-D.

    Radiological: the patient's right is on the viewer's left, anterior and superior are up, sagittal slices
    look to the left. Axes are the nearest anatomical ones, whatever the storage order.
    """
    if grid.ndim == 3:
        return _views(grid.direction)
    if grid.plane is not None:
        # One slice of a 3-D image: the view that looks along its single-slice axis, with that axis left out.
        keep = [axis for axis in range(3) if axis != grid.slice_axis]
        (view,) = [v for v in _views(grid.lifted().direction) if v.normal == grid.slice_axis]
        across, down = keep.index(view.across), keep.index(view.down)
        return [View(view.name, None, across, down, view.flip_across, view.flip_down, view.letters, view.tilt)]
    direction = grid.direction
    across = int(np.argmax(np.abs(direction[0])))
    down = 1 - across
    return [View("", None, across, down, direction[0, across] < 0, direction[1, down] < 0, ("",) * 4, 0.0)]


def _views(direction: np.ndarray) -> list[View]:
    axis = max(itertools.permutations(range(3)), key=lambda p: sum(abs(direction[i, p[i]]) for i in range(3)))
    positive = [direction[i, axis[i]] > 0 for i in range(3)]
    letters = (("R", "L"), ("A", "P"), ("I", "S"))
    result = []
    for name, normal, across, down, down_is_positive in (
        ("axial", 2, 0, 1, True),
        ("coronal", 1, 0, 2, False),
        ("sagittal", 0, 1, 2, False),
    ):
        top, bottom = letters[down] if down_is_positive else letters[down][::-1]
        tilt = math.degrees(math.acos(min(1.0, abs(float(direction[normal, axis[normal]])))))
        edges = (*letters[across], top, bottom)
        flip_down = positive[down] != down_is_positive
        result.append(View(name, axis[normal], axis[across], axis[down], not positive[across], flip_down, edges, tilt))
    return result


def thinned(data: np.ndarray, voxels: int = 150_000) -> tuple[slice, ...]:
    """A regular subset of an array that leaves about `voxels` of them: slices for every axis."""
    step = max(1, math.ceil((data.size / voxels) ** (1 / data.ndim)))
    return tuple(slice(step // 2 if n > step else 0, None, step) for n in data.shape)


def rough_foreground(data: np.ndarray) -> np.ndarray:
    """Bool array: brighter than a fifth of the way from dark to bright. Good enough to aim a picture."""
    low, high = np.percentile(data, (1, 99))
    return data > low + 0.2 * (high - low)


def foreground_center(data: np.ndarray) -> tuple[int, ...]:
    """The voxel in the middle of what is bright in an image: the mean index of its foreground."""
    part = thinned(data)
    found = np.argwhere(rough_foreground(data[part]))
    if len(found) == 0:
        return tuple(n // 2 for n in data.shape)
    return tuple(int(s.start + s.step * m) for s, m in zip(part, found.mean(axis=0)))


# Pixels -----------------------------------------------------------------------------------------------------


def png(pixels: np.ndarray) -> bytes:
    """PNG file of 8-bit pixels, gray (rows, columns) or RGB (rows, columns, 3)."""
    rows, columns = pixels.shape[:2]
    color = pixels.ndim == 3
    line = pixels.reshape(rows, -1)
    raw = np.zeros((rows, line.shape[1] + 1), dtype=np.uint8)
    # Filter 2 of the format: each row as its difference to the row above; slices compress twice as well with
    # it.
    raw[:, 0] = 2
    raw[0, 1:] = line[0]
    np.subtract(line[1:], line[:-1], out=raw[1:, 1:])

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", columns, rows, 8, 2 if color else 0, 0, 0, 0)
    body = zlib.compress(raw.tobytes(), 5)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", body) + chunk(b"IEND", b"")


def data_uri(pixels: np.ndarray) -> str:
    """Pixels as the text of a PNG image address that needs no file."""
    return "data:image/png;base64," + base64.b64encode(png(pixels)).decode("ascii")


def window(slices: Sequence[np.ndarray]) -> tuple[float, float]:
    """Dark and bright end (low < high) for showing slices of one image: percentiles 1 and 99.7."""
    values = np.concatenate([np.ravel(s) for s in slices])
    values = values[np.isfinite(values)]
    low, high = np.percentile(values, (1, 99.7)) if values.size else (0.0, 1.0)
    return float(low), float(high) if high > low else float(low) + 1.0


def gray(data: np.ndarray, limits: tuple[float, float]) -> np.ndarray:
    """Slice as 0..1 float32 within the window `limits`; what is not a number is black."""
    low, high = limits
    scaled = (np.nan_to_num(data.astype(np.float32), nan=low) - np.float32(low)) / np.float32(high - low)
    return np.clip(scaled, 0.0, 1.0)


def to_bytes(pixels: np.ndarray) -> np.ndarray:
    """0..1 to 8 bits."""
    return (np.clip(pixels, 0.0, 1.0) * 255.0 + 0.5).astype(np.uint8)


def diverging(values: np.ndarray) -> np.ndarray:
    """Colors (..., 3) in 0..1 of values in -1..1: blue below, white at 0, orange above."""
    position = (np.clip(values, -1.0, 1.0) + 1.0) * (0.5 * (len(DIVERGING) - 1))
    low = np.minimum(position.astype(np.intp), len(DIVERGING) - 2)
    part = (position - low)[..., None]
    return (DIVERGING[low] * (1.0 - part) + DIVERGING[low + 1] * part) / 255.0


def difference_picture(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """RGB bytes of a - b, slices in 0..1: black where equal, orange where a is brighter, blue where b is."""
    difference = (a - b)[..., None]
    strength = np.sqrt(np.abs(difference))
    hue = np.where(difference > 0, np.float32((1.0, 0.62, 0.16)), np.float32((0.30, 0.68, 1.0)))
    return to_bytes(strength * hue)


def checkerboard(a: np.ndarray, b: np.ndarray, tile: tuple[float, float]) -> np.ndarray:
    """Gray bytes of two slices in 0..1 in alternating tiles of `tile` (rows, columns) pixels."""
    rows, columns = np.indices(a.shape, sparse=True)
    odd = ((rows + 0.5) // tile[0] + (columns + 0.5) // tile[1]) % 2 == 1
    return to_bytes(np.where(odd, b, a))


def determinant_picture(base: np.ndarray, log_determinant: np.ndarray, limit: float, folded: np.ndarray) -> np.ndarray:
    """RGB bytes of a log determinant over a slice in 0..1; full color at +-limit, folded (bool) pixels loud.

    The color is faint outside what the slice shows, where no image content speaks for the map.
    """
    t = np.nan_to_num(log_determinant.astype(np.float32) / np.float32(limit), nan=0.0, posinf=1.0, neginf=-1.0)
    strength = np.sqrt(np.clip(np.abs(t), 0.0, 1.0)) * np.where(_enclosed(base > 0.1), np.float32(0.9), np.float32(0.3))
    picture = 0.85 * base[..., None] * (1.0 - strength[..., None]) + diverging(t) * strength[..., None]
    picture[folded] = FOLD_COLOR / 255.0
    return to_bytes(picture)


def _enclosed(shown: np.ndarray) -> np.ndarray:
    """Pixels that have some of `shown` (bool) on both sides, in their row and in their column."""
    result = np.ones(shown.shape, dtype=bool)
    for axis in (0, 1):
        ahead = np.logical_or.accumulate(shown, axis=axis)
        behind = np.flip(np.logical_or.accumulate(np.flip(shown, axis), axis=axis), axis)
        result &= ahead & behind
    return result


# Overlays ---------------------------------------------------------------------------------------------------


def outline(labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Pixel edges of a slice (rows, columns) where the label changes; the outside counts as 0.

    Returns bool arrays: edges above and below pixels (rows + 1, columns), left and right of them (rows,
    columns + 1).
    """
    padded = np.pad(labels, 1)
    return (padded[1:] != padded[:-1])[:, 1:-1], (padded[:, 1:] != padded[:, :-1])[1:-1]


def outline_path(horizontal: np.ndarray, vertical: np.ndarray) -> str:
    """SVG path data along pixel edges, given as by `outline`."""

    def runs(edges: np.ndarray) -> list[tuple[int, int, int]]:
        ends = np.diff(np.pad(edges, ((0, 0), (1, 1))).astype(np.int8), axis=1)
        first, last = np.argwhere(ends == 1).tolist(), np.argwhere(ends == -1).tolist()
        return [(line, start, stop) for (line, start), (_, stop) in zip(first, last)]

    across = [f"M{start} {line}H{stop}" for line, start, stop in runs(horizontal)]
    return "".join(across + [f"M{line} {start}V{stop}" for line, start, stop in runs(vertical.T)])


def polylines(points: np.ndarray) -> str:
    """SVG path data through points (lines, points per line, 2); broken where a point is not finite."""
    parts: list[str] = []
    finite = np.isfinite(points).all(axis=-1)
    for line, good in zip(np.round(np.where(finite[..., None], points, 0.0), 1).tolist(), finite.tolist()):
        pen = False
        for (x, y), ok in zip(line, good):
            if ok:
                parts.append(f"{'L' if pen else 'M'}{x:g} {y:g}")
            pen = ok
    return "".join(parts)


def deformation_grid(
    view: View,
    index: Sequence[int],
    fixed_grid: Grid,
    affine: np.ndarray,
    moving_to_fixed: np.ndarray,
    inverse_grid: Grid,
    lines: int = 30,
) -> str:
    """SVG path data of a regular grid, carried along with the moving image onto a slice of the fixed grid.

    The grid lies on the affinely aligned moving image, with about `lines` square meshes along the longer
    side, and is moved by the rest of moving_to_fixed ((*inverse_grid.shape, d) LPS mm); affine: fixed ->
    moving, (d+1, d+1). Motion across the slice is not shown.
    """
    shape, spacing = fixed_grid.shape, fixed_grid.spacing
    width, height = shape[view.across], shape[view.down]
    pixel = spacing[view.across], spacing[view.down]
    mesh = max(width * pixel[0], height * pixel[1]) / lines
    curves = []
    for along_rows in (True, False):
        n, m = (width, height) if along_rows else (height, width)
        step_n, step_m = pixel if along_rows else pixel[::-1]
        at = np.arange(0.5 * mesh / step_m, m, mesh / step_m)
        along = np.linspace(0.5, n - 0.5, max(2, min(n, int(n * step_n / mesh * 5))))
        first, second = np.meshgrid(along, at)
        curves.append((first, second) if along_rows else (second, first))
    result = []
    for columns, rows in curves:
        points = fixed_grid.index_to_physical(view.place(columns, rows, index, shape))
        moving = points @ affine[:-1, :-1].T + affine[:-1, -1]
        carried = map_points(moving.reshape(-1, fixed_grid.ndim), moving_to_fixed, inverse_grid)
        carried = fixed_grid.physical_to_index(carried).reshape(points.shape)
        result.append(polylines(view.project(carried, shape)))
    return "".join(result)


# Charts -----------------------------------------------------------------------------------------------------

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
        f'aria-label="{y_title} against {x_title}">{"".join(parts)}</svg>'
    )
