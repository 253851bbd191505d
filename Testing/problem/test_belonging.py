# SPDX-License-Identifier: Apache-2.0
"""Labels and masks that lie elsewhere than their image, and masks that cover what they should not."""

from __future__ import annotations

import numpy as np
import pytest
from DeepFLASHRegistrationLib.imaging.grid import Grid
from DeepFLASHRegistrationLib.imaging.volume import Volume
from DeepFLASHRegistrationLib.problem.belonging import part_inside
from DeepFLASHRegistrationLib.problem.subject import Subject
from DeepFLASHRegistrationLib.support.errors import InputError

SHAPE = (20, 24, 28)


def grid(
    origin: tuple[float, float, float] = (0.0, 0, 0), spacing: float = 2.0, shape: tuple[int, ...] = SHAPE
) -> Grid:
    affine = np.eye(4)
    affine[:3, :3] = np.diag([spacing] * 3)[:, ::-1]
    affine[:3, 3] = origin
    return Grid(shape, affine)


def ball(at: Grid, value: float = 1.0, radius: float = 14.0, center: tuple[float, float, float] = (27, 23, 19)):
    """In mm of the image's own space, on any grid."""
    points = at.index_to_physical(np.stack(np.indices(at.shape), -1))
    return np.where(np.linalg.norm(points - center, axis=-1) < radius, value, 0.0)


def head() -> Volume:
    noise = np.random.default_rng(0).uniform(0.5, 1.5, SHAPE)
    return Volume(grid(), (ball(grid(), 100.0) * noise).astype(np.float32), "head.nii.gz")


def test_the_part_inside_is_that_of_the_object_not_of_the_field_of_view() -> None:
    # Another grid, reaching far beyond the image: the object is what counts.
    wide = grid((-200, -200, -200), 4.0, (100, 100, 100))
    assert part_inside(grid(), Volume(wide, ball(wide))) == 1.0
    half = Volume(grid((27 + 1, 0, 0)), np.ones(SHAPE))  # x from 28 on; the image ends at 55
    assert part_inside(grid(), half) == pytest.approx(0.5, abs=0.04)
    assert part_inside(grid(), Volume(grid(), np.zeros(SHAPE))) == 0.0


def test_a_slice_beside_the_image_in_its_plane_counts_where_it_lies() -> None:
    solid = grid(shape=(1, 24, 28)).flattened()
    beside = grid((60, 0, 0), shape=(1, 24, 28)).flattened()
    assert part_inside(solid, Volume(solid, np.ones((24, 28)))) == 1.0
    assert part_inside(solid, Volume(beside, np.ones((24, 28)))) == 0.0


@pytest.mark.parametrize("what", ["labels", "mask"])
def test_what_lies_elsewhere_is_refused_and_what_mostly_does_is_noted(what: str) -> None:
    own = ball(grid()).astype(np.int32)
    inside = Subject(head(), **{what: Volume(grid(), own, "own.nii.gz")}).checked("moving")
    assert not [note for note in inside.notes if "outside" in note]
    with pytest.raises(InputError, match=r"lost.nii.gz: lies outside head.nii.gz \(0 % of its object inside\)"):
        Subject(head(), **{what: Volume(grid((300, 0, 0)), own, "lost.nii.gz")}).checked("moving")
    # 5 of the ball's 14 mm beyond the middle still lie inside.
    doubtful = Subject(head(), **{what: Volume(grid((33, 0, 0)), own, "off.nii.gz")}).checked("moving")
    (note,) = [note for note in doubtful.notes if "outside" in note]
    assert note.startswith("off.nii.gz: lies outside head.nii.gz (")


