# SPDX-License-Identifier: Apache-2.0
"""EPDiff: the geodesic that starts with a band-limited velocity.

    ∂v/∂t = −ad†_v v = −K[(Dv)ᵀm + ∇·(m⊗v)],   m = Lv      (Zhang & Fletcher 2019, eq. 6; Vialard et al. 2012)

All products are formed on the band's product lattice and projected back, so nothing aliases and the truncated equation
is integrated as it stands: ad† is the exact adjoint of the truncated ad, and ⟨Lv, v⟩ is conserved up to the integrator.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from .band import Band, Evaluator, Metric

INTEGRATORS = ("euler", "multistep", "midpoint", "rk4")


@dataclass
class Trajectory:
    """A geodesic in the band, t from 0 to 1 in equal steps.

    velocities: N + 1 tensors (d, *modes), at t = 0, 1/N … 1.
    middles: N tensors, the velocity that carries the map across each step (the middle of the step; its beginning for
        Euler, as in the paper).
    """

    velocities: list[Tensor]
    middles: list[Tensor]

    @property
    def steps(self) -> int:
        return len(self.middles)


class Shooting:
    """EPDiff on a band with a metric.

    Args:
        band: where v lives.
        metric: L; its ``step`` also selects the paper's central differences for D.
    """

    def __init__(
        self, band: Band, metric: Metric, dtype: torch.dtype = torch.float32, device: str | torch.device = "cpu"
    ):
        self.band, self.metric = band, metric
        symbol = metric.symbol(band)
        self.L = symbol.to(device=device, dtype=dtype)
        self.K = (1 / symbol).to(device=device, dtype=dtype)
        self.product = Evaluator(band, band.product_lattice(), dtype, device)

    def gradient(self, f: Tensor) -> Tensor:
        """(..., *modes) -> (ndim, ..., *modes): D f along each axis."""
        return torch.stack([self.band.derivative(f, axis, self.metric.step) for axis in range(self.band.ndim)])

    def energy(self, v: Tensor) -> Tensor:
        """⟨Lv, v⟩ as a mean over the domain (multiply by band.volume for the integral)."""
        return (self.L * v * v).sum()

    def drift(self, trajectory: Trajectory) -> float:
        """Relative change of ⟨Lv, v⟩ from t = 0 to 1, which the exact geodesic keeps; NaN or infinite if it blew up."""
        return float(self.drift_of(trajectory))

    def drift_of(self, trajectory: Trajectory) -> Tensor:
        """The same on the device."""
        start, end = (self.energy(trajectory.velocities[i].detach()) for i in (0, -1))
        return torch.where(start > 0, (end - start).abs() / start, end.abs())

    def ad(self, v: Tensor, w: Tensor) -> Tensor:
        """ad_v w = (Dv)w − (Dw)v, truncated to the band; (d, *modes) each."""
        values = self.product(torch.cat([v, w, self.gradient(v).flatten(0, 1), self.gradient(w).flatten(0, 1)]))
        d = self.band.ndim
        vx, wx = values[:d], values[d : 2 * d]
        dv = values[2 * d : 2 * d + d * d].unflatten(0, (d, d))
        dw = values[2 * d + d * d :].unflatten(0, (d, d))
        return self.product.project((dv * wx[:, None] - dw * vx[:, None]).sum(0))

    def ad_dagger(self, v: Tensor, u: Tensor) -> Tensor:
        """ad†_v u = K[(Dv)ᵀm + ∇·(m⊗v)] with m = Lu: the adjoint of ad_v in the metric; (d, *modes) each."""
        m = self.L * u
        return self.K * (self._exact(v, m) if self.metric.step is None else self._direct(v, m))

    def _direct(self, v: Tensor, m: Tensor) -> Tensor:
        """(Dv)ᵀm + ∇·(m⊗v) term by term, for any D: d² + 2d fields evaluated, d² + d projected."""
        d = self.band.ndim
        values = self.product(torch.cat([v, m, self.gradient(v).flatten(0, 1)]))
        vx, mx, dv = values[:d], values[d : 2 * d], values[2 * d :].unflatten(0, (d, d))
        stretch = (dv * mx).sum(1)  # Σ_j ∂_i v_j m_j
        flux = mx[:, None] * vx[None]  # [i, j] = m_i v_j
        projected = self.product.project(torch.cat([stretch, flux.flatten(0, 1)]))
        divergence = sum(
            self.band.derivative(projected[d:].unflatten(0, (d, d))[:, j], j, self.metric.step) for j in range(d)
        )
        return projected[:d] + divergence

    def _exact(self, v: Tensor, m: Tensor) -> Tensor:
        """The same for exact derivatives, where the product rule holds:

            (Dv)ᵀm + ∇·(m⊗v) = ∇(v·m) + Ωv + m ∇·v,   Ω_ij = ∂_j m_i − ∂_i m_j.

        10 fields evaluated and 4 projected in 3-D, instead of 15 and 12.
        """
        d = self.band.ndim
        pairs = [(i, j) for i in range(d) for j in range(i + 1, d)]
        derivative = self.band.derivative
        curl = [derivative(m[i], j) - derivative(m[j], i) for i, j in pairs]
        divergence = sum(derivative(v[i], i) for i in range(d))
        values = self.product(torch.cat([v, m, torch.stack([*curl, divergence])]))
        return self._assemble(self.product.project(self._products(values, pairs)))

    def _products(self, values: Tensor, pairs: list[tuple[int, int]]) -> Tensor:
        d = self.band.ndim
        vx, mx, curl, divergence = values[:d], values[d : 2 * d], values[2 * d : -1], values[-1]
        rows = list((mx * divergence).unbind(0))
        for (i, j), omega in zip(pairs, curl, strict=True):
            rows[i] = rows[i] + omega * vx[j]
            rows[j] = rows[j] - omega * vx[i]
        return torch.stack([(vx * mx).sum(0), *rows])

    def _assemble(self, projected: Tensor) -> Tensor:
        return self.gradient(projected[0]) + projected[1:]

    def acceleration(self, v: Tensor) -> Tensor:
        """∂v/∂t of EPDiff."""
        return -self.ad_dagger(v, v)

    def shoot(self, v0: Tensor, steps: int, integrator: str = "midpoint") -> Trajectory:
        """Integrate EPDiff from v0 (d, *modes) over t in [0, 1]; differentiable."""
        if integrator not in INTEGRATORS:
            raise ValueError(f"Unknown integrator {integrator!r}; choose one of {', '.join(INTEGRATORS)}.")
        if steps < 1:
            raise ValueError(f"steps must be at least 1, got {steps}.")
        dt = 1.0 / steps
        velocities, middles, last = [v0], [], None
        for _ in range(steps):
            v = velocities[-1]
            k1 = self.acceleration(v)
            if integrator == "euler":
                middle, following = v, v + dt * k1
            elif integrator == "multistep" and last is not None:
                # Adams–Bashforth: second order for one evaluation a step; the first step is a midpoint step.
                middle = v + 0.5 * dt * k1 + 0.125 * dt * (k1 - last)
                following = v + dt * (1.5 * k1 - 0.5 * last)
            elif integrator in ("midpoint", "multistep"):
                middle = v + 0.5 * dt * k1
                following = v + dt * self.acceleration(middle)
            else:
                k2 = self.acceleration(v + 0.5 * dt * k1)
                k3 = self.acceleration(v + 0.5 * dt * k2)
                k4 = self.acceleration(v + dt * k3)
                following = v + dt / 6 * (k1 + 2 * k2 + 2 * k3 + k4)
                # Cubic Hermite at the middle, with k4 for the slope at the end: fourth order like the step.
                middle = 0.5 * (v + following) + dt / 8 * (k1 - k4)
            middles.append(middle)
            velocities.append(following)
            last = k1
        return Trajectory(velocities, middles)

    def recommended_steps(self, v0: Tensor, per_step: float = 0.5, least: int = 3, most: int = 64) -> int:
        """Steps that keep dt·max|∂_i v_j| below ``per_step`` at t = 0 (bounded by ``most``)."""
        with torch.no_grad():
            steepest = self._steepest(v0)
        if not math.isfinite(steepest):
            return most
        return int(min(most, max(least, math.ceil(steepest / per_step))))

    def _steepest(self, v0: Tensor) -> float:
        """max|∂_i v_j| at t = 0."""
        return self.product(self.gradient(v0).flatten(0, 1)).abs().max().item()
