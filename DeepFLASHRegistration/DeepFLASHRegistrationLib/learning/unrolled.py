# SPDX-License-Identifier: Apache-2.0
"""The unrolled predictor: FLASH's descent with its steps replaced by a learned one.

At each step FLASH's own objective is evaluated: shoot, warp, gradient. A small convolutional network sees both images
as they lie now, the velocity, the gradient, and the step that quasi-Newton descent proposes, all on a grid of half the
level's resolution, and adds to that step what it has learned. Its output is projected on the band, so that what follows
is exactly FLASH's geometry: nothing the network says can be less smooth than the band, or fail to be a geodesic.

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
from ..geodesics.search.lbfgs import LBFGS

_FIRST_STEP = 0.015  # a usual length of the best step along K times the gradient of E
_LONGEST_PROPOSAL = 1.0  # coarse voxels
_SHORTENINGS, _SHORTER = 2, 0.3
_UPHILL = 0.03  # of E at rest, which a step may cost: what was learned from labels is worth more
MULTIPLE = 2  # of which the voxels of every level must be a multiple along each axis


@dataclass(frozen=True)
class Stage:
    """A level of resolution, with one network for its steps.

    Attributes:
        steps: how many it takes.
        channels: the network's width at each of its scales. Empty: no network, its steps are those of quasi-Newton
            descent.
        trained: how many steps are trained, each knowing its number; those beyond are like the last. 0: all.
    """

    steps: int
    channels: tuple[int, ...] = (32, 64, 64)
    trained: int = 0

    @property
    def known(self) -> int:
        """Steps that know their number."""
        return min(self.trained or self.steps, self.steps)


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
        self.fields = conv(5 * ndim, widths[0], 3, padding=1)
        self.number = nn.Parameter(torch.zeros(stage.known, widths[0]))
        # Most of the time goes into the finest scale: one convolution on the way down, one on the way up.
        self.down = nn.ModuleList([conv(widths[0], widths[0], 3, padding=1)])
        self.down.extend(_Block(conv, a, b) for a, b in zip(widths, widths[1:]))
        self.narrow = nn.ModuleList(conv(b, a, 1) for a, b in zip(widths, widths[1:]))
        self.up = nn.ModuleList(conv(a, a, 3, padding=1) for a in widths[:-1])
        self.out = conv(widths[0], ndim, 3, padding=1)
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)
        self.length = nn.Parameter(torch.zeros(stage.known))  # logarithm of the factors of the proposed steps

    def forward(self, images: Tensor, fields: Tensor, step: int) -> Tensor:
        """(n, 3, *cells), (n, 5d, *coarse) -> change of the velocity (n, d, *coarse), in coarse voxels."""
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

    velocities (n, d, *modes); one objective and evaluation per pair (None: not evaluated). Before a stage's first step
    attempts is None.
    """

    stage: int
    step: int
    velocities: Tensor
    objectives: list[Objective]
    evaluations: list[Evaluation] | None
    attempts: Attempts | None


@dataclass(frozen=True)
class Attempts:
    """What a step proposed, before it was shortened where it led uphill: training learns from that.

    changes (n, d, *modes) with the graph to the network's weights; velocities where they lead, and E there.
    """

    changes: Tensor
    velocities: Tensor
    evaluations: list[Evaluation] | None


class UnrolledPredictor(nn.Module):
    """Networks for the levels, coarse to fine, one after the other.

    Attributes:
        mixed_precision: whether the networks compute in bfloat16; all else, weights too, keeps its precision.
    """

    def __init__(self, ndim: int, stages: Sequence[Stage]):
        super().__init__()
        self.ndim, self.stages, self.mixed_precision = ndim, tuple(stages), False
        self.networks = nn.ModuleDict(
            {str(number): StepNetwork(ndim, stage) for number, stage in enumerate(self.stages) if stage.channels}
        )

    @property
    def trained(self) -> int:
        """Stages up to the last that has a network."""
        return 1 + max(map(int, self.networks), default=-1)

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
            level, stage = levels[number], self.stages[number]
            steps = stage.known if self.training else stage.steps
            velocities = fit_modes(velocities, level.band.modes).contiguous()
            objectives = [
                Objective(pair, level, settings, window, v) for pair, v in zip(pairs, velocities, strict=True)
            ]
            sights = [_Sight(objective) for objective in objectives]
            evaluations = []
            for objective, v in zip(objectives, velocities, strict=True):
                evaluation = objective.evaluate_safely(v)
                while evaluation.gradient is None:
                    # Too steep to be integrated: a gentler one of the same shape, in the end none.
                    v *= 0.5 if float(v.abs().max()) > 1e-6 else 0.0
                    evaluation = objective.evaluate_safely(v)
                evaluations.append(evaluation)
            yield State(number, -1, velocities, objectives, evaluations, None)
            for k in range(steps):
                changes = torch.stack(
                    [
                        sight.propose(v, evaluation.gradient)
                        for sight, v, evaluation in zip(sights, velocities, evaluations, strict=True)
                    ]
                )
                if stage.channels:
                    changes = self._corrected(number, min(k, stage.known - 1), sights, velocities, evaluations, changes)
                at_end = number == count - 1 and k == steps - 1
                reached = velocities + changes.detach()
                if at_end and not last_evaluated:
                    velocities, evaluations, tried = reached, None, None
                else:
                    # The time steps may be at fault, rather than the length of the step: once more with more.
                    tried = [objective.evaluate_safely(v, 1) for objective, v in zip(objectives, reached, strict=True)]
                    velocities, evaluations = _accepted(objectives, velocities, evaluations, reached, tried)
                yield State(number, k, velocities, objectives, evaluations, Attempts(changes, reached, tried))

    def _corrected(
        self,
        stage: int,
        step: int,
        sights: Sequence[_Sight],
        velocities: Tensor,
        evaluations: Sequence[Evaluation],
        proposals: Tensor,
    ) -> Tensor:
        """The changes (n, d, *modes) that a stage's network makes of proposed ones."""
        network = self.networks[str(stage)]
        changes = network.length[step].exp() * proposals
        seen = [
            sight.look(v, evaluation, change.detach())
            for sight, v, evaluation, change in zip(sights, velocities, evaluations, changes, strict=True)
        ]
        with torch.autocast(changes.device.type, torch.bfloat16, enabled=self.mixed_precision):
            answers = network(*(torch.stack(x) for x in zip(*seen, strict=True)), step)
        answers = answers.to(changes.dtype)
        return changes + torch.stack([sight.change(answer) for sight, answer in zip(sights, answers, strict=True)])


