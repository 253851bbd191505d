# SPDX-License-Identifier: Apache-2.0
"""FLASH: the initial velocity of a geodesic by optimization (Zhang & Fletcher, IJCV 2019), coarse to fine."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..band import Band, Lattice, Metric, fit_modes
from ..jacobian import smallest_determinant
from ..objective import Compared, Level, Objective, Settings
from .descent import Ending, descend


@dataclass(frozen=True)
class Iteration:
    """Report of an accepted step. Energies as in E(v0); the determinant is that of the map on its lattice."""

    level: int
    levels: int
    iteration: int
    iterations: int
    energy: float
    similarity: float
    regularization: float
    smallest_determinant: float
    seconds: float


@dataclass(frozen=True)
class Estimate:
    """The velocity found, its band and metric, the time steps that integrated it, and why each level ended.

    ``trouble``: why evaluations were not recorded although the device could ("" if they were, or it cannot).
    """

    velocity: Tensor
    band: Band
    metric: Metric
    steps: int
    endings: tuple[Ending, ...]
    trouble: str = ""

    @property
    def cancelled(self) -> bool:
        return self.endings[-1] is Ending.CANCELLED

    @property
    def why(self) -> tuple[str, ...]:
        """Why each level ended, in a word."""
        return tuple(ending.value for ending in self.endings)


def minimize(
    compared: Compared,
    levels: Sequence[Level],
    settings: Settings,
    initial: Tensor | None = None,
    window: Callable[[Lattice], Tensor] | None = None,
    report: Callable[[Iteration], None] | None = None,
    cancelled: Callable[[], bool] | None = None,
) -> Estimate:
    """Minimize E over v0 through the levels.

    Args:
        compared: images, or whatever else a geodesic is to fit, on the finest cells.
        levels: coarse to fine; those without iterations are passed over, but for the last.
        initial: v0 to start from, (d, *modes) of any band on the same domain; zero by default.
        window: lattice -> weights (*shape) by which the velocity is damped where the map is followed (towards the
            border of the domain, where a periodic field would wrap around).
        report: called after every accepted step.
        cancelled: asked before every evaluation; once true, the best velocity so far is returned.
    """
    if not levels:
        raise ValueError("minimize needs at least one level.")
    if not all(bool((weight > 0).any()) for weight in compared.weights):
        raise ValueError("The masks must not be empty: there would be nothing to compare.")
    velocity, trouble = initial, ""
    endings: list[Ending] = []
    for number, level in enumerate(levels):
        if not level.iterations and level is not levels[-1]:
            continue  # its band would cut off what a start has beyond it
        modes = level.band.modes
        zero = torch.zeros(len(modes), *modes, dtype=compared.like.dtype, device=compared.like.device)
        velocity = zero if velocity is None else fit_modes(velocity, modes).to(zero).contiguous()
        objective = Objective(compared, level, settings, window, velocity, often=True)
        for state in descend(objective, velocity, initial is not None, cancelled or (lambda: False)):
            velocity, ending, evaluation = state.velocity, state.ending, state.evaluation
            if state.accepted and report is not None:
                report(
                    Iteration(
                        number,
                        len(levels),
                        state.iteration,
                        level.iterations,
                        evaluation.energy,
                        evaluation.dissimilarity,
                        evaluation.regularization,
                        smallest_determinant(evaluation.displacement, objective.flow.lattice),
                        state.seconds,
                    )
                )
        endings.append(ending)
        trouble = trouble or objective.evaluation.trouble or objective.product.trouble
        if ending is Ending.CANCELLED:
            break
    last = objective.level
    return Estimate(velocity, last.band, last.metric, objective.steps, tuple(endings), trouble)
