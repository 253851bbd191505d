# SPDX-License-Identifier: Apache-2.0
"""Two fields of coordinates, a map and its inverse, that register a pair of images: what NePhi fits (Tian et al.:
NePhi. Neural deformation fields for approximately diffeomorphic medical image registration. ECCV 2024), without its
latent codes.

    D(A∘φ, B) + D(B∘ψ, A) + λ (‖D(ψ∘φ) − I‖² + ‖D(φ∘ψ) − I‖²)

All of it at points that every step draws anew. A local correlation needs neighbours: around each point that is drawn
stands a whole window, over which the map is taken to be the affine one that agrees with it at the corners of a regular
simplex. So a window of any size costs the fields as many points as a simplex has corners, and the images its voxels.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import accumulate, product

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ..geodesics.objective import Level, Pair
from ..geodesics.sampling import require_finite
from ..geodesics.similarities import make_similarity
from ..learning.neural_field import FieldSize, NeuralField
from .instance import Judged

_GUARD = 1e-6  # of variances, as in similarities.LocalCorrelation
_LEAST_SEEN = 0.25  # of a window
_CHUNK = 1 << 15
_JUDGED = 3  # times as many points


@dataclass(frozen=True)
class Sampling:
    """What a step looks at.

    Attributes:
        windows: in each direction.
        round_trips: points at which the inverse is looked at, in each direction.
        weight: λ.
    """

    windows: int = 600
    round_trips: int = 400
    weight: float = 0.6


class NeuralPair:
    """An instance.Instance; see there.

    Args:
        pair: images on the device.
        levels: coarse to fine, as FLASH has them.
        steps: of each level.
        margin: in which the map fades out, in units of length.
        similarity: a name in similarities.MAKERS.
    """

    def __init__(
        self,
        pair: Pair,
        levels: Sequence[Level],
        steps: Sequence[int],
        margin: float,
        similarity: str,
        size: FieldSize | None = None,
        sampling: Sampling | None = None,
    ):
        self.device = pair.fixed.device
        self.generator = torch.Generator().manual_seed(0)
        self.sampling, self.ends = sampling or Sampling(), list(accumulate(steps))
        size = size or FieldSize()
        forth, back = (NeuralField(pair.lengths, margin, size, self.generator).to(self.device) for _ in range(2))
        self.fields = torch.nn.ModuleList([forth, back])
        self.lengths = torch.tensor(pair.lengths, device=self.device)
        self.stages = [_Stage(pair.reduced(level.factors), level.radius, similarity) for level in levels]
        last, many = self.stages[-1], self.sampling
        self._looked_at = [
            self._drawn(last, side, _JUDGED * many.windows, _JUDGED * many.round_trips) for side in (0, 1)
        ]
        d, corners = len(pair.lengths), len(pair.lengths) + 1
        field = 4 * corners * (4 * size.frequencies + 6 * size.width * size.layers)
        window = 4 * len(last.window) * (8 + 4 * d)
        self.needed_bytes = 2 * (many.windows * (field + window) + 2 * many.round_trips * field)

    def helps(self, usable: int) -> str:
        return "choose a larger working voxel (--spacing-mm)"

    def parameters(self) -> Iterable[Tensor]:
        return self.fields.parameters()

    def loss(self, step: int) -> Tensor:
        stage = self.stages[next((k for k, end in enumerate(self.ends) if step < end), -1)]
        many, total = self.sampling, 0.0
        for side in (0, 1):
            centers, anywhere = self._drawn(stage, side, many.windows, many.round_trips)
            dissimilarity = stage.dissimilarity(self.fields[side], centers, side)
            total = total + dissimilarity + many.weight * self._regularity(stage, anywhere, side)[0]
        return total

    @torch.no_grad()
    def judged(self) -> Judged:
        last, found = self.stages[-1], []
        for side, (centers, anywhere) in enumerate(self._looked_at):
            regularity, determinant = self._regularity(last, anywhere, side)
            found.append((last.dissimilarity(self.fields[side], centers, side), regularity, determinant.min()))
        similarity, regularity, smallest = (list(map(float, each)) for each in zip(*found, strict=True))
        costs = self.sampling.weight * sum(regularity)
        return Judged(sum(similarity) + costs, similarity[0], costs, smallest[0])

    @torch.no_grad()
    def displacement(self, shape: Sequence[int], unit: float = 1.0) -> np.ndarray:
        """fixed_to_moving minus the identity at the cells of a shape, float32 (d, *shape), times ``unit``; part by
        part, on the host."""
        d, voxel = len(shape), self.lengths / torch.tensor(shape, device=self.device)
        found = np.empty((d, math.prod(shape)), np.float32)
        for start in range(0, math.prod(shape), _CHUNK):
            flat = torch.arange(start, min(start + _CHUNK, math.prod(shape)), device=self.device)
            points = (torch.stack(torch.unravel_index(flat, tuple(shape)), 1) + 0.5) * voxel
            found[:, start : start + _CHUNK] = (unit * self.fields[0](points)).T.cpu().numpy()
        return found.reshape(d, *shape)

    def _drawn(self, stage: _Stage, side: int, windows: int, round_trips: int) -> tuple[Tensor, Tensor]:
        """Indices (windows, d) of voxels of the mask, and points (round_trips, d) anywhere in the box."""
        where = stage.inside[side]
        at = where[torch.randint(len(where), (windows,), generator=self.generator).to(self.device)]
        at = torch.stack(torch.unravel_index(at.long(), stage.images[side].shape[1:]), 1)
        anywhere = torch.rand(round_trips, len(self.lengths), generator=self.generator).to(self.device) * self.lengths
        return at, anywhere

    def _regularity(self, stage: _Stage, points: Tensor, side: int) -> tuple[Tensor, Tensor]:
        """‖D(ψ∘φ) − I‖², its mean over points (n, d), by differences over a simplex around each; and det Dφ there."""
        start = points[:, None] + stage.corners
        moved = start + self.fields[side](start.flatten(0, 1)).view(start.shape)
        there = moved + self.fields[1 - side](moved.flatten(0, 1)).view(start.shape)
        slopes = torch.einsum("nci,cj->nij", there - start, stage.slopes)
        with torch.no_grad():
            determinant = torch.linalg.det(torch.einsum("nci,cj->nij", moved, stage.slopes))
        return slopes.square().sum((1, 2)).mean(), determinant


class _Stage:
    """The images at one level, and the windows there.

    Attributes:
        inside: of both masks the indices of their voxels in the memory, (n,).
        corners: of a regular simplex about 0, (d + 1, d), in units of length.
        slopes: (d + 1, d), from values at the corners to the derivatives of the affine map through them.
        window: (p, d) offsets in voxels.
    """

    def __init__(self, pair: Pair, radius: Sequence[float], similarity: str):
        fixed, d = pair.fixed, pair.fixed.ndim
        self.similarity, self.shape = similarity, torch.tensor(fixed.shape, device=fixed.device)
        self.voxel = torch.tensor(pair.lengths, device=fixed.device) / self.shape
        views = (pair.fixed_view, pair.moving_view)
        self.seen = any(view is not None for view in views)
        self.images = [
            torch.stack([image, torch.ones_like(image) if view is None else view]) if self.seen else image[None]
            for image, view in zip((pair.fixed, pair.moving), views, strict=True)
        ]
        masks = (pair.fixed_mask, pair.moving_mask)
        self.inside = [(mask > 0.5 * mask.max()).flatten().nonzero()[:, 0].int() for mask in masks]
        corners = simplex(d).to(fixed) * self.voxel.mean()
        every = torch.cat([corners, torch.ones(d + 1, 1).to(fixed)], 1)
        self.corners, self.slopes = corners, torch.linalg.inv(every).T[:, :d].contiguous()
        reach = [range(-round(r), round(r) + 1) for r in radius]
        self.window = torch.tensor(list(product(*reach)), device=fixed.device)
        offsets = torch.cat([self.window * self.voxel, torch.ones(len(self.window), 1).to(fixed)], 1)
        self.shares = torch.linalg.solve(every.T, offsets.T).T.contiguous()  # of the corners in each point of a window

    def dissimilarity(self, field: NeuralField, centers: Tensor, side: int) -> Tensor:
        """How unlike the images are in windows around voxels (n, d) of the first, once the second is warped onto it;
        ``side``: 0 if the fixed image is the first."""
        start = ((centers + 0.5) * self.voxel)[:, None] + self.corners
        moved = start + field(start.flatten(0, 1)).view(start.shape)
        points = torch.einsum("pc,nci->npi", self.shares, moved)
        still = self._at(side, centers[:, None] + self.window)
        warped = self._sampled(1 - side, points)
        weights = None
        if self.seen:
            weights = (still[1] * warped[1].detach() > 0.5).to(points)
        if self.similarity == "lncc":
            return _local_correlation(still[0], warped[0], weights)
        flat = torch.ones_like(still[0]).flatten() if weights is None else weights.flatten()
        return make_similarity(self.similarity, still[0].flatten(), flat.clamp(min=1e-6), ())(warped[0].flatten())

    def _at(self, side: int, index: Tensor) -> Tensor:
        """An image, and what may be seen of it if that is not all, at voxels (n, p, d): (channels, n, p)."""
        index = torch.minimum(index.clamp(min=0), self.shape - 1)
        return self.images[side][(slice(None), *index.unbind(-1))]

    def _sampled(self, side: int, points: Tensor) -> Tensor:
        """The same at points (n, p, d) in units of length, between the voxels linearly."""
        require_finite(points.detach().flatten(0, 1))
        index = points / self.voxel - 0.5
        normalized = (2 * index / (self.shape - 1).clamp(min=1) - 1).flip(-1)
        d = points.shape[-1]
        images = self.images[side][None]
        found = F.grid_sample(
            images, normalized.reshape(1, -1, *[1] * (d - 1), d), padding_mode="border", align_corners=True
        )
        return found.view(len(images[0]), *points.shape[:2])


def simplex(d: int) -> Tensor:
    """The corners of a regular simplex on the unit sphere, (d + 1, d)."""
    corners = torch.eye(d + 1, dtype=torch.float64) - 1 / (d + 1)
    # In the d axes of the plane in which they lie.
    axes = torch.linalg.svd(corners)[2][:d]
    found = corners @ axes.T
    return found / found.norm(dim=1, keepdim=True)


def _local_correlation(still: Tensor, warped: Tensor, weights: Tensor | None) -> Tensor:
    """1 − cc² of windows (n, p), their mean; weights (n, p) of 0 or 1: what of them may be seen."""
    if weights is None:
        weights = torch.ones_like(still)
    count = weights.sum(1, keepdim=True).clamp(min=1)
    one, two = (weights * (x - (weights * x).sum(1, keepdim=True) / count) for x in (still, warped))
    count = count[:, 0]
    cross = (one * two).sum(1) / count
    product_ = (one.square().sum(1) / count + _GUARD) * (two.square().sum(1) / count + _GUARD)
    enough = (count >= _LEAST_SEEN * still.shape[1]).to(still)
    return (enough * (1 - cross.square() / product_)).sum() / enough.sum().clamp(min=1)
