# SPDX-License-Identifier: Apache-2.0
"""Maps: against particles followed one by one, translations, inverses, resolutions."""

from __future__ import annotations

import math

import pytest
import torch
from DeepFLASHRegistrationLib.geodesics.band import Band, Lattice, Metric, Upsampler, fit_modes
from DeepFLASHRegistrationLib.geodesics.flow import BandLimitedFlow, Flow
from DeepFLASHRegistrationLib.geodesics.jacobian import smallest_determinant
from DeepFLASHRegistrationLib.geodesics.sampling import NonFiniteField, Sampler, compose
from DeepFLASHRegistrationLib.geodesics.shooting import Shooting
from geodesic_fields import BANDS, interior, particles, points_of, velocity
from scipy.integrate import solve_ivp

DOUBLE = torch.float64
DIRECTIONS = ("fixed_to_moving", "moving_to_fixed")
PLANE = Band((7, 5), (24.0, 20.0))


def shooting(band: Band = PLANE, step: float | None = None) -> Shooting:
    return Shooting(band, Metric(6.0, 2.0, step=step), DOUBLE)


def flow_on(band: Band, shape: tuple[int, ...], window=None) -> Flow:
    lattice = Lattice.cells(shape, band.lengths)
    return Flow(band, lattice, DOUBLE, window=None if window is None else window(lattice))


def window_weight(points: torch.Tensor, lengths: tuple[float, ...]) -> torch.Tensor:
    """(…, d) -> (…), smooth, 1 in the middle, 0 on the border."""
    weight = torch.ones(points.shape[:-1], dtype=DOUBLE)
    for axis, length in enumerate(lengths):
        x = points[..., axis]
        ramp = (torch.minimum(x, length - x) / (0.3 * length)).clamp(0, 1)
        weight = weight * ramp**3 * (10 - 15 * ramp + 6 * ramp**2)
    return weight


def plane_window(lattice: Lattice) -> torch.Tensor:
    return window_weight(points_of(lattice), PLANE.lengths)


@pytest.fixture(params=DIRECTIONS)
def direction(request) -> str:
    return request.param


@pytest.mark.parametrize("band", BANDS.values(), ids=BANDS)
@pytest.mark.parametrize("step", [None, 1.0], ids=["exact", "central"])
@pytest.mark.parametrize("band_limited", [False, True], ids=["semi-lagrangian", "band-limited"])
def test_a_constant_velocity_is_an_exact_translation(band, step, band_limited, direction):
    s = shooting(band, step)
    lattice = Lattice.cells(tuple(n + 3 for n in band.modes), band.lengths)
    flow = BandLimitedFlow(s, lattice) if band_limited else Flow(band, lattice, DOUBLE)
    v0 = torch.zeros(band.ndim, *band.modes, dtype=DOUBLE)
    shift = torch.tensor([1.3, -0.4, 2.2], dtype=DOUBLE)[: band.ndim]
    v0[(slice(None), *[0] * band.ndim)] = shift
    u = getattr(flow, direction)(s.shoot(v0, 4, "multistep"))
    expected = (-shift if direction == "fixed_to_moving" else shift).view(-1, *[1] * band.ndim).expand_as(u)
    torch.testing.assert_close(u, expected, atol=1e-12, rtol=0)


def map_errors(make_flow, sizes, direction, integrator="midpoint", weight=None, size=1.2, band=PLANE):
    """Largest distance to the followed particles away from the border, at resolutions with steps in proportion."""
    s = shooting(band)
    v0 = velocity(band, size, smoothness=6.0)
    errors = []
    for n, steps in sizes:
        shape = tuple(round(n * length / max(band.lengths)) for length in band.lengths)
        flow = make_flow(s, shape)
        inside = interior(flow.lattice, band.lengths, 3.0)
        at = points_of(flow.lattice)[inside][::5]
        exact = particles(s, v0, at, direction, weight=weight) - at
        u = getattr(flow, direction)(s.shoot(v0, steps, integrator))
        errors.append(float((u[:, inside].T[::5] - exact).norm(dim=1).max()))
    return errors


def test_the_reference_particles_agree_with_scipy():
    """The tests' own integrator, checked by an adaptive one that shares nothing with it but the velocity."""
    from geodesic_fields import evaluate_at

    s, v0 = shooting(), velocity(PLANE, 1.2, smoothness=6.0)
    shape = v0.shape

    def right_side(_, state):
        state = torch.from_numpy(state)
        v, x = state[: v0.numel()].reshape(shape), state[v0.numel() :].reshape(-1, 2)
        return torch.cat([s.acceleration(v).flatten(), evaluate_at(PLANE, v, x).flatten()]).numpy()

    start = torch.tensor([[5.0, 6.0], [12.0, 10.0], [17.0, 13.0]], dtype=DOUBLE)
    state = torch.cat([v0.flatten(), start.flatten()]).numpy()
    end = solve_ivp(right_side, (0, 1), state, rtol=1e-9, atol=1e-10).y[:, -1]
    mapped = torch.from_numpy(end[v0.numel() :]).reshape(-1, 2)
    torch.testing.assert_close(particles(s, v0, start, "moving_to_fixed"), mapped, atol=1e-6, rtol=0)
    torch.testing.assert_close(particles(s, v0, mapped, "fixed_to_moving"), start, atol=1e-6, rtol=0)


