# SPDX-License-Identifier: Apache-2.0
"""What each item of a series starts from, and the weights of means over time."""

from __future__ import annotations

import numpy as np
import pytest
from DeepFLASHRegistrationLib.cohorts.series_order import from_reference, weights_in_time


def test_items_are_taken_from_the_reference_outwards_each_from_its_neighbour() -> None:
    assert from_reference(5, 1) == [(2, 1), (0, 1), (3, 2), (4, 3)]
    assert from_reference(4, 0) == [(1, 0), (2, 1), (3, 2)]
    assert from_reference(5, 0, cyclic=True) == [(1, 0), (4, 0), (2, 1), (3, 4)]
    assert from_reference(6, 4, cyclic=True) == [(5, 4), (3, 4), (0, 5), (2, 3), (1, 0)]


@pytest.mark.parametrize("cyclic", [False, True])
@pytest.mark.parametrize("count", [2, 3, 7, 8])
def test_every_item_is_reached_once_and_begins_after_its_neighbour(count: int, cyclic: bool) -> None:
    for reference in range(count):
        order, there = from_reference(count, reference, cyclic), {reference}
        for item, neighbour in order:
            assert neighbour in there
            assert (item - neighbour) % count in (1, count - 1)
            there.add(item)
        assert sorted(there) == list(range(count))
        assert len(order) == count - 1


@pytest.mark.parametrize("sigma", [0.4, 1.0, 2.5])
def test_weights_in_time_are_a_gaussian_whose_ends_are_renormalised(sigma: float) -> None:
    count = 9
    kernel = np.exp(-0.5 * (np.subtract.outer(np.arange(count), np.arange(count)) / sigma) ** 2)
    expected = kernel / kernel.sum(1, keepdims=True)
    for item in range(count):
        found = weights_in_time(count, item, sigma)
        row = np.array([found.get(other, 0.0) for other in range(count)])
        assert row.sum() == pytest.approx(1.0)
        np.testing.assert_allclose(row, expected[item], atol=5e-4)


def test_a_cycle_has_no_ends() -> None:
    from scipy.ndimage import gaussian_filter1d

    for count, sigma in ((12, 1.3), (5, 3.0)):
        impulses = np.eye(count)
        expected = gaussian_filter1d(impulses, sigma, axis=0, mode="wrap", truncate=np.ceil(4 * sigma) / sigma)
        found = np.zeros((count, count))
        for item in range(count):
            for other, weight in weights_in_time(count, item, sigma, cyclic=True).items():
                found[item, other] = weight
        np.testing.assert_allclose(found, expected, atol=1e-6)
