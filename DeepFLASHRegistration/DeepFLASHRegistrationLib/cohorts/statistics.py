# SPDX-License-Identifier: Apache-2.0
"""Paired comparisons of methods over the same pairs."""

from __future__ import annotations

import math
from collections.abc import Sequence

from ..support.errors import InputError


def wilcoxon(differences: Sequence[float]) -> float:
    """The two-sided p value of Wilcoxon's signed-rank test that paired differences are symmetric about zero; nan where
    all are zero, or fewer than two.

    Raises:
        InputError: SciPy is missing.
    """
    try:
        from scipy import stats
    except ImportError as error:
        raise InputError("SciPy is needed to compare methods: pip install scipy") from error
    if len(differences) < 2 or not any(differences):
        return math.nan
    return float(stats.wilcoxon(differences).pvalue)


def holm(values: Sequence[float]) -> list[float]:
    """p values of several tests corrected so that the chance of any false one stays below the level (Holm 1979).

    Those that are nan were no tests and stay.
    """
    order = sorted((p, i) for i, p in enumerate(values) if not math.isnan(p))
    corrected, largest = list(values), 0.0
    for rank, (p, i) in enumerate(order):
        largest = max(largest, min(1.0, (len(order) - rank) * p))
        corrected[i] = largest
    return corrected
