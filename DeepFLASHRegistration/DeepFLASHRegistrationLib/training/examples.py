# SPDX-License-Identifier: Apache-2.0
"""Pairs to learn from, made on the device from what `drawing` drew: deformed, painted and degraded.

No value is looked at on the way and all shapes are fixed, so that a whole update can be captured as one graph.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ..geodesics.band import Band, Lattice, Metric, Upsampler
from ..geodesics.batched import BatchedFlow, BatchedShooting
from ..learning.blocks import LINEAR
from ..problem.deformation import border_window
from .drawing import Drawing

# The random geodesics: smooth, as the paper's; on a lattice of so many voxels.
_METRIC = Metric(18.0, 3.0)
_MODES = 15
_COARSE = 4
_STEPS = 4
_STEEPEST = 1.6  # of their velocity: more, and so few steps do not follow it
BORDER = 6.0  # voxels over which velocities fade out at the border of packs


def window(lattice: Lattice) -> Tensor:
    """Weights of the velocity on a pack's grid."""
    lengths = tuple(s * n for s, n in zip(lattice.step, lattice.shape, strict=True))
    return border_window(lattice, lengths, BORDER)


@dataclass(frozen=True)
class Images:
    """n = 2 × pairs images: as the network sees them, as they are judged, and their label codes, (n, *shape); labels
    that count (n, k), and by how much; momenta of the pairs where they are known, (pairs, d, *shape). What lies beyond
    the edge at which an image was cut out of its scan is not `known`, a boolean (n, *shape)."""

    seen: Tensor
    clean: Tensor
    labels: Tensor
    chosen: Tensor
    weights: Tensor
    known: Tensor
    momenta: Tensor | None = None


class Maker:
    """Makes images of draws."""

    def __init__(self, drawing: Drawing, device: str | torch.device):
        shape = drawing.shape
        self.device, self.shape = torch.device(device), shape
        self.volumes = torch.from_numpy(drawing.volumes()).to(device)
        momenta = drawing.momenta()
        self.extents = torch.from_numpy(drawing.extents()).to(device)
        self.momenta = None if momenta is None else torch.from_numpy(momenta).to(device)
        lengths = tuple(map(float, shape))
        longest = max(lengths)
        modes = tuple(max(3, 2 * round((_MODES * length / longest - 1) / 2) + 1) for length in lengths)
        band = Band(modes, lengths)
        coarse = Lattice.cells(tuple(n // _COARSE for n in shape), lengths)
        self.shooting = BatchedShooting(band, _METRIC, torch.float32, device)
        self.flow = BatchedFlow(band, coarse, torch.float32, device, window)
        self.fine = Upsampler(coarse, Lattice.cells(shape, lengths), torch.float32, device)
        self.root = self.shooting.K.sqrt()
        axes = [torch.arange(n, dtype=torch.float32) for n in shape]
        self.index = torch.stack(torch.meshgrid(*axes, indexing="ij")).to(device)
        # Voxel coordinates to those of grid_sample, last axis first.
        self.scale = torch.tensor([2 / (n - 1) for n in shape[::-1]]).to(device)

    def tensors(self, draw: Mapping[str, np.ndarray]) -> dict[str, Tensor]:
        """A draw on the device."""
        return {key: torch.from_numpy(value).to(self.device) for key, value in draw.items()}

    @torch.no_grad()
    def __call__(self, draw: Mapping[str, Tensor]) -> Images:
        at = self._points(draw)
        extents = self.extents.index_select(0, draw["codes"])
        first, last = extents.view(*extents.shape, *[1] * len(self.shape)).unbind(1)
        known = ((at >= first) & (at <= last)).all(1)
        points = at.flip(1).movedim(1, -1) * self.scale - 1
        codes = self.volumes.index_select(0, draw["codes"])
        n = len(codes)
        flat = codes.reshape(n, -1).long()
        mean, spread, clean = (draw[key].gather(1, flat).view(codes.shape) for key in ("mean", "spread", "clean"))
        seen = (mean + spread * torch.randn_like(mean)).clamp_(min=0)
        # Beyond its grid an image goes on as at its border: so it does where it is cut out of a larger one.
        seen, clean = _sampled(torch.stack([seen, clean], 1), points, "bilinear", "border").unbind(1)
        labels = self.volumes.index_select(0, draw["labels"]).float()
        labels = _sampled(labels[:, None], points, "nearest")[:, 0]
        momenta = self._momenta(draw) if "taught" in draw else None
        return Images(self._scanned(seen, draw), clean, labels, draw["chosen"], draw["chosen_weights"], known, momenta)

    def _momenta(self, draw: Mapping[str, Tensor]) -> Tensor:
        found = self.momenta.index_select(0, draw["taught"])
        for axis in range(len(self.shape)):
            sign = torch.ones(len(self.shape), dtype=found.dtype, device=found.device)
            sign[axis] = -1
            other = found.flip(2 + axis) * sign.view(-1, *[1] * len(self.shape))
            found = torch.where(draw["mirrored"][:, axis].view(-1, *[1] * other[0].ndim), other, found)
        return found

    def _points(self, draw: Mapping[str, Tensor]) -> Tensor:
        """Where each voxel's value lies in its subject, in voxels (n, d, *shape)."""
        n = len(draw["rms"])
        v = torch.randn((n, len(self.shape), *self.shooting.band.modes), device=self.device) * self.root
        rms = v.square().flatten(1).sum(1).sqrt()
        factor = draw["rms"] / rms.clamp(min=1e-12)
        factor = torch.minimum(factor, _STEEPEST / self.shooting.steepest(v).clamp(min=1e-12))
        v = v * factor.view(-1, *[1] * (v.ndim - 1))
        u = self.fine(self.flow.fixed_to_moving(self.shooting.middles(v, _STEPS)))
        x = (self.index + u).flatten(2)
        matrices = draw["matrices"]
        x = matrices[:, :, :-1] @ x + matrices[:, :, -1:]
        return x.view(u.shape)

    def _scanned(self, seen: Tensor, draw: Mapping[str, Tensor]) -> Tensor:
        """Bias field, gamma, noise, point spread and thick slices, and noise again."""
        per_image = (-1, *[1] * len(self.shape))
        bias = F.interpolate(draw["bias"], size=self.shape, mode=LINEAR[len(self.shape)], align_corners=True)[:, 0]
        seen = seen * bias.exp()
        seen = seen.clamp(min=0, max=4) ** draw["gamma"].view(per_image)
        noise = draw["noise"]
        seen = (seen + noise[:, 0].view(per_image) * torch.randn_like(seen)).abs()
        for axis in range(len(self.shape)):
            # One matrix per image along one axis: (n, out, in) times (n, …, in, …).
            x = seen.movedim(axis + 1, 1)
            x = (draw[f"resolution_{axis}"] @ x.flatten(2)).view(x.shape)
            seen = x.movedim(1, axis + 1)
        return (seen + noise[:, 1].view(per_image) * torch.randn_like(seen)).clamp(min=0)


def _sampled(arrays: Tensor, points: Tensor, mode: str, padding: str = "zeros") -> Tensor:
    return F.grid_sample(arrays, points, mode=mode, padding_mode=padding, align_corners=True)
