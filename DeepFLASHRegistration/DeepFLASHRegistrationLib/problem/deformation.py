# SPDX-License-Identifier: Apache-2.0
"""A geodesic in physical space: from v0 to displacement fields in mm, on any grid, at any time, in both directions."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from ..imaging.grid import Grid, over_indices, stored

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
# Normalized coordinates beyond it lie outside any lattice, and overflow nothing.
_FAR = 1e3


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
        d = grid.ndim
        result = np.empty((*grid.shape, d), dtype=np.float32)
        matrix, offset = self.affine[:d, :d], self.affine[:d, d]
        if direction == "fixed_to_moving":
            # x -> A(x + u): (A − I)x + b + A u, with u read on a grid parallel to the domain or point by point.
            linear, shift, turn = matrix - np.eye(d), offset, matrix
            u = self._on_grid(grid, direction, t)
        else:
            # y -> z + w(z), z = A⁻¹y
            inverse = np.linalg.inv(self.affine)
            linear, shift, turn = inverse[:d, :d] - np.eye(d), inverse[:d, d], np.eye(d)
            u = self._on_grid(grid, direction, t, inverse)
        to_mm = (turn @ self.domain.direction * self.unit_mm).astype(np.float32)
        slope, base = linear @ grid.affine[:d, :d], linear @ grid.affine[:d, d] + shift
        rest = [np.arange(n) for n in grid.shape[1:]]
        for k in range(grid.shape[0]):  # slice by slice, which stays in the processor's cache
            for i, part in enumerate(over_indices(slope, base, [np.array([k]), *rest])):
                total = part[0].astype(np.float32)
                if u is not None:
                    for a in range(d):
                        if to_mm[i, a] != 0:
                            total += to_mm[i, a] * u[a][k]
                result[k, ..., i] = total
        return result

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
                self._kept[key] = getattr(flow, direction)(trajectory)
        return self._kept[key]

    def _on_grid(self, grid: Grid, direction: str, t: float, before: np.ndarray | None = None) -> np.ndarray | None:
        """u in units along the domain's axes at the points of a grid (mapped by ``before``), (d, *grid.shape)."""
        import torch

        from ..geodesics.band import Lattice, Upsampler
        from ..geodesics.sampling import Sampler

        if not self.velocity.any() or t == 0:
            return None
        d = grid.ndim
        source, _ = self._flow(t)
        u = self._on_lattice(direction, t)
        to_index = self.domain.inverse_affine @ (np.eye(d + 1) if before is None else before) @ grid.affine
        ratio = to_index[:d, :d]
        order = np.abs(ratio).argmax(1)
        along = ratio[np.arange(d), order]
        parallel = len(set(order)) == d and np.abs(ratio).sum() - np.abs(along).sum() < 1e-6
        if parallel and ((order != np.arange(d)).any() or along.min() < 0):
            # Stored in another order or direction: what lies at a point does not depend on that.
            values = self._on_grid(stored(grid, order, along < 0), direction, t, before)
            if values is None:
                return None
            values = np.flip(values, tuple(int(a) + 1 for a in np.flatnonzero(along < 0)))
            return values.transpose(0, *(1 + np.argsort(order)))
        if parallel:
            # Axes parallel to the domain's: interpolation is one matrix product per axis. Outside the domain is rest.
            step = tuple(np.diag(ratio) * self.cell)
            origin = tuple((to_index[:d, d] + 0.5) * self.cell)
            lattice = Lattice(grid.shape, step, origin)
            lower, upper = [], []
            for a in range(d):
                x = origin[a] + step[a] * np.arange(grid.shape[a])
                inside = np.flatnonzero((x >= 0) & (x <= self.lengths[a]))
                if not len(inside):
                    return None
                lower.append(int(inside[0]))
                upper.append(int(inside[-1]) + 1)
            part = lattice.box(tuple(lower), tuple(upper))
            values = Upsampler(source.lattice, part, torch.float32, self.device)(u).cpu().numpy()
            if part.shape == grid.shape:
                return values
            result = np.zeros((d, *grid.shape), dtype=np.float32)
            result[(slice(None), *(slice(a, b) for a, b in zip(lower, upper, strict=True)))] = values
            return result
        # Here interpolation is linear, so that the lattice must first become as fine as what is wanted.
        lattice = source.lattice
        wanted = [math.ceil(length * self.unit_mm / grid.spacing.min() - 1e-6) for length in self.lengths]
        shape = tuple(min(2 * n, max(n, m)) for n, m in zip(lattice.shape, wanted, strict=True))
        if shape != lattice.shape:
            lattice = Lattice.cells(shape, self.lengths)
            u = Upsampler(source.lattice, lattice, torch.float32, self.device)(u)
        sampler = Sampler(lattice, lattice, torch.float32, self.device)
        result = np.empty((d, *grid.shape), dtype=np.float32)
        slope, base = self._normalizing(lattice)
        matrix, offset = slope[:, None] * to_index[:d, :d], slope * to_index[:d, d] + base
        rest = [np.arange(n) for n in grid.shape[1:]]
        for k in range(grid.shape[0]):
            points = np.empty((1, 1, *grid.shape[1:], d), dtype=np.float32)
            for a, part in enumerate(over_indices(matrix, offset, [np.array([k]), *rest])):
                points[0, ..., d - 1 - a] = part
            near = torch.from_numpy(points.clip(-_FAR, _FAR, out=points)).to(self.device)
            result[:, k] = sampler.at(u, near, padding="zeros").cpu().numpy()[:, 0]
        return result

    def _normalizing(self, lattice: Any) -> tuple[np.ndarray, np.ndarray]:
        """(slope, base): domain indices times slope plus base are normalized coordinates of a lattice; (d,) each."""
        scale = 2 / (np.array(lattice.step) * np.maximum(np.array(lattice.shape) - 1, 1))
        return self.cell * scale, (0.5 * self.cell - np.array(lattice.origin)) * scale - 1

    def _normalized(self, index: torch.Tensor, lattice: Any) -> torch.Tensor:
        """Domain indices (…, d) as normalized coordinates (1, …, d) of a lattice; far points are brought near, where
        the field is at rest as well."""
        import torch

        slope, base = (torch.as_tensor(x, device=index.device) for x in self._normalizing(lattice))
        return (index * slope + base).clamp(-_FAR, _FAR).flip(-1).float()[None]

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


def deformation_from(values: Mapping[str, Any], device: str = "cpu") -> Deformation:
    """The Deformation of Result.velocity."""
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
