# SPDX-License-Identifier: Apache-2.0
"""Models that predict in one pass, at work in register()."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from DeepFLASHRegistrationLib.geodesics import captured
from DeepFLASHRegistrationLib.learning.feature_net import Design, FeatureNet, Head
from DeepFLASHRegistrationLib.methods.prediction import Predictor, predictor, predictor_of
from DeepFLASHRegistrationLib.methods.trained_models import ModelConfig, load_model, save_model
from DeepFLASHRegistrationLib.problem.deformation import deformation_from
from DeepFLASHRegistrationLib.problem.parameters import Parameters
from DeepFLASHRegistrationLib.problem.problem import Problem, comparable
from DeepFLASHRegistrationLib.problem.subject import Subject
from DeepFLASHRegistrationLib.registration.register import register
from DeepFLASHRegistrationLib.support.errors import InputError
from recordings import Traced
from training_images import subject

SPACING = 4.0
SHAPE = (30, 34, 28)
DESIGN = Design((4, 6, 8, 8), (4, 6, 8), (Head(8, 8, 2.86, steps=2), Head(2, 6, 3.5, steps=3)))
DROPPED = "did not make the images more alike, and was dropped"
SHIFT = 3  # voxels along the last axis


def saved(folder: Path, network: FeatureNet | None = None, **more: object) -> Path:
    if network is None:
        network = FeatureNet(DESIGN)
        for head in network.heads:
            torch.nn.init.zeros_(head.answer.weight)
    values = {
        "name": "blobs",
        "kind": "feature-net",
        "architecture": {"design": DESIGN.to_dict(), "refinement": {"resolutions": [1], "bands": [9]}},
        "parameters": Parameters(
            resolutions=(2,),
            bands=(9,),
            iterations=(1,),
            spacing_mm=SPACING,
            margin_mm=8 * SPACING,
            similarity="ssd",
            sigma=0.01,  # so that what a shift costs, which a geodesic should not do, does not matter
        ),
        "ndim": 3,
        "unit_mm": SPACING,
        "spacing_mm": SPACING,
        "extent_mm": (20.0, 200.0),
        "energy": (0.2, 0.1),
        "description": "blobs",
        "training_data": "none",
        "license": "CC0",
    } | more
    arrays = {name: value.detach().numpy().astype(np.float16) for name, value in network.state_dict().items()}
    return save_model(folder, ModelConfig(**values), arrays)


def shifting(voxels: float) -> FeatureNet:
    """A network that answers with one shift along the last axis, whatever it sees: its first head has cells of 8
    voxels, and the cap is undone."""
    network = FeatureNet(DESIGN)
    for head in network.heads:
        torch.nn.init.zeros_(head.answer.weight)
    network.heads[0].answer.bias.data[2] = DESIGN.cap * np.arctanh(voxels / 8 / DESIGN.cap)
    return network


def moved() -> list[Subject]:
    """A subject, and the same as it lies some voxels further along the last axis; the first one's content is at its
    own place plus the shift in the second."""
    image, labels = subject(4, SHAPE, SPACING)
    there = [v.with_data(np.roll(v.data, SHIFT, axis=-1)) for v in (image, labels)]
    return [Subject(image, labels=labels), Subject(there[0], labels=there[1])]


def parameters(model: Path, **more: object) -> Parameters:
    return Parameters(**{"method": "deepflash", "model": str(model), "initial_alignment": "none", **more})


def registered(model: Path, **more: object):
    fixed, moving = moved()
    labels = {"fixed_labels": fixed.labels, "moving_labels": moving.labels}
    return register(fixed.image, moving.image, parameters(model, **more), **labels)


def posed(model: Path) -> tuple[Predictor, Problem]:
    found = predictor(str(model))
    sides = comparable(*(s.checked() for s in moved()), found.parameters)
    return found, Problem(*sides, np.eye(4), found.parameters, unit_mm=found.unit_mm, multiple=found.multiple)


def test_what_a_network_answers_is_where_the_maps_lead(tmp_path: Path) -> None:
    result = registered(saved(tmp_path / "model", shifting(-SHIFT)))
    assert result.metrics["mean_dice_after"] > 0.97 > 0.8 > result.metrics["mean_dice_before"]
    assert result.metrics["folds"]["count"] == 0
    first, last = result.history
    assert last["similarity"] < 0.02 * first["similarity"]
    assert first["smallest_determinant"] == 1.0
    # In the object, where the velocity does not fade out, the map is the shift alone, in mm.
    _, labels = subject(4, SHAPE, SPACING)
    margin = [(n - m) // 2 for n, m in zip(result.field_grid.shape, SHAPE)]
    inner = tuple(slice(a, a + n) for a, n in zip(margin, SHAPE))
    field = result.fixed_to_moving[inner][labels.data > 0]
    shift = np.zeros(3)
    shift[0] = SHIFT * SPACING  # the last axis is x
    np.testing.assert_allclose(field.mean(0), shift, atol=0.02 * SPACING)
    np.testing.assert_allclose(field, np.broadcast_to(shift, field.shape), atol=0.4 * SPACING)


def test_refinement_goes_on_from_the_prediction_at_the_finest_level_only(tmp_path: Path) -> None:
    model = saved(tmp_path / "model", shifting(0.8 - SHIFT))
    alone, refined = registered(model), registered(model, method="deepflash+flash", refinement=4)
    assert [r["level"] for r in alone.history] == [0, 0]
    assert {r["level"] for r in refined.history[2:]} == {1}
    assert refined.history[-1]["energy"] < 0.8 * refined.history[2]["energy"]
    assert refined.metrics["mean_dice_after"] > alone.metrics["mean_dice_after"]


def test_a_prediction_that_is_worse_than_nothing_is_dropped_with_a_word(tmp_path: Path) -> None:
    result = registered(saved(tmp_path / "model", shifting(SHIFT)))
    assert DROPPED in " ".join(map(str, result.verdict.reasons))
    assert result.metrics["mean_dice_after"] == pytest.approx(result.metrics["mean_dice_before"])
    assert not result.velocity["velocity"].any()


def test_a_network_that_overflows_is_dropped_too(tmp_path: Path) -> None:
    network = shifting(-SHIFT)
    for p in network.heads[1].parameters():
        p.data.fill_(6e4)
    result = registered(saved(tmp_path / "model", network))
    assert DROPPED in " ".join(map(str, result.verdict.reasons))
    assert np.isfinite(result.fixed_to_moving).all()


def test_cancelled_between_heads_what_the_first_found_is_kept(tmp_path: Path) -> None:
    network = shifting(-SHIFT)
    network.heads[1].answer.bias.data[:] = 0.5
    found, problem = posed(saved(tmp_path / "model", network))
    first, whole = found.predict(problem, cancelled=lambda: True), found.predict(problem)
    assert first.cancelled
    assert not whole.cancelled
    # A constant's coefficient is the constant: the first head's shift, and with it what the second one adds.
    at = (slice(None), 0, 0, 0)
    np.testing.assert_allclose(first.velocity[at], [0, 0, -SHIFT], atol=0.01)
    np.testing.assert_allclose(whole.velocity[at] - first.velocity[at], np.tanh(0.5 / 1.2) * 1.2 * 2, atol=0.01)


def test_images_unlike_the_training_data_are_named(tmp_path: Path) -> None:
    result = registered(saved(tmp_path / "model", shifting(-SHIFT), extent_mm=(200.0, 300.0)))
    assert "trained on objects with lengths of 200 to 300 mm" in " ".join(map(str, result.verdict.reasons))
    result = registered(saved(tmp_path / "model", shifting(2.0 - SHIFT), energy=(0.01, 0.01)))
    assert "These images are unlike those that the model blobs was trained on" in " ".join(
        map(str, result.verdict.reasons)
    )


def test_maps_in_memory_are_those_of_the_registration_also_in_batches(tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = shifting(-SHIFT)
    torch.nn.init.normal_(network.heads[1].answer.weight, std=0.02)
    model = saved(tmp_path / "model", network)
    found, problem = posed(model)
    assert all(n % 16 == 0 for n in problem.grid.shape)
    pair = problem.pair()
    other = dataclasses.replace(pair, fixed=pair.moving, moving=pair.fixed)
    one, _ = found.maps(problem, (pair, other))
    torch.testing.assert_close(found.maps(problem, (pair,))[0].warped, one.warped, rtol=1e-3, atol=1e-4)
    prediction = found.predict(problem)
    geodesic = problem.geodesic(prediction.velocity, prediction.metric, found.parameters)
    field = deformation_from(geodesic).displacement(problem.grid, "fixed_to_moving")
    mm = np.tensordot(one.fixed_to_moving.numpy(), problem.grid.direction * problem.unit_mm, (0, 1))
    assert np.abs(field).max() > SHIFT * SPACING / 2
    # Beyond the object they fade out, on coarser cells in memory.
    inside = problem.fixed_mask
    np.testing.assert_allclose(mm[inside], field[inside], atol=0.1 * SPACING)


def test_what_is_recorded_and_replayed_is_what_is_computed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    network = shifting(-SHIFT)
    torch.nn.init.normal_(network.heads[1].answer.weight, std=0.02)
    found, problem = posed(saved(tmp_path / "model", network))
    pair = problem.pair()
    other = dataclasses.replace(pair, fixed=pair.moving, moving=pair.fixed)
    plain = [found.maps(problem, (each,))[0] for each in (pair, other)]
    monkeypatch.setitem(captured.RECORDINGS, "cpu", Traced)
    found = predictor_of(load_model(tmp_path / "model"))
    before = Traced.replayed
    recorded = [found.maps(problem, (each,))[0] for each in (other, pair, other)][1:]
    assert Traced.replayed == before + 2
    for one, two in zip(plain, recorded, strict=True):
        for name in ("fixed_to_moving", "moving_to_fixed", "warped"):
            assert torch.equal(getattr(one, name), getattr(two, name)), name


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"ndim": 2}, "three dimensions"),
        ({"architecture": {"refinement": {"resolutions": [1], "bands": [9]}}}, "design"),
        ({"architecture": {"design": DESIGN.to_dict()}}, "refinement"),
        ({"architecture": {"design": {**DESIGN.to_dict(), "heads": []}, "refinement": {}}}, "at least one head"),
    ],
)
def test_what_describes_no_network_is_refused(tmp_path: Path, change: dict, message: str) -> None:
    with pytest.raises(InputError, match=message):
        predictor(str(saved(tmp_path / "model", **change)))


def test_weights_of_another_design_are_refused(tmp_path: Path) -> None:
    other = dataclasses.replace(DESIGN, features=(4, 6, 10))
    model = saved(tmp_path / "model", FeatureNet(other))
    with pytest.raises(InputError, match="do not fit its architecture"):
        predictor(str(model))


def test_weights_of_half_precision_are_kept_so_on_disk_and_computed_with_in_single(tmp_path: Path) -> None:
    model = saved(tmp_path / "model")
    assert {a.dtype for a in load_model(model).arrays.values()} == {np.dtype(np.float16)}
    assert {p.dtype for p in predictor(str(model)).network.parameters()} == {torch.float32}
