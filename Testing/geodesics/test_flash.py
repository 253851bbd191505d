# SPDX-License-Identifier: Apache-2.0
"""FLASH: the gradient of the whole objective, descent, recovery, stopping, cancelling, and absurd input."""

from __future__ import annotations

import dataclasses
import itertools
import math

import pytest
import torch
from DeepFLASHRegistrationLib.geodesics.band import Band, Lattice, Metric, fit_modes
from DeepFLASHRegistrationLib.geodesics.flow import Flow
from DeepFLASHRegistrationLib.geodesics.objective import Level, Objective, Pair, Settings
from DeepFLASHRegistrationLib.geodesics.sampling import Sampler
from DeepFLASHRegistrationLib.geodesics.search.flash import minimize
from DeepFLASHRegistrationLib.geodesics.search.lbfgs import LBFGS
from DeepFLASHRegistrationLib.geodesics.shooting import INTEGRATORS, Shooting
from DeepFLASHRegistrationLib.geodesics.similarities import MAKERS
from geodesic_fields import blobs, points_of, velocity, waves

DOUBLE = torch.float64
SHAPE = (32, 28)


def make_pair(fixed, moving, fixed_mask=None, moving_mask=None, fixed_view=None, moving_view=None, voxel=1.0):
    everywhere = torch.ones_like(fixed)
    return Pair(
        fixed,
        moving,
        everywhere if fixed_mask is None else fixed_mask,
        everywhere if moving_mask is None else moving_mask,
        fixed_view,
        moving_view,
        tuple(voxel * n for n in fixed.shape),
    )


def make_level(pair, factor=1, modes=9, iterations=20, alpha=2.0, power=2.0, step=None, map_step=None):
    d = pair.fixed.ndim
    return Level(
        (factor,) * d,
        Band((modes,) * d, pair.lengths),
        Metric(alpha, power, step=step),
        (2,) * d,
        iterations,
        map_step or float(factor),
    )


def shifted(shape=SHAPE, dtype=DOUBLE, shift=(1.5, -1.0, 0.8)):
    return make_pair(waves(shape, dtype=dtype), waves(shape, shift[: len(shape)], dtype=dtype))


def window(lattice):
    at = points_of(lattice)
    size = torch.tensor([n * s for n, s in zip(lattice.shape, lattice.step, strict=True)], dtype=DOUBLE)
    return (torch.minimum(at, size - at) / 4).clamp(0, 1).prod(-1)


def run(pair, levels, settings=None, **more):
    """The estimate and the reports."""
    reports = []
    estimate = minimize(pair, levels, settings or Settings(), report=reports.append, **more)
    return estimate, reports


def same_level(reports, number):
    return [r.energy for r in reports if r.level == number]


# -------------------------------------------------------------------------------------------------------- gradient


CASES = [
    *[{"similarity": s} for s in MAKERS],
    *[{"integrator": i} for i in INTEGRATORS if i != "multistep"],
    {"symmetric": True},
    {"symmetric": True, "similarity": "ssd", "step": 1.0, "integrator": "euler"},
    {"band_limited_map": True, "step": 1.0, "integrator": "euler", "similarity": "ssd"},
    {"band_limited_map": True, "symmetric": True},
    {"window": window},
    {"map_step": 2.2},
    {"factor": 2},
    {"shape": (12, 10, 14), "window": window},
]


@pytest.mark.parametrize("case", CASES, ids=lambda c: " ".join(str(getattr(v, "__name__", v)) for v in c.values()))
def test_gradient_of_the_whole_objective_agrees_with_finite_differences(case):
    case = dict(case)
    shape = case.pop("shape", (16, 14))
    geometry = {k: case.pop(k) for k in ("step", "map_step", "factor") if k in case}
    damp = case.pop("window", None)
    pair = shifted(shape, shift=(0.9, -0.7, 0.5))
    level = make_level(pair, modes=5, **geometry)
    v = velocity(level.band, 0.8, smoothness=8.0)
    objective = Objective(pair, level, Settings(steps=4, **case), damp, v)
    gradient = objective(v).gradient
    for seed in (5, 6):
        direction = velocity(level.band, 1.0, seed, smoothness=8.0)
        h = 1e-6
        difference = (objective(v + h * direction).energy - objective(v - h * direction).energy) / (2 * h)
        assert float((gradient * direction).sum()) == pytest.approx(difference, rel=2e-4)


