# SPDX-License-Identifier: Apache-2.0
"""Blocks of voxels as channels, and channels as blocks of voxels: resolution given for width, and back."""

from __future__ import annotations

from torch import Tensor


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
