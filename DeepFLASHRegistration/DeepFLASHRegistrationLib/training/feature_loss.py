# SPDX-License-Identifier: Apache-2.0
"""What the feature net is trained by: FLASH's energy and the overlap of labels, after each of its heads.

    D + σ²⟨Lv, v⟩/|mask| + w · (1 − soft Dice)

D is one minus the squared local correlation on the head's cells, of the images' clean looks. It is FLASH's energy times
2σ², so that both terms weigh as they do in FLASH.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from ..geodesics.band import Upsampler
from ..geodesics.batched import BatchedSampler
from ..geodesics.similarities import LocalCorrelation
from ..learning.feature_net import Domain, FeatureNet, Step
from ..learning.pair_terms import swapped
from .examples import Images
from .pair_loss import overlap_lost, shares

SIGMA = 0.05
PARTS = ("dissimilarity", "regularization", "overlap lost")
_LABEL_STRIDE = 4  # labels of coarser heads are compared at this part of the resolution
_RADIUS = 2
_DARK = 0.02


class FeatureLoss:
    """The loss of images 2k and 2k + 1 as pairs, in both directions."""

    def __init__(self, network: FeatureNet, domain: Domain, device: str | torch.device, label_weight: float):
        self.network, self.domain, self.label_weight = network, domain, label_weight
        self._finer: dict[tuple[int, int], tuple[Upsampler, BatchedSampler]] = {}
        cells = {head.stride: stage.cells for head, stage in zip(network.design.heads, domain.stages, strict=True)}
        for stride, own in cells.items():
            if stride > _LABEL_STRIDE:
                at = type(own).cells(tuple(n // _LABEL_STRIDE for n in domain.shape), domain.lengths)
                self._finer[stride, _LABEL_STRIDE] = (
                    Upsampler(own, at, torch.float32, device),
                    BatchedSampler(at, at, torch.float32, device),
                )

    def __call__(self, images: Images) -> tuple[Tensor, Tensor]:
        """The loss, and (heads, 3) its parts: D, regularization, 1 − Dice."""
        features = self.network.features(images.seen)
        strides = {head.stride for head in self.network.design.heads}
        clean = {s: F.avg_pool3d(images.clean[:, None], s)[:, 0] for s in strides}
        within = {s: shares(images, s) for s in {min(s, _LABEL_STRIDE) for s in strides}}
        terms = {s: _similarity(clean[s]) for s in strides}
        parts = []
        for step in self.network.unroll(features, [swapped(x) for x in features], self.domain):
            stride = self.network.design.heads[step.number].stride
            parts.append(
                torch.stack(
                    [
                        self._dissimilarity(step, terms[stride], swapped(clean[stride])),
                        _regularization(step, terms[stride]),
                        self._overlap(step, stride, within[min(stride, _LABEL_STRIDE)], images.weights),
                    ]
                )
            )
        parts = torch.stack(parts)
        return (parts[:, 0] + parts[:, 1] + self.label_weight * parts[:, 2]).sum(), parts.detach()

    def _dissimilarity(self, step: Step, term: LocalCorrelation, moving: Tensor) -> Tensor:
        return term(step.stage.sample(moving[:, None], step.displacement)[:, 0])

    def _overlap(self, step: Step, stride: int, there: Tensor, weights: Tensor) -> Tensor:
        u, sample = step.displacement, step.stage.sample
        if stride > _LABEL_STRIDE:
            upsample, sample = self._finer[stride, _LABEL_STRIDE]
            u = upsample(u)
        return overlap_lost(sample(swapped(there), u), there, weights)


def _similarity(fixed: Tensor) -> LocalCorrelation:
    mask = F.max_pool3d((fixed > _DARK).float()[:, None], 3, 1, 1)[:, 0]
    return LocalCorrelation(fixed, mask, (_RADIUS,) * 3)


def _regularization(step: Step, term: LocalCorrelation) -> Tensor:
    # The weights are mask / sum(mask): their largest is one over the voxels of all masks together.
    covered = 1 / (term.weight.amax() * term.weight.numel())
    return SIGMA**2 * step.stage.shooting.energy(step.velocity).mean() / covered.clamp(min=1e-3)
