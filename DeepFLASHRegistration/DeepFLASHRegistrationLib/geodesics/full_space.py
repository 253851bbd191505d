# SPDX-License-Identifier: Apache-2.0
"""Geodesics without a band: the initial momentum m₀ on every cell, as in LDDMM with vector momenta.

    v = K m,    ∂v/∂t = −K[(Dv)ᵀm + ∇·(m⊗v)]      (Miller, Trouvé & Younes 2006; Vialard et al. 2012)

As in shooting.py, by FFTs on the cells: what aliases, K has made small. The unknown is p = √K m₀, in whose coordinates
⟨Lv, v⟩ = ‖p‖², so that no frequency is stiffer than another.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from .band import Band, Lattice, Metric
from .flow import Flow
from .objective import Compared, Level, Objective, Settings
from .sampling import Sampler
from .search.descent import Ending, State, descend
from .shooting import Shooting, Trajectory


class FullShooting(Shooting):
    """EPDiff on all cells of a periodic domain; as Shooting, but from p, to velocities (d, *shape) on the cells.

    Args:
        lattice: cells of the whole domain.
        metric: L, its exact derivatives.
    """

    def __init__(self, lattice: Lattice, metric: Metric, dtype: torch.dtype, device: str | torch.device):
        self.lattice, shape = lattice, lattice.shape
        lengths = tuple(h * n for h, n in zip(lattice.step, shape, strict=True))
        self.band = Band(tuple(n - 1 + n % 2 for n in shape), lengths)  # the widest that the cells hold
        self._axes = tuple(range(-len(shape), 0))
        symbol = torch.full((*shape[:-1], shape[-1] // 2 + 1), float(metric.gamma), dtype=torch.float64)
        self._omega = []
        for axis, (n, h) in enumerate(zip(shape, lattice.step, strict=True)):
            last = axis == len(shape) - 1
            omega = 2 * math.pi * (torch.fft.rfftfreq if last else torch.fft.fftfreq)(n, h, dtype=torch.float64)
            view = [1] * len(shape)
            view[axis] = -1
            symbol = symbol + metric.alpha * (omega**2).view(view)
            if n % 2 == 0:  # the last frequency has no derivative on the cells
                omega[n // 2] = 0
            self._omega.append((1j * omega).view(view).to(device=device).to(dtype.to_complex()))
        symbol = symbol**metric.power
        self._root, self._l, self._k = (
            x.to(device=device, dtype=dtype) for x in (symbol.rsqrt(), symbol, symbol.reciprocal())
        )
        # Half of the second derivative of the energy by a cell's p, as Shooting.L.
        self.L = torch.full((1,), 1 / math.prod(shape), device=device, dtype=dtype)

    def _forward(self, f: Tensor) -> Tensor:
        return torch.fft.rfftn(f, dim=self._axes)

    def _back(self, spectrum: Tensor) -> Tensor:
        return torch.fft.irfftn(spectrum, s=self.lattice.shape, dim=self._axes)

    def velocity(self, p: Tensor) -> Tensor:
        """v of p at the same time, (d, *shape) each."""
        return self._back(self._forward(p) * self._root)

    def momentum(self, p: Tensor) -> Tensor:
        """m₀ = p/√K, which lies where the images' edges are."""
        return self._back(self._forward(p) / self._root)

    def of_momentum(self, m0: Tensor) -> Tensor:
        """Inverse of `momentum`."""
        return self._back(self._forward(m0) * self._root)

    def slopes(self, f: Tensor) -> Tensor:
        """∂_j f_i of fields (d, *shape) by their Fourier series: (j, i, *shape)."""
        spectrum = self._forward(f)
        return self._back(torch.stack([omega * spectrum for omega in self._omega]))

    def energy(self, p: Tensor) -> Tensor:
        """⟨Lv, v⟩ as a mean over the domain."""
        return p.square().sum() / math.prod(self.lattice.shape)

    def drift_of(self, trajectory: Trajectory) -> Tensor:
        start, end = (
            self.energy(self._back(self._forward(trajectory.velocities[i].detach()) / self._root)) for i in (0, -1)
        )
        return torch.where(start > 0, (end - start).abs() / start, end.abs())

    def acceleration(self, v: Tensor) -> Tensor:
        """∂v/∂t of EPDiff, by Shooting._exact's form of it.

        Of its two dozen fields on all cells none is kept for the way back: there they are computed once more.
        """
        return checkpoint(self._accelerated, v, use_reentrant=False) if v.requires_grad else self._accelerated(v)

    def _accelerated(self, v: Tensor) -> Tensor:
        d = len(v)
        spectrum = self._forward(v)
        m, omega = self._l * spectrum, self._omega
        pairs = [(i, j) for i in range(d) for j in range(i + 1, d)]
        curl = [omega[j] * m[i] - omega[i] * m[j] for i, j in pairs]
        divergence = sum(omega[i] * spectrum[i] for i in range(d))
        values = self._back(torch.cat([m, torch.stack([*curl, divergence])]))
        products = self._forward(self._products(torch.cat([v, values]), pairs))
        return self._back(-self._k * torch.stack([omega[i] * products[0] + products[1 + i] for i in range(d)]))

    def shoot(self, p0: Tensor, steps: int, integrator: str = "midpoint") -> Trajectory:
        """The geodesic of p0 (d, *shape) over t in [0, 1]; differentiable."""
        return super().shoot(self.velocity(p0), steps, integrator)

    def _steepest(self, p0: Tensor) -> float:
        return float(self.slopes(self.velocity(p0)).abs().max())


