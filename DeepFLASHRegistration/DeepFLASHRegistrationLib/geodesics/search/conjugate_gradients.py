# SPDX-License-Identifier: Apache-2.0
"""Solving a symmetric positive definite system by conjugate gradients (Hestenes & Stiefel 1952)."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor


def solved(
    product: Callable[[Tensor], Tensor],
    right: Tensor,
    precondition: Callable[[Tensor], Tensor],
    products: int,
    tolerance: float,
) -> Tensor:
    """x of A x = ``right``, from zero.

    Args:
        product: A times a tensor.
        precondition: about A⁻¹ times a tensor, symmetric and positive definite too.
        products: most products.
        tolerance: it ends where the residual, in the norm of the preconditioner, is this part of the first one.

    Returns:
        What is found until then. If a product shows that A is not positive, or no finite number, it ends before that
        one: with the preconditioned right side if it was the first.
    """
    x, residual = torch.zeros_like(right), right
    along = precondition(residual)
    size = first = float((residual * along).sum())
    for number in range(products):
        if not 0 < size < math.inf or (number and size <= tolerance * tolerance * first):
            break
        image = product(along)
        curvature = float((along * image).sum())
        if not 0 < curvature < math.inf:
            return x if number else along
        length = size / curvature
        x, residual = x + length * along, residual - length * image
        preconditioned = precondition(residual)
        size, before = float((residual * preconditioned).sum()), size
        along = preconditioned + (size / before) * along
    return x
