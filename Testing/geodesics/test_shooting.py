# SPDX-License-Identifier: Apache-2.0
"""EPDiff: the identities that hold to rounding, and the orders that the integrators keep."""

from __future__ import annotations

import math

import pytest
import torch
from DeepFLASHRegistrationLib.geodesics.band import Band, Evaluator, Lattice, Metric
from DeepFLASHRegistrationLib.geodesics.shooting import INTEGRATORS, Shooting
from geodesic_fields import BANDS, coefficients, evaluate_at, points_of, velocity

DOUBLE = torch.float64
ORDERS = {"euler": 1, "multistep": 2, "midpoint": 2, "rk4": 4}


def shooting(band: Band, step: float | None = None, alpha: float = 0.6, power: float = 2.0) -> Shooting:
    return Shooting(band, Metric(alpha, power, step=step), DOUBLE)


@pytest.fixture(params=BANDS.values(), ids=BANDS)
def band(request) -> Band:
    return request.param


@pytest.fixture(params=[None, 1.0], ids=["exact", "central"])
def step(request) -> float | None:
    return request.param


def test_k_inverts_l(band, step):
    s = shooting(band, step)
    torch.testing.assert_close(s.K * s.L, torch.ones(band.modes, dtype=DOUBLE))


def test_energy_is_the_mean_of_v_times_momentum_on_any_lattice(band):
    s, v = shooting(band), velocity(band)
    for extra in (1, 6):
        evaluate = Evaluator(band, Lattice.cells(tuple(n + extra for n in band.modes), band.lengths), DOUBLE)
        mean = (evaluate(v) * evaluate(s.L * v)).sum(0).mean()
        assert float(s.energy(v)) == pytest.approx(float(mean), rel=1e-12)


def test_ad_agrees_with_values_summed_point_by_point(band):
    """On a lattice far finer than needed, with derivatives by differences of the field itself."""
    s = shooting(band)
    v, w = velocity(band, seed=1), velocity(band, seed=2)
    fine = Lattice.cells(tuple(3 * n for n in band.modes), band.lengths)
    at, h = points_of(fine).flatten(0, -2), 1e-5
    vx, wx = evaluate_at(band, v, at), evaluate_at(band, w, at)
    bracket = torch.zeros_like(vx)
    for j in range(band.ndim):
        e = torch.zeros(band.ndim, dtype=DOUBLE)
        e[j] = h
        dv = (evaluate_at(band, v, at + e) - evaluate_at(band, v, at - e)) / (2 * h)
        dw = (evaluate_at(band, w, at + e) - evaluate_at(band, w, at - e)) / (2 * h)
        bracket += dv * wx[:, j : j + 1] - dw * vx[:, j : j + 1]
    projected = Evaluator(band, fine, DOUBLE).project(bracket.T.reshape(-1, *fine.shape))
    torch.testing.assert_close(s.ad(v, w), projected, atol=1e-7, rtol=0)


def test_ad_is_antisymmetric(band, step):
    s, v, w = shooting(band, step), coefficients(band, 1), coefficients(band, 2)
    torch.testing.assert_close(s.ad(v, w), -s.ad(w, v))


@pytest.mark.parametrize(
    ("form", "step"), [("_exact", None), ("_direct", None), ("_direct", 1.0), ("as chosen", None), ("as chosen", 1.0)]
)
def test_ad_dagger_is_the_adjoint_of_ad_in_the_metric(band, form, step):
    s = shooting(band, step)
    v, w, u = (coefficients(band, seed) for seed in (1, 2, 3))
    dagger = s.ad_dagger(v, u) if form == "as chosen" else s.K * getattr(s, form)(v, s.L * u)
    left, right = (s.L * s.ad(v, w) * u).sum(), (s.L * w * dagger).sum()
    scale = float((s.L * s.ad(v, w) ** 2).sum().sqrt() * s.energy(u).sqrt())
    assert abs(float(left - right)) < 1e-12 * scale


