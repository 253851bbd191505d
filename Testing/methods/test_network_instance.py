# SPDX-License-Identifier: Apache-2.0
"""Trained networks fitted to a pair, and the memory that they are known to need before they begin."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from DeepFLASHRegistrationLib.learning.icon import FAMILY, Design, IconNet
from DeepFLASHRegistrationLib.methods import prediction_icon
from DeepFLASHRegistrationLib.methods.prediction import predictor_of
from DeepFLASHRegistrationLib.methods.registry import plan
from DeepFLASHRegistrationLib.methods.trained_models import load_model
from DeepFLASHRegistrationLib.problem.parameters import Parameters
from DeepFLASHRegistrationLib.registration.register import register
from DeepFLASHRegistrationLib.support import memory
from DeepFLASHRegistrationLib.support.errors import InputError
from icon_package import icon_or_skip
from map_models import SHIFT, SPACING, moved, problem_of, registered, saved

icon_or_skip()

OWN = (32, 48, 32)
COARSE = Parameters(resolutions=(4, 2, 1), bands=(7, 9, 9), iterations=(2, 2, 1), spacing_mm=8.0, margin_mm=16.0)


def made(folder: Path, kind: str, **more: object) -> Path:
    """A network that answers with the shift of the pair, and a little at random."""
    torch.manual_seed(0)
    if kind == "carl":
        more = {"attention": 4, "padding": 1, **more}
    design = Design((2, 4, 4), (4, 4), (2, 1), **more)
    network = IconNet(3, design, OWN, kind == "constricon")
    with torch.no_grad():
        for name, value in network.named_parameters():
            if "lastConv" in name:
                value.copy_(0.02 * torch.randn(value.shape) / (32 if design.stretched else 1))
        value[2] = SHIFT * SPACING / COARSE.spacing_mm  # the last of all is the bias of the last step
    return saved(folder, kind, {**design.values(), "shape": list(OWN)}, network, parameters=COARSE)


def fitted_levels(result: Any) -> list[float]:
    return [record["energy"] for record in result.history if record["level"] == 0]


@pytest.mark.parametrize("kind", [*FAMILY, "carl"])
def test_the_loss_of_the_training_falls_and_the_model_stays_as_it_was(tmp_path: Path, kind: str) -> None:
    found = predictor_of(load_model(made(tmp_path / "model", kind)))
    problem = problem_of(found)
    pair = problem.pair()
    weights = {name: value.clone() for name, value in found.network.state_dict().items()}
    before = found.displacements(problem, pair, lambda: False)[0]
    fitted, done = found.fitted(problem, "cpu", 4, lambda *_: None, lambda: False)
    assert done.ending == "bound"
    assert done.history[0]["iteration"] == 0
    assert done.history[-1]["energy"] < done.history[0]["energy"]
    after = fitted.displacements(problem, pair, lambda: False)[0]
    assert float((after - before).abs().max()) > 1e-4
    for name, value in found.network.state_dict().items():
        assert torch.equal(value, weights[name]), name
    assert torch.equal(found.displacements(problem, pair, lambda: False)[0], before)
    assert not any(each.requires_grad for net in (found, fitted) for each in net.network.parameters())
    if kind != "icon":
        return
    # The same once more; whoever draws random numbers besides gets what it would have got.
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    again, _ = found.fitted(problem, "cpu", 4, lambda *_: None, lambda: False)
    assert torch.equal(torch.rand(3), expected)
    assert torch.equal(again.displacements(problem, pair, lambda: False)[0], after)


def test_voxelmorph_goes_through_the_same_loop(tmp_path: Path) -> None:
    pytest.importorskip("monai")
    from DeepFLASHRegistrationLib.learning.voxelmorph import VoxelMorphNet

    torch.manual_seed(0)
    channels, last = (4, 4, 4, 4, 4, 4), (4, 4)
    architecture = {"channels": list(channels), "last": list(last), "block": 2}
    model = saved(
        tmp_path / "model", "voxelmorph", architecture, VoxelMorphNet(3, channels, last, 2), parameters=COARSE
    )
    energies = fitted_levels(registered(model, "voxelmorph", instance_steps=10))
    assert energies[-1] < energies[0]


@pytest.mark.parametrize("after", [0, 7])
def test_cancelled_it_leaves_the_best_so_far(tmp_path: Path, after: int) -> None:
    model, told = made(tmp_path / "model", "gradicon"), []

    def progress(event: dict[str, Any]) -> None:
        if event.get("message", "").startswith("Instance optimization, step"):
            told.append(event["message"])

    fixed, moving = (side.image for side in moved())
    parameters = Parameters(method="gradicon", model=str(model), initial_alignment="none", instance_steps=400)
    result = register(
        fixed, moving, parameters, threads=1, device="cpu", progress=progress, cancel=lambda: len(told) > after
    )
    assert result.cancelled
    assert result.metrics["levels_ended"] == ["cancelled"]
    assert len(told) == after + 1
    assert "left" in told[0]  # how long it will take is told before the first step
    level = [record["iteration"] for record in result.history if record["level"] == 0]
    assert level == ([0] if after == 0 else [0, 5])
    alone = Parameters(method="gradicon", model=str(model), initial_alignment="none")
    plain = register(fixed, moving, alone, threads=1, device="cpu")
    assert np.array_equal(result.velocity["forth"], plain.velocity["forth"]) == (after == 0)


def test_what_the_memory_cannot_hold_is_refused_with_what_helps(tmp_path: Path, monkeypatch) -> None:
    with monkeypatch.context() as scarce:
        scarce.setattr(memory, "free_bytes", lambda: 1 << 20)
        with pytest.raises(InputError, match=r"Instance optimization needs about .* or crop the images"):
            registered(made(tmp_path / "a", "gradicon"), "gradicon", instance_steps=2)
    model = made(tmp_path / "b", "gradicon", stretched=True)
    predictor_ = predictor_of(load_model(model))
    whole, less = (predictor_._pass_bytes(predictor_._shortened(n)) for n in (48, 32))
    assert less < 0.5 * whole
    monkeypatch.setattr(prediction_icon, "_LARGE", 0)
    monkeypatch.setattr(memory, "free_bytes", lambda: int(1.3 * less))
    with pytest.raises(InputError, match=r"on 32 x 48 x 32 voxels, needs .* \(--network-voxels 32 fits\)"):
        registered(model, "gradicon")
    assert registered(model, "gradicon", network_voxels=32).parameters.network_voxels == 32
    with pytest.raises(InputError, match=r"Instance optimization needs about .* \(--network-voxels 16 fits\)"):
        registered(model, "gradicon", network_voxels=32, instance_steps=2)


def test_more_is_needed_for_more_voxels_and_for_derivatives(tmp_path: Path) -> None:
    from DeepFLASHRegistrationLib.methods.network_instance import step_bytes

    found = predictor_of(load_model(made(tmp_path / "model", "gradicon", stretched=True)))
    shapes = (OWN, tuple(2 * n for n in OWN))
    passing = [found._pass_bytes(shape) for shape in shapes]
    fitting = [step_bytes(found.built, shape, found.fitting(shape)) for shape in shapes]
    assert passing[1] == pytest.approx(8 * passing[0], rel=0.1)
    assert fitting[1] == pytest.approx(8 * fitting[0], rel=0.1)
    assert fitting[0] > 3 * passing[0]


def test_a_network_with_a_grid_of_its_own_can_see_fewer_voxels(tmp_path: Path) -> None:
    model = made(tmp_path / "model", "gradicon", stretched=True)
    found = predictor_of(load_model(model))
    assert found.with_voxels(24).own == (16, 24, 16)
    assert found.own == OWN
    with pytest.raises(InputError, match=r"needs at least \d+, not 5, of the 48"):
        registered(model, "gradicon", network_voxels=5)
    with pytest.raises(InputError, match="has no grid of its own"):
        registered(made(tmp_path / "other", "icon"), "icon", network_voxels=32)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"instance_steps": 3}, "instance_steps: the method flash has no trained network"),
        ({"network_voxels": 3}, "network_voxels: the method flash has no network"),
        ({"method": "deepflash", "model": "hippocampus", "instance_steps": 3}, r"cannot be fitted .*deepflash\+flash"),
        ({"method": "deepflash", "model": "hippocampus", "network_voxels": 64}, "has no grid of its own"),
    ],
)
def test_methods_that_cannot_refuse(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError, match=said):
        plan(Parameters(**settings), 3)
