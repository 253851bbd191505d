# SPDX-License-Identifier: Apache-2.0
"""A series as jobs: what fails stops nothing else, and what decides a result is part of its key."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import made_series
import numpy as np
import pytest
from DeepFLASHRegistrationLib.cohorts.many import Settings
from DeepFLASHRegistrationLib.cohorts.series import How, SeriesRun, reference_labels
from DeepFLASHRegistrationLib.cohorts.series_summary import write_series_summary
from DeepFLASHRegistrationLib.imaging import io
from DeepFLASHRegistrationLib.imaging.time_series import read_series
from DeepFLASHRegistrationLib.imaging.volume import Volume
from DeepFLASHRegistrationLib.jobs.ledger import Done, Failed
from DeepFLASHRegistrationLib.problem.parameters import Parameters
from DeepFLASHRegistrationLib.process.tasks import TASKS
from DeepFLASHRegistrationLib.results.velocity import load_result
from DeepFLASHRegistrationLib.support.errors import Cancelled, InputError

pytest.importorskip("torch")

QUICK = Settings(Parameters(resolutions=(1,), bands=(7,), iterations=(3,)), threads=1)


def files(folder: Path, beat: tuple[float, ...] = made_series.BEAT[:4]) -> list[Path]:
    """The items of the heartbeat, each in a file of its own."""
    paths = [folder / f"{number}.nii.gz" for number in range(len(beat))]
    for path, frame in zip(paths, made_series.frames(beat), strict=True):
        io.write_volume(path, Volume(made_series.GRID, frame))
    return paths


def jobs(paths: list[Path], out: Path, settings: Settings = QUICK, **how: Any) -> dict[str, Any]:
    run = SeriesRun(read_series(paths), out, settings, How(**how))
    return {job.name: job for job in run.open}


def test_an_item_that_fails_stops_no_other_and_is_all_that_is_done_again(tmp_path: Path) -> None:
    paths, out = files(tmp_path), tmp_path / "out"
    run = SeriesRun(read_series(paths), out, QUICK, How())
    lost = paths[2].read_bytes()
    paths[2].unlink()
    ended: dict[str, Any] = {}
    run.run(lambda end: ended.update({end.job.name: end.result}))
    assert {name for name, result in ended.items() if isinstance(result, Failed)} == {"items/002"}
    notes = json.loads((out / "items" / "003" / "result.json").read_text())["notes"]
    assert any("has no result to start from; the search started from rest" in note for note in notes)
    with pytest.raises(InputError, match="1 items have no result yet"):
        run.write_warped()
    write_series_summary(run, {})
    rows = (out / "series.csv").read_text().splitlines()
    assert rows[3].startswith("2,,failed,")
    assert "no such file" in rows[3]
    paths[2].write_bytes(lost)
    again = SeriesRun(read_series(paths), out, QUICK, How())
    assert [job.name for job in again.open] == ["items/002"]
    again.run(lambda end: None)
    assert all(isinstance(item.result, Done) for item in again.items())
    assert again.write_warped() == out.absolute() / "warped.nii.gz"


def test_in_one_process_after_the_other_it_is_the_same(tmp_path: Path) -> None:
    paths, out = files(tmp_path), tmp_path / "out"
    SeriesRun(read_series(paths), out / "many", QUICK, How(reference=1)).run(lambda end: None)
    ended: list[str] = []

    def work(job: Any, arguments: dict[str, Any]) -> Any:
        if job.name == "items/003" and "items/003" not in ended:
            ended.append(job.name)
            raise Cancelled
        return TASKS[job.task](Quiet(), arguments)

    run = SeriesRun(read_series(paths), out / "one", QUICK, How(reference=1))
    with pytest.raises(Cancelled):
        run.run_here(work)
    again = SeriesRun(read_series(paths), out / "one", QUICK, How(reference=1))
    assert 0 < len(again.open) < len(run.open)
    again.run_here(work, lambda end: ended.append(end.job.name))
    assert ended == ["items/003", *(job.name for job in again.open)]
    for one, other in zip(run.items(), again.items(), strict=True):
        assert one.result == other.result
        found = [load_result(out / name / "items" / one.folder.name).deformation for name in ("one", "many")]
        np.testing.assert_array_equal(found[0].velocity, found[1].velocity)


class Quiet:
    """What a task tells, told to nobody."""

    def progress(self, event: Any) -> None:
        """Nobody listens."""

    def cancelled(self) -> bool:
        """Never."""
        return False


def test_both_sides_of_the_reference_are_chains_and_all_else_follows_them(tmp_path: Path) -> None:
    found = jobs(files(tmp_path), tmp_path / "out", reference=1, smooth=0.5)
    after = {name: [job.name for job in each.after] for name, each in found.items()}
    assert after["items/000"] == after["items/002"] == []
    assert after["items/003"] == ["items/002"]
    assert after["items/001"] == ["items/002"]
    assert after["smoothed/001"] == ["items/001"]
    assert after["smoothed/000"] == ["items/000", "items/001", "items/002"]
    start = found["items/003"].arguments["start"]
    assert start == {"neighbour": str((tmp_path / "out").absolute() / "items" / "002")}
    alone = jobs(files(tmp_path), tmp_path / "other", reference=1, independent=True)
    assert not any(job.after for name, job in alone.items() if name != "items/001")


def test_keys_tell_all_that_decides_a_result_apart_and_nothing_else(tmp_path: Path) -> None:
    first, second = tmp_path / "a", tmp_path / "b"
    first.mkdir()
    second.mkdir()
    paths = files(first)
    keys = {name: job.key for name, job in jobs(paths, tmp_path / "0").items()}
    # Where files lie does not count, nor workers or threads.
    elsewhere = jobs(files(second), tmp_path / "1", Settings(QUICK.parameters, threads=2, workers=1))
    assert {name: job.key for name, job in elsewhere.items()} == keys
    # An item decides over those that start from it, and over nothing on the other side.
    frame = made_series.frames()[2]
    frame[8, 8, 8] += 0.1
    io.write_volume(paths[2], Volume(made_series.GRID, frame))
    changed = jobs(paths, tmp_path / "2")
    assert {name for name, job in changed.items() if job.key != keys[name]} == {"items/002", "items/003"}
    mask = tmp_path / "mask.nii.gz"
    io.write_volume(mask, Volume(made_series.GRID, (made_series.labels(0.0) > 0).astype(np.uint8)))
    ways = ({"reference": "mean"}, {"independent": True}, {"reference": 1}, {"mask": str(mask)})
    for number, how in enumerate(ways, 3):
        other = jobs(paths, tmp_path / str(number), **how)
        assert other["items/003"].key != changed["items/003"].key
        assert other["items/003"].arguments["pair"]["fixed_mask"] == how.get("mask")


def test_labels_of_another_dimension_or_place_are_refused(tmp_path: Path) -> None:
    series = read_series(files(tmp_path))
    flat = tmp_path / "flat.nii.gz"
    grid = made_series.pairs.box((18, 20), 5.0)
    io.write_volume(flat, Volume(grid, np.ones(grid.shape, np.uint8)))
    with pytest.raises(InputError, match="Pass images of the same dimension"):
        reference_labels(flat, series)
