# SPDX-License-Identifier: Apache-2.0
"""FLASH: the initial velocity by optimization."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from ..problem.known_transform import KnownTransform
from ..problem.parameters import Parameters
from ..problem.problem import Problem, settings
from ..problem.steering import SOFT
from ..support.errors import InputError
from .registry import Estimated, Plan, Watch

if TYPE_CHECKING:
    import torch

    from ..geodesics.objective import Compared
    from ..geodesics.search.flash import Estimate

# Of the weight of what is to be kept, stage by stage after the levels; and most iterations of each.
_STIFFER, _SETTLING = (0.005, 0.1, 1.0), 16


def estimate(
    problem: Problem, plan: Plan, device: str, initial: Mapping[str, Any] | KnownTransform | None, watch: Watch
) -> Estimated:
    """v0 by FLASH, from zero or from an earlier `Result.velocity`."""
    import torch

    if isinstance(initial, KnownTransform):
        raise InputError(
            'FLASH starts from an affine, or a geodesic. Use the method "transform+flash" to start from a map.'
        )
    start = None
    if initial is not None:
        start = torch.as_tensor(initial["velocity"], device=device)
        if start.shape[0] != problem.fixed.ndim or not problem.grid.same_as(initial["domain"]):
            raise InputError(
                "The initial velocity belongs to another fixed image or working grid. Choose the mask, the working "
                "voxel and the margin as they were when it was found by FLASH, or start without it."
            )
    found, history = optimized(problem, plan.parameters, device, start, watch)
    geodesic = problem.geodesic(found.velocity, found.metric, plan.parameters)
    return Estimated(geodesic, history, found.cancelled, endings=found.why, notes=unrecorded(found, device))


def unrecorded(found: Estimate, device: str) -> tuple[str, ...]:
    """What to say if a device could not record what it was to replay."""
    if not found.trouble:
        return ()
    return (
        f"{device} could not record the evaluations ({found.trouble.rstrip('.')}). They were launched one by one, "
        "which takes longer and gives the same result.",
    )


def optimized(
    problem: Problem,
    parameters: Parameters,
    device: str,
    start: torch.Tensor | None,
    watch: Watch,
    part: tuple[float, float] = (0.2, 0.85),
    compared: Compared | None = None,
) -> tuple[Estimate, list[dict[str, Any]]]:
    """FLASH from a velocity: what was found, and its history.

    Args:
        part: of the whole progress, where this begins and ends.
        compared: what the geodesic fits; by default the problem's images, and what steers besides.
    """
    from ..geodesics.search.flash import minimize

    levels = problem.levels(parameters)
    stages = [(levels, 1.0)]
    if compared is None and problem.steering.kept and sum(parameters.iterations):
        # What is to be kept is so stiff that nothing else would move beside it: that comes last, by and by.
        settling = [dataclasses.replace(levels[-1], iterations=_SETTLING)]
        stages = [(levels, SOFT), *((settling, stiffness) for stiffness in _STIFFER)]
        levels = [level for some, _ in stages for level in some]
    history: list[dict[str, Any]] = []
    # A voxel costs the same at every level, an iteration at a finer one as many times more.
    costs = [problem.grid.size / math.prod(level.factors) + 20 * math.prod(level.band.modes) for level in levels]
    total = sum(c * (level.iterations + 1) for c, level in zip(costs, levels, strict=True))

    def report(step: Any) -> None:
        number = before + step.level
        done = sum(c * (level.iterations + 1) for c, level in zip(costs[:number], levels, strict=False))
        done += costs[number] * (step.iteration + 1)
        record = {k: v for k, v in dataclasses.asdict(step).items() if k not in ("levels", "iterations")}
        record["level"] = number
        history.append(record)
        watch.tell(
            phase="level",
            progress=part[0] + (part[1] - part[0]) * done / total,
            levels=len(levels),
            iterations=step.iterations,
            message=f"Level {number + 1} of {len(levels)}, iteration {step.iteration}",
            **record,
        )

    common = settings(parameters)
    before, endings, found = 0, (), None
    for some, stiffness in stages:
        fitted = compared or problem.compared(device, stiffness)
        found = minimize(fitted, some, common, start, problem.window(device), report, watch.cancel)
        before, endings, start = before + len(some), (*endings, *found.endings), found.velocity
        if found.cancelled:
            break
    return dataclasses.replace(found, endings=endings), history
