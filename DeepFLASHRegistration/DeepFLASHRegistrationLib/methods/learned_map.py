# SPDX-License-Identifier: Apache-2.0
"""A map that a trained network predicts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from ..problem.problem import Problem
from ..support.duration import in_words
from ..support.errors import Cancelled, InputError
from .answered import FoundMap, answered
from .registry import Estimated, Plan, Watch

if TYPE_CHECKING:
    from .instance import Fitted
    from .map_prediction import MapPredictor

_LONG = 120.0  # seconds, of which a user should know before they begin


def estimate(problem: Problem, plan: Plan, device: str, initial: Mapping[str, Any] | None, watch: Watch) -> Estimated:
    """The map of the plan's predictor, in the form that the parameters ask for."""
    if initial is not None:
        raise InputError("A prediction starts from the images alone. Leave the velocity or map out.")
    begin, end = 0.2, 0.85 if plan.parameters.dense else 0.4
    predictor, cancel, before = plan.predictor, watch.cancel, None
    if plan.parameters.instance_steps:
        middle = begin + 0.9 * (end - begin)
        predictor, before = _fitted(problem, plan, device, watch, (begin, middle))
        begin = middle
        if before.cancelled:  # the best so far is still to be seen
            cancel = None
    history: list[dict[str, Any]] = []

    def report(step: int, steps: int, record: dict[str, Any]) -> None:
        history.append(record)
        progress = begin + (end - begin) * step / steps
        watch.tell(
            phase="level", progress=progress, levels=1, iterations=steps, message=f"Prediction, step {step}", **record
        )

    found = predictor.predict(problem, device, report, cancel)
    name = predictor.config.name
    answer = answered(problem, plan, device, FoundMap(name, found.forth, found.back), watch, end)
    stages = [before.history if before else [], history, answer.history]
    return replace(
        answer,
        history=_in_order(stages),
        cancelled=answer.cancelled or bool(before and before.cancelled),
        endings=(*([before.ending] if before else ()), *answer.endings),
        unusual=found.unusual,
        uncertainty=_uncertainty(problem, plan, device, watch),
    )


def _in_order(stages: Sequence[Sequence[dict[str, Any]]]) -> list[dict[str, Any]]:
    """The records of stages, each of which counts its levels from 0, with levels that count on."""
    found: list[dict[str, Any]] = []
    for stage in stages:
        first = found[-1]["level"] + 1 if found else 0
        found += [{**record, "level": first + record["level"]} for record in stage]
    return found


def _fitted(
    problem: Problem, plan: Plan, device: str, watch: Watch, progress: tuple[float, float]
) -> tuple[MapPredictor, Fitted]:
    """The plan's predictor with weights that were fitted to the pair, and how that went."""
    steps, (begin, end) = plan.parameters.instance_steps, progress
    watch.tell(phase="level", progress=begin, message="Instance optimization: looking at the memory and the time")

    def report(step: int, record: dict[str, Any], left: float) -> None:
        said = f"Instance optimization, step {step} of {steps}"
        said += f", about {in_words(left)} left" if step < steps else ""
        more: dict[str, Any] = {}
        if step == 0 and left > _LONG:
            more["notes"] = [f"Instance optimization on {device}: {steps} steps will take about {in_words(left)}."]
        done = begin + (end - begin) * step / steps
        watch.tell(phase="level", progress=done, levels=1, iterations=steps, message=said, **more, **record)

    return plan.predictor.fitted(problem, device, steps, report, watch.cancel)


def _uncertainty(problem: Problem, plan: Plan, device: str, watch: Watch) -> np.ndarray | None:
    """The scatter of random answers, if they are wanted; a cancelled registration does without."""
    count = plan.parameters.samples
    if not count:
        return None

    def report(done: int) -> None:
        watch.tell(phase="level", progress=0.85, message=f"Uncertainty, answer {done} of {count}")

    try:
        return plan.predictor.uncertainty(problem, device, count, report, watch.cancel)
    except Cancelled:
        return None
