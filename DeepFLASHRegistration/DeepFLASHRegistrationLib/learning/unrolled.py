# SPDX-License-Identifier: Apache-2.0
"""The unrolled predictor: FLASH's descent with its steps replaced by a learned one.

At each step FLASH's own objective is evaluated: shoot, warp, gradient. A small convolutional network sees both images
as they lie now, the gradient in the metric of V and the velocity, all on a grid of half the level's resolution, and
gives the next change of the velocity. Its output is projected on the band, so that what follows is exactly FLASH's
geometry: nothing the network says can be less smooth than the band, or fail to be a geodesic.

Convolutions do not know where they are, so the prediction moves with the images. The network is trained for what it is
used for: the gradient of the objective at the velocity that it reached is the gradient of its loss.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..geodesics.band import Evaluator, Lattice, fit_modes
from ..geodesics.objective import Evaluation, Level, Objective, Pair, Settings

MULTIPLE = 2  # of which the voxels of every level must be a multiple along each axis


@dataclass(frozen=True)
class Stage:
    """One network: for a level of resolution, how many steps it takes, and its width."""

    steps: int
    channels: tuple[int, ...] = (32, 64, 64)


class StepNetwork(nn.Module):
    """A U-Net from the present state to the next change of the velocity.

    Args:
        ndim: 2 or 3.
        stage: steps and channels; one scale per entry of ``channels``, the first at half the level's resolution.
    """

    def __init__(self, ndim: int, stage: Stage):
        super().__init__()
        conv = nn.Conv3d if ndim == 3 else nn.Conv2d
        self.ndim, widths = ndim, stage.channels
        # A window of four voxels at every second: centered where the coarse cells are.
        self.images = conv(3, widths[0], 4, stride=2, padding=1)
        self.fields = conv(2 * ndim + 1, widths[0], 3, padding=1)
        self.number = nn.Parameter(torch.zeros(stage.steps, widths[0]))
        # Most of the time goes into the finest scale: one convolution on the way down, one on the way up.
        self.down = nn.ModuleList([conv(widths[0], widths[0], 3, padding=1)])
        self.down.extend(_Block(conv, a, b) for a, b in zip(widths, widths[1:]))
        self.narrow = nn.ModuleList(conv(b, a, 1) for a, b in zip(widths, widths[1:]))
        self.up = nn.ModuleList(conv(a, a, 3, padding=1) for a in widths[:-1])
        self.out = conv(widths[0], ndim, 3, padding=1)
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)
        # Length of the plain descent step, in coarse voxels (through softplus).
        self.descent = nn.Parameter(torch.full((stage.steps,), -3.0))

    def forward(self, images: Tensor, fields: Tensor, step: int) -> Tensor:
        """(n, 3, *cells), (n, 2d + 1, *coarse) -> change of the velocity (n, d, *coarse), in coarse voxels."""
        number = self.number[step].view(1, -1, *[1] * self.ndim)
        x = F.leaky_relu(self.images(images) + self.fields(fields) + number, 0.1)
        kept = []
        for scale, block in enumerate(self.down):
            if scale:
                kept.append(x)
                x = _pooled(x)
            x = F.leaky_relu(block(x), 0.1)
        for narrow, block, skip in zip(reversed(self.narrow), reversed(self.up), reversed(kept), strict=True):
            x = narrow(x)
            for axis in range(self.ndim):
                x = x.repeat_interleave(2, 2 + axis).narrow(2 + axis, 0, skip.shape[2 + axis])
            x = F.leaky_relu(block(x + skip), 0.1)
        return self.out(x)


class _Block(nn.Module):
    """Two convolutions around a shortcut."""

    def __init__(self, conv: type[nn.Module], before: int, after: int):
        super().__init__()
        self.first, self.second = conv(before, after, 3, padding=1), conv(after, after, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        y = F.leaky_relu(self.first(x), 0.1)
        return y + self.second(y)


def _pooled(x: Tensor) -> Tensor:
    pool = F.avg_pool3d if x.ndim == 5 else F.avg_pool2d
    return pool(x, 2, ceil_mode=True, count_include_pad=False)


@dataclass(frozen=True)
class Step:
    """The state after one step: stage and step count from 0; ``change`` carries the graph to the network's weights."""

    stage: int
    step: int
    velocity: Tensor
    change: Tensor | None
    objective: Objective
    evaluation: Evaluation | None


