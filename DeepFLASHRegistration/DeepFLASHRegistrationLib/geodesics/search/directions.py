# SPDX-License-Identifier: Apache-2.0
"""Where to go from a velocity: each way of finding a direction, by name."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from ..objective import Evaluation, Objective
from .conjugate_gradients import solved
from .curvature import Curvature
from .lbfgs import LBFGS, Memory

# Of each solution: more products, or a closer solution, lower no energy faster on brains.
_PRODUCTS, _CLOSE = 10, 0.05
# In voxels: a curvature serves until the steps since have moved something so far.
_MOVED = 2.0


@dataclass(frozen=True)
class Proposal:
    """A direction from v0, (d, *modes), and the length along it to try first."""

    direction: Tensor
    length: float


class Direction(Protocol):
    """A way of finding where to go, which may learn from steps taken."""

    def propose(self, now: Evaluation) -> Proposal:
        """From where this was evaluated."""

    def learn(self, step: Tensor, change: Tensor) -> None:
        """After a step that changed the gradient so."""

    def forget(self) -> bool:
        """Whether there was anything to forget."""


class QuasiNewton:
    """L-BFGS that starts from the metric's part of the Hessian."""

    def __init__(self, objective: Objective, detail: bool):
        self.objective = objective
        self.search = LBFGS(2 * objective.metric_weight * objective.shooting.L, detail)

    def propose(self, now: Evaluation) -> Proposal:
        direction = self.search.direction(now.gradient)
        if self.search.memory.pairs:
            return Proposal(direction, 1.0)
        return Proposal(direction, min(1.0, 1.0 / max(self.objective.largest_displacement(direction), 1e-12)))

    def learn(self, step: Tensor, change: Tensor) -> None:
        self.search.update(step, change)

    def forget(self) -> bool:
        had = bool(self.search.memory.pairs)
        self.search.memory.pairs.clear()
        return had


class GaussNewton:
    """L-BFGS on top of the curvature of Gauss and Newton, which is solved anew at every step.

    Alone, that curvature is too stiff: where two images do not agree yet, the similarity's true second derivative is
    smaller, or negative. The memory of steps makes up for it.
    """

    def __init__(self, objective: Objective, remember: bool = True):
        self.objective, self.curvature = objective, Curvature(objective)
        # Of the dissimilarity's curvature, what counts beside the whole of the metric's.
        self.part = objective.data.data_part
        self.diagonal = self.curvature.metric.clone()
        objective.product.forget()  # what was recorded of another's curvature
        self.memory = Memory() if remember else None
        self.moved = _MOVED

    def propose(self, now: Evaluation) -> Proposal:
        curvature = self.curvature
        if self.moved >= _MOVED:
            curvature.look(now)
            torch.add(curvature.metric, self.part * curvature.white + curvature.sure, out=self.diagonal)
            self.moved = 0.0
        if self.memory is not None and self.memory.pairs:
            return Proposal(self.memory.direction(now.gradient, self._solved), 1.0)
        direction = -self._solved(now.gradient)
        slope = float((now.gradient * direction).sum())
        bend = float((direction * curvature.product(direction)).sum())
        return Proposal(direction, -slope / bend if bend > 0 else 1.0)

    def _solved(self, right: Tensor) -> Tensor:
        product, captured, part = self.curvature.product, self.objective.product, self.part
        return solved(lambda x: product(x, part), right, lambda x: x / self.diagonal, _PRODUCTS, _CLOSE, captured)

    def learn(self, step: Tensor, change: Tensor) -> None:
        self.moved += self.objective.largest_displacement(step)
        if self.memory is not None:
            self.memory.update(step, change)

    def forget(self) -> bool:
        self.moved = _MOVED
        if self.memory is None or not self.memory.pairs:
            return False
        self.memory.pairs.clear()
        return True


# By name, what makes a way of finding directions of an objective and whether the smooth part of v0 is known already.
DIRECTIONS: dict[str, Callable[[Objective, bool], Direction]] = {
    "lbfgs": QuasiNewton,
    "gauss-newton": lambda objective, detail: GaussNewton(objective),
}
