# SPDX-License-Identifier: Apache-2.0
"""Networks whose answers are maps or momenta: what they make of what they see."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from DeepFLASHRegistrationLib.geodesics.band import Lattice
from DeepFLASHRegistrationLib.geodesics.sampling import Sampler
from DeepFLASHRegistrationLib.learning import quicksilver, voxelmorph
from DeepFLASHRegistrationLib.learning.blocks import from_blocks, to_blocks
from DeepFLASHRegistrationLib.learning.quicksilver import PATCH, QuicksilverNet, Tiling, seen

pytest.importorskip("monai")


def answering(velocity: tuple[float, ...], size: str) -> voxelmorph.VoxelMorphNet:
    """A network that answers with one velocity everywhere, in voxels."""
    network = voxelmorph.VoxelMorphNet(len(velocity), *voxelmorph.SIZES[size])
    *_, weight, bias = network.parameters()
    per_voxel = 0.5 if size == "small" else 1.0  # what the small one answers with counts voxels of half the resolution
    with torch.no_grad():
        weight.zero_()
        bias.copy_(per_voxel * torch.tensor(velocity))
    return network


@pytest.mark.parametrize("size", voxelmorph.SIZES)
@pytest.mark.parametrize("shape", [(32, 16, 48), (32, 48)])
def test_a_constant_velocity_is_a_shift_by_it_in_voxels(size: str, shape: tuple[int, ...]) -> None:
    velocity = (1.5, -0.75, 2.0)[: len(shape)]
    network, images = answering(velocity, size), torch.rand(2, 1, *shape)
    with torch.no_grad():
        found = network.displacement(network.velocity(images[0], images[1]))
    assert found.shape == (1, len(shape), *shape)
    for axis, value in enumerate(velocity):
        np.testing.assert_allclose(found[0, axis].numpy(), value, atol=1e-5)


def test_the_exponential_of_the_negative_velocity_is_the_inverse() -> None:
    torch.manual_seed(0)
    network, shape = answering((0.0, 0.0, 0.0), "small"), (48, 48, 48)
    bumps = torch.nn.functional.interpolate(torch.randn(1, 3, 4, 4, 4), (12, 12, 12), mode="trilinear")
    v = torch.nn.functional.pad(bumps, (6,) * 6)
    v = torch.nn.functional.avg_pool3d(v, 5, 1, 2)
    with torch.no_grad():
        forth, back = (network.displacement(x)[0] for x in (v, -v))
    cells = Lattice.cells(shape, tuple(map(float, shape)))
    left = forth + Sampler(cells, cells)(back, forth)
    assert float(forth.abs().max()) > 1.5
    assert float(left.abs().mean()) < 0.02
    assert float(left.abs().max()) < 0.3


def test_blocks_hold_every_voxel_once_and_come_back() -> None:
    images = torch.arange(2 * 4 * 6 * 2).float().view(1, 2, 4, 6, 2)
    found = to_blocks(images, 2)
    assert found.shape == (1, 16, 2, 3, 1)
    # All of a block are voxels of one image within one cube.
    torch.testing.assert_close(found[0, :8, 1, 2, 0], images[0, 0, 2:4, 4:6].flatten())
    assert torch.equal(from_blocks(found, 2), images)
    plane = torch.rand(2, 3, 8, 6)
    assert torch.equal(to_blocks(plane, 2), torch.nn.functional.pixel_unshuffle(plane, 2))
    assert torch.equal(from_blocks(to_blocks(plane, 2), 2), plane)


class Patches(QuicksilverNet):
    """Answers with the fixed patch as it is seen, in all components, and remembers what it was asked."""

    def __init__(self, ndim: int = 3) -> None:
        super().__init__(ndim, (2, 2), 2, 2.0)
        self.asked = 0

    def forward(self, patches: torch.Tensor) -> torch.Tensor:
        self.asked += len(patches)
        return patches[:, :1].expand(-1, patches.ndim - 2, *patches.shape[2:])


@pytest.mark.parametrize("shape", [(15, 15, 15), (29, 30, 43), (12, 40, 16), (44, 31, 29), (33, 15), (9, 50)])
@pytest.mark.parametrize("shifted", [False, True])
def test_patches_are_put_together_where_they_were_taken(shape: tuple[int, ...], shifted: bool) -> None:
    torch.manual_seed(1)
    images = torch.rand(2, *shape)
    tiling = Tiling(shape, "cpu", shifted)
    patches = tiling.cut(images)
    assert patches.shape == (np.prod([max(1, -(-(n - 1) // 14)) for n in shape]), 2, *[PATCH] * len(shape))
    torch.testing.assert_close(tiling.joined(patches), images)
    # Where patches overlap, or stand out, each counts as much as another.
    torch.testing.assert_close(tiling.joined(torch.ones_like(patches)), torch.ones_like(images))


def test_a_momentum_is_what_the_network_answers_of_what_it_sees() -> None:
    torch.manual_seed(3)
    for shape in ((29, 30, 17), (30, 44)):
        fixed, moving, network = torch.rand(shape), torch.rand(shape), Patches(len(shape))
        *_, found = network.momentum(fixed, moving)
        for component in found:
            torch.testing.assert_close(component, 2.0 * seen(fixed, moving)[0])


def test_where_both_images_are_flat_there_is_no_momentum() -> None:
    shape = (43, 15, 15)
    fixed, network = torch.ones(shape), Patches()
    fixed[35:] = torch.rand(8, 15, 15)
    *_, found = network.momentum(fixed, torch.ones(shape))
    assert network.asked == 1
    assert not found[:, :28].any()
    assert found[0, 35:].abs().mean() > 0.5


def test_images_are_seen_by_what_they_differ_by_nearby_and_the_way_the_moving_one_slopes() -> None:
    at = torch.stack(torch.meshgrid(*[torch.arange(24.0)] * 3, indexing="ij"))
    texture = torch.rand(24, 24, 24, generator=torch.Generator().manual_seed(0))
    found, brighter = seen(texture, at[1] / 24), seen(3 * texture + 2, at[1] / 24)
    torch.testing.assert_close(found[0], brighter[0], atol=0.1, rtol=0)
    direction = found[2:, 4:-4, 4:-4, 4:-4]
    torch.testing.assert_close(direction[1], torch.ones(16, 16, 16), atol=0.05, rtol=0)
    assert float(direction[[0, 2]].abs().max()) < 1e-3
    assert not seen(texture, torch.ones(24, 24, 24))[2:].any()


@pytest.mark.parametrize("size", quicksilver.SIZES)
@pytest.mark.parametrize("ndim", [2, 3])
def test_the_network_sees_both_patches_and_answers_along_the_slope(size: str, ndim: int) -> None:
    torch.manual_seed(2)
    network = QuicksilverNet(ndim, *quicksilver.SIZES[size], 1.0)
    a, b = torch.rand(2, 2, 1, *[PATCH] * ndim)
    slope = torch.ones(2, ndim, *[PATCH] * ndim)
    with torch.no_grad():
        found, exchanged, other = (network(torch.cat([*pair, slope], 1)) for pair in ((a, b), (b, a), (a, a)))
        none = network(torch.cat([a, b, 0 * slope], 1))
    assert found.shape == (2, ndim, *[PATCH] * ndim)
    assert not torch.allclose(found, exchanged)
    assert not torch.allclose(found, other)
    assert not torch.allclose(found[:, 0], found[:, 1])
    assert not none.any()
