# SPDX-License-Identifier: Apache-2.0
"""register(): what it returns, that the images come closer, and that nothing depends on how they are stored."""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import registration_pairs as pairs
from DeepFLASHRegistrationLib.imaging.grid import Grid
from DeepFLASHRegistrationLib.imaging.intensities import background_value, foreground
from DeepFLASHRegistrationLib.imaging.io import read_labels, read_volume
from DeepFLASHRegistrationLib.imaging.volume import Volume
from DeepFLASHRegistrationLib.problem.parameters import PRESETS, SIMILARITIES, Parameters
from DeepFLASHRegistrationLib.problem.subject import Subject
from DeepFLASHRegistrationLib.registration.metrics import map_points
from DeepFLASHRegistrationLib.registration.register import register
from DeepFLASHRegistrationLib.registration.result import Result
from DeepFLASHRegistrationLib.support.errors import Cancelled, InputError
from registration_pairs import Registered

torch = pytest.importorskip("torch")

# The smallest that still shows a deformation: a sixth of a second.
TINY = Parameters.from_preset("default", resolutions=(1,), bands=(9,), iterations=(4,), initial_alignment="none")
FIXED_GRID, MOVING_GRID = pairs.box((18, 20, 17), 5.2), pairs.box((19, 18, 18), (5.0, 5.5, 5.3))


@pytest.fixture(scope="module")
def tiny() -> tuple[Volume, Volume]:
    return pairs.fixed_image(FIXED_GRID), pairs.moving_image(MOVING_GRID)


@pytest.fixture(scope="module")
def plain(tiny: tuple[Volume, Volume]) -> Result:
    """What others are compared with."""
    return register(*tiny, TINY, threads=1, moving_labels=pairs.moving_labels(MOVING_GRID))


def sampled(result: Result, points: np.ndarray) -> np.ndarray:
    """Where fixed_to_moving takes points."""
    return map_points(points, result.fixed_to_moving, result.field_grid)


def object_points(spacing: float = 7.0) -> np.ndarray:
    """Points within the object."""
    at = pairs.places(pairs.box((13, 13, 13), spacing)).reshape(-1, 3)
    return at[(np.square(at / [30, 36, 24]).sum(1) < 1)]


# ------------------------------------------------------------------------------------------------------- the result


def test_the_result_holds_what_it_promises(registered: Registered) -> None:
    result, fixed, moving = registered.result, registered.fixed, registered.moving
    assert result.fixed_grid is fixed.grid or result.fixed_grid.same_as(fixed.grid, 0)
    assert result.moving_grid.same_as(moving.grid, 0)
    for volume in (result.warped, result.moving_affine, result.log_jacobian):
        assert volume.grid.same_as(fixed.grid, 0)
        assert volume.data.dtype == np.float32
        assert np.isfinite(volume.data).all()
    for labels in (result.labels, result.labels_before):
        assert labels.grid.same_as(fixed.grid, 0)
        assert labels.data.dtype.kind == "i"
    assert result.labels.data.dtype == np.int32
    assert result.fixed_to_moving.shape == (*result.field_grid.shape, 3)
    assert result.moving_to_fixed.shape == (*result.inverse_grid.shape, 3)
    assert result.fixed_to_moving.dtype == result.moving_to_fixed.dtype == np.float32
    assert result.affine.shape == (4, 4)
    assert result.cancelled is False
    assert result.timings["total"] >= sum(v for k, v in result.timings.items() if k != "total") - 0.01
    assert result.timings.keys() == {"prepare", "affine", "level", "finish", "total"}
    assert not any(isinstance(v, torch.Tensor) for v in [*vars(result).values(), *result.velocity.values()])
    assert result.provenance["threads"] == 1
    assert result.provenance["device"].startswith("cpu")
    assert len(result.provenance["fixed_sha256"]) == 64


def test_the_images_approach_each_other(registered: Registered) -> None:
    result = registered.result
    metrics = result.metrics
    assert metrics["similarity_after"] > metrics["similarity_before"] + 0.01
    assert metrics["similarity_after"] > 0.98
    assert metrics["mean_dice_after"] > metrics["mean_dice_before"] + 0.05
    assert metrics["mean_dice_after"] > 0.85
    inside = registered.fixed.data > 0.1
    before, after = (
        pairs.correlation(v.data[inside], registered.fixed.data[inside]) for v in (result.moving_affine, result.warped)
    )
    assert after > before
    assert metrics["similarity_after"] == pytest.approx(after, abs=0.02)
    assert result.verdict.level == "good", result.verdict.reasons
    assert metrics["folds"]["count"] == metrics["folds_strict"]["count"] == 0


def test_the_true_map_is_found(registered: Registered) -> None:
    """moving(affine(bend(x))) is fixed(x)."""
    points = object_points()
    affine = registered.result.affine
    true = pairs.bend(points) @ affine[:3, :3].T + affine[:3, 3]
    before = np.linalg.norm(points @ affine[:3, :3].T + affine[:3, 3] - true, axis=1)
    after = np.linalg.norm(sampled(registered.result, points) - true, axis=1)
    assert after.mean() < 0.6 * before.mean()


