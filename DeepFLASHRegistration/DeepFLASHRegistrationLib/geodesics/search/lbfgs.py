# SPDX-License-Identifier: Apache-2.0
"""Limited-memory BFGS: what steps have taught about the Hessian, on top of what is known of it."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from torch import Tensor

_MEMORY = 8  # pairs kept
# The similarity's curvature before the first step, in units of the metric's smallest. On brains it is 3 to 6, on crops
# of 1 mm 30 and more; but the first step is as long as it may be whatever this is, and the smoother, the better.
_WHITE_AT_FIRST = 4.0


class Memory:
    """The last steps and by how much each changed the gradient."""

    def __init__(self) -> None:
        self.pairs: deque[tuple[Tensor, Tensor, float]] = deque(maxlen=_MEMORY)

    def direction(self, gradient: Tensor, solve: Callable[[Tensor], Tensor]) -> Tensor:
        """The step that leads to where the gradient is expected to vanish (Nocedal's two loops).

        Args:
            solve: the inverse of what is known of the Hessian times a gradient. How large it is altogether, the last
                step tells.
        """
        q = gradient
        alphas = []
        for s, y, rho in reversed(self.pairs):
            alphas.append(rho * float((s * q).sum()))
            q = q - alphas[-1] * y
        q = solve(q)
        if self.pairs:
            s, y, rho = self.pairs[-1]
            q = q * (1 / (rho * float((y * solve(y)).sum())))
        for (s, y, rho), a in zip(self.pairs, reversed(alphas), strict=True):
            q = q + (a - rho * float((y * q).sum())) * s
        return -q

    def update(self, s: Tensor, y: Tensor) -> float:
        """After a step ``s`` that changed the gradient by ``y``; s·y."""
        curvature = float((s * y).sum())
        if curvature > 1e-8 * float(s.norm()) * float(y.norm()):
            self.pairs.append((s, y, 1 / curvature))
        return curvature


class LBFGS:
    """Limited-memory BFGS that starts from what is known of the Hessian on the diagonal.

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
        self.memory = Memory()

    def direction(self, gradient: Tensor) -> Tensor:
        """The step that leads to where the gradient is expected to vanish."""
        diagonal = self.metric_part + self.white
        return self.memory.direction(gradient, lambda q: q / diagonal)

    def update(self, s: Tensor, y: Tensor) -> None:
        """After a step ``s`` that changed the gradient by ``y``."""
        curvature, length = self.memory.update(s, y), float(s.norm())
        if curvature > 0 and length > 0 and self.detail:
            unit = s / length
            self.white = max(0.0, curvature / length / length - float((self.metric_part * unit * unit).sum()))
