# SPDX-License-Identifier: Apache-2.0
"""Consent to licenses for non-commercial use: kept once given, never taken for granted."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from DeepFLASHRegistrationLib.methods import consent
from DeepFLASHRegistrationLib.methods.consent import accept_noncommercial, noncommercial_accepted, settings_file
from DeepFLASHRegistrationLib.support.errors import InputError
from DeepFLASHRegistrationLib.support.file_lock import try_lock


@pytest.fixture(autouse=True)
def user_models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("DEEPFLASH_MODELS", str(tmp_path / "user"))
    return tmp_path / "user"


def test_an_answer_is_kept_and_can_be_changed(user_models: Path) -> None:
    assert noncommercial_accepted() is None
    assert accept_noncommercial() == user_models / "settings.json"
    assert noncommercial_accepted() is True
    accept_noncommercial(False)
    assert noncommercial_accepted() is False
    assert [path.name for path in user_models.iterdir()] == ["settings.json"]


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "null", '{"noncommercial": true}', '{"noncommercial": {"accepted": 1}}']
)
def test_what_cannot_be_read_is_no_consent(user_models: Path, text: str) -> None:
    user_models.mkdir()
    settings_file().write_text(text)
    assert noncommercial_accepted() is None
    accept_noncommercial()
    assert noncommercial_accepted() is True


def test_what_else_stands_in_the_file_stays() -> None:
    accept_noncommercial()
    values = json.loads(settings_file().read_text())
    settings_file().write_text(json.dumps({**values, "later": [1]}))
    accept_noncommercial(False)
    assert json.loads(settings_file().read_text())["later"] == [1]


def test_writers_wait_for_each_other(user_models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    user_models.mkdir()
    lock = try_lock(user_models / ".settings.json.lock")
    monkeypatch.setattr(consent, "_WAIT_SECONDS", 0.1)
    with pytest.raises(InputError, match="another program has held this"):
        accept_noncommercial()
    lock.release()
    accept_noncommercial()
    code = (
        "from DeepFLASHRegistrationLib.methods.consent import accept_noncommercial as a; [a(True) for i in range(20)]"
    )
    path = str(Path(consent.__file__).parents[2])
    started = [subprocess.Popen([sys.executable, "-c", code], cwd=path) for _ in range(3)]
    assert [each.wait(60) for each in started] == [0, 0, 0]
    assert noncommercial_accepted() is True
    assert [each.name for each in user_models.iterdir()] == ["settings.json"]


def test_an_answer_that_cannot_be_kept_is_told(user_models: Path) -> None:
    user_models.write_text("a file")
    with pytest.raises(InputError, match="your answer cannot be kept"):
        accept_noncommercial()
