# SPDX-License-Identifier: Apache-2.0
"""Means, spreads, shares of a gain and differences of methods, on numbers worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest
from DeepFLASHRegistrationLib.cohorts.comparison import Measured
from DeepFLASHRegistrationLib.cohorts.comparison_table import as_text, dice_by_structure, lines, plain_lines

pytest.importorskip("scipy")


def row(pair: str, method: str, dice: float, variant: str = "", **more: object) -> Measured:
    return Measured(pair, method, variant, f"{method}/{pair}", "done", metrics={"mean_dice_after": dice}, **more)


def test_the_share_of_the_gain_is_that_of_pairs_both_registered() -> None:
    rows = [row(pair, "alignment", 0.5) for pair in "abc"]
    rows += [row("a", "flash", 0.7), row("b", "flash", 0.9), Measured("c", "flash", "", "flash/c", "failed", "broken")]
    rows += [row("a", "deep", 0.6), row("b", "deep", 0.9), row("c", "deep", 0.9)]
    alignment, flash, deep = lines(rows, "flash")
    assert (flash.done, flash.failed, deep.done) == (2, 1, 3)
    assert flash.figures["dice"] == pytest.approx((0.8, np.std([0.7, 0.9], ddof=1)))
    assert (alignment.share, flash.share) == (0.0, 1.0)
    assert deep.share == pytest.approx(0.5 / 0.6)
    assert deep.differences["dice"][:3] == pytest.approx((-0.05, np.std([-0.1, 0.0], ddof=1), 2))
    text = as_text([alignment, flash, deep], "flash").splitlines()
    assert text[0].endswith("of flash's gain")
    assert text[3].endswith("83 %")
    assert "%" not in text[1]
    assert plain_lines([deep])[0]["share_of_gain"] == deep.share


def test_pairs_seen_otherwise_are_compared_with_the_reference_seen_so() -> None:
    """Moved, the reference falls to 0.6 and the other keeps 0.7: a difference of 0.1, not of -0.2."""
    rows = []
    for variant, flash in (("", 0.9), ("moved by 4", 0.6)):
        rows += [row("a", "alignment", 0.5, variant), row("a", "flash", flash, variant), row("a", "deep", 0.7, variant)]
    found = {line.title: line for line in lines(rows, "flash")}
    assert list(found)[3:] == ["alignment, moved by 4", "flash, moved by 4", "deep, moved by 4"]
    assert found["deep"].differences["dice"][0] == pytest.approx(-0.2)
    assert found["deep, moved by 4"].differences["dice"][0] == pytest.approx(0.1)
    assert found["deep, moved by 4"].share == pytest.approx(2.0)


def test_what_did_no_better_than_the_alignment_has_no_gain_to_share() -> None:
    rows = [row("a", "alignment", 0.5), row("a", "flash", 0.5), row("a", "deep", 0.7)]
    assert [line.share for line in lines(rows, "flash")] == [None, None, None]
    assert "gain" not in as_text(lines(rows, "flash"), "flash")


def test_dice_by_structure_is_that_of_the_pairs_that_have_it() -> None:
    rows = [row("a", "flash", 0.7, structures={"core": 0.6, "rim": 0.8}), row("b", "flash", 0.7, structures={"rim": 1})]
    found = dice_by_structure(rows)
    assert found == {"core": {"flash": [0.6]}, "rim": {"flash": [0.8, 1]}}
    table = as_text(lines(rows, "flash"), "flash", found).split("\n\n")[1].splitlines()
    assert table[1].split() == ["core", "0.6000", "±", "0.0000"]
