# SPDX-License-Identifier: Apache-2.0
"""The grid on which a registration is computed."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from .grid import Grid
from .intensities import foreground
from .volume import Volume

# How much coarser one axis may be than the finest. Thick slices are interpolated to at most twice the in-plane spacing:
# a smooth field does not need more, and operators stay well conditioned.
_ANISOTROPY = 2.0


def working_grid(
    fixed: Volume | Grid,
    *,
    spacing_mm: float | None = None,
    margin_mm: float = 0.0,
    max_voxels: int | None = None,
    mask: Volume | None = None,
    whole: bool = False,
) -> Grid:
    """A grid parallel to the fixed image's axes that covers its foreground and a margin.

    Args:
        fixed: the fixed image, or a grid (then all of it is covered).
        spacing_mm: voxel size along every axis. Default: the fixed image's own, where thick slices are refined to at
            most twice the finest spacing, made larger if needed to keep to `max_voxels`.
        margin_mm: added on every side, beyond the image where need be.
        max_voxels: upper limit of the number of voxels, margin included; a given `spacing_mm` is kept nevertheless.
        mask: cover this mask (on any grid) instead of the foreground.
        whole: cover the whole field of view.

    Returns:
        Grid of at least two voxels per axis; along axes of unchanged spacing its voxels coincide with the image's.
    """
    if spacing_mm is not None and not spacing_mm > 0:
        raise ValueError(f"The working spacing must be positive, not {spacing_mm} mm.")
    if margin_mm < 0:
        raise ValueError(f"The margin must not be negative, not {margin_mm} mm.")
    grid = fixed if isinstance(fixed, Grid) else fixed.grid
    lower, upper = _box(fixed, grid, mask, whole)
    lower = lower - margin_mm / grid.spacing
    upper = upper + margin_mm / grid.spacing
    if spacing_mm is not None:
        return _cover(grid, lower, upper, np.full(grid.ndim, float(spacing_mm)))
    finest = float(grid.spacing.min())
    while True:
        result = _cover(grid, lower, upper, np.clip(grid.spacing, finest, _ANISOTROPY * finest))
        if max_voxels is None or result.size <= max_voxels or max(result.shape) <= 2:
            return result
        finest *= max(1.01, 0.98 * (result.size / max_voxels) ** (1 / grid.ndim))


def _box(fixed: Volume | Grid, grid: Grid, mask: Volume | None, whole: bool) -> tuple[np.ndarray, np.ndarray]:
    """Borders of what is to be covered, as fractional indices of the grid (voxel 0 reaches from -0.5 to 0.5)."""
    if mask is not None:
        lower, upper = _bounds(mask.data != 0)
        ends = np.stack(np.meshgrid(*zip(lower, upper, strict=True), indexing="ij"), -1).reshape(-1, grid.ndim)
        ends = grid.physical_to_index(mask.grid.index_to_physical(ends))
        return ends.min(0), ends.max(0)
    if whole or isinstance(fixed, Grid):
        return np.full(grid.ndim, -0.5), np.array(grid.shape) - 0.5
    return _bounds(foreground(fixed))


def _bounds(inside: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    lower, upper = [], []
    for axis in range(inside.ndim):
        used = np.flatnonzero(inside.any(axis=tuple(a for a in range(inside.ndim) if a != axis)))
        lower.append(used[0] - 0.5)
        upper.append(used[-1] + 0.5)
    return np.array(lower), np.array(upper)


def _cover(grid: Grid, lower: np.ndarray, upper: np.ndarray, spacing: np.ndarray) -> Grid:
    ratio = spacing / grid.spacing
    same = np.abs(ratio - 1) < 1e-6
    ratio[same] = 1
    # On unchanged axes: whole voxels of the image; elsewhere: centered on the box.
    first = np.where(same, np.round(np.floor(lower + 0.5 + 1e-6)), 0)
    shape = np.where(same, np.ceil(upper - first + 0.5 - 1e-6), np.ceil((upper - lower) / ratio - 1e-6))
    shape = np.maximum(shape, 2)
    first = np.where(same, first, (lower + upper) / 2 - (shape - 1) / 2 * ratio)
    affine = grid.affine.copy()
    affine[:-1, :-1] *= ratio
    affine[:-1, -1] = grid.index_to_physical(first)
    return replace(grid, shape=tuple(shape.astype(int)), affine=affine)