def test_the_history_descends(registered: Registered) -> None:
    history = registered.result.history
    assert history[0]["iteration"] == 0
    for a, b in zip(history, history[1:], strict=False):
        assert (b["level"], b["iteration"]) in ((a["level"], a["iteration"] + 1), (a["level"] + 1, 0))
        if a["level"] == b["level"]:
            assert b["energy"] < a["energy"]
    assert {k for step in history for k in step} == {
        "level",
        "iteration",
        "energy",
        "similarity",
        "regularization",
        "smallest_determinant",
        "seconds",
    }
    assert all(np.isfinite(list(step.values())).all() for step in history)


def test_metrics_are_all_there(registered: Registered) -> None:
    metrics = registered.result.metrics
    assert metrics.keys() >= {
        "similarity_before",
        "similarity_after",
        "dice",
        "mean_dice_before",
        "mean_dice_after",
        "folds",
        "folds_strict",
        "smallest_determinant",
        "largest_determinant",
        "sd_log_determinant",
        "inverse_error_mm",
        "largest_displacement_mm",
        "overlap",
        "volume_change",
        "border_hits",
    }
    assert metrics["dice"].keys() == {1, 2, 3, 4}
    # The determinant includes the affine's.
    log = registered.result.log_jacobian.data[registered.fixed.data > 0.3]
    assert np.log(metrics["smallest_determinant"]) <= log.min() + 1e-6
    assert abs(log.mean() - np.log(np.linalg.det(registered.result.affine))) < 0.2


def test_inputs_are_left_alone(tiny: tuple[Volume, Volume], plain: Result) -> None:
    fixed, moving = pairs.fixed_image(FIXED_GRID), pairs.moving_image(MOVING_GRID)
    assert np.array_equal(fixed.data, tiny[0].data)
    assert np.array_equal(moving.data, tiny[1].data)
    assert plain.warped.data is not tiny[1].data


def test_the_moving_image_keeps_its_own_intensities(tiny: tuple[Volume, Volume], plain: Result) -> None:
    assert plain.warped.data.max() == pytest.approx(tiny[1].data.max(), rel=0.1)
    assert plain.warped.data.min() >= 0


# ------------------------------------------------------------------------------------- storage, places, orientations


def equal_maps(a: Result, b: Result, points: np.ndarray, tolerance: float) -> None:
    difference = np.linalg.norm(sampled(a, points) - sampled(b, points), axis=1)
    assert difference.max() < tolerance


@pytest.mark.usefixtures("brief_agreement")
def test_how_the_moving_image_is_stored_does_not_matter(tiny: tuple[Volume, Volume], plain: Result) -> None:
    """All 48 axis orders and directions."""
    fixed, moving = tiny
    labels = pairs.moving_labels(MOVING_GRID)
    for order, flip in pairs.storages(3):
        result = register(
            fixed, pairs.stored(moving, order, flip), TINY, threads=1, moving_labels=pairs.stored(labels, order, flip)
        )
        assert np.allclose(result.warped.data, plain.warped.data, atol=0.01), (order, flip)
        assert np.allclose(result.fixed_to_moving, plain.fixed_to_moving, atol=1e-4), (order, flip)
        assert np.allclose(result.moving_to_fixed, plain.moving_to_fixed, atol=1e-4), (order, flip)
        assert (result.labels.data != plain.labels.data).mean() < 1e-3


@pytest.mark.usefixtures("fits_once")
@pytest.mark.parametrize(("order", "flip"), pairs.storages(3)[1::6])
def test_how_the_fixed_image_is_stored_does_not_matter(
    tiny: tuple[Volume, Volume], plain: Result, order: tuple[int, ...], flip: tuple[int, ...]
) -> None:
    fixed, moving = tiny
    result = register(pairs.stored(fixed, order, flip), moving, TINY, threads=1)
    expected = pairs.stored(plain.warped, order, flip)
    assert result.warped.grid.same_as(expected.grid, 1e-6)
    assert np.allclose(result.warped.data, expected.data, atol=0.01)  # of 800
    equal_maps(result, plain, object_points(), 1e-4)
    jacobian = pairs.stored(plain.log_jacobian, order, flip)
    assert np.allclose(result.log_jacobian.data, jacobian.data, atol=1e-3)
    assert result.velocity["domain"].same_as(plain.velocity["domain"], 1e-6)
    assert result.verdict.level == plain.verdict.level


@pytest.mark.usefixtures("brief_agreement")
def test_the_affine_alignment_does_not_depend_on_storage_either() -> None:
    fixed, moving = pairs.fixed_image(FIXED_GRID), pairs.moving_image(MOVING_GRID, 30.0)
    moving = dataclasses.replace(moving, grid=pairs.box(MOVING_GRID.shape, MOVING_GRID.spacing, None, 0.0))
    parameters = dataclasses.replace(TINY, initial_alignment="affine", iterations=(2,))
    first = register(fixed, moving, parameters, threads=1)
    for (order, flip), (order2, flip2) in zip(pairs.storages(3)[5::20], pairs.storages(3)[9::20], strict=False):
        again = register(pairs.stored(fixed, order, flip), pairs.stored(moving, order2, flip2), parameters, threads=1)
        equal_maps(first, again, object_points(), 1e-3)


