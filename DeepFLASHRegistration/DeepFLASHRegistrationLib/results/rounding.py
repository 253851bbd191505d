# SPDX-License-Identifier: Apache-2.0
"""How finely a result is written: what a file keeps of floats beyond any meaning is noise, most of its bytes."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from ..imaging.grid import Grid
from ..imaging.image_files.nifti import rounded
from ..registration.metrics import folded_voxels
from ..registration.result import Result

# A component of a displacement changes by at most half of it. Between the points of a field of 1 mm, where readers
# interpolate, the field of a brain is off by 0.01 mm on average and 1 mm at the worst.
_STEP_MM = 2.0**-7
_STEPS_PER_VOXEL = 108  # within a factor of the root of two, since steps are powers of two
_FINEST_STEP = 2.0**-12  # of a voxel, where coarser steps fold
# Determinants change by about 0.03 where a voxel's edges do by a hundredth, so that nothing folds above this one.
_SAFE = 0.125
_SLAB = 16


def squeezed(result: Result) -> tuple[np.ndarray, np.ndarray]:
    """Where the maps of a result squeeze so much that rounding might fold them: points (n, d) of the fixed image for
    fixed_to_moving, and points of the moving image for its inverse, which squeezes what the other stretches."""
    logarithm, grid = result.log_jacobian.data, result.fixed_grid
    low, high = np.argwhere(logarithm < math.log(_SAFE)), np.argwhere(logarithm > -math.log(_SAFE))
    moved = result.displacement[tuple(high.T)]
    return grid.index_to_physical(low), grid.index_to_physical(high) + moved


def field_step(field: np.ndarray, grid: Grid, where: np.ndarray | None = None) -> float | None:
    """The step in mm to which a field is rounded in a file.

    Args:
        field: (*grid.shape, d) in mm.
        grid: where it is given.
        where: points (n, d) around which rounding might fold it; None for anywhere.

    Returns:
        A power of two: 1/128 mm, or about a 108th of a voxel below 1 mm; finer where the rounded field would fold and
        the exact one does not. None if every step folds.
    """
    voxel = float(grid.spacing.min())
    step = min(_STEP_MM, 2.0 ** round(math.log2(voxel / _STEPS_PER_VOXEL)))
    starts = range(0, grid.shape[0] - 1, _SLAB)
    if where is not None:
        slices = np.round(grid.physical_to_index(where)[:, 0]).astype(int)
        near = np.unique(np.concatenate([slices - 1, slices, slices + 1]) // _SLAB * _SLAB)
        starts = [start for start in starts if start in near]
    exact = None
    while step > _FINEST_STEP * voxel:
        folds = _folds(field, grid, step, starts)
        if folds and exact is None:
            exact = _folds(field, grid, None, starts)
        if not folds or folds <= exact:
            return step
        step /= 4
    return None


def _folds(field: np.ndarray, grid: Grid, step: float | None, starts: Sequence[int]) -> int:
    """Folded voxels of a rounded field in slabs from these slices on; those at a border of two may count twice."""

    def folds(start: int) -> int:
        slab = field[start : start + _SLAB + 1]
        part = Grid(slab.shape[:-1], grid.affine)
        return int(np.count_nonzero(folded_voxels(slab if step is None else rounded(slab, step), part)))

    with ThreadPoolExecutor(min(4, os.cpu_count() or 1)) as pool:
        return sum(pool.map(folds, starts))
