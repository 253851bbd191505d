# SPDX-License-Identifier: Apache-2.0
"""How many pairs run at once, and on how many threads: as many as processors, memory and pairs last for."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from DeepFLASHRegistrationLib.cohorts import many as many_module
from DeepFLASHRegistrationLib.cohorts.many import Many, Processes, Settings, _shares, shared_out
from DeepFLASHRegistrationLib.cohorts.pairs import read_pairs
from DeepFLASHRegistrationLib.imaging.grid import Grid
from DeepFLASHRegistrationLib.imaging.io import read_volume, write_volume
from DeepFLASHRegistrationLib.imaging.volume import Volume
from DeepFLASHRegistrationLib.jobs.job import Job
from DeepFLASHRegistrationLib.problem.parameters import Parameters
from DeepFLASHRegistrationLib.registration.needs import sizes
from DeepFLASHRegistrationLib.support import memory


@pytest.fixture
def many(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Many:
    """Five pairs, one of them large and one broken, on a computer with four processors."""
    for name, size in (("small", 20), ("large", 100)):
        data = np.zeros((size,) * 3, np.float32)
        data[2:-2, 2:-2, 2:-2] = 1
        data[size // 2] *= 2
        write_volume(tmp_path / f"{name}.nii.gz", Volume(Grid((size,) * 3, np.diag([2.0, 2, 2, 1])), data))
    (tmp_path / "broken.nii.gz").write_text("x")
    lines = ["small,small,a", "small,small,b", "large,large,c", "broken,small,d", "small,large,e"]
    (tmp_path / "pairs.csv").write_text(
        "fixed,moving,output\n" + "".join(line.replace(",", ".nii.gz,", 2) + "\n" for line in lines)
    )
    settings = Settings(Parameters.from_preset("default"), threads=4)
    return Many(read_pairs(tmp_path / "pairs.csv", tmp_path / "out"), tmp_path / "out", settings)


def shares(many, device):
    """Pairs at once, and threads of each."""
    pairs = many.pairs.rows
    return _shares(pairs, many.settings, device, len(many.open))


def test_a_thread_for_each_pair_and_no_more_pairs_than_there_are(many: Many, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "free_bytes", lambda: 1 << 40)
    assert shares(many, "cpu") == (4, 1)
    many.open = many.open[:2]
    assert shares(many, "cpu") == (2, 2)
    many.open = many.open[:1]
    assert shares(many, "cpu") == (1, 4)


def test_a_gpu_gets_one_pair_at_a_time(many: Many) -> None:
    assert shares(many, "cuda") == (1, 4)


def test_several_gpus_are_shared_out_by_one_process_each(many: Many, monkeypatch: pytest.MonkeyPatch) -> None:
    assert _shares(many.pairs.rows, many.settings, "cuda", 5, gpus=3) == (3, 1)
    for seen, wanted in (("", ["0", "1", "2", "0"]), ("GPU-a, GPU-b,GPU-c", ["GPU-a", "GPU-b", "GPU-c", "GPU-a"])):
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", seen)
        with Processes() as processes:
            processes.share(3)
            given = [processes.next(number)._environment["CUDA_VISIBLE_DEVICES"] for number in range(4)]
        assert given == wanted
    with Processes() as processes:
        processes.share(1)
        assert processes.next()._environment == {}


def test_the_memory_that_is_given_to_each_decides_as_well(many: Many, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "free_bytes", lambda: 10 * 2**30)
    for gigabytes, workers in ((2, 4), (4, 2), (6, 1), (20, 1)):
        many.settings = replace(many.settings, memory=gigabytes * 2**30)
        assert shares(many, "cpu")[0] == workers


@pytest.mark.parametrize(("jobs", "calls"), [(10, 3), (3, 3), (2, 5), (7, 1)])
def test_each_of_several_calls_begins_with_a_part_of_its_own(jobs: int, calls: int) -> None:
    every = [Job(str(number), str, "none") for number in range(jobs)]
    orders = [shared_out(every, (number, calls)) for number in range(1, calls + 1)]
    own = [len(every[number::calls]) for number in range(calls)]
    begun = [job.name for order, count in zip(orders, own) for job in order[:count]]
    assert sorted(begun) == sorted(job.name for job in every)  # each by one of them
    for order in orders:
        assert sorted(job.name for job in order) == sorted(job.name for job in every)  # and all by all, if need be


def test_the_largest_pair_decides_how_many_the_memory_lasts_for(many: Many, monkeypatch: pytest.MonkeyPatch) -> None:
    image = read_volume(many.pairs.rows[2].files.fixed)
    inside = image.with_data(np.ones_like(image.data, np.uint8))
    found = sizes(image.grid, image.grid, inside, [many.settings.parameters])
    need = memory.needed_bytes(found)[0] / memory.USABLE_FRACTION
    for times, workers in ((0.5, 1), (1.95, 1), (2.05, 2), (3.5, 3), (50, 4)):
        monkeypatch.setattr(memory, "free_bytes", lambda times=times: int(times * need))
        assert shares(many, "cpu")[0] == workers
    monkeypatch.setattr(memory, "free_bytes", lambda: None)
    assert shares(many, "cpu") == (4, 1)


def test_where_there_may_be_a_gpu_a_process_is_asked_that_then_registers(monkeypatch: pytest.MonkeyPatch) -> None:
    torch = pytest.importorskip("torch")
    monkeypatch.setattr(many_module, "_GPU_SIGNS", (__file__,))
    with Processes() as processes:
        assert many_module._resolved("cuda:1", processes) == "cuda:1"
        assert many_module._resolved("auto", processes) == ("cuda" if torch.cuda.is_available() else "cpu")
        process = processes.next()
        assert process.pid is not None
        assert processes.next().pid is None  # a new one
        process.close()
