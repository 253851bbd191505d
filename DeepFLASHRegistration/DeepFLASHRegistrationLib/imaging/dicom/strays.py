# SPDX-License-Identifier: Apache-2.0
"""Slices that are like those of a stack but no part of it (scouts of its size and orientation), by where they lie."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations

import numpy as np

from .slices import Slice

_MOST = 2
_LEAST_KEPT = 5
_KEPT_FOR_EACH = 4  # fewer slices than that for each that is left out are no evidence
_EVEN = 0.02  # of a step, what rounding of positions may take
_SAME_LINE = 0.5  # voxels in the plane: slices shifted less than this lie above each other
_FILLED = 5  # steps: slices at whole steps within this are the stack's, those between are missing


def is_regular(slices: Sequence[Slice]) -> bool:
    """Whether slices of one size and orientation, along their normal, lie at equal steps on a line."""
    return len(slices) > 1 and slices[0].position is not None and _is_regular(*_places(slices))


def _places(slices: Sequence[Slice]) -> tuple[np.ndarray, np.ndarray]:
    """(n,) mm along the normal of the first, and (n, 2) voxels in its plane."""
    first = slices[0]
    beside = np.array([part.position - first.position for part in slices])
    heights = beside @ first.normal
    return heights, (beside - heights[:, None] * first.normal) @ first.axes / first.spacing


def strays_of(slices: Sequence[Slice]) -> tuple[Slice, ...]:
    """The one or two slices without which the others are regular; none if all are, or no two would do.

    A slice that lies as the others do, a few whole steps away, is no stray: slices are missing between.

    Args:
        slices: of one size and orientation, along their normal.
    """
    count = len(slices)
    if count <= _LEAST_KEPT or slices[0].position is None:
        return ()
    heights, shifts = _places(slices)
    if _is_regular(heights, shifts):
        return ()
    near = _suspects(heights, shifts)
    for number in range(1, _MOST + 1):
        if count - number < max(_LEAST_KEPT, _KEPT_FOR_EACH * number):
            return ()
        ways = []
        for left_out in combinations(near, number):
            kept = np.delete(np.arange(count), left_out)
            if _is_regular(heights[kept], shifts[kept]):
                ways.append((_unevenness(heights[kept]), left_out, kept))
        if ways:
            _, left_out, kept = min(ways, key=lambda way: way[0])
            belong = _are_missing_between(heights, shifts, kept) or _are_finer(heights, left_out)
            return () if belong else tuple(slices[k] for k in left_out)
    return ()


def _suspects(heights: np.ndarray, shifts: np.ndarray) -> list[int]:
    """The slices at the ends of steps that are not as the others; none if these are too many for two strays."""
    steps = np.diff(heights)
    usual = float(np.median(steps))
    odd = np.flatnonzero(np.abs(steps - usual) > max(_EVEN * usual, 0.01))
    beside = np.flatnonzero(np.abs(shifts - np.median(shifts, axis=0)).max(axis=1) > _SAME_LINE)
    near = {*odd.tolist(), *(odd + 1).tolist()} if len(odd) <= 2 * _MOST else set()
    return sorted(near | (set(beside.tolist()) if len(beside) <= _MOST else set()))


def _unevenness(heights: np.ndarray) -> float:
    """mm by which slices lie beside equal steps, at most."""
    return float(np.abs(heights - np.linspace(heights[0], heights[-1], len(heights))).max())


def _is_regular(heights: np.ndarray, shifts: np.ndarray) -> bool:
    """Whether slices lie at equal steps on a line, which may be tilted."""
    length = heights[-1] - heights[0]
    if length <= 0 or _unevenness(heights) > max(_EVEN * length / (len(heights) - 1), 0.01):
        return False
    share = (heights - heights[0]) / length
    return bool(np.abs(shifts - shifts[0] - share[:, None] * (shifts[-1] - shifts[0])).max() <= _SAME_LINE)


def _are_missing_between(heights: np.ndarray, shifts: np.ndarray, kept: np.ndarray) -> bool:
    """Whether all slices lie on the line of the kept ones, a few whole steps of them apart."""
    length = heights[kept[-1]] - heights[kept[0]]
    step = length / (len(kept) - 1)
    at = (heights - heights[kept[0]]) / step
    share = (heights - heights[kept[0]]) / length
    line = shifts[kept[0]] + share[:, None] * (shifts[kept[-1]] - shifts[kept[0]])
    on_line = np.abs(shifts - line).max() <= _SAME_LINE
    return bool(on_line and np.abs(at - np.rint(at)).max() <= 2 * _EVEN and np.diff(np.rint(at)).max() <= _FILLED)


def _are_finer(heights: np.ndarray, left_out: tuple[int, ...]) -> bool:
    """Whether what would be left out lies in the middle of two steps in a row: part of the stack is finer."""
    if len(left_out) < 2 or left_out[1] - left_out[0] != 2 or not 0 < left_out[0] < len(heights) - 3:
        return False
    steps = np.diff(heights[left_out[0] - 1 : left_out[1] + 2])
    return bool(np.ptp(steps) <= 2 * _EVEN * steps.max())