def test_an_inverted_mask_is_named_as_that() -> None:
    mask = Volume(grid(), 1 - ball(grid(), radius=15.0), "mask.nii.gz")
    with pytest.raises(
        InputError, match=r"mask.nii.gz: covers 9\d % of the background and 0 % of the object .* inverted"
    ):
        Subject(head(), mask=mask).checked("fixed")
    smaller = Volume(grid(), 1 - ball(grid(), radius=11.0), "mask.nii.gz")
    found = Subject(head(), mask=smaller).checked("fixed")
    assert any("is the mask inverted?" in note for note in found.notes)


@pytest.mark.parametrize("grown", [16.0, 20.0, 22.0])
def test_an_inverted_mask_is_named_whose_object_had_been_grown(grown: float) -> None:
    # Less and less of the background is left to it: 94, 79 and 67 %.
    mask = Volume(grid(), 1 - ball(grid(), radius=grown), "mask.nii.gz")
    with pytest.raises(InputError, match=r"0 % of the object of head\.nii\.gz: the mask is inverted"):
        Subject(head(), mask=mask).checked("fixed")


@pytest.mark.parametrize("what", ["labels", "mask"])
@pytest.mark.parametrize("lost", ["flipped", "shifted", "turned"])
def test_voxels_as_many_as_the_images_elsewhere_are_noted(what: str, lost: str) -> None:
    own = ball(grid()).astype(np.int32)
    affine = grid().affine.copy()
    if lost == "flipped":  # left and right, about the middle: nearly all of the object lies inside
        affine[0, 3] = affine[0, 2] * (SHAPE[2] - 1)
        affine[0, 2] *= -1
    elif lost == "shifted":
        affine[0, 3] += 2.5
    else:
        angle = np.radians(4)
        turn = np.array([[np.cos(angle), -np.sin(angle), 0], [np.sin(angle), np.cos(angle), 0], [0, 0, 1]])
        affine[:3, :3] = turn @ affine[:3, :3]
    changed = Volume(Grid(SHAPE, affine), own, "own.nii.gz")
    found = Subject(head(), **{what: changed}).checked("moving")
    (note,) = [note for note in found.notes if "as many voxels as head.nii.gz" in note]
    apart = np.linalg.norm(changed.grid.corners() - grid().corners(), axis=1).max()
    assert note.startswith("own.nii.gz: ")
    assert f"(up to {apart:.3g} mm" in note


def test_rounding_of_a_header_and_grids_of_other_shape_are_not_noted() -> None:
    affine = grid().affine.copy()
    affine[:3, 3] += 0.01
    for at in (Grid(SHAPE, affine), grid(shape=(20, 24, 27)), grid((-3, 0, 0), shape=(22, 26, 30))):
        own = Volume(at, ball(at).astype(np.int32), "own.nii.gz")
        assert not Subject(head(), labels=own).checked("moving").notes


@pytest.mark.parametrize("radius", [4.0, 9.0, 14.0, 18.0])
def test_masks_of_a_part_and_of_all_but_a_lesion_are_not_taken_for_inverted(radius: float) -> None:
    masks = [ball(grid(), radius=radius), 1 - ball(grid(), radius=6.0), np.ones(SHAPE)]
    for data in masks:
        assert not [
            n for n in Subject(head(), mask=Volume(grid(), data, "m")).checked("fixed").notes if "inverted" in n
        ]


def test_labels_that_are_stored_backwards_lie_where_they_lie() -> None:
    """The same voxels, counted from the other end of an axis: no header was lost."""
    there = ball(grid(), center=(27, 17, 19))
    image = Volume(grid(), there.astype(np.float32), "head.nii.gz")
    backwards = grid().affine.copy()
    backwards[:3, 3] += backwards[:3, 1] * (SHAPE[1] - 1)
    backwards[:3, 1] *= -1
    for data, notes in ((there[:, ::-1], 0), (there, 1)):  # the second is as a program leaves it that lost the header
        own = Volume(Grid(SHAPE, backwards), data.astype(np.int32), "own.nii.gz")
        assert len([note for note in Subject(image, own).checked("moving").notes if "header" in note]) == notes
