# SPDX-License-Identifier: Apache-2.0
"""Sampling images, labels and displacement fields at displaced lattice points.

Arrays are (channels, *shape); displacements (d, *shape) in units of length; a lattice says where the samples lie.
Every sampler refuses coordinates that are not finite: torch's own may return wrong numbers for them, and its CPU
backward pass can end the process.
"""

from __future__ import annotations

import itertools

import torch
import torch.nn.functional as F
from torch import Tensor

from .band import Lattice


class NonFiniteField(ArithmeticError):
    """A displacement or coordinate is NaN or infinite; nothing was sampled."""


# Far beyond any image, and far below where a coordinate computed from it in single precision could overflow.
_LARGEST = 1e12


def require_finite(field: Tensor) -> None:
    """Raise NonFiniteField unless every value is finite and of a sane size."""
    low, high = torch.aminmax(field.detach())  # NaN if any value is
    if not bool((low > -_LARGEST) & (high < _LARGEST)):
        raise NonFiniteField("The deformation is no longer finite: the geodesic blew up.")


def identity_coordinates(lattice: Lattice, source: Lattice, dtype: torch.dtype, device: torch.device) -> Tensor:
    """Points of ``lattice`` as normalized coordinates (−1 … 1 at the outer cell centers) of ``source``: (1, *shape, d)."""
    axes = []
    for a in range(lattice.ndim):
        index = (lattice.positions(a) - source.origin[a]) / source.step[a]
        axes.append((2 * index / max(source.shape[a] - 1, 1) - 1).to(device=device, dtype=dtype))
    grids = torch.meshgrid(*axes, indexing="ij")
    return torch.stack(grids[::-1], -1)[None]


def scale_to_normalized(source: Lattice, dtype: torch.dtype, device: torch.device) -> Tensor:
    """Factors (d,) that turn a displacement in units into normalized coordinates, last axis first."""
    factors = [2 / (source.step[a] * max(source.shape[a] - 1, 1)) for a in range(source.ndim)]
    return torch.tensor(factors[::-1], dtype=dtype, device=device)


class Sampler:
    """Samples arrays given on ``source`` at the points of ``lattice`` displaced by a field."""

    def __init__(self, lattice: Lattice, source: Lattice, dtype: torch.dtype = torch.float32, device: str | torch.device = "cpu"):
        device = torch.device(device)
        self.lattice, self.source = lattice, source
        self.identity = identity_coordinates(lattice, source, dtype, device)
        self._scale = scale_to_normalized(source, dtype, device)

    def normalized(self, displacement: Tensor) -> Tensor:
        """A displacement (d, …) in units as a difference of normalized coordinates (1, …, d)."""
        require_finite(displacement)
        return (displacement.flip(0).movedim(0, -1) * self._scale)[None]

    def at(self, array: Tensor, points: Tensor, mode: str = "bilinear", padding: str = "border") -> Tensor:
        """array (c, *source.shape) at normalized coordinates (1, …, d) -> (c, …); finite coordinates only."""
        return F.grid_sample(array[None], points, mode=mode, padding_mode=padding, align_corners=True)[0]

    def __call__(self, array: Tensor, displacement: Tensor, mode: str = "bilinear", padding: str = "border") -> Tensor:
        """array (c, *source.shape), displacement (d, *lattice.shape) -> (c, *lattice.shape)."""
        return self.at(array, self.identity + self.normalized(displacement), mode, padding)


def compose(first: Tensor, second: Tensor, sample: Sampler) -> Tensor:
    """Displacement of the map that applies ``first``, then ``second``: x ↦ x + first(x) + second(x + first(x)).

    Args:
        first: (d, *sample.lattice.shape), in units of length.
        second: (d, *sample.source.shape), in the same units; continued by its border value.
    """
    return first + sample(second, first)


