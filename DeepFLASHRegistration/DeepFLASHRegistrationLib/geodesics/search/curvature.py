# SPDX-License-Identifier: Apache-2.0
"""The curvature of E in the band, after Gauss and Newton: what the energy's second derivative is without its parts that
could make it negative, as a product with a change of v0.

A change w of v0 changes a warped image at x by ∇M(x)·δψ(x). Seen as a small deformation before the geodesic, δψ is
−J w where x came from: at ψ₁(x), where v0 lives. Of J, which EPDiff decides, only what is local is kept: a fine wave of
v0 is carried along like momentum, so that J = ∫₀¹ (DφₜᵀDφₜ)⁻¹ dt, which the mean of both ends stands for,
½(I + Dψ₁ Dψ₁ᵀ). Then

    D''(w, w) = Σ_x c(x) (a(x)·w(ψ₁(x)))²,   a = ½(I + Dψ₁ Dψ₁ᵀ) ∇M,

c the similarity's curvature. Its tensors c·a⊗a are summed over blocks of voxels, carried to the points of a lattice
that carries the band's products, and stay there: a product costs d fields evaluated, one small matrix per point, and d
fields projected, and no geodesic. What J leaves out turns directions a little, so that a wave along the edges of an
image would seem free; a part of each tensor counts in all directions.
"""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ..band import Evaluator, Lattice, Upsampler
from ..objective import Evaluation, Objective, Stiff, upper
from ..sampling import Sampler

# Part of each tensor that counts in all directions.
_ISOTROPIC = 0.1
# Determinants of a map below it count as it where the map is inverted.
_SMALLEST = 0.05


class Curvature:
    """Second derivatives of E with respect to the coefficients of v0, as far as they are kept.

    Attributes:
        metric: those of the regularization, which is diagonal; (*modes).
        white, sure: those of the dissimilarity, on average over the diagonal; of what is all but a square apart.
    """

    def __init__(self, objective: Objective):
        band, like = objective.level.band, objective.like
        lattice = band.product_lattice()
        self.metric = 2 * objective.metric_weight * objective.shooting.L
        self.white = self.sure = 0.0
        self._evaluate = Evaluator(band, lattice, like.dtype, like.device)
        self._points = math.prod(lattice.shape)
        self._blocks = [_Blocks(objective, index, lattice) for index in range(len(objective.sides))]
        self._damping = None if objective.window is None else objective.window(lattice).to(like).square()
        self._stiff = [objective.data_weight * side.weight for side in objective.sides if isinstance(side, Stiff)]
        self._normals: Tensor | None = None
        self._sure: Tensor | None = None
        # (d, d, *lattice.shape), always in the same place: products may be recorded.
        self._tensors: Tensor | None = None

    def look(self, evaluation: Evaluation) -> None:
        """Take the curvature where this was evaluated."""
        pairs = upper(self._evaluate.band.ndim)
        rows = self._rows(evaluation, False)
        self._tensors = _full(rows, pairs, self._tensors)
        if any(map(_is_sure, self._blocks)):
            self._sure = _full(self._rows(evaluation, True), pairs, self._sure)
            self.sure = float(sum(self._sure[i, i] for i in range(len(self._sure))).sum()) / len(self._sure)
        if self._stiff:
            scale = evaluation.normals.new_tensor(self._stiff).mul_(2).sqrt_()
            normals = evaluation.normals.flatten(1) * scale[:, None]
            self._normals = normals if self._normals is None else self._normals.copy_(normals)
        trace = sum(row for row, (i, j) in zip(rows, pairs, strict=True) if i == j)
        self.white = float(trace.sum()) / self._evaluate.band.ndim

    def _rows(self, evaluation: Evaluation, sure: bool) -> Tensor:
        """The sum of the sides' tensors of one kind, as upper triangles."""
        each = zip(self._blocks, evaluation.sights, strict=True)
        rows = sum(blocks(sight) for blocks, sight in each if _is_sure(blocks) is sure)
        return rows if self._damping is None else rows * self._damping

    def product(self, change: Tensor, part: float = 1.0) -> Tensor:
        """The curvature times a change of v0, (d, *modes); the dissimilarity's counts by ``part``, but for what is all
        but a square."""
        fields = self._evaluate(change)
        values = (self._tensors * fields).sum(1)
        found = self.metric * change + (part * self._points) * self._evaluate.project(values)
        if self._sure is not None:
            found = found + self._points * self._evaluate.project((self._sure * fields).sum(1))
        if self._normals is None:
            return found
        return found + (self._normals.t() @ (self._normals @ change.flatten())).view_as(found)


