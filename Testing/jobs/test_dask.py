# SPDX-License-Identifier: Apache-2.0
"""Jobs by the workers of a Dask cluster on this computer: one that is killed, runs that are interrupted, addresses that
are refused."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import run_jobs
from DeepFLASHRegistrationLib.jobs import dask_workers
from DeepFLASHRegistrationLib.jobs.dask_clusters import check_program, checked_address, running_scheduler
from DeepFLASHRegistrationLib.jobs.dask_workers import DaskWorkers
from DeepFLASHRegistrationLib.jobs.ledger import STATE, Done, Failed, Ledger
from DeepFLASHRegistrationLib.jobs.pool import Ended, Pool
from DeepFLASHRegistrationLib.support.errors import InputError
from run_jobs import begun, job, whole
from run_until import within

pytest.importorskip("distributed")
pytestmark = pytest.mark.skipif(os.name != "posix", reason="needs POSIX signals")
PROCESS = {"tasks": "job_tasks", "environment": {"PYTHONPATH": str(run_jobs.HERE)}}


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    """With three workers, each a process."""
    from distributed import LocalCluster

    options = {"host": "127.0.0.1", "dashboard_address": None, "silence_logs": 60, "worker_dashboard_address": None}
    with LocalCluster(n_workers=3, threads_per_worker=1, **options) as cluster:
        yield cluster


@pytest.fixture(scope="module")
def client(cluster: Any) -> Iterator[Any]:
    with running_scheduler(cluster.scheduler_address) as client:
        yield client


def pool(client: Any, ledger: Ledger, tries: int = 3) -> Pool:
    return Pool(DaskWorkers(client, 3, PROCESS).seats(ledger, tries), 3, apart=True)


def run(client: Any, ledger: Ledger, jobs: list[Any], tries: int = 3) -> dict[str, Ended]:
    ended: dict[str, Ended] = {}
    pool(client, ledger, tries).run(jobs, lambda end: ended.update({end.job.name: end}))
    return ended


def test_all_is_done_though_a_worker_is_killed(client: Any, tmp_path: Path) -> None:
    out, log = tmp_path / "out", tmp_path / "log.txt"
    ledger = Ledger(out)
    killed: list[str] = []

    def kill(end: Ended) -> None:
        """Once three jobs have ended, the worker that is the next to begin one is killed, with what it began."""
        ended[end.job.name] = end
        if not killed and len(ended) >= 3:
            count = sum(begun(log).values())
            assert within(20, lambda: sum(begun(log).values()) > count)
            name, _, child, parent = log.read_text().splitlines()[count].split()
            os.kill(int(parent), signal.SIGKILL)
            killed.extend((name, child))

    ended: dict[str, Ended] = {}
    jobs = [job(log, f"t{number}", seconds=0.5) for number in range(8)]
    pool(client, ledger).run(jobs, kill)
    name, child = killed
    assert whole(out) == sorted(ended) == [f"t{number}" for number in range(8)]
    assert begun(log) == {f"t{number}": 1 + (f"t{number}" == name) for number in range(8)}
    assert ended[name].result.tries == 2
    assert within(5, lambda: run_jobs.is_gone(int(child)))
    assert len({line.split()[3] for line in log.read_text().splitlines()}) >= 3
    again = run(client, Ledger(out), jobs)
    assert all(end.before for end in again.values())
    assert sum(begun(log).values()) == 9


def test_what_fails_is_tried_again_by_another_worker_and_wrong_input_is_not(client: Any, tmp_path: Path) -> None:
    out, log = tmp_path / "out", tmp_path / "log.txt"
    missing = job(log, "missing")
    missing.make_key = lambda: Ledger(out).digests().of(out / "missing.nii")
    jobs = [
        job(log, "full", ends=["full"]),
        job(log, "input", ends=["input"]),
        missing,
        job(log, "memory", ends=["memory"]),
    ]
    ended = run(client, Ledger(out), jobs)
    assert whole(out) == ["full", "memory"]
    assert begun(log) == {"full": 2, "memory": 2, "input": 1}
    places = [line.split()[3] for line in log.read_text().splitlines() if line.startswith("full")]
    assert len(set(places)) == 2
    assert ended["input"].result == Failed("input: is nothing to work on.", 1)
    assert "missing.nii: cannot be read" in ended["missing"].result.message


@pytest.mark.parametrize(
    ("allowed", "message"),
    [
        (3, "The whole run, or its computer, ended while it worked on this (1 of 1 tries)."),
        (0, "Its workers ended each time, and Dask does not try it again."),
    ],
)
def test_what_ends_its_worker_is_given_up(
    cluster: Any, client: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, allowed: int, message: str
) -> None:
    monkeypatch.setattr(cluster.scheduler, "allowed_failures", allowed)
    out, log = tmp_path / "out", tmp_path / "log.txt"
    jobs = [job(log, "a", ends=["parent killed"] * 5), job(log, "b")]
    ended = run(client, Ledger(out), jobs, tries=1 if allowed else 2)
    assert ended["a"].result.message == message
    assert begun(log) == {"a": 1, "b": 1}
    assert whole(out) == ["b"]


def test_an_interrupt_ends_what_the_workers_do_and_counts_as_no_try(client: Any, tmp_path: Path) -> None:
    out, log = tmp_path / "out", tmp_path / "log.txt"
    jobs = [job(log, "a"), *(job(log, name, seconds=60) for name in "bc"), *(job(log, name) for name in "de")]

    def interrupt(_: object) -> None:
        assert within(20, lambda: {"b", "c"} <= set(begun(log)))
        raise KeyboardInterrupt

    began = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        pool(client, Ledger(out)).run(jobs, interrupt)
    assert time.monotonic() - began < 25
    children = [int(line.split()[2]) for line in log.read_text().splitlines() if line[0] in "bc"]
    assert within(5, lambda: all(map(run_jobs.is_gone, children)))
    assert not list((out / STATE).glob("*.work"))
    ended = run(client, Ledger(out), [job(log, name) for name in "abcde"])
    assert [ended[name].result.tries for name in "bc"] == [1, 1]
    assert all(isinstance(end.result, Done) for end in ended.values())


def test_workers_that_see_another_folder_or_have_another_version_are_refused(
    client: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log, ledger = tmp_path / "log.txt", Ledger(tmp_path / "out")
    with monkeypatch.context() as patch:
        patch.setattr(dask_workers, "__version__", "0.0.1")
        with pytest.raises(InputError, match=r"has version .* of version 0\.0\.1\. Install the same everywhere"):
            run(client, ledger, [job(log, "a")])
    (tmp_path / "out" / STATE).rmdir()
    with pytest.raises(InputError, match=r"is not seen by the worker on .* a file system that all workers share"):
        run(client, ledger, [job(log, "a")])
    assert not log.exists()


def test_schedulers_and_workers_that_lack_this_program_are_refused(client: Any) -> None:
    with pytest.raises(InputError, match=r"the scheduler lacks this program, .* Install the same where they run"):
        check_program(client, "no_such_package")
    with pytest.raises(InputError, match=r"has version .* of this program, and the command is of version 0\.0\.1\."):
        check_program(client, version="0.0.1")
    check_program(client)


@pytest.mark.parametrize(
    ("address", "message"),
    [
        ("tcp://10.0.0.3:8786", "whoever reaches it .* ssh -L 8786:127.0.0.1:8786 10.0.0.3"),
        ("login1:8786", "whoever reaches it"),
        ("tcp://127.0.0.1.example.org:8786", "whoever reaches it"),
        ("http://127.0.0.1:8786", "is no address such as tcp://127.0.0.1:8786"),
        ("tcp://", "is no address"),
    ],
)
def test_a_scheduler_that_others_reach_is_refused(address: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        checked_address(address)


@pytest.mark.parametrize("address", ["tcp://127.0.0.1:1", "localhost:8786", "tcp://[::1]:8786", "tls://node7:8786"])
def test_other_schedulers_may_be_asked(address: str) -> None:
    checked_address(address)