def test_both_forms_of_ad_dagger_are_the_same_for_exact_derivatives(band):
    s, v, m = shooting(band), coefficients(band, 1), coefficients(band, 2)
    torch.testing.assert_close(s._exact(v, m), s._direct(v, m), atol=1e-11, rtol=1e-11)


def test_products_do_not_alias(band, step):
    """The product lattice, the coarsest that suffices, gives what a much finer one gives."""
    s, fine = shooting(band, step), shooting(band, step)
    fine.product = Evaluator(band, Lattice.cells(tuple(5 * n for n in band.modes), band.lengths), DOUBLE)
    v, u = coefficients(band, 1), coefficients(band, 2)
    torch.testing.assert_close(s.ad(v, u), fine.ad(v, u), atol=1e-11, rtol=1e-11)
    torch.testing.assert_close(s.ad_dagger(v, u), fine.ad_dagger(v, u), atol=1e-11, rtol=1e-11)


def test_equation_does_not_care_for_the_order_of_the_axes():
    band = BANDS["3d"]
    order = (2, 0, 1)
    turned = Band(tuple(band.modes[a] for a in order), tuple(band.lengths[a] for a in order))
    v = velocity(band)
    v_turned = v.permute(0, *(a + 1 for a in order))[list(order)].contiguous()
    expected = shooting(band).acceleration(v).permute(0, *(a + 1 for a in order))[list(order)]
    torch.testing.assert_close(shooting(turned).acceleration(v_turned), expected)


def test_a_constant_velocity_stays(band, step):
    v = torch.zeros(band.ndim, *band.modes, dtype=DOUBLE)
    v[(slice(None), *[0] * band.ndim)] = torch.arange(1.0, band.ndim + 1, dtype=DOUBLE)
    for integrator in INTEGRATORS:
        torch.testing.assert_close(shooting(band, step).shoot(v, 3, integrator).velocities[-1], v, atol=1e-14, rtol=0)


@pytest.mark.parametrize("integrator", INTEGRATORS)
def test_velocity_converges_with_the_order_of_the_integrator(integrator, step):
    band = BANDS["2d"]
    s, v0 = shooting(band, step), velocity(BANDS["2d"], 1.5)
    exact = s.shoot(v0, 192, "rk4").velocities[-1]
    errors = [float((s.shoot(v0, n, integrator).velocities[-1] - exact).norm()) for n in (24, 48)]
    assert math.log2(errors[0] / errors[1]) == pytest.approx(ORDERS[integrator], abs=0.35)


@pytest.mark.parametrize("integrator", INTEGRATORS)
def test_energy_is_conserved_with_the_order_of_the_integrator(integrator, band):
    s, v0 = shooting(band), velocity(band, 1.5)
    start = float(s.energy(v0))
    drifts = [abs(float(s.energy(s.shoot(v0, n, integrator).velocities[-1])) / start - 1) for n in (24, 48)]
    assert math.log2(drifts[0] / drifts[1]) > ORDERS[integrator] - 0.35
    assert drifts[1] < {"euler": 0.1, "multistep": 0.01, "midpoint": 0.01, "rk4": 1e-5}[integrator]


