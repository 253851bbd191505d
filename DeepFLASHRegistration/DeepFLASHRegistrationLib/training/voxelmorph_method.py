# SPDX-License-Identifier: Apache-2.0
"""VoxelMorph as a method that is trained on packs; see learned.py.

    D + λ ‖∇v‖² + w · (1 − soft Dice)

The first two terms are those of voxelmorph_loss.py. Beyond the edge at which an image was cut out of a scan nothing is
compared: such an edge is nothing to move onto another.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ..geodesics.band import Lattice
from ..geodesics.batched import BatchedSampler
from ..learning.blocks import mean_pooled
from ..learning.pair_terms import swapped
from ..learning.voxelmorph import SIZES, VoxelMorphNet, monai_or_say
from ..learning.voxelmorph_loss import VoxelMorphLoss
from ..problem.parameters import Parameters
from ..support.errors import InputError
from .examples import Images
from .learned import check_labels, registrations
from .pack import Pack
from .pair_loss import overlap_lost, shares

if TYPE_CHECKING:
    from .train_on_packs import PackOptions

_LABEL_STRIDE = 2


@dataclass(frozen=True)
class VoxelMorphMethod:
    """A method of learned.py.

    Attributes:
        size: of the network.
        similarity: lncc or mse.
        label_weight: of the overlap of labels in the loss; 0: images alone.
    """

    size: str = "small"
    similarity: str = "lncc"
    label_weight: float = 3.0

    kind = "voxelmorph"

    def identity(self) -> dict[str, Any]:
        return {"kind": self.kind, "size": self.size, "similarity": self.similarity, "label_weight": self.label_weight}

    def check(self, packs: Sequence[Pack]) -> None:
        check_labels(packs, self.label_weight)

    def learner(self, shape: tuple[int, ...], device: str | torch.device) -> _Learner:
        return _Learner(self, shape, device)

    def described(self, packs: Sequence[Pack]) -> tuple[dict[str, Any], Parameters]:
        channels, last, block = SIZES[self.size]
        network = {"channels": list(channels), "last": list(last), "block": block, "similarity": self.similarity}
        return {**network, "refinement": {"resolutions": [1], "bands": [47]}}, registrations(packs)


def method_of(options: PackOptions, momenta: None = None) -> VoxelMorphMethod:
    """As the options say; InputError if MONAI is missing."""
    try:
        monai_or_say()
    except ImportError as error:
        raise InputError(str(error)) from error
    return VoxelMorphMethod(options.size, options.similarity, options.label_weight)


class _Learner:
    parts = ("dissimilarity", "regularization", "overlap lost")

    def __init__(self, method: VoxelMorphMethod, shape: tuple[int, ...], device: str | torch.device):
        self.network = VoxelMorphNet(len(shape), *SIZES[method.size]).to(device)
        # Random networks are near the identity from the first update on.
        with torch.no_grad():
            for parameter in list(self.network.parameters())[-2:]:
                parameter.mul_(0.1)
        self.method = method
        self.voxelmorph_loss = VoxelMorphLoss(method.similarity, shape, device)
        coarse = Lattice.cells(tuple(n // _LABEL_STRIDE for n in shape), tuple(map(float, shape)))
        self.sample_shares = BatchedSampler(coarse, coarse, torch.float32, device)

    def loss(self, images: Images) -> tuple[Tensor, Tensor]:
        terms = self.voxelmorph_loss(self.network, images.seen, images.clean, images.known)
        within = shares(images, _LABEL_STRIDE)
        coarse = mean_pooled(terms.displacements, _LABEL_STRIDE)
        lost = overlap_lost(self.sample_shares(swapped(within), coarse), within, images.weights)
        parts = torch.stack([terms.dissimilarity, terms.regularization, lost])
        return terms.total + self.method.label_weight * lost, parts.detach()[None]

    def displacement(self, fixed: Tensor, moving: Tensor) -> Tensor:
        return self.network.displacement(self.network.velocity(fixed, moving))
