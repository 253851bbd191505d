# SPDX-License-Identifier: Apache-2.0
"""Solving a symmetric positive definite system by conjugate gradients (Hestenes & Stiefel 1952)."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from ..captured import Captured


class _State(NamedTuple):
    """The solution so far, what is left of the right side, where to go next, and the size of what is left."""

    x: Tensor
    residual: Tensor
    along: Tensor
    size: Tensor


def solved(
    product: Callable[[Tensor], Tensor],
    right: Tensor,
    precondition: Callable[[Tensor], Tensor],
    products: int,
    tolerance: float,
    captured: Captured | None = None,
) -> Tensor:
    """x of A x = ``right``, from zero.

    Args:
        product: A times a tensor.
        precondition: about A⁻¹ times a tensor, symmetric and positive definite too.
        products: most products.
        tolerance: it ends where the residual, in the norm of the preconditioner, is this part of the first one.
        captured: calls with the same ``product`` and ``precondition``, of which only the tensors' values differ.

    Returns:
        What is found until then. If a product shows that A is not positive, or no finite number, it ends before that
        one: with the preconditioned right side if it was the first.
    """

    def advanced(x: Tensor, residual: Tensor, along: Tensor, size: Tensor) -> tuple[_State, Tensor]:
        """After one more product; A's curvature along it, and the size of what is left."""
        image = product(along)
        curvature = (along * image).sum()
        length = size / curvature
        x, residual = x + length * along, residual - length * image
        preconditioned = precondition(residual)
        left = (residual * preconditioned).sum()
        return _State(x, residual, preconditioned + (left / size) * along, left), torch.stack([curvature, left])

    captured = captured or Captured(False)
    along = precondition(right)
    now = _State(torch.zeros_like(right), right, along, (right * along).sum())
    size = first = float(now.size)
    for number in range(products):
        if not 0 < size < math.inf or (number and size <= tolerance * tolerance * first):
            break
        following, figures = captured(advanced, *now)
        curvature, size = figures.tolist()
        if not 0 < curvature < math.inf:
            return now.x if number else now.along
        now = following
    return now.x