def test_energy_is_the_sum_of_its_parts_and_independent_of_the_units_of_the_grid():
    """Twice the voxels per axis of the same images: the same energy, up to sampling."""
    values = []
    for scale in (1, 2):
        shape = tuple(scale * n for n in SHAPE)
        pair = make_pair(
            waves(shape, cells=SHAPE), waves(shape, (1.5 * scale, -1.0 * scale), cells=SHAPE), voxel=1 / scale
        )
        level = make_level(pair, map_step=1.0)
        v = velocity(level.band, 1.0, smoothness=8.0)
        result = Objective(pair, level, Settings("ssd", steps=5, sigma=0.1), None, v)(v)
        assert result.energy == pytest.approx(result.dissimilarity / (2 * 0.1**2) + result.regularization)
        energy = float(Shooting(level.band, level.metric, DOUBLE).energy(v))
        assert result.regularization == pytest.approx(0.5 * energy)  # the mask is the whole domain
        values.append((result.dissimilarity, result.regularization))
    assert values[0][1] == pytest.approx(values[1][1])
    assert values[0][0] == pytest.approx(values[1][0], rel=0.05)


def test_symmetric_is_the_mean_of_both_directions():
    """The way back is the geodesic that starts with −v₁ from the moving to the fixed image."""
    pair = shifted()
    swapped = make_pair(pair.moving, pair.fixed)
    level = make_level(pair)
    v = velocity(level.band, 1.0, smoothness=8.0)
    end = Shooting(level.band, level.metric, DOUBLE).shoot(v, 16, "rk4").velocities[-1]
    settings = Settings("ssd", steps=16, integrator="rk4")
    there, back = (Objective(p, level, settings, None, x)(x).dissimilarity for p, x in ((pair, v), (swapped, -end)))
    both = Objective(pair, level, dataclasses.replace(settings, symmetric=True), None, v)(v).dissimilarity
    assert both == pytest.approx((there + back) / 2, rel=1e-3)
    assert abs(there - back) > 0.003 * both  # else the mean would not be noticed


@pytest.mark.parametrize("integrator", INTEGRATORS)
def test_a_geodesic_whose_energy_drifts_has_infinite_energy(integrator):
    pair = shifted()
    level = make_level(pair, alpha=0.2)
    v = velocity(level.band, 4.0, smoothness=1.0)
    drift = []
    for steps in (1, 64):
        s = Shooting(level.band, level.metric, DOUBLE)
        drift.append(abs(float(s.energy(s.shoot(v, steps, integrator).velocities[-1]) / s.energy(v)) - 1))
        result = Objective(pair, level, Settings(steps=steps, integrator=integrator), None, v)(v)
        assert math.isinf(result.energy) == (drift[-1] > 0.5) == (result.gradient is None)
    assert drift[0] > 1


def test_the_regularization_is_taken_per_volume_of_the_mask():
    pair = shifted()
    mask = torch.zeros(SHAPE, dtype=DOUBLE)
    mask[8:24, 7:21] = 1
    level, v = make_level(pair), velocity(Band((9, 9), pair.lengths), 1.0, smoothness=8.0)
    whole, part = (
        Objective(p, level, Settings(steps=4), None, v)(v).regularization
        for p in (pair, dataclasses.replace(pair, fixed_mask=mask))
    )
    assert part == pytest.approx(4 * whole)


# --------------------------------------------------------------------------------------------------------- descent


@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize("similarity", MAKERS)
def test_every_accepted_iteration_lowers_the_energy(similarity, symmetric):
    pair = shifted()
    levels = [make_level(pair, 2, 5, 8), make_level(pair, 1, 9, 8)]
    _, reports = run(pair, levels, Settings(similarity, symmetric, 0.05, tolerance=0))
    for number in (0, 1):
        energies = same_level(reports, number)
        assert len(energies) > 3
        assert all(after < before for before, after in itertools.pairwise(energies))
    assert [r.iteration for r in reports if r.level == 0] == list(range(len(same_level(reports, 0))))
    for r in reports:
        assert r.energy == pytest.approx(r.similarity / (2 * 0.05**2) + r.regularization)
        assert r.smallest_determinant > 0
        assert (r.levels, r.iterations) == (2, 8)
    assert reports[-1].similarity < 0.6 * reports[0].similarity


