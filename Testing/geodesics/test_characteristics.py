# SPDX-License-Identifier: Apache-2.0
"""Particles along a geodesic: against others that are followed finely by the velocity itself."""

from __future__ import annotations

import math

import pytest
import torch
from DeepFLASHRegistrationLib.geodesics.band import Band, Lattice, Metric
from DeepFLASHRegistrationLib.geodesics.characteristics import Characteristics, OneLook
from DeepFLASHRegistrationLib.geodesics.flow import BandLimitedFlow
from DeepFLASHRegistrationLib.geodesics.sampling import NonFiniteField
from DeepFLASHRegistrationLib.geodesics.shooting import Shooting
from geodesic_fields import evaluate_at, particles, velocity
from recordings import OneDevice

DOUBLE = torch.float64
PLANE = Band((7, 5), (24.0, 20.0))
SPACE = Band((5, 3, 7), (16.0, 14.0, 20.0))
BACKWARDS = {"fixed_to_moving": True, "moving_to_fixed": False}


@pytest.fixture(params=BACKWARDS)
def direction(request) -> str:
    return request.param


def shooting(band: Band) -> Shooting:
    return Shooting(band, Metric(6.0, 2.0), DOUBLE)


def somewhere(band: Band, count: int) -> torch.Tensor:
    """Points (n, d) well inside the domain."""
    share = 0.2 + 0.6 * torch.rand(count, band.ndim, generator=torch.Generator().manual_seed(2), dtype=DOUBLE)
    return share * torch.tensor(band.lengths, dtype=DOUBLE)


def followed(s: Shooting, v0: torch.Tensor, at: torch.Tensor, direction: str, steps: int, refined: int) -> torch.Tensor:
    lattice = Lattice.cells(tuple(refined * n for n in s.band.modes), s.band.lengths)
    paths = Characteristics(s.band, s.shoot(v0, steps, "rk4").middles, lattice)
    return at + paths.moved(at.T, BACKWARDS[direction]).T


@pytest.mark.parametrize("band", [PLANE, SPACE], ids=["plane", "space"])
def test_particles_go_where_finely_followed_ones_go(band, direction):
    s, v0, at = shooting(band), velocity(band, 1.2, smoothness=6.0), somewhere(band, 60)
    exact = particles(s, v0, at, direction)
    assert float((exact - at).norm(dim=1).max()) > 0.5
    assert float((followed(s, v0, at, direction, 8, 12) - exact).norm(dim=1).max()) < 0.01


def test_steps_are_of_second_order(direction):
    s, v0, at = shooting(PLANE), velocity(PLANE, 2.0, smoothness=6.0), somewhere(PLANE, 40)
    exact = particles(s, v0, at, direction)
    errors = [float((followed(s, v0, at, direction, n, 120) - exact).norm(dim=1).max()) for n in (4, 8, 16)]
    assert math.log2(errors[0] / errors[2]) / 2 > 1.8


def test_there_and_back_is_where_one_was():
    s, v0, at = shooting(PLANE), velocity(PLANE, 2.0, smoothness=6.0), somewhere(PLANE, 40)
    there = followed(s, v0, at, "fixed_to_moving", 12, 60)
    assert float((followed(s, v0, there, "moving_to_fixed", 12, 60) - at).norm(dim=1).max()) < 0.01


def test_tables_make_up_for_half_of_what_looking_flattens():
    """Of the shortest wave, on average over where one looks: sinc instead of sinc² along each axis."""
    generator = torch.Generator().manual_seed(0)
    wave = torch.zeros(2, *PLANE.modes, dtype=DOUBLE)
    wave[:, -2:, -2:] = torch.randn(2, 2, 2, generator=generator, dtype=DOUBLE)
    lattice = Lattice.cells((20, 14), PLANE.lengths)
    at = torch.rand(20_000, 2, generator=generator, dtype=DOUBLE) * 0.8 * torch.tensor(PLANE.lengths) + 2
    exact = evaluate_at(PLANE, wave, at)
    seen = OneLook(PLANE, [wave], lattice).moved(at.T, True).T
    left = math.prod(math.sin(x) / x for x in (math.pi * 3 / 20, math.pi * 2 / 14))
    assert float((seen * exact).sum() / (exact * exact).sum()) == pytest.approx(left, abs=0.005)