@pytest.mark.usefixtures("brief_agreement")
@pytest.mark.parametrize("turn", [pairs.turn(0), pairs.turn(33)], ids=["0", "33"])
def test_the_whole_world_may_turn_and_move(plain: Result, turn: np.ndarray) -> None:
    """Both images turned and moved together: the same registration, turned and moved."""
    world = np.eye(4)
    world[:3, :3], world[:3, 3] = turn, (1300.0, -250.0, 777.0)

    def moved(volume: Volume) -> Volume:
        return dataclasses.replace(volume, grid=Grid(volume.grid.shape, world @ volume.grid.affine))

    fixed, moving = pairs.fixed_image(FIXED_GRID), pairs.moving_image(MOVING_GRID)
    result = register(moved(fixed), moved(moving), TINY, threads=1)
    assert np.allclose(result.warped.data, plain.warped.data, atol=1.0)
    points = object_points()
    found = sampled(result, points @ turn.T + world[:3, 3])
    assert np.abs(found - (sampled(plain, points) @ turn.T + world[:3, 3])).max() < 0.01


@pytest.mark.usefixtures("brief_agreement")
def test_oblique_anisotropic_grids_give_nearly_the_same_map(plain: Result) -> None:
    """Other samples of the same objects: equal up to what the samples show."""
    fixed = pairs.fixed_image(pairs.box((26, 19, 22), (4.0, 5.5, 5.0), pairs.turn(20), (1, -2, 0.5)))
    moving = pairs.moving_image(pairs.box((22, 24, 20), (4.6, 4.2, 5.4), pairs.turn(-40, (1, 0, 1)), (-1, 2, 1)))
    result = register(fixed, moving, TINY, threads=1)
    points = object_points()
    true = pairs.bend(points)
    error = np.linalg.norm(sampled(result, points) - true, axis=1)
    assert error.mean() < 0.6 * np.linalg.norm(points - true, axis=1).mean()
    assert error.mean() < 1.25 * np.linalg.norm(sampled(plain, points) - true, axis=1).mean()


@pytest.mark.usefixtures("brief_agreement")
@pytest.mark.parametrize("scale", [1e-4, 0.1, 30.0])
def test_from_cells_to_whales(tiny: tuple[Volume, Volume], scale: float) -> None:
    bigger = [
        dataclasses.replace(v, grid=Grid(v.grid.shape, np.diag([scale] * 3 + [1.0]) @ v.grid.affine)) for v in tiny
    ]
    result = register(*bigger, TINY, threads=1)
    assert result.metrics["similarity_after"] > 0.99
    assert max(result.velocity["domain"].shape) < 40
    points = object_points()
    error = np.linalg.norm(sampled(result, points * scale) / scale - pairs.bend(points), axis=1)
    assert error.mean() < 0.75 * np.linalg.norm(points - pairs.bend(points), axis=1).mean()


@pytest.mark.usefixtures("brief_agreement")
def test_far_apart_turned_and_in_other_units(tiny: tuple[Volume, Volume]) -> None:
    """Raw files: the affine alignment finds what the origin hides."""
    fixed, moving = tiny
    world = np.eye(4)
    world[:3, :3], world[:3, 3] = pairs.turn(25), (-300.0, 120.0, 60.0)
    moved = Volume(Grid(moving.grid.shape, world @ moving.grid.affine), 3 - 0.002 * moving.data, "moving")
    result = register(fixed, moved, dataclasses.replace(TINY, initial_alignment="affine"), threads=1)
    points = object_points()
    true = pairs.bend(points) @ world[:3, :3].T + world[:3, 3]
    assert np.linalg.norm(sampled(result, points) - true, axis=1).mean() < 4


# --------------------------------------------------------------------------------------------------- two dimensions


@pytest.mark.usefixtures("brief_agreement")
def test_2d_images() -> None:
    fixed, moving = pairs.disks()
    labels = Volume(moving.grid, pairs.parts(pairs.places(moving.grid)), "labels")
    own = Volume(fixed.grid, pairs.parts(pairs.bend(pairs.places(fixed.grid))), "own")
    result = register(fixed, moving, pairs.quick(), threads=1, moving_labels=labels, fixed_labels=own)
    assert result.fixed_to_moving.shape == (*result.field_grid.shape, 2)
    assert result.metrics["similarity_after"] > 0.99
    assert result.metrics["mean_dice_after"] > max(0.9, result.metrics["mean_dice_before"])
    points = pairs.places(pairs.box((9, 9), 7.0)).reshape(-1, 2)
    error = np.linalg.norm(sampled(result, points) - pairs.bend(points), axis=1)
    assert np.median(error) < 0.5 * np.median(np.linalg.norm(points - pairs.bend(points), axis=1))


@pytest.mark.usefixtures("brief_agreement")
@pytest.mark.parametrize(("order", "flip"), pairs.storages(2)[1:])
def test_2d_storage_does_not_matter(order: tuple[int, ...], flip: tuple[int, ...]) -> None:
    fixed, moving = pairs.disks((30, 33), 3.2)
    first = register(fixed, moving, TINY, threads=1)
    again = register(pairs.stored(fixed, order, flip), pairs.stored(moving, order[::-1], flip), TINY, threads=1)
    expected = pairs.stored(first.warped, order, flip)
    assert np.allclose(again.warped.data, expected.data, atol=0.01)


