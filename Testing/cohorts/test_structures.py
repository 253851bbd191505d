# SPDX-License-Identifier: Apache-2.0
"""Dice of structures of several labels, counted by hand, and labels that do not count."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from DeepFLASHRegistrationLib.cohorts.comparison import Measured
from DeepFLASHRegistrationLib.cohorts.structures import LABELS, Structures
from DeepFLASHRegistrationLib.imaging.grid import Grid
from DeepFLASHRegistrationLib.imaging.io import write_volume
from DeepFLASHRegistrationLib.imaging.volume import Volume
from DeepFLASHRegistrationLib.problem.reading import PairFiles
from DeepFLASHRegistrationLib.registration.metrics import label_table, label_volumes

GRID = Grid((4, 4, 4), np.eye(4))


@pytest.fixture
def pair(tmp_path: Path) -> tuple[Measured, PairFiles]:
    """The fixed image has label 1 in its first half and 2 in its second; carried over came 2 in the first quarter and 1
    in all but it; the moving image has a label 3 besides."""
    fixed, carried = np.ones((4, 4, 4), np.int32), np.ones((4, 4, 4), np.int32)
    fixed[2:], carried[0] = 2, 2
    moving = carried.copy()
    moving[3, 3, 3] = 3
    (tmp_path / "fast" / "a").mkdir(parents=True)
    for path, data in (("fixed.nii.gz", fixed), ("moving.nii.gz", moving), (f"fast/a/{LABELS}", carried)):
        write_volume(tmp_path / path, Volume(GRID, data))
    table = label_table(fixed, carried, carried, 1.0, label_volumes(moving, 1.0))
    metrics = {"dice": {str(label): line for label, line in table.items()}, "mean_dice_after": -1.0}
    labels = {f"{side}_labels": str(tmp_path / f"{side}.nii.gz") for side in ("fixed", "moving")}
    return Measured("a", "fast", "", "fast/a", "done", metrics=metrics), PairFiles("", "", **labels)


def test_each_label_is_a_structure_where_none_are_named(pair: tuple[Measured, PairFiles], tmp_path: Path) -> None:
    """1: 16 voxels in common of 32 and 48; 2: none in common of 32 and 16; 3 is in one image alone."""
    found = Structures().of(*pair, tmp_path)
    assert found.structures == {"1": pytest.approx(2 * 16 / (32 + 48)), "2": 0.0}
    assert found.metrics["mean_dice_after"] == pytest.approx(0.2)


def test_dice_of_a_structure_is_that_of_its_labels_together(pair: tuple[Measured, PairFiles], tmp_path: Path) -> None:
    """Labels exchanged within it are no error; one that no image has is none."""
    groups = {"both": {1, 2}, "second": {2}, "third": {3}, "none": {9}}
    found = Structures(groups).of(*pair, tmp_path)
    assert found.structures == {"both": 1.0, "second": 0.0}
    assert found.metrics["mean_dice_after"] == pytest.approx(0.2)


def test_ignored_labels_do_not_count_in_the_mean(pair: tuple[Measured, PairFiles], tmp_path: Path) -> None:
    found = Structures({"both": {1, 2}}, {2}).of(*pair, tmp_path)
    assert found.metrics["mean_dice_after"] == pytest.approx(0.4)
    assert found.structures == {"both": 1.0}
    nothing = Structures(None, {1, 2}).of(*pair, tmp_path)
    assert np.isnan(nothing.figure("mean_dice_after"))


def test_what_has_no_result_or_no_labels_stays_as_it_is(pair: tuple[Measured, PairFiles], tmp_path: Path) -> None:
    for one in (replace(pair[0], state="failed"), replace(pair[0], metrics={"similarity_after": 0.9})):
        assert Structures({"both": {1, 2}}).of(one, pair[1], tmp_path) is one
