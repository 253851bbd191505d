# SPDX-License-Identifier: Apache-2.0
"""What losses of registered pairs are made of, whoever minimizes them."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor


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
