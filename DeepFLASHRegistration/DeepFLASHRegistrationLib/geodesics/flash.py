# SPDX-License-Identifier: Apache-2.0
"""FLASH: the initial velocity of a geodesic by optimization (Zhang & Fletcher, IJCV 2019), coarse to fine.

    E(v0) = D(S∘ψ₁, T)/(2σ²) + ½ ∫⟨Lv0, v0⟩ / |mask|

D is the mean dissimilarity over the mask and |mask| its volume, so that neither the resolution nor the empty space
around the object changes what σ means. Multiplied by the number of voxels in the mask this is the energy of FLASH.
"""

from __future__ import annotations

import contextlib
import math
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from .band import Band, Lattice, Metric, Upsampler, fit_modes
from .flow import BandLimitedFlow, Flow
from .jacobian import smallest_determinant
from .sampling import NonFiniteField, Sampler
from .shooting import Shooting, Trajectory
from .similarities import make_similarity

# A discrete geodesic whose energy ⟨Lv, v⟩ changes by more than this fraction is none: more time steps are needed.
ENERGY_DRIFT = 0.3
_MEMORY = 8  # pairs kept by L-BFGS
_ARMIJO = 1e-4


@dataclass(frozen=True)
class Pair:
    """Two images on the same cells of the domain: fixed, moving (*shape); weights (*shape) of 0..1.

    fixed_mask and moving_mask say where the similarity is measured (the latter if symmetric), fixed_view and
    moving_view (None: everywhere) where an image means anything.
    """

    fixed: Tensor
    moving: Tensor
    fixed_mask: Tensor
    moving_mask: Tensor
    fixed_view: Tensor | None
    moving_view: Tensor | None
    lengths: tuple[float, ...]

    def reduced(self, factors: Sequence[int]) -> Pair:
        """Averaged over blocks of ``factors`` voxels per axis (which must divide the shape)."""
        if all(f == 1 for f in factors):
            return self
        if any(n % f for n, f in zip(self.fixed.shape, factors, strict=True)):
            raise ValueError(f"Blocks of {tuple(factors)} voxels do not divide a shape of {tuple(self.fixed.shape)}.")
        pool = F.avg_pool3d if self.fixed.ndim == 3 else F.avg_pool2d

        def reduce(x: Tensor | None) -> Tensor | None:
            return None if x is None else pool(x[None, None], tuple(factors))[0, 0]

        return Pair(
            *map(
                reduce, (self.fixed, self.moving, self.fixed_mask, self.moving_mask, self.fixed_view, self.moving_view)
            ),
            self.lengths,
        )


@dataclass(frozen=True)
class Level:
    """One stage: voxels averaged per axis, band, metric, window radius in voxels per axis, most iterations."""

    factors: tuple[int, ...]
    band: Band
    metric: Metric
    radius: tuple[int, ...]
    iterations: int
    map_step: float  # lattice of the map, in units of length


@dataclass(frozen=True)
class Settings:
    """What all levels share."""

    similarity: str = "lncc"
    symmetric: bool = False
    sigma: float = 0.05
    integrator: str = "multistep"
    steps: int = 0
    band_limited_map: bool = False
    tolerance: float = 1e-4


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


@dataclass
class _Evaluation:
    energy: float
    dissimilarity: float
    regularization: float
    gradient: Tensor | None
    displacement: Tensor | None


_INFINITE = _Evaluation(math.inf, math.inf, math.inf, None, None)


