# SPDX-License-Identifier: Apache-2.0
"""Sampling images, labels and displacement fields at displaced lattice points.

Arrays are (channels, *shape); displacements (d, *shape) in units of length; a lattice says where the samples lie.
Every sampler refuses coordinates that are not finite: torch's own may return wrong numbers for them, and its CPU
backward pass can end the process. (On a GPU it reads no further than the array, and what is recorded is refused later.)
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from .band import Lattice
from .captured import require


class NonFiniteField(ArithmeticError):
    """A displacement or coordinate is NaN or infinite; nothing was sampled."""


# Far beyond any image, and far below where a coordinate computed from it in single precision could overflow.
_LARGEST = 1e12
_LABEL_ROWS = 8  # slices of a label map looked at together
_CHUNK = 1 << 14  # points worked on at a time: what they need stays in the caches, and no thread waits for another
_DEVICE_CHUNK = 1 << 22
_WORTHWHILE = 1 << 16  # coordinates of points below which sampling is not divided
_PARTS = {False: 4, True: 2}  # by whether the array has a gradient, of which each part needs its own
_TIE = 1e-6  # weights that differ by less are equal


def require_finite(field: Tensor) -> None:
    """Raise NonFiniteField unless every value is finite and of a sane size."""
    if field.ndim == 2 and not field.is_contiguous():
        field = field.t()  # in the order of the memory this takes a tenth of the time
    low, high = torch.aminmax(field.detach())  # NaN if any value is
    error = NonFiniteField("The deformation is no longer finite: the geodesic blew up.")
    require((low > -_LARGEST) & (high < _LARGEST), error)


def identity_coordinates(lattice: Lattice, source: Lattice, dtype: torch.dtype, device: torch.device) -> Tensor:
    """Points of ``lattice`` as normalized coordinates (−1 … 1 at the outer centers) of ``source``: (1, *shape, d)."""
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

    def __init__(
        self, lattice: Lattice, source: Lattice, dtype: torch.dtype = torch.float32, device: str | torch.device = "cpu"
    ):
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

        def sampled(points: Tensor) -> Tensor:
            arrays = array.expand(len(points), *array.shape)
            return F.grid_sample(arrays, points, mode=mode, padding_mode=padding, align_corners=True)

        first = points.shape[1]
        parts = _PARTS[array.requires_grad]
        if points.device.type != "cpu" or points.numel() < _WORTHWHILE or first < parts:
            return sampled(points)[0]
        # On processors, torch takes the parts of a batch side by side, and one image on one core alone. The number of
        # parts does not follow that of the cores: same input, same numbers.
        whole = first - first % parts
        rows = points[:, :whole].reshape(parts, whole // parts, *points.shape[2:])
        values = sampled(rows).transpose(0, 1).flatten(1, 2)
        return values if whole == first else torch.cat([values, sampled(points[:, whole:])[0]], 1)

    def __call__(self, array: Tensor, displacement: Tensor, mode: str = "bilinear", padding: str = "border") -> Tensor:
        """array (c, *source.shape), displacement (d, *lattice.shape) -> (c, *lattice.shape)."""
        return self.at(array, self.identity + self.normalized(displacement), mode, padding)

    def with_slope(self, array: Tensor, displacement: Tensor) -> tuple[Tensor, Tensor]:
        """array (1, *source.shape) at displaced points, and its derivatives there by the displacement, (d, *shape).

        Those of the linear interpolation itself. They take the one pass over the array that the gradient of whatever
        becomes of the values takes anyway, which then is a product.
        """
        return _Sloped.apply(displacement, array, self)


class _Sloped(torch.autograd.Function):
    @staticmethod
    def forward(ctx, displacement, array, sampler):
        points = sampler.identity + sampler.normalized(displacement)
        with torch.enable_grad():
            points.requires_grad_()
            values = sampler.at(array, points)
            (slope,) = torch.autograd.grad(values.sum(), points)
        slope = (slope[0] * sampler._scale).movedim(-1, 0).flip(0)
        ctx.save_for_backward(slope)
        ctx.mark_non_differentiable(slope)
        return values.detach(), slope

    @staticmethod
    def backward(ctx, upstream, _):
        (slope,) = ctx.saved_tensors
        return slope * upstream, None, None


def compose(first: Tensor, second: Tensor, sample: Sampler) -> Tensor:
    """Displacement of the map that applies ``first``, then ``second``: x ↦ x + first(x) + second(x + first(x)).

    Args:
        first: (d, *sample.lattice.shape), in units of length.
        second: (d, *sample.source.shape), in the same units; continued by its border value.
    """
    return first + sample(second, first)


class LabelSampler:
    """Label of largest linear-interpolation weight at voxel coordinates: smooth borders, no label invented.

    What is prepared once takes as long as some ten million points: many points may come in parts.
    """

    def __init__(self, labels: Tensor) -> None:
        """`labels`: (*shape) integers."""
        if labels.is_floating_point() or labels.is_complex():
            raise TypeError(f"Labels must be integers, not {labels.dtype}.")
        self.shape, self._kind, d = labels.shape, labels.dtype, labels.ndim
        labels = labels.to(_roomy(labels))
        padded = F.pad(labels, (1, 1) * d)
        # By cell, that is between neighboring voxels: the label on which all its corners agree, else a mark.
        self._mark = torch.iinfo(labels.dtype).min
        cells = labels.new_empty([n - 1 for n in padded.shape])
        for start in range(0, len(cells), _LABEL_ROWS):
            lowest = highest = padded[start : start + _LABEL_ROWS + 1]
            for axis in range(d):
                n = lowest.shape[axis] - 1
                lowest = torch.minimum(lowest.narrow(axis, 0, n), lowest.narrow(axis, 1, n))
                highest = torch.maximum(highest.narrow(axis, 0, n), highest.narrow(axis, 1, n))
            cells[start : start + _LABEL_ROWS] = torch.where(lowest == highest, lowest, self._mark)
        self._strides, self._cell_strides = _strides(padded.shape), _strides(cells.shape)
        self._cells, self._padded = cells.reshape(-1), padded.reshape(-1)

    def __call__(self, index: Tensor) -> Tensor:
        """Labels (n,), of the same type, at coordinates (n, d) in voxels; outside the array every neighbor counts as 0,
        and of equal weights the smaller label wins."""
        require_finite(index)
        result = torch.empty(len(index), dtype=self._cells.dtype, device=self._cells.device)
        chunk = _CHUNK if index.device.type == "cpu" else _DEVICE_CHUNK
        for start in range(0, len(index), chunk):
            bases, cell = [], 0
            for axis, n in enumerate(self.shape):
                bases.append(self._place(index[start : start + chunk, axis], n).int().clamp_(max=n))
                cell = bases[axis] * self._cell_strides[axis] + cell
            chosen = self._cells.index_select(0, cell)
            mixed = (chosen == self._mark).nonzero().flatten()
            if len(mixed):
                first, parts = 0, []
                for axis, n in enumerate(self.shape):
                    base = bases[axis].index_select(0, mixed)
                    first = base * self._strides[axis] + first
                    parts.append(self._place(index[start : start + chunk, axis].index_select(0, mixed), n) - base)
                chosen.index_copy_(0, mixed, self._strongest(first, parts))
            result[start : start + chunk] = chosen
        return result.to(self._kind)

    @staticmethod
    def _place(index: Tensor, n: int) -> Tensor:
        """Where coordinates along an axis lie in the padded labels."""
        return index.clamp(-1, n) + 1

    def _strongest(self, first: Tensor, parts: list[Tensor]) -> Tensor:
        """The labels of the cells whose first corners are these, at parts (n,) of the way along each axis."""
        corners = list(itertools.product((0, 1), repeat=len(parts)))
        sides = [(1 - part, part) for part in parts]
        found = torch.stack(
            [
                self._padded.index_select(0, first + sum(c * s for c, s in zip(corner, self._strides, strict=True)))
                for corner in corners
            ]
        )
        weights = torch.stack([math.prod(side[c] for c, side in zip(corner, sides, strict=True)) for corner in corners])
        support = torch.stack([torch.where(found == label, weights, 0).sum(0) for label in found])
        # Of those that nobody exceeds, the smallest.
        lesser = support < support.amax(0) - _TIE
        return torch.where(lesser, torch.iinfo(found.dtype).max, found).amin(0)


def _roomy(labels: Tensor) -> torch.dtype:
    """The smallest type with all operations that holds these labels and, below them, a mark."""
    if not labels.numel():
        return torch.int64
    kind = torch.int32 if labels.dtype.itemsize < 4 or labels.dtype == torch.int32 else torch.int64
    low, high = map(int, labels.to(kind).aminmax())
    fitting = (t for t in (torch.int8, torch.int16) if torch.iinfo(t).min < low and high <= torch.iinfo(t).max)
    return next(fitting, kind)


def _normalized_index(index: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Voxel coordinates (n, d) as grid_sample's, (1, n, 1[, 1], d); a shape of one voxel stays at 0."""
    require_finite(index)
    d = len(shape)
    points = torch.stack([index[:, axis] * (2 / max(shape[axis] - 1, 1)) - 1 for axis in reversed(range(d))])
    return points.t().view(1, -1, *[1] * (d - 1), d)


