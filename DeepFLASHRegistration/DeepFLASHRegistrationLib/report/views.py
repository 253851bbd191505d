# SPDX-License-Identifier: Apache-2.0
"""Slices of a grid in patient axes."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ..imaging.grid import Grid


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
    low, high = np.percentile(data[thinned(data)], (1, 99))
    return data > low + 0.2 * (high - low)


def foreground_center(data: np.ndarray) -> tuple[int, ...]:
    """The voxel in the middle of what is bright in an image: the mean index of its foreground."""
    part = thinned(data)
    found = np.argwhere(rough_foreground(data[part]))
    if len(found) == 0:
        return tuple(n // 2 for n in data.shape)
    return tuple(int(s.start + s.step * m) for s, m in zip(part, found.mean(axis=0)))
