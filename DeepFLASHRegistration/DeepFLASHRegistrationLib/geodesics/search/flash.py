# SPDX-License-Identifier: Apache-2.0
"""FLASH: the initial velocity of a geodesic by optimization (Zhang & Fletcher, IJCV 2019), coarse to fine."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..band import Band, Lattice, Metric, fit_modes
from ..jacobian import smallest_determinant
from ..objective import Evaluation, Level, Objective, Pair, Settings
from .lbfgs import LBFGS
from .line_search import Interrupted, Ray, backtracked


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
    """The velocity found, its band and metric, and the time steps that integrated it."""

    velocity: Tensor
    band: Band
    metric: Metric
    steps: int
    cancelled: bool


def minimize(
    pair: Pair,
    levels: Sequence[Level],
    settings: Settings,
    initial: Tensor | None = None,
    window: Callable[[Lattice], Tensor] | None = None,
    report: Callable[[Iteration], None] | None = None,
    cancelled: Callable[[], bool] | None = None,
) -> Estimate:
    """Minimize E over v0 through the levels.

    Args:
        pair: images on the finest cells.
        levels: coarse to fine.
        initial: v0 to start from, (d, *modes) of any band on the same domain; zero by default.
        window: lattice -> weights (*shape) by which the velocity is damped where the map is followed (towards the
            border of the domain, where a periodic field would wrap around).
        report: called after every accepted step.
        cancelled: asked before every evaluation; once true, the best velocity so far is returned.
    """
    if not levels:
        raise ValueError("minimize needs at least one level.")
    if not bool((pair.fixed_mask > 0).any()) or not bool((pair.moving_mask > 0).any()):
        raise ValueError("The masks must not be empty: there would be nothing to compare.")
    velocity = initial
    steps, stopped = settings.steps or 1, False
    for number, level in enumerate(levels):
        modes = level.band.modes
        zero = torch.zeros(len(modes), *modes, dtype=pair.fixed.dtype, device=pair.fixed.device)
        velocity = zero if velocity is None else fit_modes(velocity, modes).to(zero).contiguous()
        objective = Objective(pair, level, settings, window, velocity)
        for state in _descend(objective, velocity, initial is not None, cancelled or (lambda: False)):
            velocity, stopped, progress = state
            if progress is not None and report is not None:
                iteration, evaluation, seconds = progress
                report(
                    Iteration(
                        number,
                        len(levels),
                        iteration,
                        level.iterations,
                        evaluation.energy,
                        evaluation.dissimilarity,
                        evaluation.regularization,
                        smallest_determinant(evaluation.displacement, objective.flow.lattice),
                        seconds,
                    )
                )
        steps = objective.steps
        if stopped:
            break
    return Estimate(velocity, objective.level.band, objective.level.metric, steps, stopped)


def _descend(
    objective: Objective, velocity: Tensor, detail: bool, cancelled: Callable[[], bool]
) -> Iterator[tuple[Tensor, bool, tuple[int, Evaluation, float] | None]]:
    """L-BFGS with backtracking. Yields (velocity, cancelled, progress) at the start and after every accepted step."""
    started = time.perf_counter()
    if cancelled():
        yield velocity, True, None
        return
    now = objective.evaluate_safely(velocity)
    for _ in range(6):
        if now.gradient is not None or cancelled():
            break
        # Not even with many steps: a gentler field of the same shape can be integrated.
        velocity = 0.5 * velocity
        now = objective.evaluate_safely(velocity)
    if now.gradient is None:
        velocity = torch.zeros_like(velocity)
        objective.steps = objective.settings.steps or objective.shooting.recommended_steps(velocity)
        now = objective(velocity)
    if now.gradient is None:
        yield velocity, False, None
        return
    yield velocity, False, (0, now, time.perf_counter() - started)
    search = LBFGS(2 * objective.metric_weight * objective.shooting.L, detail)
    iteration = 0
    while iteration < objective.level.iterations:
        direction = search.direction(now.gradient)
        slope = float((now.gradient * direction).sum())
        if not slope < 0:
            return
        first = 1.0 if search.pairs else min(1.0, 1.0 / max(objective.largest_displacement(direction), 1e-12))
        try:
            step = backtracked(objective, Ray(velocity, direction, now.energy, slope), first, cancelled)
        except Interrupted:
            yield velocity, True, None
            return
        if step is None:
            if not search.pairs:
                return
            # The memory may mislead, or the energy have changed a little with the time steps: once more without.
            search.pairs.clear()
            now = objective(velocity)
            if now.gradient is None:
                return
            continue
        if step.refined:
            # Gradients of two discretizations do not make a curvature.
            search.pairs.clear()
        else:
            search.update(step.length * direction, step.reached.gradient - now.gradient)
        decrease = (now.energy - step.reached.energy) / max(abs(now.energy), 1e-30)
        velocity = velocity + step.length * direction
        now = step.reached
        iteration += 1
        yield velocity, False, (iteration, now, time.perf_counter() - started)
        if decrease < objective.settings.tolerance:
            return
