# SPDX-License-Identifier: Apache-2.0
"""Attention to coordinates, the first step of CARL (Greer et al., CVPR 2025): each voxel of the fixed image looks for
those of the moving image that have its features, and answers with the mean of where they lie.

Nothing of it knows where an image lies: both moved by whole voxels, one otherwise than the other, the answers move
along ([W, U] equivariance), as far as the border is not seen. The products of the features of all pairs of voxels are
never laid out at once, but by torch's fused attention, whose memory grows with the number of voxels and not with its
square.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

_DILATIONS = (1, 2, 4)  # of the convolutions of a block; as published, like the number of blocks
_BLOCKS = 3
_GUARD = 1e-3  # beside the length of features


class CoordinateAttention(nn.Module):
    """Features of both images -> where those of the moving image lie that are like those of the fixed one.

    Coordinates are 0..1 along each axis of the fixed image's features, voxel i of n being at i / (n − 1).
    """

    def forward(self, moving: Tensor, fixed: Tensor) -> Tensor:
        """Displacements (n, d, *shape): the mean coordinates of the moving image's voxels, weighted by the exponential
        of the features' products, minus the fixed image's own.

        Args:
            moving: features (n, c, *around), on a grid that is larger by the same number of voxels at both ends of each
                axis. There must be d features at least.
            fixed: features (n, c, *shape).
        """
        shape = tuple(fixed.shape[2:])
        ndim = len(shape)
        there = coordinates(moving.shape[2:], shape, moving)
        # Values as wide as the features: else no fused kernel takes them on processors.
        values = F.pad(there.flatten(2).mT, (0, moving.shape[1] - ndim)).expand(len(moving), -1, -1)
        query, key = (features.flatten(2).mT.contiguous() for features in (fixed, moving))
        found = F.scaled_dot_product_attention(query[:, None], key[:, None], values[:, None].contiguous(), scale=1.0)
        return found[:, 0, :, :ndim].mT.unflatten(2, shape) - coordinates(shape, shape, fixed)


class AttentionStep(nn.Module):
    """Images -> displacements by the likeness of features; see CoordinateAttention.

    Features come of a convolution and three blocks of three, dilated, each with what enters it added. What enters is
    normalized by the statistics of the image itself, where the published network takes those of its batch. Both images
    are padded by zeros, so that what lies at the border of one can be found beyond that of the other.

    Args:
        ndim: 2 or 3.
        channels: of the features, `ndim` or more; published: 128.
        padding: voxels at each end; published: 9.
        length: of each voxel's features, whose square is the largest product; published: 4.

    Attributes:
        known: if a list, the features of the moving and the fixed image, which are used again when both come exchanged.
    """

    def __init__(self, ndim: int, channels: int, padding: int, length: float = 4.0):
        super().__init__()
        convolution, norm = (nn.Conv2d, nn.InstanceNorm2d) if ndim == 2 else (nn.Conv3d, nn.InstanceNorm3d)
        self.padding, self.length = padding, length
        self.first = convolution(1, channels, 3, padding="same")
        self.norms = nn.ModuleList(norm(channels, affine=True) for _ in range(_BLOCKS))
        self.blocks = nn.ModuleList()
        for _ in range(_BLOCKS):
            layers: list[nn.Module] = []
            for dilation in _DILATIONS:
                layers += [convolution(channels, channels, 3, padding="same", dilation=dilation), nn.ReLU()]
            self.blocks.append(nn.Sequential(*layers[:-1]))
        self.attention = CoordinateAttention()
        self.known: list[Tensor] | None = None

    def features(self, images: Tensor) -> Tensor:
        """Of images (n, 1, *shape), on the padded grid: (n, channels, *around)."""
        x = self.first(F.pad(images, (self.padding,) * 2 * (images.ndim - 2))).relu()
        for norm, block in zip(self.norms, self.blocks, strict=True):
            x = norm(x)
            x = x + block(x)
        return self.length * x / (x.norm(dim=1, keepdim=True) + _GUARD)

    def forward(self, moving: Tensor, fixed: Tensor) -> Tensor:
        """Images (n, 1, *shape) -> displacements (n, d, *shape) in coordinates of 0..1 along each axis."""
        there, here = reversed(self.known) if self.known else (self.features(moving), self.features(fixed))
        if self.known is not None:
            self.known = [there, here]
        inside = [slice(self.padding, self.padding + n) for n in fixed.shape[2:]]
        return self.attention(there, here[(..., *inside)])

    def onto_themselves(self) -> Tensor:
        """The displacements between each image that is known and itself, of the moving ones first: zero would be right.

        In voxels of the size that it sees, (2 n, d, *shape)."""
        both = torch.cat(self.known)
        inside = [slice(self.padding, n - self.padding) for n in both.shape[2:]]
        here = both[(..., *inside)]
        u = self.attention(both, here)
        return torch.stack([u[:, axis] * (n - 1) for axis, n in enumerate(here.shape[2:])], 1)


def coordinates(around: Sequence[int], shape: Sequence[int], like: Tensor) -> Tensor:
    """(1, d, *around): of the voxels of a grid that reaches equally far beyond both ends of one of another shape, whose
    coordinates are 0..1 along each axis."""
    axes = []
    for m, n in zip(around, shape, strict=True):
        axes.append((torch.arange(m, dtype=like.dtype, device=like.device) - (m - n) / 2) / (n - 1))
    return torch.stack(torch.meshgrid(*axes, indexing="ij"))[None]
