# SPDX-License-Identifier: Apache-2.0
"""Before a registration runs: what it needs is compared with what there is, and what it writes is told and chosen."""

from __future__ import annotations

import json
import os
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from command_line import register, run
from DeepFLASHRegistrationLib.imaging.grid import Grid
from DeepFLASHRegistrationLib.imaging.io import read_volume, write_volume
from DeepFLASHRegistrationLib.imaging.segmentation import Segment, Segmentation, write_segmentation
from DeepFLASHRegistrationLib.imaging.volume import Volume
from DeepFLASHRegistrationLib.problem.parameters import Parameters
from DeepFLASHRegistrationLib.results.outputs import waiting_bytes, written_bytes

pytest.importorskip("torch")


def test_what_is_written_can_be_chosen_and_all_that_lists_it_agrees(
    pair: tuple[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert register(pair, out) == 0
    assert register(pair, out, "--force", "--outputs", "warped,report") == 0
    written = ["report.html", "result.json", "velocity.safetensors", "warped.nii.gz"]
    assert sorted(os.listdir(out)) == written  # and nothing is left of the first result
    assert sorted(json.loads((out / "result.json").read_text())["files"]) == written
    page = (out / "report.html").read_text(encoding="utf-8")
    assert all(name in page for name in written)
    assert "moving_to_fixed.nii.gz" not in page
    assert register(pair, out, "--force", "--outputs", "none") == 0
    assert sorted(os.listdir(out)) == ["result.json", "velocity.safetensors"]
    assert capsys.readouterr().out.rstrip().endswith("result.json")  # not the report that was not written
    # What was left out can be had from the velocity.
    assert run("apply", out, pair[1], "-o", tmp_path / "again.nii.gz") == 0


@pytest.mark.parametrize(
    ("outputs", "message"),
    [
        ("waped", "There is no output 'waped'. Choose among warped, labels,"),
        ("labels", "needs labels to carry over"),
        ("segmentation", "needs a segmentation"),
    ],
)
def test_outputs_that_there_cannot_be(
    pair: tuple[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str], outputs: str, message: str
) -> None:
    assert register(pair, tmp_path / "out", "--outputs", outputs) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_memory_that_cannot_suffice_is_refused_before_any_work(
    pair: tuple[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from DeepFLASHRegistrationLib.support import memory

    monkeypatch.setattr(memory, "free_bytes", lambda: 200 << 20)
    assert register(pair, tmp_path / "out") == 2
    error = capsys.readouterr().err
    assert re.match(r"Error: About 0\.4 GB of memory are needed and 0\.2 GB are free\. What helps: close other", error)
    assert not (tmp_path / "out").exists()


def test_memory_that_may_not_suffice_is_a_note(
    pair: tuple[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from DeepFLASHRegistrationLib.support import memory

    monkeypatch.setattr(memory, "free_bytes", lambda: 400 << 20)
    assert register(pair, tmp_path / "out", "-q") == 0
    assert capsys.readouterr().err.startswith("Note: About 0.4 GB of memory are needed and 0.4 GB are free.")
    assert register(pair, tmp_path / "again", "--json-progress") == 0
    events = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert events[0]["notes"][0].startswith("About 0.4 GB of memory are needed")


def test_a_disk_without_room_is_refused_before_any_work(
    pair: tuple[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    used = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda place: used._replace(free=1_000_000))
    assert register(pair, tmp_path / "deep" / "out") == 2
    error = capsys.readouterr().err
    assert "MB will be written, and 1 MB are free on that disk" in error
    assert "--outputs" in error
    assert not (tmp_path / "deep").exists()
    assert register(pair, tmp_path / "out", "--outputs", "none") == 0


def test_room_for_what_waits_to_be_written_counts(
    pair: tuple[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two components of a field lie on the disk twice, while the file is put together."""
    assert register(pair, tmp_path / "out", "--json-progress") == 0
    said = json.loads(capsys.readouterr().out.splitlines()[0])["bytes_to_write"]
    used = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda place: used._replace(free=said + 1000))
    assert register(pair, tmp_path / "again") == 2
    assert "are free on that disk" in capsys.readouterr().err
    assert register(pair, tmp_path / "images", "--outputs", "warped") == 0


def test_the_most_that_waits_is_what_is_said() -> None:
    """Two thirds of a field in space, half of one in a plane, whichever of both fields is larger."""
    parameters = Parameters.from_preset("fast")
    for grid, share in ((Grid((60, 70, 50), np.eye(4)), 2 / 3), (Grid((60, 70), np.eye(3)), 1 / 2)):
        one = ["moving_to_fixed.nii.gz"]
        whole = written_bytes(one, grid, parameters)
        assert waiting_bytes(one, grid, parameters) == pytest.approx(share * whole, abs=1)
        assert waiting_bytes(["fixed_to_moving.nii.gz", *one, "warped.nii.gz"], grid, parameters) == (
            waiting_bytes(one, grid, parameters)
        )
        assert waiting_bytes(["warped.nii.gz"], grid, parameters) == 0


def test_how_much_is_written_is_told_before(
    pair: tuple[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert register(pair, tmp_path / "out", "--json-progress") == 0
    events = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    size = sum(path.stat().st_size for path in (tmp_path / "out").iterdir())
    assert "will be written" in events[0]["message"]
    assert size <= events[0]["bytes_to_write"] <= size + 2_000_000


@pytest.mark.parametrize("outputs", ["fixed_to_moving,moving_to_fixed", "warped,log_jacobian,fixed_to_moving"])
@pytest.mark.parametrize("quiet", [[], ["-q"]])
def test_large_files_are_announced_on_standard_error(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], outputs: str, quiet: list[str]
) -> None:
    rng = np.random.default_rng(0)
    grid = Grid((96, 96, 96), np.diag([1.0, 1.0, 1.0, 1.0])[[2, 1, 0, 3]])
    data = rng.uniform(0.5, 1, (8, 8, 8)).repeat(12, 0).repeat(12, 1).repeat(12, 2).astype(np.float32)
    data[:8] = data[-8:] = 0
    for name, shift in (("a", 0), ("b", 3)):
        write_volume(tmp_path / f"{name}.nii.gz", Volume(grid, np.roll(data, shift, 0)))
    options = ["--preset", "fast", "--iterations", "1,1", "--resolutions", "8,8", "--bands", "9,9", "--init", "none"]
    out = tmp_path / "out"
    options += ["-o", out, "--outputs", outputs, *quiet]
    assert run("register", tmp_path / "a.nii.gz", tmp_path / "b.nii.gz", *options) == 0
    told = re.match(r"Up to (\d+) MB will be written to", capsys.readouterr().err)
    size = sum(path.stat().st_size for path in out.iterdir()) / 1e6
    # Rather too much than too little: these smooth fields shrink to a fifth.
    assert size <= int(told[1]) + 1 <= 3 * size


def test_register_carries_a_segmentation_as_apply_does(pair: tuple[str, str], tmp_path: Path) -> None:
    head = read_volume(pair[1])
    bright = np.int32(head.data > np.median(head.data))
    layers = tuple(Volume(head.grid, np.int32(value * bright), "organs") for value in (5, 1))
    segments = (
        Segment("a", "Liver", (1.0, 0.5, 0.25), 0, 5, {"Tags": "Terminology~x"}),
        Segment("b", "Tumor", (0.25, 0.25, 0.25), 1, 1),
    )
    organs, out = tmp_path / "organs.seg.nrrd", tmp_path / "out"
    write_segmentation(organs, Segmentation(layers, segments))
    assert register(pair, out, "--moving-labels", organs) == 0
    assert run("apply", out, organs, "-o", tmp_path / "apart.seg.nrrd") == 0
    assert (out / "segmentation.seg.nrrd").read_bytes() == (tmp_path / "apart.seg.nrrd").read_bytes()
    assert "segmentation.seg.nrrd" in (out / "report.html").read_text(encoding="utf-8")
    assert register(pair, out, "--force", "--moving-labels", organs, "--outputs", "segmentation") == 0
    written = sorted(os.listdir(out))
    assert written == ["result.json", "segmentation.seg.nrrd", "velocity.safetensors"]
