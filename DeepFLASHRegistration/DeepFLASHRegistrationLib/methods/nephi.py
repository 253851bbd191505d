# SPDX-License-Identifier: Apache-2.0
"""NePhi: a map and its inverse as functions of coordinates, fitted to the pair; no training, no model."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..problem.problem import Problem
from ..support.duration import in_words
from ..support.errors import InputError
from .answered import FoundMap, answered
from .registry import Estimated, Plan, Watch
from .stages import NEURAL_STEPS

_RATE = 5e-3


def estimate(problem: Problem, plan: Plan, device: str, initial: Mapping[str, Any] | None, watch: Watch) -> Estimated:
    """The map of the fitted fields, in the form that the parameters ask for."""
    if initial is not None:
        raise InputError("NePhi starts from the images alone. Leave the velocity or map out.")
    from .instance import Schedule, fit
    from .neural_pair import NeuralPair

    parameters = plan.given
    levels = problem.levels(parameters)
    steps = [NEURAL_STEPS * level.iterations for level in levels]
    total, end = sum(steps), 0.85 if plan.parameters.dense else 0.7
    voxel = float(problem.grid.spacing.max())
    margin = max(problem.margin_mm / 2, voxel) / problem.unit_mm
    pair = NeuralPair(problem.pair(device), levels, steps, margin, parameters.similarity)

    def report(step: int, record: dict[str, Any], left: float) -> None:
        told = f"NePhi, step {step} of {total}"
        told += f", about {in_words(left)} left" if step < total else ""
        progress = 0.2 + (end - 0.2) * step / max(total, 1)
        watch.tell(phase="level", progress=progress, levels=1, iterations=total, message=told, **record)

    found = fit(pair, Schedule(total, _RATE), device, report, watch.cancel)
    # The second field comes near the inverse of the first (1 mm off at the 95th percentile of hippocampi): it keeps
    # that one regular, which then is inverted to the end.
    forth = pair.displacement(problem.grid.shape, problem.unit_mm)
    answer = answered(problem, plan, device, FoundMap("NePhi", forth), watch, end)
    more = [{**record, "level": record["level"] + 1} for record in answer.history]
    return Estimated(
        **{
            **vars(answer),
            "history": [*found.history, *more],
            "cancelled": answer.cancelled or found.cancelled,
            "endings": (found.ending, *answer.endings),
        }
    )
