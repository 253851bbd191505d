# SPDX-License-Identifier: Apache-2.0
"""The search's pieces, each alone and together, on problems with known answers; and systems that have none."""

from __future__ import annotations

import dataclasses
import itertools
import math

import pytest
import torch
from DeepFLASHRegistrationLib.geodesics.band import Band, Lattice
from DeepFLASHRegistrationLib.geodesics.objective import Level, Objective, Settings
from DeepFLASHRegistrationLib.geodesics.search import curvature as curvatures
from DeepFLASHRegistrationLib.geodesics.search.conjugate_gradients import solved
from DeepFLASHRegistrationLib.geodesics.search.curvature import Curvature
from DeepFLASHRegistrationLib.geodesics.search.descent import Ending
from DeepFLASHRegistrationLib.geodesics.search.directions import DIRECTIONS, GaussNewton
from DeepFLASHRegistrationLib.geodesics.search.flash import minimize
from DeepFLASHRegistrationLib.geodesics.search.lbfgs import Memory
from DeepFLASHRegistrationLib.geodesics.search.line_search import Ray, Reach, backtracked
from DeepFLASHRegistrationLib.geodesics.similarities import MAKERS
from geodesic_fields import blobs, velocity, waves
from search_problems import FUNCTIONS, SHIFTS

DOUBLE = torch.float64


@pytest.fixture(params=FUNCTIONS.values(), ids=FUNCTIONS)
def function(request):
    return request.param


@pytest.fixture(params=SHIFTS.values(), ids=SHIFTS)
def shift(request):
    return request.param


def never():
    return False


# ------------------------------------------------------------------------------------ directions and lengths, alone


def lowered(function, memory, solve, iterations=500):
    """Descends; the energies on the way and where it ended."""
    x, now = function.start, function(function.start)
    energies = [now.energy]
    for _ in range(iterations):
        direction = memory.direction(now.gradient, solve)
        slope = float((now.gradient * direction).sum())
        if not slope < 0:
            break
        step = backtracked(function, never, Ray(x, direction, now.energy, slope), 1.0, never)
        if step is None:
            break
        memory.update(step.length * direction, step.reached.gradient - now.gradient)
        x, now = x + step.length * direction, step.reached
        energies.append(now.energy)
    return x, energies


@pytest.mark.parametrize("known", ["nothing", "the diagonal"])
def test_memory_and_line_search_find_the_smallest_value(function, known):
    diagonal = function.diagonal if known == "the diagonal" else torch.ones_like(function.start)
    x, energies = lowered(function, Memory(), lambda q: q / diagonal)
    assert all(after < before for before, after in itertools.pairwise(energies))
    torch.testing.assert_close(x, function.smallest, atol=1e-3, rtol=0)
    assert float(function(x).gradient.norm()) < 1e-3 * float(function(function.start).gradient.norm())


def test_what_is_known_of_the_hessian_saves_steps():
    function = FUNCTIONS["scales from 1 to 1e4"]
    knowing, not_knowing = (
        len(lowered(function, Memory(), lambda q, d=d: q / d)[1]) for d in (function.diagonal, torch.ones(30).double())
    )
    assert knowing <= 3 < not_knowing


def test_a_length_too_long_is_shortened_to_the_parabolas_minimum():
    function = FUNCTIONS["one number"]
    now = function(function.start)
    direction = torch.full((1,), 10.0, dtype=DOUBLE)  # the minimum lies at length 0.2
    ray = Ray(function.start, direction, now.energy, float((now.gradient * direction).sum()))
    step = backtracked(function, never, ray, 1.0, never)
    assert step.length == pytest.approx(0.2)
    assert step.reached.energy == pytest.approx(0.0, abs=1e-12)


def test_a_direction_along_which_nothing_falls_gives_no_step():
    function = FUNCTIONS["one number"]
    at = function.smallest
    assert backtracked(function, never, Ray(at, torch.ones(1).double(), 0.0, -1.0), 1.0, never) is None


def test_the_reach_is_remembered():
    reach = Reach()
    far = reach.longest
    assert reach.within(1.0, 0.5 * far) == 1.0
    assert reach.within(1.0, 4 * far) == pytest.approx(0.25)
    reach.learn(1.0, 0.1, 2.0)  # of two voxels only a tenth served
    assert reach.longest == pytest.approx(0.2)
    assert reach.within(1.0, 2.0) == pytest.approx(0.1)
    reach.learn(0.1, 0.1, 2.0)  # all of it served
    assert reach.longest == pytest.approx(0.4)
    reach.learn(1.0, 1.0, 0.01)  # far below the reach: nothing is learned
    assert reach.longest == pytest.approx(0.4)


