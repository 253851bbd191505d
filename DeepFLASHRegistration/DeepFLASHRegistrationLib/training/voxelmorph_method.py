# SPDX-License-Identifier: Apache-2.0
"""VoxelMorph as a method that is trained on packs; see learned.py.

    D + λ ‖∇v‖² + w · (1 − soft Dice)

D: one minus the squared local correlation in windows of 9 voxels, with λ 1; or the mean squared difference of
intensities of 0..1, with λ 0.01 (Balakrishnan et al., IEEE TMI 2019). Beyond the edge at which an image was cut out
of a scan nothing is compared: such an edge is nothing to move onto another.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ..geodesics.band import Lattice
from ..geodesics.batched import BatchedSampler
from ..geodesics.similarities import LocalCorrelation
from ..learning.blocks import mean_pooled
from ..learning.voxelmorph import SIZES, VoxelMorphNet, monai_or_say
from ..problem.parameters import Parameters
from ..support.errors import InputError
from .examples import Images
from .learned import check_labels, registrations
from .pack import Pack
from .pair_loss import known_to_both, overlap_lost, shares, swapped

if TYPE_CHECKING:
    from .train_on_packs import PackOptions

_RADIUS = 4.0  # of the windows
_SMOOTHNESS = {"lncc": 1.0, "mse": 0.01}
_LABEL_STRIDE = 2
_DARK = 0.02


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
        network = {"channels": list(channels), "last": list(last), "block": block}
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
        self.widened = F.max_pool3d if len(shape) == 3 else F.max_pool2d
        cells = Lattice.cells(shape, tuple(map(float, shape)))
        coarse = Lattice.cells(tuple(n // _LABEL_STRIDE for n in shape), tuple(map(float, shape)))
        self.sample = BatchedSampler(cells, cells, torch.float32, device)
        self.sample_shares = BatchedSampler(coarse, coarse, torch.float32, device)

    def loss(self, images: Images) -> tuple[Tensor, Tensor]:
        v = self.network.velocity(images.seen, swapped(images.seen))
        u = self.network.displacement(v)
        warped = self.sample(swapped(images.clean)[:, None], u)[:, 0]
        support = known_to_both(self.sample, images, u)
        mask = support * self.widened((images.clean > _DARK).float()[:, None], 3, 1, 1)[:, 0]
        if self.method.similarity == "lncc":
            radius = (_RADIUS,) * (v.ndim - 2)
            dissimilarity = LocalCorrelation(images.clean, mask, radius, support=support)(warped)
        else:
            dissimilarity = (mask * (warped - images.clean).square()).sum() / mask.sum().clamp(min=1.0)
        slopes = [torch.diff(v, dim=axis).square().mean() for axis in range(2, v.ndim)]
        regularization = _SMOOTHNESS[self.method.similarity] * torch.stack(slopes).mean()
        within = shares(images, _LABEL_STRIDE)
        lost = overlap_lost(self.sample_shares(swapped(within), mean_pooled(u, _LABEL_STRIDE)), within, images.weights)
        parts = torch.stack([dissimilarity, regularization, lost])
        return dissimilarity + regularization + self.method.label_weight * lost, parts.detach()[None]

    def displacement(self, fixed: Tensor, moving: Tensor) -> Tensor:
        return self.network.displacement(self.network.velocity(fixed, moving))
