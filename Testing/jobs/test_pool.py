# SPDX-License-Identifier: Apache-2.0
"""Jobs and their processes: worked on once each, tried again where that may help, resumed after any end."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import run_jobs
from DeepFLASHRegistrationLib.jobs.ledger import RECORD, STATE, Done, Failed, Ledger
from DeepFLASHRegistrationLib.jobs.pool import Ended, Pool
from DeepFLASHRegistrationLib.jobs.worker import Worker
from run_jobs import begun, is_gone, job, run, whole
from run_until import within

LIBRARY = Path(sys.modules["DeepFLASHRegistrationLib"].__file__).resolve().parents[1]
posix_only = pytest.mark.skipif(os.name != "posix", reason="needs POSIX signals")


@pytest.fixture
def log(tmp_path: Path) -> Path:
    return tmp_path / "log.txt"


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "out"


def started(out: Path, log: Path, count: int, seconds: float, at_once: int = 1) -> subprocess.Popen[bytes]:
    """A run in a process of its own; of several at once, none ends a job before all have begun one."""
    command = [sys.executable, run_jobs.__file__, out, log, str(count), str(seconds), str(at_once)]
    return subprocess.Popen(command, env={**os.environ, "PYTHONPATH": str(LIBRARY)})


def test_each_job_is_done_once_and_never_again(out: Path, log: Path) -> None:
    names = [f"t{number}" for number in range(12)]
    ended = run(out, [job(log, name) for name in names], workers=3)
    assert whole(out) == sorted(ended) == sorted(names)
    assert all(isinstance(end.result, Done) and not end.before and end.result.tries == 1 for end in ended.values())
    assert ended["t11"].result.value == {"length": 3}
    assert json.loads((out / "t3" / RECORD).read_text())["value"] == {"length": 2}
    assert not [name for name in os.listdir(out / STATE) if name != "inputs.txt"]
    again = run(out, [job(log, name) for name in names], workers=3)
    assert all(end.before for end in again.values())
    assert set(begun(log).values()) == {1}


def test_a_process_is_told_what_it_gets_next(out: Path, log: Path) -> None:
    run(out, [job(log, name) for name in "abcd"])
    lines = [line.split() for line in log.read_text().splitlines()]
    assert [line[:2] for line in lines] == [["a", "b"], ["b", "c"], ["c", "d"], ["d", "None"]]
    assert len({line[2] for line in lines}) == 1  # and it stays warm


def test_a_process_stays_warm_from_one_pool_to_the_next(out: Path, log: Path) -> None:
    kept = [run_jobs.process()]
    ledger = Ledger(out)
    for name in "ab":
        ends = []
        pool = Pool(lambda _: Worker(ledger, kept.pop(), keep=kept.append))
        pool.run([job(log, name)], ends.append)
        assert [isinstance(end.result, Done) for end in ends] == [True]
    assert len({line.split()[2] for line in log.read_text().splitlines()}) == 1
    pid = kept[0].pid
    # Stopped, it is ended.
    pool = Pool(lambda _: Worker(ledger, kept.pop(), keep=kept.append))

    def stop(end: Ended) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        pool.run([job(log, "c"), job(log, "slow", seconds=30)], stop)
    assert kept == []
    assert within(5, lambda: is_gone(pid))


def test_what_was_reserved_for_a_slow_process_goes_to_a_free_one(out: Path, log: Path) -> None:
    run(out, [job(log, "slow", seconds=3), job(log, "a", seconds=0.01), job(log, "b"), job(log, "c")], workers=2)
    order = [line.split()[0] for line in log.read_text().splitlines()]
    pids = {line.split()[0]: line.split()[2] for line in log.read_text().splitlines()}
    assert sorted(order) == ["a", "b", "c", "slow"]
    assert len({pids[name] for name in "abc"}) == 1
    assert pids["slow"] != pids["a"]


def ends(log: Path) -> list[str]:
    """Names of the jobs in the order in which they were begun."""
    return [line.split()[0] for line in log.read_text().splitlines()]


def test_a_job_begins_after_others_whatever_the_order_and_the_number_of_processes(out: Path, log: Path) -> None:
    first, other = job(log, "first", seconds=0.3), job(log, "other")
    second = job(log, "second")
    second.after = (first,)
    last = job(log, "last")
    last.after = (second, other)
    ended = run(out, [last, second, first, other], workers=3)
    order = ends(log)
    assert sorted(order) == ["first", "last", "other", "second"]
    assert order.index("first") < order.index("second") < order.index("last") == 3
    assert all(isinstance(end.result, Done) for end in ended.values())


def test_chains_of_jobs_stay_with_their_processes_which_read_ahead(out: Path, log: Path) -> None:
    jobs = []
    for step in range(3):
        for chain in "ab":
            jobs.append(job(log, f"{chain}{step}", seconds=0.2))
            jobs[-1].after = tuple(jobs[-3:-2])
    run(out, jobs, workers=2)
    lines = {line.split()[0]: line.split()[1:] for line in log.read_text().splitlines()}
    for chain in "ab":
        assert len({lines[f"{chain}{step}"][1] for step in range(3)}) == 1
        assert [lines[f"{chain}{step}"][0] for step in range(3)] == [f"{chain}1", f"{chain}2", "None"]


@posix_only
def test_what_follows_a_job_that_fails_or_is_tried_again_waits_for_its_end(out: Path, log: Path) -> None:
    first = job(log, "first", ends=["input"])
    second = job(log, "second", ends=["killed"])
    second.after = (first,)
    third = job(log, "third")
    third.after = (second,)
    ended = run(out, [first, second, third], workers=2)
    assert ends(log) == ["first", "second", "second", "third"]
    assert isinstance(ended["first"].result, Failed)
    assert whole(out) == ["second", "third"]


@posix_only
def test_a_job_whose_process_is_killed_is_tried_again_after_all_others(out: Path, log: Path) -> None:
    ended = run(out, [job(log, "a", ends=["killed"]), *(job(log, name) for name in "bcd")], workers=2)
    assert whole(out) == list("abcd")
    assert begun(log) == {"a": 2, "b": 1, "c": 1, "d": 1}
    assert [line.split()[0] for line in log.read_text().splitlines()][-1] == "a"
    assert ended["a"].result.tries == 2


@posix_only
def test_a_job_that_always_dies_is_given_up_and_the_rest_is_done(out: Path, log: Path) -> None:
    jobs = [job(log, "a", ends=["killed"] * 4), job(log, "b", ends=["memory", "memory"]), job(log, "c")]
    ended = run(out, jobs)
    assert begun(log) == {"a": 3, "b": 3, "c": 1}
    assert whole(out) == ["b", "c"]
    assert "was killed, probably because memory ran out" in ended["a"].result.message
    assert ended["a"].result.tries == 3
    assert Ledger(out).failed("a").message == ended["a"].result.message
    # The next run has all tries anew: somebody may have mended what was wrong.
    ended = run(out, jobs[:1])
    assert begun(log)["a"] == 5
    assert ended["a"].result.tries == 2
    assert whole(out) == ["a", "b", "c"]


@pytest.mark.parametrize(
    ("end", "message"), [("input", "a: is nothing to work on."), ("full", "could not be written (the disk is full)")]
)
def test_wrong_input_and_a_full_disk_are_not_tried_again(out: Path, log: Path, end: str, message: str) -> None:
    ended = run(out, [job(log, "a", ends=[end]), job(log, "b")])
    assert begun(log) == {"a": 1, "b": 1}
    assert whole(out) == ["b"]
    assert message in ended["a"].result.message
    assert "temporary folder" not in ended["a"].result.message
    assert not list((out / STATE).glob("*.work"))


def test_a_disk_that_is_full_here_may_not_be_so_for_another_computer(out: Path, log: Path) -> None:
    ended = {}
    ledger = Ledger(out)
    pool = Pool(lambda _: Worker(ledger, run_jobs.process(), 3, spread=True))
    pool.run([job(log, "a", ends=["full"])], lambda end: ended.update({end.job.name: end.result}))
    assert begun(log) == {"a": 2}
    assert ended["a"].tries == 2
    assert whole(out) == ["a"]


@pytest.mark.parametrize("when", ["before", "meanwhile"])
@posix_only
def test_a_full_disk_of_the_results_is_told_with_the_remedy(out: Path, log: Path, when: str) -> None:
    """No file of this process may have more than some bytes: neither what a job is begun with, nor its record."""
    import resource

    found = []
    worker = Worker(Ledger(out), run_jobs.process())
    largest = resource.getrlimit(resource.RLIMIT_FSIZE)
    thread = threading.Thread(target=lambda: found.append(worker.attempt(job(log, "a", seconds=0.3))))
    if when == "meanwhile":
        thread.start()
        assert within(20, lambda: begun(log)["a"] == 1)
    resource.setrlimit(resource.RLIMIT_FSIZE, (16, largest[1]))
    try:
        if when == "before":
            thread.start()
        thread.join()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, largest)
        worker.close()
    assert found[0].result.message == f"{out}: the disk is full. Free some room, and run the same command again."
    assert os.listdir(out) == [STATE]
    assert not list((out / STATE).glob("*.work"))
    assert isinstance(run(out, [job(log, "a")])["a"].result, Done)


def test_a_key_that_cannot_be_had_fails_its_job_alone(out: Path, log: Path) -> None:
    broken = job(log, "a")
    broken.make_key = lambda: Ledger(out).digests().of(out / "missing.nii")
    ended = run(out, [broken, job(log, "b")])
    assert isinstance(ended["a"].result, Failed)
    assert "missing.nii: cannot be read" in ended["a"].result.message
    assert whole(out) == ["b"]


@posix_only
def test_a_run_that_is_killed_goes_on_where_it_was(out: Path, log: Path) -> None:
    with started(out, log, 6, 0.15) as process:
        assert within(20, lambda: sum(begun(log).values()) >= 3)
        process.kill()
    before = begun(log)
    done = whole(out)
    assert 2 <= len(done) < 6
    child = int(log.read_text().splitlines()[-1].split()[2])
    assert within(5, lambda: is_gone(child))
    ended = run(out, [job(log, f"t{number}") for number in range(6)])
    assert len(whole(out)) == 6
    assert {name for name, end in ended.items() if end.before} == set(done)
    after = begun(log)
    assert all(after[name] == 1 for name in done)
    assert all(after[name] == before[name] + 1 for name in ended if name not in done)
    assert not [name for name in os.listdir(out / STATE) if name != "inputs.txt"]


@posix_only
def test_what_was_worked_on_whenever_the_run_was_killed_is_not_begun_for_ever(out: Path, log: Path) -> None:
    for _ in range(2):
        with started(out, log, 1, 60) as process:
            count = sum(begun(log).values())
            assert within(20, lambda count=count: sum(begun(log).values()) > count)
            process.kill()
    ended = run(out, [job(log, "t0"), job(log, "t1")], tries=2)
    assert ended["t0"].result.message == "The whole run, or its computer, ended while it worked on this (2 of 2 tries)."
    assert whole(out) == ["t1"]
    assert begun(log)["t0"] == 2
    # It was told; whoever asks once more gets it.
    assert isinstance(run(out, [job(log, "t0")], tries=2)["t0"].result, Done)


@posix_only
def test_two_runs_at_once_share_the_work(out: Path, log: Path) -> None:
    with started(out, log, 8, 0.05, at_once=2) as one, started(out, log, 8, 0.05, at_once=2) as two:
        assert one.wait(60) == two.wait(60) == 0
    assert len(whole(out)) == 8
    assert set(begun(log).values()) == {1}
    assert {int(line.split()[3]) for line in log.read_text().splitlines()} == {one.pid, two.pid}


@posix_only
def test_an_interrupt_ends_all_processes_and_counts_as_no_try(out: Path, log: Path) -> None:
    jobs = [job(log, name, seconds=30 if name in "bc" else 0) for name in "abcd"]

    def interrupt(_: object) -> None:
        assert within(20, lambda: {"b", "c"} <= set(begun(log)))
        raise KeyboardInterrupt

    began = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        run_jobs.pool(out, 2).run(jobs, interrupt)
    assert time.monotonic() - began < 25
    assert whole(out) == ["a"]
    pids = {int(line.split()[2]) for line in log.read_text().splitlines()}
    assert within(5, lambda: all(map(is_gone, pids)))
    ended = run(out, [job(log, name) for name in "abcd"])
    assert [ended[name].result.tries for name in "bc"] == [1, 1]
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