def sample_labels(labels: Tensor, index: Tensor) -> Tensor:
    """Label of largest linear-interpolation weight at voxel coordinates: smooth borders, no label invented.

    Args:
        labels: (*shape) integers.
        index: (n, d) coordinates in voxels; outside the array every neighbor counts as 0.

    Returns:
        (n,) labels; of equal weights the smaller label wins.
    """
    if not bool(torch.isfinite(index).all()):
        raise NonFiniteField("Labels cannot be sampled at coordinates that are not finite.")
    d = labels.ndim
    padded = F.pad(labels, (1, 1) * d)
    size = torch.tensor(padded.shape, device=index.device)
    index = torch.minimum((index + 1).clamp(min=0), size - 1 - 1e-4)
    base = index.floor()
    part = index - base
    strides = [1]
    for n in reversed(padded.shape[1:]):
        strides.insert(0, strides[0] * n)
    first = sum(base[:, a].long() * strides[a] for a in range(d))
    flat = padded.reshape(-1)
    corners = [sum(strides[a] for a in range(d) if c >> a & 1) for c in range(2**d)]
    found = torch.stack([flat[first + o] for o in corners])
    result = found[0].clone()
    # Only where the corners disagree is there anything to weigh.
    mixed = (found != found[0]).any(0).nonzero().flatten()
    if len(mixed):
        found, part = found[:, mixed], part[mixed]
        weights = torch.stack([
            torch.stack([part[:, a] if c >> a & 1 else 1 - part[:, a] for a in range(d)]).prod(0) for c in range(2**d)])
        totals = torch.zeros_like(weights)
        for c in range(2**d):
            totals[c] = (weights * (found == found[c])).sum(0)
        best = totals.max(0).values
        candidates = torch.where(totals >= best - 1e-6, found, torch.iinfo(found.dtype).max)
        result[mixed] = candidates.min(0).values
    return result


def _normalized_index(index: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Voxel coordinates (n, d) as grid_sample's, (1, n, 1[, 1], d); a shape of one voxel stays at 0."""
    if not bool(torch.isfinite(index).all()):
        raise NonFiniteField("An image cannot be sampled at coordinates that are not finite.")
    last = torch.tensor([max(n - 1, 1) for n in shape], dtype=index.dtype, device=index.device)
    points = (2 * index / last - 1).flip(-1)
    return points.reshape(1, -1, *[1] * (len(shape) - 1), len(shape))


def _inside(index: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Which points lie in the box of voxel centers, as ITK's interpolators ask (with a little room for rounding)."""
    last = torch.tensor([n - 1 for n in shape], dtype=index.dtype, device=index.device)
    return ((index >= -1e-3) & (index <= last + 1e-3)).all(-1)


def sample_linear(image: Tensor, index: Tensor, outside: float = 0.0) -> Tensor:
    """Linear interpolation of an image (*shape) at voxel coordinates (n, d): (n,)."""
    values = F.grid_sample(image[None, None], _normalized_index(index, image.shape), padding_mode="border",
                           align_corners=True).reshape(-1)
    return torch.where(_inside(index, image.shape), values, outside)


def sample_nearest(image: Tensor, index: Tensor, outside: float = 0.0) -> Tensor:
    """The nearest voxel's value, of the image's own type, at voxel coordinates (n, d): (n,)."""
    if not bool(torch.isfinite(index).all()):
        raise NonFiniteField("An image cannot be sampled at coordinates that are not finite.")
    last = torch.tensor([n - 1 for n in image.shape], device=index.device)
    near = torch.minimum((index + 0.5).floor().long().clamp(min=0), last)
    values = image[tuple(near.unbind(-1))]
    inside = ((index >= -0.5) & (index < last + 0.5)).all(-1)
    return torch.where(inside, values, torch.tensor(outside, dtype=image.dtype, device=image.device))


def sample_cubic(image: Tensor, index: Tensor, outside: float = 0.0) -> Tensor:
    """Cubic convolution (Keys 1981) of an image (*shape) at voxel coordinates (n, d): (n,)."""
    d = image.ndim
    inside = _inside(index, image.shape)
    if not bool(torch.isfinite(index).all()):
        raise NonFiniteField("An image cannot be sampled at coordinates that are not finite.")
    last = torch.tensor([n - 1 for n in image.shape], dtype=index.dtype, device=index.device)
    index = torch.minimum(index.clamp(min=0), last)
    base = index.floor()
    t = index - base
    weights = []
    for offset in (-1, 0, 1, 2):
        x = (t - offset).abs()
        far = ((-0.5 * x + 2.5) * x - 4) * x + 2
        weights.append(torch.where(x <= 1, (1.5 * x - 2.5) * x * x + 1, torch.where(x < 2, far, torch.zeros_like(x))))
    total = torch.zeros(len(index), dtype=image.dtype, device=image.device)
    for offsets in itertools.product(range(4), repeat=d):
        at = [(base[:, a].long() + o - 1).clamp(0, image.shape[a] - 1) for a, o in enumerate(offsets)]
        weight = weights[offsets[0]][:, 0]
        for a in range(1, d):
            weight = weight * weights[offsets[a]][:, a]
        total += weight * image[tuple(at)]
    return torch.where(inside, total, outside)
