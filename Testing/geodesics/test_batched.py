# SPDX-License-Identifier: Apache-2.0
"""Several geodesics at once are the engine's geodesics, one by one."""

from __future__ import annotations

import pytest
import torch
from DeepFLASHRegistrationLib.geodesics.band import Band, Lattice, Metric
from DeepFLASHRegistrationLib.geodesics.batched import BatchedFlow, BatchedSampler, BatchedShooting
from DeepFLASHRegistrationLib.geodesics.flow import Flow
from DeepFLASHRegistrationLib.geodesics.sampling import Sampler
from DeepFLASHRegistrationLib.geodesics.shooting import Shooting

METRIC = Metric(6.0, 2.0)


def velocities(band: Band, count: int, size: float) -> torch.Tensor:
    noise = torch.randn(
        (count, band.ndim, *band.modes), generator=torch.Generator().manual_seed(1), dtype=torch.float64
    )
    v = noise * METRIC.symbol(band).rsqrt()
    return size * v / v.square().flatten(1).sum(1).sqrt().view(-1, *[1] * (band.ndim + 1))


def window(lattice: Lattice) -> torch.Tensor:
    weights = torch.ones(lattice.shape, dtype=torch.float64)
    for axis in range(lattice.ndim):
        shape = [1] * lattice.ndim
        shape[axis] = -1
        x = lattice.positions(axis)
        weights = weights * torch.sin(torch.pi * x / (x[0] + x[-1])).view(shape)
    return weights


@pytest.mark.parametrize("band", [Band((7, 5, 9), (20.0, 16.0, 24.0)), Band((9, 7), (20.0, 16.0))])
def test_shooting_and_both_maps_are_those_of_one_geodesic_after_the_other(band):
    v0 = velocities(band, 3, 1.5)
    lattice = Lattice.cells(tuple(int(n // 2) for n in band.lengths), band.lengths)
    shooting, batched = Shooting(band, METRIC, torch.float64), BatchedShooting(band, METRIC, torch.float64)
    for windows in ((None, None), (window(lattice), window)):
        flow = Flow(band, lattice, torch.float64, window=windows[0])
        flows = BatchedFlow(band, lattice, torch.float64, window=windows[1])
        middles = batched.middles(v0, 4)
        forth, back = flows.fixed_to_moving(middles), flows.moving_to_fixed(middles)
        for found, expected in zip(flows.both(middles), (forth, back), strict=True):
            torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)
        for k in range(3):
            one = shooting.shoot(v0[k], 4, "multistep")
            for a, b in zip(one.middles, middles):
                torch.testing.assert_close(b[k], a, rtol=1e-10, atol=1e-12)
            torch.testing.assert_close(forth[k], flow.fixed_to_moving(one), rtol=1e-9, atol=1e-10)
            torch.testing.assert_close(back[k], flow.moving_to_fixed(one), rtol=1e-9, atol=1e-10)
    assert forth.abs().max() > 0.5  # a deformation worth comparing


def test_energy_and_steepest_slope_are_those_of_each():
    band = Band((7, 5, 9), (20.0, 16.0, 24.0))
    v0 = velocities(band, 2, 1.0)
    shooting, batched = Shooting(band, METRIC, torch.float64), BatchedShooting(band, METRIC, torch.float64)
    for k in range(2):
        torch.testing.assert_close(batched.energy(v0)[k], shooting.energy(v0[k]))
        slopes = shooting.product(shooting.gradient(v0[k]).flatten(0, 1))
        torch.testing.assert_close(batched.steepest(v0)[k], slopes.abs().max())


def test_sampling_is_the_engines_and_survives_what_is_not_finite():
    source, lattice = Lattice.cells((6, 8, 5), (6.0, 8.0, 5.0)), Lattice.cells((3, 4, 5), (6.0, 8.0, 5.0))
    generator = torch.Generator().manual_seed(0)
    arrays = torch.rand((2, 3, 6, 8, 5), generator=generator)
    u = 2 * torch.randn((2, 3, 3, 4, 5), generator=generator)
    found = BatchedSampler(lattice, source)(arrays, u)
    for k in range(2):
        torch.testing.assert_close(found[k], Sampler(lattice, source)(arrays[k], u[k]))
    u[0, 0, 0, 0, 0], u[0, 1, 1, 1, 1] = float("nan"), float("inf")
    u.requires_grad_()
    BatchedSampler(lattice, source)(arrays, u).sum().backward()
    assert torch.isfinite(u.grad[1]).all()
