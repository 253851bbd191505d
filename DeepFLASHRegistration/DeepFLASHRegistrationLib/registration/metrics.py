# SPDX-License-Identifier: Apache-2.0
"""Figures measured from arrays: overlap, labels, determinants, folds, errors of maps.

Arrays are in storage order (slowest axis first); a field is an array (*grid.shape, d) of displacements whose
components are LPS millimeters x, y[, z]; points are (N, d) LPS millimeters. Nothing here reads a file.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from ..imaging.grid import Grid
from ..problem.field import Field
from ..support.errors import InputError
from ..support.side_by_side import side_by_side
from ..support.torch_device import as_tensor, is_cuda
from .voxelwise import label_counts

if TYPE_CHECKING:
    from torch import Tensor

    from .voxelwise import Array

# Voxels worked on at a time. The dozen temporaries of a slab then stay in a core's own cache, which makes the
# passes over them several times faster than passes over whole volumes and keeps the extra memory near 2 MB.
SLAB_VOXELS = 24_576


# Labels -----------------------------------------------------------------------------------------------------


def label_volumes(labels: np.ndarray, voxel_volume: float) -> dict[int, float]:
    """Volume of every label but 0: {label: voxels x voxel_volume}, ascending (mm^3; mm^2 for a 2-D image)."""
    values, (counts,) = label_counts([labels])
    return {value: float(count) * voxel_volume for value, count in zip(values, counts, strict=True)}


def volume_change(moving: Mapping[int, float], warped: Mapping[int, float], smallest: float = 0.0) -> dict[int, float]:
    """Percent by which each label's volume changed from `moving` to `warped` (both {label: volume}).

    -100 is a label that vanished. Labels whose volume in `moving` is 0 or below `smallest` are left out: a
    few voxels more or less say nothing about the map.
    """
    return {
        label: 100.0 * (warped.get(label, 0.0) / volume - 1.0)
        for label, volume in moving.items()
        if volume > 0 and volume >= smallest
    }


def label_table(
    fixed: np.ndarray,
    before: np.ndarray,
    after: np.ndarray,
    voxel_volume: float,
    moving_volumes: Mapping[int, float],
) -> dict[int, dict[str, float | None]]:
    """Dice and volumes of every label but 0, before (affine alone) and after registration.

    fixed, before, after: integer label arrays of one shape, on the fixed grid; voxel_volume: of that grid,
    mm^3; moving_volumes: {label: mm^3} of the moving labels on their own grid (`label_volumes`). Returns
    {label: {before, after, volume_moving_mm3, volume_warped_mm3, volume_fixed_mm3}} in ascending order. Dice
    is None where the fixed or the moving labels lack the label: there is nothing to compare.
    """
    values, (n_fixed, n_before, n_after, in_before, in_after) = label_counts([fixed, before, after], [(0, 1), (0, 2)])
    table: dict[int, dict[str, float | None]] = {}
    for i, label in enumerate(values):
        moving = float(moving_volumes.get(label, 0.0))
        comparable = n_fixed[i] > 0 and moving > 0
        table[label] = {
            "before": float(2.0 * in_before[i] / (n_fixed[i] + n_before[i])) if comparable else None,
            "after": float(2.0 * in_after[i] / (n_fixed[i] + n_after[i])) if comparable else None,
            "volume_moving_mm3": moving,
            "volume_warped_mm3": float(n_after[i]) * voxel_volume,
            "volume_fixed_mm3": float(n_fixed[i]) * voxel_volume,
        }
    return table


def mean_dice(table: Mapping[int, Mapping[str, float | None]]) -> tuple[float, float]:
    """Mean Dice (before, after) over the labels of a `label_table` that can be compared; nan without any."""
    pairs = [(row["before"], row["after"]) for row in table.values() if row["after"] is not None]
    if not pairs:
        return float("nan"), float("nan")
    before, after = np.mean(np.asarray(pairs, dtype=np.float64), axis=0)
    return float(before), float(after)


# Jacobian determinant and folds -----------------------------------------------------------------------------


def jacobian_determinant(field: np.ndarray, grid: Grid) -> np.ndarray:
    """Jacobian determinant of the map x -> x + field(x), by central differences (one-sided at the border).

    field: float (*grid.shape, d), LPS mm; grid: any spacing, orientation and handedness.
    Returns float32 of grid.shape, without unit: 1 keeps volumes, 2 doubles them, <= 0 is a fold.
    """
    step = _steps(field, grid)
    d = grid.ndim
    result = np.empty(grid.shape, dtype=np.float32)
    scale = np.float32(1.0 / (2**d * np.linalg.det(step)))
    for part in _slabs(grid.shape):
        padded = _padded_slab(field, part)
        columns = []
        for axis in range(d):
            window = [slice(None)] + [slice(1, -1)] * d
            window[axis + 1] = slice(2, None)
            column = padded[tuple(window)]
            window[axis + 1] = slice(None, -2)
            columns.append(_plus(column - padded[tuple(window)], 2.0 * step[:, axis]))
        with np.errstate(all="ignore"):  # a field may hold anything; what comes of it counts as folded
            np.multiply(_determinant(columns), scale, out=result[part])
    return result


def folded_voxels(field: np.ndarray, grid: Grid) -> np.ndarray:
    """Voxels where the map x -> x + field(x) folds by the strict criterion, bool of grid.shape.

    Central differences skip the voxel itself and miss folds between neighbors. Here a voxel is folded if, of
    the simplices between grid points, one that has its right-angled corner there (every choice of forward and
    backward differences: 8 tetrahedra in 3-D, 4 triangles in 2-D), or one inner tetrahedron of the two
    divisions of a cell into five that touches it, has a signed volume that is not positive. None folded means
    that the piecewise linear map of either division is one-to-one in every cell (Liu et al., "On finite
    difference Jacobian computation in deformable image registration", IJCV 2024). What is not a number counts
    as folded.

    field: float (*grid.shape, d), LPS mm.
    """
    step = _steps(field, grid)
    d = grid.ndim
    # On a left-handed grid two components change places, so that volumes are positive where nothing folds.
    order = [1, 0, *range(2, d)] if np.linalg.det(step) < 0 else list(range(d))
    step = step[order]
    folded = np.zeros(grid.shape, dtype=bool)
    corners = list(itertools.product((0, 1), repeat=d))

    def mark(volume: np.ndarray, cell: slice, touched: list[tuple[int, ...]]) -> None:
        if volume.min() > 0:  # nearly always; false for nan
            return
        bad = ~(volume > 0)
        for corner in touched:
            where = [slice(cell.start + corner[0], cell.stop + corner[0])]
            where += [slice(c, c + n - 1) for c, n in zip(corner[1:], grid.shape[1:])]
            folded[tuple(where)] |= bad

    cells = (grid.shape[0] - 1, *grid.shape[1:])
    for (part,) in _slabs(cells):
        cell = slice(part.start, part.stop)
        block = field[cell.start : cell.stop + 1]
        block = np.stack([block[..., component] for component in order]).astype(np.float32, copy=False)
        edges = [_plus(np.diff(block, axis=axis + 1), step[:, axis]) for axis in range(d)]

        def along(axis: int, at: tuple[int, ...], edges: list[np.ndarray] = edges) -> np.ndarray:
            """Edge vectors (d, *cells) along `axis` beside the cell's corner `at` (at[axis] is ignored)."""
            window = [slice(None)]
            for other in range(d):
                n = edges[axis].shape[other + 1]
                window.append(slice(None) if other == axis else slice(at[other], at[other] + n - 1))
            return edges[axis][tuple(window)]

        for corner in corners:
            mark(_determinant([along(axis, corner) for axis in range(d)]), cell, [corner])
        if d == 3:
            # The inner tetrahedra, between the even corners and between the odd ones, each by its three edges
            # at 000 or 111 (face diagonals of the cell), in the order that makes the volume positive.
            even = [
                along(0, (0, 0, 0)) + along(1, (1, 0, 0)),
                along(1, (0, 0, 0)) + along(2, (0, 1, 0)),
                along(2, (0, 0, 0)) + along(0, (0, 0, 1)),
            ]
            mark(_determinant(even), cell, [c for c in corners if sum(c) % 2 == 0])
            odd = [
                along(0, (0, 1, 1)) + along(1, (0, 0, 1)),
                along(1, (1, 0, 1)) + along(2, (1, 0, 0)),
                along(0, (0, 1, 1)) + along(2, (0, 1, 0)),
            ]
            mark(_determinant(odd), cell, [c for c in corners if sum(c) % 2 == 1])
    return folded


def _steps(field: np.ndarray, grid: Grid) -> np.ndarray:
    """The grid's matrix (d, d), column a the step in mm along axis a; refuses fields that do not fit."""
    d = grid.ndim
    if field.shape != (*grid.shape, d):
        raise ValueError(f"a field on a grid of shape {grid.shape} has shape {(*grid.shape, d)}, not {field.shape}")
    if min(grid.shape) < 2:
        raise ValueError(f"derivatives need two samples along every axis, not the shape {grid.shape}")
    return np.asarray(grid.affine, dtype=np.float64)[:d, :d]


def _slabs(shape: tuple[int, ...]) -> Iterator[tuple[slice]]:
    """Slices of the slowest axis, each of about SLAB_VOXELS voxels."""
    thickness = max(1, SLAB_VOXELS // max(1, int(np.prod(shape[1:]))))
    for start in range(0, shape[0], thickness):
        yield (slice(start, min(start + thickness, shape[0])),)


def _plus(vectors: np.ndarray, constant: np.ndarray) -> np.ndarray:
    """Adds a constant vector (d,) to an array of vectors (d, ...), in place."""
    for component, value in enumerate(constant):
        if value:
            vectors[component] += np.float32(value)
    return vectors


def _padded_slab(field: np.ndarray, part: tuple[slice]) -> np.ndarray:
    """Components first, one voxel of margin all around; beyond the border continued linearly.

    A central difference across the border is then the one-sided difference there.
    """
    (rows,) = part
    d, n = field.ndim - 1, field.shape[0]
    start, stop = max(rows.start - 1, 0), min(rows.stop + 1, n)
    padded = np.empty((d, rows.stop - rows.start + 2, *(m + 2 for m in field.shape[1:-1])), dtype=np.float32)
    first = start - (rows.start - 1)
    inside = (slice(None), slice(first, first + stop - start), *(slice(1, -1) for _ in range(d - 1)))
    padded[inside] = np.moveaxis(field[start:stop], -1, 0)
    for axis in range(1, d + 1):
        window = [slice(None)] + [slice(1, -1)] * d
        window[axis] = slice(None)
        view = np.moveaxis(padded[tuple(window)], axis, 0)
        if first or axis > 1:
            view[0] = 2 * view[1] - view[2]
        if stop == rows.stop or axis > 1:
            view[-1] = 2 * view[-2] - view[-3]
    return padded


def _determinant(columns: Any) -> np.ndarray:
    """Determinant of matrices given by d columns of d components each: columns[axis][component] arrays."""
    if len(columns) == 2:
        (a, b), (c, d) = columns
        result = a * d
        result -= b * c
        return result
    (a0, a1, a2), (b0, b1, b2), (c0, c1, c2) = columns
    result = a1 * b2
    product = a2 * b1
    result -= product
    result *= c0
    cross = a2 * b0
    np.multiply(a0, b2, out=product)
    cross -= product
    cross *= c1
    result += cross
    np.multiply(a0, b1, out=cross)
    np.multiply(a1, b0, out=product)
    cross -= product
    cross *= c2
    result += cross
    return result


# Maps of points ---------------------------------------------------------------------------------------------


def grid_points(grid: Grid, mask: np.ndarray | None = None, limit: int | None = 200_000) -> np.ndarray:
    """Voxel centers in LPS mm, (N, d) float64, of the voxels in `mask` (bool, grid.shape) or of all; of about `limit`
    of them, as `grid_indices` draws them."""
    return grid.index_to_physical(grid_indices(grid, mask, limit).astype(np.float64))


def grid_indices(grid: Grid, mask: np.ndarray | None = None, limit: int | None = 200_000) -> np.ndarray:
    """Indices (N, d) of the voxels in `mask` (bool, grid.shape) or of all.

    At most about `limit` of them, evenly drawn from the storage order; None takes all. The step is odd, so
    that it does not keep time with a grid that was refined by two.
    """
    if mask is not None and mask.shape != tuple(grid.shape):
        raise ValueError(f"a mask on a grid of shape {grid.shape} cannot have shape {mask.shape}")
    size = int(np.count_nonzero(mask)) if mask is not None else int(np.prod(grid.shape))
    step = -(-size // limit) | 1 if limit is not None and size > limit else 1
    if mask is None:
        flat = np.arange(0, size, step)
    else:
        found, before, stride = [np.empty(0, dtype=np.intp)], 0, int(np.prod(grid.shape[1:]))
        for (part,) in _slabs(grid.shape):
            inside = np.flatnonzero(mask[part])
            found.append(inside[-before % step :: step] + part.start * stride)
            before += len(inside)
        flat = np.concatenate(found)
    return np.stack(np.unravel_index(flat, grid.shape), axis=-1)


def sample(values: Array | Field, grid: Grid, points: np.ndarray) -> np.ndarray:
    """Linear interpolation of `values` (*grid.shape[, c]) at `points` (N, d) LPS mm: float64 (N[, c]).

    nan where a point lies outside the box of voxel centers (by more than a thousandth of a voxel) or is not
    finite.
    """
    device = values.device if isinstance(values, Field) else "cpu"
    return sampled(values, grid, as_tensor(np.asarray(points, dtype=np.float64)).to(device)).cpu().numpy()


def sampled(values: Array | Field, grid: Grid, points: Tensor) -> Tensor:
    """`sample` at points that are a float64 tensor, on its device, which is that of the values."""
    import torch

    d, shape = grid.ndim, grid.shape
    strides = [math.prod(shape[axis + 1 :]) for axis in range(d)]
    corners = [c for c in itertools.product((0, 1), repeat=d) if all(n > 1 or not one for one, n in zip(c, shape))]
    to_index = torch.tensor(grid.inverse_affine[:d], device=points.device)
    result = points.new_empty(len(points), 1 if values.ndim == d else values.shape[-1])
    flat = None if isinstance(values, Field) else as_tensor(values).reshape(grid.size, -1)

    def fill(start: int) -> None:
        part = slice(start, start + step)
        place = points[part] @ to_index[:, :d].T + to_index[:, d]
        inside, base, sides = True, [], []
        for x, n in zip(place.T, shape, strict=True):
            inside = (x >= -1e-3) & (x <= n - 1 + 1e-3) & inside  # false for nan
            x = x.nan_to_num(0.0).clamp(0, n - 1)
            base.append(x.long().clamp(max=max(n - 2, 0)))
            sides.append((1 - (x - base[-1]), x - base[-1]))
        total = 0
        for corner in corners:
            weight = math.prod(side[c] for c, side in zip(corner, sides, strict=True))
            index = [b + c for b, c in zip(base, corner, strict=True)]
            if flat is None:
                there = values.look(torch.stack(index, 1))
            else:
                there = flat.index_select(0, sum(i * s for i, s in zip(index, strides, strict=True)))
            total = total + there * weight[:, None]
        result[part] = torch.where(inside[:, None], total, math.nan)

    apart = is_cuda(str(points.device))
    step = max(1, len(points)) if apart else SLAB_VOXELS
    starts = range(0, len(points), step)
    for _ in map(fill, starts) if apart else side_by_side(fill, starts):
        pass
    return result if values.ndim > d else result[:, 0]


def map_points(points: np.ndarray, field: Array | Field, grid: Grid) -> np.ndarray:
    """Points (N, d) LPS mm moved by a displacement field (*grid.shape, d) mm; nan outside its grid."""
    points = np.asarray(points, dtype=np.float64)
    return points + sample(field, grid, points)


def border_hits(mapped: np.ndarray, moving_grid: Grid) -> float:
    """Fraction (0..1) of mapped points (N, d) LPS mm outside the moving image, whose voxels have an extent; those that
    are not finite are. nan without points."""
    if len(mapped) == 0:
        return float("nan")
    inside = moving_grid.contains(np.asarray(mapped, dtype=np.float64))
    return float(1.0 - np.count_nonzero(inside) / len(mapped))


def point_errors(found: Array, true: Array) -> dict[str, float]:
    """How far points (N, d) LPS mm are from where they should be; arrays, or tensors on one device.

    Returns mean, p95 (95th percentile) and max in mm over the pairs of which both are finite, and outside, the
    fraction (0..1) of the others; nan if there is no pair.
    """
    error = (as_tensor(found) - as_tensor(true)).square().sum(-1).sqrt()
    known = error[error.isfinite()].sort().values
    if not len(known):
        return {"mean": float("nan"), "p95": float("nan"), "max": float("nan"), "outside": 1.0}
    below, part = divmod(0.95 * (len(known) - 1), 1)
    low, high = known[int(below)], known[min(int(below) + 1, len(known) - 1)]
    return {
        "mean": float(known.mean()),
        "p95": float(low + part * (high - low)),
        "max": float(known[-1]),
        "outside": 1.0 - len(known) / len(error),
    }


def inverse_error(points: Array, mapped: Array, moving_to_fixed: Array | Field, inverse_grid: Grid) -> dict[str, float]:
    """How far from themselves fixed points come back, after fixed_to_moving and moving_to_fixed.

    points, mapped: (N, d) float64 LPS mm, fixed points and where fixed_to_moving takes them (`map_points`), on the
    device of moving_to_fixed: (*inverse_grid.shape, d) mm. Returns what `point_errors` does; outside are points that
    one of the fields does not cover.
    """
    mapped = as_tensor(mapped)
    return point_errors(mapped + sampled(moving_to_fixed, inverse_grid, mapped), points)


def landmark_errors(mapped: np.ndarray, moving_points: np.ndarray) -> np.ndarray:
    """Distances (N,) in mm of mapped fixed landmarks (`map_points`) to the moving ones; nan if unmapped."""
    if mapped.shape != moving_points.shape:
        raise ValueError(f"landmarks must come in pairs: {len(mapped)} fixed, {len(moving_points)} moving")
    return np.linalg.norm(np.asarray(mapped, dtype=np.float64) - moving_points, axis=-1)


def nearer_another(mapped: np.ndarray, moving_points: np.ndarray, slack: float) -> float:
    """Fraction (0..1) of mapped fixed landmarks that end at another's partner: less than half as far from it as from
    their own, which they miss by more than a slack (mm)."""
    apart = np.linalg.norm(np.asarray(mapped, dtype=np.float64)[:, None] - moving_points[None], axis=-1)
    own = np.diag(apart).copy()
    known = np.isfinite(own)
    if np.count_nonzero(known) < 2:
        return 0.0
    np.fill_diagonal(apart, np.inf)
    nearest = np.where(np.isfinite(apart), apart, np.inf).min(1)
    return float(np.mean((nearest < own / 2)[known] & (own > slack)[known]))


def truth_error(result: Any, truth_grid: Grid, truth: np.ndarray) -> dict[str, float]:
    """Distance between the found and the true map, over the foreground of the warped image.

    result: Result; truth: (*truth_grid.shape, d) LPS mm, fixed -> moving, the affine included. Returns mean, p95
    and max in mm, and mean_before: the mean for the affine alignment alone. Points that the true field does not
    cover do not count; InputError if it covers none.
    """
    from ..imaging.intensities import foreground

    d = result.fixed_grid.ndim
    points = grid_points(result.fixed_grid, foreground(result.warped))
    true = map_points(points, truth, truth_grid)
    after = point_errors(map_points(points, result.fixed_to_moving, result.field_grid), true)
    if after["outside"] == 1:
        raise InputError("The true field does not cover the fixed image. Check that it belongs to this pair.")
    before = point_errors(points @ result.affine[:d, :d].T + result.affine[:d, d], true)
    return {"mean": after["mean"], "p95": after["p95"], "max": after["max"], "mean_before": before["mean"]}
