# SPDX-License-Identifier: Apache-2.0
"""Images on coarser and finer cells: where the cells lie, and what becomes of waves."""

import math

import numpy as np
import pytest
import torch
from DeepFLASHRegistrationLib.geodesics.resizing import resized


def _centers(n, length=24.0):
    return (torch.arange(n, dtype=torch.float64) + 0.5) * (length / n)


def _keys(t):
    """The kernel of Keys (1981) with a = −1/2."""
    t = abs(t)
    if t < 1:
        return 1.5 * t**3 - 2.5 * t**2 + 1
    return -0.5 * t**3 + 2.5 * t**2 - 4 * t + 2 if t < 2 else 0.0


@pytest.mark.parametrize("n", [6, 8, 12, 48, 72])
def test_a_ramp_stays_where_it_lies(n):
    ramp = (_centers(24)[:, None] + 3 * _centers(24)[None]).float()
    expected = _centers(n)[:, None] + 3 * _centers(n)[None]
    inner = slice(2 * math.ceil(n / 12), -2 * math.ceil(n / 12))  # the kernel reaches beyond the border elsewhere
    assert torch.allclose(resized(ramp, (n, n))[inner, inner], expected[inner, inner].float(), atol=2e-4)


def test_finer_and_coarser_are_cubic_convolution():
    values = torch.rand(1, 16, generator=torch.Generator().manual_seed(0))[0]
    finer, coarser = (resized(values[:, None].expand(16, 3), (n, 3))[:, 1] for n in (32, 8))
    for i in range(6, 26):
        at = (i + 0.5) / 2 - 0.5
        expected = sum(float(values[k]) * _keys(at - k) for k in range(16))
        assert float(finer[i]) == pytest.approx(float(np.clip(expected, values.min(), values.max())), abs=1e-5)
    for i in range(2, 6):
        weights = [_keys((2 * i + 0.5 - k) / 2) for k in range(16)]  # as much wider as the cells are
        expected = sum(w * float(v) for w, v in zip(weights, values, strict=True)) / sum(weights)
        assert float(coarser[i]) == pytest.approx(expected, abs=1e-5)


def test_waves_too_short_for_the_cells_vanish():
    x = _centers(96)
    image = torch.sin(2 * math.pi * x / 0.7).float().expand(8, 96)  # coarse cells are 1 wide, these 0.25
    coarse = resized(image, (8, 24))[:, 3:-3]
    averaged = image.reshape(8, 24, 4).mean(-1)[:, 3:-3]
    assert coarse.abs().max() < 0.5 * averaged.abs().max()


def test_no_value_leaves_the_range_of_the_image():
    edge = torch.zeros(12, 10, 14)
    edge[4:8, 3:6, 5:9] = 1
    for shape in ((6, 10, 7), (24, 20, 28), (3, 5, 14)):
        found = resized(edge, shape)
        assert found.shape == shape
        assert found.min() >= 0
        assert found.max() <= 1


def test_the_order_of_the_axes_does_not_matter():
    image = torch.rand(8, 12, 6, generator=torch.Generator().manual_seed(1))
    turned = resized(image.permute(2, 0, 1).contiguous(), (12, 4, 12)).permute(1, 2, 0)
    assert torch.allclose(resized(image, (4, 12, 12)), turned, atol=1e-6)


def test_cells_that_stay_are_not_touched():
    image = torch.rand(5, 6)
    assert resized(image, (5, 6)) is image
