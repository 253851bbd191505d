# SPDX-License-Identifier: Apache-2.0
"""Estimators of the initial velocity: each makes of a problem the geodesic that solves it.

A method is a function of (problem, plan, device, initial, watch); it returns what determines the maps, a history of
energies, and whether it was cancelled. Adding one is adding it to ESTIMATORS, and its name to parameters.METHODS.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from ..problem.parameters import Parameters
from ..problem.problem import Problem, settings
from ..support.errors import InputError

if TYPE_CHECKING:
    import torch

    from ..geodesics.band import Metric
    from .prediction import Predictor


class Watch(Protocol):
    """Who is told about progress, and who may cancel."""

    cancel: Callable[[], bool]

    def tell(self, **event: Any) -> None: ...


@dataclass(frozen=True)
class Plan:
    """The parameters in effect, and the trained model that prescribes them, if any."""

    parameters: Parameters
    predictor: Predictor | None = None

    def problem(self, *images: Any) -> Problem:
        """The problem of images and masks as `Problem` takes them, and the affine."""
        if self.predictor is None:
            return Problem(*images, self.parameters)
        return Problem(*images, self.parameters, unit_mm=self.predictor.unit_mm, multiple=self.predictor.multiple)


@dataclass(frozen=True)
class Estimated:
    """The arguments of a Deformation, one record per accepted step, and notes for the user."""

    velocity: dict[str, Any]
    history: list[dict[str, Any]]
    cancelled: bool
    unusual: tuple[str, ...] = ()


def plan(parameters: Parameters, ndim: int) -> Plan:
    """What the parameters' method needs; InputError if its model cannot be used."""
    if parameters.method == "flash":
        return Plan(parameters)
    from .prediction import predictor

    found = predictor(parameters.model)
    if found.ndim != ndim:
        raise InputError(
            f"Model {parameters.model!r} is for images of {found.ndim} dimensions, not {ndim}. Choose another model, "
            "or the method flash."
        )
    return Plan(found.effective(parameters), found)


def estimate(problem: Problem, plan: Plan, device: str, initial: Mapping[str, Any] | None, watch: Watch) -> Estimated:
    """v0 by the plan's method."""
    return ESTIMATORS[plan.parameters.method](problem, plan, device, initial, watch)


def _flash(problem: Problem, plan: Plan, device: str, initial: Mapping[str, Any] | None, watch: Watch) -> Estimated:
    import torch

    start = None
    if initial is not None:
        start = torch.as_tensor(initial["velocity"], device=device)
        if start.shape[0] != problem.fixed.ndim or not problem.grid.same_as(initial["domain"]):
            raise InputError("The initial velocity belongs to another fixed image or working grid.")
    velocity, metric, history, cancelled = _optimized(problem, plan.parameters, device, start, watch)
    return Estimated(problem.geodesic(velocity, metric, plan.parameters), history, cancelled)


def _deepflash(problem: Problem, plan: Plan, device: str, initial: Mapping[str, Any] | None, watch: Watch) -> Estimated:
    if initial is not None:
        raise InputError("A prediction starts from the images alone. Use the method flash to start from a velocity.")
    predictor, parameters = plan.predictor, plan.parameters
    refined = parameters.method == "deepflash+flash"
    part = 0.3 if refined else 1.0
    history: list[dict[str, Any]] = []

    def report(step: int, steps: int, record: dict[str, Any]) -> None:
        history.append(record)
        watch.tell(
            phase="level",
            progress=0.2 + 0.65 * part * step / steps,
            levels=1,
            iterations=steps,
            message=f"Prediction, step {step} of {steps}",
            **record,
        )

    found = predictor.predict(problem, device, report, watch.cancel)
    velocity, metric, cancelled = found.velocity, found.metric, found.cancelled
    if refined and not cancelled:
        velocity, metric, more, cancelled = _optimized(
            problem, predictor.refinement(parameters), device, velocity, watch, 0.2 + 0.65 * part
        )
        levels = 1 + max((record["level"] for record in history), default=-1)
        history += [{**record, "level": record["level"] + levels} for record in more]
    return Estimated(problem.geodesic(velocity, metric, parameters), history, cancelled, found.unusual)


ESTIMATORS: dict[str, Callable[..., Estimated]] = {
    "flash": _flash,
    "deepflash": _deepflash,
    "deepflash+flash": _deepflash,
}


def _optimized(
    problem: Problem,
    parameters: Parameters,
    device: str,
    start: torch.Tensor | None,
    watch: Watch,
    begin: float = 0.2,
) -> tuple[torch.Tensor, Metric, list[dict[str, Any]], bool]:
    """FLASH from a velocity: velocity, metric, history, whether cancelled."""
    from ..geodesics.search.flash import minimize

    levels = problem.levels(parameters)
    history: list[dict[str, Any]] = []
    # A voxel costs the same at every level, an iteration at a finer one as many times more.
    costs = [problem.grid.size / math.prod(level.factors) + 20 * math.prod(level.band.modes) for level in levels]
    total = sum(c * (level.iterations + 1) for c, level in zip(costs, levels, strict=True))

    def report(step: Any) -> None:
        done = sum(c * (level.iterations + 1) for c, level in zip(costs[: step.level], levels, strict=False))
        done += costs[step.level] * (step.iteration + 1)
        record = {k: v for k, v in dataclasses.asdict(step).items() if k not in ("levels", "iterations")}
        history.append(record)
        watch.tell(
            phase="level",
            progress=begin + (0.85 - begin) * done / total,
            levels=step.levels,
            iterations=step.iterations,
            message=f"Level {step.level + 1} of {step.levels}, iteration {step.iteration}",
            **record,
        )

    found = minimize(
        problem.pair(device), levels, settings(parameters), start, problem.window(device), report, watch.cancel
    )
    return found.velocity, found.metric, history, found.cancelled
