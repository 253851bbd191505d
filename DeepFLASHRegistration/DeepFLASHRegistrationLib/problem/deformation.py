# SPDX-License-Identifier: Apache-2.0
"""A geodesic in physical space: from v0 to displacement fields in mm, on any grid, at any time, in both directions."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from ..imaging.grid import Grid
from .field import Field
from .on_grid import FAR, Across, Along, Interpolated, OnGrid, finer, parallel

if TYPE_CHECKING:
    import torch

# Lattice points per shortest wavelength of the band when the final maps are computed; denser changes them by less than
# the interpolation of the written fields.
_POINTS_PER_WAVELENGTH = 5.5
# Bound on dt·max|Dv| of the final time steps; about half of what is used while optimizing. With fewer steps, time
# adds to the error of interpolation; with more of them, each an interpolation, that only grows.
_PER_STEP, _FEWEST_STEPS = 0.27, 6
# Largest relative change of ⟨Lv, v⟩ along the final geodesic.
_DRIFT, _MOST_STEPS = 0.02, 200


@dataclass(frozen=True, eq=False)
class Deformation:
    """All that determines the maps of a registration.

    Attributes:
        domain: the working grid; the geodesic lives on the box its voxels fill.
        unit_mm: the geodesic's unit of length.
        velocity: float32 (d, *modes), coefficients of v0 (see geodesics.band) in units of length, along array axes.
        alpha, power, gamma, metric_step: the metric L (see geodesics.band.Metric).
        affine: (d+1, d+1) LPS mm, fixed -> moving; applied after the geodesic.
        margin_mm: width of the border of the domain over which the velocity fades out.
        band_limited: whether the displacement is kept in the band (FLASH's own map).
        integrator, steps: time stepping; 0 steps chooses them from the velocity.
        both: whether maps of both directions will be asked for: then what they share is computed once.
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
    both: bool = False
    _kept: dict[Any, Any] = field(default_factory=dict, init=False, repr=False)

    def on(self, device: str) -> Deformation:
        """The same, computed on another device."""
        return replace(self, device=device)

    @property
    def lengths(self) -> tuple[float, ...]:
        """Edges of the domain in units of length, along array axes."""
        return tuple(float(x) for x in self.domain.extent / self.unit_mm)

    @property
    def cell(self) -> np.ndarray:
        """Edges of the domain's voxels in units of length, along array axes."""
        return self.domain.spacing / self.unit_mm

    @property
    def shortest_wavelength(self) -> float:
        """Of the velocity, in units of length."""
        return _shortest_wavelength(self.velocity.shape[1:], self.lengths)

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
        if self.velocity.any() and t != 0:
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
        if len(points) and self.velocity.any() and t > 0:
            index = self.domain.physical_to_index(points)
            u = self._follow(torch.as_tensor(index), direction, t).cpu().double().numpy().T
            points = points + u @ (self.domain.direction * self.unit_mm).T
        if direction == "fixed_to_moving":
            points = points @ self.affine[:d, :d].T + self.affine[:d, d]
        return points

    # ------------------------------------------------------------------------------------------ the geodesic

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

    def _flow(self, t: float) -> tuple[Any, Any]:
        """(flow, trajectory) of the geodesic up to time t, which is the whole geodesic of t·v0."""
        import torch

        from ..geodesics.band import Lattice
        from ..geodesics.flow import BandLimitedFlow, Flow

        key = ("flow", t)
        if key not in self._kept:
            shooting, v0 = self._shooting()
            with torch.no_grad():
                steps = self.steps or shooting.recommended_steps(t * v0, _PER_STEP, _FEWEST_STEPS)
                trajectory = shooting.shoot(t * v0, steps, self.integrator)
                # A geodesic keeps its energy. One that does not was integrated too coarsely, at high frequencies.
                while not self.steps and steps < _MOST_STEPS and not shooting.drift(trajectory) < _DRIFT:
                    steps = math.ceil(1.5 * steps)
                    trajectory = shooting.shoot(t * v0, steps, self.integrator)
            lattice = Lattice.cells(
                lattice_shape(self.domain.shape, self.lengths, self.velocity.shape[1:]), self.lengths
            )
            if self.band_limited:
                flow = BandLimitedFlow(shooting, lattice)
            else:
                window = border_window(lattice, self.lengths, self.margin_mm / self.unit_mm, self.device)
                flow = Flow(shooting.band, lattice, torch.float32, self.device, window)
            self._kept[key] = flow, trajectory
        return self._kept[key]

    def _on_lattice(self, direction: str, t: float) -> torch.Tensor:
        import torch

        key = (direction, t)
        if key not in self._kept:
            flow, trajectory = self._flow(t)
            with torch.no_grad():
                if self.both and not self.band_limited:
                    self._kept[key] = flow.composed(reversed(self._steps(direction, t)))
                else:
                    self._kept[key] = getattr(flow, direction)(trajectory)
        return self._kept[key]

    def _steps(self, direction: str, t: float) -> list[torch.Tensor]:
        """Of the way in one direction; those of the other are kept until they are asked for."""
        key = ("steps", direction, t)
        if key not in self._kept:
            flow, trajectory = self._flow(t)
            for name, steps in zip(("fixed_to_moving", "moving_to_fixed"), flow.steps_of_both(trajectory), strict=True):
                self._kept["steps", name, t] = steps
        return self._kept.pop(key)

    def _interpolated(
        self, grid: Grid, to_index: np.ndarray, turn: np.ndarray, direction: str, t: float
    ) -> Interpolated:
        """u in mm, turned, at the voxels of a grid, which ``to_index`` takes to the domain's."""
        import torch

        d = grid.ndim
        lattice = self._flow(t)[0].lattice
        u = self._on_lattice(direction, t)
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

    def _follow(self, index: torch.Tensor, direction: str, t: float) -> torch.Tensor:
        """Displacements (d, N) in units of domain indices (N, d)."""
        import torch

        flow, trajectory = self._flow(t)
        d = index.shape[-1]
        index = index.to(self.device)
        points = self._normalized(index.reshape(-1, *[1] * (d - 1), d), flow.lattice)
        with torch.no_grad():
            if self.band_limited:
                from ..geodesics.sampling import Sampler

                sampler = Sampler(flow.lattice, flow.lattice, torch.float32, self.device)
                u = sampler.at(self._on_lattice(direction, t), points)
            else:
                middles = trajectory.middles
                velocities = middles if direction == "fixed_to_moving" else [-v for v in reversed(middles)]
                u = flow.follow(velocities, 1.0 / trajectory.steps, points)
        u = u.reshape(d, -1)
        cell = torch.as_tensor(self.cell, device=index.device)
        position = (index + 0.5) * cell
        inside = ((position >= 0) & (position <= torch.as_tensor(self.lengths, device=index.device))).all(-1)
        return u * inside


def lattice_shape(shape: Sequence[int], lengths: Sequence[float], modes: Sequence[int]) -> tuple[int, ...]:
    """Points per axis of the lattice on which the final map is followed, of a domain of so many voxels and such lengths
    and a velocity of so many modes."""
    wavelength = _shortest_wavelength(modes, lengths)
    return tuple(
        max(4, min(n, math.ceil(length * _POINTS_PER_WAVELENGTH / wavelength - 1e-6)))
        for n, length in zip(shape, lengths, strict=True)
    )


def _shortest_wavelength(modes: Sequence[int], lengths: Sequence[float]) -> float:
    return min(2 * length / max(n - 1, 1) for n, length in zip(modes, lengths, strict=True))


def deformation_from(values: Mapping[str, Any], device: str = "cpu", both: bool = False) -> Deformation:
    """The Deformation of Result.velocity."""
    return Deformation(**{**values, "device": device, "both": both})


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
