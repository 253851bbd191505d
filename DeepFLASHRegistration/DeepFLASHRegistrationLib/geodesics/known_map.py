# SPDX-License-Identifier: Apache-2.0
"""A map that is known, to which a geodesic is fitted: then the energy compares maps where it else compares images.

    D = Σ_x w(x) ‖ψ₁(x) − ψ(x)‖² / Σ_x w(x)

It is all but quadratic in v0, so that a few steps of Gauss and Newton do.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from .band import Upsampler
from .objective import Displaced, Objective, Side, upper


@dataclass(frozen=True)
class KnownMap:
    """The map ψ from the fixed to the moving image on cells of the domain.

    Attributes:
        displacement: ψ minus the identity, (d, *shape), in units of length; finite also where it is not known.
        weight: (*shape), how much each cell counts: 0 where ψ is not known.
        lengths: edges of the domain.
    """

    displacement: Tensor
    weight: Tensor
    lengths: tuple[float, ...]
    data_part: ClassVar[float] = 1.0

    @property
    def like(self) -> Tensor:
        return self.weight

    @property
    def weights(self) -> tuple[Tensor, ...]:
        return (self.weight,)

    def reduced(self, factors: Sequence[int]) -> KnownMap:
        """On cells of ``factors`` voxels per axis (which must divide the shape): the weighted mean over them."""
        if all(f == 1 for f in factors):
            return self
        if any(n % f for n, f in zip(self.weight.shape, factors, strict=True)):
            raise ValueError(f"Blocks of {tuple(factors)} voxels do not divide a shape of {tuple(self.weight.shape)}.")
        pool = F.avg_pool3d if self.weight.ndim == 3 else F.avg_pool2d
        sums = pool(torch.cat([self.displacement * self.weight, self.weight[None]])[None], tuple(factors))[0]
        return KnownMap(sums[:-1] / sums[-1:].clamp(min=torch.finfo(sums.dtype).tiny), sums[-1], self.lengths)

    def sides(self, objective: Objective, velocity: Tensor) -> list[Side]:
        return [_MapSide(objective, self)]


class _MapSide:
    """See Side: the map from fixed to moving beside the known one."""

    direction = "fixed_to_moving"
    weight, steers, square = 1.0, False, True

    def __init__(self, objective: Objective, known: KnownMap):
        like, self.cells = known.weight, objective.cells
        self.displacement, self.share = known.displacement, known.weight / known.weight.sum()
        self.covered = float(known.weight.sum()) / math.prod(self.cells.shape)
        self.upsample = Upsampler(objective.flow.lattice, self.cells, like.dtype, like.device)

    def _mean(self, left: Tensor) -> Tensor:
        return (self.share * left.square().sum(0)).sum()

    def at_rest(self) -> Tensor:
        return self._mean(self.displacement)

    def __call__(self, displacement: Tensor) -> tuple[Tensor, Displaced]:
        return self._mean(self.upsample(displacement) - self.displacement), Displaced(displacement.detach())

    def curvature(self, sight: Displaced) -> Tensor:
        none = torch.zeros_like(self.share)
        return torch.stack([2 * self.share if i == j else none for i, j in upper(len(self.displacement))])
