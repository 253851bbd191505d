# SPDX-License-Identifier: Apache-2.0
"""deepflash compare on data sets with labels: trained models beside FLASH, structures, pairs seen otherwise, and what
of the data cannot be used."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from command_line import run
from DeepFLASHRegistrationLib.methods.trained_models import ModelConfig, save_model
from DeepFLASHRegistrationLib.problem.parameters import Parameters
from training_images import write_subjects

torch = pytest.importorskip("torch")
pytest.importorskip("scipy")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_subjects(tmp_path_factory.mktemp("data") / "data", 4)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model as training starts with it: its steps are those of steepest descent."""
    from DeepFLASHRegistrationLib.learning.unrolled import built

    refinement = {"resolutions": [1], "bands": [7]}
    architecture = {"stages": [{"steps": 2, "channels": [4, 4]}], "refinement": refinement}
    torch.manual_seed(0)
    config = ModelConfig(
        name="ellipsoids",
        kind="unrolled",
        architecture=architecture,
        parameters=Parameters(
            resolutions=(1,),
            bands=(7,),
            iterations=(4,),
            sigma=0.02,
            similarity="ssd",
            margin_mm=12.0,
            window_mm=8.75,
        ),
        ndim=3,
        unit_mm=1.25,
        spacing_mm=4.0,
        extent_mm=(20.0, 200.0),
        energy=(0.7, 0.2),
        description="Ellipsoids.",
        training_data="formulas",
        license="CC0",
        trained="no time at all",
    )
    arrays = {name: value.numpy() for name, value in built(3, architecture).state_dict().items()}
    return save_model(tmp_path_factory.mktemp("models") / "ellipsoids", config, arrays)


def compare(data: Path, out: Path, *more: Any) -> int:
    return run("compare", data, "-o", out, "--init", "none", "--threads", 1, *more)


