# SPDX-License-Identifier: Apache-2.0
"""How finely a result is written: what a file keeps of floats beyond any meaning is noise, most of its bytes."""

from __future__ import annotations

import math
import os
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from ..imaging.grid import Grid
from ..imaging.image_files.nifti import rounded
from ..registration.metrics import folded_voxels

# A component of a displacement changes by at most half of it. Between the points of a field of 1 mm, where readers
# interpolate, the field of a brain is off by 0.01 mm on average and 1 mm at the worst.
_STEP_MM = 2.0**-7
_STEPS_PER_VOXEL = 108  # within a factor of the root of two, since steps are powers of two
_FINEST_STEP = 2.0**-12  # of a voxel, where coarser steps fold
# Determinants change by about 0.03 where a voxel's edges do by a hundredth, so that nothing folds above this one.
_SAFE = 0.125
_SLAB = 16


def field_step(field: np.ndarray, grid: Grid, smallest: float = 0.0) -> float | None:
    """The step in mm to which a field is rounded in a file.

    Args:
        field: (*grid.shape, d) in mm.
        grid: where it is given.
        smallest: its smallest determinant, if it is known; it saves looking for folds.

    Returns:
        A power of two: 1/128 mm, or about a 108th of a voxel below 1 mm; finer where the rounded field would fold and
        the exact one does not. None if every step folds.
    """
    voxel = float(grid.spacing.min())
    step = min(_STEP_MM, 2.0 ** round(math.log2(voxel / _STEPS_PER_VOXEL)))
    if smallest > _SAFE:
        return step
    exact = None
    while step > _FINEST_STEP * voxel:
        folds = _folds(field, grid, step)
        if folds and exact is None:
            exact = _folds(field, grid, None)
        if not folds or folds <= exact:
            return step
        step /= 4
    return None


def _folds(field: np.ndarray, grid: Grid, step: float | None) -> int:
    """Folded voxels of a rounded field, slab by slab: those at a border of two slabs may count twice."""

    def folds(start: int) -> int:
        slab = field[start : start + _SLAB + 1]
        part = Grid(slab.shape[:-1], grid.affine)
        return int(np.count_nonzero(folded_voxels(slab if step is None else rounded(slab, step), part)))

    with ThreadPoolExecutor(min(4, os.cpu_count() or 1)) as pool:
        return sum(pool.map(folds, range(0, grid.shape[0] - 1, _SLAB)))
