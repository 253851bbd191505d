# SPDX-License-Identifier: Apache-2.0
"""--model auto from the command line: chosen, recorded, refused with its reasons; and the consent to licenses."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from command_line import run
from DeepFLASHRegistrationLib import register as library_register
from DeepFLASHRegistrationLib.imaging.io import write_volume
from DeepFLASHRegistrationLib.methods.consent import noncommercial_accepted
from DeepFLASHRegistrationLib.methods.trained_models import BUNDLED
from DeepFLASHRegistrationLib.problem.parameters import Parameters
from made_models import like_training

pytest.importorskip("torch")

AUTO = ["--method", "deepflash", "--model", "auto", "--threads", 1]


@pytest.fixture(autouse=True)
def user_models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("DEEPFLASH_MODELS", str(tmp_path / "user"))
    return tmp_path / "user"


@pytest.fixture
def images(tmp_path: Path) -> dict[str, Path]:
    """Two crops as the model hippocampus was trained on, and one of another contrast."""
    found = {}
    for name, seed, inverted in (("a", 0, False), ("b", 1, False), ("t2", 2, True)):
        found[name] = tmp_path / f"{name}.nii.gz"
        write_volume(found[name], like_training("hippocampus", seed, inverted))
    return found


def test_the_model_that_fits_is_used_and_recorded_with_the_reason(
    images: dict[str, Path], tmp_path: Path, capsys: Any
) -> None:
    assert run("register", images["a"], images["b"], "-o", tmp_path / "out", *AUTO) == 0
    values = json.loads((tmp_path / "out" / "result.json").read_text())
    assert values["parameters"]["model"] == "hippocampus"
    (note,) = (note for note in values["notes"] if "was chosen (auto)" in note)
    assert note.startswith("The model hippocampus was chosen (auto): it fits both images.")
    assert note in capsys.readouterr().err


def test_the_library_records_it_likewise() -> None:
    parameters = Parameters(method="deepflash", model="auto")
    result = library_register(*(like_training("hippocampus", seed) for seed in (0, 1)), parameters, threads=1)
    assert result.parameters.model == "hippocampus"
    assert sum("was chosen (auto)" in note for note in result.notes) == 1


def test_where_none_fits_nothing_is_written_and_flash_is_offered(
    images: dict[str, Path], tmp_path: Path, capsys: Any
) -> None:
    assert run("register", images["a"], images["t2"], "-o", tmp_path / "out", *AUTO) == 2
    told = capsys.readouterr().err
    assert "No trained model fits these images." in told
    assert f"hippocampus: {images['t2']} has another contrast" in told
    assert "Use --method flash" in told
    assert not (tmp_path / "out").exists()


def test_each_of_many_pairs_gets_its_own_model_or_a_reason(
    images: dict[str, Path], tmp_path: Path, capsys: Any
) -> None:
    table = tmp_path / "pairs.csv"
    table.write_text("fixed,moving,output\na.nii.gz,b.nii.gz,fits\na.nii.gz,t2.nii.gz,fits not\n")
    (tmp_path / "user").mkdir()
    shutil.copytree(BUNDLED / "brain", tmp_path / "user" / "damaged")
    (tmp_path / "user" / "damaged" / "weights.safetensors").write_bytes(b"half")
    command = ["register-many", table, "-o", tmp_path / "out", *AUTO, "--workers", 1, "--outputs", "none"]
    assert run(*command) == 3
    assert "No trained model fits these images." in capsys.readouterr().err
    with open(tmp_path / "out" / "summary.tsv", encoding="utf-8", newline="") as file:
        rows = {row["output"]: row for row in csv.DictReader(file, delimiter="\t")}
    values = json.loads((tmp_path / "out" / "fits" / "result.json").read_text())
    assert values["parameters"]["model"] == "hippocampus"
    assert len(rows) == 2
    assert run(*command) == 3
    assert "1 of 2 pairs were done before." in capsys.readouterr().out


def test_a_consent_is_an_option_and_kept(images: dict[str, Path], tmp_path: Path, capsys: Any) -> None:
    pair = [images["a"], images["t2"], "-o", tmp_path / "out", *AUTO]
    assert noncommercial_accepted() is None
    run("register", *pair, "--accept-noncommercial")
    assert noncommercial_accepted() is True
    assert "you have agreed to licenses that exclude commercial use; kept in" in capsys.readouterr().err
    run("register", *pair)
    assert noncommercial_accepted() is True
    run("register-many", tmp_path / "none.csv", "-o", tmp_path / "out", "--no-accept-noncommercial")
    assert noncommercial_accepted() is False


def test_auto_is_no_name_of_a_model(capsys: Any) -> None:
    assert run("models", "auto") == 2
    assert "stands for the model that fits two images" in capsys.readouterr().err
