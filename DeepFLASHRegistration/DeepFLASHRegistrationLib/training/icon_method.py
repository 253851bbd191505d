# SPDX-License-Identifier: Apache-2.0
"""ICON, GradICON, ConstrICON, CARL and NePhi as methods that are trained on packs; see learned.py.

    2 D + λ R + 2 w · (1 − soft Dice)

The first two terms are those of icon_loss.py.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ..geodesics.band import Lattice
from ..geodesics.batched import BatchedSampler
from ..learning import coded_field
from ..learning.blocks import mean_pooled
from ..learning.coded_field import CodedDesign, CodedField
from ..learning.icon import SIZES, Design, IconNet, icon_or_say
from ..learning.icon_loss import IconLoss
from ..learning.pair_terms import swapped
from ..problem.parameters import Parameters
from ..support.errors import InputError
from .examples import Images
from .learned import check_labels, registrations
from .pack import Pack
from .pair_loss import overlap_lost, shares

if TYPE_CHECKING:
    from .train_on_packs import PackOptions

CODED = "nephi-codes"
_LABEL_STRIDE = 2


@dataclass(frozen=True)
class IconMethod:
    """A method of learned.py.

    Attributes:
        kind: icon, gradicon, constricon, carl or nephi-codes.
        size: of the network.
        label_weight: of the overlap of labels in the loss; 0: images alone.
    """

    kind: str
    size: str = "small"
    label_weight: float = 3.0

    @property
    def design(self) -> Design | CodedDesign:
        """Of the network."""
        return (coded_field.SIZES if self.kind == CODED else SIZES[self.kind])[self.size]

    def identity(self) -> dict[str, Any]:
        return {"kind": self.kind, "size": self.size, "label_weight": self.label_weight}

    def check(self, packs: Sequence[Pack]) -> None:
        check_labels(packs, self.label_weight)
        shape, least = packs[0].shape, self.design.least
        if min(shape) <= least:
            raise InputError(
                f"{packs[0].name}: has {' x '.join(map(str, shape))} voxels. The network of {self.kind} of the size "
                f"{self.size} needs more than {least} along each axis. Make a pack with a larger --shape"
                + (", or train the size small." if self.size != "small" else ".")
            )

    def learner(self, shape: tuple[int, ...], device: str | torch.device) -> _Learner:
        return _Learner(self, shape, device)

    def described(self, packs: Sequence[Pack]) -> tuple[dict[str, Any], Parameters]:
        network = {**self.design.values(), "shape": list(packs[0].shape)}
        return {**network, "refinement": {"resolutions": [1], "bands": [47]}}, registrations(packs)


def method_of(options: PackOptions, momenta: None = None) -> IconMethod:
    """As the options say; InputError if a package that it needs is missing."""
    try:
        if options.method != CODED:
            icon_or_say()
    except ImportError as error:
        raise InputError(str(error)) from error
    return IconMethod(options.method, options.size, options.label_weight)


class _Learner:
    parts = ("dissimilarity", "regularization", "overlap lost")

    def __init__(self, method: IconMethod, shape: tuple[int, ...], device: str | torch.device):
        self.method = method
        design = method.design
        if method.kind == CODED:
            self.network = CodedField(len(shape), design, shape).to(device)
        else:
            self.network = IconNet(len(shape), design, shape, method.kind == "constricon").to(device)
        self.icon_loss = IconLoss(method.kind, shape, device)
        coarse = Lattice.cells(tuple(n // _LABEL_STRIDE for n in shape), tuple(map(float, shape)))
        self.sample_shares = BatchedSampler(coarse, coarse, torch.float32, device)

    def loss(self, images: Images) -> tuple[Tensor, Tensor]:
        terms = self.icon_loss(self.network, images.seen, images.clean, images.known)
        within = shares(images, _LABEL_STRIDE)
        coarse = mean_pooled(terms.displacements, _LABEL_STRIDE)
        lost = overlap_lost(self.sample_shares(swapped(within), coarse), within, images.weights)
        parts = torch.stack([terms.dissimilarity, terms.regularization, lost])
        return terms.total + 2 * self.method.label_weight * lost, parts.detach()[None]

    def displacement(self, fixed: Tensor, moving: Tensor) -> Tensor:
        return self.network.fixed_to_moving(fixed, moving)