class _Blocks:
    """One side's tensors: from the level's cells, in blocks, to the points of a lattice."""

    def __init__(self, objective: Objective, index: int, lattice: Lattice):
        self.side, self.lattice = objective.sides[index], lattice
        self.weight = objective.data_weight * self.side.weight
        like, part = objective.like, self.side.cells
        # About as fine as the lattice; blocks that the box does not fill are left out.
        self.block = tuple(
            max(1, min(n, round(h / s))) for n, s, h in zip(part.shape, part.step, lattice.step, strict=True)
        )
        shape = tuple(n // b for n, b in zip(part.shape, self.block, strict=True))
        self.inside = tuple(slice(0, n * b) for n, b in zip(shape, self.block, strict=True))
        self.cells = Lattice(
            shape,
            tuple(s * b for s, b in zip(part.step, self.block, strict=True)),
            tuple(o + s * (b - 1) / 2 for o, s, b in zip(part.origin, part.step, self.block, strict=True)),
        )
        self.upsample = Upsampler(objective.flow.lattice, self.cells, like.dtype, like.device)
        self.sample = Sampler(self.cells, lattice, like.dtype, like.device)

    def __call__(self, sight: Any) -> Tensor:
        """The tensors' upper triangles, (pairs, *lattice.shape)."""
        d = self.lattice.ndim
        pairs = upper(d)
        with torch.no_grad():
            tensors = _full(self._summed(self.weight * self.side.curvature(sight)), pairs)
            displacement = self.upsample(sight.displacement)
            derivative = _derivative(displacement, self.cells)
            forth = self.side.direction == "fixed_to_moving"
            turn = (_mean_metric if forth else _mean_pull)(derivative)
            tensors = torch.einsum("ik...,kl...,jl...->ij...", turn, tensors, turn)
            trace = sum(tensors[i, i] for i in range(d)) / d
            tensors *= 1 - _ISOTROPIC
            for i in range(d):
                tensors[i, i] += _ISOTROPIC * trace
            rows = torch.stack([tensors[i, j] for i, j in pairs])
            # v0 lives where the moving image does: the other side sees it there.
            points = self.sample.identity + (self.sample.normalized(displacement) if forth else 0)
        empty = rows.new_zeros(len(pairs), *self.lattice.shape, requires_grad=True)
        # What the points would take of the lattice's values, the values take of the points. (Of a sum: gradients of
        # anything else make torch import half a second's worth of what is not needed.)
        return torch.autograd.grad((self.sample.at(empty, points) * rows).sum(), empty)[0]

    def _summed(self, rows: Tensor) -> Tensor:
        if all(b == 1 for b in self.block):
            return rows
        pool = F.avg_pool3d if len(self.block) == 3 else F.avg_pool2d
        return pool(rows[(slice(None), *self.inside)][None], self.block)[0] * math.prod(self.block)


def _is_sure(blocks: _Blocks) -> bool:
    return blocks.side.steers and blocks.side.square


def _full(rows: Tensor, pairs: list[tuple[int, int]], full: Tensor | None = None) -> Tensor:
    """Symmetric matrices (d, d, …) of their upper triangles (pairs, …), written to ``full`` if that is given."""
    d = pairs[-1][0] + 1
    full = rows.new_empty(d, d, *rows.shape[1:]) if full is None else full
    for row, (i, j) in zip(rows, pairs, strict=True):
        full[i, j] = full[j, i] = row
    return full


def _derivative(displacement: Tensor, lattice: Lattice) -> Tensor:
    """D(id + u), (d, d, *shape): [i, j] = ∂_j of component i; along an axis of one cell nothing changes."""
    d = lattice.ndim
    result = torch.zeros(d, *displacement.shape, dtype=displacement.dtype, device=displacement.device)
    for axis, n in enumerate(lattice.shape):
        if n > 1:
            result[axis] = torch.gradient(displacement, spacing=lattice.step[axis], dim=axis + 1)[0]
        result[axis, axis] += 1
    return result.transpose(0, 1)


def _mean_metric(derivative: Tensor) -> Tensor:
    """½(I + D Dᵀ) of D (d, d, *shape)."""
    product = torch.einsum("ik...,jk...->ij...", derivative, derivative) * 0.5
    for i in range(len(product)):
        product[i, i] += 0.5
    return product


def _mean_pull(derivative: Tensor) -> Tensor:
    """½(Dᵀ + D⁻¹): the same for the way back, whose map is φ₁, and whose image shows v0's own place."""
    rows = derivative
    if len(rows) == 2:
        (a, b), (c, e) = rows
        adjugate = torch.stack([torch.stack([e, -b]), torch.stack([-c, a])])
        determinant = a * e - b * c
    else:
        columns = [torch.linalg.cross(rows[(i + 1) % 3], rows[(i + 2) % 3], dim=0) for i in range(3)]
        adjugate = torch.stack(columns, 1)
        determinant = (rows[0] * columns[0]).sum(0)
    return 0.5 * (rows.transpose(0, 1) + adjugate / determinant.clamp(min=_SMALLEST))
