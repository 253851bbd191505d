# SPDX-License-Identifier: Apache-2.0
"""Models are installed whole or not at all, with a record of their source, and removed as easily."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import pickle
import shutil
from pathlib import Path
from typing import Any

import made_models
import pytest
from DeepFLASHRegistrationLib.methods import installing
from DeepFLASHRegistrationLib.methods.installing import RECORD, install, offered, record_of, remove
from DeepFLASHRegistrationLib.methods.trained_models import (
    BUNDLED,
    CARD,
    CONFIG,
    WEIGHTS,
    find_models,
    load_model,
    model_config,
    read_card,
)
from DeepFLASHRegistrationLib.support.errors import InputError


@pytest.fixture(autouse=True)
def user_models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("DEEPFLASH_MODELS", str(tmp_path / "user" / "models"))
    return tmp_path / "user" / "models"


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return made_models.make(tmp_path / "trained")


def installed(source: Path, **more: Any) -> Path:
    with offered(source) as offer:
        return install(offer, **more)


def test_an_offer_says_what_is_decided_on_and_installs_nothing(model: Path, tmp_path: Path, user_models: Path) -> None:
    archive = made_models.pack(model, tmp_path / "m.zip")
    with offered(archive) as offer:
        assert offer.config == model_config(model)
        assert offer.bytes == sum((model / name).stat().st_size for name in (CONFIG, WEIGHTS))
        assert offer.fetched.sha256 == hashlib.sha256(archive.read_bytes()).hexdigest()
        assert offer.weights == 12
        kept = offer.fetched.folder
    assert not user_models.exists()
    assert not kept.exists()


@pytest.mark.parametrize("packed", [False, True])
def test_what_was_installed_is_found_by_its_name_with_its_source(
    model: Path, tmp_path: Path, user_models: Path, packed: bool
) -> None:
    source = made_models.pack(model, tmp_path / "m.zip", "deep/er/") if packed else model
    folder = installed(source)
    assert folder == user_models / "ellipsoids"
    assert sorted(os.listdir(folder)) == sorted([CONFIG, WEIGHTS, CARD, RECORD])
    found = load_model("ellipsoids")
    assert found.folder == folder
    assert found.config == model_config(model)
    assert read_card("ellipsoids") == read_card(model)
    record = record_of(folder)
    hashed = source if packed else model / CONFIG
    assert record["sha256"] == hashlib.sha256(hashed.read_bytes()).hexdigest()
    assert (record["source"], record["sha256_of"]) == (str(source), "archive" if packed else CONFIG)
    assert os.listdir(user_models) == ["ellipsoids"]


def test_another_sha256_is_refused(model: Path, user_models: Path) -> None:
    right = hashlib.sha256((model / CONFIG).read_bytes()).hexdigest()
    with offered(model, f"sha256:{right.upper()}"):
        pass
    with pytest.raises(InputError, match="do not install it, and ask who published it"), offered(model, "0" * 64):
        pass
    with pytest.raises(InputError, match="is no SHA-256"), offered(model, right[:-1]):
        pass
    assert not user_models.exists()


def test_a_model_is_replaced_only_if_that_is_asked_for(model: Path, tmp_path: Path) -> None:
    folder = installed(model)
    (folder / "notes.txt").write_text("mine")
    before = load_model("ellipsoids").checksum
    other = made_models.make(tmp_path / "other", seed=1)
    with pytest.raises(InputError, match=r"a model of this name is installed. Replace it \(--replace\)"):
        installed(other)
    assert load_model("ellipsoids").checksum == before
    installed(other, replace=True)
    assert load_model("ellipsoids").checksum == load_model(other).checksum != before
    assert record_of(folder)["source"] == str(other)
    assert (folder / "notes.txt").read_text() == "mine"
    assert installed(model, name="second").name == "second"
    assert load_model("second").checksum == before


def test_names_that_differ_in_case_alone_are_one_name(model: Path) -> None:
    installed(model)
    for name in ("Ellipsoids", "ELLIPSOIDS"):
        with pytest.raises(InputError, match="is installed"):
            installed(model, name=name)
    with pytest.raises(InputError, match="is the name of a model that comes along"):
        installed(model, name="Brain", replace=True)


@pytest.mark.parametrize("name", ["../out", "a/b", "a b", ".hidden", "con", "LPT1", "auto", "install", "x" * 81])
def test_what_is_no_name_is_refused(model: Path, user_models: Path, name: str) -> None:
    with pytest.raises(InputError, match="Choose another one"):
        installed(model, name=name)
    assert not user_models.exists()


def test_what_lies_in_the_way_is_left_alone(model: Path, user_models: Path) -> None:
    (user_models / "ellipsoids").mkdir(parents=True)
    (user_models / "ellipsoids" / "data").write_text("mine")
    for replace in (False, True):
        with pytest.raises(InputError, match="is there already, and holds no model"):
            installed(model, replace=replace)
    assert os.listdir(user_models / "ellipsoids") == ["data"]


def test_a_bundled_name_is_never_taken(tmp_path: Path) -> None:
    bundled = shutil.copytree(BUNDLED / "hippocampus", tmp_path / "copy")
    for replace in (False, True):
        with pytest.raises(InputError, match="is the name of a model that comes along"):
            installed(bundled, replace=replace)
    assert installed(bundled, name="hippocampus-2").name == "hippocampus-2"


def test_weights_that_were_half_copied(model: Path, tmp_path: Path, user_models: Path) -> None:
    data = (model / WEIGHTS).read_bytes()
    (model / WEIGHTS).write_bytes(data[: len(data) // 2])
    for source in (model, made_models.pack(model, tmp_path / "m.zip")):
        with pytest.raises(InputError, match=r"the checksum of its weights is wrong.*[Cc]opy it again") as error:
            installed(source)
        assert str(source) in str(error.value)
        assert "deepflash-model-" not in str(error.value)  # where it was unpacked tells nobody anything
    assert not user_models.exists()


@pytest.mark.parametrize("change", [{"format": 2}, {"pose": {"of": "a later version"}}])
def test_a_model_of_a_newer_version(model: Path, change: dict[str, Any]) -> None:
    made_models.rewrite(model, lambda values: values.update(change))
    with pytest.raises(InputError, match="If it is of a newer version of DeepFLASH, update this one"):
        installed(model)


class _Trap:
    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, ("executed",)


def test_hostile_weights_are_not_executed(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (model / WEIGHTS).write_bytes(pickle.dumps(_Trap()))
    made_models.rewrite(model, lambda values: None)
    with pytest.raises(InputError, match=r"damaged, or no .safetensors file"):
        installed(model)
    assert not (tmp_path / "executed").exists()


def test_a_card_that_says_something_else_is_not_taken_over(model: Path, user_models: Path) -> None:
    (model / CARD).write_text("# For every clinic, free of any license")
    installed(model)
    assert "every clinic" not in read_card("ellipsoids")


def test_a_full_disk_leaves_nothing_or_what_was_there(
    model: Path, tmp_path: Path, user_models: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copyfile = installing.shutil.copyfile

    def full(source: Path, to: Path) -> None:
        copyfile(source, to)
        if to.name == WEIGHTS and "partial" in str(to):
            raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(installing.shutil, "copyfile", full)
    with pytest.raises(OSError, match="the disk is full"):
        installed(model)
    assert not user_models.exists()
    monkeypatch.setattr(installing.shutil, "copyfile", copyfile)
    folder = installed(model)
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    monkeypatch.setattr(installing.shutil, "copyfile", full)
    with pytest.raises(OSError, match="the disk is full"):
        installed(made_models.make(tmp_path / "other", seed=1), replace=True)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


def test_a_folder_that_cannot_be_written(model: Path, user_models: Path) -> None:
    user_models.parent.mkdir()
    user_models.write_text("a file")
    with pytest.raises(InputError, match=r"because .* is a file"):
        installed(model)


def test_a_model_is_removed_and_nothing_else(model: Path, user_models: Path) -> None:
    folder = installed(model)
    installed(model, name="other")
    assert remove("ellipsoids") == []
    assert os.listdir(user_models) == ["other"]
    (user_models / "other" / "checkpoint").write_text("mine")
    assert remove("other") == ["checkpoint"]
    assert os.listdir(user_models / "other") == ["checkpoint"]
    assert not any(not found.bundled for found in find_models())
    assert not folder.exists()


def test_a_damaged_model_and_a_link_can_be_removed(model: Path, user_models: Path) -> None:
    folder = installed(model)
    (folder / CONFIG).write_text("{")
    assert remove("ellipsoids") == []
    (user_models).mkdir(exist_ok=True)
    (user_models / "linked").symlink_to(model)
    assert remove("linked") == []
    assert (model / CONFIG).exists()


@pytest.mark.parametrize(
    ("name", "message"),
    [("hippocampus", "comes along, and cannot be removed"), ("no-such", "no model of this name"), ("..", "no model")],
)
def test_what_cannot_be_removed(user_models: Path, name: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        remove(name)
    assert load_model("hippocampus")


def test_records_of_others_are_read_as_none(model: Path) -> None:
    assert record_of(model) == {}
    for text in ("{", "[]", '{"source": 3}'):
        (model / RECORD).write_text(text)
        assert record_of(model) == {}
    assert json.loads((installed(model) / RECORD).read_text())["installed"]
