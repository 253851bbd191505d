# SPDX-License-Identifier: Apache-2.0
"""Published weights made a model: by a network of the published form, but narrow, and on a small grid."""

from __future__ import annotations

import hashlib
import os
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from DeepFLASHRegistrationLib.commands.main import main
from DeepFLASHRegistrationLib.learning import icon, unicarl
from DeepFLASHRegistrationLib.methods import converting
from DeepFLASHRegistrationLib.methods.prediction import predictor_of
from DeepFLASHRegistrationLib.methods.prediction_icon import network_of
from DeepFLASHRegistrationLib.methods.registry import Plan
from DeepFLASHRegistrationLib.methods.trained_models import load_model, read_card
from DeepFLASHRegistrationLib.problem.problem import comparable
from DeepFLASHRegistrationLib.problem.subject import Subject
from DeepFLASHRegistrationLib.support.errors import InputError
from icon_package import icon_or_skip
from map_models import moved, registered
from training_images import subject

icon_or_skip()

SHAPE = (26, 26, 26)


@pytest.fixture(autouse=True)
def narrow(monkeypatch: pytest.MonkeyPatch) -> None:
    design = icon.Design((2, 4, 4), (4, 4), icon.PUBLISHED.factors, stretched=True)
    monkeypatch.setattr(icon, "PUBLISHED", design)
    other = unicarl.UniCarlDesign(*((2, 4, 4), (4, 4), (4, 4, 1)), attention=8, padding=8, stretched=True, blurs=(3, 2))
    monkeypatch.setattr(unicarl, "PUBLISHED", other)
    monkeypatch.setattr(converting, "SHAPES", dict.fromkeys(converting.SHAPES, SHAPE))


def described(kind: str) -> dict:
    design = unicarl.PUBLISHED if kind == "unicarl" else icon.PUBLISHED
    return {**design.values(), "shape": list(SHAPE)}


def published(path: Path, kind: str = "unigradicon") -> dict[str, torch.Tensor]:
    """A file as it is published, of random weights; what is in it."""
    torch.manual_seed(5)
    net = network_of(kind, 3, described(kind)).net
    prefix = "netPsi.netPsi." if kind == "unicarl" else ""
    state = {prefix + name: value for name, value in net.state_dict().items()}
    for name, value in state.items():
        if "lastConv" in name:
            value.normal_(0, 0.01)
        elif "running_var" in name:
            value.uniform_(0.5, 2)
        elif "running_mean" in name:
            value.normal_(0, 0.1)
        elif "num_batches" in name:
            value.fill_(100000)  # in half precision it would be infinite
    torch.save(state, path)
    return state