def _accepted(
    objectives: Sequence[Objective],
    velocities: Tensor,
    evaluations: Sequence[Evaluation],
    reached: Tensor,
    tried: Sequence[Evaluation],
) -> tuple[Tensor, list[Evaluation]]:
    """Velocities and E after a step. One that leads uphill is shortened, and in the end not made: no pair, however
    strange, gets much worse by a step."""
    kept, found = [], []
    for objective, v, before, to, there in zip(objectives, velocities, evaluations, reached, tried, strict=True):
        for _ in range(_SHORTENINGS):
            if _allowed(objective, before, there):
                break
            to = v + _SHORTER * (to - v)
            there = objective(to)
        better = _allowed(objective, before, there)
        kept.append(to if better else v)
        found.append(there if better else before)
    return torch.stack(kept), found


def _allowed(objective: Objective, before: Evaluation, there: Evaluation) -> bool:
    return there.energy < before.energy or there.energy < before.energy + _UPHILL * objective.at_rest()


def built(ndim: int, architecture: Mapping[str, Any]) -> UnrolledPredictor:
    """The predictor that a model's ``architecture`` describes: {"stages": [{"steps": 3, "channels": [32, 64]}, …]}."""
    stages = [
        Stage(int(s["steps"]), tuple(int(c) for c in s["channels"]), int(s.get("trained", 0)))
        for s in architecture["stages"]
    ]
    return UnrolledPredictor(ndim, stages)


class _Sight:
    """What a network sees of an objective, and how its answer becomes a change of the velocity."""

    def __init__(self, objective: Objective):
        self.objective = objective
        cells, band, like = objective.cells, objective.shooting.band, objective.like
        if any(n % MULTIPLE for n in cells.shape):
            raise ValueError(f"The cells of a level must be a multiple of {MULTIPLE} in number, not {cells.shape}.")
        coarse = Lattice.cells(tuple(n // MULTIPLE for n in cells.shape), band.lengths)
        self.evaluate = Evaluator(band, coarse, like.dtype, like.device)
        self.unit = max(coarse.step)
        self.root = objective.shooting.K.sqrt()
        self.search = LBFGS(2 * objective.metric_weight * objective.shooting.L, detail=True)
        self.last: tuple[Tensor, Tensor] | None = None
        side = objective.sides[0]
        inside = torch.zeros_like(like)
        inside[side.crop] = 1
        self.crop, self.still = side.crop, torch.stack([objective.data.fixed, inside])

    def propose(self, velocity: Tensor, gradient: Tensor) -> Tensor:
        """The step of quasi-Newton descent (d, *modes), which learns the curvature from all steps of the stage."""
        if self.last is not None:
            self.search.update(velocity - self.last[0], gradient - self.last[1])
        self.last = velocity, gradient
        proposal = self.search.direction(gradient)
        longest = float(self.evaluate(proposal).square().sum(0).max().sqrt())
        return proposal * min(1.0, _LONGEST_PROPOSAL * self.unit / max(longest, 1e-12))

    def look(self, velocity: Tensor, evaluation: Evaluation, proposal: Tensor) -> tuple[Tensor, Tensor]:
        """Images (3, *cells) and fields (5d, *coarse) for the network."""
        warped = self.objective.data.moving.clone()
        warped[self.crop] = evaluation.warped
        images = torch.cat([self.still[:1] - 0.5, warped[None] - 0.5, self.still[1:]])
        # Also in the coordinates p = v/√K, in which all frequencies weigh alike: K hides detail.
        gradient = -_FIRST_STEP * self.root * evaluation.gradient
        fields = torch.cat([proposal, proposal / self.root, gradient, velocity, velocity / self.root])
        return images, self.evaluate(fields) / self.unit

    def change(self, answer: Tensor) -> Tensor:
        """The network's answer (d, *coarse), in coarse voxels, as a change of the velocity (d, *modes)."""
        return self.unit * self.root * self.evaluate.project(answer)