@pytest.mark.parametrize("integrator", ["midpoint", "multistep", "rk4"])
def test_semi_lagrangian_map_converges_to_the_particles_at_second_order(direction, integrator):
    errors = map_errors(
        lambda s, shape: Flow(s.band, Lattice.cells(shape, s.band.lengths), DOUBLE),
        [(24, 6), (48, 12), (96, 24)],
        direction,
        integrator,
    )
    assert math.log2(errors[0] / errors[2]) / 2 > 1.7
    assert errors[1] < 0.02  # of displacements of 1.2


def test_semi_lagrangian_map_in_three_dimensions_follows_the_particles(direction):
    errors = map_errors(
        lambda s, shape: Flow(s.band, Lattice.cells(shape, s.band.lengths), DOUBLE),
        [(20, 6)],
        direction,
        band=Band((5, 3, 7), (16.0, 14.0, 20.0)),
    )
    assert errors[0] < 0.06


def test_windowed_map_follows_the_damped_particles(direction):
    errors = map_errors(
        lambda s, shape: flow_on(s.band, shape, plane_window),
        [(24, 6), (48, 12), (96, 24)],
        direction,
        weight=lambda x: window_weight(x, PLANE.lengths)[:, None],
    )
    assert math.log2(errors[0] / errors[2]) / 2 > 1.5
    assert errors[1] < 0.01


def test_windowed_map_leaves_the_border_alone(direction):
    s = shooting()
    lattice = Lattice((25, 21), (1.0, 1.0), (0.0, 0.0))
    flow = Flow(PLANE, lattice, DOUBLE, window=plane_window(lattice))
    u = getattr(flow, direction)(s.shoot(velocity(PLANE, 2.0, smoothness=6.0), 6))
    border = torch.ones(lattice.shape, dtype=torch.bool)
    border[1:-1, 1:-1] = False
    assert not u[:, border].any()
    assert float(u.abs().max()) > 0.5


def test_band_limited_map_converges_to_the_particles_at_first_order(direction):
    """In a band wide enough for u, the paper's map goes to the same limit, with its Euler steps' order."""
    wide = Band((25, 21), PLANE.lengths)
    s, wide_s = shooting(), shooting(wide)
    v0 = velocity(PLANE, 0.5, smoothness=6.0)
    lattice = Lattice.cells((12, 10), PLANE.lengths)
    at = points_of(lattice).flatten(0, 1)
    exact = particles(s, v0, at, direction) - at
    errors = []
    for steps in (16, 32, 64):
        trajectory = s.shoot(v0, steps, "euler")
        trajectory.middles = [fit_modes(v, wide.modes) for v in trajectory.middles]
        u = getattr(BandLimitedFlow(wide_s, lattice), direction)(trajectory)
        errors.append(float((u.flatten(1).T - exact).norm(dim=1).max()))
    assert math.log2(errors[0] / errors[1]) == pytest.approx(1, abs=0.25)
    assert math.log2(errors[1] / errors[2]) == pytest.approx(1, abs=0.25)
    assert errors[2] < 0.02