class FullFlow(Flow):
    """Maps of velocities that are given on the lattice itself; see Flow."""

    def __init__(self, shooting: FullShooting, dtype: torch.dtype, device: str | torch.device, window: Tensor | None):
        lattice, self._slopes = shooting.lattice, shooting.slopes
        self.lattice, self.window, self._slope = lattice, window, None
        self.evaluate = shooting.velocity
        self.sample = Sampler(lattice, lattice, dtype, device)
        if window is not None:
            self._slope = torch.stack(torch.gradient(window, spacing=list(lattice.step)))

    def _values(self, v: Tensor) -> tuple[Tensor, Tensor]:
        return v, (self._slopes(v) * v[:, None]).sum(0)


class FullObjective(Objective):
    """E and its gradient by p on all cells of a level; the level's band does not matter."""

    def _engines(self, lattice: Lattice) -> tuple[FullShooting, FullFlow]:
        dtype, device = self.like.dtype, self.like.device
        shooting = FullShooting(self.cells, self.level.metric, dtype, device)
        return shooting, FullFlow(shooting, dtype, device, None if self.window is None else self.window(self.cells))


@dataclass(frozen=True)
class FullEstimate:
    """p (d, *shape) on the cells of the last level, both maps there minus the identity (fixed to moving first), and why
    each level ended."""

    p: Tensor
    lattice: Lattice
    maps: tuple[Tensor, Tensor]
    energy: float
    endings: tuple[Ending, ...]

    @property
    def cancelled(self) -> bool:
        return self.endings[-1] is Ending.CANCELLED


def minimize(
    compared: Compared,
    levels: Sequence[Level],
    settings: Settings,
    window: Callable[[Lattice], Tensor] | None = None,
    report: Callable[[int, State, Objective], None] | None = None,
    cancelled: Callable[[], bool] | None = None,
) -> FullEstimate:
    """Minimize E over p through the levels; as search.flash.minimize.

    Args:
        report: called with the level, the `State` and the objective after every accepted step.
    """
    p, endings = None, []
    for number, level in enumerate(levels):
        shape = compared.reduced(level.factors).like.shape
        d = len(shape)
        p = torch.zeros(d, *shape).to(compared.like) if p is None else continued(p, shape)
        objective = FullObjective(compared, level, settings, window, p)
        for state in descend(objective, p, number > 0, cancelled or (lambda: False)):
            p, ending = state.velocity, state.ending
            if state.accepted and report is not None:
                report(number, state, objective)
        endings.append(ending)
        if ending is Ending.CANCELLED:
            break
    maps = shot(p, objective.shooting, objective.flow, 2 * objective.steps, settings.integrator)
    energy = math.inf if state.evaluation is None else state.evaluation.energy
    return FullEstimate(p, objective.cells, maps, energy, tuple(endings))


@torch.no_grad()
def shot(p: Tensor, shooting: FullShooting, flow: FullFlow, steps: int, integrator: str) -> tuple[Tensor, Tensor]:
    """Both maps of p minus the identity, fixed to moving first."""
    trajectory = shooting.shoot(p, steps, integrator)
    return flow.fixed_to_moving(trajectory), flow.moving_to_fixed(trajectory)


def continued(p: Tensor, shape: Sequence[int]) -> Tensor:
    """A periodic field (d, *own shape) on finer cells of the same domain, by its Fourier series."""
    for axis, n in enumerate(shape):
        own = p.shape[axis + 1]
        if own == n:
            continue
        spectrum = torch.fft.rfft(p, dim=axis + 1)
        # Cells' centers move against each other: by half the difference of their sizes.
        k = torch.arange(spectrum.shape[axis + 1], device=p.device)
        shift = torch.exp(1j * math.pi * k * (1 / n - 1 / own))
        view = [1] * p.ndim
        view[axis + 1] = -1
        spectrum = spectrum * shift.view(view).to(spectrum)
        if own % 2 == 0:  # the last frequency stands for two
            spectrum = spectrum.narrow(axis + 1, 0, own // 2)
        p = torch.fft.irfft(spectrum, n=n, dim=axis + 1) * (n / own)
    return p
