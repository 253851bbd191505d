# SPDX-License-Identifier: Apache-2.0
"""A displacement as a function of coordinates: a small network that is asked at points, not on a grid.

Fourier features of the coordinates (Tancik et al., NeurIPS 2020), layers of sines (SIREN: Sitzmann et al., NeurIPS
2020), and a last layer that starts at zero, so that the map starts as the identity, as in NePhi (Tian et al., ECCV
2024). What it costs follows the number of points, whatever the size of an image.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class FieldSize:
    """How fine and how large a field is.

    Attributes:
        frequencies: of the Fourier features.
        bandwidth: their standard deviation along each axis, in periods over half of the longest edge.
        width, layers: of the layers of sines.
        omega: the factor within the sines.
    """

    frequencies: int = 64
    bandwidth: float = 1.0
    width: int = 64
    layers: int = 2
    omega: float = 3.0


class NeuralField(nn.Module):
    """Points (n, d) -> displacements (n, d), both in units of length; at rest beyond a box.

    Args:
        lengths: edges of the box, from 0 on.
        margin: from the box's faces inwards, over which the field falls smoothly to zero.
        size: see FieldSize.
        generator: what the weights are drawn by.
    """

    def __init__(self, lengths: Sequence[float], margin: float, size: FieldSize, generator: torch.Generator):
        super().__init__()
        d, half = len(lengths), max(lengths) / 2
        self.margin, self.omega, self.half = margin, size.omega, half
        self.register_buffer("lengths", torch.tensor(lengths, dtype=torch.float32))
        drawn = torch.randn(d, size.frequencies, generator=generator) * (2 * math.pi * size.bandwidth)
        self.register_buffer("waves", drawn / half)
        self.layers = nn.ModuleList()
        inputs = 2 * size.frequencies
        for _ in range(size.layers):
            layer = nn.Linear(inputs, size.width)
            # So that what goes into the next sine has the same spread in every layer.
            bound = math.sqrt(6 / inputs) / size.omega
            for part in (layer.weight, layer.bias):
                with torch.no_grad():
                    part.copy_((2 * torch.rand(part.shape, generator=generator) - 1) * bound)
            self.layers.append(layer)
            inputs = size.width
        self.last = nn.Linear(inputs, d)
        nn.init.zeros_(self.last.weight)
        nn.init.zeros_(self.last.bias)

    def forward(self, points: Tensor) -> Tensor:
        phase = (points - self.lengths / 2) @ self.waves
        x = torch.cat([torch.sin(phase), torch.cos(phase)], 1)
        for layer in self.layers:
            x = torch.sin(self.omega * layer(x))
        ramp = (torch.minimum(points, self.lengths - points) / self.margin).clamp(0, 1)
        window = (ramp * ramp * (3 - 2 * ramp)).prod(1, keepdim=True)
        return self.half * window * self.last(x)
