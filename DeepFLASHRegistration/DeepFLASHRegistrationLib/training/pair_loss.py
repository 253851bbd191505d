# SPDX-License-Identifier: Apache-2.0
"""What losses of pairs share: partners, where they can be compared, and the overlap of labels."""

from __future__ import annotations

import torch
from torch import Tensor

from ..geodesics.batched import BatchedSampler
from ..learning.blocks import mean_pooled
from .examples import Images

_WHOLLY = 0.999  # rounding apart


def swapped(x: Tensor) -> Tensor:
    """The partners: 2k and 2k + 1 exchanged."""
    return x.unflatten(0, (-1, 2)).flip(1).flatten(0, 1)


def known_to_both(sample: BatchedSampler, images: Images, displacement: Tensor) -> Tensor:
    """1 where an image and its partner, carried onto it, are both known, else 0: (n, *shape). No gradient.

    Of the partner all voxels must be known that a value is interpolated from."""
    with torch.no_grad():
        there = sample(swapped(images.known).float()[:, None], displacement)[:, 0]
        return (images.known & (there > _WHOLLY)).float()


def shares(images: Images, stride: int) -> Tensor:
    """Which part of each cell of so many voxels has each of the labels that count: (n, k, *cells)."""
    kind = torch.bfloat16 if images.labels.is_cuda else torch.float32
    found = [
        mean_pooled((labels[None] == chosen.view(-1, *[1] * labels.ndim)).to(kind)[None], stride)[0]
        for labels, chosen in zip(images.labels, images.chosen, strict=True)
    ]
    return torch.stack(found).float()


def overlap_lost(warped: Tensor, fixed: Tensor, weights: Tensor) -> Tensor:
    """One minus the soft Dice of shares (n, k, *cells), weighted by (n, k); 0 where no label counts."""
    axes = tuple(range(2, warped.ndim))
    both = 2 * (warped * fixed).sum(axes)
    dice = both / (warped.square().sum(axes) + fixed.square().sum(axes) + 1e-3)
    return (weights * (1 - dice)).sum() / weights.sum().clamp(min=1.0) * (weights.sum() > 0)
