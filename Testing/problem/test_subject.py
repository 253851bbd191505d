# SPDX-License-Identifier: Apache-2.0
"""A subject: what belongs together is checked, moved and handed over together."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from DeepFLASHRegistrationLib.imaging.grid import Grid
from DeepFLASHRegistrationLib.imaging.landmarks import Landmarks
from DeepFLASHRegistrationLib.imaging.volume import Volume
from DeepFLASHRegistrationLib.problem.subject import Subject, corresponding, subjects
from DeepFLASHRegistrationLib.process import transfer
from DeepFLASHRegistrationLib.support.errors import InputError

GRID = Grid((6, 7, 8), np.diag([2.0, 2.0, 2.0, 1.0])[[2, 1, 0, 3]])
FAR = Grid((6, 7, 8), GRID.affine + np.outer([1, 1, 1, 0], [0, 0, 0, 900.0]))
FINER = Grid((12, 14, 16), np.diag([1.0, 1.0, 1.0, 1.0])[[2, 1, 0, 3]])


def image(name: str = "t1.nii.gz", grid: Grid = GRID, notes: tuple[str, ...] = ()) -> Volume:
    return Volume(grid, np.arange(np.prod(grid.shape), dtype=np.float64).reshape(grid.shape), name, notes)


def labels(grid: Grid = GRID) -> Volume:
    data = np.zeros(grid.shape, np.uint8)
    data[2:4] = 3
    return Volume(grid, data, "labels.nrrd")


def points(*positions: object) -> Landmarks:
    return Landmarks(np.array(positions, dtype=float), ("",) * len(positions))


def whole() -> Subject:
    return Subject(
        image(), labels(FINER), Volume(FINER, np.ones(FINER.shape)), Landmarks(np.array([[2.0, 4.0, 6.0]]), ("tip",))
    )


def test_a_single_volume_needs_no_sequence() -> None:
    alone = Subject(image())
    assert len(alone.images) == 1
    assert alone.labels == ()
    assert alone.label_map is None
    assert alone.name == "t1.nii.gz"
    assert Subject([image("a"), image("b")], name="c").name == "c"
    with pytest.raises(TypeError, match="needs an image"):
        Subject(())


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        (("t1.nii.gz",), r"images must be a Volume or several, not str. read_volume"),
        ((np.zeros((4, 4, 4)),), "images must be a Volume or several, not ndarray"),
        ((None,), "A subject needs an image"),
        ((image(), [None]), "labels must be Volume, not NoneType"),
        ((image(), None, np.ones((2, 2))), "mask must be Volume, not ndarray"),
        ((image(), None, None, np.ones((2, 3))), "landmarks must be Landmarks, not ndarray"),
    ],
)
def test_what_is_no_subject_is_said_in_words(parts: tuple, message: str) -> None:
    with pytest.raises(TypeError, match=message):
        Subject(*parts)


def test_further_images_lie_where_the_first_does() -> None:
    found = Subject([image("a"), image("fine", FINER)]).checked()
    assert found.images[1].grid is FINER
    assert any("fine: lies on another grid than a" in note for note in found.notes)
    with pytest.raises(InputError, match="away: lies outside a"):
        Subject([image("a"), image("away", FAR)]).checked()


def test_the_first_image_stands_for_the_subject() -> None:
    pair = Subject([image("a"), image("b")], mask=Volume(GRID, np.ones(GRID.shape)))
    assert pair.image.name == "a"
    assert [each.name for each in pair.with_image(image("c")).images] == ["c", "b"]
    (other,) = pair.channels
    assert (other.image.name, other.name, other.mask) == ("b", "a", pair.mask)
    with pytest.raises(InputError, match=r"a has 2 label maps. Pass one"):
        _ = Subject(image("a"), [labels(), labels()]).label_map


def test_the_mask_of_a_further_image_lies_on_its_own_grid() -> None:
    whole = Subject([image("a"), image("fine", FINER)], mask=Volume(GRID, np.ones(GRID.shape))).checked()
    (other,) = whole.channels
    assert other.mask.grid is FINER
    assert other.inside.shape == FINER.shape


def test_checked_it_can_be_used() -> None:
    found = whole().checked("moving")
    assert (found.image.data.dtype, found.label_map.data.dtype) == (np.float32, np.int32)
    assert found.mask.grid is found.grid
    assert found.inside.all()
    assert found.mask.name == "moving mask"
    assert found.label_map.grid.same_as(FINER)
    assert found.landmarks.names == ("tip",)
    assert found.checked("moving").image.data is found.image.data


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"images": (Volume(GRID, np.ones(GRID.shape), "x"),)}, "x: every voxel is 1"),
        ({"labels": (Volume(GRID, np.zeros(GRID.shape, int), "x"),)}, "x: every voxel is 0"),
        ({"labels": (Volume(Grid((4, 4), np.eye(3)), np.ones((4, 4), int), "x"),)}, "t1.nii.gz has 3 .* and x 2"),
        ({"mask": Volume(GRID, np.zeros(GRID.shape), "x")}, "x: the mask is empty"),
        ({"mask": Volume(FAR, np.ones(GRID.shape))}, "fixed mask: lies outside t1.nii.gz"),
        ({"landmarks": points([2.0, 4.0, 600.0])}, "1 of 1 fixed landmarks lie outside t1.nii.gz"),
        ({"landmarks": points([2.0, 4.0, np.inf])}, "fixed landmarks hold infinity"),
        ({"landmarks": Landmarks(np.zeros((0, 3)), ())}, "must be an array"),
    ],
)
def test_a_part_that_cannot_be_used_is_named(change: dict, message: str) -> None:
    with pytest.raises(InputError, match=message):
        replace(whole(), **change).checked("fixed")


def test_notes_of_all_parts_come_once() -> None:
    parts = replace(whole(), images=(image(notes=("a", "b")),), labels=(replace(labels(), notes=("b", "c")),))
    assert parts.notes == ("a", "b", "c")


def test_posed_everything_moves_alike() -> None:
    turn = np.array([[0.0, -1, 0, 5], [1, 0, 0, 6], [0, 0, 1, 7], [0, 0, 0, 1]])
    before, after = whole(), whole().posed(turn)
    index = np.array([1, 2, 3])
    for one, two in zip((before.image, before.label_map, before.mask), (after.image, after.label_map, after.mask)):
        there = turn @ [*one.grid.index_to_physical(index), 1]
        np.testing.assert_allclose(two.grid.index_to_physical(index), there[:3])
    np.testing.assert_allclose(after.landmarks.positions, [[-4 + 5, 2 + 6, 6 + 7]])
    assert after.landmarks.names == ("tip",)


def test_it_reaches_the_child_process_as_it_is(tmp_path) -> None:
    transfer.write(tmp_path / "job", {"fixed": whole()})
    found = transfer.read(tmp_path / "job")["fixed"]
    assert isinstance(found, Subject)
    assert np.array_equal(found.image.data, whole().image.data)
    assert np.array_equal(found.label_map.data, labels(FINER).data)
    assert found.mask.grid.same_as(FINER)
    assert found.landmarks.names == ("tip",)
    assert found.name == "t1.nii.gz"


def test_keywords_belong_to_volumes_alone() -> None:
    fixed, moving = subjects(image("f"), whole(), {"fixed_labels": labels(), "fixed_points": [[1, 2, 3]]})
    assert fixed.label_map.name == "labels.nrrd"
    assert np.array_equal(fixed.landmarks.positions, [[1.0, 2, 3]])
    assert moving.landmarks.names == ("tip",)
    with pytest.raises(TypeError, match=r"moving side is a Subject: pass moving_mask as part of it"):
        subjects(image(), whole(), {"moving_mask": labels()})
    with pytest.raises(TypeError, match="unexpected keyword argument 'moving_label'"):
        subjects(image(), image(), {"moving_label": labels()})


def test_a_landmark_that_was_never_placed_is_left_out_on_both_sides() -> None:
    """By their names: one undefined point in each list must not shift those between them."""
    fixed = Landmarks(np.array([[1.0, 1, 1], [np.nan] * 3, [3, 3, 3], [4, 4, 4]]), ("a", "b", "c", "d"))
    moving = Landmarks(np.array([[11.0, 1, 1], [12, 2, 2], [np.nan] * 3, [14, 4, 4]]), ("a", "b", "c", "d"))
    sides = [replace(whole(), landmarks=each).checked(side) for each, side in ((fixed, "fixed"), (moving, "moving"))]
    found = corresponding(sides[0].landmarks, sides[1].landmarks)
    np.testing.assert_array_equal(found.fixed, [[1, 1, 1], [4, 4, 4]])
    np.testing.assert_array_equal(found.moving, [[11, 1, 1], [14, 4, 4]])
    assert found.names == ("a", "d")


def test_landmarks_come_in_pairs() -> None:
    one, two = points((0, 0, 0)), points((0, 0, 0), (1, 1, 1))
    assert corresponding(None, None) is None
    with pytest.raises(InputError, match="compared in pairs"):
        corresponding(one, None)
    with pytest.raises(InputError, match="has 1 landmarks, the moving landmarks 2"):
        corresponding(one, two)
