# SPDX-License-Identifier: Apache-2.0
"""Model files: what was saved is read again, and nothing that is damaged, foreign or hostile."""

from __future__ import annotations

import dataclasses
import errno
import hashlib
import json
import os
import pickle
import shutil
import struct
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from DeepFLASHRegistrationLib.methods import trained_models as models
from DeepFLASHRegistrationLib.methods.trained_models import (
    CARD,
    CONFIG,
    WEIGHTS,
    ModelConfig,
    find_models,
    load_model,
    model_config,
    read_card,
    save_model,
)
from DeepFLASHRegistrationLib.problem.parameters import Parameters
from DeepFLASHRegistrationLib.support.errors import InputError

RNG = np.random.default_rng(0)
ARRAYS = {"first.weight": RNG.normal(size=(4, 3, 3)).astype(np.float32), "steps": np.array([2, 1], dtype=np.int64)}
SETTINGS: dict[str, Any] = {
    "name": "test-model",
    "kind": "unrolled",
    "architecture": {"stages": [{"steps": 2, "channels": [8, 16]}]},
    "parameters": Parameters(similarity="ncc", resolutions=(2, 1), bands=(7, 9), iterations=(3, 3)),
    "ndim": 3,
    "unit_mm": 1.25,
    "spacing_mm": 1.0,
    "extent_mm": (20.0, 60.0),
    "energy": (0.4, 0.05),
    "description": "Ellipsoids of formulas.",
    "training_data": "40 synthetic ellipsoids",
    "license": "CC BY-SA 4.0",
    "license_note": "Not for commercial use.",
    "attribution": "Nobody | in particular",
    "limits": "It has seen ellipsoids alone.",
    "held_out": {"Dice": 0.75123, "folds": 0},
    "contrast": "alike",
    "posed": False,
    "trained": "a minute on one processor core",
    "versions": {"torch": "2.9"},
    "noncommercial": True,
}
CONFIGURED = ModelConfig(**SETTINGS)


@pytest.fixture(autouse=True)
def user_models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "user"
    folder.mkdir()
    monkeypatch.setenv("DEEPFLASH_MODELS", str(folder))
    return folder


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return save_model(tmp_path / "model", CONFIGURED, ARRAYS)


def rewrite(model: Path, change: Callable[[dict[str, Any]], None]) -> None:
    """Changes model.json as somebody would who knows how its checksums are made."""
    values = json.loads((model / CONFIG).read_text())
    checksums = values.pop("checksums")
    change(values)
    checksums["config"] = hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()
    checksums["weights"] = hashlib.sha256((model / WEIGHTS).read_bytes()).hexdigest()
    (model / CONFIG).write_text(json.dumps({**values, "checksums": checksums}))


def replace_weights(model: Path, data: bytes) -> None:
    (model / WEIGHTS).write_bytes(data)
    rewrite(model, lambda values: None)


# ------------------------------------------------------------------------------------------------- there and back


def test_there_and_back(model: Path) -> None:
    found = load_model(model)
    assert sorted(os.listdir(model)) == sorted([CONFIG, WEIGHTS, CARD])
    assert found.folder == model
    assert found.checksum == hashlib.sha256((model / WEIGHTS).read_bytes()).hexdigest()
    for f in dataclasses.fields(ModelConfig):
        if f.name not in ("versions", "mean_image"):
            assert getattr(found.config, f.name) == SETTINGS[f.name], f.name
    assert set(found.config.versions) == {"torch", "deepflash-registration", "python", "numpy"}
    assert {k: v.dtype for k, v in found.arrays.items()} == {k: v.dtype for k, v in ARRAYS.items()}
    assert all((found.arrays[name] == value).all() for name, value in ARRAYS.items())
    found.check_shapes({"first.weight": (4, 3, 3), "steps": (2,)})


def test_a_model_saved_before_searches_could_be_chosen_keeps_the_one_there_was(model: Path) -> None:
    assert load_model(model).config.parameters.search == Parameters().search
    rewrite(model, lambda values: values["parameters"].pop("search"))
    assert load_model(model).config.parameters == dataclasses.replace(SETTINGS["parameters"], search="lbfgs")