@pytest.mark.usefixtures("brief_agreement")
@pytest.mark.parametrize("axis", [0, 1, 2])
def test_a_single_slice_of_3d_space(axis: int) -> None:
    """However the slice is stored, the map in its plane is that of the 2-D image."""
    flat = register(*pairs.disks((40, 44), 2.4), TINY, threads=1)
    volumes = []
    for volume in pairs.disks((40, 44), 2.4):
        shape, affine = [*volume.grid.shape], np.zeros((4, 4))
        shape.insert(axis, 1)
        keep = [a for a in range(3) if a != axis]
        affine[:2, keep] = volume.grid.affine[:2, :2]
        affine[2, axis] = 5.0
        affine[:, 3] = (*volume.grid.affine[:2, 2], 31.0, 1.0)
        grid = Grid(tuple(shape), affine).flattened()
        volumes.append(Volume(grid, volume.data.reshape(grid.shape), volume.name))
    result = register(*volumes, TINY, threads=1)
    assert result.warped.plane is not None
    assert np.allclose(result.warped.data, flat.warped.data, atol=1.0)
    points = pairs.places(pairs.box((9, 9), 7.0)).reshape(-1, 2)
    lifted = np.c_[points, np.full(len(points), 31.0)]
    found = sampled(result, volumes[0].grid.in_plane(lifted))
    there = volumes[1].grid.lift(found)
    assert np.allclose(there[:, :2], sampled(flat, points), atol=0.02)
    assert np.allclose(there[:, 2], 31.0)


@pytest.mark.usefixtures("brief_agreement")
def test_landmarks_of_slices_may_be_3d() -> None:
    fixed, moving = pairs.disks((40, 44), 2.4)
    points = pairs.places(pairs.box((3, 3), 14.0)).reshape(-1, 2)
    upright = [np.c_[p, np.zeros(len(p))] for p in (points, pairs.bend(points))]
    result = register(fixed, moving, TINY, threads=1, fixed_points=upright[0], moving_points=upright[1])
    again = register(fixed, moving, TINY, threads=1, fixed_points=points, moving_points=pairs.bend(points))
    assert result.metrics["landmarks"] == again.metrics["landmarks"]
    assert result.metrics["landmarks"]["mean_after_mm"] < result.metrics["landmarks"]["mean_before_mm"]
    with pytest.raises(InputError, match="fixed landmarks must be an array"):
        register(fixed, moving, TINY, fixed_points=upright[0] + 1, moving_points=upright[1])


# ------------------------------------------------------------------------------------------------ masks, labels, points


def junk(volume: Volume, keep: np.ndarray) -> Volume:
    """Something bright and wild outside a mask."""
    noise = np.random.default_rng(9).uniform(0.3, 1.0, volume.grid.shape) * volume.data.max()
    return volume.with_data(np.where(keep | (volume.data == 0), volume.data, noise).astype(np.float32))


@pytest.mark.usefixtures("brief_agreement")
def test_what_lies_outside_the_masks_does_not_count(tiny: tuple[Volume, Volume]) -> None:
    """Half of the object replaced by noise, and masked out: not the slightest difference."""
    fixed, moving = tiny
    keep_fixed, keep_moving = (pairs.places(v.grid)[..., 0] < limit for v, limit in ((fixed, 8), (moving, 8)))
    masks = {
        "fixed_mask": Volume(fixed.grid, keep_fixed.astype(np.uint8), "fixed mask"),
        "moving_mask": Volume(moving.grid, keep_moving.astype(np.uint8), "moving mask"),
    }
    clean = register(fixed, moving, TINY, threads=1, **masks)
    spoiled = register(junk(fixed, keep_fixed), junk(moving, keep_moving), TINY, threads=1, **masks)
    unmasked = register(junk(fixed, keep_fixed), junk(moving, keep_moving), TINY, threads=1)
    points = object_points(4.0)
    points = points[points[:, 0] < -4]
    difference = np.linalg.norm(sampled(clean, points) - sampled(spoiled, points), axis=1)
    without = np.linalg.norm(sampled(clean, points) - sampled(unmasked, points), axis=1)
    assert difference.max() < 1e-6
    assert without.mean() > 0.1
    assert spoiled.metrics["similarity_after"] > spoiled.metrics["similarity_before"]


@pytest.mark.usefixtures("brief_agreement")
@pytest.mark.parametrize("value", [-3024.0, 32767.0])
def test_padding_blurred_by_warping_is_no_object(tiny: tuple[Volume, Volume], value: float) -> None:
    """A CT whose corners no scanner saw, registered to itself: it overlaps as the same image without padding does."""
    shape = tiny[1].data.shape
    air = np.random.default_rng(0).normal(-1000, 10, shape)
    plain = tiny[1].with_data((air + 1200 * tiny[1].data / tiny[1].data.max()).astype(np.float32))
    y, x = (2 * np.arange(n) / (n - 1) - 1 for n in shape[1:])
    outside = np.broadcast_to(y[:, None] ** 2 + x**2 > 1.1, shape)
    padded = plain.with_data(np.where(outside, np.float32(value), plain.data))
    expected, found = (register(image, image, TINY, threads=1) for image in (plain, padded))
    assert expected.metrics["overlap"] > 0.9
    assert found.metrics["overlap"] > 0.98 * expected.metrics["overlap"]


@pytest.mark.usefixtures("brief_agreement")
def test_a_mask_may_lie_on_another_grid(tiny: tuple[Volume, Volume]) -> None:
    fixed, moving = tiny
    own, other = (
        Volume(g, (pairs.places(g)[..., 1] < 10.2).astype(np.uint8))
        for g in (fixed.grid, pairs.box((60, 62, 61), 2.0, pairs.turn(90, (0, 0, 1))))
    )
    a, b = (register(fixed, moving, TINY, threads=1, fixed_mask=m) for m in (own, other))
    equal_maps(a, b, object_points()[::3], 1.5)


