# SPDX-License-Identifier: Apache-2.0
"""LDDMM with vector momenta on every voxel: what FLASH is, without its band."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from ..problem.problem import Problem, settings
from ..support.errors import InputError
from .answered import FoundMap, answered
from .registry import Estimated, Plan, Watch
from .stages import without_band


def estimate(problem: Problem, plan: Plan, device: str, initial: Mapping[str, Any] | None, watch: Watch) -> Estimated:
    """The map of the geodesic that starts with the best momentum, in the form that the parameters ask for."""
    if initial is not None:
        raise InputError("LDDMM starts from the images alone. Leave the velocity or map out.")
    from ..geodesics.band import Lattice, Upsampler
    from ..geodesics.full_space import minimize
    from ..geodesics.jacobian import smallest_determinant

    parameters = without_band(plan.given)
    levels = problem.levels(parameters)
    end = 0.85 if plan.parameters.dense else 0.7
    history: list[dict[str, Any]] = []
    total = sum(level.iterations + 1 for level in levels)

    def report(number: int, state: Any, objective: Any) -> None:
        found = state.evaluation
        record = {
            "level": number,
            "iteration": state.iteration,
            "energy": found.energy,
            "similarity": found.dissimilarity,
            "regularization": found.regularization,
            "smallest_determinant": smallest_determinant(found.displacement, objective.flow.lattice),
            "seconds": state.seconds,
        }
        history.append(record)
        done = sum(level.iterations + 1 for level in levels[:number]) + state.iteration + 1
        watch.tell(
            phase="level",
            progress=0.2 + (end - 0.2) * done / total,
            levels=len(levels),
            iterations=levels[number].iterations,
            message=f"LDDMM, level {number + 1} of {len(levels)}, iteration {state.iteration}",
            **record,
        )

    compared = problem.compared(device)
    found = minimize(compared, levels, settings(parameters), problem.window(device), report, watch.cancel)
    cells = Lattice.cells(problem.grid.shape, problem.lengths)
    fine = Upsampler(found.lattice, cells, compared.like.dtype, device)
    maps = [(problem.unit_mm * fine(u)).cpu().numpy().astype(np.float32) for u in found.maps]
    answer = answered(problem, plan, device, FoundMap("LDDMM", *maps), watch, end)
    more = [{**record, "level": record["level"] + len(levels)} for record in answer.history]
    return Estimated(
        **{
            **vars(answer),
            "history": [*history, *more],
            "cancelled": answer.cancelled or found.cancelled,
            "endings": (*(ending.value for ending in found.endings), *answer.endings),
        }
    )
