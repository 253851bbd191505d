# SPDX-License-Identifier: Apache-2.0
"""Trained networks whose answer is a map, at work in register(): as it is, as a geodesic, and refined."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from DeepFLASHRegistrationLib.learning import voxelmorph
from DeepFLASHRegistrationLib.methods.choosing import preferred
from DeepFLASHRegistrationLib.methods.stages import stages
from DeepFLASHRegistrationLib.problem.parameters import Parameters
from DeepFLASHRegistrationLib.support.errors import InputError
from map_models import SHAPE, SHIFT, SPACING, registered, saved
from training_images import subject

pytest.importorskip("monai")


def shifting(folder: Path, voxels: float, **more: object) -> Path:
    """VoxelMorph's small network with one velocity along the last axis, whatever it sees."""
    channels, last, block = voxelmorph.SIZES["small"]
    network = voxelmorph.VoxelMorphNet(3, channels, last, block)
    *_, weight, bias = network.parameters()
    with torch.no_grad():
        weight.zero_()
        bias.copy_(torch.tensor([0, 0, voxels / 2]))
    return saved(
        folder, "voxelmorph", {"channels": list(channels), "last": list(last), "block": block}, network, **more
    )


@pytest.mark.parametrize("how", ["dense", "geodesic", "refined"])
def test_what_the_network_answers_is_where_the_map_leads(tmp_path: Path, how: str) -> None:
    model = shifting(tmp_path / "model", SHIFT)
    method = "voxelmorph+flash" if how == "refined" else "voxelmorph"
    result = registered(model, method, as_geodesic=how == "geodesic", refinement=2)
    assert result.metrics["mean_dice_after"] > 0.95 > 0.8 > result.metrics["mean_dice_before"]
    assert result.metrics["folds_strict"]["count"] == 0
    assert result.deformation.timed == (how != "dense")
    _, labels = subject(4, SHAPE, SPACING)
    inside = np.argwhere(labels.data > 0)
    points = labels.grid.index_to_physical(inside)
    there = result.deformation.points(points, "fixed_to_moving")
    shift = there - points  # the last axis is x
    if how != "refined":  # FLASH goes by what is seen
        tolerance = {"dense": 1e-3, "geodesic": 0.25 * SPACING}[how]
        assert np.median(np.linalg.norm(shift - [SHIFT * SPACING, 0, 0], axis=-1)) < tolerance
    back = result.deformation.points(there, "moving_to_fixed")
    assert np.linalg.norm(back - points, axis=-1).max() < 0.1 * SPACING
    levels = {record["level"] for record in result.history}
    assert levels == {"dense": {0}, "geodesic": {0, 1, 2, 3}, "refined": {0, 1, 2, 3, 4}}[how]
    # What is on the working grid does not depend on the form of the answer.
    assert all(n % voxelmorph.MULTIPLE == 0 for n in result.velocity["domain"].shape)


def test_a_prediction_that_is_worse_than_nothing_is_dropped_with_a_word(tmp_path: Path) -> None:
    result = registered(shifting(tmp_path / "model", -SHIFT), "voxelmorph")
    assert "did not make the images more alike, and was dropped" in " ".join(map(str, result.verdict.reasons))
    assert result.metrics["mean_dice_after"] == pytest.approx(result.metrics["mean_dice_before"])
    assert not result.velocity["forth"].any()


def test_a_network_that_overflows_is_dropped_too(tmp_path: Path) -> None:
    result = registered(shifting(tmp_path / "model", 6e4), "voxelmorph")
    assert "was dropped" in " ".join(map(str, result.verdict.reasons))
    assert np.isfinite(result.velocity["forth"]).all()


def test_a_model_of_another_method_is_refused_before_the_work(tmp_path: Path) -> None:
    model = shifting(tmp_path / "model", SHIFT)
    for method in ("deepflash", "quicksilver", "deepflash+flash"):
        with pytest.raises(InputError, match=r"is one of voxelmorph, not of \w+\. Choose the method voxelmorph"):
            registered(model, method)
    with pytest.raises(InputError, match="is one of deepflash, not of voxelmorph"):
        stages(Parameters(method="voxelmorph", model="hippocampus"))


def test_auto_chooses_among_the_models_of_the_method(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DEEPFLASH_MODELS", str(tmp_path))
    shifting(tmp_path / "mine", SHIFT, name="mine")
    assert "mine" in [found.name for found in preferred("voxelmorph")]
    assert "mine" not in [found.name for found in preferred("deepflash")]
    assert all(found.config.method == "deepflash" for found in preferred("deepflash"))


def test_where_there_is_no_model_of_the_method_that_is_said() -> None:
    with pytest.raises(InputError, match=r"no trained model of this method here. Install one .* --method flash"):
        registered(Path("auto"), "constricon")


def test_weights_of_another_architecture_are_refused(tmp_path: Path) -> None:
    channels, last, block = voxelmorph.SIZES["small"]
    architecture = {"channels": list(channels), "last": list(last), "block": block}
    other = voxelmorph.VoxelMorphNet(3, *voxelmorph.SIZES["large"])
    with pytest.raises(InputError, match="do not fit its architecture"):
        registered(saved(tmp_path / "a", "voxelmorph", architecture, other), "voxelmorph")
    for key, value in (("block", 7), ("channels", [8]), ("last", None)):
        with pytest.raises(InputError, match="describes no predictor known here"):
            registered(saved(tmp_path / "b", "voxelmorph", architecture | {key: value}, other), "voxelmorph")


def test_without_monai_a_sentence_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = shifting(tmp_path / "model", SHIFT)
    monkeypatch.setitem(sys.modules, "monai", None)
    with pytest.raises(InputError, match="pip install --no-deps monai"):
        registered(model, "voxelmorph")