# ---------------------------------------------------------------------------------------------- conjugate gradients


def matrix(n=14, seed=0):
    mixing = torch.randn(n, n, generator=torch.Generator().manual_seed(seed), dtype=DOUBLE)
    return mixing @ mixing.t() / n + torch.diag(torch.logspace(-1, 2, n, dtype=DOUBLE))


def test_conjugate_gradients_agree_with_a_dense_solution():
    a, b = matrix(), torch.linspace(-1, 2, 14, dtype=DOUBLE)
    diagonal = a.diagonal()
    found = solved(lambda x: a @ x, b, lambda x: x / diagonal, 40, 1e-12)
    torch.testing.assert_close(found, torch.linalg.solve(a, b), rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("products", [1, 2, 3, 5])
def test_few_products_give_the_best_of_their_krylov_space(products):
    """The minimum of ½xᵀAx − bᵀx over what the products span, by a dense projection."""
    a, b = matrix(), torch.linspace(-1, 2, 14, dtype=DOUBLE)
    diagonal = a.diagonal()
    basis = [b / diagonal]
    for _ in range(products - 1):
        basis.append(a @ basis[-1] / diagonal)
    q = torch.linalg.qr(torch.stack(basis, 1))[0]
    expected = q @ torch.linalg.solve(q.t() @ a @ q, q.t() @ b)
    torch.testing.assert_close(solved(lambda x: a @ x, b, lambda x: x / diagonal, products, 0.0), expected)


@pytest.mark.parametrize("when", [0, 1, 3])
@pytest.mark.parametrize("bad", [-1.0, 0.0, math.nan, math.inf], ids=str)
def test_a_product_that_shows_no_curvature_ends_them_with_a_direction_of_descent(when, bad):
    a, b, count = matrix(), torch.linspace(-1, 2, 14, dtype=DOUBLE), itertools.count()
    found = solved(lambda x: a @ x if next(count) < when else bad * x, b, lambda x: x / a.diagonal(), 40, 1e-12)
    assert bool(torch.isfinite(found).all())
    assert float((found * b).sum()) > 0


def test_a_right_side_of_zero_has_the_solution_zero():
    zero = torch.zeros(14, dtype=DOUBLE)
    assert not solved(lambda x: matrix() @ x, zero, lambda x: x, 10, 0.1).any()


# ------------------------------------------------------------------------------------------------------- curvature


def objective_of(pair, level, at, similarity="ssd", symmetric=False, window=None, steps=8):
    return Objective(pair, level, Settings(similarity, symmetric, 0.05, "rk4", steps), window, at)


def damped(lattice):
    positions = [lattice.positions(a) for a in range(lattice.ndim)]
    edges = [(torch.minimum(x, n * s - x) / 3).clamp(0, 1) for x, n, s in zip(positions, lattice.shape, lattice.step)]
    result = torch.ones(lattice.shape, dtype=DOUBLE)
    for axis, edge in enumerate(edges):
        result = result * edge.view([-1 if a == axis else 1 for a in range(lattice.ndim)])
    return result


@pytest.mark.parametrize("size", [0.0, 0.3])
@pytest.mark.parametrize("symmetric", [False, True], ids=["one way", "both ways"])
@pytest.mark.parametrize("ndim", [2, 3])
def test_where_images_agree_the_product_is_the_second_derivative(ndim, symmetric, size, monkeypatch):
    """By differences of the gradient: where nothing is left of squared differences, Gauss and Newton leave nothing out.

    Points lie half a voxel off the voxels, where linear interpolation has no kink; the fixed image is what v0 makes of
    the moving one, so that of a symmetric energy only the first side agrees to rounding.
    """
    monkeypatch.setattr(curvatures, "_ISOTROPIC", 0.0)
    shape, modes = ((32, 32), 21) if ndim == 2 else ((20, 20, 20), 13)
    pair, d = dataclasses.replace(SHIFTS["2d" if ndim == 2 else "3d"].pair()), ndim
    lengths = tuple(float(n) for n in shape)
    moving = waves(shape)
    everywhere = torch.ones_like(moving)
    pair = dataclasses.replace(
        pair, fixed=moving, moving=moving, fixed_mask=everywhere, moving_mask=everywhere, lengths=lengths
    )
    level = dataclasses.replace(SHIFTS["2d" if ndim == 2 else "3d"].level(), band=Band((modes,) * d, lengths))
    v = size * velocity(level.band, 1.0, 3, smoothness=60.0)
    v[(slice(None), *(0,) * d)] += 0.5
    first = objective_of(pair, level, v)
    pair = dataclasses.replace(pair, fixed=first(v).warped if first(v).warped.shape == shape else moving)
    objective = objective_of(pair, level, v, symmetric=symmetric)
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


@pytest.mark.parametrize("symmetric", [False, True], ids=["one way", "both ways"])
@pytest.mark.parametrize("similarity", MAKERS)
@pytest.mark.parametrize("window", [None, damped], ids=["whole", "damped"])
def test_the_product_is_symmetric_and_positive_and_linear(shift, similarity, symmetric, window):
    pair, level = shift.pair(), shift.level()
    v = velocity(level.band, 1.5, 3, smoothness=8.0)
    objective = objective_of(pair, level, v, similarity, symmetric, window)
    curvature = Curvature(objective)
    curvature.look(objective(v))
    one, two = (velocity(level.band, 1.0, seed) for seed in (5, 6))
    product = curvature.product
    assert float((one * product(two)).sum()) == pytest.approx(float((product(one) * two).sum()), rel=1e-9)
    torch.testing.assert_close(product(2 * one - two), 2 * product(one) - product(two))
    for w in (one, two):
        assert float((w * product(w)).sum()) > 1.01 * float((w * curvature.metric * w).sum()) > 0
    half = product(one, 0.5) - curvature.metric * one
    torch.testing.assert_close(2 * half, product(one) - curvature.metric * one)


def test_white_is_the_mean_of_the_diagonal(shift):
    pair, level = shift.pair(), shift.level(modes=3)
    v = velocity(level.band, 1.0, 3, smoothness=8.0)
    objective = objective_of(pair, level, v)
    curvature = Curvature(objective)
    curvature.look(objective(v))
    shape = (level.band.ndim, *level.band.modes)
    units = torch.eye(math.prod(shape), dtype=DOUBLE).view(-1, *shape)
    diagonal = torch.stack([(curvature.product(unit) * unit).sum() for unit in units]).view(shape) - curvature.metric
    assert curvature.white == pytest.approx(float(diagonal.mean()), rel=1e-9)


# ---------------------------------------------------------------------------------------------------- all together


@pytest.mark.parametrize("symmetric", [False, True], ids=["one way", "both ways"])
@pytest.mark.parametrize("similarity", MAKERS)
@pytest.mark.parametrize("name", DIRECTIONS)
def test_every_way_of_searching_finds_a_shift(shift, name, similarity, symmetric):
    pair, level = shift.pair(), shift.level(30)
    reports = []
    settings = Settings(similarity, symmetric, 0.003 if similarity == "ssd" else 0.02, search=name, tolerance=1e-4)
    found = minimize(pair, [level], settings, report=reports.append)
    energies = [r.energy for r in reports]
    assert all(after < before for before, after in itertools.pairwise(energies))
    mean = found.velocity[(slice(None), *(0,) * len(shift.shape))]
    # What is seen in the moving image lies further on, where its points come from; the metric holds back a little.
    torch.testing.assert_close(-mean, torch.tensor(shift.voxels, dtype=DOUBLE), rtol=0.1, atol=0.05)


@pytest.mark.parametrize("similarity", ["lncc", "ssd"])
def test_gauss_newton_gets_further_than_lbfgs_in_as_many_steps(shift, similarity):
    pair, level = shift.pair(), shift.level(4, modes=9)
    energies = {}
    for name in DIRECTIONS:
        reports = []
        minimize(pair, [level], Settings(similarity, sigma=0.03, tolerance=0, search=name), report=reports.append)
        energies[name] = reports[-1].energy
    assert energies["gauss-newton"] < energies["lbfgs"]


def test_without_memory_gauss_newton_lowers_the_energy_as_well(shift, monkeypatch):
    monkeypatch.setitem(DIRECTIONS, "bare", lambda objective, detail: GaussNewton(objective, remember=False))
    reports = []
    minimize(shift.pair(), [shift.level(8)], Settings("ssd", sigma=0.005, search="bare"), report=reports.append)
    assert reports[-1].energy < 0.2 * reports[0].energy
    assert len(reports) == 9


# ---------------------------------------------------------------------------------------------------- how it ends


def ended(pair, level, settings=None, **more):
    return minimize(pair, [level], settings or Settings("ssd"), **more)


def test_a_level_says_that_it_converged(shift):
    assert ended(shift.pair(), shift.level(60), Settings("ssd", tolerance=1e-2)).endings == (Ending.CONVERGED,)


def test_a_level_says_that_it_ended_at_its_bound(shift):
    assert ended(shift.pair(), shift.level(2), Settings("ssd", tolerance=0)).endings == (Ending.BOUND,)


def test_each_level_says_how_it_ended(shift):
    found = minimize(
        shift.pair(), [shift.level(2), shift.level(60)], Settings("ssd", tolerance=1e-2), report=lambda step: None
    )
    assert found.endings == (Ending.BOUND, Ending.CONVERGED)


def test_steps_that_only_shorten_count_towards_the_bound(shift, monkeypatch):
    """Where every trial but the last is in vain, the level ends before its iterations are done."""
    objective_class, calls = Objective.__call__, []

    def costly(self, at):
        calls.append(1)
        result = objective_class(self, at)
        return result if len(calls) % 4 == 1 else dataclasses.replace(result, energy=1e9)

    monkeypatch.setattr(Objective, "__call__", costly)
    reports = []
    found = minimize(shift.pair(), [shift.level(20)], Settings("ssd", tolerance=0), report=reports.append)
    assert found.endings == (Ending.BOUND,)
    assert len(reports) - 1 < 12
    assert len(calls) < 40


@pytest.mark.parametrize("name", DIRECTIONS)
def test_images_that_agree_already_are_left_alone(name):
    pair = SHIFTS["2d"].pair()
    pair = dataclasses.replace(pair, moving=pair.fixed)
    found = ended(pair, SHIFTS["2d"].level(), Settings("ssd", search=name))
    assert found.endings[0] in (Ending.STUCK, Ending.CONVERGED)
    assert float(found.velocity.abs().max()) < 1e-6


@pytest.mark.parametrize("similarity", MAKERS)
@pytest.mark.parametrize("name", DIRECTIONS)
def test_a_mask_where_nothing_is_shown_moves_nothing(name, similarity):
    pair = SHIFTS["2d"].pair()
    mask = torch.zeros_like(pair.fixed)
    mask[10:16, 10:16] = 1
    empty = [
        torch.where(torch.nn.functional.max_pool2d(mask[None], 13, 1, 6)[0] > 0, 0.5, x)
        for x in (pair.fixed, pair.moving)
    ]
    pair = dataclasses.replace(pair, fixed=empty[0], moving=empty[1], fixed_mask=mask, moving_mask=mask)
    found = ended(pair, SHIFTS["2d"].level(), Settings(similarity, search=name))
    assert found.endings[0] in (Ending.STUCK, Ending.CONVERGED)
    assert float(found.velocity.abs().max()) < 1e-3


@pytest.mark.parametrize("name", DIRECTIONS)
def test_a_weight_that_is_no_number_is_hopeless_and_moves_nothing(name):
    pair = SHIFTS["2d"].pair()
    mask = pair.fixed_mask.clone()
    mask[5, 5] = math.nan
    reports = []
    found = ended(
        dataclasses.replace(pair, fixed_mask=mask), SHIFTS["2d"].level(), Settings(search=name), report=reports.append
    )
    assert found.endings == (Ending.HOPELESS,)
    assert not found.velocity.any()
    assert not reports


@pytest.mark.parametrize("similarity", MAKERS)
@pytest.mark.parametrize("name", DIRECTIONS)
def test_an_object_of_one_voxel_is_survived(name, similarity):
    fixed, moving = torch.zeros(14, 12), torch.zeros(14, 12)
    fixed[6, 5], moving[7, 5] = 1, 1
    pair = dataclasses.replace(
        SHIFTS["2d"].pair(),
        fixed=fixed,
        moving=moving,
        fixed_mask=(fixed > 0).float(),
        moving_mask=(moving > 0).float(),
        lengths=(14.0, 12.0),
    )
    level = dataclasses.replace(SHIFTS["2d"].level(5), band=Band((5, 5), (14.0, 12.0)))
    reports = []
    found = ended(pair, level, Settings(similarity, search=name), report=reports.append)
    assert bool(torch.isfinite(found.velocity).all())
    assert reports[-1].energy <= reports[0].energy


@pytest.mark.parametrize("similarity", MAKERS)
@pytest.mark.parametrize("name", DIRECTIONS)
def test_a_moving_image_of_one_value_gives_a_singular_level_that_moves_nothing(name, similarity):
    pair = SHIFTS["2d"].pair()
    pair = dataclasses.replace(pair, moving=torch.full_like(pair.moving, 0.5))
    found = ended(pair, SHIFTS["2d"].level(), Settings(similarity, search=name))
    assert found.endings[0] in (Ending.STUCK, Ending.CONVERGED)
    assert float(found.velocity.abs().max()) < 1e-3


@pytest.mark.parametrize("stalled", [math.nan, 0.0, -1.0], ids=str)
def test_conjugate_gradients_that_stall_leave_a_direction_in_which_the_energy_falls(shift, stalled, monkeypatch):
    monkeypatch.setattr(Curvature, "product", lambda self, change, part=1.0: stalled * change)
    reports = []
    found = ended(shift.pair(), shift.level(10), Settings("ssd", sigma=0.005), report=reports.append)
    assert reports[-1].energy < 0.5 * reports[0].energy
    assert bool(torch.isfinite(found.velocity).all())


@pytest.mark.parametrize("energy", [math.inf, 1e9], ids=["infinite", "higher"])
@pytest.mark.parametrize("name", DIRECTIONS)
def test_an_energy_that_no_longer_falls_ends_with_the_best_so_far(shift, name, energy, monkeypatch):
    evaluated, calls = Objective.__call__, []

    def worse(self, at):
        calls.append(at)
        result, known = evaluated(self, at), any(torch.equal(at, earlier) for earlier in calls[:3])
        return result if known else dataclasses.replace(result, energy=energy)

    monkeypatch.setattr(Objective, "__call__", worse)
    reports = []
    found = ended(shift.pair(), shift.level(), Settings("ssd", tolerance=0, search=name), report=reports.append)
    assert found.endings[0] in (Ending.STUCK, Ending.BOUND)
    assert 2 <= len(reports) <= 3
    monkeypatch.undo()
    kept = Objective(shift.pair(), shift.level(), Settings("ssd", search=name), None, found.velocity)
    assert kept(found.velocity).energy == pytest.approx(reports[-1].energy, rel=1e-3)


def test_a_direction_that_is_no_number_ends_with_the_best_so_far(shift, monkeypatch):
    proposed = GaussNewton.propose
    calls = []

    def broken(self, now):
        calls.append(1)
        proposal = proposed(self, now)
        if len(calls) <= 2:
            return proposal
        return dataclasses.replace(proposal, direction=proposal.direction * math.nan)

    monkeypatch.setattr(GaussNewton, "propose", broken)
    reports = []
    found = ended(shift.pair(), shift.level(), Settings("ssd", tolerance=0), report=reports.append)
    assert found.endings == (Ending.STUCK,)
    assert len(reports) == 3
    assert bool(torch.isfinite(found.velocity).all())
    assert found.velocity.any()


def test_two_searches_are_identical_to_the_bit_on_any_number_of_threads():
    shape = (40, 38, 36)  # enough points that sampling is divided
    lengths = tuple(map(float, shape))
    images = blobs(shape, dtype=torch.float32), blobs(shape, (1.0, -0.7, 0.5), dtype=torch.float32)
    everywhere = torch.ones(shape)
    pair = dataclasses.replace(
        SHIFTS["3d"].pair(),
        fixed=images[0],
        moving=images[1],
        fixed_mask=everywhere,
        moving_mask=everywhere,
        lengths=lengths,
    )
    level = Level((1, 1, 1), Band((9, 9, 9), lengths), SHIFTS["3d"].level().metric, (2, 2, 2), 3, 1.0)
    one, two = (minimize(pair, [level], Settings()).velocity for _ in range(2))
    assert torch.equal(one, two)
    assert Lattice.cells(shape, lengths).shape == shape