def test_a_model_saved_before_licenses_were_told_by_a_flag_is_told_by_its_license(model: Path) -> None:
    def older(license_: str, note: str) -> Callable[[dict[str, Any]], None]:
        def change(values: dict[str, Any]) -> None:
            values.pop("noncommercial", None)
            values.update(license=license_, license_note=note)

        return change

    for license_, note, noncommercial in (
        ("CC BY-NC 4.0", "", True),
        ("CC-BY-NC-SA-4.0", "", True),
        ("not stated", "Not for commercial use: trained on data of others.", True),
        ("For non-commercial research", "", True),
        ("CC BY-SA 4.0", "Derived from data under CC BY-SA 4.0: share alike, and give credit.", False),
        ("Apache-2.0", "", False),
        ("INCOMPLETE", "", False),
    ):
        rewrite(model, older(license_, note))
        found = load_model(model).config
        assert found.noncommercial == noncommercial, license_


def test_a_license_that_excludes_commercial_use_is_not_overruled_by_the_flag() -> None:
    assert ModelConfig(**{**SETTINGS, "license": "CC BY-NC 4.0", "noncommercial": False}).noncommercial
    assert {found.name for found in find_models() if found.config.noncommercial} == {"brain-t1"}


def test_the_card_says_what_a_user_must_know(model: Path) -> None:
    card = read_card(model)
    for text in ("# test-model", "**Not for commercial use.**", "CC BY-SA 4.0", "| Dice | 0.7512 |", "38 weights"):
        assert text in card, text
    assert "Nobody \\| in particular" in card
    assert "## Limits\n\nIt has seen ellipsoids alone." in card
    assert model_config(model).license_note == "Not for commercial use."


def test_a_model_is_replaced_and_other_files_stay(model: Path) -> None:
    (model / "checkpoint").write_text("mine")
    save_model(model, CONFIGURED, {"other": np.zeros(3, np.float32)})
    assert set(load_model(model).arrays) == {"other"}
    assert sorted(os.listdir(model)) == sorted([CONFIG, WEIGHTS, CARD, "checkpoint"])


