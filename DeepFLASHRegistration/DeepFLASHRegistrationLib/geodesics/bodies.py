# SPDX-License-Identifier: Apache-2.0
"""Parts of the fixed image that are to stay as they are: the energy asks how far a map, followed by a linear one,
takes them out of shape, or changes their volume.

With y(x) = M(x + u(x)) and weights w of unit sum over a part,

    rigid     D = min over turns R and shifts t of  Σ w ‖y − (s R x + t)‖² / r²         r² = Σ w ‖s x − s x̄‖²
    volume    D = (log Σ w |det Dy|/sᵈ)² + p Σ w (log |det Dy|/sᵈ)²

s being a unit of length. Both are 0 for what moves without changing, and of the order of a squared relative change.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from .band import Lattice, Upsampler
from .jacobian import jacobian_determinant
from .objective import Displaced, Objective, Side, box, upper

# Of the change of volume of each place beside that of the whole.
_EACH = 2e-4
# Determinants below it count as it: their logarithm is to stay finite.
_SMALLEST = 0.05


@dataclass(frozen=True)
class Body:
    """A part of the fixed image on cells of the domain.

    Attributes:
        weight: (*shape), how much of each cell belongs to it.
        linear: (d, d), M: from displacements in units of length to the moving side's mm.
        scale: s, mm of a unit of length.
        kind: what it keeps, "rigid" or "volume".
        lengths: edges of the domain.
    """

    weight: Tensor
    linear: Tensor
    scale: float
    kind: str
    lengths: tuple[float, ...]
    data_part: ClassVar[float] = 1.0

    @property
    def like(self) -> Tensor:
        return self.weight

    @property
    def weights(self) -> tuple[Tensor, ...]:
        return (self.weight,)

    def reduced(self, factors: Sequence[int]) -> Body:
        """Itself: small structures need all voxels, and few levels are too many for them."""
        return self

    def sides(self, objective: Objective, velocity: Tensor) -> list[Side]:
        return [(_Rigid if self.kind == "rigid" else _Volume)(objective, self)]


class _BodySide:
    """See Side: what both kinds share."""

    direction = "fixed_to_moving"
    weight, steers, square = 1.0, False, True

    def __init__(self, objective: Objective, body: Body):
        lower, end = box(body.weight > 0, (1,) * body.weight.ndim)
        whole = Lattice.cells(tuple(body.weight.shape), body.lengths)
        self.cells = whole.box(lower, end)
        share = body.weight[tuple(slice(a, b) for a, b in zip(lower, end, strict=True))]
        self.covered = float(body.weight.mean())
        self.share, self.linear, self.scale = share / share.sum(), body.linear.to(share), body.scale
        self.upsample = Upsampler(objective.flow.lattice, self.cells, share.dtype, share.device)
        axes = [self.cells.positions(axis, share.dtype, share.device) for axis in range(share.ndim)]
        self.places = torch.stack(torch.meshgrid(*axes, indexing="ij"))

    def at_rest(self) -> Tensor:
        return self.changed(torch.zeros_like(self.places))

    def __call__(self, displacement: Tensor) -> tuple[Tensor, Displaced]:
        return self.changed(self.upsample(displacement)), Displaced(displacement.detach())

    def changed(self, u: Tensor) -> Tensor:
        """D for a displacement on the side's cells, (d, *cells)."""
        raise NotImplementedError


class _Rigid(_BodySide):
    def __init__(self, objective: Objective, body: Body):
        super().__init__(objective, body)
        places = self.scale * self.places
        self.source = places - (self.share * places).flatten(1).sum(1).view(-1, *[1] * self.share.ndim)
        self.mirrored = float(torch.sign(torch.linalg.det(self.linear)))
        self.size = float(
            (self.share * self.source.square().sum(0)).sum().clamp(min=torch.finfo(self.share.dtype).tiny)
        )

    def changed(self, u: Tensor) -> Tensor:
        y = torch.einsum("ij,j...->i...", self.linear, self.places + u)
        y = y - (self.share * y).flatten(1).sum(1).view(-1, *[1] * self.share.ndim)
        # The nearest turn (Kabsch 1976). At the minimum over turns its own change does not count.
        with torch.no_grad():
            moment = torch.einsum("i...,j...->ij", self.share * y, self.source)
            left, _, right = torch.linalg.svd(moment)
            signs = torch.ones(len(moment), dtype=y.dtype, device=y.device)
            # The domain's axes may be a mirror image of space's, which M takes back.
            signs[-1] = self.mirrored * torch.sign(torch.linalg.det(left @ right))
            turn = left * signs @ right
        return (self.share * (y - torch.einsum("ij,j...->i...", turn, self.source)).square().sum(0)).sum() / self.size

    def curvature(self, sight: Displaced) -> Tensor:
        """As if the turn stayed."""
        metric = self.linear.t() @ self.linear / self.size
        return torch.stack([2 * metric[i, j] * self.share for i, j in upper(len(metric))])


class _Volume(_BodySide):
    def __init__(self, objective: Objective, body: Body):
        super().__init__(objective, body)
        self.first = abs(float(torch.linalg.det(self.linear.double()))) / self.scale ** len(self.linear)

    def changed(self, u: Tensor) -> Tensor:
        determinant = self._determinant(u)
        whole = (self.share * determinant).sum().log().square()
        return whole + _EACH * (self.share * determinant.log().square()).sum()

    def residual(self, displacement: Tensor) -> Tensor:
        """By how much the volume changes, as a logarithm."""
        return (self.share * self._determinant(self.upsample(displacement))).sum().log()

    def _determinant(self, u: Tensor) -> Tensor:
        return (jacobian_determinant(u, self.cells) * self.first).clamp(min=_SMALLEST)

    def curvature(self, sight: Displaced) -> Tensor:
        """None that is of one place: what changes a volume is how the displacement differs between places."""
        return self.share.new_zeros(len(upper(self.share.ndim)), *self.share.shape)
