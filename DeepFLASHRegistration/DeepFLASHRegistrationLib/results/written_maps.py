# SPDX-License-Identifier: Apache-2.0
"""A map that is no geodesic, as a result folder holds it: a displacement field for each direction."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

import numpy as np

from ..imaging.grid import Grid
from ..problem.deformation import Deformation
from ..support.errors import InputError
from .bare_transform import Field, resting


@dataclass(frozen=True, eq=False)
class WrittenMaps:
    """As a Deformation, from files that are read when they are needed; interpolated linearly, as everywhere else.

    Attributes:
        fixed, moving: the images' grids.
        affine: (d+1, d+1) LPS mm, fixed -> moving.
        forth, back: files of displacement fields, fixed -> moving and moving -> fixed.
    """

    fixed: Grid
    moving: Grid
    affine: np.ndarray
    forth: Path
    back: Path
    _read: dict[str, Field] = field(default_factory=dict, init=False, repr=False)

    timed: ClassVar[bool] = False

    def on(self, device: str) -> WrittenMaps:
        """Files know no device."""
        return self

    def displacement(self, grid: Grid, direction: str, t: float = 1.0) -> np.ndarray:
        """As Deformation.displacement, at the ends of time."""
        return (self._alone(t) or self._field(direction)).displacement(grid, "fixed_to_moving" if t else direction)

    def points(self, points: np.ndarray, direction: str, t: float = 1.0) -> np.ndarray:
        """As Deformation.points, at the ends of time."""
        alone = self._alone(t)
        if alone is not None:
            return alone.points(points, direction)
        origin, target = (self.fixed, self.moving) if direction == "fixed_to_moving" else (self.moving, self.fixed)
        found = self._field(direction)
        if origin.plane is None:
            return found.points(points, "fixed_to_moving")
        lifted = found.points(origin.lift(points), "fixed_to_moving")
        return (target if target.plane is not None else origin).project(lifted)

    def _alone(self, t: float) -> Deformation | None:
        """The affine, where it is all."""
        if t not in (0, 1):
            raise InputError(
                f"{self.forth.parent}: its map is no geodesic, so that there is no way to time {t:g}, only to 0 (the "
                "affine) and 1. Register again with --as-geodesic."
            )
        return None if t else resting(self.affine)

    def _field(self, direction: str) -> Field:
        if direction not in self._read:
            forth = direction == "fixed_to_moving"
            onto = self.moving if forth else self.fixed
            self._read[direction] = Field.read(
                self.forth if forth else self.back, onto if onto.plane is not None else None
            )
        return self._read[direction]
