# SPDX-License-Identifier: Apache-2.0
"""A displacement as a function of coordinates."""

from __future__ import annotations

import pytest
import torch
from DeepFLASHRegistrationLib.learning.neural_field import FieldSize, NeuralField

LENGTHS = (20.0, 30.0, 25.0)


def field(seed: int = 0, ndim: int = 3) -> NeuralField:
    return NeuralField(LENGTHS[:ndim], 3.0, FieldSize(16, 1.0, 16, 2), torch.Generator().manual_seed(seed))


def points(count: int = 100, ndim: int = 3) -> torch.Tensor:
    return torch.rand(count, ndim, generator=torch.Generator().manual_seed(1)) * torch.tensor(LENGTHS[:ndim])


@pytest.mark.parametrize("ndim", [2, 3])
def test_it_starts_at_rest_and_its_seed_decides_all_weights(ndim: int) -> None:
    one, two, other = field(0, ndim), field(0, ndim), field(1, ndim)
    assert not one(points(100, ndim)).any()
    for name, value in one.state_dict().items():
        assert torch.equal(value, two.state_dict()[name])
    assert not torch.equal(one.waves, other.waves)


def test_it_fades_out_towards_the_faces_of_its_box() -> None:
    found = field()
    torch.nn.init.constant_(found.last.bias, 1.0)
    inside = points()
    for axis, length in enumerate(LENGTHS):
        for end in (0.0, length):
            face = inside.clone()
            face[:, axis] = end
            assert not found(face).any()
    deep = inside.clamp(min=3.0).minimum(torch.tensor(LENGTHS) - 3.0)
    # Half of the longest edge times what the last layer says.
    torch.testing.assert_close(found(deep), torch.full((100, 3), 15.0))


def test_sines_keep_their_spread_from_layer_to_layer() -> None:
    """Weights are drawn so that no layer starts flat or saturated."""
    found = NeuralField(LENGTHS, 3.0, FieldSize(64, 1.0, 64, 3), torch.Generator().manual_seed(0))
    phase = (points(2000) - found.lengths / 2) @ found.waves
    x = torch.cat([torch.sin(phase), torch.cos(phase)], 1)
    for layer in found.layers:
        x = torch.sin(found.omega * layer(x)).detach()
        assert 0.5 < float(x.std()) < 0.8
