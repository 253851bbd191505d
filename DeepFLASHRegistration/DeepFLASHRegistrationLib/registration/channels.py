# SPDX-License-Identifier: Apache-2.0
"""How alike further images of two subjects are, before a map and after it."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import numpy as np

from ..imaging.volume import Volume
from ..problem.deformation import Deformation
from ..problem.dense_map import DenseMap
from ..problem.parameters import Parameters
from ..problem.problem import Problem
from ..problem.resampling import linear_values, looked_up
from ..problem.working import level_factors
from ..support.torch_device import is_cuda

if TYPE_CHECKING:
    from torch import Tensor

    from ..geodesics.objective import Pair


def channel_figures(problem: Problem, parameters: Parameters, deformation: Deformation | DenseMap) -> dict[str, Any]:
    """Of each further image, in their order: its name, its weight, by which similarity it is compared, and that, 1 for
    images that are alike, with the alignment alone and with the whole map, on the cells of the finest level."""
    if not problem.channels:
        return {}
    device = deformation.device if is_cuda(deformation.device) else "cpu"
    factors = level_factors(problem.grid, parameters)[-1]
    grid, d = problem.grid.blocks(factors), problem.grid.ndim
    back = np.linalg.inv(problem.affine)
    # From a cell to where it lies in the images that are aligned already.
    moved = np.asarray(deformation.field(grid, "fixed_to_moving", settled=not is_cuda(device)))
    moved = moved @ back[:d, :d].T.astype(np.float32)
    radius = tuple(max(2.0, float(problem.window_mm / h - 1) / 2) for h in grid.spacing)
    found = []
    for each, pair in zip(problem.channels, problem.channel_pairs(device), strict=True):
        pair = pair.reduced(factors)
        at_rest = [pair.moving] if pair.moving_view is None else [pair.moving, pair.moving_view]
        looks = [linear_values(Volume(grid, values.cpu().numpy()), 0.0, device) for values in at_rest]
        warped = looked_up(grid, grid, looks, back, moved, device)
        name = each.similarity or parameters.similarity
        before, after = (_likeness(name, pair, radius, *seen) for seen in (at_rest, warped))
        image = os.path.basename(each.name)
        found.append({"name": image, "weight": each.weight, "similarity": name, "before": before, "after": after})
    return {"channels": found}


def _likeness(
    name: str, pair: Pair, radius: tuple[float, ...], warped: Tensor, view: Tensor | None = None
) -> float | None:
    """1 minus the dissimilarity where both are seen; None where nothing is."""
    from ..geodesics.similarities import make_similarity

    mask, support = pair.fixed_mask, pair.fixed_view
    if view is not None:
        mask = mask * view
        support = view if support is None else support * view
    if not bool((mask > 0).any()):
        return None
    if support is not None:
        support = (support > 0.5).to(mask.dtype)
    return 1 - float(make_similarity(name, pair.fixed, mask, radius, support)(warped))
