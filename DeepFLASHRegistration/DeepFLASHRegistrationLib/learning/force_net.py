# SPDX-License-Identifier: Apache-2.0
"""The dual net on the spectrum of FLASH's force, unrolled: predict, shoot, warp, look again.

With W the moving image as it is warped by v and T the fixed one, FLASH's descent goes along K F[(W − T)∇W]/σ² − v. Its
spectrum moves with the images: a shift multiplies it by the same phases as it does v. So what a network on the images'
spectra cannot know is in here, and real parts go to real, imaginary to imaginary parts: the best smoothing of a force
is a real factor per frequency. Each step has such a factor for the force and one for v (the gain), and if wished a
network beside it for the real and one for the imaginary parts.

It is trained without labels: the loss of each step is FLASH's energy where it leads, and no gradient flows back into
the step before.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..geodesics.band import Band, Lattice, Metric
from ..geodesics.flow import Flow
from ..geodesics.sampling import Sampler
from ..geodesics.shooting import Shooting
from .spectra import half_root, half_shape, half_spectrum, real_coefficients


class _Step(nn.Module):
    """One real network: parts of the spectra of force and velocity -> part of the change of the velocity."""

    def __init__(self, ndim: int, shape: tuple[int, ...], hidden: int):
        super().__init__()
        self.gain = nn.Parameter(torch.zeros(ndim, *shape))
        self.damping = nn.Parameter(torch.zeros(ndim, *shape))
        self.layers = None
        if hidden:
            size = self.gain.numel()
            self.layers = nn.Sequential(
                nn.Linear(2 * size, hidden), nn.LeakyReLU(0.1), nn.Linear(hidden, size), nn.Unflatten(1, (ndim, *shape))
            )
            nn.init.zeros_(self.layers[2].weight)
            nn.init.zeros_(self.layers[2].bias)

    def forward(self, force: Tensor, velocity: Tensor) -> Tensor:
        """Twice (n, d, *half) -> (n, d, *half)."""
        change = self.gain.exp() * force - self.damping * velocity
        if self.layers is not None:
            change = change + self.layers(torch.cat([force.flatten(1), velocity.flatten(1)], 1))
        return change


class ForceNet(nn.Module):
    """Real and imaginary networks for every step.

    Args:
        band: of v0.
        metric: of FLASH's energy, as is ``sigma``: D/(2σ²) + ½⟨Lv, v⟩, both means over the domain, D squared
            differences.
        steps: how often it predicts.
        hidden: width of the networks; 0 leaves the gain per frequency alone.
        time_steps: of the geodesics on the way.
    """

    def __init__(
        self, band: Band, metric: Metric, sigma: float, steps: int = 3, hidden: int = 256, time_steps: int = 5
    ):
        super().__init__()
        self.band, self.metric, self.sigma, self.time_steps = band, metric, sigma, time_steps
        shape = half_shape(band.modes)
        self.real = nn.ModuleList(_Step(band.ndim, shape, hidden) for _ in range(steps))
        self.imaginary = nn.ModuleList(_Step(band.ndim, shape, hidden) for _ in range(steps))
        # Of the force, so that with a gain of 1 the first step is about a voxel long.
        self.register_buffer("unit", torch.ones(()))

    @torch.no_grad()
    def adapt(self, fixed: Tensor, moving: Tensor) -> None:
        """Takes the unit of the force from images to train on, (n, *cells)."""
        scene = _Scene(self, fixed, moving)
        displacement = scene.flow.evaluate(scene.force(moving).movedim(1, 0)).square().sum(0).sqrt()
        self.unit.copy_(max(scene.cells.step) / displacement.flatten(1).amax(1).mean().clamp(min=1e-12))

    def unroll(self, fixed: Tensor, moving: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        """After every step: v0 (n, d, *modes) and FLASH's energy there (n,), differentiable in this step's weights.

        Raises:
            NonFiniteField: a velocity was too large for its geodesic.
        """
        scene, ndim = _Scene(self, fixed, moving), self.band.ndim
        root = half_root(self.metric, self.band).to(fixed)  # in units of it all frequencies are of one size
        velocity = fixed.new_zeros(len(fixed), ndim, *self.band.modes)
        warped = moving
        for real, imaginary in zip(self.real, self.imaginary, strict=True):
            force = half_spectrum(self.unit * scene.force(warped), ndim) / root
            now = half_spectrum(velocity, ndim) / root
            change = torch.complex(real(force.real, now.real), imaginary(force.imag, now.imag)) * root
            velocity = velocity + real_coefficients(change, ndim)
            warped, energy = scene.registered(velocity)
            yield velocity, energy
            velocity, warped = velocity.detach(), warped.detach()

    @torch.no_grad()
    def predict(self, fixed: Tensor, moving: Tensor) -> Tensor:
        """Images (n, *cells) over the whole domain -> coefficients of v0 (n, d, *modes)."""
        *_, (velocity, _) = self.unroll(fixed, moving)
        return velocity


class _Scene:
    """A batch of pairs (n, *cells): what a velocity does to them."""

    def __init__(self, net: ForceNet, fixed: Tensor, moving: Tensor):
        dtype, device = fixed.dtype, fixed.device
        self.net, self.fixed, self.moving = net, fixed, moving
        self.cells = Lattice.cells(tuple(fixed.shape[1:]), net.band.lengths)
        self.shooting = Shooting(net.band, net.metric, dtype, device)
        self.flow = Flow(net.band, self.cells, dtype, device)
        self.sampler = Sampler(self.cells, self.cells, dtype, device)

    def force(self, warped: Tensor) -> Tensor:
        """K F[(W − T)∇W]/σ² in the band, (n, d, *modes)."""
        axes = tuple(range(1, warped.ndim))
        slope = torch.stack(torch.gradient(warped, spacing=list(self.cells.step), dim=axes), 1)
        push = (warped - self.fixed)[:, None] * slope
        return self.shooting.K * self.flow.evaluate.project(push) / self.net.sigma**2

    def registered(self, velocity: Tensor) -> tuple[Tensor, Tensor]:
        """The warped images (n, *cells) and FLASH's energy (n,) for velocities (n, d, *modes)."""
        trajectory = self.shooting.shoot(velocity.movedim(1, 0), self.net.time_steps, "multistep")
        u = torch.zeros_like(self.moving).expand(self.cells.ndim, *self.moving.shape)
        for v in reversed(trajectory.middles):
            back = self.flow.step_displacement(v, 1.0 / trajectory.steps)
            u = u + self._sampled(back.movedim(1, 0), u).movedim(1, 0)
        warped = self._sampled(self.moving[:, None], u)[:, 0]
        difference = (warped - self.fixed).square().flatten(1).mean(1)
        norm = (self.shooting.L * velocity.square()).flatten(1).sum(1)
        return warped, difference / (2 * self.net.sigma**2) + 0.5 * norm

    def _sampled(self, arrays: Tensor, u: Tensor) -> Tensor:
        """Arrays (n, c, *cells) at the points displaced by u (d, n, *cells)."""
        points = self.sampler.identity + self.sampler.normalized(u)[0]
        return F.grid_sample(arrays, points, padding_mode="border", align_corners=True)


def fit_force(
    net: ForceNet,
    fixed: Tensor,
    moving: Tensor,
    *,
    iterations: int = 500,
    batch: int = 8,
    learning_rate: float = 1e-3,
    seed: int = 0,
    report: Callable[[int, float], None] | None = None,
) -> None:
    """Trains on images (n, *cells) alone: AdamW whose learning rate falls along half a cosine.

    Args:
        report: called with the number of every iteration, from 1, and the energy after the last step relative to the
            unregistered pairs'.
    """
    net.adapt(fixed, moving)
    optimizer = torch.optim.AdamW(net.parameters(), lr=learning_rate)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, iterations)
    generator = torch.Generator().manual_seed(seed)
    for number in range(1, iterations + 1):
        chosen = torch.randint(len(fixed), (batch,), generator=generator).to(fixed.device)
        before = (moving[chosen] - fixed[chosen]).square().mean() / (2 * net.sigma**2)
        optimizer.zero_grad(set_to_none=True)
        for _, energy in net.unroll(fixed[chosen], moving[chosen]):
            loss = energy.mean() / before.clamp(min=1e-12)
            loss.backward()
        nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        if report is not None:
            report(number, float(loss.detach()))
