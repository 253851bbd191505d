# SPDX-License-Identifier: Apache-2.0
"""How far to go along a direction: backtracking until the energy has fallen enough (Armijo)."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from ..objective import Evaluation, Objective

_ARMIJO = 1e-4
_MOST_TRIALS = 12
_MOST_REFINEMENTS = 2


class Interrupted(Exception):
    """The search was cancelled between two evaluations."""


@dataclass(frozen=True)
class Ray:
    """Where a search stands and where it looks: v0, a direction, the energy there and its slope along the direction."""

    velocity: Tensor
    direction: Tensor
    energy: float
    slope: float


@dataclass(frozen=True)
class Step:
    """An accepted length, what it reached, and whether the time steps were refined on the way."""

    length: float
    reached: Evaluation
    refined: bool


def backtracked(objective: Objective, ray: Ray, length: float, cancelled: Callable[[], bool]) -> Step | None:
    """The first length, from the given one downwards, that lowers the energy enough; None if none does.

    Raises:
        Interrupted: `cancelled` said so before an evaluation.
    """
    refined = 0
    for _ in range(_MOST_TRIALS):
        if cancelled():
            raise Interrupted
        trial = objective(ray.velocity + length * ray.direction)
        if trial.energy <= ray.energy + _ARMIJO * length * ray.slope:
            return Step(length, trial, refined > 0)
        if math.isfinite(trial.energy):
            # Minimum of the parabola through both energies and the slope, kept within sane bounds.
            parabola = -0.5 * ray.slope * length / (trial.energy - ray.energy - ray.slope * length)
            length *= min(0.5, max(0.1, parabola))
        elif refined < _MOST_REFINEMENTS and objective.refine():
            # The time steps may be at fault rather than the length of the step.
            refined += 1
        else:
            length *= 0.25
    return None
