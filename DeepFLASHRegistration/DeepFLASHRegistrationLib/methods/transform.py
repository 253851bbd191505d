# SPDX-License-Identifier: Apache-2.0
"""A map that was found elsewhere: as it is, as the geodesic nearest to it, or as where FLASH begins."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from ..problem.dense_map import inverted
from ..problem.known_transform import KnownTransform
from ..problem.problem import Problem
from ..support.errors import InputError
from .flash import optimized, unrecorded
from .registry import Estimated, Plan, Watch

if TYPE_CHECKING:
    from ..geodesics.search.flash import Estimate


def estimate(
    problem: Problem, plan: Plan, device: str, initial: Mapping[str, Any] | KnownTransform | None, watch: Watch
) -> Estimated:
    """The map that is given, in the form that the parameters ask for."""
    if not isinstance(initial, KnownTransform):
        raise InputError(
            f"The method {plan.parameters.method} needs a transform from the fixed to the moving image (--init FILE)."
        )
    if plan.parameters.dense:
        return _dense(problem, initial)
    return _geodesic(problem, plan, device, initial, watch)


def _dense(problem: Problem, known: KnownTransform) -> Estimated:
    forth, _ = known.on(problem)
    back, lost = inverted(forth, problem.grid)
    folds = _folded(forth, problem)
    notes = ()
    if folds or lost:
        notes = (
            f"{known.name}: folds at {folds} of the working voxels, and cannot be inverted at {lost}: there "
            "moving_to_fixed is a guess. The geodesic nearest to it has no folds and an exact inverse (as_geodesic).",
        )
    values = {"domain": problem.grid, "affine": problem.affine, "forth": forth, "back": back}
    return Estimated(values, [], False, notes=notes)


def _folded(forth: np.ndarray, problem: Problem) -> int:
    """At how many voxels of the working grid a map folds."""
    import torch

    from ..geodesics.band import Lattice
    from ..geodesics.jacobian import jacobian_determinant

    lattice = Lattice.cells(problem.grid.shape, tuple(float(x) for x in problem.grid.extent))
    return int((jacobian_determinant(torch.from_numpy(forth), lattice) <= 0).sum())


def _geodesic(problem: Problem, plan: Plan, device: str, known: KnownTransform, watch: Watch) -> Estimated:
    parameters, after = plan.parameters, plan.after
    end = 0.85 if after is None else 0.5
    compared = known.compared(problem, device)
    fitted, history = optimized(problem, parameters, device, None, watch, (0.2, end), compared)
    found: list[Estimate] = [fitted]
    if after is not None and not fitted.cancelled:
        better, more = optimized(problem, after, device, fitted.velocity, watch, (end, 0.85))
        found.append(better)
        history += [{**record, "level": record["level"] + len(parameters.resolutions)} for record in more]
    last = found[-1]
    return Estimated(
        problem.geodesic(last.velocity, last.metric, parameters),
        history,
        last.cancelled,
        endings=tuple(why for each in found for why in each.why),
        notes=tuple(dict.fromkeys(note for each in found for note in unrecorded(each, device))),
    )
