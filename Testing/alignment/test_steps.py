# SPDX-License-Identifier: Apache-2.0
"""What a function that never falls explains, against a search over all of them."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from DeepFLASHRegistrationLib.alignment.steps import explained_by_rising


@pytest.mark.parametrize("seed", range(5))
def test_the_best_function_that_never_falls_is_constant_on_runs_of_bins(seed) -> None:
    """Of all ways to cut the bins into runs whose means rise, the best one explains most."""
    rng = np.random.default_rng(seed)
    count = rng.integers(1, 9, 7).astype(float)
    mean = rng.normal(size=7)
    mean -= (count * mean).sum() / count.sum()
    best = 0.0
    for cuts in itertools.product((False, True), repeat=6):
        runs = np.cumsum([0, *cuts])
        n, total = np.bincount(runs, count), np.bincount(runs, count * mean)
        if (np.diff(total / n) >= 0).all():
            best = max(best, float((total**2 / n).sum()))
    assert explained_by_rising(count, count * mean) == pytest.approx(best)


def test_a_rising_function_is_explained_wholly_and_a_falling_one_not_at_all() -> None:
    count, mean = np.ones(5), np.array([-2.0, -1, 0, 1, 2])
    assert explained_by_rising(count, mean) == pytest.approx(10)
    assert explained_by_rising(count, -mean) == pytest.approx(0)
