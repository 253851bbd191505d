# SPDX-License-Identifier: Apache-2.0
"""Figures of whole images: similarity, determinants, voxels of labels; in torch, on the device where the arrays lie.

Arrays are NumPy's or tensors, and all of a call lie on one device. They are looked through in portions that stay in a
processor's cache, or that a GPU holds beside the rest; what is found is a number on the host.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from ..imaging.volume import LARGEST_COUNTED_LABEL
from ..support.torch_device import as_tensor, is_cuda

if TYPE_CHECKING:
    from torch import Tensor

    Array: TypeAlias = np.ndarray | Tensor

# Voxels looked through together.
VOXELS, DEVICE_VOXELS = 1 << 16, 1 << 22


def portions(values: Tensor, least: int = 1) -> Iterator[slice]:
    """Slices of a tensor along its first axis, of that many voxels at least."""
    most = DEVICE_VOXELS if is_cuda(str(values.device)) else VOXELS
    rows = max(1, max(most, least) // max(1, math.prod(values.shape[1:])))
    for start in range(0, len(values), rows):
        yield slice(start, start + rows)


def _inside(arrays: Sequence[Tensor], mask: Tensor | None) -> Iterator[list[Tensor]]:
    """Their values where the mask is true, or all, portion by portion."""
    for part in portions(arrays[0]):
        values = [x[part] for x in arrays]
        if mask is not None:
            where = mask[part].nonzero().flatten()
            values = [x.index_select(0, where) for x in values]
        if len(values[0]):
            yield values


def _flat(arrays: Sequence[Array | None]) -> list[Tensor | None]:
    shapes = {tuple(x.shape) for x in arrays if x is not None}
    if len(shapes) > 1:
        raise ValueError(f"all must have one shape, not {' and '.join(map(str, sorted(shapes)))}")
    return [None if x is None else as_tensor(_known(x)).reshape(-1) for x in arrays]


def _known(array: Array) -> Array:
    """An array of a type that torch knows well."""
    if isinstance(array, np.ndarray):
        if array.dtype.kind == "u" and array.dtype.itemsize > 1:
            return array.astype(np.int64)
        if not array.dtype.isnative:
            return array.astype(array.dtype.newbyteorder("="))
    return array


def ncc(a: Array, b: Array, mask: Array | None = None) -> float:
    """Normalized cross-correlation (Pearson's) of two images of one shape, -1..1, inside `mask` (bool) where given; nan
    where one of the images is constant or the mask is empty."""
    return similarities(a, [b], mask)[0]


def similarities(first: Array, others: Sequence[Array], mask: Array | None = None) -> list[float]:
    """`ncc` of one image and each of others, in one pass."""
    import torch

    *images, mask = _flat([first, *others, mask])
    # A first estimate of the means, so that the one pass over the data below does not cancel.
    shifts = torch.stack([x[:: max(1, len(x) // 4096)].double().mean() for x in images])
    sums, products, count = torch.zeros_like(shifts), shifts.new_zeros(len(images), len(images)), 0
    for values in _inside(images, mask):
        rows = torch.stack([x.double() for x in values]) - shifts[:, None]
        sums += rows.sum(1)
        products += rows @ rows.T
        count += rows.shape[1]
    if count == 0:
        return [math.nan] * len(others)
    covariances = products / count - torch.outer(sums, sums) / count**2
    variances, moments = covariances.diagonal(), (products.diagonal() / count).maximum(shifts.square())
    # False for nan as well. 1e-12 of the second moment is what rounding leaves of a constant.
    varies = variances > 1e-12 * moments
    found = (covariances[0] / (variances[0] * variances).sqrt()).clamp(-1, 1)
    return torch.where(varies & varies[0], found, math.nan)[1:].tolist()


def determinant_statistics(determinant: Array, mask: Array | None = None) -> dict[str, Any]:
    """Folds (determinant not > 0: count and percent of the voxels), extremes and spread of determinants.

    mask: bool, restricts to where it is true. sd_log_determinant is the standard deviation of the logarithm
    over the voxels that are not folded; nan if all are. Raises ValueError if there is no voxel to measure.
    """
    import torch

    size = regular = 0
    mean = squares = 0.0
    lowest, highest = [], []
    determinant, mask = _flat([determinant, mask])
    for (values,) in _inside([determinant], mask):
        low, high = values.aminmax()
        lowest.append(low)
        highest.append(high)
        size += len(values)
        positive = values > 0
        count = int(positive.count_nonzero())
        if count:
            logarithms = torch.where(positive, values, 1).log().double()
            own = float(logarithms.sum()) / count
            apart = torch.where(positive, logarithms - own, 0)
            # Means and squares of two parts together (Chan, Golub & LeVeque 1983).
            squares += float(apart.square().sum()) + (own - mean) ** 2 * count * regular / (count + regular)
            mean += (own - mean) * count / (count + regular)
            regular += count
    if size == 0:
        raise ValueError("no voxel to measure: the mask is empty")
    return {
        "folds": {"count": size - regular, "percent": 100.0 * (size - regular) / size},
        "smallest_determinant": float(torch.stack(lowest).amin()),
        "largest_determinant": float(torch.stack(highest).amax()),
        "sd_log_determinant": math.sqrt(squares / regular) if regular else math.nan,
    }


def label_counts(maps: Sequence[Array], pairs: Sequence[tuple[int, int]] = ()) -> tuple[list[int], np.ndarray]:
    """Labels (ascending, no 0) of all maps; and of each the voxels, int64 (maps and pairs, labels): per map, then where
    both maps of a pair have it."""
    import torch

    flat = _flat(maps)
    for labels in flat:
        if labels.is_floating_point() or labels.is_complex():
            raise ValueError(f"labels must be integers, not {labels.dtype}: round them first")
    flat = [x.to(torch.uint8) if x.dtype == torch.bool else x for x in flat]
    ends = [int(end) for x in flat if len(x) for end in x.aminmax()]
    low, high = min(ends, default=0), max(ends, default=0)
    table, zero = None, 0
    if low < 0 or high > LARGEST_COUNTED_LABEL:  # more than could be counted one by one
        found = [torch.unique(x[part].long()) for x in flat for part in portions(x)]
        table = torch.cat([flat[0].new_zeros(1, dtype=torch.int64), *found]).unique()
        zero = int((table == 0).nonzero())
    count = high + 1 if table is None else len(table)
    counts = torch.zeros(len(flat) + len(pairs), count, dtype=torch.int64, device=flat[0].device)
    for part in portions(flat[0], count):
        values = [x[part] for x in flat]
        if table is not None:
            values = [torch.searchsorted(table, x.long()) for x in values]
        values += [torch.where(values[i] == values[j], values[i], zero) for i, j in pairs]
        for row, value in zip(counts, values, strict=True):
            row += torch.bincount(value, minlength=count)
    used = counts[: len(flat)].sum(0) > 0
    used[zero] = False
    labels = used.nonzero().flatten() if table is None else table[used]
    return labels.tolist(), counts[:, used].cpu().numpy()
