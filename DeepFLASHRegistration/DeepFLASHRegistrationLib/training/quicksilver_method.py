# SPDX-License-Identifier: Apache-2.0
"""Quicksilver as a method that is trained on packs, by LDDMM's momenta; see learned.py.

The loss is how far from the known geodesic the predicted one starts, ⟨m₀ − m, K(m₀ − m)⟩ of the momenta of whole
images, over what predicting nothing would miss. Yang et al. sum the absolute differences of patches, in which what K
smooths away, and with it most of what two momenta differ by, counts as much as what moves the images.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ..geodesics.band import Lattice, Metric
from ..geodesics.full_space import FullShooting
from ..learning.quicksilver import PATCH, SIZES, QuicksilverNet, Tiling, seen
from ..methods.prediction_quicksilver import CORRECTIONS, corrected_maps
from ..problem.deformation import border_window
from ..problem.parameters import Parameters
from ..support.errors import InputError
from .examples import Images
from .learned import MARGIN
from .momenta import Momenta
from .pack import Pack

if TYPE_CHECKING:
    from .train_on_packs import PackOptions


@dataclass(frozen=True, eq=False)
class QuicksilverMethod:
    """A method of learned.py.

    Attributes:
        momenta: to learn from.
        size: of the network.
        dropout: share of the features that is left out; more than 0 makes the probabilistic form.
    """

    momenta: Momenta
    size: str = "small"
    dropout: float = 0.0

    kind = "quicksilver"

    def identity(self) -> dict[str, Any]:
        return {
            "kind": self.kind,
            "size": self.size,
            "dropout": self.dropout,
            "momenta": len(self.momenta.pairs),
            "parameters": self.momenta.parameters.to_dict(),
        }

    def check(self, packs: Sequence[Pack]) -> None:
        if any(n < PATCH for n in packs[0].shape):
            raise InputError(f"{packs[0].name}: is smaller than a patch of {PATCH} voxels. Pack it on smaller voxels.")

    def learner(self, shape: tuple[int, ...], device: str | torch.device) -> _Learner:
        return _Learner(self, shape, device)

    def described(self, packs: Sequence[Pack]) -> tuple[dict[str, Any], Parameters]:
        features, block = SIZES[self.size]
        network = {"features": list(features), "block": block, "scale": self.momenta.scale, "dropout": self.dropout}
        network["corrections"] = CORRECTIONS
        return {**network, "refinement": {"resolutions": [1], "bands": [47]}}, self.momenta.parameters


def method_of(options: PackOptions, momenta: Momenta | None) -> QuicksilverMethod:
    """As the options say."""
    if momenta is None:
        raise InputError(
            "Quicksilver learns LDDMM's momenta: find them first (deepflash teach PACK -o MOMENTA --method lddmm) and "
            "name them (--labels MOMENTA)."
        )
    return QuicksilverMethod(momenta, options.size, options.dropout)


class _Learner:
    parts = ("momentum missed",)

    def __init__(self, method: QuicksilverMethod, shape: tuple[int, ...], device: str | torch.device):
        self.network = QuicksilverNet(len(shape), *SIZES[method.size], method.momenta.scale, method.dropout).to(device)
        self.parameters, self.shape, lengths = method.momenta.parameters, shape, tuple(map(float, shape))
        self.cells = Lattice.cells(shape, lengths)
        self.window = border_window(self.cells, lengths, MARGIN).to(device)
        metric = Metric(self.parameters.alpha, self.parameters.power, self.parameters.gamma)
        self.shooting = FullShooting(self.cells, metric, torch.float32, device)

    def loss(self, images: Images) -> tuple[Tensor, Tensor]:
        missed = [self._missed(*pair) for pair in zip(images.seen[::2], images.seen[1::2], images.momenta.float())]
        missed = torch.stack(missed).mean()
        return missed, missed.detach().view(1, 1)

    def _missed(self, fixed: Tensor, moving: Tensor, known: Tensor) -> Tensor:
        tiling = Tiling(self.shape, fixed.device, shifted=True)
        answer = tiling.joined(self.network(tiling.cut(seen(fixed, moving))))
        known = known / self.network.scale
        apart, whole = (self.shooting.of_momentum(m).square().sum() for m in (known - answer, known))
        return apart / whole

    @torch.no_grad()
    def displacement(self, fixed: Tensor, moving: Tensor) -> Tensor:
        found = []
        for pair in zip(fixed, moving, strict=True):
            *_, (forth, _) = corrected_maps(self.network, pair, self.cells, self.parameters, self.window, CORRECTIONS)
            found.append(forth)
        return torch.stack(found)
