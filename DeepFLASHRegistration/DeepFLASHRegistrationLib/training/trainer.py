# SPDX-License-Identifier: Apache-2.0
"""What a training step does: gradients of the predictor's losses, and an update of its weights.

The loss of a step is FLASH's own energy at the velocity it leads to; its gradient comes with the evaluation that the
next step needs anyway. Steps are trained side by side: no gradient flows from one to the one before. Labels, where
there are any, add their overlap; velocities found by FLASH, their distance in the metric.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor

from ..geodesics.band import Band, Evaluator, Lattice, Upsampler
from ..geodesics.jacobian import smallest_determinant
from ..geodesics.objective import Objective
from ..geodesics.sampling import NonFiniteField, Sampler
from ..learning.unrolled import UnrolledPredictor
from ..problem.parameters import Parameters
from ..problem.problem import Problem, settings
from ..support.errors import InputError
from .pairs import AlignedSubjects, Example, Variation, swapped
from .resumable import Resumable

_WARM_UP = 50  # iterations over which the learning rate rises
_LEAST_RATE = 0.02  # of the learning rate, at the end
_CLIP = 1.0  # largest norm of a gradient


@dataclass(frozen=True)
class Schedule:
    """How long, how fast and with what a predictor is trained.

    Attributes:
        iterations: updates of the weights.
        minutes: most minutes; the learning rate follows them where they run out first. 0: no limit.
        batch: pairs per update and process; each is seen in both directions.
        learning_rate: at the start; it falls along half a cosine.
        joining: for each stage, the part of the training after which it takes part; stages behind the last network
            never do.
        label_weight: of 1 - mean overlap (soft Dice) of labels, where the energy of the unregistered pair is 1.
        labels_at_once: how many labels a pair is measured with, drawn anew each time.
        teacher_weight: of the squared distance to FLASH's velocity in the metric, where that velocity's norm is 1.
        mixed_precision: whether the networks compute in bfloat16, which pays on a GPU.
        seed: of everything random.
    """

    iterations: int = 2000
    minutes: float = 0.0
    batch: int = 1
    learning_rate: float = 1e-3
    joining: tuple[float, ...] = (0.0, 0.2)
    label_weight: float = 3.0
    labels_at_once: int = 12
    teacher_weight: float = 0.5
    mixed_precision: bool = False
    seed: int = 0


class Overlap:
    """1 - mean soft Dice of some labels under a map, at one level."""

    def __init__(self, objective: Objective, fixed: Tensor, moving: Tensor, chosen: Sequence[int]):
        cells, like = objective.cells, objective.like
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


class Trainer(Resumable):
    """Weights, their optimizer, and where the training stands."""

    def __init__(
        self,
        predictor: UnrolledPredictor,
        parameters: Parameters,
        schedule: Schedule,
        variation: Variation,
        device: str = "cpu",
        teachers: Sequence[tuple[tuple[int, int], Mapping[str, Any]]] = (),
    ):
        """``teachers``: pairs of subjects with the geodesics that FLASH found for them (`Result.velocity`)."""
        self.predictor, self.parameters, self.device = predictor.to(device), parameters, device
        predictor.mixed_precision = schedule.mixed_precision
        self.schedule, self.variation, self.teachers = schedule, variation, teachers
        self.optimizer = torch.optim.AdamW(predictor.parameters(), schedule.learning_rate, weight_decay=1e-4)
        self.rank, self.processes = (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)
        self.begin()

    def step(self, subjects: AlignedSubjects) -> dict[str, float]:
        """One update of the weights."""
        self.predictor.train()
        done = torch.tensor(self.progress())
        if self.processes > 1:
            dist.broadcast(done, 0)
        done = float(done)
        warm = min(1.0, (self.iteration + 1) / _WARM_UP)
        for group in self.optimizer.param_groups:
            group["lr"] = self.schedule.learning_rate * warm * max(_LEAST_RATE, 0.5 * (1 + math.cos(math.pi * done)))
        stages = min(sum(done >= at for at in self.schedule.joining) or 1, self.predictor.trained)
        self.optimizer.zero_grad(set_to_none=False)
        found = []
        for k in range(self.schedule.batch):
            number = (self.iteration * self.schedule.batch + k) * self.processes + self.rank
            rng = np.random.default_rng((self.schedule.seed, number))
            found.append(self._learn(*self._drawn(subjects, rng, (self.schedule.seed, number, 1)), stages, rng))
        self._share_gradients(self.schedule.batch)
        torch.nn.utils.clip_grad_norm_(self.predictor.parameters(), _CLIP)
        self.optimizer.step()
        self.iteration += 1
        keys = sorted({key for row in found for key in row})
        return {key: float(np.mean([row[key] for row in found if key in row])) for key in keys}

    def _drawn(
        self, subjects: AlignedSubjects, rng: np.random.Generator, seed: tuple[int, ...]
    ) -> tuple[Example, Mapping[str, Any] | None]:
        """A pair, and FLASH's geodesic for it if it is one of those."""
        if self.teachers and rng.random() < 0.5:
            (fixed, moving), taught = self.teachers[rng.integers(len(self.teachers))]
            # The velocity belongs to these images where they lie: only how they look may change.
            looks = Variation(0.0, 0.0, 0.0, self.variation.contrast, self.variation.bias)
            return subjects.example(fixed, moving, looks, seed, self.device, taught["affine"]), taught
        fixed, moving = rng.choice(len(subjects), 2, replace=False)
        return subjects.example(fixed, moving, self.variation, seed, self.device), None

    def _learn(
        self, example: Example, taught: Mapping[str, Any] | None, stages: int, rng: np.random.Generator
    ) -> dict[str, float]:
        """Adds the gradient of a pair, seen in both directions."""
        levels = example.problem.levels(self.parameters)
        found: dict[str, list[float]] = {}
        chosen: Sequence[int] = ()
        if self.schedule.label_weight and example.fixed_labels is not None:
            both = (np.unique(x.cpu().numpy()) for x in (example.fixed_labels, example.moving_labels))
            common = [label for label in np.intersect1d(*both) if label > 0]
            chosen = rng.choice(common, min(self.schedule.labels_at_once, len(common)), replace=False)
        pairs = (example.pair, swapped(example.pair))
        labels = ((example.fixed_labels, example.moving_labels), (example.moving_labels, example.fixed_labels))
        first, overlaps, targets = None, [], None
        for state in self.predictor.unroll(
            pairs, levels, settings(self.parameters), example.problem.window(self.device), stages=stages
        ):
            if state.attempts is None:
                first = [objective.at_rest() for objective in state.objectives]
                if len(chosen):
                    overlaps = [Overlap(o, *x, chosen) for o, x in zip(state.objectives, labels, strict=True)]
                if taught is not None:
                    targets = _targets(state.objectives[0], example, taught)
                continue
            gradients, attempts = [], state.attempts
            for i, (objective, evaluation) in enumerate(zip(state.objectives, attempts.evaluations, strict=True)):
                velocity = attempts.velocities[i]
                if evaluation.gradient is None:
                    # Too steep to be integrated: anything gentler is better.
                    steep = objective.shooting.L * velocity
                    gradients.append(steep / steep.norm().clamp(min=1e-12))
                    continue
                gradient = evaluation.gradient / first[i]
                found.setdefault(f"energy {state.stage}", []).append(evaluation.energy / first[i])
                if overlaps:
                    value, more = _overlap_gradient(objective, overlaps[i], velocity)
                    gradient = gradient + self.schedule.label_weight * more
                    found.setdefault(f"overlap {state.stage}", []).append(1 - value)
                if targets is not None:
                    L, target = objective.shooting.L, targets[i]
                    norm = objective.shooting.energy(target).clamp(min=1e-12)
                    gradient = gradient + self.schedule.teacher_weight * 2 * L * (velocity - target) / norm
                gradients.append(gradient)
            attempts.changes.backward(torch.stack(gradients) / len(gradients))
        return {key: float(np.mean(values[-2:])) for key, values in found.items()}

    def _share_gradients(self, count: int) -> None:
        weights = list(self.predictor.parameters())
        flat = torch.cat([torch.zeros_like(w).flatten() if w.grad is None else w.grad.flatten() for w in weights])
        flat /= count * self.processes
        if self.processes > 1:
            dist.all_reduce(flat)
        offset = 0
        for w in weights:
            w.grad = flat[offset : offset + w.numel()].view_as(w).clone()
            offset += w.numel()

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
        return mean_dice(fixed, moving), mean_dice(fixed, warped)

    def validate(self, subjects: AlignedSubjects, pairs: Sequence[tuple[int, int]]) -> dict[str, float]:
        """Means over pairs of unseen subjects: energy after (of 1 before) and its standard deviation, the smallest
        determinant, Dice before and after (0 without labels)."""
        self.predictor.eval()
        found = []
        for number, (fixed, moving) in enumerate(pairs):
            if number % self.processes != self.rank:
                continue
            example = subjects.example(fixed, moving, None, (), self.device)
            *_, last = self.predictor.unroll(
                (example.pair,),
                example.problem.levels(self.parameters),
                settings(self.parameters),
                example.problem.window(self.device),
            )
            evaluation, objective = last.evaluations[0], last.objectives[0]
            row = [
                evaluation.energy / objective.at_rest(),
                smallest_determinant(evaluation.displacement, objective.flow.lattice),
            ]
            if example.fixed_labels is not None:
                row += self._hard_overlap(example, objective, last.velocities[0])
            found.append([*row, 0.0, 0.0][:4])
        rows = torch.tensor([[*map(float, row), row[0] ** 2, 1.0] for row in found] or [[0.0] * 6])
        total = rows.double().sum(0)
        if self.processes > 1:
            dist.all_reduce(total)
        energy, determinant, before, after, square = (total[:-1] / total[-1]).tolist()
        return {
            "energy": energy,
            "energy_sd": math.sqrt(max(square - energy**2, 0.0)),
            "smallest_determinant": determinant,
            "dice_before": before,
            "dice": after,
        }


