# SPDX-License-Identifier: Apache-2.0
"""The feature net as a method that is trained on packs; see learned.py."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..learning.feature_net import Design, Domain, FeatureNet
from ..support.errors import InputError
from .examples import Images, window
from .feature_loss import PARTS, FeatureLoss
from .pack import Pack


@dataclass(frozen=True)
class FeatureMethod:
    """A method of learned.py.

    Attributes:
        design: of the network.
        label_weight: of the overlap of labels in the loss; 0: images alone.
        mixed_precision: convolutions in bfloat16, on CUDA only.
    """

    design: Design
    label_weight: float = 3.0
    mixed_precision: bool = True

    def identity(self) -> dict[str, Any]:
        return {"kind": "feature-net", "design": self.design.to_dict(), "label_weight": self.label_weight}

    def check(self, packs: Sequence[Pack]) -> None:
        if self.label_weight and all(pack.labels is None for pack in packs):
            raise InputError(
                f"None of {', '.join(pack.name for pack in packs)} has labels, whose overlap this training judges. Add "
                "a pack with labels, or train by images alone (--label-weight 0)."
            )

    def learner(self, shape: tuple[int, ...], device: str | torch.device) -> _Learner:
        return _Learner(self, shape, device)


class _Learner:
    parts = PARTS

    def __init__(self, method: FeatureMethod, shape: tuple[int, ...], device: str | torch.device):
        self.network = FeatureNet(method.design).to(device)
        self.network.mixed_precision = method.mixed_precision
        self.domain = Domain(method.design, shape, device=device, window=window)
        self._loss = FeatureLoss(self.network, self.domain, device, method.label_weight)

    def loss(self, images: Images) -> tuple[Tensor, Tensor]:
        return self._loss(images)

    def displacement(self, fixed: Tensor, moving: Tensor) -> Tensor:
        forth, _ = self.network.maps(self.network(fixed, moving, self.domain))
        return self.domain.whole(forth)
