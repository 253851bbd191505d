# SPDX-License-Identifier: Apache-2.0
"""What VoxelMorph minimizes, over many pairs or over one:

    D + λ ‖∇v‖²

D: one minus the squared local correlation in windows of 9 voxels, with λ 1; or the mean squared difference of
intensities of 0..1, with λ 0.01 (Balakrishnan et al., IEEE TMI 2019).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from ..geodesics.band import Lattice
from ..geodesics.batched import BatchedSampler
from ..geodesics.similarities import LocalCorrelation
from .pair_terms import PairTerms, known_to_both, swapped
from .voxelmorph import VoxelMorphNet

_RADIUS = 4.0  # of the windows
_SMOOTHNESS = {"lncc": 1.0, "mse": 0.01}
_DARK = 0.02


class VoxelMorphLoss:
    """See above.

    Args:
        similarity: lncc or mse.
        shape: of the images.
    """

    def __init__(self, similarity: str, shape: Sequence[int], device: str | torch.device):
        if similarity not in _SMOOTHNESS:
            raise ValueError(f"{similarity!r} is no similarity of VoxelMorph's; {' and '.join(_SMOOTHNESS)} are")
        self.similarity = similarity
        cells = Lattice.cells(tuple(shape), tuple(map(float, shape)))
        self.sample = BatchedSampler(cells, cells, torch.float32, device)

    def __call__(self, network: VoxelMorphNet, seen: Tensor, clean: Tensor, known: Tensor | None = None) -> PairTerms:
        """Images (n, *shape) as the network sees them, those by which its maps are judged, and where that may be done
        (see `known_to_both`)."""
        v = network.velocity(seen, swapped(seen))
        u = network.displacement(v)
        warped = self.sample(swapped(clean)[:, None], u)[:, 0]
        grown = F.max_pool3d if v.ndim == 5 else F.max_pool2d
        mask = grown((clean > _DARK).float()[:, None], 3, 1, 1)[:, 0]
        support = known_to_both(self.sample, known, u)
        if support is not None:
            mask = mask * support
        if self.similarity == "lncc":
            dissimilarity = LocalCorrelation(clean, mask, (_RADIUS,) * (v.ndim - 2), support=support)(warped)
        else:
            dissimilarity = (mask * (warped - clean).square()).sum() / mask.sum().clamp(min=1.0)
        slopes = [torch.diff(v, dim=axis).square().mean() for axis in range(2, v.ndim)]
        regularization = _SMOOTHNESS[self.similarity] * torch.stack(slopes).mean()
        return PairTerms(dissimilarity, regularization, dissimilarity + regularization, u)
