# SPDX-License-Identifier: Apache-2.0
"""Structures that are to stay as they are: what the energy asks of maps whose strain is known, and its derivatives."""

from __future__ import annotations

import math

import pytest
import torch
from DeepFLASHRegistrationLib.geodesics.band import Band, Lattice, Metric
from DeepFLASHRegistrationLib.geodesics.bodies import Body
from DeepFLASHRegistrationLib.geodesics.known_map import KnownMap
from DeepFLASHRegistrationLib.geodesics.objective import Level, Objective, Part, Settings, Together
from DeepFLASHRegistrationLib.geodesics.search.curvature import Curvature
from DeepFLASHRegistrationLib.geodesics.search.flash import minimize
from geodesic_fields import velocity

DOUBLE = torch.float64
CASES = {"2d": ((24, 20), (9, 7)), "3d": ((16, 14, 12), (5, 5, 5))}
METRIC = Metric(2.0, 2.0)


def turned(d, degrees=20.0):
    matrix = torch.eye(d, dtype=DOUBLE)
    c, s = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    matrix[:2, :2] = torch.tensor([[c, -s], [s, c]], dtype=DOUBLE)
    return matrix


def body(name, kind, linear=None, scale=1.0):
    shape, modes = CASES[name]
    lengths = tuple(float(n) for n in shape)
    weight = torch.zeros(shape, dtype=DOUBLE)
    weight[tuple(slice(n // 3, n - n // 3) for n in shape)] = 1.0
    linear = scale * torch.eye(len(shape), dtype=DOUBLE) if linear is None else linear
    band = Band(modes, lengths)
    level = Level((1,) * len(shape), band, METRIC, (1.0,) * len(shape), 12, 0.999)
    return Body(weight, linear, scale, kind, lengths), level


def objective(what, level, v=None, sigma=0.5):
    v = torch.zeros(len(level.band.modes), *level.band.modes, dtype=DOUBLE) if v is None else v
    return Objective(what, level, Settings(sigma=sigma, integrator="rk4", steps=6), None, v)


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("kind", ["rigid", "volume"])
@pytest.mark.parametrize("mirrored", [False, True])
def test_a_turn_costs_nothing_however_the_axes_lie(name, kind, mirrored):
    d, scale = len(CASES[name][0]), 1.7
    linear = scale * turned(d)
    if mirrored:  # the domain's first axis runs the other way in space
        linear[:, 0] *= -1
    what, level = body(name, kind, linear, scale)
    assert objective(what, level).at_rest() == pytest.approx(0.0, abs=1e-12)


@pytest.mark.parametrize("name", CASES)
def test_of_a_stretch_each_kind_asks_what_it_says(name):
    """An affine map that stretches one axis by a factor f: of the volume log f squared; of the shape what is left of
    the stretch after the best turn, none here, over the mean square of the distances from the middle."""
    f, d = 1.1, len(CASES[name][0])
    linear = torch.eye(d, dtype=DOUBLE)
    linear[0, 0] = f
    what, level = body(name, "volume", linear)
    assert objective(what, level, sigma=math.sqrt(0.5)).at_rest() == pytest.approx(
        math.log(f) ** 2 * (1 + 2e-4), rel=1e-9
    )
    what, level = body(name, "rigid", linear)
    index = torch.stack(torch.meshgrid(*[torch.arange(n, dtype=DOUBLE) for n in what.weight.shape], indexing="ij"))
    inside = index[:, what.weight > 0]
    offsets = inside - inside.mean(1, keepdim=True)
    expected = (f - 1) ** 2 * float(offsets[0].square().sum() / offsets.square().sum())
    assert objective(what, level, sigma=math.sqrt(0.5)).at_rest() == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("kind", ["rigid", "volume"])
def test_the_gradient_is_that_of_the_energy(name, kind):
    d = len(CASES[name][0])
    linear = turned(d) @ torch.diag(torch.linspace(0.9, 1.2, d, dtype=DOUBLE))
    what, level = body(name, kind, linear)
    v, w = (velocity(level.band, 0.8, seed, smoothness=8.0) for seed in (1, 2))
    evaluate = objective(what, level, v)
    step = 1e-5
    slope = (evaluate(v + step * w).energy - evaluate(v - step * w).energy) / (2 * step)
    assert float((evaluate(v).gradient * w).sum()) == pytest.approx(slope, rel=1e-6)


@pytest.mark.parametrize("name", CASES)
def test_the_normal_is_how_the_volume_changes(name):
    what, level = body(name, "volume")
    v, w = (velocity(level.band, 0.8, seed, smoothness=8.0) for seed in (1, 2))
    evaluate = objective(what, level, v)
    (side,) = evaluate.sides

    def change(x):
        return float(side.residual(evaluate.map(x, side.direction)))

    step = 1e-5
    expected = (change(v + step * w) - change(v - step * w)) / (2 * step)
    assert float((evaluate(v).normals[0] * w).sum()) == pytest.approx(expected, rel=1e-6)
    curvature = Curvature(evaluate)
    curvature.look(evaluate(v))
    beside = curvature.product(w) - curvature.metric * w
    assert float((w * beside).sum()) == pytest.approx(2 * evaluate.data_weight * expected**2, rel=1e-6)


@pytest.mark.parametrize("kind", ["rigid", "volume"])
def test_what_is_kept_stays_as_it_is_where_all_else_is_deformed(kind):
    """A map that squeezes a plane along one axis, and a structure in its middle that must not be."""
    what, level = body("2d", kind)
    shape, lengths = what.weight.shape, what.lengths
    x = Lattice.cells(shape, lengths).positions(0) - lengths[0] / 2
    u = torch.zeros(2, *shape, dtype=DOUBLE)
    u[0] = (-1.5 * torch.sin(2 * math.pi * x / lengths[0]))[:, None]
    known = KnownMap(u, torch.ones(shape, dtype=DOUBLE), lengths)
    settings = Settings(sigma=0.05, integrator="rk4", steps=6, tolerance=1e-7)

    def changed(compared):
        found = minimize(compared, [level], settings)
        return objective(what, level, found.velocity)(found.velocity).dissimilarity

    free = changed(known)
    kept = changed(Together((Part(known, 1.0), Part(what, 100.0, True))))
    assert free > 1e-3
    assert kept < free / 50


def test_parts_together_are_the_sum_of_the_parts():
    one, level = body("2d", "rigid", torch.tensor([[1.1, 0.0], [0.1, 1.0]], dtype=DOUBLE))
    shape = one.weight.shape
    known = KnownMap(
        torch.randn(2, *shape, generator=torch.Generator().manual_seed(0), dtype=DOUBLE),
        torch.ones(shape, dtype=DOUBLE),
        one.lengths,
    )
    v = velocity(level.band, 0.5, 1, smoothness=8.0)
    both = objective(Together((Part(known, 1.0), Part(one, 3.0, True))), level, v)(v)
    evaluate = objective(one, level, v)
    first, second = objective(known, level, v)(v), evaluate(v)
    assert both.dissimilarity == first.dissimilarity
    steering = 3 * evaluate.data_weight * second.dissimilarity
    assert both.energy == pytest.approx(first.energy + steering, rel=1e-9)
    reduced = Together((Part(known, 1.0), Part(one, 3.0, True))).reduced((2, 2))
    assert reduced.like.shape == (12, 10)
    assert len(reduced.weights) == 2