@pytest.mark.parametrize("windowed", [False, True], ids=["free", "windowed"])
def test_there_and_back_is_the_identity_up_to_an_error_that_falls(windowed):
    s, v0 = shooting(), velocity(PLANE, 2.0, smoothness=6.0)
    errors = []
    for n, steps in ((24, 6), (48, 12), (96, 24)):
        shape = (n, n * 20 // 24)
        flow = flow_on(PLANE, shape, plane_window if windowed else None)
        trajectory = s.shoot(v0, steps, "midpoint")
        there, back = flow.fixed_to_moving(trajectory), flow.moving_to_fixed(trajectory)
        inside = interior(flow.lattice, PLANE.lengths, 5.0)
        errors.append(
            [float(compose(*pair, flow.sample)[:, inside].norm(dim=0).max()) for pair in ((there, back), (back, there))]
        )
        assert float(there.abs().max()) > 1
    for first, _, last in zip(*errors, strict=True):
        assert math.log2(first / last) / 2 > 1.35
        assert last < 0.01


def test_part_of_the_way_is_the_geodesic_of_a_slower_start(direction):
    """φ at time t is φ₁ of t·v0; with steps of the same length, to rounding."""
    s, v0 = shooting(), velocity(PLANE, 1.2, smoothness=6.0)
    flow = flow_on(PLANE, (24, 20))
    whole, part = s.shoot(v0, 8), s.shoot(0.375 * v0, 3)
    velocities = whole.middles[:3]
    if direction == "moving_to_fixed":
        velocities = [-v for v in reversed(velocities)]
    torch.testing.assert_close(flow.displacement(velocities, 1 / 8), getattr(flow, direction)(part))


def test_the_same_velocity_gives_the_same_map_at_every_resolution(direction):
    s, v0 = shooting(), velocity(PLANE, 1.2, smoothness=6.0)
    target = Lattice((10, 9), (1.3, 1.2), (6.0, 5.0))
    trajectory = s.shoot(v0, 12)

    def at(shape):
        flow = flow_on(PLANE, shape)
        return Upsampler(flow.lattice, target, DOUBLE)(getattr(flow, direction)(trajectory))

    fine = at((193, 161))
    errors = [float((at(shape) - fine).abs().max()) for shape in ((25, 19), (49, 39))]
    assert errors[0] < 0.03
    assert math.log2(errors[0] / errors[1]) > 1.5
    torch.testing.assert_close(at((24, 20)), fine, atol=0.03, rtol=0)


def test_a_wider_band_holds_the_same_map(direction):
    s, wide = shooting(), Band((13, 9), PLANE.lengths)
    trajectory = s.shoot(velocity(PLANE, 1.2, smoothness=6.0), 6)
    u = getattr(flow_on(PLANE, (24, 20)), direction)(trajectory)
    trajectory.middles = [fit_modes(v, wide.modes) for v in trajectory.middles]
    torch.testing.assert_close(getattr(flow_on(wide, (24, 20)), direction)(trajectory), u)


def test_single_precision_is_enough(direction):
    s, v0 = shooting(), velocity(PLANE, 1.2, smoothness=6.0)
    single = Shooting(PLANE, s.metric, torch.float32)
    lattice = Lattice.cells((24, 20), PLANE.lengths)
    u = getattr(Flow(PLANE, lattice, DOUBLE), direction)(s.shoot(v0, 8))
    u32 = getattr(Flow(PLANE, lattice, torch.float32), direction)(single.shoot(v0.float(), 8))
    assert u32.dtype == torch.float32
    torch.testing.assert_close(u32.double(), u, atol=1e-5, rtol=0)


def test_large_deformations_do_not_fold(direction):
    """Displacements of a quarter of the domain, where the plain velocity as displacement folds."""
    s, v0 = shooting(), velocity(PLANE, 6.0, seed=3, smoothness=6.0)
    flow = flow_on(PLANE, (48, 40), plane_window)
    v = flow.evaluate(v0)
    assert smallest_determinant(v, flow.lattice) < 0
    assert smallest_determinant(-v, flow.lattice) < 0
    u = getattr(flow, direction)(s.shoot(v0, s.recommended_steps(v0, 0.1), "rk4"))
    assert float(u.norm(dim=0).max()) > 3
    assert smallest_determinant(u, flow.lattice) > 0


def test_a_map_differentiates():
    small = Band((3, 3), (6.0, 5.0))
    s = shooting(small)
    v0 = velocity(small, 0.4, smoothness=1.0).requires_grad_()
    for flow in (
        Flow(small, Lattice.cells((6, 5), small.lengths), DOUBLE),
        BandLimitedFlow(s, Lattice.cells((6, 5), small.lengths)),
    ):
        assert torch.autograd.gradcheck(lambda v, flow=flow: flow.fixed_to_moving(s.shoot(v, 3)), (v0,), fast_mode=True)


@pytest.mark.parametrize("value", [math.nan, math.inf, 1e30])
def test_a_velocity_that_is_not_finite_is_refused(value, direction):
    s = shooting()
    trajectory = s.shoot(velocity(PLANE), 3)
    trajectory.middles = [v * value for v in trajectory.middles]
    with pytest.raises(NonFiniteField):
        getattr(flow_on(PLANE, (8, 8)), direction)(trajectory)


def test_composition_of_affine_maps_is_their_product():
    first = Lattice.cells((6, 5, 4), (6.0, 5.0, 4.0))
    second = Lattice((14, 13, 12), (0.9, 1.0, 1.1), (-3.0, -4.0, -4.0))
    generator = torch.Generator().manual_seed(3)
    a, b = (torch.eye(3, dtype=DOUBLE) + 0.1 * torch.randn(3, 3, generator=generator, dtype=DOUBLE) for _ in range(2))
    t = torch.tensor([0.3, -0.2, 0.5], dtype=DOUBLE)

    def field(lattice, matrix, shift):
        x = points_of(lattice)
        return (x @ matrix.T + shift - x).movedim(-1, 0)

    composed = compose(field(first, a, t), field(second, b, -t), Sampler(first, second, DOUBLE))
    torch.testing.assert_close(composed, field(first, b @ a, b @ t - t), atol=1e-12, rtol=0)
