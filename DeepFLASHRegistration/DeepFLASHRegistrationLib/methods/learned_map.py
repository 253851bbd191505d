# SPDX-License-Identifier: Apache-2.0
"""A map that a trained network predicts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from ..problem.problem import Problem
from ..support.errors import Cancelled, InputError
from .answered import FoundMap, answered
from .registry import Estimated, Plan, Watch


def estimate(problem: Problem, plan: Plan, device: str, initial: Mapping[str, Any] | None, watch: Watch) -> Estimated:
    """The map of the plan's predictor, in the form that the parameters ask for."""
    if initial is not None:
        raise InputError("A prediction starts from the images alone. Leave the velocity or map out.")
    end = 0.85 if plan.parameters.dense else 0.4
    history: list[dict[str, Any]] = []

    def report(step: int, steps: int, record: dict[str, Any]) -> None:
        history.append(record)
        progress = 0.2 + (end - 0.2) * step / steps
        watch.tell(
            phase="level", progress=progress, levels=1, iterations=steps, message=f"Prediction, step {step}", **record
        )

    found = plan.predictor.predict(problem, device, report, watch.cancel)
    name = plan.predictor.config.name
    answer = answered(problem, plan, device, FoundMap(name, found.forth, found.back), watch, end)
    more = [{**record, "level": record["level"] + 1} for record in answer.history]
    return replace(
        answer,
        history=[*history, *more],
        unusual=found.unusual,
        uncertainty=_uncertainty(problem, plan, device, watch),
    )


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