@pytest.mark.usefixtures("brief_agreement")
def test_labels_may_lie_on_another_grid(tiny: tuple[Volume, Volume]) -> None:
    fixed, moving = tiny
    finer = pairs.moving_labels(pairs.box((58, 60, 62), 2.1, pairs.turn(15), (1, 2, 3)))
    own = pairs.fixed_labels(pairs.box((45, 44, 46), 2.5, pairs.turn(-20)))
    result = register(fixed, moving, TINY, threads=1, moving_labels=finer, fixed_labels=own)
    assert result.labels.grid.same_as(fixed.grid, 0)
    assert set(np.unique(result.labels.data)) == {0, 1, 2, 3, 4}
    assert result.metrics["mean_dice_after"] > result.metrics["mean_dice_before"]
    truth = pairs.fixed_labels(fixed.grid).data
    assert (result.labels.data == truth).mean() > 0.95


@pytest.mark.usefixtures("fits_once")
def test_labels_of_other_structures_are_a_note_and_no_failure(tiny: tuple[Volume, Volume], plain: Result) -> None:
    fixed, moving = tiny
    labels = pairs.moving_labels(moving.grid)
    others = pairs.fixed_labels(fixed.grid)
    others = others.with_data(np.where(others.data > 0, others.data + 40, 0))
    result = register(fixed, moving, TINY, threads=1, moving_labels=labels, fixed_labels=others)
    assert result.verdict.level == plain.verdict.level == "good"
    assert not any(code in {c.code for c in result.verdict.criteria} for code in ("mean-dice", "label-dice"))
    assert sum("no label in common" in note for note in result.notes) == 1
    assert all(row["after"] is None for row in result.metrics["dice"].values())
    same = register(fixed, moving, TINY, threads=1, moving_labels=labels, fixed_labels=pairs.fixed_labels(fixed.grid))
    assert not any("in common" in note for note in same.notes)


@pytest.mark.usefixtures("brief_agreement")
def test_landmarks_are_measured_not_fitted(tiny: tuple[Volume, Volume], plain: Result) -> None:
    points = object_points(12.0)
    result = register(*tiny, TINY, threads=1, fixed_points=points, moving_points=pairs.bend(points))
    assert np.array_equal(result.fixed_to_moving, plain.fixed_to_moving)
    landmarks = result.metrics["landmarks"]
    before = np.linalg.norm(points - pairs.bend(points), axis=1)
    after = np.linalg.norm(sampled(result, points) - pairs.bend(points), axis=1)
    assert np.allclose(landmarks["before_mm"], before, atol=1e-6)
    assert np.allclose(landmarks["after_mm"], after, atol=1e-6)
    assert landmarks["mean_after_mm"] == pytest.approx(after.mean())


# ----------------------------------------------------------------------------------------------------------- starts


@pytest.mark.usefixtures("brief_agreement")
def test_a_given_affine_is_kept(tiny: tuple[Volume, Volume]) -> None:
    affine = np.eye(4)
    affine[:3, 3] = (1.5, -2.0, 0.5)
    result = register(*tiny, dataclasses.replace(TINY, initial_alignment="affine"), threads=1, initial_affine=affine)
    assert np.array_equal(result.affine, affine)


@pytest.mark.usefixtures("brief_agreement")
def test_no_iterations_leave_the_affine(tiny: tuple[Volume, Volume]) -> None:
    result = register(*tiny, dataclasses.replace(TINY, iterations=(0,)), threads=1)
    assert np.abs(result.fixed_to_moving).max() < 1e-4
    assert not result.velocity["velocity"].any()
    assert np.allclose(result.warped.data, result.moving_affine.data, atol=0.05)


@pytest.mark.usefixtures("brief_agreement")
def test_the_result_says_how_each_level_ended(tiny: tuple[Volume, Volume], plain: Result) -> None:
    assert plain.metrics["levels_ended"] == ["bound"]
    levels = {"resolutions": (2, 1), "bands": (5, 9), "iterations": (60, 1), "tolerance": 0.02}
    assert register(*tiny, dataclasses.replace(TINY, **levels), threads=1).metrics["levels_ended"] == [
        "converged",
        "bound",
    ]


@pytest.mark.usefixtures("brief_agreement")
def test_a_registration_goes_on_where_another_ended(tiny: tuple[Volume, Volume], plain: Result) -> None:
    again = register(*tiny, TINY, threads=1, initial_velocity=plain.velocity)
    assert again.history[0]["energy"] == pytest.approx(plain.history[-1]["energy"], rel=0.02)
    assert again.history[-1]["energy"] < plain.history[-1]["energy"]
    coarse = register(*tiny, dataclasses.replace(TINY, bands=(5,)), threads=1, initial_velocity=plain.velocity)
    assert coarse.velocity["velocity"].shape < plain.velocity["velocity"].shape


def test_a_velocity_of_another_image_is_refused(tiny: tuple[Volume, Volume], plain: Result) -> None:
    other = pairs.fixed_image(pairs.box((14, 20, 17), 6.0))
    with pytest.raises(InputError, match="velocity belongs to another fixed image or working grid"):
        register(other, tiny[1], TINY, threads=1, initial_velocity=plain.velocity)


# ---------------------------------------------------------------------------------------------------- reproducibility


