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
class State:
    """Where a batch of pairs stands: stage and step, -1 before a stage's first.

    velocities (n, d, *modes); changes (n, d, *modes) of this step, with the graph to the network's weights, None before
    a stage's first step; one objective and evaluation per pair (None: not evaluated).
    """

    stage: int
    step: int
    velocities: Tensor
    changes: Tensor | None
    objectives: list[Objective]
    evaluations: list[Evaluation] | None


class UnrolledPredictor(nn.Module):
    """Networks for the levels, coarse to fine, one after the other."""

    def __init__(self, ndim: int, stages: Sequence[Stage]):
        super().__init__()
        self.ndim, self.stages = ndim, tuple(stages)
        self.networks = nn.ModuleList(StepNetwork(ndim, stage) for stage in self.stages)

    def unroll(
        self,
        pairs: Sequence[Pair],
        levels: Sequence[Level],
        settings: Settings,
        window: Callable[[Lattice], Tensor] | None,
        *,
        last_evaluated: bool = True,
        stages: int | None = None,
    ) -> Iterator[State]:
        """Yields the state before the first step of each stage and after every step.

        Args:
            pairs: images on one working grid.
            levels: one per stage.
            settings: of the objective.
            window: as in `flash.minimize`.
            last_evaluated: whether the objectives are evaluated at the very last velocities too.
            stages: how many to run; all by default.
        """
        count = len(self.stages) if stages is None else stages
        if len(levels) != len(self.stages):
            raise ValueError(f"The predictor has {len(self.stages)} stages, not {len(levels)} levels.")
        modes = levels[0].band.modes
        velocities = pairs[0].fixed.new_zeros(len(pairs), len(modes), *modes)
        for number in range(count):
            level, network = levels[number], self.networks[number]
            velocities = fit_modes(velocities, level.band.modes).contiguous()
            objectives = [
                Objective(pair, level, settings, window, v) for pair, v in zip(pairs, velocities, strict=True)
            ]
            sights = [_Sight(objective) for objective in objectives]
            evaluations = _evaluated(objectives, velocities)
            yield State(number, -1, velocities, None, objectives, evaluations)
            for k in range(self.stages[number].steps):
                seen = [s.look(v, e) for s, v, e in zip(sights, velocities, evaluations, strict=True)]
                answers = network(*(torch.stack(x) for x in zip(*(s[:2] for s in seen), strict=True)), k)
                step = F.softplus(network.descent[k])
                changes = torch.stack([s.change(a, step * x[2]) for s, a, x in zip(sights, answers, seen, strict=True)])
                velocities = velocities + changes.detach()
                at_end = number == count - 1 and k == self.stages[number].steps - 1
                evaluations = None if at_end and not last_evaluated else _evaluated(objectives, velocities)
                yield State(number, k, velocities, changes, objectives, evaluations)


def _evaluated(objectives: Sequence[Objective], velocities: Tensor) -> list[Evaluation]:
    """E at each velocity. One too steep to be integrated gives way to a gentler one of the same shape, in place."""
    found = []
    for objective, v in zip(objectives, velocities, strict=True):
        evaluation = objective.evaluate_safely(v)
        while evaluation.gradient is None:
            v *= 0.5 if float(v.abs().max()) > 1e-6 else 0.0
            evaluation = objective.evaluate_safely(v)
        found.append(evaluation)
    return found


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

    def look(self, velocity: Tensor, evaluation: Evaluation) -> tuple[Tensor, Tensor, Tensor]:
        """Images (3, *cells) and fields (2d + 1, *coarse) for the network, and the direction of descent (d, *modes),
        of root mean square 1."""
        warped = self.objective.moving.clone()
        warped[self.crop] = evaluation.warped
        images = torch.cat([self.still[:1] - 0.5, warped[None] - 0.5, self.still[1:]])
        descent = -self.objective.shooting.K * evaluation.gradient
        values = self.evaluate(torch.cat([descent, velocity]))
        d = len(velocity)
        size = values[:d].square().sum(0).mean().sqrt().clamp(min=1e-12)
        scale = (size / self.unit).log10().expand_as(values[:1])
        return images, torch.cat([values[:d] / size, values[d:] / self.unit, scale]), descent / size

    def change(self, answer: Tensor, descent: Tensor) -> Tensor:
        """The change of the velocity (d, *modes): the network's answer (d, *coarse), smoothed by the root of K, and a
        step of descent."""
        return self.unit * (self.root * self.evaluate.project(answer) + descent)