def test_a_published_file_becomes_a_model_that_registers(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    file, model = tmp_path / "Step_2_final.trch", tmp_path / "model"
    state = published(file)
    assert next(iter(state)).startswith("netPhi.netPhi.net")
    assert list(state)[-1] == "netPsi.net.lastConv.bias"
    assert main(["models", "convert", str(file), "--kind", "unigradicon", "-o", str(model)]) == 0
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    assert f"SHA-256 of Step_2_final.trch: {digest}" in capsys.readouterr().out
    assert digest in read_card(model)
    found = load_model(model)
    assert found.config.method == found.config.kind == "unigradicon"
    network = predictor_of(found).network
    for name, value in state.items():
        assert torch.equal(network.net.state_dict()[name], value.to(network.net.state_dict()[name].dtype)), name
    result = registered(model, "unigradicon")
    assert np.isfinite(result.velocity["forth"]).all()
    assert result.velocity["forth"].shape[1:] == tuple(result.velocity["domain"].shape)
    assert result.parameters.normalization == "unigradicon"


def test_uni_carls_file_becomes_a_model_that_registers(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    file, model = tmp_path / "longleaf_unicarl_8", tmp_path / "model"
    state = published(file, "unicarl")
    assert main(["models", "convert", str(file), "--kind", "unicarl", "-o", str(model)]) == 0
    assert hashlib.sha256(file.read_bytes()).hexdigest() in capsys.readouterr().out
    found = load_model(model)
    assert found.config.method == found.config.kind == "unicarl"
    network = predictor_of(found).network
    for name, value in network.net.state_dict().items():
        assert torch.equal(value, state["netPsi.netPsi." + name].to(value.dtype)), name
    result = registered(model, "unicarl")
    assert np.isfinite(result.velocity["forth"]).all()
    assert result.parameters.normalization == "unicarl"
    # Neither passes for the other, and what is cut off for none.
    with pytest.raises(InputError, match=r"another network: .* Take Step_2_final.trch"):
        converting.convert(file, "unigradicon", tmp_path / "b")
    whole = file.read_bytes()
    file.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(InputError, match="is damaged"):
        converting.convert(file, "unicarl", tmp_path / "b")
    published(file)
    with pytest.raises(InputError, match=r"another network: .* Take longleaf_unicarl_8"):
        converting.convert(file, "unicarl", tmp_path / "b")
    assert not (tmp_path / "b").exists()


def test_uni_carl_sees_images_from_superior_to_inferior(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As its authors' program stores them: the first axis of the working grid, which ascends, is turned round."""
    file = tmp_path / "weights"
    published(file, "unicarl")
    predictor = predictor_of(load_model(converting.convert(file, "unicarl", tmp_path / "model")[0]))
    sides = [each.checked() for each in moved()]
    problem = Plan(predictor.parameters, predictor).problem(*comparable(*sides, predictor.parameters), np.eye(4))
    pair, seen = problem.pair(), []

    def answer(fixed: torch.Tensor, moving: torch.Tensor) -> torch.Tensor:
        seen.append(fixed)
        u = torch.zeros(1, 3, *SHAPE)
        u[:, :, :3] = torch.tensor([1.0, 2.0, 3.0]).view(1, 3, 1, 1, 1)  # at what it takes for the top
        return u

    monkeypatch.setattr(predictor.network, "fixed_to_moving", answer)
    forth, _ = predictor.displacements(problem, pair, lambda: False)
    axis = problem.grid.affine[:3, 0]
    assert axis[2] > 0 == abs(axis[:2]).max()  # superior in LPS
    own = torch.nn.functional.interpolate(pair.fixed[None, None], SHAPE, mode="trilinear")[0, 0]
    torch.testing.assert_close(seen[0][0].flip(0), own)
    assert not torch.allclose(seen[0][0], own)
    voxel = torch.tensor([length / n for length, n in zip(problem.lengths, SHAPE)])
    torch.testing.assert_close(forth[:, -1, 0, 0], voxel * torch.tensor([-1.0, 2.0, 3.0]))
    assert not forth[:, 0].any()


def test_its_unit_of_length_follows_the_object_and_not_the_model(tmp_path: Path) -> None:
    file = tmp_path / "weights"
    published(file)
    predictor = predictor_of(load_model(converting.convert(file, "multigradicon", tmp_path / "model", "mine")[0]))
    assert predictor.config.name == "mine"
    assert predictor.config.method == "unigradicon"
    units = []
    for spacing in (4.0, 0.4):
        sides = [Subject(subject(seed, (30, 34, 28), spacing)[0]).checked() for seed in (4, 5)]
        problem = Plan(predictor.parameters, predictor).problem(*comparable(*sides, predictor.parameters), np.eye(4))
        units.append(problem.unit_mm)
    assert units[0] == pytest.approx(10 * units[1], rel=0.1)


class Code:
    """What runs a command when it is unpickled."""

    def __init__(self, mark: Path):
        self.mark = mark

    def __reduce__(self) -> tuple:
        return os.mkdir, (str(self.mark),)


def test_a_file_with_code_in_it_is_refused_and_not_run(tmp_path: Path) -> None:
    mark, files = tmp_path / "ran", [tmp_path / "zip", tmp_path / "plain"]
    torch.save({"netPhi": Code(mark)}, files[0])
    files[1].write_bytes(pickle.dumps({"netPhi": Code(mark)}))
    for file in files:
        with pytest.raises(InputError, match="it was not run"):
            converting.convert(file, "unigradicon", tmp_path / "model")
    assert not mark.exists()
    assert not (tmp_path / "model").exists()


def test_what_holds_other_weights_or_is_cut_off_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "weights"
    state = published(file)
    whole = file.read_bytes()
    bad = {
        "is damaged": whole[: len(whole) // 2],
        "weights of another network": {k: v for k, v in state.items() if "netPsi.net.last" not in k},
        "of another network": {**state, "netPsi.net.lastConv.bias": torch.zeros(2)},
        "another network": {**state, "more": torch.zeros(2)},
        "network": [1, 2],
        "not finite": {**state, "netPsi.net.lastConv.bias": torch.full((3,), torch.nan)},
    }
    for message, content in bad.items():
        if isinstance(content, bytes):
            file.write_bytes(content)
        else:
            torch.save(content, file)
        with pytest.raises(InputError, match=message):
            converting.read_weights(str(file), str(tmp_path / "out"), "unigradicon", described("unigradicon"))
    assert not (tmp_path / "out").exists()
    with pytest.raises(InputError, match="cannot be read"):
        converting.convert(tmp_path / "missing", "unigradicon", tmp_path / "model")
    with pytest.raises(InputError, match="Known are unigradicon, multigradicon, unicarl"):
        converting.convert(file, "carl", tmp_path / "model")
    with pytest.raises(InputError, match="Choose another name"):
        converting.convert(file, "unigradicon", tmp_path / "model", "con")