def test_a_damped_velocity_moves_by_its_weight():
    lattice = Lattice.cells((48, 40), PLANE.lengths)
    still = torch.zeros(2, *PLANE.modes, dtype=DOUBLE)
    still[:, 0, 0] = torch.tensor([0.3, -0.2])
    window = torch.full(lattice.shape, 0.25, dtype=DOUBLE)
    at = somewhere(PLANE, 10).T
    moved = Characteristics(PLANE, [still] * 3, lattice, window).moved(at, False)
    torch.testing.assert_close(moved, torch.tensor([[0.075], [-0.05]], dtype=DOUBLE).expand_as(moved))


@pytest.mark.parametrize("band", [PLANE, SPACE], ids=["plane", "space"])
def test_a_lattice_is_its_points_in_any_order_of_the_work(band, direction):
    """Oblique, of any extent, and whatever is done side by side."""
    s = shooting(band)
    lattice = Lattice.cells(tuple(5 * n for n in band.modes), band.lengths)
    middles = s.shoot(velocity(band, 1.2, smoothness=6.0), 3).middles
    paths = Characteristics(band, middles, lattice)
    turn = torch.linalg.qr(torch.randn(band.ndim, band.ndim, generator=torch.Generator().manual_seed(1)))[0].double()
    axes = [turn[:, a : a + 1] * (2 + torch.arange(n, dtype=DOUBLE)) for a, n in enumerate((45, 31, 37)[: band.ndim])]
    whole = paths.on_lattice(axes, BACKWARDS[direction])
    index = (11, 30, 4)[: band.ndim]
    at = sum(axis[:, k] for axis, k in zip(axes, index, strict=True))
    torch.testing.assert_close(whole[(slice(None), *index)], paths.moved(at[:, None], BACKWARDS[direction])[:, 0])

    def backwards(work, items):
        return [work(item) for item in reversed(list(items))]

    other = Characteristics(band, middles, lattice, spread=backwards)
    assert torch.equal(other.on_lattice(axes, BACKWARDS[direction]), whole)


def test_a_displacement_in_the_band_is_read_where_one_is(direction):
    s = shooting(PLANE)
    lattice = Lattice.cells((60, 50), PLANE.lengths)
    flow = BandLimitedFlow(s, lattice)
    trajectory = s.shoot(velocity(PLANE, 0.5, smoothness=6.0), 8, "euler")
    u = flow.band_displacement(trajectory, direction)
    torch.testing.assert_close(flow.evaluate(u), getattr(flow, direction)(trajectory))
    at = somewhere(PLANE, 50)
    seen = OneLook(PLANE, [u], lattice).moved(at.T, BACKWARDS[direction]).T
    torch.testing.assert_close(seen, evaluate_at(PLANE, u, at), atol=3e-3, rtol=0)


@pytest.mark.parametrize("value", [math.nan, math.inf, 1e30])
def test_a_velocity_that_is_not_finite_is_refused(value):
    with pytest.raises(NonFiniteField):
        Characteristics(PLANE, [velocity(PLANE) * value], Lattice.cells((8, 8), PLANE.lengths))


def test_all_lies_on_the_device_of_the_velocities():
    """The device "meta" has no numbers, and cannot be read."""
    paths = Characteristics(PLANE, [velocity(PLANE).float()] * 3, Lattice.cells((48, 40), PLANE.lengths))
    paths.device = torch.device("meta")
    paths._tables, paths._scale = [table.to("meta") for table in paths._tables], paths._scale.to("meta")
    with OneDevice("meta"):
        assert paths._followed(torch.ones(2, 5, 4, device="meta"), True).shape == (2, 5, 4)
    assert paths.on_lattice([torch.ones(2, n, dtype=DOUBLE) for n in (5, 4)], True).device.type == "meta"