class _Side:
    """One image resampled onto the other, compared inside a mask."""

    def __init__(
        self,
        objective: _Objective,
        still: Tensor,
        mask: Tensor,
        own_view: Tensor | None,
        warped: Tensor,
        view: Tensor | None,
        direction: str,
        cells: Lattice,
        map_cells: Lattice,
        trajectory: Trajectory,
    ):
        dtype, device, level = still.dtype, still.device, objective.level
        # The similarity sees only the box around the mask: half the voxels of a head, and none that do not count.
        lower, upper = _box(mask > 0, tuple(r + 1 for r in level.radius))
        crop = tuple(slice(a, b) for a, b in zip(lower, upper, strict=True))
        part = cells.box(lower, upper)
        self.direction = direction
        self.upsample = Upsampler(map_cells, part, dtype, device)
        self.sample = Sampler(part, cells, dtype, device)
        self.warped = warped[None]
        mask = mask[crop]
        support = None if own_view is None else own_view[crop]
        if view is not None:
            # Where the warped image ends is judged once a level, with the map the level starts from: a mask that moved
            # with every step would reward steps that push voxels out of it.
            with torch.no_grad(), contextlib.suppress(NonFiniteField):
                u = self.upsample(getattr(objective.flow, direction)(trajectory))
                seen = self.sample(view[None], u, padding="zeros")[0]
                if float((mask * seen).sum()) > 0.05 * float(mask.sum()):
                    mask = mask * seen
                    support = seen if support is None else support * seen
        if support is not None:
            support = (support > 0.5).to(dtype)
        name = objective.settings.similarity
        self.similarity = make_similarity(name, still[crop].contiguous(), mask, level.radius, support)
        self.covered = float(mask.sum()) / math.prod(cells.shape)

    def __call__(self, displacement: Tensor) -> Tensor:
        """Dissimilarity for a map (d, *map lattice) minus the identity."""
        return self.similarity(self.sample(self.warped, self.upsample(displacement))[0])


class _Objective:
    """E and its gradient at one level."""

    def __init__(
        self, pair: Pair, level: Level, settings: Settings, window: Callable[[Lattice], Tensor] | None, velocity: Tensor
    ):
        data = pair.reduced(level.factors)
        dtype, device = data.fixed.dtype, data.fixed.device
        self.level, self.settings = level, settings
        self.shooting = Shooting(level.band, level.metric, dtype, device)
        cells = Lattice.cells(tuple(data.fixed.shape), pair.lengths)
        map_shape = tuple(
            max(4, min(n, math.ceil(length / level.map_step)))
            for n, length in zip(data.fixed.shape, pair.lengths, strict=True)
        )
        map_cells = Lattice.cells(map_shape, pair.lengths)
        if settings.band_limited_map:
            self.flow = BandLimitedFlow(self.shooting, map_cells)
        else:
            self.flow = Flow(level.band, map_cells, dtype, device, None if window is None else window(map_cells))
        self.steps = settings.steps or self.shooting.recommended_steps(velocity)
        with torch.no_grad():
            trajectory = self.shooting.shoot(velocity, self.steps, settings.integrator)
        self.sides = [
            _Side(
                self,
                data.fixed,
                data.fixed_mask,
                data.fixed_view,
                data.moving,
                data.moving_view,
                "fixed_to_moving",
                cells,
                map_cells,
                trajectory,
            )
        ]
        if settings.symmetric:
            self.sides.append(
                _Side(
                    self,
                    data.moving,
                    data.moving_mask,
                    data.moving_view,
                    data.fixed,
                    data.fixed_view,
                    "moving_to_fixed",
                    cells,
                    map_cells,
                    trajectory,
                )
            )
        self.data_weight = 1 / (2 * settings.sigma**2)
        self.metric_weight = 0.5 / self.sides[0].covered
        self.voxel = max(cells.step)

    def __call__(self, velocity: Tensor) -> _Evaluation:
        """E, its parts and gradient; infinite where the geodesic is not finite or its energy drifts."""
        v = velocity.detach().requires_grad_()
        trajectory = self.shooting.shoot(v, self.steps, self.settings.integrator)
        norm = self.shooting.energy(v)
        if not self.shooting.drift(trajectory) <= ENERGY_DRIFT:
            return _INFINITE
        try:
            maps = [getattr(self.flow, side.direction)(trajectory) for side in self.sides]
            dissimilarity = sum(side(u) for side, u in zip(self.sides, maps, strict=True)) / len(maps)
        except NonFiniteField:
            return _INFINITE
        regularization = self.metric_weight * norm
        energy = self.data_weight * dissimilarity + regularization
        if not math.isfinite(float(energy.detach())):
            return _INFINITE
        (gradient,) = torch.autograd.grad(energy, v)
        if not bool(torch.isfinite(gradient).all()):
            return _INFINITE
        return _Evaluation(
            float(energy.detach()),
            float(dissimilarity.detach()),
            float(regularization.detach()),
            gradient,
            maps[0].detach(),
        )

    def refine(self) -> bool:
        """Take half as many time steps again; False if they are prescribed or enough for anything sane."""
        if self.settings.steps or self.steps >= 64:
            return False
        self.steps = math.ceil(1.5 * self.steps)
        return True

    def largest_displacement(self, direction: Tensor) -> float:
        """Largest length of a velocity field on the map's lattice, in voxels of the level."""
        with torch.no_grad():
            values = self.flow.evaluate(direction)
            return float(values.square().sum(0).max().sqrt()) / self.voxel