def test_the_same_input_gives_the_same_bits(tiny: tuple[Volume, Volume]) -> None:
    parameters = dataclasses.replace(TINY, initial_alignment="affine")
    a, b = (register(*tiny, parameters, threads=1) for _ in range(2))
    for name in ("fixed_to_moving", "moving_to_fixed", "affine"):
        assert np.array_equal(getattr(a, name), getattr(b, name))
    assert np.array_equal(a.warped.data, b.warped.data)
    assert np.array_equal(a.velocity["velocity"], b.velocity["velocity"])
    assert a.metrics == b.metrics
    assert [{**s, "seconds": 0} for s in a.history] == [{**s, "seconds": 0} for s in b.history]


@pytest.mark.usefixtures("brief_agreement")
def test_threads_change_nothing_that_counts(tiny: tuple[Volume, Volume], plain: Result) -> None:
    before = torch.get_num_threads()
    two = register(*tiny, TINY, threads=2)
    assert torch.get_num_threads() == before
    equal_maps(two, plain, object_points(), 1e-3)
    for wrong in (0, -1):
        with pytest.raises(InputError, match=f"threads must be at least 1, not {wrong}"):
            register(*tiny, TINY, threads=wrong)


@pytest.mark.usefixtures("brief_agreement")
@pytest.mark.parametrize("kind", ["uint8", "int16", "float64"])
def test_the_element_type_does_not_matter(kind: str) -> None:
    fixed, moving = (
        v.with_data(np.rint(v.data * factor))
        for v, factor in ((pairs.fixed_image(FIXED_GRID), 250), (pairs.moving_image(MOVING_GRID), 0.25))
    )
    results = [
        register(*(v.with_data(v.data.astype(k)) for v in (fixed, moving)), TINY, threads=1) for k in ("float32", kind)
    ]
    assert np.array_equal(results[0].fixed_to_moving, results[1].fixed_to_moving)


@pytest.mark.usefixtures("brief_agreement")
def test_isolated_nan_is_replaced_and_reported(tiny: tuple[Volume, Volume], plain: Result) -> None:
    fixed, moving = tiny
    data = moving.data.copy()
    data[0, 0, 0], data[0, 0, 1] = np.nan, np.inf
    result = register(fixed, moving.with_data(data), TINY, threads=1)
    assert np.array_equal(result.fixed_to_moving, plain.fixed_to_moving)
    assert any("2 NaN or infinite voxels were replaced" in note for note in result.notes)


# ------------------------------------------------------------------------------------------------ settings of all kinds


@pytest.mark.usefixtures("brief_agreement")
@pytest.mark.parametrize("similarity", SIMILARITIES)
@pytest.mark.parametrize("ndim", [2, 3])
def test_every_similarity_registers(tiny: tuple[Volume, Volume], similarity: str, ndim: int) -> None:
    images = tiny if ndim == 3 else pairs.disks((30, 33), 3.2)
    sigma = {"ssd": 0.03}.get(similarity, TINY.sigma)
    result = register(
        *images, dataclasses.replace(TINY, similarity=similarity, sigma=sigma, iterations=(6,)), threads=1
    )
    assert result.metrics["similarity_after"] > result.metrics["similarity_before"] + 0.01
    assert result.metrics["folds"]["count"] == 0


@pytest.mark.usefixtures("brief_agreement")
@pytest.mark.parametrize("similarity", ["lncc", "mi"])
def test_other_contrasts(similarity: str) -> None:
    """What is bright in one image is dark in the other."""
    fixed, grid = pairs.fixed_image(), pairs.moving_image().grid
    inverted = Volume(grid, pairs.intensities(pairs.places(grid), inverted=True).astype(np.float32), "inverted")
    result = register(fixed, inverted, pairs.quick(similarity=similarity, initial_alignment="none"), threads=1)
    points = object_points()
    before, after = (np.linalg.norm(p - pairs.bend(points), axis=1).mean() for p in (points, sampled(result, points)))
    assert after < 0.9 * before
    assert result.metrics["folds"]["count"] == 0


@pytest.mark.parametrize("preset", PRESETS)
def test_every_preset_registers(tiny: tuple[Volume, Volume], preset: str) -> None:
    levels = len(Parameters.from_preset(preset).resolutions)
    parameters = Parameters.from_preset(preset, initial_alignment="none", iterations=(4,) * levels)
    result = register(*tiny, parameters, threads=1)
    assert result.parameters.preset == preset
    assert result.metrics["similarity_after"] > result.metrics["similarity_before"] + 0.01
    assert result.metrics["folds"]["count"] == 0
    assert result.verdict.level in ("good", "check")


@pytest.mark.usefixtures("brief_agreement")
def test_paper_keeps_its_displacement_in_the_band(tiny: tuple[Volume, Volume]) -> None:
    parameters = Parameters.from_preset("paper", initial_alignment="none", iterations=(5,), bands=(7,))
    result = register(*tiny, parameters, threads=1)
    assert result.velocity["band_limited"]
    assert (result.velocity["steps"], result.velocity["integrator"]) == (10, "euler")
    domain = result.velocity["domain"]
    from DeepFLASHRegistrationLib.geodesics.band import Band, Evaluator, Lattice

    deformation = result.deformation
    u = (deformation.displacement(domain, "fixed_to_moving") @ domain.direction) / deformation.unit_mm
    lattice = Lattice.cells(domain.shape, deformation.lengths)
    evaluate = Evaluator(Band(result.velocity["velocity"].shape[1:], deformation.lengths), lattice, torch.float64)
    values = torch.from_numpy(np.moveaxis(u, -1, 0).astype(np.float64))
    assert float((evaluate(evaluate.project(values)) - values).norm() / values.norm()) < 0.02


