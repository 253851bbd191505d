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
from ..problem.problem import Images, Problem
from ..problem.resampling import linear_values, looked_up
from ..support.torch_device import as_tensor, is_cuda

if TYPE_CHECKING:
    from torch import Tensor


def channel_figures(problem: Problem, parameters: Parameters, deformation: Deformation | DenseMap) -> dict[str, Any]:
    """Of each further image, in their order: its name, its weight, by which similarity it is compared, and that, 1 for
    images that are alike, with the alignment alone and with the whole map, on the working grid."""
    if not problem.channels:
        return {}
    device = deformation.device if is_cuda(deformation.device) else "cpu"
    grid, d = problem.grid, problem.grid.ndim
    back = np.linalg.inv(problem.affine)
    # From a voxel to where it lies in the images that are aligned already.
    moved = np.asarray(deformation.field(grid, "fixed_to_moving", settled=not is_cuda(device))) @ back[:d, :d].T
    found = []
    for each in problem.channels:
        values = [each.moving, each.moving_mask if each.moving_view is None else each.moving_view]
        looks = [linear_values(Volume(grid, np.asarray(x, dtype=np.float32)), 0.0, device) for x in values]
        warped = looked_up(grid, grid, looks, back, moved, device)
        at_rest = [as_tensor(np.asarray(x, dtype=np.float32)).to(device) for x in values]
        name = each.similarity or parameters.similarity
        before, after = (_likeness(name, problem, each, *seen) for seen in (at_rest, warped))
        image = os.path.basename(each.name)
        found.append({"name": image, "weight": each.weight, "similarity": name, "before": before, "after": after})
    return {"channels": found}


def _likeness(name: str, problem: Problem, images: Images, warped: Tensor, view: Tensor) -> float | None:
    """1 minus the dissimilarity where both are seen; None where nothing is."""
    import torch

    from ..geodesics.similarities import make_similarity

    def tensor(x: np.ndarray) -> Tensor:
        return as_tensor(np.asarray(x, dtype=np.float32)).to(warped.device)

    mask = tensor(images.fixed_mask)
    support = None if images.fixed_view is None else tensor(images.fixed_view)
    if images.moving_view is not None:
        mask = mask * view
        support = view if support is None else support * view
    if not bool((mask > 0).any()):
        return None
    if support is not None:
        support = (support > 0.5).to(torch.float32)
    voxels = problem.grid.spacing / problem.window_mm
    radius = tuple(max(2.0, float(1 / v - 1) / 2) for v in voxels)
    return 1 - float(make_similarity(name, tensor(images.fixed), mask, radius, support)(warped))