def _overlap_gradient(objective: Objective, overlap: Overlap, velocity: Tensor) -> tuple[float, Tensor]:
    v = velocity.detach().requires_grad_()
    try:
        value = overlap(objective.map(v, "fixed_to_moving"))
    except NonFiniteField:
        return 1.0, torch.zeros_like(velocity)
    (gradient,) = torch.autograd.grad(value, v)
    return float(value.detach()), torch.nan_to_num(gradient)


def _targets(objective: Objective, example: Example, taught: Mapping[str, Any]) -> list[Tensor]:
    """FLASH's velocity in the objective's band, and that of the way back: the reversed geodesic starts with -v1."""
    shooting, like = objective.shooting, objective.like
    v0 = _transferred(taught, example.problem, shooting.band).to(like)
    with torch.no_grad():
        steps = 2 * shooting.recommended_steps(v0)
        end = shooting.shoot(v0, steps).velocities[-1]
    return [v0, -end if bool(torch.isfinite(end).all()) else torch.zeros_like(end)]


def _transferred(taught: Mapping[str, Any], problem: Problem, band: Band) -> Tensor:
    """A velocity on another working grid of the same axes, in the band of this one; zero beyond its own domain."""
    grid, own = problem.grid, taught["domain"]
    unit = taught["unit_mm"]
    lengths = tuple(float(x) for x in own.extent / unit)
    velocity = torch.from_numpy(taught["velocity"]).double()
    evaluate = Evaluator(band, band.product_lattice(), torch.float64)
    lattice = evaluate.lattice
    if not np.allclose(grid.direction, own.direction, atol=1e-4):
        raise InputError("FLASH's velocities belong to images stored in another way. Teach them again.")
    # The corner of the new domain, from that of the old, along the axes they share.
    corner = grid.index_to_physical(np.full(grid.ndim, -0.5)) - own.index_to_physical(np.full(grid.ndim, -0.5))
    offset = corner @ own.direction / unit
    scale = problem.unit_mm / unit
    there = Lattice(
        lattice.shape,
        tuple(s * scale for s in lattice.step),
        tuple(o * scale + c for o, c in zip(lattice.origin, offset, strict=True)),
    )
    values = Evaluator(Band(tuple(velocity.shape[1:]), lengths), there, torch.float64)(velocity) / scale
    for axis, length in enumerate(lengths):
        x = there.positions(axis)
        shape = [1] * grid.ndim
        shape[axis] = -1
        values = values * ((x >= 0) & (x <= length)).view(shape)
    return evaluate.project(values)


def mean_dice(one: Tensor, two: Tensor) -> float:
    """Mean over the labels above 0 that both have, of integers (*shape)."""
    count = int(max(one.max(), two.max())) + 1
    a, b = (torch.bincount(x.flatten(), minlength=count) for x in (one, two))
    both = torch.bincount(one[one == two].flatten(), minlength=count)
    used = (a > 0) & (b > 0)
    used[0] = False
    return float((2 * both[used] / (a + b)[used]).mean())
