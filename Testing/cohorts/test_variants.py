# SPDX-License-Identifier: Apache-2.0
"""Pairs seen otherwise: moved by voxels, exchanged; nothing of them is lost, and what would be wrong is refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from DeepFLASHRegistrationLib.cohorts.pairs import NamedPair, Pairs
from DeepFLASHRegistrationLib.cohorts.variants import exchanged, moved, moved_subject
from DeepFLASHRegistrationLib.imaging.grid import Grid
from DeepFLASHRegistrationLib.imaging.io import read_labels, read_volume
from DeepFLASHRegistrationLib.imaging.volume import Volume
from DeepFLASHRegistrationLib.problem.reading import PairFiles
from DeepFLASHRegistrationLib.problem.subject import Subject
from DeepFLASHRegistrationLib.support.errors import InputError
from training_images import subject, write_subjects


def test_a_moved_scan_shows_the_same_elsewhere() -> None:
    image, labels = subject(0)
    there = moved_subject(Subject(image, labels), 3)
    for before, after in ((image, there.image), (labels, there.label_map)):
        assert after.grid.shape == tuple(n + 3 for n in before.grid.shape)
        assert (after.data[3:, 3:, 3:] == before.data).all()
        # 3 voxels of 4 mm along every axis.
        assert np.allclose(after.grid.index_to_physical([3, 3, 3]) - before.grid.index_to_physical([0, 0, 0]), 12)
    assert there.label_map.data[:3].max() == 0
    assert there.mask is None


def test_labels_on_voxels_of_their_own_move_as_far_as_their_image() -> None:
    """On an oblique, left-handed grid: 2 voxels along each of its axes, and not two of the labels' own."""
    turn = np.array([[0.8, -0.6, 0.0], [0.6, 0.8, 0.0], [0.0, 0.0, -1.0]])
    affine = np.eye(4)
    affine[:3, :3] = turn @ np.diag([2.0, 3.0, 4.0])
    finer = affine.copy()
    finer[:3, :3] /= 2
    image = Volume(Grid((6, 7, 8), affine), np.ones((6, 7, 8), np.float32))
    labels = Volume(Grid((12, 14, 16), finer), np.arange(12 * 14 * 16, dtype=np.int32).reshape(12, 14, 16) % 5)
    there = moved_subject(Subject(image, labels), 2)
    step = affine[:3, :3] @ [2, 2, 2]
    for before, after in ((image, there.image), (labels, there.label_map)):
        index = np.array([5, 4, 3]) + (2 if before is image else 0)
        assert after.data[tuple(index)] == before.data[5, 4, 3]
        place = after.grid.index_to_physical(index) - before.grid.index_to_physical([5, 4, 3])
        np.testing.assert_allclose(place, step, atol=1e-9)


def pairs(folder: Path, **more: str) -> Pairs:
    write_subjects(folder / "data", 2)
    images, labels = (sorted(map(str, (folder / "data" / name).iterdir())) for name in ("images", "labels"))
    files = PairFiles(*images, fixed_labels=labels[0], moving_labels=labels[1], **more)
    return Pairs(folder / "pairs.csv", (NamedPair(2, "site/a", files),))


def test_files_of_moved_pairs_hold_what_the_files_of_the_pairs_do(tmp_path: Path) -> None:
    given = pairs(tmp_path)
    found = moved(given, 4, tmp_path / "out", pytest.fail)
    assert (found.title, found.folder) == ("moved by 4", "moved-4")
    (one,), (two,) = given.rows, found.pairs.rows
    assert one.name == two.name
    for side in ("fixed", "moving"):
        for name, read in ((side, read_volume), (f"{side}_labels", read_labels)):
            before, after = (read(getattr(each.files, name)) for each in (one, two))
            np.testing.assert_array_equal(after.data[4:, 4:, 4:], before.data)


def test_a_pair_that_cannot_be_read_is_told_and_left_out(tmp_path: Path) -> None:
    given = pairs(tmp_path)
    Path(given.rows[0].files.moving).write_bytes(b"no image")
    told: list[str] = []
    found = moved(given, 4, tmp_path / "out", lambda *said: told.extend(said))
    assert not found.pairs.rows
    assert told[0] == "site/a"
    assert "s1.nii.gz" in told[1]


def test_exchanged_pairs_have_all_of_the_other_side(tmp_path: Path) -> None:
    given = pairs(tmp_path)
    (one,), (two,) = given.rows, exchanged(given).pairs.rows
    assert (two.files.fixed, two.files.moving) == (one.files.moving, one.files.fixed)
    assert (two.files.fixed_labels, two.files.moving_labels) == (one.files.moving_labels, one.files.fixed_labels)
    assert exchanged(exchanged(given).pairs).pairs == given


def test_a_transform_of_the_pairs_as_they_are_is_refused(tmp_path: Path) -> None:
    given = pairs(tmp_path, transform="affine.tfm")
    with pytest.raises(InputError, match="column transform: holds for the images as they are"):
        exchanged(given)
    with pytest.raises(InputError, match="not for images that are moved"):
        moved(given, 2, tmp_path / "out", pytest.fail)
