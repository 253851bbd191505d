# SPDX-License-Identifier: Apache-2.0
"""What losses of registered pairs are made of, whoever minimizes them."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from ..geodesics.batched import BatchedSampler

_WHOLLY = 0.999  # rounding apart


class PairTerms(NamedTuple):
    """Of images of which 2k and 2k + 1 are a pair: how unlike they are once registered, and how irregular the maps are,
    weighted; both together as they are minimized, with whatever factors; and the displacements from each image to its
    partner in voxels, (n, d, *shape)."""

    dissimilarity: Tensor
    regularization: Tensor
    total: Tensor
    displacements: Tensor


def swapped(x: Tensor) -> Tensor:
    """The partners: 2k and 2k + 1 exchanged."""
    return x.unflatten(0, (-1, 2)).flip(1).flatten(0, 1)


def known_to_both(sample: BatchedSampler, known: Tensor | None, displacements: Tensor) -> Tensor | None:
    """1 where an image and its partner, carried onto it, are both known, else 0: (n, *shape). No gradient.

    Of the partner all voxels must be known that a value is interpolated from.

    Args:
        sample: of images of this shape.
        known: where each image knows what it shows, a boolean (n, *shape); None, and so the answer, if everywhere.
        displacements: from each image to its partner, as in `PairTerms`.
    """
    if known is None:
        return None
    with torch.no_grad():
        there = sample(swapped(known).float()[:, None], displacements)[:, 0]
        return (known & (there > _WHOLLY)).float()
