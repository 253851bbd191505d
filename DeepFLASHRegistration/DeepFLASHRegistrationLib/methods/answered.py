# SPDX-License-Identifier: Apache-2.0
"""From a map that a method found to what the parameters ask for: the map itself, the geodesic nearest to it, or what
FLASH makes of that."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from ..problem.dense_map import inverted
from ..problem.problem import Problem
from .flash import optimized, unrecorded
from .registry import Estimated, Plan, Watch

if TYPE_CHECKING:
    from ..geodesics.known_map import KnownMap
    from ..geodesics.search.flash import Estimate

# How much a voxel beside the object counts when a geodesic is fitted.
_BESIDE = 0.01


@dataclass(frozen=True, eq=False)
class FoundMap:
    """A map after the affine, on a problem's working grid, in mm along the grid's array axes.

    Attributes:
        name: what messages call it.
        forth: u of x -> A(x + u(x)), float32 (d, *shape).
        back: its inverse likewise, where the method knows it.
        known: where the map is known, bool (*shape); None for everywhere.
    """

    name: str
    forth: np.ndarray
    back: np.ndarray | None = None
    known: np.ndarray | None = None


def answered(problem: Problem, plan: Plan, device: str, found: FoundMap, watch: Watch, begin: float = 0.2) -> Estimated:
    """The map in the form that the plan's parameters ask for.

    Args:
        begin: how much of the whole progress the finding took.
    """
    if plan.parameters.dense:
        return _dense(problem, found)
    return _geodesic(problem, plan, device, found, watch, begin)


def _dense(problem: Problem, found: FoundMap) -> Estimated:
    back, lost = (found.back, 0) if found.back is not None else inverted(found.forth, problem.grid)
    folds = _folded(found.forth, problem)
    notes = ()
    if folds or lost:
        notes = (
            f"{found.name}: folds at {folds} of the working voxels, and cannot be inverted at {lost}: there "
            "moving_to_fixed is a guess. The geodesic nearest to it has no folds and an exact inverse (as_geodesic).",
        )
    values = {"domain": problem.grid, "affine": problem.affine, "forth": found.forth, "back": back}
    return Estimated(values, [], False, notes=notes)


def _folded(forth: np.ndarray, problem: Problem) -> int:
    """At how many voxels of the working grid a map folds."""
    import torch

    from ..geodesics.band import Lattice
    from ..geodesics.jacobian import jacobian_determinant

    lattice = Lattice.cells(problem.grid.shape, tuple(float(x) for x in problem.grid.extent))
    return int((jacobian_determinant(torch.from_numpy(forth), lattice) <= 0).sum())


def _geodesic(problem: Problem, plan: Plan, device: str, found: FoundMap, watch: Watch, begin: float) -> Estimated:
    parameters, after = plan.parameters, plan.after
    end = 0.85 if after is None else 0.5 * (begin + 0.85)
    compared = _compared(problem, found, device)
    fitted, history = optimized(problem, parameters, device, None, watch, (begin, end), compared)
    estimates: list[Estimate] = [fitted]
    if after is not None and not fitted.cancelled:
        better, more = optimized(problem, after, device, fitted.velocity, watch, (end, 0.85))
        estimates.append(better)
        history += [{**record, "level": record["level"] + len(parameters.resolutions)} for record in more]
    last = estimates[-1]
    return Estimated(
        problem.geodesic(last.velocity, last.metric, parameters),
        history,
        last.cancelled,
        endings=tuple(why for each in estimates for why in each.why),
        notes=tuple(dict.fromkeys(note for each in estimates for note in unrecorded(each, device))),
    )


def _compared(problem: Problem, found: FoundMap, device: str) -> KnownMap:
    """What a geodesic is fitted to: all of the object, and a little of what lies beside it."""
    import torch

    from ..geodesics.known_map import KnownMap

    weight = np.where(problem.fixed_mask, np.float32(1), np.float32(_BESIDE))
    if found.known is not None:
        weight = weight * found.known
    displacement = torch.from_numpy(found.forth / np.float32(problem.unit_mm))
    return KnownMap(displacement.to(device), torch.from_numpy(weight).to(device), problem.lengths)
