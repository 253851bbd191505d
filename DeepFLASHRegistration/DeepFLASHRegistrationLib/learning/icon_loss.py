# SPDX-License-Identifier: Apache-2.0
"""What ICON, GradICON, ConstrICON, CARL and NePhi minimize, over many pairs or over one:

    2 D + λ R

D: one minus the local correlation in Gaussian windows, of both directions the mean. R: of ICON the inverse consistency,
of GradICON, CARL and NePhi its gradient (both near some of the voxels, at random: the mean has the same expectation),
of ConstrICON the velocities' diffusion, of which inverse consistency needs none. CARL's attention also learns that an
image lies where it lies: with random weights it leads anywhere, and what the loss says of that is little. That is no
part of what was published, where it had 50,000 updates.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ..geodesics.band import Lattice
from ..geodesics.batched import BatchedSampler
from .coded_field import CodedField
from .gaussian_correlation import GaussianCorrelation
from .icon import IconNet, Transform, velocities
from .inverse_consistency import diffusion, inconsistency, inconsistency_gradient, jittered
from .pair_terms import PairTerms, known_to_both, swapped

# λ: GradICON's and CARL's are the published ones. ConstrICON's of knees and brains, 5, holds crops of hippocampi still.
_WEIGHT = {"icon": 1000.0, "gradicon": 1.5, "constricon": 0.5, "carl": 1.5, "nephi-codes": 1.0}
_THEMSELVES = 1.0  # of the square of what CARL's attention moves an image against itself by, in its voxels
# Voxels along each axis for each point at which maps are composed: two as later trainings of GradICON have it; NePhi,
# whose fields are asked anew at each, more; ICON, whose mean a few points leave noisy, one.
_POINT_STRIDE = {"icon": 1, "gradicon": 2, "carl": 2, "nephi-codes": 4}


class IconLoss:
    """See above.

    Args:
        family: one of icon.FAMILY, carl or nephi-codes.
        shape: of the images.
        squared: whether the correlation is squared, for images whose contrasts differ (multiGradICON).
    """

    def __init__(self, family: str, shape: Sequence[int], device: str | torch.device, squared: bool = False):
        self.family = family
        self.correlation = GaussianCorrelation(shape, squared=squared).to(device)
        cells = Lattice.cells(tuple(shape), tuple(map(float, shape)))
        self.sample = BatchedSampler(cells, cells, torch.float32, device)

    def __call__(
        self, network: IconNet | CodedField, seen: Tensor, clean: Tensor, known: Tensor | None = None
    ) -> PairTerms:
        """Images (n, *shape) as the network sees them, those by which its maps are judged, and where that may be done
        (see `known_to_both`)."""
        # Of each pair one image is A, the other B; both maps come out.
        themselves: list[Tensor] = []
        forth, back = network.transforms(seen[::2], seen[1::2], themselves)
        u = torch.stack([network.displacement(phi) for phi in (forth, back)], 1).flatten(0, 1)
        warped = self.sample(swapped(clean)[:, None], u)[:, 0]
        dissimilarity = self.correlation(warped, clean, known_to_both(self.sample, known, u))
        regularization = _WEIGHT[self.family] * self._irregular(network, forth, back)
        for moved in themselves:
            regularization = regularization + _THEMSELVES * moved.square().mean()
        return PairTerms(dissimilarity, regularization, 2 * dissimilarity + regularization, u)

    def _irregular(self, network: IconNet | CodedField, forth: Transform, back: Transform) -> Tensor:
        if self.family == "constricon":
            return torch.stack([diffusion(v) for v in velocities(forth)]).sum()
        irregular = inconsistency if self.family == "icon" else inconsistency_gradient
        return irregular(forth, back, jittered(network.identity, _POINT_STRIDE[self.family]))