class UnrolledPredictor(nn.Module):
    """Networks for the levels, coarse to fine, one after the other."""

    def __init__(self, ndim: int, stages: Sequence[Stage]):
        super().__init__()
        self.ndim, self.stages = ndim, tuple(stages)
        self.networks = nn.ModuleList(StepNetwork(ndim, stage) for stage in self.stages)

    def unroll(
        self,
        pair: Pair,
        levels: Sequence[Level],
        settings: Settings,
        window: Callable[[Lattice], Tensor] | None,
        *,
        last_evaluated: bool = True,
        stages: int | None = None,
    ) -> Iterator[Step]:
        """Yields the state before the first step of each stage (change None) and after every step.

        Args:
            pair: images on the working grid.
            levels: one per stage.
            settings: of the objective.
            window: as in `flash.minimize`.
            last_evaluated: whether the objective is evaluated at the very last velocity too.
            stages: how many to run; all by default.
        """
        count = len(self.stages) if stages is None else stages
        if len(levels) != len(self.stages):
            raise ValueError(f"The predictor has {len(self.stages)} stages, not {len(levels)} levels.")
        velocity = None
        for number in range(count):
            level, stage, network = levels[number], self.stages[number], self.networks[number]
            modes = level.band.modes
            zero = torch.zeros(len(modes), *modes, dtype=pair.fixed.dtype, device=pair.fixed.device)
            velocity = zero if velocity is None else fit_modes(velocity, modes).to(zero).contiguous()
            objective = Objective(pair, level, settings, window, velocity)
            sight = _Sight(objective)
            evaluation = objective.evaluate_safely(velocity)
            yield Step(number, -1, velocity, None, objective, evaluation)
            for k in range(stage.steps):
                if evaluation.gradient is None:
                    # Too steep to be integrated: back to a gentler field of the same shape.
                    velocity = 0.5 * velocity
                    evaluation = objective.evaluate_safely(velocity)
                    if evaluation.gradient is None:
                        return
                change = sight.change(network, velocity, evaluation, k)
                velocity = velocity + change.detach()
                at_end = number == count - 1 and k == stage.steps - 1
                evaluation = None if at_end and not last_evaluated else objective.evaluate_safely(velocity)
                yield Step(number, k, velocity, change, objective, evaluation)


def built(ndim: int, architecture: Mapping[str, Any]) -> UnrolledPredictor:
    """The predictor that a model's ``architecture`` describes: {"stages": [{"steps": 3, "channels": [32, 64]}, …]}."""
    stages = [Stage(int(s["steps"]), tuple(int(c) for c in s["channels"])) for s in architecture["stages"]]
    return UnrolledPredictor(ndim, stages)


class _Sight:
    """What a network sees of an objective, and how its answer becomes a change of the velocity."""

    def __init__(self, objective: Objective):
        self.objective = objective
        cells, band, like = objective.cells, objective.shooting.band, objective.fixed
        if any(n % MULTIPLE for n in cells.shape):
            raise ValueError(f"The cells of a level must be a multiple of {MULTIPLE} in number, not {cells.shape}.")
        coarse = Lattice.cells(tuple(n // MULTIPLE for n in cells.shape), band.lengths)
        self.evaluate = Evaluator(band, coarse, like.dtype, like.device)
        self.unit = max(coarse.step)
        self.root = objective.shooting.K.sqrt()
        side = objective.sides[0]
        inside = torch.zeros_like(like)
        inside[side.crop] = 1
        self.crop, self.still = side.crop, torch.stack([objective.fixed, inside])

    def change(self, network: StepNetwork, velocity: Tensor, evaluation: Evaluation, step: int) -> Tensor:
        """The network's change of the velocity, (d, *modes)."""
        warped = self.objective.moving.clone()
        warped[self.crop] = evaluation.warped
        images = torch.cat([self.still[:1] - 0.5, warped[None] - 0.5, self.still[1:]])
        descent = -self.objective.shooting.K * evaluation.gradient
        values = self.evaluate(torch.cat([descent, velocity]))
        d = len(velocity)
        size = values[:d].square().sum(0).mean().sqrt().clamp(min=1e-12)
        scale = torch.full_like(values[:1], math.log10(float(size) / self.unit))
        fields = torch.cat([values[:d] / size, values[d:] / self.unit, scale])
        answer = network(images[None], fields[None], step)[0]
        free = self.root * self.evaluate.project(answer)
        return self.unit * (free + F.softplus(network.descent[step]) * (descent / size))
