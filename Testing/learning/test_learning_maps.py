# SPDX-License-Identifier: Apache-2.0
"""Networks whose answers are maps or momenta: what they make of what they see."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from DeepFLASHRegistrationLib.geodesics.band import Lattice
from DeepFLASHRegistrationLib.geodesics.sampling import Sampler
from DeepFLASHRegistrationLib.learning import quicksilver, voxelmorph
from DeepFLASHRegistrationLib.learning.quicksilver import PATCH, QuicksilverNet

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


def test_blocks_hold_every_voxel_once() -> None:
    images = torch.arange(2 * 4 * 6 * 2).float().view(1, 2, 4, 6, 2)
    found = voxelmorph._blocks(images, 2)
    assert found.shape == (1, 16, 2, 3, 1)
    assert sorted(found.flatten().tolist()) == images.flatten().tolist()
    # All of a block are voxels of one image within one cube.
    cell = found[0, :8, 1, 2, 0].sort().values
    torch.testing.assert_close(cell, images[0, 0, 2:4, 4:6].flatten().sort().values)


class Patches(QuicksilverNet):
    """Answers with the fixed patch itself, in all components, and remembers what it was asked."""

    def __init__(self) -> None:
        super().__init__((2, 2), 2.0)
        self.asked = 0

    def forward(self, fixed: torch.Tensor, moving: torch.Tensor) -> torch.Tensor:
        self.asked += len(fixed)
        return fixed[:, None].repeat(1, 3, 1, 1, 1)


@pytest.mark.parametrize("shape", [(15, 15, 15), (29, 30, 43), (12, 40, 16), (44, 31, 29)])
def test_patches_are_put_together_where_they_were_taken(shape: tuple[int, ...]) -> None:
    torch.manual_seed(1)
    fixed, moving, network = torch.rand(shape), torch.rand(shape), Patches()
    *_, found = network.momentum(fixed, moving)
    assert found.shape == (3, *shape)
    for component in found:
        torch.testing.assert_close(component, 2.0 * fixed)
    assert network.asked == np.prod([max(1, -(-(n - 1) // 14)) for n in shape])


def test_where_both_images_are_flat_there_is_no_momentum() -> None:
    shape = (43, 15, 15)
    fixed, network = torch.ones(shape), Patches()
    fixed[35:] = torch.rand(8, 15, 15)
    *_, found = network.momentum(fixed, torch.ones(shape))
    assert network.asked == 1
    assert not found[:, :28].any()
    torch.testing.assert_close(found[0, 29:], 2 * fixed[29:])


def test_the_network_sees_both_patches_and_answers_with_one_for_each_component() -> None:
    torch.manual_seed(2)
    network = QuicksilverNet(quicksilver.SIZES["small"], 1.0)
    a, b = torch.rand(2, 2, PATCH, PATCH, PATCH)
    with torch.no_grad():
        found, exchanged, other = network(a, b), network(b, a), network(a, a)
    assert found.shape == (2, 3, PATCH, PATCH, PATCH)
    assert not torch.allclose(found, exchanged)
    assert not torch.allclose(found, other)
    assert not torch.allclose(found[:, 0], found[:, 1])
