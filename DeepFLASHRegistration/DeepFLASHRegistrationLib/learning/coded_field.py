# SPDX-License-Identifier: Apache-2.0
"""NePhi's learned form: an encoder says of two images latent codes, and a neural field makes of them a displacement at
any point (Tian et al.: NePhi. Neural deformation fields for approximately diffeomorphic medical image registration.
ECCV 2024).

Codes are of two kinds: numbers that all points share, and some that lie on a lattice, four voxels apart, and are
interpolated between. They shift the phases of the field's sines, and local ones enter its last layer besides: what is
smooth then need not be made of waves. The map back is that of the images exchanged. The published network has a second
decoder for it, local codes eight voxels apart, and codes that scale sines.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .blocks import LINEAR, mean_pooled
from .neural_field import FieldSize, at_rest, drawn_waves, fading, sine_layer

Transform = Callable[[Tensor], Tensor]
_LEVELS = 4  # of the encoder, each of which halves; the second is that of local codes
LEAST = 2**_LEVELS - 1  # voxels along each axis that an image must have more of
_LOCAL = 4  # voxels between those
_SLOPE = 0.1  # of what its layers do not let pass
_MARGIN = 4.0  # voxels from the faces inwards, over which the field fades out
_CHUNK = 1 << 16
# Voxels along each axis for each point at which a loss asks for the map, which is interpolated between them.
_ASKED = 2


@dataclass(frozen=True)
class CodedDesign:
    """Of a network.

    Attributes:
        channels: of the encoder's levels, from fine to coarse.
        local: numbers of a local code.
        shared: numbers that all points share.
        frequencies, bandwidth, width, layers, omega: see FieldSize.
    """

    channels: tuple[int, ...] = (16, 48, 64, 64)
    local: int = 32
    shared: int = 32
    frequencies: int = 64
    bandwidth: float = 1.0
    width: int = 64
    layers: int = 2
    omega: float = 3.0

    def __post_init__(self) -> None:
        object.__setattr__(self, "channels", tuple(map(int, self.channels)))
        numbers = (*self.channels, self.local, self.shared, self.frequencies, self.width, self.layers)
        known = len(self.channels) == _LEVELS and all(0 < n <= 4096 for n in numbers) and self.layers <= 16
        if not known or not (0 < self.bandwidth < 100 and 0 < self.omega < 100):
            raise ValueError(f"channels {self.channels} and fields of {self.layers} x {self.width} make no network")

    @property
    def field(self) -> FieldSize:
        return FieldSize(self.frequencies, self.bandwidth, self.width, self.layers, self.omega)

    @property
    def least(self) -> int:
        """Voxels along each axis that an image must have more of."""
        return LEAST

    def values(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return {key: list(value) if isinstance(value, tuple) else value for key, value in asdict(self).items()}


SIZES = {"small": CodedDesign(), "large": CodedDesign((32, 96, 128, 256), 64, 64, 128, 1.0, 128, 3)}


class Codes(NamedTuple):
    """Of n pairs: local ones (n, local, *lattice), and those that all points share, (n, shared)."""

    local: Tensor
    shared: Tensor


class CodedField(nn.Module):
    """Pairs of images -> maps between them.

    Args:
        ndim: 2 or 3.
        design: see CodedDesign.
        shape: of the images that it is trained on.

    Attributes:
        identity: the coordinates of the voxels of the images that it saw last, (1, d, *shape), in 0..1 along each axis:
            voxel i of n lies at i / (n − 1).
    """

    consistent = False

    def __init__(self, ndim: int, design: CodedDesign, shape: Sequence[int]):
        super().__init__()
        if len(shape) != ndim or min(shape) <= design.least:
            raise ValueError(f"{tuple(shape)} is no shape of {ndim} dimensions")
        self.design, self.half = design, max(shape) / 2
        self.encoder = _Encoder(ndim, design)
        generator, size = torch.Generator().manual_seed(0), design.field
        with torch.device("cpu"):  # the generator's
            waves, layers = drawn_waves(ndim, size, generator), nn.ModuleList()
            for inputs in (2 * size.frequencies, *[size.width] * (size.layers - 1)):
                layers.append(sine_layer(inputs, size, generator))
        like = next(self.encoder.parameters())
        self.register_buffer("waves", waves.to(like))
        self.layers = layers.to(like)
        self.shifts, self.shared_shifts = (
            nn.ModuleList(nn.Linear(numbers, size.width, bias=False) for _ in range(size.layers))
            for numbers in (design.local, design.shared)
        )
        self.last = at_rest(nn.Linear(size.width + design.local, ndim))
        self.identity: Tensor | None = None
        self._voxels: Tensor | None = None  # from the first to the last along each axis

    def codes(self, fixed: Tensor, moving: Tensor) -> Codes:
        """Images (n, *shape) -> those of fixed_to_moving; ValueError: they have too few voxels."""
        self._on(tuple(fixed.shape[1:]), fixed.device)
        return self.encoder(torch.stack([fixed, moving], 1))

    def transforms(
        self, fixed: Tensor, moving: Tensor, themselves: list[Tensor] | None = None
    ) -> tuple[Transform, Transform]:
        """Images (n, *shape) -> fixed_to_moving and moving_to_fixed, of coordinates (n or 1, d, *points).

        Args:
            themselves: stays as it is: nothing attends to images.
        """
        return self.transform(self.codes(fixed, moving)), self.transform(self.codes(moving, fixed))

    def transform(self, codes: Codes) -> Transform:
        """The map of codes of images that it saw last."""
        voxels = self._voxels

        def mapped(points: Tensor) -> Tensor:
            flat = points.flatten(2).transpose(1, 2) * voxels + 0.5  # where voxel i of the box has its middle
            flat = flat.expand(len(codes.local), -1, -1)
            moved = self._displaced(flat, codes) / voxels
            return points + moved.transpose(1, 2).unflatten(2, points.shape[2:])

        return mapped

    def displacement(self, phi: Transform) -> Tensor:
        """A map minus the identity in voxels, (n, d, *shape), interpolated between the middles of blocks of voxels,
        where it is asked."""
        blocks = mean_pooled(self.identity, _ASKED)
        found = ((phi(blocks) - blocks).movedim(1, -1) * self._voxels).movedim(-1, 1)
        found = F.interpolate(found, scale_factor=float(_ASKED), mode=LINEAR[found.ndim - 2], align_corners=False)
        # What is no whole block lies on a face, where the field is at rest.
        left = [n - m for n, m in zip(self.identity.shape[2:], found.shape[2:], strict=True)]
        return F.pad(found, [side for n in reversed(left) for side in (0, n)]) if any(left) else found

    def fixed_to_moving(self, fixed: Tensor, moving: Tensor, between: Callable[[], None] = lambda: None) -> Tensor:
        """The map of images (n, *shape), asked at every voxel, minus the identity in voxels, (n, d, *shape).

        Args:
            between: called between parts; may raise.
        """
        return self.everywhere(self.transform(self.codes(fixed, moving)), between)

    def everywhere(self, phi: Transform, between: Callable[[], None]) -> Tensor:
        """As `displacement`, asked at every voxel, part by part."""
        parts = []
        for points in self.identity.flatten(2).split(_CHUNK, 2):
            between()
            parts.append((phi(points) - points) * self._voxels[:, None])
        return torch.cat(parts, 2).unflatten(2, self.identity.shape[2:])

    def _on(self, shape: tuple[int, ...], device: torch.device) -> None:
        """Lays the coordinates out for images of a shape, where they are."""
        laid = self.identity
        if laid is not None and tuple(laid.shape[2:]) == shape and laid.device == device:
            return
        if min(shape) <= self.design.least:
            raise ValueError(f"images of {' x '.join(map(str, shape))} voxels have no more than {self.design.least}")
        axes = [torch.arange(n, device=device, dtype=torch.float32) / (n - 1) for n in shape]
        self.identity = torch.stack(torch.meshgrid(*axes, indexing="ij"))[None]
        self._voxels = torch.tensor([n - 1.0 for n in shape], device=device)

    def _displaced(self, points: Tensor, codes: Codes) -> Tensor:
        """Points (n, m, d) of a box of voxels -> displacements in voxels, at rest beyond the box."""
        lengths = self._voxels + 1
        local, shared = _at(codes.local, points), codes.shared[:, None]
        # Whatever the box is, its middle is that of the boxes of the training, and the waves are as long.
        phase = (points - lengths / 2) / self.half @ self.waves
        x = torch.cat([torch.sin(phase), torch.cos(phase)], 2)
        for layer, shift, same in zip(self.layers, self.shifts, self.shared_shifts, strict=True):
            x = torch.sin(self.design.omega * (layer(x) + shift(local) + same(shared)))
        return self.half * fading(points, lengths, _MARGIN) * self.last(torch.cat([x, local], 2))


class FittedCodes(nn.Module):
    """The codes of a pair as parameters, which its two maps are made of by a field that stays as it is. Answers as
    CodedField does, whatever images it is asked of.

    Args:
        field: any; is not changed.
        images: the fixed and the moving one, (2, *shape).
    """

    consistent = False

    def __init__(self, field: CodedField, images: Tensor):
        super().__init__()
        self._field = (field,)  # no part of this, so that its weights are no parameters
        with torch.no_grad():
            forth, back = (field.codes(*pair.split(1)) for pair in (images, images.flip(0)))
        self.codes = nn.ParameterList([*forth, *back])

    @property
    def identity(self) -> Tensor:
        return self._field[0].identity

    def transforms(
        self, fixed: Tensor, moving: Tensor, themselves: list[Tensor] | None = None
    ) -> tuple[Transform, Transform]:
        codes = list(self.codes)
        return tuple(self._field[0].transform(Codes(*pair)) for pair in (codes[:2], codes[2:]))

    def displacement(self, phi: Transform) -> Tensor:
        return self._field[0].displacement(phi)

    def fixed_to_moving(self, fixed: Tensor, moving: Tensor, between: Callable[[], None] = lambda: None) -> Tensor:
        field, codes = self._field[0], list(self.codes)
        return field.everywhere(field.transform(Codes(*codes[:2])), between)


def _at(local: Tensor, points: Tensor) -> Tensor:
    """Local codes (n, c, *lattice) at points (n, m, d) in voxels: (n, m, c), linearly, and as at the lattice's border
    beyond it."""
    there = torch.stack([points[..., i] * (2 / (_LOCAL * n)) - 1 for i, n in enumerate(local.shape[2:])][::-1], -1)
    there = there.view(len(points), points.shape[1], *[1] * (points.shape[2] - 1), points.shape[2])
    found = F.grid_sample(local, there, padding_mode="border", align_corners=False)
    return found.flatten(2).transpose(1, 2)


class _Encoder(nn.Module):
    """Two images as channels (n, 2, *shape) -> Codes."""

    def __init__(self, ndim: int, design: CodedDesign):
        super().__init__()
        self.ndim = ndim
        conv = nn.Conv3d if ndim == 3 else nn.Conv2d
        before, self.down = 2, nn.ModuleList()
        for channels in design.channels:
            self.down.append(conv(before, channels, 4, 2, 1))
            before = channels
        _, second, third, last = design.channels
        self.up = conv(last + third, third, 3, 1, 1)
        self.local = nn.ModuleList([conv(third + second, second, 3, 1, 1), conv(second, design.local, 1)])
        self.shared = nn.Linear(last, design.shared)
        for module in self.modules():
            if isinstance(module, conv):
                nn.init.kaiming_normal_(module.weight, _SLOPE)
                nn.init.zeros_(module.bias)

    def forward(self, images: Tensor) -> Codes:
        multiple, shape = 2**_LEVELS, images.shape[2:]
        pads = [(-n) % multiple for n in shape]
        x = images
        if any(pads):
            x = F.pad(images, [side for pad in reversed(pads) for side in (0, pad)], mode="replicate")
        found = []
        for conv in self.down:
            x = F.leaky_relu(conv(x), _SLOPE)
            found.append(x)
        shared = self.shared(x.flatten(2).mean(2))
        for below, conv in ((found[2], self.up), (found[1], self.local[0])):
            x = torch.cat([self._grown(x), below], 1)
            x = F.leaky_relu(conv(x), _SLOPE)
        local = self.local[1](x)
        lattice = tuple(slice(math.ceil(n / _LOCAL)) for n in shape)
        return Codes(local[(..., *lattice)], shared)

    def _grown(self, x: Tensor) -> Tensor:
        return F.interpolate(x, scale_factor=2.0, mode=LINEAR[self.ndim], align_corners=False)
