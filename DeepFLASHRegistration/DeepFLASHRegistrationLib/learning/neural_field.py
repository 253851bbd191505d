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
        self.register_buffer("waves", drawn_waves(d, size, generator) / half)
        self.layers = nn.ModuleList()
        inputs = 2 * size.frequencies
        for _ in range(size.layers):
            self.layers.append(sine_layer(inputs, size, generator))
            inputs = size.width
        self.last = at_rest(nn.Linear(inputs, d))

    def forward(self, points: Tensor) -> Tensor:
        phase = (points - self.lengths / 2) @ self.waves
        x = torch.cat([torch.sin(phase), torch.cos(phase)], 1)
        for layer in self.layers:
            x = torch.sin(self.omega * layer(x))
        return self.half * fading(points, self.lengths, self.margin) * self.last(x)


def drawn_waves(ndim: int, size: FieldSize, generator: torch.Generator) -> Tensor:
    """Wave vectors of Fourier features, (d, frequencies), in radians over half of the longest edge."""
    return torch.randn(ndim, size.frequencies, generator=generator) * (2 * math.pi * size.bandwidth)


def sine_layer(inputs: int, size: FieldSize, generator: torch.Generator) -> nn.Linear:
    """What goes into a layer of sines; drawn so that what goes into the next has the same spread."""
    layer, bound = nn.Linear(inputs, size.width), math.sqrt(6 / inputs) / size.omega
    for part in (layer.weight, layer.bias):
        with torch.no_grad():
            part.copy_((2 * torch.rand(part.shape, generator=generator) - 1) * bound)
    return layer


def at_rest(layer: nn.Linear) -> nn.Linear:
    """The same, which answers with zero."""
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)
    return layer


def fading(points: Tensor, lengths: Tensor, margin: float) -> Tensor:
    """1 deep within a box, from 0 on its faces up over the margin, and 0 beyond: (…, d) -> (…, 1)."""
    ramp = (torch.minimum(points, lengths - points) / margin).clamp(0, 1)
    return (ramp * ramp * (3 - 2 * ramp)).prod(-1, keepdim=True)
