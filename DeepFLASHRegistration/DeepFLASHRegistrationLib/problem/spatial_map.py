# SPDX-License-Identifier: Apache-2.0
"""A map in physical space, in both directions, on any grid: what is known on a lattice, and an affine after it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from ..imaging.grid import Grid
from .field import Field
from .on_grid import FAR, Across, Along, Interpolated, OnGrid, finer, parallel

if TYPE_CHECKING:
    import torch

    from ..geodesics.band import Lattice


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

    def _known(self, direction: str, t: float) -> tuple[Lattice, torch.Tensor]:
        """A lattice of the domain, and there u or w in units of length along array axes, (d, *lattice.shape)."""
        raise NotImplementedError

    def _moved(self, index: torch.Tensor, direction: str, t: float) -> torch.Tensor:
        """u or w at points (n, d) that are indices of the domain, (d, n) in units of length along array axes."""
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

    def field(self, grid: Grid, direction: str, t: float = 1.0) -> Field:
        """The same, computed where it is looked at."""
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
            rest = self._interpolated(grid, self.domain.inverse_affine @ before @ grid.affine, turn, direction, t)
        return Field(grid, OnGrid(slope, base, rest))

    def points(self, points: np.ndarray, direction: str, t: float = 1.0) -> np.ndarray:
        """Moves points (N, d), LPS mm, followed through the geodesic one by one; (N, d) float64 LPS mm."""
        import torch

        points = np.asarray(points, dtype=np.float64)
        d = self.domain.ndim
        if direction == "moving_to_fixed":
            inverse = np.linalg.inv(self.affine)
            points = points @ inverse[:d, :d].T + inverse[:d, d]
        if len(points) and not self.rests(t):
            index = self.domain.physical_to_index(points)
            u = self._followed(torch.as_tensor(index), direction, t).cpu().double().numpy().T
            points = points + u @ (self.domain.direction * self.unit_mm).T
        if direction == "fixed_to_moving":
            points = points @ self.affine[:d, :d].T + self.affine[:d, d]
        return points

    def _interpolated(
        self, grid: Grid, to_index: np.ndarray, turn: np.ndarray, direction: str, t: float
    ) -> Interpolated:
        """u in mm, turned, at the voxels of a grid, which ``to_index`` takes to the domain's."""
        import torch

        d = grid.ndim
        lattice, u = self._known(direction, t)
        to_mm = torch.as_tensor(turn @ self.domain.direction * self.unit_mm).to(u)
        u = (to_mm @ u.flatten(1)).view_as(u)
        found = parallel(to_index[:d, :d])
        if found is not None:
            axes, along = found
            start = (to_index[:d, d] + 0.5) * self.cell
            positions = [
                start[axis] + along[a] * self.cell[axis] * np.arange(grid.shape[a]) for a, axis in enumerate(axes)
            ]
            return Along(u, lattice, positions, axes)

        def to_lattice(lattice: Any) -> tuple[np.ndarray, np.ndarray]:
            scale, base = self._normalizing(lattice)
            return scale[:, None] * to_index[:d, :d], scale * to_index[:d, d] + base

        wanted = finer([length * self.unit_mm for length in self.lengths], float(grid.spacing.min()))
        return Across(u, lattice, wanted, to_lattice)

    def _normalizing(self, lattice: Any) -> tuple[np.ndarray, np.ndarray]:
        """(slope, base): domain indices times slope plus base are normalized coordinates of a lattice; (d,) each."""
        scale = 2 / (np.array(lattice.step) * np.maximum(np.array(lattice.shape) - 1, 1))
        return self.cell * scale, (0.5 * self.cell - np.array(lattice.origin)) * scale - 1

    def _normalized(self, index: torch.Tensor, lattice: Any) -> torch.Tensor:
        """Domain indices (…, d) as normalized coordinates (1, …, d) of a lattice; far points are brought near, where
        the field is at rest as well."""
        import torch

        slope, base = (torch.as_tensor(x, device=index.device) for x in self._normalizing(lattice))
        return (index * slope + base).clamp(-FAR, FAR).flip(-1).float()[None]

    def _followed(self, index: torch.Tensor, direction: str, t: float) -> torch.Tensor:
        """Displacements (d, n) in units of length of domain indices (n, d); outside the domain they rest."""
        import torch

        u = self._moved(index, direction, t)
        position = (index + 0.5) * torch.as_tensor(self.cell, device=index.device)
        inside = ((position >= 0) & (position <= torch.as_tensor(self.lengths, device=index.device))).all(-1)
        return u * inside.to(u.device)
