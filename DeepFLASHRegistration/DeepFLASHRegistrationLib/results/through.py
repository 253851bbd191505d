# SPDX-License-Identifier: Apache-2.0
"""Two results as one map: of the second the moving image is the fixed one of the first."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from ..imaging.grid import Grid
from ..problem.deformation import Deformation
from ..registration.metrics import grid_points
from ..support.errors import InputError
from .velocity import SavedResult
from .written_maps import WrittenMaps


@dataclass(frozen=True, eq=False)
class Through:
    """As a Deformation, from the fixed space of ``further`` to the moving space of ``first``; nothing is interpolated
    between them.

    Attributes:
        first: the map from the space between both to the moving image.
        further: the map from the fixed space to that between.
    """

    first: Deformation | WrittenMaps
    further: Deformation | WrittenMaps

    timed: ClassVar[bool] = False

    def on(self, device: str) -> Through:
        """Both on a device."""
        return Through(self.first.on(device), self.further.on(device))

    def displacement(self, grid: Grid, direction: str, t: float = 1.0) -> np.ndarray:
        """As Deformation.displacement, of the whole map."""
        one, two = self._order(direction)
        points = grid_points(grid, limit=None)
        between = points + one.displacement(grid, direction).reshape(points.shape)
        return (two.points(between, direction) - points).reshape(*grid.shape, grid.ndim).astype(np.float32)

    def points(self, points: np.ndarray, direction: str, t: float = 1.0) -> np.ndarray:
        """As Deformation.points, of the whole map."""
        one, two = self._order(direction)
        return two.points(one.points(points, direction), direction)

    def _order(self, direction: str) -> tuple[Deformation | WrittenMaps, Deformation | WrittenMaps]:
        return (self.further, self.first) if direction == "fixed_to_moving" else (self.first, self.further)


def through(first: SavedResult, further: SavedResult, names: tuple[str, str]) -> SavedResult:
    """Both as one result; ``names`` say in messages which they are.

    Raises:
        InputError: they do not meet in one space.
    """
    one, two = first.fixed_grid, further.moving_grid
    if one.ndim != two.ndim:
        raise InputError(f"{names[1]}: has {two.ndim} dimensions, and {names[0]} {one.ndim}. Name one of its images.")
    if not one.same_as(two):
        raise InputError(
            f"{names[1]}: its moving image lies on other voxels than the fixed image of {names[0]}, so that it does "
            "not go on from there. Name a result that does."
        )
    return SavedResult(Through(first.deformation, further.deformation), further.fixed_grid, first.moving_grid)
