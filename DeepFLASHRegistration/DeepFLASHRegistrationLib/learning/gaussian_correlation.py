# SPDX-License-Identifier: Apache-2.0
"""Local correlation in Gaussian windows, as the ICON family compares images."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

_GUARD = 1e-5  # of variances, for intensities of 0..1


class GaussianCorrelation(nn.Module):
    """1 − mean of cov(I, J) / √((var I + guard)(var J + guard)) in windows of a Gaussian, cut off at 2σ.

    Beyond the images there is zero, as in icon_registration; or, where a support says what is known, nothing.

    Args:
        shape: of the images.
        sigma: of the Gaussian, in voxels.
        squared: whether the mean is that of the squares, to which the sign of a correlation is all one.
    """

    def __init__(self, shape: Sequence[int], sigma: int = 5, squared: bool = False):
        super().__init__()
        self.squared = squared
        for axis, n in enumerate(shape):
            apart = torch.arange(n)[:, None] - torch.arange(n)
            reach = torch.arange(-2 * sigma, 2 * sigma + 1)
            window = torch.exp(-0.5 * (apart / sigma) ** 2) * (apart.abs() <= 2 * sigma)
            self.register_buffer(f"blur_{axis}", window / torch.exp(-0.5 * (reach / sigma) ** 2).sum())
        self.ndim = len(shape)

    def forward(self, one: Tensor, other: Tensor, support: Tensor | None = None) -> Tensor:
        """Images (n, *shape) -> a number, 0 at best.

        Args:
            support: 0 or 1, of the same shape: which voxels count; all by default.
        """
        if support is not None:
            one, other = one * support, other * support
        x = [one, other, one * other, one * one, other * other]
        x = torch.stack(x if support is None else [*x, support])
        for axis in range(self.ndim):
            x = (x.movedim(2 + axis, -1) @ getattr(self, f"blur_{axis}")).movedim(-1, 2 + axis)
        if support is not None:
            x = x[:-1] / x[-1].clamp(min=_GUARD)
        i, j, both, ii, jj = x
        variances = [(square - mean * mean).relu() + _GUARD for square, mean in ((ii, i), (jj, j))]
        correlation = (both - i * j) / (variances[0] * variances[1]).sqrt()
        if self.squared:
            correlation = correlation.square()
        if support is None:
            return 1 - correlation.mean()
        return 1 - (support * correlation).sum() / support.sum().clamp(min=1.0)
