# SPDX-License-Identifier: Apache-2.0
"""Quicksilver: the initial momentum of LDDMM, predicted patch by patch from both images.

Yang, Kwitt, Styner & Niethammer, NeuroImage 2017: patches of 15³ at strides of 14, one encoder for each image, one
decoder for each component, and the mean where patches overlap. The momentum lies where the images' edges are, so a
patch holds what decides it. Unlike in the published network, decoders see the encoders' features at every scale: what
the momentum is at a voxel is decided nearby. With dropout that stays on (Monte Carlo), the spread of several answers is
the uncertainty.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, nn

PATCH, STRIDE = 15, 14
# Features of the two blocks; the large network has the published ones.
SIZES = {"small": (8, 16), "large": (64, 128)}
_ODD = PATCH % 2  # what is missing to be halved twice
_FLAT = 1e-3  # standard deviation of a patch that shows nothing
_AT_ONCE = 32


def _convolutions(before: int, after: int, count: int = 3) -> list[nn.Module]:
    layers: list[nn.Module] = []
    for k in range(count):
        layers += [nn.Conv3d(before if k == 0 else after, after, 3, padding=1), nn.PReLU()]
    return layers


class _Encoder(nn.Module):
    """(n, 1, 16³) -> features at 16³, 8³ and 4³."""

    def __init__(self, one: int, two: int, dropout: float):
        super().__init__()
        self.fine = nn.Sequential(*_convolutions(1, one))
        self.middle = nn.Sequential(
            nn.Conv3d(one, one, 2, stride=2), nn.PReLU(), nn.Dropout(dropout), *_convolutions(one, two)
        )
        self.coarse = nn.Sequential(nn.Conv3d(two, two, 2, stride=2), nn.PReLU(), nn.Dropout(dropout))

    def forward(self, patches: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        fine = self.fine(patches)
        middle = self.middle(fine)
        return fine, middle, self.coarse(middle)


class _Decoder(nn.Module):
    """Features of both images at 16³, 8³ and 4³ -> (n, 1, 16³)."""

    def __init__(self, one: int, two: int, dropout: float):
        super().__init__()
        self.coarse = nn.Sequential(
            *_convolutions(2 * two, 2 * two, 2),
            nn.ConvTranspose3d(2 * two, two, 2, stride=2),
            nn.PReLU(),
            nn.Dropout(dropout),
        )
        self.middle = nn.Sequential(
            *_convolutions(3 * two, two, 2), nn.ConvTranspose3d(two, one, 2, stride=2), nn.PReLU()
        )
        self.fine = nn.Sequential(*_convolutions(3 * one, one, 2), nn.Conv3d(one, 1, 3, padding=1))

    def forward(self, fine: Tensor, middle: Tensor, coarse: Tensor) -> Tensor:
        middle = self.middle(torch.cat([self.coarse(coarse), middle], 1))
        return self.fine(torch.cat([middle, fine], 1))


class QuicksilverNet(nn.Module):
    """Patches of two images -> patches of the momentum over ``scale``.

    Args:
        features: of the two blocks.
        scale: the momenta's spread, in the metric's units.
        dropout: share of the features that is left out in training, and in Monte Carlo.
    """

    def __init__(self, features: tuple[int, int], scale: float, dropout: float = 0.0):
        super().__init__()
        one, two = features
        self.scale = scale
        self.fixed, self.moving = _Encoder(one, two, dropout), _Encoder(one, two, dropout)
        self.decoders = nn.ModuleList(_Decoder(one, two, dropout) for _ in range(3))
        # So deep a network without norms passes on what it sees only if no layer makes it smaller (He et al., 2015).
        for layer in self.modules():
            if isinstance(layer, (nn.Conv3d, nn.ConvTranspose3d)):
                nn.init.kaiming_normal_(layer.weight, a=0.25)
                nn.init.zeros_(layer.bias)

    def forward(self, fixed: Tensor, moving: Tensor) -> Tensor:
        """(n, 15, 15, 15) each -> (n, 3, 15, 15, 15)."""
        padded = [F.pad(x[:, None], (0, _ODD) * 3, mode="replicate") for x in (fixed, moving)]
        scales = [torch.cat(pair, 1) for pair in zip(self.fixed(padded[0]), self.moving(padded[1]), strict=True)]
        answer = torch.cat([decoder(*scales) for decoder in self.decoders], 1)
        return answer[..., :PATCH, :PATCH, :PATCH]

    def momentum(self, fixed: Tensor, moving: Tensor) -> Iterator[Tensor | None]:
        """Images (*shape) -> None after every part of the work, and at the end m₀ (3, *shape).

        What lies beyond the images continues them; where neither image shows an edge there is no momentum to predict,
        and patches in which both are flat are left out.
        """
        shape = fixed.shape
        missing = [(PATCH - n) % STRIDE if n > PATCH else PATCH - n for n in shape]
        padding = [amount for m in reversed(missing) for amount in (m // 2, m - m // 2)]
        both = F.pad(torch.stack([fixed, moving])[:, None], padding, mode="replicate")[:, 0]
        total = torch.zeros(3, *both.shape[1:], dtype=fixed.dtype, device=fixed.device)
        count = torch.zeros(both.shape[1:], dtype=fixed.dtype, device=fixed.device)
        corners = torch.cartesian_prod(*(torch.arange(0, n - PATCH + 1, STRIDE) for n in both.shape[1:]))
        ranges = [[slice(int(c), int(c) + PATCH) for c in corner] for corner in corners]
        ranges = [at for at in ranges if max(float(torch.std(x[tuple(at)])) for x in both) > _FLAT]
        for first in range(0, len(ranges), _AT_ONCE):
            part = ranges[first : first + _AT_ONCE]
            seen = torch.stack([both[(slice(None), *at)] for at in part])
            for at, patch in zip(part, self(seen[:, 0], seen[:, 1]), strict=True):
                total[(slice(None), *at)] += patch
                count[tuple(at)] += 1
            yield None
        inner = tuple(slice(m // 2, m // 2 + n) for m, n in zip(missing, shape))
        yield (self.scale * total / count.clamp(min=1))[(slice(None), *inner)]