@pytest.mark.parametrize("shape", [SHAPE, (20, 18, 22)], ids=["2d", "3d"])
@pytest.mark.parametrize("similarity", ["lncc", "ssd"])
def test_a_known_small_deformation_is_recovered(shape, similarity):
    """The moving image is the fixed one carried by a geodesic; the map found must be its map."""
    fixed = waves(shape)
    lengths = tuple(float(n) for n in shape)
    band = Band((5,) * len(shape), lengths)
    cells = Lattice.cells(shape, lengths)
    s = Shooting(band, Metric(2.0, 2.0), DOUBLE)
    flow = Flow(band, cells, DOUBLE, window=window(cells))
    truth = s.shoot(velocity(band, 1.6, 4, smoothness=8.0), 8)
    # moving = fixed∘φ, hence moving∘φ⁻¹ = fixed; and points of the moving image go through φ to the fixed one.
    moving = Sampler(cells, cells, DOUBLE)(fixed[None], flow.moving_to_fixed(truth))[0]
    pair = make_pair(fixed, moving)
    estimate, _ = run(
        pair,
        [make_level(pair, 2, 5, 20), make_level(pair, 1, 7, 20)],
        Settings(similarity, sigma=0.01 if similarity == "lncc" else 0.003, tolerance=0),
        window=window,
    )
    found = Flow(estimate.band, cells, DOUBLE, window=window(cells)).fixed_to_moving(
        Shooting(estimate.band, estimate.metric, DOUBLE).shoot(estimate.velocity, 8)
    )
    expected = flow.fixed_to_moving(truth)
    error, size = ((x.norm(dim=0) * window(cells)).mean() for x in (found - expected, expected))
    assert float(size) > 0.2
    assert float(error) < (0.35 if similarity == "lncc" else 0.5) * float(size)


def test_smaller_sigma_fits_closer():
    pair = shifted()
    finals = [run(pair, [make_level(pair)], Settings("ssd", sigma=s))[1][-1] for s in (0.3, 0.03)]
    assert finals[1].similarity < 0.5 * finals[0].similarity
    assert finals[1].regularization > finals[0].regularization


def test_it_stops_where_an_iteration_gains_less_than_the_tolerance():
    pair = shifted()
    counts = []
    for tolerance in (0.2, 1e-3, 0.0):
        _, reports = run(pair, [make_level(pair, iterations=12)], Settings(tolerance=tolerance))
        counts.append(len(reports))
        gains = [1 - after / before for before, after in itertools.pairwise(same_level(reports, 0))]
        assert all(gain >= tolerance for gain in gains[:-1])
    assert counts[0] < counts[1] <= counts[2] == 13


def test_no_iterations_evaluate_only():
    pair = shifted()
    estimate, reports = run(pair, [make_level(pair, iterations=0)])
    assert len(reports) == 1
    assert not estimate.velocity.any()


def test_two_runs_are_identical_to_the_bit():
    pair = shifted((16, 18, 14), torch.float32)
    levels = [make_level(pair, 2, 5, 3), make_level(pair, 1, 7, 3)]
    for similarity in ("lncc", "mi"):
        one, two = (run(pair, levels, Settings(similarity)) for _ in range(2))
        assert torch.equal(one[0].velocity, two[0].velocity)
        assert [r.energy for r in one[1]] == [r.energy for r in two[1]]


def test_single_precision_finds_what_double_precision_finds():
    results = []
    for dtype in (torch.float32, torch.float64):
        pair = shifted(dtype=dtype)
        estimate, reports = run(pair, [make_level(pair, iterations=30)], Settings("ssd"))
        assert estimate.velocity.dtype == dtype
        results.append(reports[-1].energy)
    assert results[0] == pytest.approx(results[1], rel=0.02)


