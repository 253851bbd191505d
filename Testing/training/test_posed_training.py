# SPDX-License-Identifier: Apache-2.0
"""Dual nets: FLASH teaches them in the pose of the training set's mean image, and they are trained there."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from DeepFLASHRegistrationLib.methods.prediction import predictor
from DeepFLASHRegistrationLib.methods.trained_models import load_model
from DeepFLASHRegistrationLib.problem.parameters import Parameters
from DeepFLASHRegistrationLib.registration.register import register
from DeepFLASHRegistrationLib.results.velocity import load_result
from DeepFLASHRegistrationLib.support.errors import InputError
from DeepFLASHRegistrationLib.training import posed as posed_recipes
from DeepFLASHRegistrationLib.training.dataset import read_dataset, split
from DeepFLASHRegistrationLib.training.mean_image import mean_image
from DeepFLASHRegistrationLib.training.pairs import Variation
from DeepFLASHRegistrationLib.training.posed import PosedRecipe, posed, read_posed
from DeepFLASHRegistrationLib.training.posed_training import PosedSubjects, PosedTrainer
from DeepFLASHRegistrationLib.training.teaching import label_file, teach
from DeepFLASHRegistrationLib.training.train import About, TrainingOptions, train
from DeepFLASHRegistrationLib.training.trainer import Schedule
from helpers.training_images import subject, write_subjects

RECIPE = PosedRecipe(
    Parameters(
        resolutions=(1,),
        bands=(9,),
        iterations=(8,),
        margin_mm=16.0,
        window_mm=20.0,
        alpha=6.0,
        power=2.0,
        normalization="percentiles",
        search="lbfgs",
        integrator="multistep",
    ),
    "dense",
    width=4,
    refinement={"resolutions": [1], "bands": [9]},
    unit_mm=4.0,
)
SHAPE = (40, 36)


@pytest.fixture(autouse=True)
def _recipe(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(posed_recipes.POSED_RECIPES, "tiny", RECIPE)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_subjects(tmp_path_factory.mktemp("posed") / "data", 9, shape=SHAPE)


@pytest.fixture(scope="module")
def velocities(data: Path) -> Path:
    seen, _ = split(read_dataset(data), "s7,s8")
    folder = data.parent / "velocities"
    assert all(not row.problem for row in teach(seen, folder, RECIPE, 8))
    return folder


def options(**schedule: object) -> TrainingOptions:
    return TrainingOptions(
        "tiny",
        device="cpu",
        validation_pairs=2,
        validate_every=2,
        schedule=Schedule(**{"iterations": 4, **schedule}),
        variation=Variation(turn=1.0, shift_mm=1.0, deformation_mm=2.0),
        about=About(name="tiny"),
    )


def test_the_domain_leaves_nothing_to_fall_on_what_is_looked_at() -> None:
    place = posed(mean_image([subject(k)[0] for k in range(3)]), RECIPE.parameters, 4.0)
    halves = []
    for axis, (low, high) in enumerate(place.look):
        assert 0 <= low < high <= 1
        # Reflected about the center: from 2c - high to 2c - low, and one period further.
        low, high = low - place.center[axis], high - place.center[axis]
        halves.append(low >= 0 and 1 - high >= high)
    assert sum(halves) == 1


def test_flash_teaches_on_the_domain_as_it_lies_in_each_fixed_image(data: Path, velocities: Path) -> None:
    place = read_posed(velocities)
    seen = read_dataset(data).subjects
    file = next(p for p in (label_file(velocities, a, b) for a in seen for b in seen if a != b) if p.exists())
    found = load_result(file).deformation
    assert found.domain.shape == place.domain.shape
    turn = found.domain.direction @ np.linalg.inv(place.domain.direction)
    np.testing.assert_allclose(turn @ turn.T, np.eye(2), atol=1e-9)
    assert found.unit_mm == RECIPE.unit_mm
    assert found.velocity.any()


def test_what_is_drawn_is_what_lies_on_the_domain(data: Path, velocities: Path) -> None:
    place = read_posed(velocities)
    subjects = [files.read() for files in read_dataset(data).subjects[:2]]
    made = PosedSubjects(subjects, place, RECIPE.parameters, RECIPE.unit_mm)
    trainer = PosedTrainer(RECIPE, place, Schedule(), Variation(), "cpu")
    drawing, chosen = trainer.drawing(made), torch.tensor([1])
    still = torch.eye(3, dtype=torch.float64)[None]
    # Unmoved: the arrays themselves.
    torch.testing.assert_close(drawing.at(chosen, still)[0, 0], made.arrays[1, 0].float(), atol=2e-3, rtol=0)
    # Moved by a whole number of voxels along the first axis: by a matrix, and by a displacement.
    h = float(place.domain.spacing[0])
    axis = place.domain.direction[:, 0]
    way = still.clone()
    way[0, :2, 2] = torch.from_numpy(3 * h * axis)
    field = torch.zeros(1, 2, *place.domain.shape)
    field[:, 0] = 3 * h
    for found in (drawing.at(chosen, way), drawing.at(chosen, still, field)):
        torch.testing.assert_close(found[0, 0, :-3], made.arrays[1, 0, 3:].float(), atol=2e-3, rtol=0)


def test_a_dual_net_learns_and_registers_unseen_subjects(data: Path, velocities: Path, tmp_path: Path) -> None:
    seen, unseen = split(read_dataset(data), "s7,s8")
    lines: list[str] = []
    train(seen, unseen, tmp_path / "model", options(iterations=40, label_weight=0.0), velocities, tell=lines.append)
    model = load_model(tmp_path / "model")
    assert (model.config.kind, model.config.posed, model.config.contrast) == ("dual-net", True, "alike")
    assert {a.dtype for a in model.arrays.values()} == {np.dtype(np.float16)}
    assert predictor(str(tmp_path / "model")).domain.same_as(read_posed(velocities).domain)
    fixed, moving = (read_dataset(data).subjects[k].read() for k in (7, 8))
    settings = Parameters(method="deepflash", model=str(tmp_path / "model"), initial_alignment="rigid")
    result = register(fixed, moving, settings, device="cpu", threads=1)
    assert result.history[-1]["energy"] < 0.99 * result.history[0]["energy"]
    assert result.velocity["velocity"].any()
    assert result.metrics["folds"]["count"] == 0


def test_an_interrupted_training_goes_on_to_the_same_weights(data: Path, velocities: Path, tmp_path: Path) -> None:
    seen, unseen = split(read_dataset(data), "s7,s8")

    def stop(text: str) -> None:
        if text.startswith("[2,"):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(seen, unseen, tmp_path / "stopped", options(), velocities, tell=stop)
    for name in ("stopped", "whole"):
        train(seen, unseen, tmp_path / name, options(), velocities, tell=lambda text: None)
    one, two = (load_model(tmp_path / name).arrays for name in ("stopped", "whole"))
    for name in two:
        np.testing.assert_array_equal(one[name], two[name])


def test_what_cannot_teach_a_dual_net_is_refused(data: Path, velocities: Path, tmp_path: Path) -> None:
    seen, unseen = split(read_dataset(data), "s7,s8")
    with pytest.raises(InputError, match="deepflash teach --recipe tiny"):
        train(seen, unseen, tmp_path / "model", options(), None)
    plain = dataclasses.replace(RECIPE.parameters, iterations=(2,), initial_alignment="centers")
    teach(seen, tmp_path / "plain", plain, 1)
    with pytest.raises(InputError, match=r"place.safetensors: is missing. Teach with"):
        train(seen, unseen, tmp_path / "model", options(), tmp_path / "plain")
    damaged = tmp_path / "damaged"
    damaged.mkdir()
    (damaged / "place.safetensors").write_bytes((velocities / "place.safetensors").read_bytes()[:-5])
    with pytest.raises(InputError, match="damaged"):
        read_posed(damaged)
    with pytest.raises(InputError, match="other parameters"):
        teach(seen, velocities, Parameters(), 1)
