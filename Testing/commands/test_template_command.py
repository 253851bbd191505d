# SPDX-License-Identifier: Apache-2.0
"""deepflash template: what it writes and says, and what it refuses."""

from __future__ import annotations

import csv
import json
import re
from pathlib import Path

import jsonschema
import numpy as np
import pytest
from command_line import run
from DeepFLASHRegistrationLib.imaging.grid import Grid
from DeepFLASHRegistrationLib.imaging.io import read_volume, write_volume
from DeepFLASHRegistrationLib.imaging.volume import Volume

pytest.importorskip("torch")

SCHEMA = json.loads((Path(__file__).resolve().parents[2] / "docs" / "result.schema.json").read_text(encoding="utf-8"))
GRID = Grid((40, 44), np.array([[0, 2.0, 0], [2.0, 0, 0], [0, 0, 1]]))
QUICK = ["--rounds", 1, "--preset", "fast", "--iterations", "2,2", "--workers", 1, "--threads", 1]


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Three ellipses with a spot, and one file that is no image."""
    folder = tmp_path / "scans"
    folder.mkdir()
    y, x = np.indices(GRID.shape) * 2.0
    for number, (a, b) in enumerate(((26, 20), (30, 18), (28, 22))):
        inside = 1 / (1 + np.exp((np.hypot((x - 43) / a, (y - 39) / b) - 1) * 12))
        spot = np.exp(-0.5 * (((x - 50 - 2 * number) / 5) ** 2 + ((y - 36) / 5) ** 2))
        image = np.where(inside > 0.02, 100 * inside + 80 * spot, 0)
        write_volume(folder / f"s{number}.nii.gz", Volume(GRID, image.astype(np.float32)))
    return folder


def test_a_template_of_a_folder(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "T"
    assert run("template", data, "-o", out, *QUICK, "--json-progress") == 0
    events = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    for event in events:
        jsonschema.validate(event, SCHEMA)
    last = [event for event in events if "pairs" in event][-1]
    assert last["pairs"] == {"done": 16, "failed": 0, "all": 16}  # alignments, registrations, averages
    found = json.loads((out / "template.json").read_text())
    assert found["complete"]
    assert found["left_over"]["mean_voxels"] < 0.01
    assert [each["number"] for each in found["rounds"]] == [1]
    assert tuple(found["grid"]["shape"]) == read_volume(out / "template.nii.gz").grid.shape
    with open(out / "subjects.tsv", encoding="utf-8") as file:
        rows = list(csv.DictReader(file, delimiter="\t"))
    assert [(row["name"], row["state"]) for row in rows] == [(f"s{n}", "done") for n in range(3)]
    assert all(float(row["distance"]) > 0 for row in rows)
    page = (out / "template.html").read_text(encoding="utf-8")
    assert page.count("<img") == 4  # the template, both poses and the round
    # Subjects are carried to it by what is there.
    assert run("apply", out / "subjects" / "s1", data / "s1.nii.gz", "-o", tmp_path / "on.nii.gz") == 0
    carried, warped = read_volume(tmp_path / "on.nii.gz"), read_volume(out / "subjects" / "s1" / "warped.nii.gz")
    np.testing.assert_allclose(carried.data, warped.data, atol=0.5)
    # Done, it says so.
    assert run("template", data, "-o", out, *QUICK) == 0
    assert re.search(r"Template of 3 subjects, mean deformation 0\.00\d voxels", capsys.readouterr().out)


def test_a_template_on_the_voxels_of_another_image_and_the_way_to_a_standard_space(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """What is like it lies elsewhere, on coarser voxels; and a subject is carried to the standard space in one step."""
    image, out = read_volume(data / "s1.nii.gz"), tmp_path / "T"
    grid = Grid((30, 34), np.array([[0, 3.0, 30], [3.0, 0, -21], [0, 0, 1]]))
    y, x = np.indices(grid.shape) * 3.0 - np.array([[[6.0]], [[6.0]]])
    inside = 1 / (1 + np.exp((np.hypot((x - 43) / 28, (y - 39) / 20) - 1) * 12))
    spot = np.exp(-0.5 * (((x - 52) / 5) ** 2 + ((y - 36) / 5) ** 2))
    write_volume(tmp_path / "like.nii.gz", Volume(grid, (100 * inside + 80 * spot).astype(np.float32)))
    write_volume(data / "s1_labels.nii.gz", image.with_data((image.data > 50).astype(np.uint8)))
    for number in (0, 2):
        other = read_volume(data / f"s{number}.nii.gz")
        write_volume(data / f"s{number}_labels.nii.gz", other.with_data((other.data > 50).astype(np.uint8)))
    more = ["--like", tmp_path / "like.nii.gz", "--standard", data / "s0.nii.gz"]
    assert run("template", data, "-o", out, *QUICK, *more, "-q") == 0
    template = read_volume(out / "template.nii.gz")
    assert template.grid.same_as(grid)
    like = read_volume(tmp_path / "like.nii.gz").data
    assert np.corrcoef(template.data.ravel(), like.ravel())[0, 1] > 0.97
    # Its sizes are the subjects', not those of what it is like.
    areas = [4 * np.count_nonzero(read_volume(data / f"s{n}.nii.gz").data > 50) for n in range(3)]
    assert 9 * np.count_nonzero(read_volume(out / "labels.nii.gz").data) == pytest.approx(np.mean(areas), rel=0.05)

    assert run("volumes", out, "-q") == 0
    with open(out / "volumes.tsv", encoding="utf-8") as file:
        rows = [(row["name"], row["source"]) for row in csv.DictReader(file, delimiter="\t")]
    assert rows == [("template", "template"), *((f"s{n}", kind) for n in range(3) for kind in ("labels", "map"))]
    capsys.readouterr()
    new = tmp_path / "new"
    assert run("project", data / "s2.nii.gz", out, "-o", new, "--threads", 1) == 0
    assert re.search(r"Distance \d\S*, farther than \d+ % of the 3 subjects", capsys.readouterr().out)
    assert sorted(path.name for path in new.iterdir()) == [
        "projection.json", "report.html", "result.json", "template_labels.nii.gz", "velocity.safetensors",
        "warped.nii.gz",
    ]  # fmt: skip
    # One after the other, or at once: through what lies between, it is interpolated once more.
    first, both = tmp_path / "on_template.nii.gz", tmp_path / "at_once.nii.gz"
    assert run("apply", new, data / "s2.nii.gz", "-o", first) == 0
    assert run("apply", out / "standard", first, "-o", tmp_path / "twice.nii.gz") == 0
    assert run("apply", new, data / "s2.nii.gz", "-o", both, "--through", out / "standard") == 0
    once, twice = read_volume(both), read_volume(tmp_path / "twice.nii.gz")
    assert once.grid.same_as(image.grid)
    assert np.abs(once.data - twice.data).mean() < 2  # of 180
    # The map itself, as a field for other programs, says the same.
    assert run("apply", new, "-o", tmp_path / "map.nii.gz", "--through", out / "standard") == 0
    assert run("apply", tmp_path / "map.nii.gz", data / "s2.nii.gz", "-o", tmp_path / "by_field.nii.gz") == 0
    np.testing.assert_allclose(read_volume(tmp_path / "by_field.nii.gz").data, once.data, atol=0.5)
    assert run("apply", new, "-o", tmp_path / "map.h5", "--through", out / "standard") == 2
    assert "only one field of both can be written" in capsys.readouterr().err
    # And back, by the inverse of both.
    assert run("apply", new, both, "-o", tmp_path / "back.nii.gz", "--to", "moving", "--through", out / "standard") == 0
    there = read_volume(data / "s2.nii.gz").data
    assert np.abs(read_volume(tmp_path / "back.nii.gz").data - there)[there > 0].mean() < 4


def test_results_that_do_not_meet_are_refused(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    coarse = tmp_path / "coarse.nii.gz"
    image = read_volume(data / "s1.nii.gz")
    half = Grid((20, 22), image.grid.affine @ np.diag([2.0, 2.0, 1.0]))
    write_volume(coarse, Volume(half, image.data[::2, ::2]))
    how = ["--iterations", "1,1", "--preset", "fast", "--threads", 1, "-q", "--outputs", "none"]
    assert run("register", coarse, data / "s0.nii.gz", "-o", tmp_path / "one", *how) == 0
    assert run("register", data / "s2.nii.gz", data / "s1.nii.gz", "-o", tmp_path / "two", *how) == 0
    capsys.readouterr()
    for more, message in (
        (["--through", tmp_path / "two"], "its moving image lies on other voxels than the fixed image of"),
        (["--through", tmp_path / "one", "--time", "0.5"], "Two results one after the other have no time to choose"),
        (["--through", tmp_path / "nowhere"], "there is no such file"),
    ):
        assert run("apply", tmp_path / "one", data / "s0.nii.gz", "-o", tmp_path / "x.nii.gz", *more) == 2
        assert message in capsys.readouterr().err
    assert not (tmp_path / "x.nii.gz").exists()


@pytest.mark.parametrize(
    ("command", "message"),
    [
        (["project", "s0.nii.gz", "scans", "-o", "new"], "holds no template that is done"),
        (["volumes", "scans"], "holds no template that is done"),
        (["volumes", "scans", "-o", "volumes.csv"], "a table of volumes ends in .tsv"),
        (["volumes", "scans", "-o", "scans.tsv"], "exists. Choose another name"),
        (["project", "s0.nii.gz", "scans", "-o", "scans"], "exists and is not empty"),
        (["project", "s0.nii.gz", "scans", "-o", "new", "--outputs", "labels"], "--outputs labels: needs labels"),
    ],
)
def test_templates_that_are_none(
    data: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    command: list[str],
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "scans.tsv").write_text("mine", encoding="utf-8")
    assert run(*command) == 2
    assert message in capsys.readouterr().err
    assert (tmp_path / "scans.tsv").read_text(encoding="utf-8") == "mine"
    assert not (tmp_path / "new").exists()


def test_what_would_be_done_is_told_and_not_done(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("template", data, "-o", tmp_path / "T", "--dry-run", "--rounds", 2, "--workers", 1) == 0
    told = capsys.readouterr().out
    assert re.search(r"3 subjects, 1 at once, about \d+\.\d GB", told)
    assert "round 2: register, and average" in told
    assert not (tmp_path / "T").exists()


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--average", "mode"], "must be one of mean, median"),
        (["--rounds", "99"], "must lie between 1 and 50"),
        (["--method", "lddmm"], "finds maps without a velocity"),
        (["--start", "nowhere.nii.gz"], "there is no such file"),
        (["--like", __file__, "--mirrored"], "--mirrored puts the template's own middle at x = 0"),
        (["--like", "nowhere.nii.gz"], "--like nowhere.nii.gz: there is no such file"),
        (["--standard", "nowhere.nii.gz"], "--standard nowhere.nii.gz: there is no such file"),
        (["--like", __file__, "--voxel-mm", "2"], "the template lies on the voxels of --like"),
        (["--threads", "0"], "threads must be at least 1"),
        (["--landmark-weight", "1"], "--landmark-weight: a template has no landmarks"),
        (["--channel-similarities", "mi"], "channel_similarities: has 1 entries for no further images"),
        (["--dry-run", "--start", "nowhere.nii.gz"], "there is no such file"),
    ],
)
def test_what_is_refused(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], more: list[str], message: str
) -> None:
    assert run("template", data, "-o", tmp_path / "T", *more) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "T").exists()


def test_a_refusal_leaves_what_is_said_of_a_finished_template(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "T"
    assert run("template", data, "-o", out, *QUICK, "-q") == 0
    before = {path.name: path.read_bytes() for path in out.iterdir() if path.is_file()}
    image = read_volume(data / "s1.nii.gz")
    write_volume(data / "s1.nii.gz", image.with_data(image.data + 1))
    assert run("template", data, "-o", out, *QUICK, "-q") == 2
    assert "holds the result of other inputs" in capsys.readouterr().err
    assert {path.name: path.read_bytes() for path in out.iterdir() if path.is_file()} == before


def test_what_nobody_may_expect_is_said(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    image = read_volume(data / "s1.nii.gz")
    write_volume(data / "s1_labels.nii.gz", image.with_data((image.data > 50).astype(np.uint8)))
    table = tmp_path / "scans.csv"
    rows = "scans/s0.nii.gz,one,\nscans/s1.nii.gz,one,scans/s1_labels.nii.gz\nscans/s2.nii.gz,two,\n"
    table.write_text("image,subject,labels\n" + rows)
    assert run("template", table, "-o", tmp_path / "T", "--dry-run") == 0
    told = capsys.readouterr().err
    assert "the template gets no labels, since 2 have none: s0, s2." in told
    assert "3 images of 2 persons count alike" in told


def test_images_that_cannot_be_used_are_named(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (data / "broken.nii.gz").write_text("no image")
    assert run("template", data, "-o", tmp_path / "T") == 2
    assert "1 of 4 images cannot be used" in capsys.readouterr().err
    for number in (1, 2):
        (data / f"s{number}.nii.gz").unlink()
    assert run("template", data, "-o", tmp_path / "T", "--skip-broken") == 2
    assert "has 1 subject" in capsys.readouterr().err
