# SPDX-License-Identifier: Apache-2.0
"""Where a sampled map folds, and by how much it scales volumes: both at once, in torch, on any device.

`metrics.folded_voxels` and `metrics.jacobian_determinant` say the same of an array; here the simplices share their
products, and the determinant by central differences is the mean of those of the simplices at a voxel, since a
determinant is linear in each edge.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from torch import Tensor


def folds_and_determinants(field: Tensor, step: np.ndarray) -> tuple[Tensor, Tensor]:
    """Of the map x -> x + field(x), at all voxels but the outer ones.

    Args:
        field: float32 (d, *shape), mm.
        step: (d, d), column a the step in mm along axis a.

    Returns:
        Where it folds by the strict criterion, bool, and its determinants by central differences, float32; each by two
        smaller than shape along each axis. What is not a number counts as folded.
    """
    import torch

    d, field = len(field), field.contiguous()
    edges = [_edges(field, step[:, axis], axis) for axis in range(d)]
    sign = 1.0 if np.linalg.det(step) > 0 else -1.0
    # Of each axis the edges before and behind a voxel.
    beside = [[_inner(edge, axis, behind) for behind in (0, 1)] for axis, edge in enumerate(edges)]
    lowest = total = None
    for rest in itertools.product(*beside[1:]):
        normal = _normal(rest)
        for first in beside[0]:
            volume = _product(first, normal)
            if lowest is None:
                lowest, total = (volume * sign), volume
                continue
            lowest = torch.minimum(lowest, volume if sign > 0 else -volume)  # NaN if any is
            total = total.add_(volume)
    folded = ~(lowest > 0)
    if d == 3:
        for volume, touched in _inner_tetrahedra(edges):
            bad = ~(volume * sign > 0)
            for corner in touched:
                folded |= bad[tuple(slice(1 - c, n - c) for c, n in zip(corner, bad.shape, strict=True))]
    return folded, total.mul_(1 / (2**d * float(np.linalg.det(step))))


def _edges(field: Tensor, step: np.ndarray, axis: int) -> list[Tensor]:
    """The components of the edges along an axis."""
    n = field.shape[axis + 1]
    differences = field.narrow(axis + 1, 1, n - 1) - field.narrow(axis + 1, 0, n - 1)
    for component, value in zip(differences, step.tolist(), strict=True):
        if value:
            component += value
    return list(differences)


def _inner(edge: Sequence[Tensor], axis: int, behind: int) -> list[Tensor]:
    """Of edges along an axis, those that end (0) or begin (1) at each voxel but the outer ones."""
    window = [slice(1, -1)] * edge[0].ndim
    window[axis] = slice(behind, edge[0].shape[axis] - 1 + behind)
    return [component[tuple(window)] for component in edge]


def _normal(edges: Sequence[Sequence[Tensor]]) -> list[Tensor]:
    """What an edge is multiplied by to make a determinant with those of the other axes."""
    import torch

    if len(edges) == 1:
        ((b0, b1),) = edges
        return [b1, -b0]
    b, c = edges
    return [torch.addcmul(b[i] * c[j], b[j], c[i], value=-1) for i, j in ((1, 2), (2, 0), (0, 1))]


def _product(edge: Sequence[Tensor], normal: Sequence[Tensor]) -> Tensor:
    result = edge[0] * normal[0]
    for a, b in zip(edge[1:], normal[1:], strict=True):
        result.addcmul_(a, b)
    return result


def _inner_tetrahedra(edges: Sequence[Sequence[Tensor]]) -> list[tuple[Tensor, list[tuple[int, ...]]]]:
    """Volumes, six times, of the tetrahedra between the even corners of each cell and between the odd ones, and which
    corners these are. Each by its three edges at 000 or 111 (face diagonals of the cell)."""

    def along(axis: int, at: tuple[int, int, int]) -> list[Tensor]:
        """The edges along an axis beside a corner of the cells."""
        parts = edges[axis]
        window = tuple(
            slice(None) if other == axis else slice(at[other], parts[0].shape[other] - 1 + at[other])
            for other in range(3)
        )
        return [component[window] for component in parts]

    def sums(*pairs: tuple[tuple[int, tuple[int, int, int]], ...]) -> Tensor:
        first, *rest = ([a + b for a, b in zip(along(*one), along(*other), strict=True)] for one, other in pairs)
        return _product(first, _normal(rest))

    even = sums(((0, (0, 0, 0)), (1, (1, 0, 0))), ((1, (0, 0, 0)), (2, (0, 1, 0))), ((2, (0, 0, 0)), (0, (0, 0, 1))))
    odd = sums(((0, (0, 1, 1)), (1, (0, 0, 1))), ((1, (1, 0, 1)), (2, (1, 0, 0))), ((0, (0, 1, 1)), (2, (0, 1, 0))))
    corners = list(itertools.product((0, 1), repeat=3))
    return [(even, [c for c in corners if sum(c) % 2 == 0]), (odd, [c for c in corners if sum(c) % 2 == 1])]
