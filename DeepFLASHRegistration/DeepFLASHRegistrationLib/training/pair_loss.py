# SPDX-License-Identifier: Apache-2.0
"""What losses of pairs share that learn from labels: their overlap."""

from __future__ import annotations

import torch
from torch import Tensor

from ..learning.blocks import mean_pooled
from .examples import Images


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
