# SPDX-License-Identifier: Apache-2.0
"""VoxelMorph's diffeomorphic form: a U-Net from two images to a stationary velocity, whose exponential is the map.

Balakrishnan et al., IEEE TMI 2019; Dalca et al., MedIA 2019. Network and exponential (scaling and squaring) are those
of MONAI. The velocity is at half of the resolution, as there; the exponential of its negative is the inverse. The large
network is the published one. The small one sees blocks of 2 voxels along each axis as channels and works at half of the
resolution throughout: a sixth of the arithmetic, for processors.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .blocks import LINEAR, mean_pooled, to_blocks

MULTIPLE = 16  # of which images have as many voxels along every axis
SQUARINGS = 7
# Channels of the U-Net, in pairs of what goes down and what comes up, from fine to coarse; those of the convolutions
# after it; and voxels along each axis that are seen as channels.
SIZES = {
    "small": ((24, 32, 32, 32, 32, 32), (32, 16), 2),
    "large": ((16, 32, 32, 32, 32, 32), (16, 16), 1),
}


def monai_or_say() -> None:
    """ImportError that says what to install, unless MONAI is there."""
    try:
        import monai  # noqa: F401
    except ImportError as error:
        raise ImportError(
            "VoxelMorph's network is MONAI's, which is not installed here. Install it beside PyTorch: "
            "python -m pip install --no-deps monai"
        ) from error


class VoxelMorphNet(nn.Module):
    """Pairs of images -> velocities.

    Args:
        ndim: 2 or 3.
        channels, last, block: see SIZES.

    Raises:
        ImportError: MONAI is missing.
    """

    def __init__(self, ndim: int, channels: Sequence[int], last: Sequence[int], block: int):
        super().__init__()
        if block not in (1, 2):
            raise ValueError(f"it sees blocks of {block} voxels; 1 and 2 are known")
        monai_or_say()
        from monai.networks.blocks.warp import DVF2DDF
        from monai.networks.nets.voxelmorph import VoxelMorphUNet

        self.block = block
        self.unet = VoxelMorphUNet(ndim, 2 * block**ndim, channels[1], tuple(channels), tuple(last))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that it samples by PyTorch, which is what we want
            self.exponential = DVF2DDF(SQUARINGS, padding_mode="border")

    def velocity(self, fixed: Tensor, moving: Tensor) -> Tensor:
        """Images (n, *shape) -> velocity in voxels of half the resolution, (n, d, *shape / 2)."""
        images = torch.stack([moving, fixed], 1)
        if self.block > 1:
            return self.unet(to_blocks(images, self.block))
        found = self.unet(images)
        return 0.5 * mean_pooled(found, 2)

    def displacement(self, velocity: Tensor) -> Tensor:
        """The exponential of a velocity minus the identity, in voxels, (n, d, *shape)."""
        half = self.exponential(velocity)
        return 2 * F.interpolate(half, scale_factor=2.0, mode=LINEAR[velocity.ndim - 2], align_corners=False)
