# SPDX-License-Identifier: Apache-2.0
"""A geodesic in physical space: from v0 to displacement fields in mm, on any grid, at any time, in both directions."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from ..imaging.grid import Grid
from ..support.side_by_side import side_by_side
from .dense_map import DenseMap, is_dense
from .on_grid import Interpolated, Line
from .spatial_map import SpatialMap

if TYPE_CHECKING:
    import torch

    from ..geodesics.characteristics import Characteristics

# Points per shortest wavelength of the band at which the velocity is tabulated, and from which particles start, for the
# final maps. Denser ones change these by less than interpolation of the written fields does.
_POINTS_PER_WAVELENGTH, _PARTICLES_PER_WAVELENGTH = 5.0, 4.25
_RAMP = 1.0  # of the margin, over half of which the velocity fades out: two particles shall see that
# Bound on dt·max|Dv| of the final time steps. With twice as many the maps of brains change by a thousandth of a mm.
_PER_STEP, _FEWEST_STEPS = 0.5, 4
# Largest relative change of ⟨Lv, v⟩ along the final geodesic.
_DRIFT, _MOST_STEPS = 0.02, 200


@dataclass(frozen=True, eq=False)
class Deformation(SpatialMap):
    """All that determines the maps of a geodesic.

    Attributes:
        domain: the working grid; the geodesic lives on the box its voxels fill.
        unit_mm: the geodesic's unit of length.
        velocity: float32 (d, *modes), coefficients of v0 (see geodesics.band) in units of length, along array axes.
        alpha, power, gamma, metric_step: the metric L (see geodesics.band.Metric).
        affine: (d+1, d+1) LPS mm, fixed -> moving; applied after the geodesic.
        margin_mm: width of the border of the domain over which the velocity fades out.
        band_limited: whether the displacement is kept in the band (FLASH's own map).
        integrator, steps: time stepping; 0 steps chooses them from the velocity.
    """

    domain: Grid
    unit_mm: float
    velocity: np.ndarray
    alpha: float
    power: float
    gamma: float
    metric_step: float | None
    affine: np.ndarray
    margin_mm: float
    band_limited: bool = False
    integrator: str = "rk4"
    steps: int = 0
    device: str = "cpu"
    _kept: dict[Any, Any] = field(default_factory=dict, init=False, repr=False)

    timed: ClassVar[bool] = True

    def on(self, device: str) -> Deformation:
        """The same, computed on another device."""
        return replace(self, device=device)

    @property
    def shortest_wavelength(self) -> float:
        """Of the velocity, in units of length."""
        return _shortest_wavelength(self.velocity.shape[1:], self.lengths)

    @property
    def _extents(self) -> tuple[Sequence[float], Sequence[int], float, Sequence[float]]:
        return self.lengths, self.velocity.shape[1:], self.margin_mm / self.unit_mm, self.cell

    def rests(self, t: float) -> bool:
        return not self.velocity.any() or t == 0

    def _shooting(self) -> Any:
        import torch

        from ..geodesics.band import Band, Metric
        from ..geodesics.shooting import Shooting

        if "shooting" not in self._kept:
            band = Band(tuple(self.velocity.shape[1:]), self.lengths)
            metric = Metric(self.alpha, self.power, self.gamma, self.metric_step)
            shooting = Shooting(band, metric, torch.float32, self.device)
            v0 = torch.as_tensor(self.velocity, device=self.device)
            self._kept["shooting"] = shooting, v0
        return self._kept["shooting"]

    def _trajectory(self, t: float) -> Any:
        """The geodesic up to time t, which is the whole geodesic of t·v0."""
        import torch

        shooting, v0 = self._shooting()
        with torch.no_grad():
            steps = self.steps or shooting.recommended_steps(t * v0, _PER_STEP, _FEWEST_STEPS)
            trajectory = shooting.shoot(t * v0, steps, self.integrator)
            # A geodesic keeps its energy. One that does not was integrated too coarsely, at high frequencies.
            while not self.steps and steps < _MOST_STEPS and not shooting.drift(trajectory) < _DRIFT:
                steps = math.ceil(1.5 * steps)
                trajectory = shooting.shoot(t * v0, steps, self.integrator)
        return trajectory

    def end_velocity(self) -> np.ndarray:
        """The velocity at t = 1, in the fixed image's space, as `velocity` is that at t = 0 in the moving one's (before
        the affine): its negative is the velocity with which the same geodesic begins, run from the fixed image."""
        return self._trajectory(1.0).velocities[-1].cpu().numpy()

    def length(self) -> float:
        """Of the geodesic in its metric, in units of length: the root of ⟨Lv, v⟩ over the domain."""
        shooting, v0 = self._shooting()
        return float((shooting.energy(v0) * shooting.band.volume).sqrt())

    def _paths(self, direction: str, t: float) -> tuple[Characteristics, bool]:
        """What follows particles in a direction up to time t, and whether it does so backwards."""
        import torch

        from ..geodesics.band import Lattice
        from ..geodesics.characteristics import Characteristics, OneLook
        from ..geodesics.flow import BandLimitedFlow

        key = "paths", direction if self.band_limited else "both", t
        if key not in self._kept:
            trajectory, shooting = self._trajectory(t), self._shooting()[0]
            shape = lattice_shape(*self._extents)
            if self.band_limited:  # one table instead of several, which may be finer
                lattice = Lattice.cells(tuple(2 * n for n in shape), self.lengths)
                with torch.no_grad():
                    u = BandLimitedFlow(shooting, lattice).band_displacement(trajectory, direction)
                self._kept[key] = OneLook(shooting.band, [u], lattice, None, side_by_side)
            else:
                lattice = Lattice.cells(shape, self.lengths)
                window = border_window(lattice, self.lengths, self.margin_mm / self.unit_mm, self.device)
                for axis in range(window.ndim):  # the outer points continue beyond the domain, where all is at rest
                    window.narrow(axis, 0, 1).zero_()
                    window.narrow(axis, -1, 1).zero_()
                self._kept[key] = Characteristics(shooting.band, trajectory.middles, lattice, window, side_by_side)
        return self._kept[key], direction == "fixed_to_moving"

    def _moved(self, index: np.ndarray, direction: str, t: float) -> np.ndarray:
        """Displacements (n, d) in units of domain indices (n, d)."""
        import torch

        paths, backwards = self._paths(direction, t)
        position = (index + 0.5) * self.cell
        inside = ((position >= 0) & (position <= np.array(self.lengths))).all(-1)
        moved = np.zeros(index.shape)
        if inside.any():
            with torch.no_grad():
                at = torch.as_tensor(position[inside].T, dtype=torch.float32, device=self.device)
                moved[inside] = paths.moved(at, backwards).double().cpu().numpy().T
        return moved

    def _interpolated(
        self, grid: Grid, to_index: np.ndarray, turn: np.ndarray, how: tuple[str, float, bool]
    ) -> Interpolated | None:
        """u in mm, turned, at the voxels of a grid, which ``to_index`` takes to the domain's.

        Particles start from a lattice along the grid's own axes: as far from each other as the velocity allows, from
        the domain's middle on, so that no other grid of these axes finds anything else; or from the voxels themselves
        along axes where these lie farther apart.
        """
        import torch

        d = grid.ndim
        direction, t, between = how
        paths, backwards = self._paths(direction, t)
        steps = to_index[:d, :d] * self.cell[:, None]  # in units of length, of one voxel along each axis
        start = (to_index[:d, d] + 0.5) * self.cell
        wanted = _detail(*self._extents) / _PARTICLES_PER_WAVELENGTH
        middle = np.linalg.solve(steps, np.array(self.lengths) / 2 - start)
        corners = np.array(list(itertools.product(*((0.0, length) for length in self.lengths))))
        reach = np.linalg.solve(steps, (corners - start).T)
        ranges = zip(reach.min(1), reach.max(1), strict=True)
        apart = wanted / np.linalg.norm(steps, axis=0)
        lines = [Line.of(*line, between) for line in zip(grid.shape, ranges, middle, apart, strict=True)]
        if not all(len(line.columns) for line in lines):
            return None  # nothing of it is reached
        axes = [torch.from_numpy(np.outer(step, line.positions)) for line, step in zip(lines, steps.T, strict=True)]
        axes[0] += torch.from_numpy(start)[:, None]
        u = paths.on_lattice(axes, backwards)
        to_mm = torch.from_numpy(turn @ self.domain.direction * self.unit_mm).to(u.dtype).to(u.device)
        return Interpolated.of((to_mm @ u.flatten(1)).view_as(u), lines, grid.shape)


def lattice_shape(
    lengths: Sequence[float], modes: Sequence[int], margin: float, spacing: Sequence[float]
) -> tuple[int, ...]:
    """Points per axis of the lattice on which the velocity is tabulated to follow the final map: no more than voxels.

    Args:
        lengths, spacing, margin: of the domain's edges, of its voxels, and over which the velocity fades out, in the
            same unit.
        modes: of the velocity.
    """
    detail = _detail(lengths, modes, margin, spacing)
    return tuple(
        max(4, min(round(length / h), math.ceil(length * _POINTS_PER_WAVELENGTH / detail - 1e-6)))
        for length, h in zip(lengths, spacing, strict=True)
    )


def _detail(lengths: Sequence[float], modes: Sequence[int], margin: float, spacing: Sequence[float]) -> float:
    """The shortest wave of what is followed: that of the velocity, or of the ramp by which it fades out; but of no more
    than the voxels show."""
    return min(_shortest_wavelength(modes, lengths), max(_RAMP * margin, 4 * max(spacing)))


def _shortest_wavelength(modes: Sequence[int], lengths: Sequence[float]) -> float:
    return min(2 * length / max(n - 1, 1) for n, length in zip(modes, lengths, strict=True))


def deformation_from(values: Mapping[str, Any], device: str = "cpu") -> Deformation | DenseMap:
    """The Deformation, or the DenseMap, of Result.velocity."""
    if is_dense(values):
        return DenseMap(**{**values, "device": device})
    return Deformation(**{**values, "device": device})


def border_window(lattice: Any, lengths: tuple[float, ...], margin: float, device: str = "cpu") -> torch.Tensor:
    """Weights (*lattice.shape) that fall smoothly from 1 to 0 over the outer half of the margin of a domain, so that a
    periodic velocity neither wraps around nor ends abruptly."""
    import torch

    weights = torch.ones(lattice.shape, dtype=torch.float64)
    for axis, length in enumerate(lengths):
        x = lattice.positions(axis)
        ramp = (torch.minimum(x, length - x) / max(margin / 2, 1e-9)).clamp(0, 1)
        shape = [1] * lattice.ndim
        shape[axis] = -1
        weights = weights * (ramp * ramp * (3 - 2 * ramp)).view(shape)
    return weights.to(device=device, dtype=torch.float32)
