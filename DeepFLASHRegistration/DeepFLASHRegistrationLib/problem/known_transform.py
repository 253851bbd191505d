# SPDX-License-Identifier: Apache-2.0
"""A map that was found elsewhere in the form of a problem: an affine, and what is left on the working grid."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from ..imaging.grid import Grid
from ..support.errors import InputError
from ..support.side_by_side import side_by_side

if TYPE_CHECKING:
    from .problem import Problem

# Points from which the affine part is taken; part of the object that the map must reach.
_POINTS, _REACHED = 50_000, 0.8
_SLAB = 1 << 18


@dataclass(frozen=True, eq=False)
class KnownTransform:
    """A map from the fixed to the moving image.

    Attributes:
        name: what messages call it.
        moved: points (n, d) LPS mm -> where they go, and for each whether the map says anything of it.
        linear: (d+1, d+1), its affine part, where that is known apart: the map goes through it last.
    """

    name: str
    moved: Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]
    linear: np.ndarray | None = None

    def affine(self, grid: Grid, inside: np.ndarray) -> np.ndarray:
        """The affine part: the one that is known, or else that nearest to the map over an object, (d+1, d+1) LPS mm.

        Args:
            grid: of the fixed image.
            inside: its object, bool on the grid.

        Raises:
            InputError: the map does not reach the object, mirrors, or is not finite.
        """
        index = np.argwhere(inside)
        index = index[:: max(1, len(index) // _POINTS)]
        points = grid.index_to_physical(index)
        to, known = self.moved(points)
        if not np.isfinite(to[known]).all():
            raise InputError(f"{self.name}: takes points of the fixed object nowhere (no finite numbers).")
        reached = float(known.mean()) if len(known) else 0.0
        if reached < _REACHED:
            raise InputError(
                f"{self.name}: reaches {100 * reached:.0f} % of the fixed object. Check that it belongs to these "
                "images and takes points of the fixed to the moving one; compute it on a grid that covers the object."
            )
        if self.linear is not None:
            return self.linear
        d = grid.ndim
        x = np.column_stack([points[known], np.ones(int(known.sum()))])
        # Seen from the middle, where the products stay small.
        middle = x.mean(0) * [*[1] * d, 0]
        solution = np.linalg.lstsq(x - middle, to[known], rcond=None)[0]
        matrix = np.eye(d + 1)
        matrix[:d, :d] = solution[:d].T
        matrix[:d, d] = solution[d] - matrix[:d, :d] @ middle[:d]
        if not np.linalg.det(matrix[:d, :d]) > 1e-6:
            raise InputError(
                f"{self.name}: mirrors or flattens the fixed object, which no deformation of a body does. Check that "
                "it belongs to these images."
            )
        return matrix

    def on(self, problem: Problem) -> tuple[np.ndarray, np.ndarray]:
        """What is left of it after the problem's affine: u of x -> A(x + u(x)) on the working grid, float32
        (d, *shape), mm along the grid's array axes, and where it is known, bool (*shape)."""
        grid, d = problem.grid, problem.grid.ndim
        back = np.linalg.inv(problem.affine)
        turn = np.linalg.inv(grid.direction)
        left = np.zeros((d, grid.size), np.float32)
        known = np.zeros(grid.size, bool)

        def fill(start: int) -> None:
            flat = np.arange(start, min(start + _SLAB, grid.size))
            points = grid.index_to_physical(np.stack(np.unravel_index(flat, grid.shape), -1))
            to, there = self.moved(points)
            there &= np.isfinite(to).all(-1)
            u = (to @ back[:d, :d].T + back[:d, d] - points) @ turn.T
            left[:, flat] = np.where(there, u.T, 0)
            known[flat] = there

        for _ in side_by_side(fill, range(0, grid.size, _SLAB)):
            pass
        return left.reshape(d, *grid.shape), known.reshape(grid.shape)


@dataclass(frozen=True, eq=False)
class SampledTransform:
    """A map from the fixed to the moving image that is known at the points of a grid and linear between them, as it can
    be sent to another process.

    Attributes:
        name: what messages call it.
        grid: where it is sampled.
        displacement: (*grid.shape, d) LPS mm.
        there: where it says anything, bool (*grid.shape).
        linear: see KnownTransform.
    """

    name: str
    grid: Grid
    displacement: np.ndarray
    there: np.ndarray
    linear: np.ndarray | None = None

    def known(self) -> KnownTransform:
        """The map itself."""
        return KnownTransform(self.name, self._moved, self.linear)

    def _moved(self, points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        last = np.array(self.grid.shape) - 1
        # Up to the outer faces of the voxels the outermost samples hold.
        index = np.clip(self.grid.physical_to_index(points), 0, last)
        low = np.minimum(np.floor(index).astype(int), np.maximum(last - 1, 0))
        part = index - low
        moved, known = np.array(points, dtype=np.float64), self.grid.contains(points)
        for corner in itertools.product((0, 1), repeat=self.grid.ndim):
            at = tuple(np.minimum(low + corner, last).T)
            weight = np.where(corner, part, 1 - part).prod(-1)
            moved += weight[:, None] * self.displacement[at]
            known &= self.there[at] | (weight < 1e-6)
        return moved, known
