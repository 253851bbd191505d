# SPDX-License-Identifier: Apache-2.0
"""Attention to coordinates, the first step of CARL."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from DeepFLASHRegistrationLib.learning.attention import AttentionStep, CoordinateAttention, coordinates


@pytest.mark.parametrize("shape", [(3, 2, 2), (3, 5)])
def test_attention_is_the_softmax_written_out(shape: tuple[int, ...]) -> None:
    rng, padding, ndim = np.random.default_rng(0), 2, len(shape)
    around = tuple(n + 2 * padding for n in shape)
    moving, fixed = (rng.normal(size=(2, 5, *each)) for each in (around, shape))
    found = CoordinateAttention()(torch.from_numpy(moving), torch.from_numpy(fixed)).numpy()
    for pair in range(2):
        for x in np.ndindex(shape):
            weights = np.array(
                [np.exp(fixed[(pair, slice(None), *x)] @ moving[(pair, slice(None), *y)]) for y in np.ndindex(around)]
            )
            there = np.array([(np.array(y) - padding) / (np.array(shape) - 1) for y in np.ndindex(around)])
            expected = weights @ there / weights.sum() - np.array(x) / (np.array(shape) - 1)
            np.testing.assert_allclose(found[(pair, slice(None), *x)], expected, rtol=1e-12, atol=1e-12)
    assert found.shape == (2, ndim, *shape)


def test_its_derivative_is_that_of_differences() -> None:
    torch.manual_seed(0)
    moving = torch.randn(1, 2, 4, 4, dtype=torch.float64, requires_grad=True)
    fixed = torch.randn(1, 2, 2, 2, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(CoordinateAttention(), (moving, fixed))


def test_features_have_their_length_and_padding_surrounds_them() -> None:
    torch.manual_seed(0)
    step = AttentionStep(3, 6, 2, length=5.0)
    found = step.features(torch.rand(1, 1, 6, 7, 5))
    assert found.shape == (1, 6, 10, 11, 9)
    lengths = found.detach().norm(dim=1)
    assert float(lengths.max()) <= 5.0
    assert float(lengths.median()) == pytest.approx(5.0, rel=0.01)
    inside = coordinates((10, 11, 9), (6, 7, 5), found)[0, :, 2:-2, 2:-2, 2:-2]
    torch.testing.assert_close(inside[:, 0, 0, 0], torch.zeros(3))
    torch.testing.assert_close(inside[:, -1, -1, -1], torch.ones(3))


@pytest.mark.parametrize("ndim", [2, 3])
def test_images_that_move_by_other_voxels_take_the_map_along(ndim: int) -> None:
    """[W, U] equivariance, with random weights: features long enough that each voxel looks at few, and objects that
    stay away from the border."""
    torch.manual_seed(1)
    n, object_voxels, first = 14, 6, 4
    step = AttentionStep(ndim, 12, 4, length=12.0)
    blobs = torch.rand(1, *[object_voxels] * ndim) + 0.1 * torch.rand(2, *[object_voxels] * ndim)

    def image(which: int, at: tuple[int, ...]) -> torch.Tensor:
        found = torch.zeros(1, 1, *[n] * ndim)
        found[(0, 0, *(slice(a, a + object_voxels) for a in at))] = blobs[which]
        return found

    def targets(fixed_at: tuple[int, ...], moving_at: tuple[int, ...]) -> torch.Tensor:
        """Where the object's voxels are sent, in voxels (d, *object)."""
        with torch.no_grad():
            u = step(image(0, moving_at), image(1, fixed_at)) * (n - 1)
        grid = torch.stack(torch.meshgrid(*[torch.arange(float(n))] * ndim, indexing="ij"))
        return (grid + u[0])[(slice(None), *(slice(a, a + object_voxels) for a in fixed_at))]

    rest = targets((first,) * ndim, (first,) * ndim)
    # It is no flat mean that would move along with anything.
    assert float(rest.flatten(1).std(1).min()) > 1
    u, w = torch.tensor([2, -1, 1][:ndim]), torch.tensor([-1, 2, -2][:ndim])
    moved = targets(tuple((first + u).tolist()), tuple((first + w).tolist()))
    error = (moved - rest - w.view(ndim, *[1] * ndim)).norm(dim=0)
    assert float(error.max()) < 0.05
    assert float((moved - rest).norm(dim=0).min()) > 1.5


def test_features_are_not_looked_for_again_when_a_pair_comes_exchanged() -> None:
    torch.manual_seed(2)
    step = AttentionStep(3, 4, 1)
    a, b = torch.rand(2, 1, 1, 5, 6, 4)
    expected = step(a, b), step(b, a)
    step.known = []
    found = step(a, b), step(b, a)
    assert all(torch.equal(x, y) for x, y in zip(found, expected, strict=True))
    assert not torch.equal(*expected)
