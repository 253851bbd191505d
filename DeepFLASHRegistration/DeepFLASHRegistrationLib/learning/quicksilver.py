# SPDX-License-Identifier: Apache-2.0
"""Quicksilver: the initial momentum of LDDMM, predicted patch by patch from both images.

Yang, Kwitt, Styner & Niethammer, NeuroImage 2017: patches of 15³ at strides of 14, one encoder for each image, one
decoder for each component, and the mean where patches overlap. The momentum lies where the images' edges are, so a
patch holds what decides it. Unlike in the published network, decoders see the encoders' features at every scale: what
the momentum is at a voxel is decided nearby. With dropout that stays on (Monte Carlo), the spread of several answers is
the uncertainty.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .blocks import from_blocks, to_blocks

PATCH, STRIDE = 15, 14
# Features of the two blocks, and voxels along each axis that are seen, and answered, as channels. The large network is
# the published one; the small one works at half of the resolution.
SIZES = {"small": ((16, 32), 2), "large": ((64, 128), 1)}
_FLAT = 1e-3  # standard deviation of a patch that shows nothing
_NEARBY, _LEAST_SPREAD, _LEAST_SLOPE = 9, 0.05, 0.01
_AT_ONCE = 32


class _Layers:
    """Convolutions of so many dimensions."""

    def __init__(self, ndim: int):
        self.conv = {2: nn.Conv2d, 3: nn.Conv3d}[ndim]
        self.up = {2: nn.ConvTranspose2d, 3: nn.ConvTranspose3d}[ndim]

    def same(self, before: int, after: int, count: int) -> nn.Sequential:
        """So many convolutions, each with its activation."""
        each = [(self.conv(before if k == 0 else after, after, 3, padding=1), nn.PReLU()) for k in range(count)]
        return nn.Sequential(*(layer for pair in each for layer in pair))

    def half(self, features: int, dropout: float) -> nn.Sequential:
        return nn.Sequential(self.conv(features, features, 2, stride=2), nn.PReLU(), nn.Dropout(dropout))

    def double(self, before: int, after: int, dropout: float = 0.0) -> nn.Sequential:
        return nn.Sequential(self.up(before, after, 2, stride=2), nn.PReLU(), nn.Dropout(dropout))


class _Encoder(nn.Module):
    """(n, c, *cells) -> features of cells, of blocks of two along each axis, and of four."""

    def __init__(self, layers: _Layers, before: int, features: tuple[int, int], dropout: float):
        super().__init__()
        one, two = features
        self.fine = layers.same(before, one, 3)
        self.middle = nn.Sequential(layers.half(one, dropout), layers.same(one, two, 3))
        self.coarse = layers.half(two, dropout)

    def forward(self, patches: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        fine = self.fine(patches)
        middle = self.middle(fine)
        return fine, middle, self.coarse(middle)


class _Decoder(nn.Module):
    """Features of both images at the three scales -> (n, c, *cells)."""

    def __init__(self, layers: _Layers, features: tuple[int, int], after: int, dropout: float):
        super().__init__()
        one, two = features
        self.coarse = nn.Sequential(layers.same(2 * two, 2 * two, 2), layers.double(2 * two, two, dropout))
        self.middle = nn.Sequential(layers.same(3 * two, two, 2), layers.double(two, one))
        self.fine = nn.Sequential(layers.same(3 * one, one, 2), layers.conv(one, after, 3, padding=1))

    def forward(self, fine: Tensor, middle: Tensor, coarse: Tensor) -> Tensor:
        middle = self.middle(torch.cat([self.coarse(coarse), middle], 1))
        return self.fine(torch.cat([middle, fine], 1))


class QuicksilverNet(nn.Module):
    """Patches of two images -> patches of the momentum over ``scale``.

    Args:
        ndim: 2 or 3.
        features, block: see SIZES.
        scale: the momenta's spread, in the metric's units.
        dropout: share of the features that is left out in training, and in Monte Carlo.
    """

    def __init__(self, ndim: int, features: Sequence[int], block: int, scale: float, dropout: float = 0.0):
        super().__init__()
        if block not in (1, 2):
            raise ValueError(f"it sees blocks of {block} voxels; 1 and 2 are known")
        layers, (one, two), channels = _Layers(ndim), features, block**ndim
        self.block, self.scale = block, scale
        self.fixed, self.moving = (_Encoder(layers, channels, (one, two), dropout) for _ in range(2))
        self.decoders = nn.ModuleList(_Decoder(layers, (one, two), channels, dropout) for _ in range(ndim))
        # So deep a network without norms passes on what it sees only if no layer makes it smaller (He et al., 2015).
        for layer in self.modules():
            if isinstance(layer, (layers.conv, layers.up)):
                nn.init.kaiming_normal_(layer.weight, a=0.25)
                nn.init.zeros_(layer.bias)

    def forward(self, patches: Tensor) -> Tensor:
        """Of `seen` (n, 2 + d, 15, …) -> (n, d, 15, …)."""
        ndim = patches.ndim - 2
        odd = (0, -PATCH % (4 * self.block)) * ndim  # what is missing to be halved
        padded = F.pad(patches[:, :2], odd, mode="replicate")
        fixed, moving = (to_blocks(x, self.block) for x in padded.split(1, 1))
        scales = [torch.cat(pair, 1) for pair in zip(self.fixed(fixed), self.moving(moving), strict=True)]
        answer = torch.cat([from_blocks(decoder(*scales), self.block) for decoder in self.decoders], 1)
        return answer[(slice(None), slice(None), *[slice(PATCH)] * ndim)] * patches[:, 2:]

    def momentum(self, fixed: Tensor, moving: Tensor) -> Iterator[Tensor | None]:
        """Images (*shape) -> None after every part of the work, and at the end m₀ (d, *shape).

        Where neither image shows an edge there is no momentum to predict, and patches in which both are flat are left
        out.
        """
        tiling = Tiling(tuple(fixed.shape), fixed.device)
        patches = tiling.cut(seen(fixed, moving))
        shown = torch.nonzero(tiling.cut(torch.stack([fixed, moving])).flatten(2).std(-1).amax(1) > _FLAT)[:, 0]
        found = torch.zeros_like(patches[:, 2:])
        for at in shown.split(_AT_ONCE):
            found[at] = self(patches[at])
            yield None
        yield self.scale * tiling.joined(found)


def seen(fixed: Tensor, moving: Tensor) -> Tensor:
    """What the network sees of two images (*shape): both as the local correlation does, with mean 0 and spread 1
    nearby, and the direction of the moving image's slope, which vanishes where there is none; (2 + d, *shape)."""
    images = torch.stack([fixed, moving])[:, None]
    mean = _nearby(images, _NEARBY)
    spread = (_nearby(images.square(), _NEARBY) - mean.square()).clamp(min=0)
    local = (images - mean) * (spread + _LEAST_SPREAD**2).rsqrt()
    smooth = _nearby(_nearby(images[1:], 3), 3)[0, 0]
    slope = torch.stack(torch.gradient(smooth))
    return torch.cat([local[:, 0], slope * (slope.square().sum(0) + _LEAST_SLOPE**2).rsqrt()])