@pytest.mark.parametrize("integrator", ["midpoint", "multistep", "rk4"])
def test_middles_are_the_velocity_halfway(integrator):
    band = BANDS["2d"]
    s, v0 = shooting(band), velocity(band, 1.5)
    exact = s.shoot(v0, 192, "rk4").velocities
    errors = []
    for n in (12, 24):
        middles = s.shoot(v0, n, integrator).middles
        errors.append(max(float((m - exact[192 // (2 * n) * (2 * k + 1)]).norm()) for k, m in enumerate(middles)))
    assert math.log2(errors[0] / errors[1]) > ORDERS[integrator] - 0.4


def test_multistep_middles_know_the_curvature():
    """From where the step begins, the way to its middle is of third order locally (but for the first step)."""
    band = BANDS["2d"]
    s, v0 = shooting(band), velocity(band, 1.5)
    errors = []
    for n in (12, 24):
        trajectory, half = s.shoot(v0, n, "multistep"), 0.5 / n
        begin, middle = trajectory.velocities[n // 2], trajectory.middles[n // 2]
        errors.append(float((middle - s.shoot(half * begin, 2, "rk4").velocities[-1] / half).norm()))
    assert math.log2(errors[0] / errors[1]) > 2.6


@pytest.mark.parametrize("integrator", INTEGRATORS)
def test_shooting_back_returns(integrator, band):
    s, v0 = shooting(band), velocity(band, 1.0)
    errors = []
    for n in (16, 32):
        v1 = s.shoot(v0, n, integrator).velocities[-1]
        errors.append(float((s.shoot(-v1, n, integrator).velocities[-1] + v0).norm() / v0.norm()))
    assert math.log2(errors[0] / errors[1]) > ORDERS[integrator] - 0.4
    assert errors[1] < {"euler": 0.15, "multistep": 0.01, "midpoint": 0.01, "rk4": 1e-6}[integrator]


def test_a_slower_start_follows_the_same_geodesic():
    band = BANDS["2d"]
    s, v0 = shooting(band), velocity(band, 1.5)
    half = s.shoot(v0, 32, "rk4").velocities[16]
    torch.testing.assert_close(s.shoot(0.5 * v0, 16, "rk4").velocities[-1], 0.5 * half)


def test_trajectories_know_their_steps():
    band = BANDS["2d"]
    s, v0 = shooting(band), velocity(band)
    for integrator in INTEGRATORS:
        trajectory = s.shoot(v0, 5, integrator)
        assert trajectory.steps == 5
        assert len(trajectory.velocities) == 6
        assert torch.equal(trajectory.velocities[0], v0)
    euler = s.shoot(v0, 5, "euler")
    assert torch.equal(torch.stack(euler.middles), torch.stack(euler.velocities[:-1]))


def test_drift_is_the_relative_change_of_the_energy(band):
    s, v0 = shooting(band), velocity(band, 2.0)
    trajectory = s.shoot(v0, 3, "euler")
    start, end = (float(s.energy(trajectory.velocities[i])) for i in (0, -1))
    assert s.drift(trajectory) == pytest.approx(abs(end / start - 1))
    assert s.drift(s.shoot(0 * v0, 3)) == 0
    assert not s.drift(s.shoot(1e200 * v0, 3)) < 1e6
    assert not s.drift(s.shoot(math.nan * v0, 3)) < 1e6


@pytest.mark.parametrize("integrator", INTEGRATORS)
def test_shooting_differentiates(integrator, step):
    small = Band((3, 3), (4.0, 5.0))
    s = shooting(small, step)
    v0 = velocity(small, 0.8).requires_grad_()

    def end(v):
        trajectory = s.shoot(v, 3, integrator)
        return torch.stack([trajectory.velocities[-1], trajectory.middles[-1]])

    assert torch.autograd.gradcheck(end, (v0,), fast_mode=True)


def test_more_steps_for_steeper_velocities():
    band = BANDS["3d"]
    s, v = shooting(band), velocity(band)
    assert s.recommended_steps(0 * v, least=4) == s.recommended_steps(1e-9 * v, least=4) == 4
    assert s.recommended_steps(1e9 * v, most=50) == 50
    assert s.recommended_steps(v * math.nan, most=50) == 50
    few, many = (s.recommended_steps(scale * v, 0.01, 1, 10**6) for scale in (1, 3))
    assert abs(many - 3 * few) <= 3


@pytest.mark.parametrize(("steps", "integrator"), [(0, "rk4"), (-1, "euler"), (3, "leapfrog")])
def test_impossible_time_stepping_is_refused(steps, integrator):
    band = BANDS["2d"]
    with pytest.raises(ValueError, match=r"steps|integrator"):
        shooting(band).shoot(velocity(band), steps, integrator)


def test_a_wild_velocity_ends_without_an_exception():
    band = BANDS["3d"]
    s = shooting(band)
    for scale in (1e4, 1e200, math.nan):
        end = s.energy(s.shoot(scale * velocity(band), 8).velocities[-1])
        assert not math.isclose(float(end), float(s.energy(scale * velocity(band))), rel_tol=0.2)
