# SPDX-License-Identifier: Apache-2.0
"""Paired tests and their correction, on numbers worked out by hand."""

from __future__ import annotations

import math

import pytest
from DeepFLASHRegistrationLib.cohorts.statistics import holm, wilcoxon

pytest.importorskip("scipy")


def test_all_differences_of_one_sign_have_the_smallest_p_value() -> None:
    """Of 2^n ways to choose signs, two are as extreme."""
    assert wilcoxon([0.1, 0.2, 0.3, 0.4, 0.5, 0.6]) == pytest.approx(2 / 2**6)
    assert wilcoxon([-0.1, -0.2, -0.3, -0.4, -0.5, -0.6]) == pytest.approx(2 / 2**6)


def test_ranks_of_both_signs_by_hand() -> None:
    """Negative rank 1 of four: sums of ranks up to 1 are those of {} and {1}, so 2 · 2/2^4."""
    assert wilcoxon([-0.1, 0.2, 0.3, 0.4]) == pytest.approx(4 / 2**4)


@pytest.mark.parametrize("differences", [[], [0.3], [0.0, 0.0, 0.0]], ids=["none", "one", "all alike"])
def test_nothing_to_test_gives_no_p_value(differences: list[float]) -> None:
    assert math.isnan(wilcoxon(differences))


def test_holms_correction_by_hand() -> None:
    """Of 0.01, 0.04, 0.03, 0.005: 4·0.005, 3·0.01, 2·0.03, then not below the one before."""
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])


def test_what_was_no_test_does_not_count() -> None:
    found = holm([0.02, math.nan, 0.03])
    assert found[0] == pytest.approx(0.04)
    assert math.isnan(found[1])
    assert found[2] == pytest.approx(0.04)
    assert holm([0.7, 0.8]) == [1.0, 1.0]
