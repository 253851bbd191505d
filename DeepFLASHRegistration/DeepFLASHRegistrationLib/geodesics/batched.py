# SPDX-License-Identifier: Apache-2.0
"""Shooting and maps of several geodesics at once, in a fixed number of steps and without a look at any value.

The mathematics of `shooting` and `flow`, with a first axis for the batch, so that a network and its training can be
captured as one CUDA graph. Whether the answer is finite is for the caller to see, afterwards.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from .band import Band, Evaluator, Lattice, Metric
from .flow import stepped
from .sampling import identity_coordinates, scale_to_normalized
from .shooting import Shooting

# Displacements beyond this many lengths of the domain mean nothing, and must not reach the sampler.
_FARTHEST = 4.0


class BatchedShooting:
    """EPDiff by the multistep integrator, for exact derivatives (`Metric.step` None).

    Attributes:
        L, K: symbol of the metric and its inverse, *modes.
    """

    def __init__(
        self, band: Band, metric: Metric, dtype: torch.dtype = torch.float32, device: str | torch.device = "cpu"
    ):
        if metric.step is not None:
            raise ValueError("BatchedShooting has exact derivatives only.")
        shooting = Shooting(band, metric, dtype, device)
        self.band, self.metric, self.L, self.K, self.product = band, metric, shooting.L, shooting.K, shooting.product
        d = band.ndim
        self._pairs = [(i, j) for i in range(d) for j in range(i + 1, d)]
        # A recording reads them where they are.
        self._held = [band.derivation(axis, None, dtype, shooting.L.device) for axis in range(d)]

    def energy(self, v: Tensor) -> Tensor:
        """⟨Lv, v⟩ as means over the domain: (batch, d, *modes) -> (batch,)."""
        return (self.L * v * v).flatten(1).sum(1)

    def acceleration(self, v: Tensor) -> Tensor:
        """∂v/∂t: −K[∇(v·m) + Ωv + m ∇·v], m = Lv, Ω_ij = ∂_j m_i − ∂_i m_j; (batch, d, *modes)."""
        d, derivative = self.band.ndim, self.band.derivative
        both = torch.cat([v, self.L * v], 1)
        slopes = [derivative(both, j) for j in range(d)]
        curl = [slopes[j][:, d + i] - slopes[i][:, d + j] for i, j in self._pairs]
        divergence = sum(slopes[i][:, i] for i in range(d))
        values = self.product(torch.cat([both, torch.stack([*curl, divergence], 1)], 1))
        vx, mx = values[:, :d], values[:, d : 2 * d]
        rows = list((mx * values[:, -1:]).unbind(1))
        for k, (i, j) in enumerate(self._pairs):
            omega = values[:, 2 * d + k]
            rows[i] = rows[i] + omega * vx[:, j]
            rows[j] = rows[j] - omega * vx[:, i]
        projected = self.product.project(torch.stack([(vx * mx).sum(1), *rows], 1))
        gradient = torch.stack([derivative(projected[:, 0], j) for j in range(d)], 1)
        return -self.K * (gradient + projected[:, 1:])

    def middles(self, v0: Tensor, steps: int) -> list[Tensor]:
        """The velocities that carry the map across each of the steps, (batch, d, *modes) each."""
        dt, v, middles, last = 1.0 / steps, v0, [], None
        for step in range(steps):
            k = self.acceleration(v)
            if last is None:
                middle = v + 0.5 * dt * k
                following = v + dt * self.acceleration(middle) if step < steps - 1 else v
            else:
                middle = v + (0.625 * dt) * k - (0.125 * dt) * last
                following = v + (1.5 * dt) * k - (0.5 * dt) * last
            middles.append(middle)
            v, last = following, k
        return middles

    def steepest(self, v: Tensor) -> Tensor:
        """max |∂_i v_j| on the product lattice: (batch, d, *modes) -> (batch,)."""
        slopes = torch.cat([self.band.derivative(v, j) for j in range(self.band.ndim)], 1)
        return self.product(slopes).flatten(1).abs().amax(1)


class BatchedSampler:
    """Samples arrays given on ``source`` at the points of ``lattice`` displaced by fields; a batch at once."""

    def __init__(
        self, lattice: Lattice, source: Lattice, dtype: torch.dtype = torch.float32, device: str | torch.device = "cpu"
    ):
        device = torch.device(device)
        self.identity = identity_coordinates(lattice, source, dtype, device)
        self._scale = scale_to_normalized(source, dtype, device)

    def points(self, displacement: Tensor) -> Tensor:
        """Displacements (batch, d, *lattice) in units -> normalized coordinates of the source, (batch, *lattice, d)."""
        points = displacement.flip(1).movedim(1, -1) * self._scale
        # Coordinates that are not finite can end the process in torch's backward pass.
        return self.identity + torch.nan_to_num(points).clamp(-_FARTHEST, _FARTHEST)

    def __call__(self, arrays: Tensor, displacement: Tensor, mode: str = "bilinear", padding: str = "border") -> Tensor:
        """arrays (batch, c, *source), displacements (batch, d, *lattice) -> (batch, c, *lattice)."""
        points = self.points(displacement).to(arrays.dtype)
        return F.grid_sample(arrays, points, mode=mode, padding_mode=padding, align_corners=True)


class BatchedFlow:
    """Semi-Lagrangian maps on a lattice of the whole domain; see `flow.Flow`."""

    def __init__(
        self,
        band: Band,
        lattice: Lattice,
        dtype: torch.dtype = torch.float32,
        device: str | torch.device = "cpu",
        window: Callable[[Lattice], Tensor] | None = None,
    ):
        self.band, self.lattice = band, lattice
        self.evaluate = Evaluator(band, lattice, dtype, device)
        self.sample = BatchedSampler(lattice, lattice, dtype, device)
        self.window = self._slope = None
        if window is not None:
            self.window = window(lattice).to(device=device, dtype=dtype)
            self._slope = torch.stack(torch.gradient(self.window, spacing=list(lattice.step)))

    def step_displacements(self, velocities: Sequence[Tensor], dt: float) -> list[Tensor]:
        """b of every step, (batch, d, *lattice) each; all of them evaluated together."""
        return list(stepped(*self._values(velocities), dt, self.window, self._slope).chunk(len(velocities)))

    def _values(self, velocities: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """v and (Dv)v on the lattice, one velocity's batch after the other's."""
        d, v = self.band.ndim, torch.cat(list(velocities))
        values = self.evaluate(torch.cat([v, *(self.band.derivative(v, j) for j in range(d))], 1))
        vx = values[:, :d]
        return vx, sum(values[:, d * (j + 1) : d * (j + 2)] * vx[:, j : j + 1] for j in range(d))

    def displacement(self, velocities: Sequence[Tensor], dt: float) -> Tensor:
        """ψ − id after following the velocities, given in order, each for dt: (batch, d, *lattice)."""
        return self._composed(reversed(self.step_displacements(velocities, dt)))

    def _composed(self, steps: Iterable[Tensor]) -> Tensor:
        """ψ − id of b of all steps, the last step first."""
        u = None
        for back in steps:
            u = back if u is None else u + self.sample(back, u)
        return u

    def both(self, middles: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """`fixed_to_moving` and `moving_to_fixed`: of the same velocities, which are evaluated once."""
        n, values = len(middles), self._values(middles)
        there, back = (stepped(*values, dt, self.window, self._slope).chunk(n) for dt in (1.0 / n, -1.0 / n))
        return self._composed(reversed(there)), self._composed(back)

    def fixed_to_moving(self, middles: Sequence[Tensor]) -> Tensor:
        """What resampling needs: ψ₁ minus the identity."""
        return self.displacement(middles, 1.0 / len(middles))

    def moving_to_fixed(self, middles: Sequence[Tensor]) -> Tensor:
        """What points need: φ₁ minus the identity."""
        return self.displacement([-v for v in reversed(middles)], 1.0 / len(middles))
