# SPDX-License-Identifier: Apache-2.0
"""A direction to search along: limited-memory BFGS in the band."""

from __future__ import annotations

from collections import deque

from torch import Tensor

_MEMORY = 8  # pairs kept
# The similarity's curvature before the first step, in units of the metric's smallest. On brains it is 3 to 6, on crops
# of 1 mm 30 and more; but the first step is as long as it may be whatever this is, and the smoother, the better.
_WHITE_AT_FIRST = 4.0


class LBFGS:
    """Limited-memory BFGS that starts from what is known of the Hessian.

    The metric's part is diagonal in the band. Starting from it alone, a search finds the smooth part of a deformation
    first, and ends nearer the truth (phantom: 1.4 mm instead of 1.9). Once that part is known, what is left is detail:
    the similarity's curvature counts as well, and is nearly the same at all frequencies of the band (measured on brains
    by differences of gradients, within a factor of two), so that a multiple of the identity stands for it. How large
    that is, each step tells.
    """

    def __init__(self, metric_part: Tensor, detail: bool):
        """
        Args:
            metric_part: second derivatives of the regularization with respect to the coefficients.
            detail: whether the smooth part of the deformation is known already.
        """
        self.metric_part, self.detail = metric_part, detail
        self.white = _WHITE_AT_FIRST * float(metric_part.min()) if detail else 0.0
        self.pairs: deque[tuple[Tensor, Tensor, float]] = deque(maxlen=_MEMORY)

    def direction(self, gradient: Tensor) -> Tensor:
        """The step that leads to where the gradient is expected to vanish."""
        q = gradient.clone()
        alphas = []
        for s, y, rho in reversed(self.pairs):
            alphas.append(rho * float((s * q).sum()))
            q -= alphas[-1] * y
        diagonal = self.metric_part + self.white
        q /= diagonal
        if self.pairs:
            s, y, rho = self.pairs[-1]
            q *= 1 / (rho * float((y * y / diagonal).sum()))
        for (s, y, rho), a in zip(self.pairs, reversed(alphas), strict=True):
            q += (a - rho * float((y * q).sum())) * s
        return -q

    def update(self, s: Tensor, y: Tensor) -> None:
        """After a step ``s`` that changed the gradient by ``y``."""
        curvature, length = float((s * y).sum()), float(s.norm())
        if curvature > 1e-8 * length * float(y.norm()):
            self.pairs.append((s, y, 1 / curvature))
        if curvature > 0 and length > 0 and self.detail:
            unit = s / length
            self.white = max(0.0, curvature / length / length - float((self.metric_part * unit * unit).sum()))