class _LBFGS:
    """Limited-memory BFGS in the metric of V: the initial Hessian is the metric's operator L (preconditioned by K)."""

    def __init__(self, preconditioner: Tensor):
        self.preconditioner = preconditioner
        self.pairs: deque[tuple[Tensor, Tensor, float]] = deque(maxlen=_MEMORY)

    def direction(self, gradient: Tensor) -> Tensor:
        q = gradient.clone()
        alphas = []
        for s, y, rho in reversed(self.pairs):
            alphas.append(rho * float((s * q).sum()))
            q -= alphas[-1] * y
        q *= self.preconditioner
        if self.pairs:
            s, y, rho = self.pairs[-1]
            q *= 1 / (rho * float((y * self.preconditioner * y).sum()))
        for (s, y, rho), a in zip(self.pairs, reversed(alphas), strict=True):
            q += (a - rho * float((y * q).sum())) * s
        return -q

    def update(self, s: Tensor, y: Tensor) -> None:
        curvature = float((s * y).sum())
        if curvature > 1e-8 * float(s.norm() * y.norm()):
            self.pairs.append((s, y, 1 / curvature))


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
        objective = _Objective(pair, level, settings, window, velocity)
        for state in _descend(objective, velocity, cancelled or (lambda: False)):
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
    objective: _Objective, velocity: Tensor, cancelled: Callable[[], bool]
) -> Iterator[tuple[Tensor, bool, tuple[int, _Evaluation, float] | None]]:
    """L-BFGS with backtracking. Yields (velocity, cancelled, progress) at the start and after every accepted step."""
    started = time.perf_counter()
    if cancelled():
        yield velocity, True, None
        return
    now = _evaluate_safely(objective, velocity)
    for _ in range(6):
        if now.gradient is not None or cancelled():
            break
        # Not even with many steps: a gentler field of the same shape can be integrated.
        velocity = 0.5 * velocity
        now = _evaluate_safely(objective, velocity)
    if now.gradient is None:
        velocity = torch.zeros_like(velocity)
        objective.steps = objective.settings.steps or objective.shooting.recommended_steps(velocity)
        now = objective(velocity)
    if now.gradient is None:
        yield velocity, False, None
        return
    yield velocity, False, (0, now, time.perf_counter() - started)
    search = _LBFGS(objective.shooting.K / (2 * objective.metric_weight))
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


def _evaluate_safely(objective: _Objective, velocity: Tensor) -> _Evaluation:
    """Evaluate; where the geodesic drifts, with more time steps if these are free to be chosen."""
    result = objective(velocity)
    while result.gradient is None and objective.refine():
        result = objective(velocity)
    return result


def _box(inside: Tensor, reach: tuple[int, ...]) -> tuple[tuple[int, ...], tuple[int, ...]]:
    lower, upper = [], []
    for axis, r in enumerate(reach):
        others = tuple(a for a in range(inside.ndim) if a != axis)
        used = torch.nonzero(inside.any(dim=others)).flatten()
        lower.append(max(0, int(used[0]) - r))
        upper.append(min(inside.shape[axis], int(used[-1]) + 1 + r))
    return tuple(lower), tuple(upper)
