# SPDX-License-Identifier: Apache-2.0
"""ICON, GradICON, ConstrICON and CARL as methods that are trained on packs; see learned.py.

    2 D + λ R + 2 w · (1 − soft Dice)

D: one minus the local correlation in Gaussian windows, of both directions the mean. R: of ICON the inverse consistency,
of GradICON and CARL its gradient (on every second voxel along each axis, as their later trainings do), of ConstrICON
the velocities' diffusion, of which inverse consistency needs none. CARL's attention also learns that an image lies
where it lies: with random weights it leads anywhere, and what the loss says of that is little. That is no part of what
was published, where it had 50,000 updates.
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
from ..learning.gaussian_correlation import GaussianCorrelation
from ..learning.icon import SIZES, IconNet, Transform, icon_or_say, velocities
from ..learning.inverse_consistency import diffusion, inconsistency, inconsistency_gradient, jittered
from ..problem.parameters import Parameters
from ..support.errors import InputError
from .examples import Images
from .learned import check_labels, registrations
from .pack import Pack
from .pair_loss import overlap_lost, shares, swapped

if TYPE_CHECKING:
    from .train_on_packs import PackOptions

# λ: but ICON's the published ones (ConstrICON's of knees and brains).
_WEIGHT = {"icon": 1000.0, "gradicon": 1.5, "constricon": 5.0, "carl": 1.5}
_THEMSELVES = 1.0  # of the square of what CARL's attention moves an image against itself by, in its voxels
_LABEL_STRIDE = 2
_POINT_STRIDE = 2


@dataclass(frozen=True)
class IconMethod:
    """A method of learned.py.

    Attributes:
        kind: icon, gradicon, constricon or carl.
        size: of the network.
        label_weight: of the overlap of labels in the loss; 0: images alone.
    """

    kind: str
    size: str = "small"
    label_weight: float = 3.0

    def identity(self) -> dict[str, Any]:
        return {"kind": self.kind, "size": self.size, "label_weight": self.label_weight}

    def check(self, packs: Sequence[Pack]) -> None:
        check_labels(packs, self.label_weight)
        shape, least = packs[0].shape, SIZES[self.kind][self.size].least
        if min(shape) <= least:
            raise InputError(
                f"{packs[0].name}: has {' x '.join(map(str, shape))} voxels. The network of {self.kind} of the size "
                f"{self.size} needs more than {least} along each axis. Make a pack with a larger --shape"
                + (", or train the size small." if self.size != "small" else ".")
            )

    def learner(self, shape: tuple[int, ...], device: str | torch.device) -> _Learner:
        return _Learner(self, shape, device)

    def described(self, packs: Sequence[Pack]) -> tuple[dict[str, Any], Parameters]:
        network = {**SIZES[self.kind][self.size].values(), "shape": list(packs[0].shape)}
        return {**network, "refinement": {"resolutions": [1], "bands": [47]}}, registrations(packs)


def method_of(options: PackOptions, momenta: None = None) -> IconMethod:
    """As the options say; InputError if the package is missing."""
    try:
        icon_or_say()
    except ImportError as error:
        raise InputError(str(error)) from error
    return IconMethod(options.method, options.size, options.label_weight)


class _Learner:
    parts = ("dissimilarity", "regularization", "overlap lost")

    def __init__(self, method: IconMethod, shape: tuple[int, ...], device: str | torch.device):
        self.method = method
        self.network = IconNet(len(shape), SIZES[method.kind][method.size], shape, method.kind == "constricon")
        self.network.to(device)
        self.correlation = GaussianCorrelation(shape).to(device)
        cells = Lattice.cells(shape, tuple(map(float, shape)))
        coarse = Lattice.cells(tuple(n // _LABEL_STRIDE for n in shape), tuple(map(float, shape)))
        self.sample = BatchedSampler(cells, cells, torch.float32, device)
        self.sample_shares = BatchedSampler(coarse, coarse, torch.float32, device)

    def loss(self, images: Images) -> tuple[Tensor, Tensor]:
        # Of each pair one image is A, the other B; both maps come out.
        themselves: list[Tensor] = []
        forth, back = self.network.transforms(images.seen[::2], images.seen[1::2], themselves)
        u = torch.stack([self.network.displacement(phi) for phi in (forth, back)], 1).flatten(0, 1)
        warped = self.sample(swapped(images.clean)[:, None], u)[:, 0]
        dissimilarity = self.correlation(warped, images.clean)
        regularization = _WEIGHT[self.method.kind] * self._irregular(forth, back)
        for u_itself in themselves:
            regularization = regularization + _THEMSELVES * u_itself.square().mean()
        within = shares(images, _LABEL_STRIDE)
        lost = overlap_lost(self.sample_shares(swapped(within), F.avg_pool3d(u, _LABEL_STRIDE)), within, images.weights)
        parts = torch.stack([dissimilarity, regularization, lost])
        return 2 * dissimilarity + regularization + 2 * self.method.label_weight * lost, parts.detach()[None]

    def _irregular(self, forth: Transform, back: Transform) -> Tensor:
        if self.method.kind == "icon":
            return inconsistency(forth, back, jittered(self.network.identity))
        if self.method.kind == "constricon":
            return torch.stack([diffusion(v) for v in velocities(forth)]).sum()
        return inconsistency_gradient(forth, back, jittered(self.network.identity, _POINT_STRIDE))

    def displacement(self, fixed: Tensor, moving: Tensor) -> Tensor:
        return self.network.fixed_to_moving(fixed, moving)
