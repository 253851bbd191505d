# SPDX-License-Identifier: Apache-2.0
"""Several images of each subject, matched together."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from DeepFLASHRegistrationLib.geodesics.objective import Objective
from DeepFLASHRegistrationLib.imaging.grid import Grid
from DeepFLASHRegistrationLib.imaging.volume import Volume
from DeepFLASHRegistrationLib.problem.parameters import Parameters
from DeepFLASHRegistrationLib.problem.problem import Problem, comparable, settings
from DeepFLASHRegistrationLib.problem.subject import Subject
from DeepFLASHRegistrationLib.registration.metrics import map_points
from DeepFLASHRegistrationLib.registration.register import register
from DeepFLASHRegistrationLib.support.errors import InputError

SIZE = 96
# Where two blobs lie in the fixed and in the moving image, in pixels of 1 mm: each image shows but one of them.
BLOBS = {"upper": ((34.0, 48.0), (30.0, 44.0)), "lower": ((62.0, 48.0), (66.0, 51.0))}


def drawn(blob: str, side: int, spacing: float = 1.0, offset: float = 0.0) -> Volume:
    """A round object with one of the blobs in it, smooth and without noise."""
    n = int(SIZE / spacing)
    index = np.stack(np.meshgrid(np.arange(n), np.arange(n), indexing="ij"), -1) * spacing + offset
    body = 1 / (1 + np.exp((np.linalg.norm(index - 48, axis=-1) - 36) / 1.5))
    spot = np.exp(-0.5 * (np.linalg.norm(index - BLOBS[blob][side], axis=-1) / 4) ** 2)
    affine = np.array([[0, spacing, offset], [spacing, 0, offset], [0, 0, 1]])
    return Volume(Grid((n, n), affine), (100 * body + 150 * spot).astype(np.float32), f"{blob} {('f', 'm')[side]}")


def subject(side: int, *blobs: str) -> Subject:
    return Subject(tuple(drawn(blob, side) for blob in blobs))


def chosen(**changes) -> Parameters:
    return Parameters.from_preset("fast", **{"alpha": 4.0, "initial_alignment": "none", **changes})


def left(result, blob: str) -> float:
    """By how many mm the map misses the middle of a blob; 5.66 and 5 lie between both places."""
    here, there = (np.array(at)[None, ::-1] for at in BLOBS[blob])
    return float(np.linalg.norm(map_points(here, result.fixed_to_moving, result.field_grid) - there))


@pytest.fixture(scope="module")
def alone():
    return register(subject(0, "upper"), subject(1, "upper"), chosen())


@pytest.fixture(scope="module")
def both():
    return register(subject(0, "upper", "lower"), subject(1, "upper", "lower"), chosen())


def test_each_image_aligns_what_it_shows(alone, both):
    assert left(alone, "upper") < 2 < 4.5 < left(alone, "lower")
    assert left(both, "upper") < 2
    assert left(both, "lower") < 2
    assert both.metrics["folds_strict"]["count"] == 0


def test_what_is_left_of_each_is_told(both, alone):
    (found,) = both.metrics["channels"]
    assert (found["name"], found["similarity"], found["weight"]) == ("lower m", "lncc", 1.0)
    assert found["before"] < found["after"] <= 1
    criterion = {c.code: c for c in both.verdict.criteria}["channels"]
    assert criterion.level == "good"
    assert "lower m" in str(criterion)
    assert "channels" not in alone.metrics
    assert [len(both.provenance[f"{side}_channels_sha256"]) for side in ("fixed", "moving")] == [1, 1]
    assert "fixed_channels_sha256" not in alone.provenance


def test_the_figures_are_those_of_the_energy():
    """Where the map is the identity, on cells that are the working voxels."""
    parameters = chosen(similarity="ssd", resolutions=(1,), bands=(15,), iterations=(0,), channel_weights=(3.0,))
    sides = comparable(*(subject(side, "upper", "lower").checked() for side in (0, 1)), parameters)
    problem = Problem(*sides, np.eye(3), parameters)
    level = problem.levels(parameters)[0]
    zero = torch.zeros(2, *level.band.modes)
    found = Objective(problem.compared(), level, settings(parameters), None, zero)
    parts = [float(side.at_rest()) for side in found.sides]
    first, second = (
        float((mask * (a - b) ** 2).sum() / mask.sum())
        for a, b, mask in (
            (problem.fixed, problem.moving, problem.fixed_mask),
            (problem.channels[0].fixed, problem.channels[0].moving, problem.channels[0].fixed_mask),
        )
    )
    assert parts == pytest.approx([first, second], rel=1e-4)
    assert found.at_rest() == pytest.approx(found.data_weight * (first + 3 * second) / 4, rel=1e-4)
    result = register(subject(0, "upper", "lower"), subject(1, "upper", "lower"), parameters)
    assert result.metrics["channels"][0]["before"] == pytest.approx(1 - second, rel=1e-4)
    assert result.metrics["channels"][0]["after"] == pytest.approx(1 - second, rel=1e-3)


def test_a_weight_of_0_changes_nothing_and_is_measured(alone):
    found = register(
        subject(0, "upper", "lower"),
        subject(1, "upper", "lower"),
        chosen(channel_weights=(0.0,), channel_similarities=("mi",)),
    )
    np.testing.assert_array_equal(found.velocity["velocity"], alone.velocity["velocity"])
    np.testing.assert_array_equal(np.asarray(found.fixed_to_moving), np.asarray(alone.fixed_to_moving))
    assert found.metrics["channels"][0]["weight"] == 0
    assert found.metrics["channels"][0]["similarity"] == "mi"


def test_the_weight_decides_which_of_two_that_contradict_each_other_is_followed():
    """The second pair is the first exchanged, so that it moves the other way."""
    sides = [
        Subject((drawn("upper", side), dataclasses.replace(drawn("upper", 1 - side), name="back"))) for side in (0, 1)
    ]
    light, heavy = (register(*sides, chosen(channel_weights=(w,))) for w in (0.2, 5.0))
    assert left(light, "upper") < 5.66 < left(heavy, "upper")
    (found,) = light.metrics["channels"]
    assert found["after"] < found["before"]


def test_lddmm_looks_at_all_images():
    one, two = (
        register(subject(0, *blobs), subject(1, *blobs), chosen(method="lddmm", iterations=(30, 30)))
        for blobs in (("upper",), ("upper", "lower"))
    )
    assert left(two, "lower") < 3 < 4.5 < left(one, "lower")


def test_an_image_on_another_grid_is_followed_by_its_header(both):
    other = [
        Subject((drawn("upper", side), drawn("lower", side, spacing=1.5, offset=0.25)), name=name)
        for side, name in ((0, "f"), (1, "m"))
    ]
    found = register(*other, chosen())
    assert max(left(found, "upper"), left(found, "lower")) < 2
    assert sum("lies on another grid" in note for note in found.notes) == 2


def test_the_mask_holds_for_all_images():
    """Where the mask hides the lower blob, the second image moves nothing."""
    inside = np.ones((SIZE, SIZE), np.uint8)
    inside[50:] = 0
    fixed, moving = subject(0, "upper", "lower"), subject(1, "upper", "lower")
    mask = Volume(fixed.grid, inside, "upper half")
    found = register(dataclasses.replace(fixed, mask=mask), moving, chosen())
    assert left(found, "upper") < 2 < 4.5 < left(found, "lower")


def test_of_two_images_the_one_that_shows_the_pose_aligns():
    """A disc does not tell how it is turned; what lies in it does."""
    turn = np.deg2rad(25.0)
    n = np.stack(np.meshgrid(np.arange(SIZE), np.arange(SIZE), indexing="ij"), -1) - 48.0

    def image(angle: float, marked: bool, name: str) -> Volume:
        turned = n @ np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
        body = 1 / (1 + np.exp((np.linalg.norm(n, axis=-1) - 36) / 1.5))
        bar = np.exp(-0.5 * (turned[..., 0] / 4) ** 2 - 0.5 * (turned[..., 1] / 14) ** 2)
        spot = np.exp(-0.5 * (np.linalg.norm(turned - (14, 10), axis=-1) / 4) ** 2)
        grid = Grid((SIZE, SIZE), np.array([[0, 1.0, 0], [1.0, 0, 0], [0, 0, 1]]))
        return Volume(grid, (100 * body + marked * 150 * (bar + spot)).astype(np.float32), name)

    sides = [Subject((image(a, False, "plain"), image(a, True, "marked"))) for a in (0.0, turn)]
    result = register(*sides, chosen(initial_alignment="rigid", iterations=(0, 0)))
    at = np.degrees(np.arctan2(result.affine[0, 1], result.affine[0, 0]))
    assert abs(abs(at) - 25) < 2
    assert any("rigid map of marked" in note for note in result.notes)


def test_what_cannot_be_compared_is_refused():
    one, two = subject(0, "upper"), subject(0, "upper", "lower")
    with pytest.raises(InputError, match="fixed side has no further images and the moving side 1 further image"):
        register(one, two, chosen())
    with pytest.raises(InputError, match="channel_weights: has 2 entries for 1 further image"):
        register(two, two, chosen(channel_weights=(1.0, 2.0)))
    with pytest.raises(InputError, match="channel_similarities: has 1 entries for no further images"):
        register(one, one, chosen(channel_similarities=("mi",)))
    with pytest.raises(InputError, match="looks at one image of each side"):
        register(two, two, chosen(method="nephi"))
    away = dataclasses.replace(
        drawn("lower", 0), grid=Grid((SIZE, SIZE), np.array([[0, 1, 500], [1, 0, 0], [0, 0, 1]]))
    )
    with pytest.raises(InputError, match="lower f: lies outside upper f"):
        register(Subject((drawn("upper", 0), away)), two, chosen())
    flat = Volume(two.grid, np.ones((SIZE, SIZE), np.float32), "flat")
    with pytest.raises(InputError, match="flat"):
        register(Subject((drawn("upper", 0), flat)), two, chosen())


def test_parameters_of_further_images_are_checked():
    with pytest.raises(ValueError, match="channel_similarities must be one of lncc"):
        Parameters(channel_similarities=("lncc", "what"))
    with pytest.raises(ValueError, match="channel_similarities must be a list of names"):
        Parameters(channel_similarities="mi")
    with pytest.raises(ValueError, match="channel_weights must lie between 0"):
        Parameters(channel_weights=(-1,))
    with pytest.raises(ValueError, match="channel_weights must be a list of numbers"):
        Parameters(channel_weights=1.0)
    found = Parameters(channel_weights=[1, 0.5], channel_similarities=["mi", "lncc"])
    assert found.channel_weights == (1.0, 0.5)
    assert Parameters.from_dict(found.to_dict()) == found