def test_a_failure_while_replacing_leaves_the_model_as_it_was(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = {name: (model / name).read_bytes() for name in os.listdir(model)}

    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as broken:
        broken.setattr(models, "_write_text", full)
        with pytest.raises(OSError, match="the disk is full"):
            save_model(model, CONFIGURED, {"other": np.zeros(3, np.float32)})
    monkeypatch.setattr(models, "model_card", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        save_model(model, CONFIGURED, {"other": np.zeros(3, np.float32)})
    assert {name: (model / name).read_bytes() for name in os.listdir(model)} == before
    assert sorted(os.listdir(model.parent)) == ["model", "user"]


def test_weights_that_diverged_are_not_saved(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="has diverged"):
        save_model(tmp_path / "model", CONFIGURED, {"a": np.array([1, np.nan], np.float32)})
    assert os.listdir(tmp_path) == ["user"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"name": "../evil"}, "name '../evil' is not made of letters"),
        ({"kind": "transformer"}, "kind 'transformer' is unknown; known are unrolled"),
        ({"ndim": 4}, "4 dimensions"),
        ({"ndim": True}, "ndim is of the wrong kind"),
        ({"unit_mm": 0.0}, "lengths are out of range"),
        ({"extent_mm": (60.0, 20.0)}, "statistics are out of range"),
        ({"energy": (float("nan"), 1.0)}, "energy is of the wrong kind"),
        ({"license": ""}, "license is missing"),
        ({"versions": {"torch": 2}}, "versions is of the wrong kind"),
        ({"description": "harmless\x1b[2K\rLicense: CC0"}, "description holds control characters"),
        ({"license": "CC BY-\u202eCN\u202c"}, "license holds control characters"),
        ({"held_out": {"Dice\x07": 1}}, "held_out holds control characters"),
        ({"noncommercial": 1}, "noncommercial is of the wrong kind"),
        ({"name": "auto"}, "stands for something else"),
    ],
)
def test_configs_that_make_no_sense(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ModelConfig(**{**SETTINGS, **change})


# ---------------------------------------------------------------------------------------------------------- finding


def test_models_are_found_by_name(user_models: Path, model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bundled = user_models.parent / "bundled"
    monkeypatch.setattr(models, "BUNDLED", bundled)
    assert find_models() == []
    shutil.copytree(model, bundled / "brain")
    shutil.copytree(model, user_models / "mine")
    shutil.copytree(model, user_models / "brain")
    shutil.copytree(model, user_models / "damaged")
    (user_models / "damaged" / CONFIG).write_text("{")
    (user_models / "nothing").mkdir()
    found = find_models()
    assert [(f.name, f.bundled, bool(f.problem)) for f in found] == [
        ("brain", True, False),
        (str(user_models / "brain"), False, True),
        ("damaged", False, True),
        ("mine", False, False),
    ]
    assert load_model("mine").folder == user_models / "mine"
    assert load_model("brain").folder == bundled / "brain"
    assert load_model(found[1].name).folder == user_models / "brain"
    with pytest.raises(InputError, match=r"There is no model 'brian'\. Known are: brain"):
        load_model("brian")


def test_a_folder_in_the_way_of_a_name(user_models: Path, model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A data folder may be called what the model trained on it is called."""
    shutil.copytree(model, user_models / "hip")
    (user_models.parent / "work" / "hip").mkdir(parents=True)
    monkeypatch.chdir(user_models.parent / "work")
    assert load_model("hip").folder == user_models / "hip"
    with pytest.raises(InputError, match="holds no model"):
        load_model("./hip")


@pytest.mark.parametrize("name", ["", "no-such", "/no/such/folder", "a\0b"])
def test_no_such_model(name: str) -> None:
    with pytest.raises(InputError, match="There is no model"):
        load_model(name)


def test_bundled_models_lie_in_the_package() -> None:
    """Where both the wheel and Slicer's lists carry them."""
    package = Path(models.__file__).parents[1]
    assert package.name == "DeepFLASHRegistrationLib"
    assert package / "methods" / "models" == models.BUNDLED
    for found in find_models():
        assert not found.problem
        assert load_model(found.name).config.name == found.name


# ---------------------------------------------------------------------------------------------------------- bad files


@pytest.mark.parametrize("name", [CONFIG, WEIGHTS])
def test_a_missing_file(model: Path, name: str) -> None:
    (model / name).unlink()
    with pytest.raises(InputError, match="missing"):
        load_model(model)


@pytest.mark.parametrize("name", [CONFIG, WEIGHTS])
def test_every_flipped_bit_is_noticed(model: Path, name: str) -> None:
    path = model / name
    whole = path.read_bytes()
    for at in range(0, len(whole), max(1, len(whole) // 60)):
        damaged = bytearray(whole)
        damaged[at] ^= 1 << at % 8
        path.write_bytes(damaged)
        try:
            found = load_model(model)
        except InputError:
            continue
        # White space of JSON may change its kind.
        assert name == CONFIG
        assert found.config == load_model(save_model(model.parent / "again", CONFIGURED, ARRAYS)).config


@pytest.mark.parametrize("name", [CONFIG, WEIGHTS])
def test_a_truncated_file(model: Path, name: str) -> None:
    whole = (model / name).read_bytes()
    for length in (0, 1, 7, 8, 9, 100, len(whole) // 2, len(whole) - 3):
        (model / name).write_bytes(whole[:length])
        with pytest.raises(InputError):
            load_model(model)


def test_the_wrong_checksum_is_named(model: Path) -> None:
    data = bytearray((model / WEIGHTS).read_bytes())
    data[-1] ^= 1
    (model / WEIGHTS).write_bytes(data)
    with pytest.raises(InputError, match=r"this model cannot be used \(the checksum of its weights is wrong"):
        load_model(model)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("format", 2, "its format is 2, not 1: another version wrote it"),
        ("kind", "transformer", "kind 'transformer' is unknown"),
        ("ndim", 5, "5 dimensions"),
        ("unit_mm", "1", "unit_mm is of the wrong kind"),
        ("unit_mm", 10**400, "too large"),
        ("extent_mm", 3, "not iterable"),
        ("architecture", [1], "architecture is of the wrong kind"),
        ("parameters", {"bands": [8], "resolutions": [1], "iterations": [1]}, "bands must be odd"),
        ("parameters", {"magic": 1}, "Unknown parameter 'magic'"),
        ("parameters", 7, "cannot be used"),
        ("secret", 1, "its entry 'secret' is missing or unknown"),
        ("license", None, "license is of the wrong kind"),
        ("name", "x" * 10_000, "is not made of letters"),
    ],
    ids=range(13),
)
def test_what_is_not_known_is_refused(model: Path, key: str, value: Any, message: str) -> None:
    rewrite(model, lambda values: values.update({key: value}))
    with pytest.raises(InputError, match=message) as error:
        load_model(model)
    assert len(str(error.value)) < 600


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"null",
        b"[]",
        b'{"format": 1}',
        b'{"format": NaN}',
        b'{"format": 1, "checksums": {"weights": 1}}',
        b"[" * 100_000,
        b'{"a":' * 50_000,
        b" " * (1 << 20) + b"{}",
        b"\xff\xfe\x00",
    ],
    ids=range(10),
)
def test_a_hostile_config(model: Path, text: bytes) -> None:
    (model / CONFIG).write_bytes(text)
    with pytest.raises(InputError):
        load_model(model)


class _Trap:
    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, ("executed",)


def test_a_pickle_in_the_place_of_weights_is_not_executed(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    replace_weights(model, pickle.dumps(_Trap()))
    with pytest.raises(InputError, match=r"is damaged, or no .safetensors file"):
        load_model(model)
    assert not (tmp_path / "executed").exists()


@pytest.mark.parametrize(
    "header",
    [
        {"a": {"dtype": "F32", "shape": [1 << 30, 1 << 9], "data_offsets": [0, 1 << 41]}},
        {"a": {"dtype": "F32", "shape": [1 << 39], "data_offsets": [0, 8]}},
        {
            "a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]},
            "b": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]},
        },
        {"a": {"dtype": "F16", "shape": [4], "data_offsets": [0, 8]}},
    ],
    ids=["huge", "unlike its size", "overlapping", "other type"],
)
def test_hostile_weights_take_no_memory(model: Path, header: dict[str, Any]) -> None:
    text = json.dumps(header).encode()
    replace_weights(model, struct.pack("<Q", len(text)) + text + bytes(8))
    tracemalloc.start()
    try:
        with pytest.raises(InputError):
            load_model(model)
        assert tracemalloc.get_traced_memory()[1] < 8_000_000
    finally:
        tracemalloc.stop()


def test_weights_of_other_shapes(model: Path, tmp_path: Path) -> None:
    other = save_model(tmp_path / "other", CONFIGURED, {"a": np.zeros(2, np.float32)})
    replace_weights(model, (other / WEIGHTS).read_bytes())
    with pytest.raises(InputError, match="do not have the shapes that it names"):
        load_model(model)
    found = load_model(other)
    for expected in ({"a": (3,)}, {}, {"a": (2,), "b": (1,)}):
        with pytest.raises(InputError, match="the weights do not fit its architecture"):
            found.check_shapes(expected)


def test_weights_that_are_not_finite(model: Path, tmp_path: Path) -> None:
    from DeepFLASHRegistrationLib.support.tensors import write_tensors

    write_tensors(tmp_path / "w", {**ARRAYS, "first.weight": np.full((4, 3, 3), np.inf, np.float32)}, {})
    replace_weights(model, (tmp_path / "w").read_bytes())
    with pytest.raises(InputError, match=r"weights first.weight are not finite"):
        load_model(model)


def test_another_dimension(model: Path) -> None:
    assert load_model(model, 3).config.ndim == 3
    with pytest.raises(InputError, match="test-model is for 3-D images, not 2-D ones"):
        load_model(model, 2)
