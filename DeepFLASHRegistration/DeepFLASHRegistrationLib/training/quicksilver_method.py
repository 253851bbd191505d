# SPDX-License-Identifier: Apache-2.0
"""Quicksilver as a method that is trained on packs, by LDDMM's momenta; see learned.py.

The loss is the squared difference |m₀ − prediction|² of patches at random places, over what predicting nothing would
miss. Yang et al. sum the absolute differences; of those the median, which is near zero where momenta are uncertain, is
the best guess, and that is learned first: after 75 updates 1.00 of them are left where of the squares 0.97 are.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ..geodesics.band import Lattice
from ..learning.quicksilver import PATCH, SIZES, QuicksilverNet
from ..methods.prediction_quicksilver import shot_momentum
from ..problem.deformation import border_window
from ..problem.parameters import Parameters
from ..support.errors import InputError
from .examples import Images
from .learned import MARGIN
from .momenta import Momenta
from .pack import Pack

if TYPE_CHECKING:
    from .train_on_packs import PackOptions

_PATCHES = 24  # of a pair, per update


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
        network = {"features": list(SIZES[self.size]), "scale": self.momenta.scale, "dropout": self.dropout}
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
        self.network = QuicksilverNet(SIZES[method.size], method.momenta.scale, method.dropout).to(device)
        self.parameters, lengths = method.momenta.parameters, tuple(map(float, shape))
        self.cells = Lattice.cells(shape, lengths)
        self.window = border_window(self.cells, lengths, MARGIN).to(device)
        self.sizes = torch.tensor(shape, device=device)
        offsets = [torch.arange(PATCH) * step for step in (shape[1] * shape[2], shape[2], 1)]
        self.offsets = (offsets[0][:, None, None] + offsets[1][:, None] + offsets[2]).flatten().to(device)
        self.steps = torch.tensor([shape[1] * shape[2], shape[2], 1], device=device)
        self.last = torch.tensor([n - PATCH for n in shape], device=device)

    def loss(self, images: Images) -> tuple[Tensor, Tensor]:
        fixed, moving, momenta = images.seen[::2], images.seen[1::2], images.momenta
        n = len(fixed)
        index = ((self._corners(momenta) * self.steps).sum(-1, keepdim=True) + self.offsets).flatten(1)
        patches = [x.flatten(1).gather(1, index).view(-1, *[PATCH] * 3) for x in (fixed, moving)]
        known = momenta.float().flatten(2).gather(2, index[:, None].expand(-1, 3, -1))
        known = known.view(n, 3, _PATCHES, -1).transpose(1, 2).reshape(-1, 3, *[PATCH] * 3) / self.network.scale
        missed = (self.network(*patches) - known).square().sum() / known.square().sum().clamp(min=1e-6)
        return missed, missed.detach().view(1, 1)

    @torch.no_grad()
    def _corners(self, momenta: Tensor) -> Tensor:
        """Of patches at random places (n, patches, 3), more of them where there is more momentum."""
        share = momenta.float().norm(dim=1).flatten(1).cumsum(1)
        drawn = torch.rand(len(share), _PATCHES, device=share.device) * share[:, -1:]
        voxels = torch.searchsorted(share, drawn).clamp(max=share.shape[1] - 1)
        at = (voxels[..., None] // self.steps) % self.sizes
        beside = torch.randint(PATCH, (*voxels.shape, 3), device=share.device)
        return torch.minimum((at - beside).clamp(min=0), self.last)

    @torch.no_grad()
    def displacement(self, fixed: Tensor, moving: Tensor) -> Tensor:
        found = []
        for one, two in zip(fixed, moving, strict=True):
            *_, m0 = self.network.momentum(one, two)
            found.append(shot_momentum(m0, self.cells, self.parameters, self.window)[0])
        return torch.stack(found)