def _nearby(images: Tensor, width: int) -> Tensor:
    """Means of windows of so many voxels along each axis."""
    pool = F.avg_pool3d if images.ndim == 5 else F.avg_pool2d
    return pool(images, width, 1, width // 2, count_include_pad=False)


class Tiling:
    """Patches at strides that cover images of one shape, whose values go on beyond them as at their border.

    Args:
        shape: of the images.
        device: where.
        shifted: whether the first patch begins anywhere, by torch's random numbers of the device; otherwise patches
            stand out as far at both ends.
    """

    def __init__(self, shape: Sequence[int], device: str | torch.device, shifted: bool = False):
        self.shape = tuple(shape)
        index = torch.zeros((), dtype=torch.long, device=device)
        within = torch.ones((), dtype=torch.bool, device=device)
        for axis, n in enumerate(shape):
            count = 1 + max(0, math.ceil((n - PATCH) / STRIDE))
            slack = STRIDE * (count - 1) + PATCH - n
            before = torch.randint(slack + 1, (), device=device) if shifted else slack // 2
            at = (STRIDE * torch.arange(count, device=device)[:, None] + torch.arange(PATCH, device=device)) - before
            view = [1] * (2 * len(shape))
            view[axis], view[len(shape) + axis] = count, PATCH
            at = at.view(view)
            index, within = index * n + at.clamp(0, n - 1), within & (at >= 0) & (at < n)
        last = len(shape) - 1
        self._index, self._within = index.flatten(0, last), within.flatten(0, last)
        self._count = self._added(self._within[:, None].float())

    def cut(self, images: Tensor) -> Tensor:
        """(c, *shape) -> (patches, c, 15, …)."""
        return images.flatten(1)[:, self._index].transpose(0, 1)

    def joined(self, patches: Tensor) -> Tensor:
        """(patches, c, 15, …) -> (c, *shape), their mean where they overlap."""
        return self._added(patches * self._within[:, None]) / self._count

    def _added(self, patches: Tensor) -> Tensor:
        total = torch.zeros(patches.shape[1], math.prod(self.shape), dtype=patches.dtype, device=patches.device)
        total = total.index_add(1, self._index.flatten(), patches.transpose(0, 1).flatten(1))
        return total.view(-1, *self.shape)