# ----------------------------------------------------------------------------------------------- starts and masks


@pytest.mark.parametrize("modes", [(5, 5), (7, 3), (15, 13)])
def test_it_starts_from_a_velocity_of_any_band(modes):
    pair = shifted()
    level = make_level(pair, iterations=0)
    start = velocity(Band(modes, pair.lengths), 1.0, smoothness=8.0)
    estimate, reports = run(pair, [level], initial=start)
    torch.testing.assert_close(estimate.velocity, fit_modes(start, level.band.modes))
    assert reports[0].regularization > 0


def test_a_good_start_is_not_left():
    pair = shifted()
    level = make_level(pair, iterations=25)
    first, reports = run(pair, [level], Settings(tolerance=1e-3))
    _, more = run(pair, [level], Settings(tolerance=1e-3), initial=first.velocity)
    assert more[0].energy == pytest.approx(reports[-1].energy, rel=0.02)
    assert len(more) < len(reports) / 2
    assert more[-1].energy <= more[0].energy


def test_what_lies_outside_the_fixed_mask_does_not_pull():
    """A second object that moved elsewhere, masked out, changes nothing."""
    pair = shifted()
    mask = torch.zeros(SHAPE, dtype=DOUBLE)
    mask[:, :14] = 1
    masked = dataclasses.replace(pair, fixed_mask=mask)
    disturbed = masked.fixed.clone()
    disturbed[:, 18:] = waves(SHAPE, 5.0)[:, 18:]
    level = make_level(pair, iterations=5)
    one, two = (run(p, [level])[0].velocity for p in (masked, dataclasses.replace(masked, fixed=disturbed)))
    torch.testing.assert_close(one, two)
    assert not torch.allclose(one, run(pair, [level])[0].velocity, atol=1e-3)


def test_what_the_moving_image_does_not_show_does_not_pull():
    pair = shifted()
    view = torch.ones(SHAPE, dtype=DOUBLE)
    view[:, 20:] = 0
    hidden = pair.moving * view
    level = make_level(pair, iterations=8)
    pairs = (pair, dataclasses.replace(pair, moving=hidden, moving_view=view), dataclasses.replace(pair, moving=hidden))
    reference, seen, blind = (run(p, [level], Settings("ssd"))[0].velocity for p in pairs)
    assert float((seen - reference).norm()) < 0.5 * float((blind - reference).norm())


def test_a_view_that_misses_the_mask_is_left_aside():
    pair = shifted()
    nothing = dataclasses.replace(pair, moving_view=torch.zeros(SHAPE, dtype=DOUBLE))
    level = make_level(pair, iterations=2)
    torch.testing.assert_close(run(nothing, [level])[0].velocity, run(pair, [level])[0].velocity)


@pytest.mark.parametrize("factor", [1, 2])
def test_a_mask_of_one_voxel_is_enough(factor):
    pair = shifted()
    mask = torch.zeros(SHAPE, dtype=DOUBLE)
    mask[10, 12] = 1
    estimate, _ = run(dataclasses.replace(pair, fixed_mask=mask), [make_level(pair, factor, 5, 3)])
    assert bool(torch.isfinite(estimate.velocity).all())


# ---------------------------------------------------------------------------------------------------------- cancel


@pytest.mark.parametrize("calls", [0, 1, 4, 9])
def test_cancelling_returns_the_best_so_far(calls):
    pair = shifted()
    levels = [make_level(pair, 2, 5, 4), make_level(pair, 1, 9, 30)]
    asked = []

    def cancel():
        asked.append(1)
        return len(asked) > calls

    estimate, reports = run(pair, levels, Settings(tolerance=0), cancelled=cancel)
    assert estimate.cancelled
    assert len(asked) == calls + 1, "asked again after the answer"
    assert bool(torch.isfinite(estimate.velocity).all())
    if len(reports) > 1:
        last = reports[-1]
        level = dataclasses.replace(levels[last.level], iterations=0)
        _, again = run(pair, [level], Settings(steps=estimate.steps), initial=estimate.velocity)
        assert again[0].energy == pytest.approx(last.energy, rel=1e-3)
    elif calls == 0:
        assert not reports
        assert not estimate.velocity.any()


