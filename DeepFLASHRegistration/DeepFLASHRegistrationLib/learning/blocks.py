# SPDX-License-Identifier: Apache-2.0
"""Blocks of voxels: their means; as channels, resolution given for width; and back. In 2-D and 3-D."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

# By dimensions, as the names of F.interpolate.
LINEAR = {2: "bilinear", 3: "trilinear"}


def to_blocks(images: Tensor, size: int) -> Tensor:
    """(n, c, *shape) -> (n, c · size^d, *shape / size)."""
    for axis in range(images.ndim - 2):
        images = images.unflatten(2 + axis, (-1, size)).movedim(3 + axis, 2).flatten(1, 2)
    return images


def from_blocks(channels: Tensor, size: int) -> Tensor:
    """Inverse of `to_blocks`."""
    for axis in reversed(range(channels.ndim - 2)):
        channels = channels.unflatten(1, (-1, size)).movedim(2, 3 + axis).flatten(2 + axis, 3 + axis)
    return channels


def mean_pooled(images: Tensor, size: int) -> Tensor:
    """(n, c, *shape) -> means of blocks of so many voxels along each axis, (n, c, *shape / size)."""
    return (F.avg_pool3d if images.ndim == 5 else F.avg_pool2d)(images, size)
