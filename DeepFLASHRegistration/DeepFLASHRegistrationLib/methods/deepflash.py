# SPDX-License-Identifier: Apache-2.0
"""DeepFLASH: the initial velocity as a trained model predicts it, refined by FLASH if that is wanted."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..problem.problem import Problem
from ..support.errors import InputError
from .flash import optimized, unrecorded
from .registry import Estimated, Plan, Watch


def estimate(problem: Problem, plan: Plan, device: str, initial: Mapping[str, Any] | None, watch: Watch) -> Estimated:
    """v0 by the plan's predictor."""
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
    velocity, metric, cancelled, endings, notes = found.velocity, found.metric, found.cancelled, (), ()
    if refined and not cancelled:
        better, more = optimized(
            problem, predictor.config.refining(parameters), device, velocity, watch, (0.2 + 0.65 * part, 0.85)
        )
        velocity, metric, cancelled, endings = better.velocity, better.metric, better.cancelled, better.why
        notes = unrecorded(better, device)
        levels = 1 + max((record["level"] for record in history), default=-1)
        history += [{**record, "level": record["level"] + levels} for record in more]
    return Estimated(problem.geodesic(velocity, metric, parameters), history, cancelled, found.unusual, endings, notes)