# ---------------------------------------------------------------------------------------------------------- absurd


ABSURD = {
    "alpha 0": ({"alpha": 0.0}, {}),
    "alpha 1e4, power 8": ({"alpha": 1e4, "power": 8.0}, {}),
    "sigma 1e-3": ({}, {"sigma": 1e-3}),
    "sigma 10": ({}, {"sigma": 10.0}),
    "alpha 0, sigma 1e-3, band 15": ({"alpha": 0.0, "modes": 15}, {"sigma": 1e-3}),
    "one step": ({"alpha": 0.1}, {"sigma": 1e-3, "steps": 1, "integrator": "euler"}),
    "band-limited, one step": (
        {"alpha": 0.0},
        {"sigma": 1e-3, "steps": 1, "integrator": "euler", "band_limited_map": True},
    ),
    "band 3": ({"modes": 3}, {}),
    "band 1": ({"modes": 1}, {}),
    "more modes than voxels": ({"modes": 35}, {}),
    "coarse map": ({"map_step": 1e6}, {}),
    "fine map": ({"map_step": 1e-6}, {}),
}


@pytest.mark.parametrize(("name", "symmetric"), [(name, i % 2 == 1) for i, name in enumerate(ABSURD)])
def test_absurd_settings_end_with_a_finite_velocity(name, symmetric):
    geometry, settings = ABSURD[name]
    pair = shifted((16, 14), torch.float32)
    level = make_level(pair, iterations=4, **geometry)
    estimate, reports = run(pair, [level], Settings(symmetric=symmetric, **settings))
    assert bool(torch.isfinite(estimate.velocity).all())
    energies = same_level(reports, 0)
    assert all(math.isfinite(e) for e in energies)
    assert energies[-1] <= energies[0]


@pytest.mark.parametrize("similarity", MAKERS)
@pytest.mark.parametrize("values", [(0.0, 0.0), (1.0, 0.3), (0.5, None), (None, 0.5)], ids=str)
def test_images_without_contrast_are_left_where_they_are(similarity, values):
    images = [blobs((12, 14)) if v is None else torch.full((12, 14), v, dtype=DOUBLE) for v in values]
    pair = make_pair(*(x.float() for x in images))
    estimate, _ = run(pair, [make_level(pair, 1, 5, 4)], Settings(similarity))
    # Squared differences rightly shrink what differs from a constant.
    assert float(estimate.velocity.abs().max()) < (10 if similarity == "ssd" else 1e-2)


@pytest.mark.parametrize("shape", [(3, 3), (4, 2), (2, 2, 2), (1, 9), (5, 1, 6)], ids=str)
def test_a_few_voxels_are_no_reason_to_fail(shape):
    generator = torch.Generator().manual_seed(0)
    pair = make_pair(torch.rand(shape, generator=generator), torch.rand(shape, generator=generator))
    estimate, _ = run(pair, [make_level(pair, 1, 3, 3)])
    assert bool(torch.isfinite(estimate.velocity).all())


@pytest.mark.parametrize("scale", [30.0, 1e4, 1e20, math.inf, math.nan])
@pytest.mark.parametrize(
    "more",
    [{}, {"steps": 4}, {"band_limited_map": True, "steps": 5, "integrator": "euler"}],
    ids=["free steps", "4 steps", "band-limited"],
)
def test_a_wild_start_is_survived(scale, more):
    """In single precision and with a view of the moving image, which is judged by the start's own map."""
    pair = shifted((16, 14), torch.float32)
    view = torch.ones(16, 14)
    view[:, 10:] = 0
    pair = dataclasses.replace(pair, moving_view=view)
    level = make_level(pair, 1, 5, 3)
    start = scale * velocity(level.band, 1.0, smoothness=8.0).float()
    estimate, reports = run(pair, [level], Settings(**more), initial=start)
    assert bool(torch.isfinite(estimate.velocity).all())
    assert reports
    assert reports[-1].energy <= reports[0].energy
    if not scale < 1e20:
        assert reports[-1].energy < 1e4


