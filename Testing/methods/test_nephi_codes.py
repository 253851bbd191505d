# SPDX-License-Identifier: Apache-2.0
"""Models of NePhi at work: codes that a network says, and codes that are fitted to the pair."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from DeepFLASHRegistrationLib.learning.coded_field import CodedDesign, CodedField
from DeepFLASHRegistrationLib.methods.prediction import predictor_of
from DeepFLASHRegistrationLib.methods.registry import plan
from DeepFLASHRegistrationLib.methods.trained_models import load_model
from DeepFLASHRegistrationLib.problem.parameters import Parameters
from DeepFLASHRegistrationLib.registration.register import register
from DeepFLASHRegistrationLib.support import memory
from DeepFLASHRegistrationLib.support.errors import Cancelled, InputError
from map_models import SHIFT, SPACING, moved, problem_of, registered, saved
from training_images import subject

DESIGN, OWN = CodedDesign((4, 6, 8, 8), 6, 4, 8, 1.0, 16), (32, 48, 32)


def made(folder: Path, voxels: float = 0.0, much: float = 0.1, **more: object) -> Path:
    """A field that answers with a displacement along the last axis in voxels, and by codes."""
    torch.manual_seed(0)
    network = CodedField(3, DESIGN, OWN)
    with torch.no_grad():
        network.last.weight.copy_(much / network.half * torch.randn(network.last.weight.shape))
        network.last.bias[2] = voxels / network.half
    return saved(folder, "nephi-codes", {**DESIGN.values(), "shape": list(OWN)}, network, **more)


@pytest.mark.parametrize("how", ["dense", "geodesic"])
def test_what_the_field_answers_is_where_the_map_leads(tmp_path: Path, how: str) -> None:
    model = made(tmp_path / "model", SHIFT, 0.0)
    result = registered(model, "nephi-codes", as_geodesic=how == "geodesic")
    assert result.metrics["mean_dice_after"] > 0.95 > 0.8 > result.metrics["mean_dice_before"]
    assert result.deformation.timed == (how != "dense")
    labels = subject(4, *((30, 34, 28), SPACING))[1]
    points = labels.grid.index_to_physical(np.argwhere(labels.data > 0))
    there = result.deformation.points(points, "fixed_to_moving")
    tolerance = {"dense": 0.01, "geodesic": 0.25}[how] * SPACING
    assert np.median(np.linalg.norm(there - points - [SHIFT * SPACING, 0, 0], axis=-1)) < tolerance
    back = np.linalg.norm(result.deformation.points(there, "moving_to_fixed") - points, axis=-1)
    assert back.max() < 0.1 * SPACING


def test_codes_are_fitted_by_the_loss_of_the_training_and_the_model_stays_as_it_was(tmp_path: Path) -> None:
    found = predictor_of(load_model(made(tmp_path / "model", SHIFT - 1, 1.0)))
    problem = problem_of(found)
    pair = problem.pair()
    weights = {name: value.clone() for name, value in found.network.state_dict().items()}
    before = found.displacements(problem, pair, lambda: False)[0]
    fitted, done = found.fitted(problem, "cpu", 20, lambda *_: None, lambda: False)
    assert done.ending == "bound"
    assert done.history[-1]["energy"] < 0.9 * done.history[0]["energy"]
    after = fitted.displacements(problem, pair, lambda: False)[0]
    assert float((after - before).abs().max()) > 0.1 * float(before.abs().max())
    for name, value in found.network.state_dict().items():
        assert torch.equal(value, weights[name]), name
    again, _ = found.fitted(problem, "cpu", 20, lambda *_: None, lambda: False)
    assert torch.equal(again.displacements(problem, pair, lambda: False)[0], after)
    unfitted, _ = found.fitted(problem, "cpu", 20, lambda *_: None, lambda: True)
    assert torch.equal(unfitted.displacements(problem, pair, lambda: False)[0], before)
    with pytest.raises(Cancelled):
        found.displacements(problem, pair, lambda: True)


def test_the_steps_are_taken_and_told_when_a_pair_is_registered(tmp_path: Path) -> None:
    model, told = made(tmp_path / "model", SHIFT - 1, 1.0), []
    fixed, moving = (side.image for side in moved())
    parameters = Parameters(method="nephi-codes", model=str(model), initial_alignment="none", instance_steps=10)
    result = register(
        fixed, moving, parameters, threads=1, device="cpu", progress=lambda event: told.append(event.get("message", ""))
    )
    assert sum(text.startswith("Instance optimization, step") for text in told) == 11
    energies = [record["energy"] for record in result.history if record["level"] == 0]
    assert energies[-1] < energies[0]


def test_a_model_of_another_design_and_images_too_small_are_refused(tmp_path: Path) -> None:
    good = made(tmp_path / "model", SHIFT, 0.0)
    other = tmp_path / "other"
    network = CodedField(3, DESIGN, OWN)
    saved(other, "nephi-codes", {**DESIGN.values(), "width": 20, "shape": list(OWN)}, network)
    with pytest.raises(InputError, match="other"):
        predictor_of(load_model(other))
    saved(tmp_path / "none", "nephi-codes", {**DESIGN.values(), "channels": [1], "shape": list(OWN)}, network)
    with pytest.raises(InputError, match="describes no predictor"):
        predictor_of(load_model(tmp_path / "none"))
    with pytest.raises(InputError, match="is one of nephi-codes, not of gradicon"):
        plan(Parameters(method="gradicon", model=str(good)), 3)
    found = predictor_of(load_model(good))
    problem = SimpleNamespace(grid=SimpleNamespace(spacing=np.full(3, SPACING)))
    with pytest.raises(InputError, match=r"needs more than 15 voxels .* Choose another model or method"):
        found.seen(problem, SimpleNamespace(fixed=torch.zeros(12, 30, 30)))


def test_what_the_memory_cannot_hold_is_refused_with_what_helps(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(memory, "free_bytes", lambda: 1 << 20)
    with pytest.raises(InputError, match=r"Instance optimization needs about .* or crop the images"):
        registered(made(tmp_path / "a", SHIFT), "nephi-codes", instance_steps=2)
