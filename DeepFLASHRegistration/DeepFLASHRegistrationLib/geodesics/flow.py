# SPDX-License-Identifier: Apache-2.0
"""From velocities in the band to maps on a lattice."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from .band import Band, Evaluator, Lattice
from .sampling import Sampler, compose
from .shooting import Shooting, Trajectory


def stepped(vx: Tensor, along: Tensor, dt: float, window: Tensor | None, slope: Tensor | None) -> Tensor:
    """b of a step back over dt, to second order, of v and (Dv)v (…, d, *lattice): −dt·v + ½dt²(Dv)v.

    Args:
        window, slope: weights of v (*lattice) and their derivatives (d, *lattice), or None.
    """
    if window is None:
        return -dt * vx + (0.5 * dt * dt) * along
    # The same for the damped velocity wv, whose derivative is w·Dv + v⊗∇w.
    damping = window * (1 - (0.5 * dt) * (slope * vx).sum(vx.ndim - slope.ndim, keepdim=True))
    return -dt * damping * vx + (0.5 * dt * dt) * window.square() * along


class Flow:
    """Semi-Lagrangian maps of a trajectory: points are followed back along characteristics, step by step.

    dψ/dt = −Dψ·v gives ψ₁ = s₁∘s₂∘…∘s_N, where s_k = id + b_k follows the (middle) velocity of step k backwards over dt
    to second order, b = −dt·v + ½dt²(Dv)v. The composition runs from s_N inwards: then each b_k is interpolated once,
    where composing the accumulated map would interpolate, and so blur, that map N times. Maps that are each near the
    identity compose without folds, however large the whole deformation.

    Args:
        band: of the velocities.
        lattice: cells of the whole domain on which each b_k is evaluated.
        window: weights (*lattice.shape) that damp the velocity, e.g. towards the border of the domain.
    """

    def __init__(
        self,
        band: Band,
        lattice: Lattice,
        dtype: torch.dtype = torch.float32,
        device: str | torch.device = "cpu",
        window: Tensor | None = None,
    ):
        self.band, self.lattice, self.window, self._slope = band, lattice, window, None
        self.evaluate = Evaluator(band, lattice, dtype, device)
        self.sample = Sampler(lattice, lattice, dtype, device)
        if window is not None:
            self._slope = torch.stack(torch.gradient(window, spacing=list(lattice.step)))

    def step_displacement(self, v: Tensor, dt: float) -> Tensor:
        """b of one step on the lattice, (d, *lattice.shape)."""
        return stepped(*self._values(v), dt, self.window, self._slope)

    def _values(self, v: Tensor) -> tuple[Tensor, Tensor]:
        """v and (Dv)v on the lattice."""
        d = self.band.ndim
        fields = torch.cat([v, torch.stack([self.band.derivative(v, j) for j in range(d)]).flatten(0, 1)])
        values = self.evaluate(fields)
        vx, dv = values[:d], values[d:].unflatten(0, (d, d))  # dv[j, i] = ∂_j v_i
        return vx, (dv * vx[:, None]).sum(0)

    def displacement(self, velocities: list[Tensor], dt: float) -> Tensor:
        """ψ − id on the lattice after following the velocities, given in order, each for dt; (d, *lattice.shape)."""
        return self.composed(self.step_displacement(v, dt) for v in reversed(velocities))

    def composed(self, steps: Iterable[Tensor]) -> Tensor:
        """ψ − id of b of all steps, the last step first."""
        u = None
        for back in steps:
            u = back if u is None else compose(u, back, self.sample)
        return u

    def fixed_to_moving(self, trajectory: Trajectory) -> Tensor:
        """ψ₁ = φ₁⁻¹ minus the identity: what resampling needs."""
        return self.displacement(trajectory.middles, 1.0 / trajectory.steps)

    def moving_to_fixed(self, trajectory: Trajectory) -> Tensor:
        """φ₁ minus the identity: what points and surfaces need."""
        return self.displacement([-v for v in reversed(trajectory.middles)], 1.0 / trajectory.steps)


class BandLimitedFlow:
    """FLASH's own map (Zhang & Fletcher 2019, eq. 9): the displacement u of ψ = id + u is kept in the band as well,

        ∂u/∂t = −v − (Du)v,

    by Euler steps. Fast and faithful to the papers, but truncating u can fold where the deformation is steep.
    """

    def __init__(self, shooting: Shooting, lattice: Lattice):
        self.shooting, self.lattice = shooting, lattice
        self.evaluate = Evaluator(shooting.band, lattice, shooting.L.dtype, shooting.L.device)

    def coefficients(self, velocities: list[Tensor], dt: float) -> Tensor:
        """u in the band after following the velocities, (d, *modes)."""
        shooting, d = self.shooting, self.shooting.band.ndim
        u = torch.zeros_like(velocities[0])
        for v in velocities:
            values = shooting.product(torch.cat([v, shooting.gradient(u).flatten(0, 1)]))
            du = values[d:].unflatten(0, (d, d))  # du[j, i] = ∂_j u_i
            u = u - dt * (v + shooting.product.project((du * values[:d, None]).sum(0)))
        return u

    def band_displacement(self, trajectory: Trajectory, direction: str) -> Tensor:
        """ψ₁ − id in the band, or φ₁ − id, by the direction; (d, *modes)."""
        velocities = trajectory.middles
        if direction == "moving_to_fixed":  # the same equation along the reversed geodesic
            velocities = [-v for v in reversed(velocities)]
        return self.coefficients(velocities, 1.0 / trajectory.steps)

    def fixed_to_moving(self, trajectory: Trajectory) -> Tensor:
        """ψ₁ − id on the lattice, (d, *lattice.shape)."""
        return self.evaluate(self.band_displacement(trajectory, "fixed_to_moving"))

    def moving_to_fixed(self, trajectory: Trajectory) -> Tensor:
        """φ₁ − id on the lattice."""
        return self.evaluate(self.band_displacement(trajectory, "moving_to_fixed"))