def test_images_that_hold_nan_end_without_a_crash():
    pair = shifted((16, 14), torch.float32)
    moving = pair.moving.clone()
    moving[8, 7] = math.nan
    for similarity in ("lncc", "ssd", "ncc"):
        estimate, _ = run(dataclasses.replace(pair, moving=moving), [make_level(pair, 1, 5, 3)], Settings(similarity))
        assert not estimate.velocity.any()


def test_thin_and_anisotropic_grids_work():
    shape = (6, 20, 24)
    pair = make_pair(waves(shape), waves(shape, (0.0, 1.0, -1.0)))
    pair = dataclasses.replace(pair, lengths=(24.0, 20.0, 24.0))
    levels = [
        Level((1, 2, 2), Band((3, 5, 5), pair.lengths), Metric(4.0, 2.0), (1, 2, 2), 4, 2.0),
        Level((1, 1, 1), Band((5, 7, 9), pair.lengths), Metric(2.0, 2.0), (1, 2, 2), 4, 1.0),
    ]
    _, reports = run(pair, levels)
    assert reports[-1].similarity < 0.7 * reports[0].similarity


def test_energy_at_rest_is_that_of_no_velocity() -> None:
    pair = shifted()
    level = make_level(pair, factor=2)
    for symmetric in (False, True):
        objective = Objective(pair, level, Settings("ssd", symmetric), None, torch.zeros(2, 9, 9, dtype=DOUBLE))
        zero = objective(torch.zeros(2, 9, 9, dtype=DOUBLE))
        assert objective.at_rest() == pytest.approx(zero.energy, rel=1e-12)


def test_a_hessian_of_the_metric_and_a_white_part_is_known_after_one_step() -> None:
    metric_part = torch.linspace(1, 50, 40, dtype=DOUBLE)
    hessian = metric_part + 7
    position = torch.randn(40, generator=torch.Generator().manual_seed(0), dtype=DOUBLE)
    search = LBFGS(metric_part, detail=True)
    step = 0.3 * search.direction(hessian * position)
    assert float((step * hessian * position).sum()) < 0
    search.update(step, hessian * step)
    assert search.white == pytest.approx(7, rel=1e-12)
    torch.testing.assert_close(search.direction(hessian * (position + step)), -(position + step))


def test_curvature_below_the_metrics_own_leaves_the_metric_alone() -> None:
    metric_part = torch.linspace(1, 50, 40, dtype=DOUBLE)
    search, step = LBFGS(metric_part, detail=True), torch.ones(40, dtype=DOUBLE)
    search.update(step, 0.5 * metric_part * step)
    assert search.white == 0
    before = search.direction(step)
    search.update(step, -step)  # no curvature: nothing is learned
    torch.testing.assert_close(search.direction(step), before, rtol=0, atol=0)


def test_without_detail_the_metric_alone_is_where_the_search_starts() -> None:
    metric_part, gradient = torch.linspace(1, 50, 40, dtype=DOUBLE), torch.ones(40, dtype=DOUBLE)
    search = LBFGS(metric_part, detail=False)
    torch.testing.assert_close(search.direction(gradient), -gradient / metric_part)
    search.update(gradient, (metric_part + 7) * gradient)
    assert search.white == 0


def test_levels_without_iterations_leave_a_start_all_its_detail():
    pair = shifted(SHAPE)
    levels = [make_level(pair, 2, 5, iterations=0), make_level(pair, 1, 9, iterations=0)]
    start = minimize(pair, levels[1:], Settings("ssd"), None)
    assert not start.velocity.any()
    detailed = velocity(levels[1].band, 0.5)
    found = minimize(pair, levels, Settings("ssd"), detailed)
    torch.testing.assert_close(found.velocity, detailed.to(found.velocity), rtol=0, atol=0)
    assert [ending.value for ending in found.endings] == ["bound"]
    # As a search at the last level alone, to the bit.
    levels[1] = dataclasses.replace(levels[1], iterations=3)
    one, other = (minimize(pair, each, Settings("ssd"), detailed) for each in (levels, levels[1:]))
    assert torch.equal(one.velocity, other.velocity)
    assert not torch.equal(one.velocity, detailed)
