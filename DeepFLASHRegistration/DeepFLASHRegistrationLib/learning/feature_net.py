# SPDX-License-Identifier: Apache-2.0
"""The predictor in one pass: features of both images once, then a few learned increments of the velocity.

One encoder sees each image. Heads at 1/8, 1/4 and 1/2 of the resolution compare the fixed image's features with the
moving one's as the geodesic so far warps them, and answer with a displacement on their cells, of which

    v ← v + K^½ P(cap · tanh(answer / cap)),   P: projection on the head's band,

is made; then follow shooting, the map, and the next head. K^½, the root of the metric's inverse, and the cap keep
training stable: without them high frequencies enter with the weight of low ones and multiply in shooting.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..geodesics.band import Band, Evaluator, Lattice, Metric, Upsampler, fit_modes
from ..geodesics.batched import BatchedFlow, BatchedSampler, BatchedShooting
from .blocks import to_blocks

MULTIPLE = 16  # of which images have as many voxels along every axis
# Time steps of the maps that are handed out. Those that a head makes for the next one have few, which follow steep
# velocities only roughly: of unseen brains such maps fold at some voxels, in 8 steps still at a few, in 16 at none.
FINAL_STEPS = 16


@dataclass(frozen=True)
class Head:
    """One increment: voxels per cell, channels, shortest wavelength of its band in cells, radius of the correlation in
    cells, steps of the geodesic after it."""

    stride: int
    width: int
    wavelength: float
    radius: int = 1
    steps: int = 4


@dataclass(frozen=True)
class Design:
    """What a network is built of.

    Attributes:
        channels: of the encoder at 1/2, 1/4, 1/8 and 1/16 of the resolution.
        features: that are compared, at 1/2, 1/4 and 1/8.
        heads: from coarse to fine.
        cap: largest answer of a head, in its cells.
        alpha, power: of the metric, with lengths in units.
        again: how often the last head is asked once more; training asks it once.
    """

    channels: tuple[int, int, int, int]
    features: tuple[int, int, int]
    heads: tuple[Head, ...]
    cap: float = 1.2
    alpha: float = 6.0
    power: float = 2.0
    again: int = 0

    @property
    def metric(self) -> Metric:
        """Of the geodesics."""
        return Metric(self.alpha, self.power)

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Design:
        """Inverse of to_dict.

        Raises:
            TypeError, KeyError, ValueError: it describes no network.
        """
        values = dict(values)
        heads = tuple(Head(**head) for head in values.pop("heads"))
        design = cls(tuple(values.pop("channels")), tuple(values.pop("features")), heads, **values)
        if len(design.channels) != 4 or len(design.features) != 3 or not heads:
            raise ValueError("a network has four scales, three kinds of features and at least one head")
        if any(head.stride not in (2, 4, 8) or not 0 <= head.radius <= 2 for head in heads):
            raise ValueError("heads have strides of 2, 4 or 8 and radii up to 2")
        if not 0 <= design.again <= 8:
            raise ValueError("the last head is repeated at most 8 times")
        return design


SIZES = {
    "small": Design(
        (8, 16, 32, 48),
        (8, 16, 24),
        (
            Head(8, 48, 2.86, steps=3),
            Head(8, 48, 2.86, steps=3),
            Head(4, 32, 2.86, steps=4),
            Head(4, 32, 2.86, steps=4),
            Head(2, 16, 3.5, steps=4),
        ),
    ),
    "large": Design(
        (16, 32, 48, 64),
        (16, 24, 32),
        (
            Head(8, 64, 2.86, steps=3),
            Head(8, 64, 2.86, steps=3),
            Head(4, 48, 2.86, steps=4),
            Head(4, 48, 2.86, steps=4),
            Head(2, 24, 3.5, steps=4),
            Head(2, 24, 3.5, steps=4),
        ),
    ),
}


class _Norm(nn.Module):
    """Every channel of every image with mean 0 and variance 1, in single precision; then scaled and shifted."""

    def __init__(self, channels: int):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        return F.instance_norm(x.float(), weight=self.weight, bias=self.bias, eps=1e-5).to(x.dtype)


def _block(before: int, after: int, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv3d(before, after, 3, stride, 1, bias=False), _Norm(after), nn.LeakyReLU(0.1, inplace=True)
    )


class Encoder(nn.Module):
    """Images (batch, *shape) -> features at 1/2, 1/4 and 1/8: a pyramid whose coarse scales are added to fine ones."""

    def __init__(self, channels: tuple[int, ...], features: tuple[int, ...]):
        super().__init__()
        scales = [nn.Sequential(_block(8, channels[0]), _block(channels[0], channels[0]))]
        for before, after in itertools.pairwise(channels):
            scales.append(nn.Sequential(_block(before, after, 2), _block(after, after)))
        self.scales = nn.ModuleList(scales)
        self.across = nn.ModuleList(
            nn.Conv3d(c, f, 1) for c, f in zip(channels, (*features, features[-1]), strict=True)
        )
        self.down = nn.ModuleList(nn.Conv3d(b, a, 1) for a, b in itertools.pairwise(features))
        self.out = nn.ModuleList(nn.Conv3d(f, f, 3, padding=1) for f in features)

    def forward(self, images: Tensor) -> list[Tensor]:
        x = to_blocks(_scaled(images)[:, None], 2)
        found = []
        for scale in self.scales:
            x = scale(x)
            found.append(x)
        total = self.across[-1](found[-1])
        pyramid = []
        for k in reversed(range(len(self.out))):
            total = F.interpolate(total, scale_factor=2.0, mode="nearest")
            if k < len(self.down):
                total = self.down[k](total)
            total = total + self.across[k](found[k])
            pyramid.append(self.out[k](total))
        return pyramid[::-1]


def _scaled(images: Tensor) -> Tensor:
    """Intensities of a root mean square of 1; 0 stays 0."""
    power = images.float().square().flatten(1).mean(1).clamp(min=1e-8)
    return images * power.rsqrt().view(-1, *[1] * (images.ndim - 1))


class Comparison(nn.Module):
    """Features of two images on the same cells -> displacements (batch, 3, *cells), in cells."""

    def __init__(self, features: int, head: Head):
        super().__init__()
        self.radius = head.radius
        seen = 2 * features + (2 * head.radius + 1) ** 3
        self.enter = nn.Conv3d(seen, head.width, 3, padding=1)
        self.first = _Residual(head.width)
        self.second = _Residual(head.width)
        self.answer = nn.Conv3d(head.width, 3, 3, padding=1)
        nn.init.normal_(self.answer.weight, std=1e-3)
        nn.init.zeros_(self.answer.bias)

    def forward(self, fixed: Tensor, moving: Tensor) -> Tensor:
        seen = torch.cat([fixed, moving, correlation(fixed, moving, self.radius)], 1)
        x = F.leaky_relu(self.enter(seen), 0.1)
        return self.answer(self.second(self.first(x)))


class _Residual(nn.Module):
    def __init__(self, width: int):
        super().__init__()
        self.one = nn.Conv3d(width, width, 3, padding=1)
        self.two = nn.Conv3d(width, width, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return F.leaky_relu(x + self.two(F.leaky_relu(self.one(x), 0.1)), 0.1)


def correlation(fixed: Tensor, moving: Tensor, radius: int) -> Tensor:
    """Cosines of the features of each cell and of those around it: (batch, c, *cells) twice ->
    (batch, (2 radius + 1)³, *cells)."""
    with torch.autocast(fixed.device.type, enabled=False):
        fixed, moving = (F.normalize(x.float(), dim=1, eps=1e-4).to(x.dtype) for x in (fixed, moving))
        padded = F.pad(moving, (radius,) * 6)
        a, b, c = fixed.shape[2:]
        reach = range(2 * radius + 1)
        return torch.stack(
            [
                (fixed * padded[:, :, i : i + a, j : j + b, k : k + c]).sum(1)
                for i, j, k in itertools.product(reach, reach, reach)
            ],
            1,
        )


class _Stage:
    """What a head needs of a domain: its cells, band, shooting and map."""

    def __init__(self, head: Head, shape: tuple[int, ...], lengths: tuple[float, ...], metric: Metric, device, window):
        self.cells = Lattice.cells(tuple(n // head.stride for n in shape), lengths)
        shortest = [head.wavelength * step for step in self.cells.step]
        modes = tuple(2 * max(1, int(length / s + 0.5)) + 1 for length, s in zip(lengths, shortest, strict=True))
        self.band = Band(modes, lengths)
        self.shooting = BatchedShooting(self.band, metric, torch.float32, device)
        self.flow = BatchedFlow(self.band, self.cells, torch.float32, device, window)
        self.project = Evaluator(self.band, self.cells, torch.float32, device).project
        self.sample = self.flow.sample
        self.root = self.shooting.K.sqrt()
        self.step = torch.tensor(self.cells.step, dtype=torch.float32).to(device).view(-1, 1, 1, 1)


class Domain:
    """Everything that depends on the shape of the images and not on their values; made once.

    Args:
        design: of the network.
        shape: of the images.
        lengths: of the domain's edges, in units.
        window: lattice -> weights that let the velocity fade out towards the border, or None.
    """

    def __init__(
        self,
        design: Design,
        shape: tuple[int, ...],
        lengths: tuple[float, ...] | None = None,
        device: str | torch.device = "cpu",
        window: Callable[[Lattice], Tensor] | None = None,
    ):
        if any(n % MULTIPLE for n in shape):
            raise ValueError(f"Images of {shape} voxels must have a multiple of {MULTIPLE} along every axis.")
        self.shape, self.lengths = tuple(shape), tuple(lengths or map(float, shape))
        kinds: dict[tuple[int, float], _Stage] = {}
        self.stages = []
        for head in design.heads:
            key = (head.stride, head.wavelength)
            if key not in kinds:
                kinds[key] = _Stage(head, self.shape, self.lengths, design.metric, device, window)
            self.stages.append(kinds[key])
        self.finer = [
            None if before is after else Upsampler(before.cells, after.cells, torch.float32, device)
            for before, after in itertools.pairwise(self.stages)
        ]
        self.cells = Lattice.cells(self.shape, self.lengths)
        self.whole = Upsampler(self.stages[-1].cells, self.cells, torch.float32, device)
        self.sample = BatchedSampler(self.cells, self.cells, torch.float32, device)


@dataclass(frozen=True)
class Step:
    """After a head: how many were asked before, v0 (batch, 3, *modes) in its band, and fixed_to_moving minus the
    identity on its cells (batch, 3, *cells), in units."""

    number: int
    stage: _Stage
    velocity: Tensor
    displacement: Tensor


class Answer(NamedTuple):
    """Of a batch of pairs: v0 (n, 3, *modes), the map that the last head left on its cells, both maps in more steps on
    the images' cells, minus the identity (n, 3, *shape) in units, and the warped images (n, *shape)."""

    velocity: Tensor
    displacement: Tensor
    fixed_to_moving: Tensor
    moving_to_fixed: Tensor
    warped: Tensor


