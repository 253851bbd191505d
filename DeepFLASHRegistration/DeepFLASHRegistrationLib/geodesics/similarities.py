# SPDX-License-Identifier: Apache-2.0
"""Dissimilarities between a fixed and a warped image: each a mean over a mask, 0 at best, differentiable.

The fixed image and the mask are given once; what depends on them alone is computed once. Each term is of order one per
voxel, so that one weight serves all resolutions.

Each also knows its ``curvature``: per voxel, a second derivative by the warped image there, never negative. It is that
of Gauss and Newton: how the dissimilarity grows about its minimum, with the parts left out that could make it negative.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

# Of a squared correlation: what is added to it in the curvature.
_AGREEING = 0.1
# Of a variance: below it the curvature of a window no longer grows (intensities in 0 … 1).
_FLAT = 1e-5
# Part of a voxel that is none: windows of whole voxels stay whole, whatever rounding makes of their width.
_NO_PART = 1e-5


def box_sum(x: Tensor, radius: tuple[float, ...]) -> Tensor:
    """Sum over a centered window of 2r + 1 voxels along each of the last axes; zero outside. Separable.

    Of the outermost voxels of a window that ends within them, as much counts as lies inside: a window that is a little
    wider differs a little.
    """
    for axis, r in enumerate(radius):
        if r == 0:
            continue
        dim = x.ndim - len(radius) + axis
        n = x.shape[dim]
        out = x.clone()
        for s in range(1, min(math.ceil(r - _NO_PART), n - 1) + 1):
            part = 1.0 if s <= r + _NO_PART else r - s + 1
            out.narrow(dim, 0, n - s).add_(x.narrow(dim, s, n - s), alpha=part)
            out.narrow(dim, s, n - s).add_(x.narrow(dim, 0, n - s), alpha=part)
        x = out
    return x


class _LocalCorrelation(torch.autograd.Function):
    """mean(1 − cc²) with its gradient written out: three box filters forward, three backward, nothing kept but them."""

    @staticmethod
    def forward(ctx, warped, term):
        fixed, fixed_variance, count, radius = term.fixed, term.variance, term.count, term.radius
        mean = box_sum(warped, radius) / count
        cross = box_sum(warped * fixed, radius) / count - mean * term.mean
        variance = (box_sum(warped * warped, radius) / count - mean * mean).clamp_(min=0)
        denominator = variance.add_(term.guard).mul_(fixed_variance)
        slope = cross / denominator  # cc² = cross · slope
        value = (term.weight * (1 - cross * slope)).sum()
        if ctx.needs_input_grad[0]:
            p = (-2 * term.weight) * slope / count
            q = (2 * term.weight) * (slope * slope) * fixed_variance / count
            r = p.mul(term.mean).addcmul_(q, mean).neg_()
            ctx.save_for_backward(box_sum(p, radius), box_sum(q, radius), box_sum(r, radius), warped, fixed)
        return value

    @staticmethod
    def backward(ctx, upstream):
        p, q, r, warped, fixed = ctx.saved_tensors
        return (torch.addcmul(torch.addcmul(r, p, fixed), q, warped)) * upstream, None


class LocalCorrelation:
    """1 − squared correlation in a window around each voxel, averaged over the mask.

    cc² = cov(I, J)² / ((var I + guard)(var J + guard)): insensitive to bias fields and to locally inverted contrast.
    The guard keeps windows without contrast at 0, and in single precision it must stay well above the rounding
    error of a
    variance, 1e-7 for intensities in 0 … 1: else a flat window opposite a structured one pulls hundreds of times harder
    than any true edge.
    """

    def __init__(
        self, fixed: Tensor, mask: Tensor, radius: tuple[float, ...], guard: float = 1e-6, support: Tensor | None = None
    ):
        """``support`` (0 or 1): which voxels windows may look at, all by default; ``mask``: where windows center."""
        self.support = support
        if support is not None:
            fixed = fixed * support
        self.fixed, self.radius, self.guard = fixed, radius, guard
        self.count = box_sum(torch.ones_like(fixed) if support is None else support, radius).clamp(min=1)
        self.mean = box_sum(fixed, radius) / self.count
        self.variance = (box_sum(fixed * fixed, radius) / self.count - self.mean**2).clamp(min=0) + guard
        self.weight = mask / mask.sum()

    def __call__(self, warped: Tensor) -> Tensor:
        if self.support is not None:
            warped = warped * self.support
        return _LocalCorrelation.apply(warped, self)

    def curvature(self, warped: Tensor) -> Tensor:
        """2 cc²/var J per window, which is that of changes at right angles to both images; a little more, so that
        windows that do not agree yet are not free to go anywhere."""
        if self.support is not None:
            warped = warped * self.support
        mean = box_sum(warped, self.radius) / self.count
        cross = box_sum(warped * self.fixed, self.radius) / self.count - mean * self.mean
        variance = (box_sum(warped * warped, self.radius) / self.count - mean * mean).clamp_(min=0)
        squared = cross * cross / ((variance + self.guard) * self.variance)
        return box_sum(2 * self.weight * (squared + _AGREEING) / ((variance + _FLAT) * self.count), self.radius)


class SquaredDifferences:
    """Mean squared difference over the mask."""

    def __init__(self, fixed: Tensor, mask: Tensor):
        self.fixed, self.weight = fixed, mask / mask.sum()

    def __call__(self, warped: Tensor) -> Tensor:
        return (self.weight * (warped - self.fixed) ** 2).sum()

    def curvature(self, warped: Tensor) -> Tensor:
        return 2 * self.weight


class GlobalCorrelation:
    """1 − squared Pearson correlation over the mask."""

    def __init__(self, fixed: Tensor, mask: Tensor):
        self.weight = mask / mask.sum()
        self.fixed = fixed - (self.weight * fixed).sum()
        self.variance = (self.weight * self.fixed**2).sum()

    def __call__(self, warped: Tensor) -> Tensor:
        centered = warped - (self.weight * warped).sum()
        cross = (self.weight * self.fixed * centered).sum()
        return 1 - cross**2 / (self.variance * (self.weight * centered**2).sum() + 1e-12)

    def curvature(self, warped: Tensor) -> Tensor:
        centered = warped - (self.weight * warped).sum()
        spread = (self.weight * centered**2).sum()
        squared = (self.weight * self.fixed * centered).sum() ** 2 / (self.variance * spread + 1e-12)
        return 2 * self.weight * (squared + _AGREEING) / (spread + _FLAT)


class MutualInformation:
    """1 − normalized mutual information 2·I(F; M)/(H(F) + H(M)) over the mask, from a Parzen histogram (Mattes et al.
    2003): cubic B-spline window for the warped image, nearest bin for the fixed one. Intensities in 0 … 1."""

    def __init__(self, fixed: Tensor, mask: Tensor, bins: int = 32):
        self.bins = bins
        self.selected = (mask.flatten() > 0).nonzero().flatten()
        self.weight = (mask.flatten()[self.selected] / mask.sum()).contiguous()
        self.rows = (fixed.flatten()[self.selected].clamp(0, 1) * (bins - 1)).round().long()

    def __call__(self, warped: Tensor) -> Tensor:
        # Two spare bins on each side hold the tails of the window.
        position = warped.flatten()[self.selected].clamp(0, 1) * (self.bins - 1) + 2
        base = position.detach().floor()
        t = position - base
        # Values that are no numbers stay in the histogram: a GPU that is told to write beside it stops for good.
        base = base.long().clamp(2, self.bins + 1) - 1
        windows = ((1 - t) ** 3 / 6, (3 * t**3 - 6 * t**2 + 4) / 6, (-3 * t**3 + 3 * t**2 + 3 * t + 1) / 6, t**3 / 6)
        width = self.bins + 4
        joint = warped.new_zeros(self.bins * width)
        for offset, w in enumerate(windows):
            joint = joint.index_add(0, self.rows * width + base + offset, w * self.weight)
        joint = joint.view(self.bins, width)

        def entropy(p: Tensor) -> Tensor:
            return -(p * torch.log(p.clamp(min=1e-12))).sum()

        fixed, moving, both = entropy(joint.sum(1)), entropy(joint.sum(0)), entropy(joint)
        return 1 - 2 * (fixed + moving - both) / (fixed + moving).clamp(min=1e-12)

    def curvature(self, warped: Tensor) -> Tensor:
        """1/(H · variance of the warped image where the fixed one is alike), H the fixed image's entropy: if the
        warped values of a bin are normally distributed, their information is ½ log of how much that variance is below
        the whole one. A variance counts as no smaller than a bin's."""
        values = warped.flatten()[self.selected]
        moments = torch.stack([self.weight, self.weight * values, self.weight * values * values])
        count, first, second = moments.new_zeros(3, self.bins).index_add(1, self.rows, moments)
        mean = first / count.clamp(min=1e-12)
        variance = (second / count.clamp(min=1e-12) - mean * mean).clamp(min=1 / (self.bins - 1) ** 2)
        entropy = -((count * torch.log(count.clamp(min=1e-12))).sum().clamp(max=-0.5))
        result = torch.zeros_like(warped).flatten()
        result[self.selected] = self.weight / (entropy * variance[self.rows])
        return result.view(warped.shape)


# By name, what makes a dissimilarity of a fixed image, a mask, a window's radius, and what windows may look at.
MAKERS = {
    "lncc": lambda fixed, mask, radius, support: LocalCorrelation(fixed, mask, radius, support=support),
    "ncc": lambda fixed, mask, radius, support: GlobalCorrelation(fixed, mask),
    "ssd": lambda fixed, mask, radius, support: SquaredDifferences(fixed, mask),
    "mi": lambda fixed, mask, radius, support: MutualInformation(fixed, mask),
}


def make_similarity(name: str, fixed: Tensor, mask: Tensor, radius: tuple[float, ...], support: Tensor | None = None):
    """The named dissimilarity for a fixed image (*shape), a mask of weights (*shape) and a window radius in voxels."""
    if name not in MAKERS:
        raise ValueError(f"Unknown similarity {name!r}; choose one of {', '.join(MAKERS)}.")
    return MAKERS[name](fixed, mask, radius, support)
