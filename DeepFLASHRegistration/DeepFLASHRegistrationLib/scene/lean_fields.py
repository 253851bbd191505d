# SPDX-License-Identifier: Apache-2.0
"""Displacement fields as small as the scene needs them: on a grid no finer than the map, in numbers that compress.

A map of smooth detail is known from samples some millimeters apart, if what lies between is interpolated as Slicer does
it (a cubic of four samples along each axis, Catmull and Rom's). A field of a brain of 1 mm is kept at every second
voxel: an eighth of the memory, and off by 0.02 mm within the brain on average. Files of a result keep all of it.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Callable, Generator, Sequence
from dataclasses import replace

import numpy as np

from ..imaging.grid import Grid
from ..imaging.image_files.nifti import rounded
from .arrays import slabs

# By how much interpolation along one axis may be off in 99 % and in 99.9 % of the field: mm, and parts of a voxel.
_QUANTILES, _TOLERANCES = (0.99, 0.999), (0.05, 0.15)
_MOST = 3  # voxels from one sample to the next: other programs interpolate linearly
_FEWEST = 8  # samples along an axis
# Components change by at most half of it: zeros at the end of a number compress. In mm, and parts of a voxel.
_STEP_MM, _STEPS_PER_VOXEL = 2.0**-8, 216
# What is looked through for folds, how much of it at once, and how many lines for how much detail there is.
_MOST_POINTS, _PART, _LINES = 10000, 1500, 48


def leanField(
    field: np.ndarray, grid: Grid, squeezed: np.ndarray | None = None
) -> Generator[None, None, tuple[np.ndarray, Grid]]:
    """A field as the scene keeps it, in short steps.

    Args:
        field: float32 (*grid.shape, d), mm.
        squeezed: (n, d) indices of voxels where the map squeezes most: there, it does not fold if `field` does not.

    Returns:
        The field and its grid, which covers the given one but for one voxel at its border.
    """
    factors = []
    for axis in range(grid.ndim):
        factors.append(_factor(field, axis, min(1.0, float(grid.spacing[axis]))))
        yield
    step = min(_STEP_MM, 2.0 ** round(math.log2(float(grid.spacing.min()) / _STEPS_PER_VOXEL)))
    at = _within(squeezed, grid)
    fine = yield from _corners(lambda index: field[tuple(index.T)], at, grid)
    while True:
        start, lean = _thinned(field, factors)
        lean = np.array(lean, dtype=np.float32, order="C")
        for slab in slabs(lean):
            rounded(lean[slab], step, out=lean[slab])
            yield
        coarse = yield from _corners(functools.partial(_between, lean, start, factors), at, grid)
        if not _foldsAnew(at, fine <= 0, coarse <= 0, max(factors)):
            break
        if max(factors) == 1:
            step /= 16
        factors = [max(1, factor - 1) for factor in factors]
        yield
    affine = grid.affine.copy()
    affine[:-1, :-1] *= factors
    affine[:-1, -1] = grid.index_to_physical(start)
    return lean, replace(grid, shape=lean.shape[:-1], affine=affine)


def _factor(field: np.ndarray, axis: int, scale: float) -> int:
    """How many voxels apart samples along an axis may lie."""
    d = field.shape[-1]
    thin = [slice(None, None, 1 if other == axis else max(1, field.shape[other] // _LINES)) for other in range(d)]
    lines = np.ascontiguousarray(np.moveaxis(field[tuple(thin)], axis, 0))
    factor = 1
    for more in range(2, _MOST + 1):
        known = lines[::more]
        cells = len(known) - 3
        if len(known) < _FEWEST:
            break
        errors = []
        for part in range(1, more):
            between = lines[more + part :: more][:cells]
            weights = _weights(part / more)
            guess = sum(weight * known[n : n + cells] for n, weight in enumerate(weights))
            errors.append(np.abs(guess - between).max(-1).ravel())
        if not (np.quantile(np.concatenate(errors), _QUANTILES) <= np.multiply(_TOLERANCES, scale)).all():
            break
        factor = more
    return factor


def _weights(t: float) -> np.ndarray:
    """(4,) of the samples at -1, 0, 1, 2 for the value at t in 0 ... 1."""
    return np.array(
        [
            -0.5 * t + t**2 - 0.5 * t**3,
            1 - 2.5 * t**2 + 1.5 * t**3,
            0.5 * t + 2 * t**2 - 1.5 * t**3,
            -0.5 * t**2 + 0.5 * t**3,
        ],
        np.float32,
    )


def _thinned(field: np.ndarray, factors: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
    """Index of the first sample, and the samples; what is left out at the borders is the same on both sides."""
    shape = field.shape[:-1]
    start = np.array([(n - 1) % factor // 2 for n, factor in zip(shape, factors, strict=True)])
    return start, field[tuple(slice(first, None, factor) for first, factor in zip(start, factors, strict=True))]


def _within(index: np.ndarray | None, grid: Grid) -> np.ndarray:
    """(n, d) those of these voxels that have neighbors on all sides, not too many."""
    if index is None or not len(index):
        return np.empty((0, grid.ndim), int)
    index = index[((index >= 2) & (index < np.array(grid.shape) - 2)).all(-1)]
    return index[:: max(1, math.ceil(len(index) / _MOST_POINTS))]


def _corners(
    displacement: Callable[[np.ndarray], np.ndarray], at: np.ndarray, grid: Grid
) -> Generator[None, None, np.ndarray]:
    """(n,) the smallest determinant of forward and backward differences at voxels (n, d)."""
    d = grid.ndim
    axes = grid.affine[:d, :d]
    smallest = np.empty(len(at))
    for first in range(0, len(at), _PART):
        index = at[first : first + _PART]
        here = displacement(index)
        edges = []  # by axis, forward and backward: (n, d)
        for axis, unit in enumerate(np.eye(d, dtype=int)):
            edges.append([axes[:, axis] + sign * (displacement(index + sign * unit) - here) for sign in (1, -1)])
        determinants = [
            np.linalg.det(np.stack([edges[axis][side] for axis, side in enumerate(sides)], -1))
            for sides in itertools.product((0, 1), repeat=d)
        ]
        smallest[first : first + _PART] = (
            np.min(determinants, axis=0) if np.linalg.det(axes) > 0 else -np.max(determinants, axis=0)
        )
        yield
    return smallest


def _between(lean: np.ndarray, start: np.ndarray, factors: Sequence[int], index: np.ndarray) -> np.ndarray:
    """(n, d) displacements at voxels (n, d) of the field before it was thinned, as Slicer interpolates them."""
    cell, part = np.divmod(index - start, factors)
    weights = [
        np.stack([_weights(n / factor) for n in range(factor)])[part[:, axis]] for axis, factor in enumerate(factors)
    ]
    total = np.zeros((len(index), lean.shape[-1]), np.float32)
    last = np.array(lean.shape[:-1]) - 1
    for offset in itertools.product(*[range(4) if factor > 1 else (1,) for factor in factors]):
        near = np.clip(cell + np.array(offset) - 1, 0, last)
        weight = np.prod([weights[axis][:, n] for axis, n in enumerate(offset)], axis=0)
        total += weight[:, None] * lean[tuple(near.T)]
    return total


def _foldsAnew(at: np.ndarray, before: np.ndarray, now: np.ndarray, reach: int) -> bool:
    """Whether a voxel folds now that did not, nor any beside it."""
    new, known = at[now & ~before], at[before]
    if not len(new):
        return False
    return any(not (np.abs(known - voxel).max(-1) <= reach).any() for voxel in new) if len(known) else True
