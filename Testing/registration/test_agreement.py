# SPDX-License-Identifier: Apache-2.0
"""Agreement against its floor: what lies right stands above it, what is turned, mirrored or unrelated does not."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import registration_pairs as pairs
from DeepFLASHRegistrationLib.imaging.volume import Volume
from DeepFLASHRegistrationLib.problem.subject import Subject
from DeepFLASHRegistrationLib.registration import metrics as m
from DeepFLASHRegistrationLib.registration.register import register
from verdict_cases import LEFT, UP, Case, body, made, turn, unrelated

pytest.importorskip("torch")


def result_of(case: Case, **changes: Any) -> Any:
    parameters = pairs.quick(**{"resolutions": (2, 1), "bands": (11, 15), "iterations": (5, 3), **changes})
    return register(case.fixed, case.moving, parameters, initial_affine=case.initial, threads=1)


def test_what_lies_right_stands_above_the_floor(registered: pairs.Registered) -> None:
    found = registered.result.metrics["agreement"]
    assert found["share"] > 0.4
    assert found["reached"] > found["floor"] + 0.1
    assert found["information"] > found["information_floor"]
    assert found["mirrored"] == ""


def test_an_image_agrees_with_itself_entirely() -> None:
    image = pairs.fixed_image()
    result = register(image, image, pairs.quick(initial_alignment="none"), threads=1)
    assert result.metrics["agreement"]["reached"] == pytest.approx(1, abs=0.01)
    assert result.metrics["turn_degrees"] == pytest.approx(0, abs=1e-3)
    assert result.metrics["scale"] == pytest.approx(1, abs=1e-6)
    assert result.verdict.level == "good", result.verdict.reasons


@pytest.mark.parametrize(("axis", "name"), [(LEFT, "left-right"), (UP, "head-foot")])
def test_an_image_turned_by_half_is_found_out(axis: tuple[int, ...], name: str) -> None:
    """The measure itself rises, and the turned pose reaches more."""
    result = result_of(body("turned", "abdomen", 1, ("ct", "ct"), wrong=turn(3, 180, axis)))
    assert result.metrics["similarity_after"] > result.metrics["similarity_before"]
    assert result.metrics["agreement"]["turned"] == name
    assert result.metrics["turn_degrees"] > 150
    assert result.verdict.level == "failed"
    assert [
        r.arguments["axis"] for r in result.verdict.reasons if r.finding == "turned" and r.code == "similarity"
    ] == [name]
    assert any(r.code == "pose" for r in result.verdict.reasons)


def test_a_mirrored_picture_is_said() -> None:
    """Of planes, the axes have names of their own."""
    case = next(make for make in made() if make.args[0] == "fundus of the other eye")()
    found = result_of(case)
    assert found.metrics["agreement"]["mirrored"] == "horizontal"
    assert any("Mirrored along the horizontal axis" in str(reason) for reason in found.verdict.reasons)


@pytest.mark.parametrize("shape", [(40, 42, 38), (90, 96)])
def test_unrelated_images_agree_no_better_than_turned(shape: tuple[int, ...]) -> None:
    result = result_of(unrelated("unrelated", 5, shape, True))
    assert abs(result.metrics["agreement"]["share"]) < 0.25
    assert result.verdict.level != "good"


def test_a_mirrored_header_is_said() -> None:
    """The liver on the left: the same voxels, mirrored."""
    result = result_of(body("mirrored", "abdomen", 2, ("ct", "ct"), mirrored=True))
    assert result.metrics["agreement"]["mirrored"] == "left-right"
    assert result.verdict.level != "good"
    assert any(reason.code == "mirror" for reason in result.verdict.reasons)


def test_what_the_other_does_not_show_counts_nowhere_but_is_named() -> None:
    """A field of view cut by a third: the verdict is that of the rest, and the map is right where both see."""
    whole = body("coverage", "abdomen", 3, ("ct", "ct"))
    cut = body("coverage", "abdomen", 3, ("ct", "ct"), cuts=((0, 0), (0.35, 0)))
    result = result_of(cut)
    assert 0.2 < result.metrics["border_hits"] < 0.5
    assert result.verdict.level == "good", result.verdict.reasons
    # Overlap where both see; without that it falls with the coverage.
    assert result.metrics["overlap"] > 0.9
    points = m.grid_points(cut.fixed.grid, cut.labels[0].data > 0, 5000)
    true = whole.truth(points)
    seen = cut.moving.grid.contains(true)
    found = m.map_points(points, result.fixed_to_moving, result.field_grid)
    assert np.linalg.norm(found - true, axis=1)[seen].mean() < 0.05 * result.metrics["object_mm"]


def test_only_what_is_asked_for_is_missed_where_it_is_cut() -> None:
    cut = body("coverage", "abdomen", 3, ("ct", "ct"), cuts=((0, 0), (0.35, 0)))
    labels = cut.labels[0]
    low = labels.with_data(np.where(labels.data == 6, 6, 0))  # bowel, at the cut end
    high = labels.with_data(np.where(labels.data == 2, 2, 0))  # spleen, at the other
    for chosen, level in ((low, "check"), (high, "good")):
        mask = Volume(labels.grid, (chosen.data > 0).astype(np.uint8), "mask")
        metrics = result_of(Case("", "", Subject(cut.fixed.image, (chosen,)), cut.moving, cut.initial)).metrics
        assert metrics["cut"]["what"] == "labels"
        assert (metrics["cut"]["part"] > 0.05) == (level == "check")
        points = m.grid_points(mask.grid, mask.data > 0)
        by_hand = 1 - cut.moving.grid.contains(cut.truth(points)).mean()
        assert metrics["cut"]["part"] == pytest.approx(by_hand, abs=0.1)
