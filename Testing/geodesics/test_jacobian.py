# SPDX-License-Identifier: Apache-2.0
"""Jacobian determinants: affine and hand-solved maps, and the divergence along a flow."""

from __future__ import annotations

import math

import pytest
import torch
from DeepFLASHRegistrationLib.geodesics.band import Band, Lattice, Metric
from DeepFLASHRegistrationLib.geodesics.flow import Flow
from DeepFLASHRegistrationLib.geodesics.jacobian import jacobian_determinant, smallest_determinant
from DeepFLASHRegistrationLib.geodesics.shooting import Shooting
from geodesic_fields import evaluate_at, points_of, velocity

DOUBLE = torch.float64


@pytest.mark.parametrize("d", [2, 3])
def test_an_affine_map_has_its_matrix_determinant_everywhere(d):
    lattice = Lattice((5, 4, 3)[:d], (0.5, 1.0, 2.0)[:d], (0.1, 0.2, 0.3)[:d])
    generator = torch.Generator().manual_seed(d)
    matrix = torch.eye(d, dtype=DOUBLE) + 0.3 * torch.randn(d, d, generator=generator, dtype=DOUBLE)
    x = points_of(lattice)
    u, exact = (x @ matrix.T - x).movedim(-1, 0), torch.linalg.det(matrix)
    torch.testing.assert_close(jacobian_determinant(u, lattice), exact.expand(lattice.shape), atol=1e-12, rtol=0)
    assert smallest_determinant(u, lattice) == pytest.approx(float(exact))


def test_a_mirror_has_determinant_minus_one():
    lattice = Lattice.cells((4, 4, 4), (4.0, 4.0, 4.0))
    u = torch.zeros(3, 4, 4, 4, dtype=DOUBLE)
    u[1] = -2 * points_of(lattice)[..., 1]
    torch.testing.assert_close(jacobian_determinant(u, lattice), torch.full((4, 4, 4), -1.0, dtype=DOUBLE))


def test_a_curved_map_has_its_hand_solved_determinant_to_second_order():
    """x ↦ x + a sin y, y ↦ y + b sin x·y has det = (1 + b sin x) − a b y cos x cos y."""
    errors = []
    for n in (30, 60):
        lattice = Lattice((n + 1, n + 1), (3 / n, 3 / n), (0.0, 0.0))
        x, y = points_of(lattice).unbind(-1)
        a, b = 0.4, 0.2
        u = torch.stack([a * torch.sin(y), b * torch.sin(x) * y])
        exact = 1 + b * torch.sin(x) - a * torch.cos(y) * b * y * torch.cos(x)
        errors.append(float((jacobian_determinant(u, lattice) - exact)[1:-1, 1:-1].abs().max()))
    assert math.log2(errors[0] / errors[1]) == pytest.approx(2, abs=0.15)


@pytest.mark.parametrize("band", [Band((7, 5), (24.0, 20.0)), Band((5, 3, 3), (14.0, 12.0, 13.0))], ids=["2d", "3d"])
def test_log_determinant_is_the_divergence_gathered_along_the_flow(band):
    s = Shooting(band, Metric(6.0, 2.0), DOUBLE)
    v0 = velocity(band, 1.2, smoothness=6.0)
    lattice = Lattice.cells(tuple(int(length * (4 if band.ndim == 2 else 2)) for length in band.lengths), band.lengths)
    u = Flow(band, lattice, DOUBLE).moving_to_fixed(s.shoot(v0, 20, "midpoint"))
    middle = tuple(slice(2 * n // 5, 3 * n // 5, 3) for n in lattice.shape)
    log = jacobian_determinant(u, lattice)[middle].log().flatten()
    x = points_of(lattice)[middle].flatten(0, -2)
    steps = 40
    gathered = torch.zeros(len(x), dtype=DOUBLE)
    for v in s.shoot(v0, steps, "rk4").middles:
        half = x + 0.5 / steps * evaluate_at(band, v, x)
        divergence = sum(band.derivative(v[i], i) for i in range(band.ndim))
        gathered += evaluate_at(band, divergence[None], half)[:, 0] / steps
        x = x + evaluate_at(band, v, half) / steps
    assert float(gathered.abs().max()) > 0.05
    torch.testing.assert_close(log, gathered, atol=0.005, rtol=0)
