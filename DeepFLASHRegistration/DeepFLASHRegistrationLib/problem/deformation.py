# SPDX-License-Identifier: Apache-2.0
"""A geodesic in physical space: from v0 to displacement fields in mm, on any grid, at any time, in both directions."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from ..imaging.grid import Grid
from .dense_map import DenseMap
from .spatial_map import SpatialMap

if TYPE_CHECKING:
    import torch

    from ..geodesics.band import Lattice

# Lattice points per shortest wavelength of the band when the final maps are computed; denser changes them by less than
# the interpolation of the written fields.
_POINTS_PER_WAVELENGTH = 5.5
# Bound on dt·max|Dv| of the final time steps; about half of what is used while optimizing. With fewer steps, time
# adds to the error of interpolation; with more of them, each an interpolation, that only grows.
_PER_STEP, _FEWEST_STEPS = 0.27, 6
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

    timed: ClassVar[bool] = True

    def on(self, device: str) -> Deformation:
        """The same, computed on another device."""
        return replace(self, device=device)

    @property
    def shortest_wavelength(self) -> float:
        """Of the velocity, in units of length."""
        return _shortest_wavelength(self.velocity.shape[1:], self.lengths)

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

    def _known(self, direction: str, t: float) -> tuple[Lattice, torch.Tensor]:
        return self._flow(t)[0].lattice, self._on_lattice(direction, t)

    def _moved(self, index: torch.Tensor, direction: str, t: float) -> torch.Tensor:
        """Followed through the geodesic one by one."""
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
        return u.reshape(d, -1)


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


def deformation_from(values: Mapping[str, Any], device: str = "cpu", both: bool = False) -> Deformation | DenseMap:
    """The Deformation, or the DenseMap, of Result.velocity."""
    if "forth" in values:
        return DenseMap(**{**values, "device": device})
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
