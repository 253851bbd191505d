# SPDX-License-Identifier: Apache-2.0
"""A map in physical space, in both directions, on any grid: what is known in a box, and an affine after it."""

from __future__ import annotations

import numpy as np

from ..imaging.grid import Grid
from .field import Field
from .on_grid import Interpolated, OnGrid


class SpatialMap:
    """x -> A(x + u(x)) from the fixed to the moving image, and its inverse, y -> z + w(z) with z = A⁻¹y.

    Attributes:
        domain: the grid on whose box u and w are known; outside they rest.
        unit_mm: the unit of length in which they are given.
        affine: A, (d+1, d+1) LPS mm.
        timed: whether there is a way from A to the map; else only both ends are known.
    """

    domain: Grid
    unit_mm: float
    affine: np.ndarray
    timed: bool

    def rests(self, t: float) -> bool:
        """Whether only the affine is left at a time."""
        raise NotImplementedError

    def _interpolated(
        self, grid: Grid, to_index: np.ndarray, turn: np.ndarray, how: tuple[str, float, bool]
    ) -> Interpolated | None:
        """u or w in mm, turned, at the voxels of a grid, which ``to_index`` takes to the domain's; ``how``: direction,
        t and between, as for `field`."""
        raise NotImplementedError

    def _moved(self, index: np.ndarray, direction: str, t: float) -> np.ndarray:
        """u or w at points (n, d) that are indices of the domain, (n, d) in units of length along array axes."""
        raise NotImplementedError

    @property
    def lengths(self) -> tuple[float, ...]:
        """Edges of the domain in units of length, along array axes."""
        return tuple(float(x) for x in self.domain.extent / self.unit_mm)

    @property
    def cell(self) -> np.ndarray:
        """Edges of the domain's voxels in units of length, along array axes."""
        return self.domain.spacing / self.unit_mm

    def displacement(self, grid: Grid, direction: str, t: float = 1.0) -> np.ndarray:
        """The displacement field of the whole map, affine included.

        Args:
            grid: where it is wanted.
            direction: "fixed_to_moving" (for resampling images; grid in the fixed image's space) or
                "moving_to_fixed" (for moving points; grid in the moving image's space).
            t: time on the geodesic; at 0 the affine is left.

        Returns:
            float32 (*grid.shape, d), LPS mm.
        """
        return np.asarray(self.field(grid, direction, t))

    def field(self, grid: Grid, direction: str, t: float = 1.0, between: bool = False, settled: bool = True) -> Field:
        """The same, computed where it is looked at.

        Args:
            grid, direction, t: as above.
            between: it shall be as right as can be between the voxels, where readers interpolate it linearly, instead
                of at them: its values lie beyond where the map bends, by as much as lines fall short.
            settled: it needs the device no longer; else it is computed there.
        """
        d = grid.ndim
        matrix, offset = self.affine[:d, :d], self.affine[:d, d]
        if direction == "fixed_to_moving":
            # x -> A(x + u): (A − I)x + b + A u, with u read on a grid parallel to the domain or point by point.
            linear, shift, turn, before = matrix - np.eye(d), offset, matrix, np.eye(d + 1)
        else:
            # y -> z + w(z), z = A⁻¹y
            before = np.linalg.inv(self.affine)
            linear, shift, turn = before[:d, :d] - np.eye(d), before[:d, d], np.eye(d)
        slope, base = linear @ grid.affine[:d, :d], linear @ grid.affine[:d, d] + shift
        rest = None
        if not self.rests(t):
            to_index = self.domain.inverse_affine @ before @ grid.affine
            rest = self._interpolated(grid, to_index, turn, (direction, t, between))
        field = Field(grid, OnGrid(slope, base, rest))
        if settled:
            field.settle()
        return field

    def points(self, points: np.ndarray, direction: str, t: float = 1.0) -> np.ndarray:
        """Moves points (N, d), LPS mm, followed through the geodesic one by one; (N, d) float64 LPS mm."""
        points = np.asarray(points, dtype=np.float64)
        d = self.domain.ndim
        if direction == "moving_to_fixed":
            inverse = np.linalg.inv(self.affine)
            points = points @ inverse[:d, :d].T + inverse[:d, d]
        if len(points) and not self.rests(t):
            index = self.domain.physical_to_index(points)
            points = points + self._moved(index, direction, t) @ (self.domain.direction * self.unit_mm).T
        if direction == "fixed_to_moving":
            points = points @ self.affine[:d, :d].T + self.affine[:d, d]
        return points
