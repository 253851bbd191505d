# SPDX-License-Identifier: Apache-2.0
"""The descent at one level: from a velocity along directions that are found, as far as the energy falls, until it no
longer pays."""

from __future__ import annotations

import enum
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ..objective import Evaluation, Objective
from .directions import DIRECTIONS, Direction
from .line_search import Interrupted, Ray, Reach, Step, backtracked

# Evaluations that a level may take for each of its iterations, on average: those that only shorten a step cost as well.
_EVALUATIONS = 1.5
# Attempts to halve a start that cannot be integrated.
_HALVINGS = 6


class Ending(enum.Enum):
    """Why a level ended."""

    CONVERGED = "converged"  # an iteration lowered the energy by less than the tolerance
    BOUND = "bound"  # it took as many iterations, or as much work, as it may
    STUCK = "stuck"  # no step lowers the energy
    HOPELESS = "hopeless"  # the energy is not finite even at rest
    CANCELLED = "cancelled"


@dataclass(frozen=True)
class State:
    """The best velocity so far and what was evaluated there; whether this is a step just accepted (or the start), and
    why the level ends here, if it does."""

    velocity: Tensor
    evaluation: Evaluation | None
    iteration: int
    seconds: float
    accepted: bool = True
    ending: Ending | None = None


class Work:
    """Evaluations at one level, weighted by their cost: as many as its time steps are to those of the first."""

    def __init__(self, objective: Objective):
        self.objective, self.unit, self.done = objective, objective.steps, 0.0
        self.most = _EVALUATIONS * objective.level.iterations + 2

    def __call__(self, velocity: Tensor) -> Evaluation:
        # About half of an evaluation is the geodesic and its map, the rest the images.
        self.done += 0.5 + 0.5 * self.objective.steps / self.unit
        return self.objective(velocity)

    @property
    def over(self) -> bool:
        return self.done >= self.most


def descend(objective: Objective, velocity: Tensor, detail: bool, cancelled: Callable[[], bool]) -> Iterator[State]:
    """Lower E from a velocity; the last state says why it ended.

    Args:
        detail: whether the smooth part of the deformation is known already.
    """
    started = time.perf_counter()
    if cancelled():
        yield State(velocity, None, 0, 0.0, False, Ending.CANCELLED)
        return
    velocity, now = _begun(objective, velocity, cancelled)
    state = State(velocity, now, 0, time.perf_counter() - started)
    if now.gradient is None:
        yield replace(state, accepted=False, ending=Ending.HOPELESS)
        return
    yield state
    work, reach = Work(objective), Reach()
    search = DIRECTIONS[objective.settings.search](objective, detail)
    while state.iteration < objective.level.iterations and not work.over:
        now = state.evaluation
        proposal = search.propose(now)
        slope = float((now.gradient * proposal.direction).sum())
        step, ending = None, Ending.STUCK
        if slope < 0:
            displacement = objective.largest_displacement(proposal.direction)
            length = reach.within(proposal.length, displacement)
            ray = Ray(state.velocity, proposal.direction, now.energy, slope)
            try:
                step = backtracked(work, objective.refine, ray, length, cancelled)
            except Interrupted:
                ending = Ending.CANCELLED
        if step is None:
            if ending is Ending.STUCK and search.forget():
                # The memory may mislead, or the energy have changed a little with the time steps: once more without.
                now = objective(state.velocity)
                if now.gradient is not None:
                    state = replace(state, evaluation=now)
                    continue
            yield replace(state, accepted=False, ending=ending)
            return
        reach.learn(length, step.length, displacement)
        _learn(search, proposal.direction, step, now)
        decrease = (now.energy - step.reached.energy) / max(abs(now.energy), 1e-30)
        moved = state.velocity + step.length * proposal.direction
        state = State(moved, step.reached, state.iteration + 1, time.perf_counter() - started)
        if decrease < objective.settings.tolerance:
            yield replace(state, ending=Ending.CONVERGED)
            return
        yield state
    yield replace(state, accepted=False, ending=Ending.BOUND)


def _begun(objective: Objective, velocity: Tensor, cancelled: Callable[[], bool]) -> tuple[Tensor, Evaluation]:
    """A velocity that can be integrated, as near to the given one as halving comes, and its evaluation."""
    now = objective.evaluate_safely(velocity)
    for _ in range(_HALVINGS):
        if now.gradient is not None or cancelled():
            break
        # Not even with many steps: a gentler field of the same shape can be integrated.
        velocity = 0.5 * velocity
        now = objective.evaluate_safely(velocity)
    if now.gradient is None:
        velocity = torch.zeros_like(velocity)
        objective.steps = objective.chosen_steps(velocity)
        now = objective(velocity)
    return velocity, now


def _learn(search: Direction, direction: Tensor, step: Step, before: Evaluation) -> None:
    if step.refined:
        # Gradients of two discretizations do not make a curvature.
        search.forget()
    else:
        search.learn(step.length * direction, step.reached.gradient - before.gradient)
