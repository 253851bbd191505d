# SPDX-License-Identifier: Apache-2.0
"""deepflash models, teach and train: what comes out, what is refused, and what an interrupt leaves."""

from __future__ import annotations

import dataclasses
import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from DeepFLASHRegistrationLib.commands import main as cli
from DeepFLASHRegistrationLib.methods.trained_models import ModelConfig, save_model
from DeepFLASHRegistrationLib.problem.parameters import Parameters
from DeepFLASHRegistrationLib.results import velocity as results
from DeepFLASHRegistrationLib.training.dataset import draw_pairs, read_dataset
from DeepFLASHRegistrationLib.training.teaching import MANIFEST, label_file, read_manifest
from training_images import TINY_OPTIONS, subject, write_subjects

torch = pytest.importorskip("torch")

SOURCES = str(Path(cli.__file__).parents[2])
ENVIRONMENT = {**os.environ, "PYTHONPATH": SOURCES, "OMP_NUM_THREADS": "1"}
QUICK = Parameters(
    resolutions=(1,), bands=(7,), iterations=(4,), initial_alignment="none", sigma=0.02, similarity="ssd"
)


@pytest.fixture(autouse=True)
def _own_surroundings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setenv("DEEPFLASH_MODELS", str(tmp_path / "user models"))
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def originals(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_subjects(tmp_path_factory.mktemp("data") / "data", 4)


@pytest.fixture
def data(originals: Path, tmp_path: Path) -> Path:
    shutil.copytree(originals, tmp_path / "data")
    return tmp_path / "data"


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model as training starts with it: its steps are those of steepest descent."""
    from DeepFLASHRegistrationLib.learning.unrolled import built

    architecture = {
        "stages": [{"steps": 2, "channels": [4, 4]}],
        "refinement": {"resolutions": [1], "bands": [7]},
    }
    torch.manual_seed(0)
    config = ModelConfig(
        name="ellipsoids",
        kind="unrolled",
        architecture=architecture,
        parameters=dataclasses.replace(QUICK, margin_mm=12.0, window_mm=8.75),  # models state their lengths
        ndim=3,
        unit_mm=1.25,
        spacing_mm=4.0,
        extent_mm=(20.0, 200.0),
        energy=(0.7, 0.2),
        description="Ellipsoids.",
        training_data="formulas",
        license="CC0",
        license_note="For tests only.",
        held_out={"Dice": 0.9},
    )
    arrays = {name: value.numpy() for name, value in built(3, architecture).state_dict().items()}
    return save_model(tmp_path_factory.mktemp("models") / "ellipsoids", config, arrays)


def run(*arguments: Any) -> int:
    return cli.main([str(a) for a in arguments])


def teach(data: Path, out: Path, *more: Any) -> int:
    return run("teach", data, "-o", out, "--processes", 1, *TINY_OPTIONS, *more)


def velocities(out: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in out.iterdir() if path.name != MANIFEST}


# ------------------------------------------------------------------------------------------------------- no torch


def test_help_and_the_list_of_models_need_no_torch() -> None:
    code = (
        "import sys; sys.modules['torch'] = None; from DeepFLASHRegistrationLib.cli import main\n"
        "codes = [main(a.split()) for a in ('--help', 'models', 'teach --help', 'compare --help', 'train --help')]\n"
        "print(codes, 'torch' in [m for m, v in sys.modules.items() if v])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, encoding="utf-8", env=ENVIRONMENT, timeout=60, check=True
    )
    assert done.stdout.splitlines()[-1] == "[0, 0, 0, 0, 1] False"
    assert "PyTorch is needed" in done.stderr


# ---------------------------------------------------------------------------------------------------------- models


def test_models_are_listed_with_what_a_user_must_know(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(model, tmp_path / "user models" / "ellipsoids")
    (tmp_path / "user models" / "broken").mkdir()
    (tmp_path / "user models" / "broken" / "model.json").write_text("{}")
    assert run("models") == 0
    text = capsys.readouterr().out
    for part in (
        "ellipsoids (yours, trained at 4 mm)",
        "Purpose: Ellipsoids.",
        "License: CC0. For tests only.",
        "Dice 0.9",
    ):
        assert part in text
    assert "broken  cannot be used: " in text
    assert run("models", "ellipsoids") == 0
    assert "**For tests only.**" in capsys.readouterr().out
    assert run("models", "elipsoids") == 2
    assert "There is no model 'elipsoids'. Known are: " in capsys.readouterr().err


def test_a_model_registers_from_the_command_line(
    model: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    images = [data / "images" / f"s{k}.nii.gz" for k in (0, 2)]
    arguments = ["register", *images, "-o", tmp_path / "out", "--method", "deepflash", "--threads", 1, "--init", "none"]
    assert run(*arguments) == 2
    assert "The method 'deepflash' needs a model" in capsys.readouterr().err
    assert run(*arguments, "--model", "elipsoids") == 2
    assert "There is no model 'elipsoids'" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
    assert run(*arguments, "--model", model) == 0
    values = json.loads((tmp_path / "out" / "result.json").read_text())
    assert (values["parameters"]["method"], values["parameters"]["bands"]) == ("deepflash", [7])
    assert values["metrics"]["similarity_after"] > values["metrics"]["similarity_before"]


# ----------------------------------------------------------------------------------------------------------- teach


def test_teaching_can_be_repeated_and_extended(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "labels"
    assert teach(data, out, "--pairs", 3) == 0
    first = velocities(out)
    pairs = draw_pairs(read_dataset(data), 3)
    assert sorted(first) == sorted(label_file(out, *pair).name for pair in pairs)
    assert f"3 velocities in {out}" in capsys.readouterr().out
    saved = results.load_result(label_file(out, *pairs[0]))
    assert np.abs(saved.deformation.velocity).max() > 0
    assert saved.fixed_grid.same_as(subject(int(pairs[0][0].name[1:]))[0].grid)
    manifest = read_manifest(out)
    assert (manifest["parameters"].bands, manifest["parameters"].initial_alignment) == ((7,), "none")
    assert list(manifest["images"]) == ["s0", "s1", "s2", "s3"]
    # What is whole stays; what was cut off or lost comes again, the same.
    names = sorted(first)
    (out / names[0]).write_bytes(first[names[0]][:-8])
    (out / names[1]).unlink()
    before = (out / names[2]).stat().st_mtime_ns
    assert teach(data, out, "--pairs", 4) == 0
    again = velocities(out)
    assert len(again) == 4
    assert first.items() <= again.items()
    assert (out / names[2]).stat().st_mtime_ns == before
    assert capsys.readouterr().out.count("similarity") == 3


def test_a_resume_with_other_parameters_or_images_is_refused(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "labels"
    assert teach(data, out, "--pairs", 1) == 0
    before = velocities(out)
    assert teach(data, out, "--pairs", 1, "--sigma", 0.03) == 2
    assert "were found with other parameters (sigma 0.02 -> 0.03)" in capsys.readouterr().err
    shutil.copy(data / "images" / "s1.nii.gz", data / "images" / "s2.nii.gz")
    assert teach(data, out, "--pairs", 1) == 2
    assert "belong to another image 's2'" in capsys.readouterr().err
    (out / MANIFEST).write_text("{")
    assert teach(data, out, "--pairs", 1) == 2
    assert f"{out / MANIFEST}: cannot be used" in capsys.readouterr().err
    assert velocities(out) == before
    (out / MANIFEST).unlink()
    assert teach(data, out, "--pairs", 1) == 2
    assert "exists and holds no velocities to go on with" in capsys.readouterr().err


def test_damaged_volumes_are_named_before_any_work(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = data / "images" / "s1.nii.gz"
    path.write_bytes(path.read_bytes()[:-300])
    out = tmp_path / "labels"
    assert teach(data, out, "--pairs", 1) == 2
    assert f"{path}: cannot be read" in capsys.readouterr().err
    assert not out.exists()
    assert teach(data, out, "--pairs", 1, "--skip-broken") == 0
    captured = capsys.readouterr()
    assert f"1 images were left out:\n  {path}: cannot be read" in captured.err
    assert not any("s1" in name for name in velocities(out))


def test_a_recipe_that_is_none_or_comes_with_settings_is_refused(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("teach", data, "-o", tmp_path / "out", "--recipe", "crop") == 2
    assert "There is no recipe 'crop' of a dual net. Known are: crop-dual-net," in capsys.readouterr().err
    assert run("teach", data, "-o", tmp_path / "out", "--recipe", "crop-dual-net", "--sigma", 0.1) == 2
    assert "A recipe states all settings of FLASH." in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_registration_that_fails_teaches_nothing(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from DeepFLASHRegistrationLib.registration import register as registration
    from DeepFLASHRegistrationLib.registration.verdict import Criterion, Verdict

    upside_down = [Criterion("mirror", level, "mirrored", {"axis": "head-foot"}) for level in ("failed", "check")]
    verdicts = (Verdict([criterion]) for criterion in upside_down)
    monkeypatch.setattr(registration, "verdict", lambda *_: next(verdicts))
    assert teach(data, tmp_path / "labels", "--pairs", 2) == 0
    assert len(velocities(tmp_path / "labels")) == 1
    out = capsys.readouterr().out
    assert "left out. Mirrored along the head-foot axis" in out
    assert "1 velocities in" in out
    assert "1 pairs left out" in out


def test_a_full_disk_leaves_what_is_complete(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    write, out = results.write_velocity, tmp_path / "labels"

    def full(path: Path, result: Any) -> None:
        if len(velocities(out)) == 1:
            path.write_bytes(b"half")
            raise OSError(errno.ENOSPC, "No space left on device")
        write(path, result)

    monkeypatch.setattr(results, "write_velocity", full)
    assert teach(data, out, "--pairs", 3) == 1
    assert "the disk is full. Free some space and try again" in capsys.readouterr().err
    assert len(velocities(out)) == 1
    results.load_result(next(path for path in out.iterdir() if path.name != MANIFEST))


@pytest.mark.skipif(os.name != "posix", reason="signals of POSIX")
def test_many_processes_are_interrupted_and_one_goes_on(data: Path, tmp_path: Path) -> None:
    out = tmp_path / "labels"
    arguments = ["teach", str(data), "-o", str(out), "--pairs", "8", *TINY_OPTIONS]
    process = subprocess.Popen(
        [sys.executable, "-m", "DeepFLASHRegistrationLib.cli", *arguments, "--processes", "2"],
        env=ENVIRONMENT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        line = process.stdout.readline()
        assert line.startswith("[1/8] "), line + process.stderr.read()
        process.send_signal(signal.SIGINT)
        _, text = process.communicate(timeout=60)
        assert process.returncode == 130, text
        assert text.startswith("Cancelled. ")
        assert "run the same command to go on." in text
        done = velocities(out)
        assert 1 <= len(done) < 8
        assert not any(name.startswith(".") for name in done)
        deadline = time.monotonic() + 20
        while _alive(process.pid):
            assert time.monotonic() < deadline, "processes outlive the command"
            time.sleep(0.05)
    finally:
        with_group = process.pid
        if process.poll() is None:
            os.killpg(with_group, signal.SIGKILL)
    assert run(*arguments, "--processes", 1) == 0
    assert len(velocities(out)) == 8
    assert done.items() <= velocities(out).items()
    # One process finds what many found.
    (out / min(done)).unlink()
    assert run(*arguments, "--processes", 1) == 0
    one, other = (_velocity(content, tmp_path) for content in (done[min(done)], velocities(out)[min(done)]))
    assert np.abs(one - other).max() <= 1e-5 * np.abs(one).max()


def _alive(group: int) -> bool:
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True


def _velocity(content: bytes, folder: Path) -> np.ndarray:
    (folder / "v.safetensors").write_bytes(content)
    return results.load_result(folder / "v.safetensors").deformation.velocity


# ----------------------------------------------------------------------------------------------------------- train


def test_what_training_is_told(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from DeepFLASHRegistrationLib.training import train as training

    told: list[Any] = []
    monkeypatch.setattr(training, "train", lambda *arguments: told.extend(arguments))
    options = ["--recipe", "crop", "--learning-rate", "0.01", "--joining", "0,0.5", "--mirror", "--license", "CC0"]
    assert run("train", data, "-o", tmp_path / "model", "--validation", "s0,s2", *options) == 0
    taught, unseen, out, chosen, labels, _ = told
    assert f"deepflash models install {tmp_path / 'model'}" in capsys.readouterr().out
    assert (taught.persons, unseen.persons) == (["s1", "s3"], ["s0", "s2"])
    assert (out, labels) == (tmp_path / "model", None)
    assert (chosen.recipe, chosen.schedule.learning_rate, chosen.schedule.joining) == ("crop", 0.01, (0.0, 0.5))
    assert (chosen.variation.mirror, chosen.about.license) == (True, "CC0")
    default = training.TrainingOptions(recipe="crop")
    assert dataclasses.replace(chosen, schedule=default.schedule, variation=default.variation, about=default.about) == (
        default
    )


def test_a_name_that_no_model_may_have_is_told_before_the_training(data: Path, tmp_path: Path, capsys: Any) -> None:
    for name in ("auto", "a b"):
        assert run("train", data, "-o", tmp_path / "model", "--name", name) == 2
        assert "--name: its name" in capsys.readouterr().err
    assert not (tmp_path / "model").exists()


def test_every_setting_of_training_is_explained(capsys: pytest.CaptureFixture[str]) -> None:
    from DeepFLASHRegistrationLib.training.train import TrainingOptions

    def names(kind: type) -> list[str]:
        nested = {f.name: f.default_factory for f in dataclasses.fields(kind)}
        nested = {name: inner for name, inner in nested.items() if dataclasses.is_dataclass(inner)}
        return [f.name for f in dataclasses.fields(kind) if f.name not in nested] + [
            name for inner in nested.values() for name in names(inner)
        ]

    assert run("train", "--help") == 0
    lines = capsys.readouterr().out.split("options:")[1].splitlines()
    listed = names(TrainingOptions)
    assert len(set(listed)) == len(listed)
    for name in listed:
        flag = f"--{name.replace('_', '-')}"
        at = next((k for k, line in enumerate(lines) if line.strip().split(" ")[0].rstrip(",") == flag), None)
        assert at is not None, flag
        text = lines[at][24:] if len(lines[at]) > 24 and lines[at][23] == " " else lines[at + 1][24:]
        assert text.strip(), f"{flag} is not explained"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--validation", "s0,s9"], "has no subject 's9'. It has 4: s0, s1, s2, s3"),
        (["--validation", "0.5,"], "has no subject '0.5'"),
        (["--validation", "s1"], "1 of 4 subjects for validation leave 3 to train on. Both sides need two"),
        (["--labels", "nowhere"], 'is missing. Pass the folder that "deepflash teach" wrote'),
        (["--recipe", "magic"], "recipe must be one of"),
        (["--iterations", "many"], "argument --iterations: invalid int value: 'many'"),
    ],
    ids=range(6),
)
def test_training_that_cannot_start(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], options: list[str], message: str
) -> None:
    assert run("train", data, "-o", tmp_path / "model", *options) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "model").exists()
