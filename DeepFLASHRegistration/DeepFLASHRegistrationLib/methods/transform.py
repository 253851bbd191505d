# SPDX-License-Identifier: Apache-2.0
"""A map that was found elsewhere."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..problem.known_transform import KnownTransform
from ..problem.problem import Problem
from ..support.errors import InputError
from .answered import FoundMap, answered
from .registry import Estimated, Plan, Watch


def estimate(
    problem: Problem, plan: Plan, device: str, initial: Mapping[str, Any] | KnownTransform | None, watch: Watch
) -> Estimated:
    """The map that is given, in the form that the parameters ask for."""
    if not isinstance(initial, KnownTransform):
        raise InputError(
            f"The method {plan.parameters.method} needs a transform from the fixed to the moving image (--init FILE)."
        )
    forth, known = initial.on(problem)
    return answered(problem, plan, device, FoundMap(initial.name, forth, known=known), watch)
