# SPDX-License-Identifier: Apache-2.0
"""Pairs that cannot be aligned well, or at all: what comes out is said, and never nonsense."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from DeepFLASHRegistrationLib.alignment.affine import align
from DeepFLASHRegistrationLib.imaging.grid import Grid
from DeepFLASHRegistrationLib.imaging.volume import Volume
from DeepFLASHRegistrationLib.support.errors import InputError
from imaging_shapes import apart, centered_grid, rotation, sampled

GRID = centered_grid((44, 64, 52), (2, 2, 2))


def moved(shift: tuple[float, ...], degrees: float = 0) -> np.ndarray:
    matrix = np.eye(4)
    matrix[:3, :3] = rotation((1, 2, -1), degrees)
    matrix[:3, 3] = shift
    return matrix


def test_images_200_mm_apart_meet() -> None:
    truth = moved((200, -30, 20), 12)
    moving = sampled(centered_grid((54, 66, 62), (2, 2, 2), center=(200, -30, 20)), truth)
    assert apart(align(sampled(GRID), moving).matrix, truth, GRID) < 0.5


@pytest.mark.parametrize("side", ["fixed", "moving"])
def test_of_two_objects_in_one_image_the_one_that_the_other_shows_is_found(side) -> None:
    """A second object, of other make, beside the first: it must not draw the alignment to the middle of both."""
    truth = moved((6, -4, 5), 10)
    wide = centered_grid((44, 64, 110), (2, 2, 2), center=(55, 0, 0))
    sides = {"fixed": (sampled(wide), sampled(GRID, truth)), "moving": (sampled(GRID), sampled(wide, truth))}[side]
    index = np.moveaxis(np.indices(wide.shape), 0, -1)
    points = wide.index_to_physical(index)
    other = ((points - (115, 0, 0)) ** 2).sum(-1) < 22**2
    crowded = sides[side == "moving"]
    data = np.where(other, 0.5 + 0.3 * np.sin(points[..., 1] / 4), crowded.data).astype(np.float32)
    pair = [crowded.with_data(data) if v is crowded else v for v in sides]
    assert apart(align(*pair).matrix, truth, GRID) < 3


def test_an_object_cut_on_three_sides_is_found() -> None:
    truth = moved((5, -6, 4), 8)
    whole = sampled(GRID, truth)
    cut = Volume(GRID.padded((-14, -20, -17), 0), np.ascontiguousarray(whole.data[14:, 20:, 17:]))
    assert apart(align(sampled(GRID), cut).matrix, truth, GRID) < 3
    assert apart(align(cut, sampled(GRID)).matrix, np.linalg.inv(truth), GRID) < 3


@pytest.mark.parametrize("which", [0, 1])
def test_an_empty_field_is_refused(which) -> None:
    pair = [sampled(GRID), sampled(GRID)]
    pair[which] = Volume(GRID, np.zeros(GRID.shape, np.float32), "empty")
    with pytest.raises(InputError, match="empty: every voxel is 0"):
        align(*pair)


@pytest.mark.parametrize("kind", ["rigid", "affine"])
def test_a_plate_of_one_value_is_aligned_by_its_outline(kind) -> None:
    """There is nothing inside: its place follows from the outline, and its middle lies on the other's middle."""
    data = np.zeros(GRID.shape, np.float32)
    data[10:34, 12:50, 20:30] = 7
    plate = Volume(GRID, data, "plate")
    shifted = replace(plate, grid=Grid(GRID.shape, moved((9, -7, 5)) @ GRID.affine))
    found = align(plate, shifted, kind)
    assert apart(found.matrix, moved((9, -7, 5)), GRID) < 1


def test_an_object_of_8_voxels_is_found() -> None:
    data = np.zeros((12, 12, 12), np.float32)
    data[4:6, 5:7, 6:8] = [[[3, 5], [4, 9]], [[6, 2], [8, 7]]]
    grid = centered_grid(data.shape, (2, 2, 2))
    small = Volume(grid, data, "small")
    other = replace(small, grid=Grid(grid.shape, moved((3, 2, -4)) @ grid.affine))
    found = align(small, other)
    assert np.isfinite(found.matrix).all()
    center = grid.index_to_physical(np.array([4.5, 5.5, 6.5]))
    assert np.allclose(found.matrix[:3, :3] @ center + found.matrix[:3, 3], center + np.array([3, 2, -4]), atol=1)


def mirrored(volume: Volume, axis: int) -> Volume:
    """The same voxels under a header that mirrors them along an axis of space, in the same place."""
    mirror = np.eye(4)
    mirror[axis, axis] = -1
    mirror[axis, 3] = 2 * volume.grid.center[axis]
    return replace(volume, grid=Grid(volume.grid.shape, mirror @ volume.grid.affine))


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_a_mirrored_header_is_said_and_never_mirrored_back(axis) -> None:
    truth = moved((5, -4, 6), 10)
    found = align(sampled(GRID), mirrored(sampled(GRID, truth), axis))
    assert np.linalg.det(found.matrix) > 0
    assert any("mirror image" in note for note in found.notes)


def symmetric_heads() -> list[Volume]:
    """Two images of a head whose left and right are alike, but for noise."""
    points = GRID.index_to_physical(np.moveaxis(np.indices(GRID.shape), 0, -1))
    inside = ((points / (40, 52, 34)) ** 2).sum(-1) < 1
    data = 0.5 + 0.4 * np.cos(points[..., 0] / 9) * np.sin(points[..., 1] / 11 + 0.5) * np.cos(points[..., 2] / 13 + 1)
    pair = []
    for seed in range(2):
        noise = np.random.default_rng(seed).normal(0, 0.05, GRID.shape)
        pair.append(Volume(GRID, np.where(inside, np.clip(data + noise, 0.01, None), 0).astype(np.float32), "head"))
    return pair


@pytest.mark.parametrize("axis", [1, 2])
def test_a_symmetric_head_stands_on_its_feet_by_turning_or_by_mirroring_and_both_are_said(axis) -> None:
    one, other = symmetric_heads()
    found = align(one, mirrored(other, axis))
    assert np.linalg.det(found.matrix) > 0
    assert any("turned by 180 degrees" in note and "mirror image" in note for note in found.notes)


def test_nearly_symmetric_and_plainly_aligned_objects_are_not_called_mirrored() -> None:
    for degrees in (0, 15, 90):
        found = align(sampled(GRID), sampled(GRID, moved((5, -4, 6), degrees)))
        assert not any("mirror" in note for note in found.notes)
    one, other = symmetric_heads()
    assert not any("mirror" in note for note in align(one, mirrored(other, 0)).notes)
