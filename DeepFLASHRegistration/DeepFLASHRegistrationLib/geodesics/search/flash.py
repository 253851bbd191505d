# SPDX-License-Identifier: Apache-2.0
"""FLASH: the initial velocity of a geodesic by optimization (Zhang & Fletcher, IJCV 2019), coarse to fine."""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..band import Band, Lattice, Metric, fit_modes
from ..jacobian import smallest_determinant
from ..objective import Evaluation, Level, Objective, Pair, Settings

_MEMORY = 8  # pairs kept by L-BFGS
_ARMIJO = 1e-4
# The similarity's curvature before the first step, in units of the metric's smallest. On brains it is 3 to 6, on crops
# of 1 mm 30 and more; but the first step is as long as it may be whatever this is, and the smoother, the better.
_WHITE_AT_FIRST = 4.0


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


class LBFGS:
    """Limited-memory BFGS that starts from what is known of the Hessian.

    The metric's part is diagonal in the band. Starting from it alone, a search finds the smooth part of a deformation
    first, and ends nearer the truth (phantom: 1.4 mm instead of 1.9). Once that part is known, what is left is detail:
    the similarity's curvature counts as well, and is nearly the same at all frequencies of the band (measured on brains
    by differences of gradients, within a factor of two), so that a multiple of the identity stands for it. How large
    that is, each step tells.
    """

    def __init__(self, metric_part: Tensor, detail: bool):
        """
        Args:
            metric_part: second derivatives of the regularization with respect to the coefficients.
            detail: whether the smooth part of the deformation is known already.
        """
        self.metric_part, self.detail = metric_part, detail
        self.white = _WHITE_AT_FIRST * float(metric_part.min()) if detail else 0.0
        self.pairs: deque[tuple[Tensor, Tensor, float]] = deque(maxlen=_MEMORY)

    def direction(self, gradient: Tensor) -> Tensor:
        """The step that leads to where the gradient is expected to vanish."""
        q = gradient.clone()
        alphas = []
        for s, y, rho in reversed(self.pairs):
            alphas.append(rho * float((s * q).sum()))
            q -= alphas[-1] * y
        diagonal = self.metric_part + self.white
        q /= diagonal
        if self.pairs:
            s, y, rho = self.pairs[-1]
            q *= 1 / (rho * float((y * y / diagonal).sum()))
        for (s, y, rho), a in zip(self.pairs, reversed(alphas), strict=True):
            q += (a - rho * float((y * q).sum())) * s
        return -q

    def update(self, s: Tensor, y: Tensor) -> None:
        """After a step ``s`` that changed the gradient by ``y``."""
        curvature, length = float((s * y).sum()), float(s.norm())
        if curvature > 1e-8 * length * float(y.norm()):
            self.pairs.append((s, y, 1 / curvature))
        if curvature > 0 and length > 0 and self.detail:
            unit = s / length
            self.white = max(0.0, curvature / length / length - float((self.metric_part * unit * unit).sum()))


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
    iteration, stalled = 0, 0
    while iteration < objective.level.iterations:
        direction = search.direction(now.gradient)
        slope = float((now.gradient * direction).sum())
        if not slope < 0:
            return
        step = 1.0 if search.pairs else min(1.0, 1.0 / max(objective.largest_displacement(direction), 1e-12))
        accepted, refined = None, 0
        for _ in range(12):
            if cancelled():
                yield velocity, True, None
                return
            trial = objective(velocity + step * direction)
            if trial.energy <= now.energy + _ARMIJO * step * slope:
                accepted = trial
                break
            if math.isfinite(trial.energy):
                # Minimum of the parabola through both energies and the slope, kept within sane bounds.
                step *= min(0.5, max(0.1, -0.5 * slope * step / (trial.energy - now.energy - slope * step)))
            elif refined < 2 and objective.refine():
                # The time steps may be at fault rather than the length of the step.
                refined += 1
            else:
                step *= 0.25
        if accepted is None:
            if not search.pairs:
                return
            # The memory may mislead, or the energy have changed a little with the time steps: once more without.
            search.pairs.clear()
            now = objective(velocity)
            if now.gradient is None:
                return
            continue
        if refined:
            # Gradients of two discretizations do not make a curvature.
            search.pairs.clear()
        else:
            search.update(step * direction, accepted.gradient - now.gradient)
        decrease = (now.energy - accepted.energy) / max(abs(now.energy), 1e-30)
        velocity = velocity + step * direction
        now = accepted
        iteration += 1
        yield velocity, False, (iteration, now, time.perf_counter() - started)
        stalled = stalled + 1 if decrease < objective.settings.tolerance else 0
        if stalled:
            return