EXTREME: list[dict[str, Any]] = [
    {"sigma": 1e-3, "alpha": 0.0, "power": 1.0, "gamma": 1e-3},
    {"alpha": 1e4, "power": 8.0, "gamma": 1e3},
    {"bands": (255,)},
    {"bands": (3,)},
    {"resolutions": (64,)},
    {"resolutions": (9,)},
    {"integrator": "euler", "steps": 1, "sigma": 1e-3, "alpha": 0.0, "bands": (31,)},
    {"integrator": "euler", "steps": 1, "sigma": 1e-3, "alpha": 0.0, "bands": (31,), "map": "band-limited"},
    {"window_mm": 0.01},
    {"window_mm": 200.0},
    {"margin_mm": 0.0},
    {"margin_mm": 200.0},
    {"max_voxels": 1000},
    {"spacing_mm": 30.0},
    {"tolerance": 0.1},
    {"normalization": "window", "window_low": 0.1, "window_high": 0.5},
    {"bias_correction": True, "histogram_matching": True},
    {"similarity": "mi", "sigma": 1e-3, "alpha": 0.0},
    {"similarity": "ssd", "sigma": 1e-3, "alpha": 0.0, "power": 1.0},
]


@pytest.mark.usefixtures("fits_once")
@pytest.mark.parametrize("changes", EXTREME, ids=[",".join(f"{k}={v}" for k, v in c.items()) for c in EXTREME])
def test_whatever_the_parameters_the_result_is_finite(tiny: tuple[Volume, Volume], changes: dict[str, Any]) -> None:
    result = register(*tiny, dataclasses.replace(TINY, **changes), threads=1)
    for array in (result.fixed_to_moving, result.moving_to_fixed, result.warped.data, result.velocity["velocity"]):
        assert np.isfinite(array).all()
    assert result.verdict.level in ("good", "check", "failed")
    if result.metrics["folds"]["count"]:
        assert result.verdict.level != "good"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"spacing_mm": 1e-300}, r"A working voxel of 1e-300 mm is too small for fixed\.nii\.gz\. Choose a larger one"),
        (
            {"spacing_mm": 0.01},
            r"A working grid of \d+ x \d+ x \d+ voxels is too large\. Choose a larger working voxel",
        ),
        (
            {"spacing_mm": 100.0},
            r"A working voxel of 100 mm is larger than what fixed\.nii\.gz shows\. Choose a smaller one",
        ),
        ({"resolutions": (64, 63, 61), "bands": (3, 3, 3), "iterations": (1, 1, 1)}, "of which one divides the next"),
    ],
    ids=["nothing", "tiny", "coarse", "resolutions"],
)
def test_impossible_working_grids_are_refused(
    tiny: tuple[Volume, Volume], changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        register(*tiny, dataclasses.replace(TINY, **changes), threads=1)


def test_a_device_that_is_not_there(tiny: tuple[Volume, Volume]) -> None:
    for name in ("cuda:77", "nonsense", ""):
        with pytest.raises(RuntimeError, match=rf"The device '{name}' cannot be used \(.+\)\. Choose auto or cpu\."):
            register(*tiny, TINY, device=name)


# ------------------------------------------------------------------------------------------------ progress and cancel


@pytest.mark.usefixtures("brief_agreement")
def test_progress_is_told_in_order(tiny: tuple[Volume, Volume]) -> None:
    events: list[dict[str, Any]] = []
    parameters = pairs.quick(initial_alignment="affine")
    result = register(*tiny, parameters, threads=1, progress=events.append)
    json.dumps(events, allow_nan=False)
    order = ["prepare", "affine", "level", "finish"]
    phases = [e["phase"] for e in events]
    assert list(dict.fromkeys(phases)) == order
    assert phases == sorted(phases, key=order.index)
    progress = [e["progress"] for e in events]
    assert all(b - a > -1e-9 for a, b in zip(progress, progress[1:], strict=False))
    assert progress[0] == 0
    assert progress[-1] <= 1
    assert all(isinstance(e["message"], str) and e["message"] for e in events)
    steps = [e for e in events if "energy" in e]
    assert len(steps) == len(result.history)
    for event, step in zip(steps, result.history, strict=True):
        assert event["levels"] == 2
        assert {k: event[k] for k in step} == step
        assert type(event["energy"]) is float


def cancel_after(calls: int) -> Callable[[], bool]:
    count = [0]

    def cancel() -> bool:
        count[0] += 1
        return count[0] > calls

    return cancel


@pytest.mark.usefixtures("fits_once")
def test_cancelling_at_any_moment(tiny: tuple[Volume, Volume]) -> None:
    """Before there is anything it raises, then it returns the best so far, and a late wish changes nothing."""
    parameters = pairs.quick(initial_alignment="affine")
    asked = [0]

    def never() -> bool:
        asked[0] += 1
        return False

    whole = register(*tiny, parameters, threads=1, cancel=never)
    outcomes = []
    for calls in sorted({0, 1, 2, asked[0] // 4, asked[0] // 2, *range(asked[0] - 16, asked[0] + 1, 3), asked[0]}):
        try:
            result = register(*tiny, parameters, threads=1, cancel=cancel_after(calls))
        except Cancelled as error:
            assert "cancelled" in str(error).lower()
            outcomes.append(-1)
            continue
        outcomes.append(len(result.history))
        assert result.cancelled == (calls < asked[0])
        if result.cancelled:
            assert result.verdict.level != "good"
            assert any(reason.finding == "cancelled" for reason in result.verdict.reasons)
        assert np.isfinite(result.fixed_to_moving).all()
        # The best so far: exactly the steps of the whole run up to there.
        for mine, theirs in zip(result.history, whole.history, strict=False):
            assert mine["energy"] == theirs["energy"]
    assert outcomes[0] == -1
    assert outcomes == sorted(outcomes)
    assert outcomes[-1] == len(whole.history)
    assert len(set(outcomes)) > 4


def test_cancelling_takes_effect_at_once(tiny: tuple[Volume, Volume]) -> None:
    """Long before a run of thousands of iterations would end."""
    wished = [0.0]

    def progress(event: dict[str, Any]) -> None:
        if event.get("iteration", 0) >= 3 and not wished[0]:
            wished[0] = time.process_time()

    parameters = dataclasses.replace(TINY, iterations=(5000,), tolerance=0.0)
    result = register(*tiny, parameters, threads=1, progress=progress, cancel=lambda: bool(wished[0]))
    assert result.cancelled
    assert len(result.history) == 4
    assert time.process_time() - wished[0] < 20


def test_an_error_of_the_listener_ends_the_registration(tiny: tuple[Volume, Volume]) -> None:
    before = torch.get_num_threads()

    def progress(event: dict[str, Any]) -> None:
        if "energy" in event:
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        register(*tiny, TINY, threads=2, progress=progress)
    assert torch.get_num_threads() == before


# --------------------------------------------------------------------------------------------------------- real images


def test_real_brains_raw(brains: list[Any]) -> None:
    """Two files as they are: millimeters apart, of other shapes; at coarse resolution."""
    fixed, moving = read_volume(brains[0]), read_volume(brains[1])
    fixed_labels, moving_labels = (read_labels(str(p).replace("_SS", "_glm")) for p in brains[:2])
    parameters = Parameters.from_preset("fast", spacing_mm=4.0, resolutions=(2, 1), bands=(11, 15), iterations=(6, 5))
    result = register(fixed, moving, parameters, threads=1, moving_labels=moving_labels, fixed_labels=fixed_labels)
    assert result.metrics["mean_dice_after"] > result.metrics["mean_dice_before"] + 0.02
    assert result.metrics["mean_dice_after"] > 0.4
    assert result.metrics["folds"]["count"] == 0
    assert result.verdict.level != "failed", result.verdict.reasons


def test_real_hippocampi(brains: list[Any]) -> None:
    """Crops inside tissue: no background around the object."""
    folder = brains[0].parent.parent / "hippocampus"
    if not folder.is_dir():
        pytest.skip(f"no real images in {folder}")
    names = [p.name for p in sorted((folder / "images").glob("*.nii.gz"))[:2]]
    images = [read_volume(folder / "images" / n) for n in names]
    labels = [read_labels(folder / "labels" / n) for n in names]
    parameters = Parameters.from_preset("fast", iterations=(6, 5))
    result = register(*images, parameters, threads=1, fixed_labels=labels[0], moving_labels=labels[1])
    assert result.metrics["similarity_after"] > result.metrics["similarity_before"]
    assert result.metrics["folds"]["count"] == 0


def test_several_label_maps_are_refused_before_the_work(tiny: tuple[Volume, Volume]) -> None:
    fixed, moving = tiny
    two = [Volume(fixed.grid, np.ones(fixed.data.shape, np.int32), f"{n}.nrrd") for n in range(2)]
    events: list[dict[str, Any]] = []
    with pytest.raises(InputError, match="has 2 label maps"):
        register(Subject(fixed, two), moving, TINY, threads=1, progress=events.append)
    assert {event["phase"] for event in events} <= {"prepare"}


@pytest.mark.usefixtures("brief_agreement")
def test_notes_of_labels_and_masks_are_kept_too(tiny: tuple[Volume, Volume]) -> None:
    fixed, moving = tiny
    labels = Volume(moving.grid, np.ones(moving.data.shape, np.int32), "l", ("l: a note of the labels",))
    mask = Volume(fixed.grid, np.ones(fixed.data.shape, np.uint8), "m", ("m: a note of the mask",))
    result = register(Subject(fixed, mask=mask), Subject(moving, labels), TINY, threads=1)
    assert {"l: a note of the labels", "m: a note of the mask"} <= set(result.notes)


@pytest.mark.parametrize("cut", ["fixed", "moving"])
def test_a_stripped_object_that_a_field_of_view_cuts_is_not_squeezed_into_it(cut: str) -> None:
    """Beyond the cut there is no background, though the image has a constant one: the truth is to stay."""
    whole = pairs.fixed_image()
    whole = dataclasses.replace(whole, data=np.where(foreground(whole), whole.data, 0).astype(np.float32))
    part = Volume(
        whole.grid.padded([-whole.grid.shape[0] * 2 // 5, 0, 0], 0), whole.data[whole.grid.shape[0] * 2 // 5 :]
    )
    assert background_value(part) is not None
    sides = {"fixed": whole, "moving": whole, cut: part}
    result = register(sides["fixed"], sides["moving"], pairs.quick(initial_alignment="none"), threads=1)
    field = np.linalg.norm(result.displacement, axis=-1)
    assert np.percentile(field[foreground(sides["fixed"])], 95) < 1.0
    assert result.verdict.level == "good", result.verdict.reasons
