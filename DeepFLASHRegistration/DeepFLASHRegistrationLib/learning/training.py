# SPDX-License-Identifier: Apache-2.0
"""Training the unrolled predictor on pairs of images.

The loss of a step is FLASH's own energy at the velocity it leads to; its gradient comes with the evaluation that the
next step needs anyway. Steps are trained side by side: no gradient flows from one to the one before. Labels, where
there are any, add their overlap; velocities found by FLASH, their distance in the metric.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor

from ..geodesics.band import Lattice, Upsampler
from ..geodesics.jacobian import smallest_determinant
from ..geodesics.objective import Objective
from ..geodesics.sampling import NonFiniteField, Sampler
from ..parameters import Parameters
from ..problem import settings
from .pairs import Example, Subjects, Variation
from .unrolled import UnrolledPredictor


@dataclass(frozen=True)
class TrainingOptions:
    """How a predictor is trained.

    Attributes:
        iterations: updates of the weights.
        batch: pairs per update and process.
        learning_rate: at the start; it falls to zero along half a cosine.
        joining: for each stage, the part of the iterications after which it takes part.
        label_weight: of 1 - mean soft overlap of labels, against an energy of 1 for the unregistered pair.
        labels_at_once: how many labels a pair is measured with, chosen at random.
        seed: of everything random.
        validation_pairs: pairs of unseen subjects that decide which weights are kept.
        validate_every: iterations between validations, each of which is a checkpoint.
        patience: validations without a better one after which training ends.
        minutes: limit of the time; the learning rate follows it. 0: none.
    """

    iterations: int = 2000
    batch: int = 2
    learning_rate: float = 1e-3
    joining: tuple[float, ...] = (0.0, 0.3)
    label_weight: float = 0.0
    labels_at_once: int = 12
    seed: int = 0
    validation_pairs: int = 12
    validate_every: int = 200
    patience: int = 1000
    minutes: float = 0.0
    variation: Variation = field(default_factory=Variation)


class Overlap:
    """1 - mean soft Dice of some labels under a map, at one level."""

    def __init__(self, objective: Objective, fixed: Tensor, moving: Tensor, chosen: Sequence[int]):
        cells, like = objective.cells, objective.fixed
        self.upsample = Upsampler(objective.flow.lattice, cells, like.dtype, like.device)
        self.sample = Sampler(cells, cells, like.dtype, like.device)
        self.fixed, self.moving = (_shares(x, chosen, objective.level.factors, like.dtype) for x in (fixed, moving))

    def __call__(self, displacement: Tensor) -> Tensor:
        warped = self.sample(self.moving, self.upsample(displacement))
        axes = tuple(range(1, warped.ndim))
        both = 2 * (warped * self.fixed).sum(axes)
        return 1 - (both / (warped.square().sum(axes) + self.fixed.square().sum(axes) + 1e-3)).mean()


def _shares(labels: Tensor, chosen: Sequence[int], factors: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    """Which part of each cell has each of the labels: (len(chosen), *cells)."""
    pool = torch.nn.functional.avg_pool3d if labels.ndim == 3 else torch.nn.functional.avg_pool2d
    return torch.stack([pool((labels == int(c)).to(dtype)[None, None], factors)[0, 0] for c in chosen])


class Trainer:
    """Weights, their optimizer, and where the training stands."""

    def __init__(
        self,
        predictor: UnrolledPredictor,
        parameters: Parameters,
        options: TrainingOptions,
        device: str = "cpu",
    ):
        self.predictor, self.parameters, self.options, self.device = predictor.to(device), parameters, options, device
        self.optimizer = torch.optim.AdamW(predictor.parameters(), options.learning_rate, weight_decay=1e-4)
        self.rank, self.processes = (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)
        self.iteration = 0
        self.started = time.monotonic()
        self.spent = 0.0

    def progress(self) -> float:
        """How much of the training is done, 0..1."""
        done = self.iteration / self.options.iterations
        if self.options.minutes:
            done = max(done, (self.spent + time.monotonic() - self.started) / (60 * self.options.minutes))
        return min(done, 1.0)

    def step(self, subjects: Subjects) -> dict[str, float]:
        """One update of the weights."""
        done = torch.tensor(self.progress())
        if self.processes > 1:
            dist.broadcast(done, 0)
        done = float(done)
        warm = min(1.0, (self.iteration + 1) / 50)
        for group in self.optimizer.param_groups:
            group["lr"] = self.options.learning_rate * warm * max(0.02, 0.5 * (1 + math.cos(math.pi * done)))
        stages = sum(done >= at for at in self.options.joining) or 1
        self.optimizer.zero_grad(set_to_none=False)
        found = []
        for k in range(self.options.batch):
            number = (self.iteration * self.options.batch + k) * self.processes + self.rank
            rng = np.random.default_rng((self.options.seed, number))
            fixed, moving = rng.choice(len(subjects), 2, replace=False)
            example = subjects.example(
                fixed, moving, self.options.variation, (self.options.seed, number, 1), self.device
            )
            found.append(self._learn(example, stages, rng))
        self._share_gradients(self.options.batch)
        torch.nn.utils.clip_grad_norm_(self.predictor.parameters(), 1.0)
        self.optimizer.step()
        self.iteration += 1
        return {key: float(np.mean([f[key] for f in found])) for key in found[0]}

    def _learn(self, example: Example, stages: int, rng: np.random.Generator) -> dict[str, float]:
        levels = example.problem.levels(self.parameters)
        levels = levels[: len(self.predictor.stages)]
        found: dict[str, float] = {}
        overlap, first, chosen = None, None, ()
        if self.options.label_weight and example.fixed_labels is not None:
            common = np.intersect1d(
                *(np.unique(x.cpu().numpy()) for x in (example.fixed_labels, example.moving_labels))
            )
            common = common[common > 0]
            chosen = rng.choice(common, min(self.options.labels_at_once, len(common)), replace=False)
        for state in self.predictor.unroll(
            example.pair, levels, settings(self.parameters), example.problem.window(self.device), stages=stages
        ):
            evaluation, objective = state.evaluation, state.objective
            if state.change is None:
                overlap = (
                    Overlap(objective, example.fixed_labels, example.moving_labels, chosen) if len(chosen) else None
                )
                if first is None and math.isfinite(evaluation.energy):
                    first = evaluation.energy
                continue
            if evaluation.gradient is None:
                # Not even a finite geodesic: smaller is better.
                gradient = objective.shooting.L * state.velocity
                gradient = gradient / gradient.norm().clamp(min=1e-12)
            else:
                gradient = evaluation.gradient / (first or evaluation.energy)
                found[f"energy_{state.stage}"] = evaluation.energy / (first or 1.0)
                if overlap is not None:
                    value, more = _overlap_gradient(objective, overlap, state.velocity)
                    gradient = gradient + self.options.label_weight * more
                    found[f"overlap_{state.stage}"] = 1 - value
            state.change.backward(gradient)
        return found

    def _share_gradients(self, count: int) -> None:
        flat = torch.cat(
            [
                p.grad.flatten() if p.grad is not None else torch.zeros_like(p).flatten()
                for p in self.predictor.parameters()
            ]
        )
        flat /= count * self.processes
        if self.processes > 1:
            dist.all_reduce(flat)
        offset = 0
        for p in self.predictor.parameters():
            p.grad = flat[offset : offset + p.numel()].view_as(p).clone()
            offset += p.numel()

    # ----------------------------------------------------------------------------------------------------- validation

    @torch.no_grad()
    def _hard_overlap(self, example: Example, objective: Objective, velocity: Tensor) -> tuple[float, float]:
        """Mean Dice before and after, labels carried over by the nearest voxel on the working grid."""
        fixed, moving = example.fixed_labels, example.moving_labels
        cells = Lattice.cells(tuple(fixed.shape), example.pair.lengths)
        u = Upsampler(objective.flow.lattice, cells, torch.float32, self.device)(
            objective.map(velocity, "fixed_to_moving")
        )
        warped = Sampler(cells, cells, torch.float32, self.device)(moving[None].float(), u, mode="nearest")[0].long()
        return _dice(fixed, moving), _dice(fixed, warped)

    def validate(self, subjects: Subjects, pairs: Sequence[tuple[int, int]]) -> dict[str, float]:
        """Means over pairs of unseen subjects: energy after (of 1 before), Dice before and after, folded part."""
        found = []
        for number, (fixed, moving) in enumerate(pairs):
            if number % self.processes != self.rank:
                continue
            example = subjects.example(fixed, moving, None, (), self.device)
            first, last = None, None
            for state in self.predictor.unroll(
                example.pair,
                example.problem.levels(self.parameters),
                settings(self.parameters),
                example.problem.window(self.device),
            ):
                if first is None:
                    first = state.evaluation.energy
                last = state
                energy = state.evaluation.energy
            with torch.no_grad():
                det = smallest_determinant(
                    last.objective.map(last.velocity, "fixed_to_moving"), last.objective.flow.lattice
                )
            row = [min(energy, 10 * first) / first, det]
            row += (
                self._hard_overlap(example, last.objective, last.velocity)
                if example.fixed_labels is not None
                else [0.0, 0.0]
            )
            found.append(row)
        total = torch.tensor([[*map(float, row), 1.0] for row in found] or [[0.0] * 5], dtype=torch.float64).sum(0)
        if self.processes > 1:
            dist.all_reduce(total)
        energy, det, before, after, count = total.tolist()
        return {
            "energy": energy / count,
            "determinant": det / count,
            "dice_before": before / count,
            "dice": after / count,
        }


def _overlap_gradient(objective: Objective, overlap: Overlap, velocity: Tensor) -> tuple[float, Tensor]:
    v = velocity.detach().requires_grad_()
    try:
        value = overlap(objective.map(v, "fixed_to_moving"))
    except NonFiniteField:
        return 1.0, torch.zeros_like(velocity)
    (gradient,) = torch.autograd.grad(value, v)
    return float(value.detach()), torch.nan_to_num(gradient)


def _dice(one: Tensor, two: Tensor) -> float:
    count = int(max(one.max(), two.max())) + 1
    a, b = (torch.bincount(x.flatten(), minlength=count) for x in (one, two))
    both = torch.bincount(one[one == two].flatten(), minlength=count)
    used = (a > 0) & (b > 0)
    used[0] = False
    return float((2 * both[used] / (a + b)[used]).mean())
