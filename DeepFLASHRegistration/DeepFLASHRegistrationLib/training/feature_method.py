# SPDX-License-Identifier: Apache-2.0
"""The feature net as a method that is trained on packs; see learned.py."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ..learning.feature_net import SIZES, Design, Domain, FeatureNet
from ..problem.parameters import Parameters
from ..support.errors import InputError
from .examples import Images, window
from .feature_loss import PARTS, FeatureLoss
from .learned import check_labels, registrations
from .pack import Pack

if TYPE_CHECKING:
    from .train_on_packs import PackOptions


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

    kind = "feature-net"

    def identity(self) -> dict[str, Any]:
        return {"kind": self.kind, "design": self.design.to_dict(), "label_weight": self.label_weight}

    def check(self, packs: Sequence[Pack]) -> None:
        check_labels(packs, self.label_weight)
        if len(packs[0].shape) != 3:
            raise InputError(
                f"{packs[0].name}: is a pack of two dimensions; the network in one pass has three. Train another on "
                "it (--method voxelmorph, quicksilver, icon, gradicon or constricon), or one of another kind on the "
                "folder of its images (deepflash train FOLDER)."
            )

    def learner(self, shape: tuple[int, ...], device: str | torch.device) -> _Learner:
        return _Learner(self, shape, device)

    def described(self, packs: Sequence[Pack]) -> tuple[dict[str, Any], Parameters]:
        design = self.design
        band = max(Domain(design, packs[0].shape).stages[-1].band.modes)
        # Predictions are judged at half resolution, by the energy that they were trained to lower. All is stated that
        # the defaults might change.
        changes = {"resolutions": (2,), "bands": (band,), "iterations": (1,)}
        parameters = registrations(packs, **changes, alpha=design.alpha, power=design.power)
        return {"design": design.to_dict(), "refinement": {"resolutions": [1], "bands": [band]}}, parameters


def method_of(options: PackOptions, momenta: None = None) -> FeatureMethod:
    """As the options say."""
    return FeatureMethod(SIZES[options.size], options.label_weight, options.mixed_precision)


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
