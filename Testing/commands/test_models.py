# SPDX-License-Identifier: Apache-2.0
"""deepflash models: listed, installed after consent, removed."""

from __future__ import annotations

import builtins
import hashlib
import os
import shlex
from pathlib import Path
from typing import Any

import made_models
import pytest
from command_line import run
from DeepFLASHRegistrationLib.commands import options
from DeepFLASHRegistrationLib.methods.trained_models import CONFIG, load_model


@pytest.fixture(autouse=True)
def user_models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("DEEPFLASH_MODELS", str(tmp_path / "user"))
    return tmp_path / "user"


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return made_models.make(tmp_path / "my model", license="CC BY-NC 4.0", license_note="Not for commercial use.")


def answers(monkeypatch: pytest.MonkeyPatch, answer: str | None) -> list[str]:
    """Somebody at a terminal who answers so, or whose terminal closes; what was asked."""
    asked: list[str] = []

    def reply(text: str) -> str:
        asked.append(text)
        if answer is None:
            raise EOFError
        return answer

    monkeypatch.setattr("sys.stdin.isatty", lambda: True)
    monkeypatch.setattr(builtins, "input", reply)
    return asked


def test_what_is_decided_on_is_shown_before_anything_is_asked(
    model: Path, user_models: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    asked = answers(monkeypatch, "yes")
    assert run("models", "install", model) == 0
    out = capsys.readouterr().out
    shown = out.partition("Installed in")[0]
    sha256 = hashlib.sha256((model / CONFIG).read_bytes()).hexdigest()
    for text in ("ellipsoids", "CC BY-NC 4.0", "Not for commercial use.", "0.0 MB", sha256, str(model)):
        assert text in shown
    assert asked == ["Install ellipsoids? [y/N] "]
    assert load_model("ellipsoids").folder == user_models / "ellipsoids"
    assert run("models") == 0
    out = capsys.readouterr().out
    assert f"Installed from {model}, SHA-256 {sha256}." in out


@pytest.mark.parametrize("answer", ["", "n", "nonsense", None])
def test_without_consent_nothing_is_installed(
    model: Path, user_models: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any, answer: str | None
) -> None:
    answers(monkeypatch, answer)
    assert run("models", "install", model) == 130
    assert "Nothing was installed." in capsys.readouterr().err
    assert not user_models.exists()


def test_where_nobody_can_be_asked_consent_is_an_option(
    model: Path, user_models: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    monkeypatch.setattr("sys.stdin.isatty", lambda: False)
    assert run("models", "install", model) == 2
    assert "Add --yes to agree" in capsys.readouterr().err
    assert not user_models.exists()
    assert run("models", "install", made_models.pack(model, user_models.parent / "m.zip"), "--yes") == 0
    assert load_model("ellipsoids").config.noncommercial


def test_a_taken_name_is_told_before_anybody_is_asked(
    model: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    assert run("models", "install", model, "--yes") == 0
    asked = answers(monkeypatch, "y")
    assert run("models", "install", model) == 2
    assert "--replace" in capsys.readouterr().err
    assert asked == []
    assert run("models", "install", model, "--replace") == 0
    assert run("models", "install", model, "--name", "second") == 0
    assert asked == ["Install ellipsoids? [y/N] ", "Install second? [y/N] "]


def test_another_sha256_installs_nothing(model: Path, user_models: Path, capsys: Any) -> None:
    assert run("models", "install", model, "--yes", "--sha256", "0" * 64) == 2
    assert "not what was meant" in capsys.readouterr().err
    assert not user_models.exists()


def test_a_model_is_removed(model: Path, user_models: Path, capsys: Any) -> None:
    assert run("models", "install", model, "--yes") == 0
    (user_models / "ellipsoids" / "notes").write_text("mine")
    assert run("models", "remove", "ellipsoids") == 0
    assert "Removed ellipsoids. Other files stay in its folder: notes." in capsys.readouterr().out
    assert os.listdir(user_models / "ellipsoids") == ["notes"]
    assert run("models", "remove", "ellipsoids") == 2
    assert run("models", "remove", "brain") == 2
    assert "comes along" in capsys.readouterr().err


def test_the_line_that_training_prints_installs_its_result(model: Path, capsys: Any) -> None:
    options.say_how_to_install(model)
    line = capsys.readouterr().out.partition(": ")[2]
    program, *arguments = shlex.split(line)
    assert program == "deepflash"
    assert run(*arguments, "--yes") == 0
    assert load_model("ellipsoids")
