# SPDX-License-Identifier: Apache-2.0
"""deepflash register-series: a made heartbeat onto one item, the mean, or by steps; smoothed, labelled, resumed."""

from __future__ import annotations

import csv
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import jsonschema
import made_series
import numpy as np
import pytest
import registration_pairs as pairs
from command_line import run
from DeepFLASHRegistrationLib.commands import main as cli
from DeepFLASHRegistrationLib.imaging import io
from DeepFLASHRegistrationLib.imaging.image_files.series import write_series
from DeepFLASHRegistrationLib.imaging.time_series import read_series
from DeepFLASHRegistrationLib.imaging.volume import Volume
from DeepFLASHRegistrationLib.results.starts import mean_velocity
from DeepFLASHRegistrationLib.results.velocity import load_result

pytest.importorskip("torch")

ROOT = Path(__file__).resolve().parents[2]
AT = pairs.places(made_series.GRID)


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("in") / "心 cine"
    folder.mkdir()
    made_series.write_made_series(folder)
    return folder


@pytest.fixture(scope="module")
def done(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The heartbeat registered onto its first item, with labels."""
    out = tmp_path_factory.mktemp("results") / "out"
    code = series(source, out, "--cyclic", "--labels", source / "labels.nii.gz")
    assert code == 0
    return out


def series(source: Path, out: Path, *more: Any) -> int:
    return run("register-series", source / "cine.nii.gz", "-o", out, *made_series.OPTIONS, *more)


def table(out: Path) -> list[dict[str, str]]:
    with open(out / "series.csv", encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def errors(out: Path, stage: str, count: int = 5) -> list[tuple[float, float]]:
    """Of each item how far its map back is from the truth over the object, and how far the truth moves: means in mm."""
    found = []
    for number in range(count):
        amount = made_series.BEAT[number]
        points = AT[made_series.labels(amount) > 0]
        truth = made_series.back(points, amount)
        back = load_result(out / stage / f"{number:03d}").deformation.points(points, "moving_to_fixed")
        found.append(tuple(float(np.linalg.norm(x, axis=-1).mean()) for x in (back - truth, truth - points)))
    return found


def overlap(one: np.ndarray, other: np.ndarray) -> float:
    """Mean Dice of the labels."""
    pairs_of = [(one == label, other == label) for label in (1, 2, 3, 4)]
    return float(np.mean([2 * (a & b).sum() / (a.sum() + b.sum()) for a, b in pairs_of]))


# ---------------------------------------------------------------------------------------------------------- results


def test_every_item_comes_to_lie_on_the_reference(source: Path, done: Path) -> None:
    found = errors(done, "items")
    assert found[0] == (0, 0)
    assert all(error < 0.5 * size for error, size in found[1:])
    warped, original = read_series([done / "warped.nii.gz"]), read_series([source / "cine.nii.gz"])
    assert warped.seconds == pytest.approx(made_series.SECONDS)
    assert warped.grid.same_as(original.grid)
    items, frames = list(warped.volumes()), list(original.volumes())
    np.testing.assert_allclose(items[0].data, frames[0].data, atol=1e-6)
    reference = frames[0].data
    for before, after in zip(frames[1:], items[1:], strict=True):
        assert np.abs(after.data - reference).mean() < 0.6 * np.abs(before.data - reference).mean()
    np.testing.assert_array_equal(io.read_volume(done / "reference.nii.gz").data, reference)


def test_the_table_and_the_summary_say_what_was_done(source: Path, done: Path) -> None:
    rows = table(done)
    assert [row["item"] for row in rows] == list("01234")
    assert [float(row["time_s"]) for row in rows] == pytest.approx([0, 0.04, 0.08, 0.12, 0.16])
    assert {row["state"] for row in rows} == {"done"}
    assert {row["folds_strict"] for row in rows} == {"0"}
    assert all(float(row["similarity_after"]) > float(row["similarity_before"]) for row in rows[1:])
    moved = [float(row["mean_displacement_mm"]) for row in rows]
    assert moved[0] == 0
    assert moved[2] == max(moved)
    summary = json.loads((done / "series.json").read_text())
    assert summary["how"] == {
        "reference": 0, "smooth": 0.0, "cyclic": True, "independent": False, "mask": None,
    }  # fmt: skip
    assert summary["parameters"]["initial_alignment"] == "none"
    assert (summary["results"], summary["warped"]) == ("items", "warped.nii.gz")
    result = json.loads((done / "items" / "003" / "result.json").read_text())
    jsonschema.validate(result, json.loads((ROOT / "docs" / "result.schema.json").read_text()))
    assert any("The search started from" in note for note in result["notes"])
    assert sorted(os.listdir(done / "items" / "002")) == [
        "job.json", "result.json", "velocity.safetensors", "warped.nii.gz",
    ]  # fmt: skip


def test_labels_of_the_reference_are_carried_to_every_item(source: Path, done: Path) -> None:
    found = list(read_series([done / "labels.nii.gz"]).volumes())
    first = made_series.labels(0.0)
    np.testing.assert_array_equal(found[0].data, first)
    for number, amount in enumerate(made_series.BEAT[1:], 1):
        truth = made_series.labels(amount)
        assert overlap(found[number].data, truth) > overlap(first, truth) + 0.05
    rows = table(done)
    voxel = made_series.GRID.voxel_volume
    for row, volume in zip(rows, found, strict=True):
        for label in (1, 2, 3, 4):
            assert float(row[f"volume_{label}"]) == pytest.approx(voxel * (volume.data == label).sum(), rel=1e-4)


def test_apply_works_on_each_item(source: Path, done: Path, tmp_path: Path) -> None:
    back = tmp_path / "back.nii.gz"
    arguments = ("--labels", "--to", "moving", "-o", back)
    assert run("apply", done / "items" / "002", source / "labels.nii.gz", *arguments) == 0
    carried = list(read_series([done / "labels.nii.gz"]).volumes())[2]
    np.testing.assert_array_equal(io.read_labels(back).data, carried.data)


def test_what_is_done_is_not_done_again_and_smoothing_or_labels_may_be_added(
    source: Path, done: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    shutil.copytree(done, out)
    before = {path: path.stat().st_mtime_ns for path in out.glob("items/*/velocity.safetensors")}
    assert series(source, out, "--cyclic") == 0
    assert "5 of 5 registrations were done before" in capsys.readouterr().out
    assert "volume_1" not in table(out)[0]
    shutil.rmtree(out / "items" / "002")
    assert series(source, out, "--cyclic", "--smooth", "0.8", "--labels", source / "labels.nii.gz") == 0
    assert "4 of 10 registrations were done before" in capsys.readouterr().out
    after = {path: path.stat().st_mtime_ns for path in out.glob("items/*/velocity.safetensors")}
    assert {path for path in before if before[path] != after[path]} == {out / "items" / "002" / "velocity.safetensors"}
    # Directly: a periodic Gaussian of the velocities, one item after the other; the reference rests.
    folders = [str(out / "items" / f"{number:03d}") for number in range(5)]
    offsets = np.arange(-50, 51)
    for number in range(5):
        weights = np.zeros(5)
        np.add.at(weights, (number + offsets) % 5, np.exp(-0.5 * (offsets / 0.8) ** 2))
        expected = mean_velocity(folders, weights / weights.sum())["velocity"] * (number > 0)
        found = load_result(out / "smoothed" / f"{number:03d}").deformation
        np.testing.assert_allclose(found.velocity, expected, atol=2e-3 * np.abs(expected).max() + 1e-9)
        assert json.loads((out / "smoothed" / f"{number:03d}" / "job.json").read_text())["value"]["folds_strict"] == 0
    assert "volume_1" in table(out)[0]
    warped = list(read_series([out / "warped.nii.gz"]).volumes())
    np.testing.assert_array_equal(warped[2].data, io.read_volume(out / "smoothed" / "002" / "warped.nii.gz").data)
    # Other settings are another series.
    assert series(source, out, "--cyclic", "--sigma", "0.1") == 2
    assert "add --force" in capsys.readouterr().err


def test_steps_lead_onto_the_first_item(source: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert series(source, out, "--reference", "previous", "-q") == 0
    assert sorted(os.listdir(out / "steps")) == ["001", "002", "003", "004"]
    found = errors(out, "items")
    assert found[0] == (0, 0)
    assert all(error < 0.6 * size for error, size in found[1:])
    # What is kept is the geodesic nearest to all steps one after the other.
    points = AT[made_series.labels(0.0) > 0]
    expected = points
    for number in (1, 2, 3):
        expected = load_result(out / "steps" / f"{number:03d}").deformation.points(expected, "fixed_to_moving")
    kept = load_result(out / "items" / "003").deformation.points(points, "fixed_to_moving")
    assert np.linalg.norm(kept - expected, axis=-1).mean() < 0.1 * np.linalg.norm(expected - points, axis=-1).mean()


def test_the_mean_of_all_may_be_the_reference(source: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert series(source, out, "--reference", "mean", "-q", "--preset", "fast") == 0
    frames = made_series.frames()
    np.testing.assert_allclose(io.read_volume(out / "reference.nii.gz").data, frames.mean(0), atol=1e-6)
    assert len(table(out)) == 5
    warped = np.stack([volume.data for volume in read_series([out / "warped.nii.gz"]).volumes()])
    assert warped.std(0).mean() < 0.7 * frames.std(0).mean()


def test_slices_in_time_from_several_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fixed, moving = pairs.disks()
    names = [tmp_path / f"{number}.nii.gz" for number in range(3)]
    for name, volume in zip(names, (fixed, moving, fixed), strict=True):
        io.write_volume(name, Volume(fixed.grid, volume.data))
    out = tmp_path / "out"
    options = ("--reference", "2", "--independent", "--json-progress", *made_series.OPTIONS)
    assert run("register-series", *names, "-o", out, *options) == 0
    events = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    schema = json.loads((ROOT / "docs" / "result.schema.json").read_text())
    for event in events:
        jsonschema.validate(event, {**schema, "$ref": "#/$defs/event"})
    last = [event for event in events if "pairs" in event][-1]
    assert last["pairs"] == {"done": 3, "failed": 0, "all": 3}
    rows = table(out)
    assert rows[0]["time_s"] == ""
    assert float(rows[1]["similarity_after"]) > float(rows[1]["similarity_before"])
    assert read_series([out / "warped.nii.gz"]).grid.ndim == 2


# ------------------------------------------------------------------------------------------------------- bad input


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--reference", "5"), "--reference 5: the series has 5 items, counted from 0 to 4. Name one of them"),
        (("--reference", "-1"), "--reference -1: the series has 5 items"),
        (("--reference", "middle"), "'middle' is neither an item's number, mean nor previous"),
        (("--smooth", "-1"), "--smooth -1: must lie between 0"),
        (("--smooth", "nan"), "--smooth nan: must lie between 0"),
        (("--method", "lddmm"), "finds maps without a velocity, of which no series is kept. Add --as-geodesic"),
        (("--method", "transform"), "takes a transform of each pair"),
        (("--labels", "nothing.nii.gz"), "no such file"),
        (("--mask", "nothing.nii.gz"), "cannot be read"),
        (("--reference", "previous", "--mask", "m.nii.gz"), "--mask: is drawn on one item"),
        (("--outputs", "everything"), "There is no output 'everything'"),
        (("--threads", "0"), "threads must be at least 1"),
    ],
)
def test_what_cannot_be_done_is_refused_before_anything_is_written(
    source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], options: tuple[str, ...], message: str
) -> None:
    assert series(source, tmp_path / "out", *options) == 2
    assert message in capsys.readouterr().err
    assert not list((tmp_path / "out").glob("[!.]*"))


@pytest.mark.parametrize(
    ("value", "message"), [(np.nan, "Item 3 of the series cannot be used: .*NaN"), (0, "every voxel is 0")]
)
def test_an_item_that_shows_nothing_is_named_before_the_work(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], value: float, message: str
) -> None:
    frames = made_series.frames()
    frames[3] = value
    write_series(tmp_path / "cine.nii.gz", made_series.GRID, iter(frames), 5, 1.0)
    assert series(tmp_path, tmp_path / "out") == 2
    text = capsys.readouterr().err
    assert message.split(".*")[0] in text
    assert "To leave it out, name the others in the order of time" in text
    assert not (tmp_path / "out").exists()


def test_labels_beside_the_series_are_refused(source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    far = pairs.box((18, 20, 17), 5.2, center=900)
    io.write_volume(tmp_path / "far.nii.gz", Volume(far, made_series.labels(0.0)))
    assert series(source, tmp_path / "out", "--labels", tmp_path / "far.nii.gz") == 2
    assert "lies beside the series" in capsys.readouterr().err


# ---------------------------------------------------------------------------------------------------- interrupted


@pytest.mark.skipif(os.name != "posix", reason="signals of POSIX")
def test_interrupted_it_keeps_what_is_done_and_goes_on(source: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    command = [sys.executable, "-m", "DeepFLASHRegistrationLib.cli", "register-series", str(source / "cine.nii.gz")]
    command += ["-o", str(out), *made_series.OPTIONS, "--json-progress", "--workers", "1"]
    environment = {**os.environ, "PYTHONPATH": str(Path(cli.__file__).parents[2]), "OMP_NUM_THREADS": "1"}
    streams = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen(command, env=environment, text=True, **streams) as process:
        for line in process.stdout:
            if "pairs" in json.loads(line):
                break
        process.send_signal(signal.SIGINT)
        text = process.communicate(timeout=30)[1]
    assert process.returncode == 130
    assert "of 5 registrations are done" in text
    assert "run the same command to go on" in text
    whole = [path.parent.name for path in out.glob("items/*/job.json")]
    assert 1 <= len(whole) < 5
    assert {row["item"]: row["state"] for row in table(out)}["4"] == "open"
    assert not (out / "warped.nii.gz").exists()
    assert series(source, out, "-q") == 0
    assert (out / "warped.nii.gz").exists()
    assert all(json.loads(path.read_text())["tries"] == 1 for path in out.glob("items/*/job.json"))
