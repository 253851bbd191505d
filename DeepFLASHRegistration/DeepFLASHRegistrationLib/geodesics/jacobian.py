# SPDX-License-Identifier: Apache-2.0
"""Jacobian determinants of maps on a lattice."""

from __future__ import annotations

import torch
from torch import Tensor

from .band import Lattice


def jacobian_determinant(displacement: Tensor, lattice: Lattice) -> Tensor:
    """det D(id + u) by central differences, one-sided at the border: (d, *shape) in units -> (*shape)."""
    d = lattice.ndim
    return _determinant([torch.gradient(displacement, spacing=lattice.step[a], dim=a + 1)[0] for a in range(d)])


def _determinant(columns: list[Tensor]) -> Tensor:
    """det(I + G) from columns G[:, a] = ∂u/∂x_a, each (d, *shape)."""
    d = len(columns)
    rows = [[columns[a][i] + (1.0 if a == i else 0.0) for a in range(d)] for i in range(d)]
    if d == 2:
        return rows[0][0] * rows[1][1] - rows[0][1] * rows[1][0]
    (a, b, c), (e, f, g), (h, i, j) = rows
    return a * (f * j - g * i) - b * (e * j - g * h) + c * (e * i - f * h)


def smallest_determinant(displacement: Tensor, lattice: Lattice) -> float:
    """Smallest determinant on the lattice."""
    return float(jacobian_determinant(displacement, lattice).min())