class FeatureNet(nn.Module):
    """The network; `unroll` is what is trained, `forward` what is used."""

    def __init__(self, design: Design):
        super().__init__()
        self.design = design
        self.encoder = Encoder(design.channels, design.features)
        self.heads = nn.ModuleList(
            Comparison(design.features[{2: 0, 4: 1, 8: 2}[head.stride]], head) for head in design.heads
        )
        self.mixed_precision = False

    def unroll(self, fixed: list[Tensor], moving: list[Tensor], domain: Domain) -> Iterator[Step]:
        """Steps of pairs, of their images' features; no gradient flows from one into the one before."""
        v, u, count = None, None, len(self.heads)
        for k in range(count + self.design.again):
            number = min(k, count - 1)
            head, compare, stage = self.design.heads[number], self.heads[number], domain.stages[number]
            scale = {2: 0, 4: 1, 8: 2}[head.stride]
            here, there = fixed[scale], moving[scale]
            if v is not None:
                if k < count and domain.finer[k - 1] is not None:
                    v, u = fit_modes(v, stage.band.modes), domain.finer[k - 1](u)
                there = stage.sample(there.float(), u).to(here.dtype)
            with self._precision(here.device):
                answer = compare(here, there)
            answer = self.design.cap * torch.tanh(answer.float() / self.design.cap)
            change = stage.root * stage.project(answer * stage.step)
            v = change if v is None else v + change
            u = stage.flow.fixed_to_moving(stage.shooting.middles(v, head.steps))
            yield Step(k, stage, v, u)
            v, u = v.detach(), u.detach()

    def features(self, images: Tensor) -> list[Tensor]:
        """Images (batch, *shape) -> features at 1/2, 1/4 and 1/8."""
        with self._precision(images.device):
            return self.encoder(images)

    def forward(self, fixed: Tensor, moving: Tensor, domain: Domain) -> Step:
        """Pairs of images (batch, *shape) -> what the last head leaves."""
        both = self.features(torch.cat([fixed, moving]))
        n, last = len(fixed), None
        for last in self.unroll([x[:n] for x in both], [x[n:] for x in both], domain):  # noqa: B007
            pass
        return last

    def answer(self, fixed: Tensor, moving: Tensor, domain: Domain) -> Answer:
        """Pairs of images (batch, *shape) -> all that is asked of them."""
        last = self(fixed, moving, domain)
        forth, back = (domain.whole(u) for u in self.maps(last))
        warped = domain.sample(moving[:, None], forth)[:, 0]
        return Answer(last.velocity, last.displacement, forth, back, warped)

    @staticmethod
    def maps(last: Step) -> tuple[Tensor, Tensor]:
        """fixed_to_moving and moving_to_fixed minus the identity on a head's cells, (batch, 3, *cells) in units, in as
        many time steps as the maps that are handed out need."""
        middles = last.stage.shooting.middles(last.velocity, FINAL_STEPS)
        return last.stage.flow.fixed_to_moving(middles), last.stage.flow.moving_to_fixed(middles)

    def _precision(self, device: torch.device) -> torch.autocast:
        return torch.autocast(
            device.type, torch.bfloat16, enabled=self.mixed_precision and device.type == "cuda", cache_enabled=False
        )