def table(out: Path) -> list[dict[str, str]]:
    with open(out / "comparison.csv", encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def test_a_model_beside_flash_by_its_settings(
    model: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    names, out = tmp_path / "names.csv", tmp_path / "out"
    names.write_text("Label Number,Label Name,Class\n1,Whole object,\n2,Right PIns core,GM\n3,Left core,GM\n")
    flash, deep, both = f"flash:{model}", f"deepflash:{model}", f"deepflash+flash:{model}@refinement=3"
    more = ["--names", names, "--structures", "core", "--shift", 3, "--pairs", 1]
    assert compare(data, out, "--methods", f"{flash},{deep},{both}", *more) == 0
    values = json.loads((out / "comparison.json").read_text())
    by = {(line["method"], line["variant"]): line for line in values["methods"]}
    variants = ("", "moved by 3")
    assert set(by) == {(m, v) for m in ("alignment", flash, deep, both) for v in variants}
    for variant in variants:
        before = by["alignment", variant]["figures"]["dice"]["mean"]
        for method in (flash, deep, both):
            figures = by[method, variant]["figures"]
            assert figures["dice"]["mean"] > before + 0.005
            assert figures["folds_strict"]["mean"] == 0
            assert 0 < figures["seconds_alone"]["mean"] < figures["seconds"]["mean"]
        assert by[flash, variant]["share_of_gain"] == 1.0
    assert 0.05 < by[deep, ""]["share_of_gain"] < by[both, ""]["share_of_gain"]
    for method in (flash, deep):
        here, there = (by[method, variant]["figures"]["dice"]["mean"] for variant in variants)
        assert there == pytest.approx(here, abs=0.03)
    assert set(values["structures"]) == {"core"}
    assert by[deep, ""]["model"]["trained"] == "no time at all"
    assert by[flash, ""]["model"] == {}
    settings = values["parameters"]
    assert (settings[flash]["similarity"], settings[flash]["bands"], settings[both]["refinement"]) == ("ssd", [7], 3)
    told = capsys.readouterr().out
    assert f"{deep}, moved by 3" in told
    assert "100 %" in told
    assert "core" in told
    page = (out / "comparison.html").read_text(encoding="utf-8")
    assert "no time at all" in page
    assert "Wang &amp; Zhang: DeepFLASH" in page


def test_structures_are_counted_from_the_labels_that_were_carried_over(data: Path, tmp_path: Path) -> None:
    """Beside Dice of the same labels as the registration itself has measured it."""
    out = tmp_path / "out"
    (tmp_path / "names.csv").write_text("1,shell\n2,Left core\n3,Right core\n")
    options = ["--methods", "flash@fast@bands=7x11@iterations=2x2", "--subjects", "s0,s3"]
    assert compare(data, out, *options, "--pairs", 2, "-q") == 0
    plain = {(row["method"], row["pair"]): row for row in table(out)}
    assert {row["pair"] for row in plain.values()} == {"s3_to_s0", "s0_to_s3"}
    for row in plain.values():
        parts = [float(row[f"dice: {label}"]) for label in (1, 2, 3)]
        assert float(row["dice"]) == pytest.approx(np.mean(parts), abs=1e-6)
    # Labels alone are counted anew: nothing is registered again.
    before = {path: path.stat().st_mtime_ns for path in out.rglob("result.json")}
    named = ["--names", tmp_path / "names.csv", "--ignore", "1"]
    assert compare(data, out, *options, "--pairs", 2, "-q", *named) == 0
    assert {path: path.stat().st_mtime_ns for path in out.rglob("result.json")} == before
    for row in table(out):
        one = plain[row["method"], row["pair"]]
        assert row["dice: shell"] == one["dice: 1"]
        assert float(row["dice"]) == pytest.approx(np.mean([float(one[f"dice: {k}"]) for k in (2, 3)]), abs=1e-5)
        assert 0 < float(row["dice: core"]) < 1


def test_what_cannot_be_used_of_the_data_is_left_out_on_request(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    damaged = tmp_path / "data"
    shutil.copytree(data, damaged)
    shutil.move(damaged / "labels" / "s1.nii.gz", damaged / "labels" / "s9.nii.gz")
    assert compare(damaged, tmp_path / "out", "--methods", "fast") == 2
    assert "s9.nii.gz: belongs to an image that is missing" in capsys.readouterr().err
    options = ["--methods", "flash@fast@iterations=1x1", "--pairs", 1, "--subjects", "s0,s2", "--skip-broken", "-q"]
    assert compare(damaged, tmp_path / "out", *options, "--exchange") == 0
    assert "1 images were left out" in capsys.readouterr().err
    one, other = ([row for row in table(tmp_path / "out") if row["variant"] == v] for v in ("", "exchanged"))
    assert len(one) == len(other) == 2
    # Onto the other image's voxels: nearly, but not just as alike.
    assert 0 < abs(float(one[1]["similarity"]) - float(other[1]["similarity"])) < 0.1


def test_an_interrupt_leaves_the_table_so_far(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from DeepFLASHRegistrationLib.cohorts.comparison import Comparison

    real, calls = Comparison._run, []

    def interrupted(self: Comparison, name: str, *rest: Any) -> None:
        calls.append(name)
        if len(calls) == 2:
            raise KeyboardInterrupt
        real(self, name, *rest)

    monkeypatch.setattr(Comparison, "_run", interrupted)
    out = tmp_path / "out"
    assert compare(data, out, "--methods", "fast", "--pairs", 2) == 130
    assert f"Cancelled. What is done is in {out}; run the same command to go on." in capsys.readouterr().err
    assert [(row["method"], row["state"]) for row in table(out)] == [("alignment", "done")] * 2 + [("fast", "open")] * 2
    assert calls == ["alignment", "fast"]


def test_subjects_that_the_data_lack_are_named(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert compare(data, tmp_path / "out", "--subjects", "s9") == 2
    assert "has no subject 's9'" in capsys.readouterr().err
