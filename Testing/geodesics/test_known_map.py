# SPDX-License-Identifier: Apache-2.0
"""A geodesic that is fitted to a known map: energy, gradient and curvature, and that a geodesic's own map is found."""

from __future__ import annotations

import pytest
import torch
from DeepFLASHRegistrationLib.geodesics.band import Band, Lattice, Metric
from DeepFLASHRegistrationLib.geodesics.flow import Flow
from DeepFLASHRegistrationLib.geodesics.known_map import KnownMap
from DeepFLASHRegistrationLib.geodesics.objective import Level, Objective, Settings
from DeepFLASHRegistrationLib.geodesics.search import curvature as curvatures
from DeepFLASHRegistrationLib.geodesics.search.curvature import Curvature
from DeepFLASHRegistrationLib.geodesics.search.descent import Ending
from DeepFLASHRegistrationLib.geodesics.search.flash import minimize
from DeepFLASHRegistrationLib.geodesics.shooting import Shooting
from geodesic_fields import particles, points_of, velocity

DOUBLE = torch.float64
METRIC = Metric(2.0, 2.0)
CASES = {"2d": ((24, 20), (9, 7)), "3d": ((16, 14, 12), (5, 5, 5))}


def problem(name, size=1.0, weight=None):
    """The map of a velocity, followed particle by particle; the level, and the velocity."""
    shape, modes = CASES[name]
    lengths = tuple(float(n) for n in shape)
    band = Band(modes, lengths)
    v = velocity(band, size, 3, smoothness=8.0)
    points = points_of(Lattice.cells(shape, lengths)).reshape(-1, len(shape))
    moved = particles(Shooting(band, METRIC, DOUBLE), v, points, "fixed_to_moving", 40)
    u = (moved - points).T.reshape(len(shape), *shape)
    weight = torch.ones(shape, dtype=DOUBLE) if weight is None else weight
    return KnownMap(u, weight, lengths), Level((1,) * len(shape), band, METRIC, (1.0,) * len(shape), 12, 0.999), v


def settings(sigma=1e-3, steps=0):
    return Settings(sigma=sigma, integrator="rk4", steps=steps, tolerance=1e-6)


@pytest.mark.parametrize("name", CASES)
def test_the_velocity_of_a_geodesics_own_map_is_found(name):
    known, level, v = problem(name)
    found = minimize(known, [level], settings(1e-4, 8))
    assert float((found.velocity - v).norm() / v.norm()) < 0.02
    assert found.endings[-1] in (Ending.CONVERGED, Ending.BOUND, Ending.STUCK)


@pytest.mark.parametrize("name", CASES)
def test_the_dissimilarity_is_the_mean_square_of_what_is_left(name):
    shape = CASES[name][0]
    weight = torch.rand(shape, generator=torch.Generator().manual_seed(1), dtype=DOUBLE)
    known, level, v = problem(name, weight=weight)
    objective = Objective(known, level, settings(0.5, 8), None, v)
    assert objective(v).dissimilarity < 1e-3
    rest = float((weight * known.displacement.square().sum(0)).sum() / weight.sum())
    at_rest = objective(torch.zeros_like(v))
    assert at_rest.dissimilarity == pytest.approx(rest, rel=1e-9)
    assert at_rest.energy == pytest.approx(objective.at_rest(), rel=1e-9) == pytest.approx(rest / (2 * 0.25))


@pytest.mark.parametrize("name", CASES)
def test_the_gradient_is_that_of_differences(name):
    known, level, v = problem(name)
    at = 0.4 * v
    objective = Objective(known, level, settings(0.3, 6), None, at)
    gradient = objective(at).gradient
    for seed in (5, 6):
        w, h = velocity(level.band, 1.0, seed), 1e-5
        expected = (objective(at + h * w).energy - objective(at - h * w).energy) / (2 * h)
        assert float((gradient * w).sum()) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("name", CASES)
def test_where_maps_agree_the_product_is_the_second_derivative(name, monkeypatch):
    monkeypatch.setattr(curvatures, "_ISOTROPIC", 0.0)
    known, level, v = problem(name, 0.3)
    objective = Objective(known, level, settings(0.05, 8), None, v)
    curvature = Curvature(objective)
    curvature.look(objective(v))
    for seed in (5, 6):
        w, h = velocity(level.band, 1.0, seed, smoothness=60.0), 1e-5
        expected = (objective(v + h * w).gradient - objective(v - h * w).gradient) / (2 * h)
        found = curvature.product(w)
        data = float(((expected - curvature.metric * w) * w).sum())
        assert data > 0.3 * float((expected * w).sum())  # the metric alone would not do
        assert float(((found - curvature.metric * w) * w).sum()) == pytest.approx(data, rel=0.12)
        assert float((found * expected).sum()) > 0.98 * float(found.norm() * expected.norm())


def test_what_is_not_known_has_no_weight():
    known, level, _ = problem("2d")
    hidden = known.weight.clone()
    hidden[:, :8] = 0
    other = known.displacement.clone()
    other[:, :, :8] = 7.0
    one, two = (
        minimize(KnownMap(u, hidden, known.lengths), [level], settings(0.1)) for u in (known.displacement, other)
    )
    torch.testing.assert_close(one.velocity, two.velocity, rtol=0, atol=0)


def test_blocks_hold_the_weighted_mean():
    known, _, _ = problem("2d", weight=torch.rand(24, 20, generator=torch.Generator().manual_seed(2), dtype=DOUBLE))
    reduced = known.reduced((2, 4))
    block = (slice(None), slice(4, 6), slice(8, 12))
    w = known.weight[block[1:]]
    by_hand = (known.displacement[block] * w).sum((1, 2)) / w.sum()
    torch.testing.assert_close(reduced.displacement[:, 2, 2], by_hand)
    assert float(reduced.weight[2, 2]) == pytest.approx(float(w.mean()))
    with pytest.raises(ValueError, match="do not divide"):
        known.reduced((5, 3))


def test_a_map_that_folds_is_met_by_one_that_does_not():
    """Voxels of a line are exchanged: no diffeomorphism does that; the nearest geodesic stays one to one."""
    shape, lengths = (32, 32), (32.0, 32.0)
    x = torch.arange(32, dtype=DOUBLE)
    fold = 4.0 * torch.sin((x - 8) / 16 * 2 * torch.pi) * ((x > 8) & (x < 24))
    u = torch.stack([torch.zeros(shape, dtype=DOUBLE), fold.expand(shape)])
    assert float((1 + torch.gradient(u[1], dim=1)[0]).min()) < -0.3
    level = Level((1, 1), Band((15, 15), lengths), METRIC, (1.0, 1.0), 20, 0.999)
    found = minimize(KnownMap(u, torch.ones(shape, dtype=DOUBLE), lengths), [level], settings(0.05))
    flow = Flow(level.band, Lattice.cells((64, 64), lengths), DOUBLE)
    trajectory = Shooting(level.band, METRIC, DOUBLE).shoot(found.velocity, 40, "rk4")
    near = flow.fixed_to_moving(trajectory)
    assert float((1 + torch.gradient(near[1], spacing=0.5, dim=1)[0]).min()) > 0
    assert float((near[1][::2, ::2] - u[1]).abs().mean()) < 0.6 * float(u[1].abs().mean())


def test_nothing_known_is_refused():
    known, level, _ = problem("2d")
    with pytest.raises(ValueError, match="nothing to compare"):
        minimize(KnownMap(known.displacement, 0 * known.weight, known.lengths), [level], settings())
