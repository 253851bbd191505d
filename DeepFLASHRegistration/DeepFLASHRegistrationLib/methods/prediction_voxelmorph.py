# SPDX-License-Identifier: Apache-2.0
"""Models of the kind "voxelmorph"."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from ..geodesics.objective import Pair
from ..learning.voxelmorph import MULTIPLE, VoxelMorphNet
from ..learning.voxelmorph_loss import VoxelMorphLoss
from ..problem.problem import Problem
from .map_prediction import MapPredictor
from .network_instance import Fitting

_RATE = 1e-4  # of learning, for instance optimization: as of the small networks of the ICON family


class Kind(MapPredictor):
    """See MapPredictor."""

    learns = True
    # The parameters' coarsest resolution, 4, times this is what the network wants.
    multiple = MULTIPLE // 4

    def built(self) -> VoxelMorphNet:
        values = self.config.architecture
        return VoxelMorphNet(self.config.ndim, tuple(values["channels"]), tuple(values["last"]), values["block"])

    def fitting(self, shape: tuple[int, ...]) -> Fitting:
        similarity = self.config.architecture.get("similarity", "lncc")
        return Fitting(
            lambda device: VoxelMorphLoss(similarity, shape, device),
            _RATE,
            lambda usable: "crop the images to what is to be registered",
        )

    def displacements(self, problem: Problem, pair: Pair, cancelled: Callable[[], bool]) -> tuple[Tensor, Tensor]:
        velocity = self.network.velocity(pair.fixed[None], pair.moving[None])
        voxel = torch.tensor([length / n for length, n in zip(problem.lengths, pair.fixed.shape)]).to(pair.fixed)
        voxel = voxel.view(-1, *[1] * pair.fixed.ndim)
        forth, back = (self.network.displacement(v)[0] * voxel for v in (velocity, -velocity))
        return forth, back
