# SPDX-License-Identifier: Apache-2.0
"""What is drawn over a slice, as SVG path data in pixel units: pixel (row r, column c) covers [c, c+1] x [r, r+1]."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ..imaging.grid import Grid
from ..registration.metrics import map_points
from .views import View


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