def _inside(index: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Which points lie in the image with its voxels' extent: the outer half voxel takes the outer value, as in ITK."""
    inside = True
    for axis, n in enumerate(shape):  # one by one, since a reduction over so few is slow
        inside = (index[:, axis] >= -0.5) & (index[:, axis] < n - 0.5) & inside
    return inside


def sample_linear(image: Tensor, index: Tensor, outside: float = 0.0) -> Tensor:
    """Linear interpolation of an image (*shape) at voxel coordinates (n, d): (n,)."""
    values = F.grid_sample(
        image[None, None], _normalized_index(index, image.shape), padding_mode="border", align_corners=True
    ).reshape(-1)
    return torch.where(_inside(index, image.shape), values, outside)


def sample_nearest(image: Tensor, index: Tensor, outside: float = 0.0) -> Tensor:
    """The nearest voxel's value, of the image's own type, at voxel coordinates (n, d): (n,)."""
    require_finite(index)
    flat = 0
    for axis, n in enumerate(image.shape):
        near = (index[:, axis] + 0.5).clamp(0, n - 0.5).long()  # rounds down
        flat = flat * n + near
    values = image.reshape(-1).index_select(0, flat)
    return values.masked_fill_(~_inside(index, image.shape), outside)


def sample_cubic(image: Tensor, index: Tensor, outside: float = 0.0) -> Tensor:
    """Cubic convolution (Keys 1981) of an image (*shape) at voxel coordinates (n, d): (n,)."""
    require_finite(index)
    d = image.ndim
    padded = image
    for axis, n in enumerate(image.shape):  # the outer voxels continue
        padded = padded.index_select(axis, torch.arange(-1, n + 2, device=image.device).clamp(0, n - 1))
    strides = _strides(padded.shape)
    padded = padded.reshape(-1)
    result = image.new_empty(len(index))
    for start in range(0, len(index), _CHUNK):
        weights, first = [], 0
        for axis, n in enumerate(image.shape):
            position = index[start : start + _CHUNK, axis].clamp(0, n - 1)
            base = position.long()
            first = base * strides[axis] + first
            t = (position - base).to(image.dtype)
            weights.append(
                (
                    ((1 - 0.5 * t) * t - 0.5) * t,
                    (1.5 * t - 2.5) * t * t + 1,
                    ((2 - 1.5 * t) * t + 0.5) * t,
                    (0.5 * t - 0.5) * t * t,
                )
            )
        total = 0
        for taps in itertools.product(range(4), repeat=d - 1):
            line = first + sum(tap * stride for tap, stride in zip(taps, strides, strict=False))
            row = sum(weights[-1][tap] * padded.index_select(0, line + tap) for tap in range(4))
            total = total + math.prod(weights[axis][tap] for axis, tap in enumerate(taps)) * row
        result[start : start + _CHUNK] = total
    return torch.where(_inside(index, image.shape), result, outside)


def _strides(shape: Sequence[int]) -> list[int]:
    return [math.prod(shape[axis + 1 :]) for axis in range(len(shape))]
