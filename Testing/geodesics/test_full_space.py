# SPDX-License-Identifier: Apache-2.0
"""LDDMM on all cells: against FLASH in the widest band and by identities; and that the paper's band loses little."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from DeepFLASHRegistrationLib.geodesics.band import Band, Evaluator, Lattice, Metric
from DeepFLASHRegistrationLib.geodesics.full_space import FullObjective, FullShooting, continued, minimize
from DeepFLASHRegistrationLib.geodesics.objective import Level, Objective, Pair, Settings
from DeepFLASHRegistrationLib.geodesics.search import flash
from DeepFLASHRegistrationLib.geodesics.search.descent import Ending
from DeepFLASHRegistrationLib.geodesics.shooting import Shooting
from DeepFLASHRegistrationLib.phantom.pairs import bullseye
from geodesic_fields import velocity

DOUBLE = torch.float64
METRIC = Metric(3.0, 3.0)
CASES = {"2d": ((24, 20), (9, 7)), "odd": ((25, 21), (9, 7)), "3d": ((16, 14, 12), (5, 5, 5))}


def both(name, size=1.0, metric=METRIC):
    """A velocity in a band, on cells that hold its products, and what shoots it in either way."""
    shape, modes = CASES[name]
    lengths = tuple(1.5 * n for n in shape)
    band, cells = Band(modes, lengths), Lattice.cells(shape, lengths)
    v = velocity(band, size, 3, smoothness=8.0)
    evaluate = Evaluator(band, cells, DOUBLE)
    return v, evaluate, Shooting(band, metric, DOUBLE), FullShooting(cells, metric, DOUBLE, "cpu")


def momentum(full, v):
    """p of a velocity on the cells."""
    return full._back(full._forward(v) / full._root)


@pytest.mark.parametrize("name", CASES)
def test_a_velocity_accelerates_as_in_the_band(name):
    v, evaluate, shooting, full = both(name)
    expected = shooting.acceleration(v)
    # Beyond the band the products go on; within it they are the same.
    torch.testing.assert_close(evaluate.project(full.acceleration(evaluate(v))), expected, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("name", CASES)
def test_p_has_the_energy_of_its_velocity(name):
    v, evaluate, shooting, full = both(name)
    p = momentum(full, evaluate(v))
    torch.testing.assert_close(full.velocity(p), evaluate(v))
    torch.testing.assert_close(full.energy(p), shooting.energy(v))


def test_slopes_are_those_of_the_series():
    v, evaluate, _, full = both("2d")
    expected = torch.stack([evaluate(evaluate.band.derivative(v, axis)) for axis in range(2)])
    torch.testing.assert_close(full.slopes(evaluate(v)), expected)


def test_the_energy_is_kept():
    v, evaluate, _, full = both("3d", 2.0)
    p = momentum(full, evaluate(v))
    drifts = [float(full.drift_of(full.shoot(p, steps, "rk4"))) for steps in (4, 8, 16)]
    assert drifts[2] < 1e-5
    assert drifts[0] > 8 * drifts[1] > 64 * drifts[2]


def bulls_eyes(seed, size=48):
    found = bullseye(seed)
    inner = slice(50 - size // 2, 50 + size // 2)
    fixed, moving = (
        torch.from_numpy(np.ascontiguousarray(x.data[inner, inner])).double() for x in (found.fixed, found.moving)
    )
    everywhere = torch.ones_like(fixed)
    return Pair(fixed, moving, everywhere, everywhere, None, None, (float(size),) * 2)


def level(pair, modes, iterations, factors=(1, 1)):
    return Level(factors, Band((modes, modes), pair.lengths), METRIC, (1.0, 1.0), iterations, 0.999)


SETTINGS = Settings("ssd", False, 0.05, "rk4", 6, False, 1e-6, "lbfgs")


def test_the_gradient_is_that_of_differences():
    pair = bulls_eyes(0, 32)
    generator = torch.Generator().manual_seed(1)
    p = 0.3 * torch.randn(2, 32, 32, generator=generator, dtype=DOUBLE)
    objective = FullObjective(pair, level(pair, 3, 1), SETTINGS, None, p)
    gradient = objective(p).gradient
    for seed in (5, 6):
        w = torch.randn(2, 32, 32, generator=torch.Generator().manual_seed(seed), dtype=DOUBLE)
        expected = (objective(p + 1e-6 * w).energy - objective(p - 1e-6 * w).energy) / 2e-6
        assert float((gradient * w).sum()) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("seed", [0, 1])
def test_the_band_loses_nothing(seed):
    """The widest band finds LDDMM's energy and map, the paper's band of 15 nearly the energy."""
    pair = bulls_eyes(seed)
    full = minimize(pair, [level(pair, 3, 40)], SETTINGS)
    energies = {}
    for modes in (47, 15):
        reports = []
        found = flash.minimize(pair, [level(pair, modes, 40)], SETTINGS, report=reports.append)
        energies[modes] = reports[-1].energy
        if modes == 47:
            own = Objective(pair, level(pair, modes, 1), SETTINGS, None, found.velocity)
            apart = (own.map(found.velocity, "fixed_to_moving") - full.maps[0]).square().sum(0).sqrt()
            assert float(apart.mean()) < 0.01
    assert energies[47] == pytest.approx(full.energy, rel=1e-3)
    assert full.energy < energies[15] * 1.001
    assert energies[15] == pytest.approx(full.energy, rel=0.02)


def test_levels_go_on_from_each_other_and_both_maps_are_inverse():
    from DeepFLASHRegistrationLib.geodesics.sampling import Sampler, compose

    pair = bulls_eyes(1)
    reports = []
    found = minimize(
        pair,
        [level(pair, 3, 20, (2, 2)), level(pair, 3, 10)],
        SETTINGS,
        report=lambda number, state, objective: reports.append((number, state.evaluation.energy)),
    )
    alone = minimize(pair, [level(pair, 3, 10)], SETTINGS)
    assert found.energy < alone.energy
    assert {number for number, _ in reports} == {0, 1}
    sample = Sampler(found.lattice, found.lattice, DOUBLE)
    assert float(compose(found.maps[0], found.maps[1], sample).square().sum(0).sqrt().mean()) < 0.05


def test_a_series_continues_on_finer_cells():
    band = Band((7, 5), (10.0, 7.0))
    v = velocity(band, 1.0, 2)
    coarse, fine = (Evaluator(band, Lattice.cells(shape, band.lengths), DOUBLE)(v) for shape in ((8, 6), (20, 18)))
    torch.testing.assert_close(continued(coarse, (20, 18)), fine)
    assert continued(coarse, (8, 6)) is coarse


def test_it_is_cancelled_with_the_best_so_far():
    pair = bulls_eyes(0, 32)
    asked = iter(range(1000))
    found = minimize(pair, [level(pair, 3, 50)], SETTINGS, cancelled=lambda: next(asked) > 8)
    assert found.cancelled
    assert found.endings == (Ending.CANCELLED,)
    assert math.isfinite(found.energy)
