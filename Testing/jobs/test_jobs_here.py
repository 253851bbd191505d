# SPDX-License-Identifier: Apache-2.0
"""Jobs that a process does itself, for all that work in a folder."""

from __future__ import annotations

import errno
import multiprocessing
import time
from pathlib import Path

import pytest
from DeepFLASHRegistrationLib.jobs.here import done_here
from DeepFLASHRegistrationLib.jobs.job import Job
from DeepFLASHRegistrationLib.jobs.ledger import Done, Failed, Ledger
from DeepFLASHRegistrationLib.support.errors import Cancelled, InputError


def job(key: str = "k") -> Job:
    return Job("averages/1", lambda: key, "average")


def fill(folder: Path) -> int:
    folder.mkdir()
    (folder / "made.txt").write_text("x")
    return 7


def slowly(out: Path, slow: float, found: multiprocessing.Queue) -> None:
    def make(folder: Path) -> int:
        time.sleep(slow)
        return fill(folder)

    end = done_here(Ledger(out), job(), make)
    found.put((end.result.value, end.before))


def test_it_is_done_once_and_known_again(tmp_path: Path) -> None:
    end = done_here(Ledger(tmp_path), job(), fill)
    assert isinstance(end.result, Done)
    assert (end.result.value, end.before) == (7, False)
    end = done_here(Ledger(tmp_path), job(), lambda folder: pytest.fail("done again"))
    assert (end.result.value, end.before) == (7, True)
    with pytest.raises(InputError, match="holds the result of other inputs"):
        done_here(Ledger(tmp_path), job("other"), fill)
    assert done_here(Ledger(tmp_path, force=True), job("other"), lambda folder: fill(folder) + 1).result.value == 8


def test_whoever_comes_first_does_it_and_the_others_wait(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    found = context.Queue()
    both = [context.Process(target=slowly, args=(tmp_path, 1.0, found)) for _ in range(2)]
    for each in both:
        each.start()
    for each in both:
        each.join(60)
    assert sorted((found.get(timeout=10), found.get(timeout=10))) == [(7, False), (7, True)]


def test_who_waits_can_be_cancelled(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path)
    claim = ledger.claim(job(), 3)
    asked = []

    def cancelled() -> bool:
        asked.append(None)
        return len(asked) > 3

    with pytest.raises(Cancelled, match="while another process worked on averages/1"):
        done_here(Ledger(tmp_path), job(), fill, cancelled=cancelled)
    claim.interrupted()
    assert done_here(Ledger(tmp_path), job(), fill, cancelled=cancelled).result.value == 7


def test_what_was_killed_at_it_is_followed_by_another(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    nothing = context.Queue()
    killed = context.Process(target=slowly, args=(tmp_path, 600.0, nothing))
    killed.start()
    state = tmp_path / ".jobs"
    end = time.monotonic() + 60
    while not list(state.glob("*.work/*")) and time.monotonic() < end:
        time.sleep(0.05)
    killed.kill()
    killed.join(30)
    found = done_here(Ledger(tmp_path), job(), fill)
    assert (found.result.value, found.before, found.result.tries) == (7, False, 2)


def test_what_fails_is_told_and_what_is_cancelled_does_not_count(tmp_path: Path) -> None:
    def cancelled(folder: Path) -> None:
        folder.mkdir()
        raise Cancelled("stop")

    def full(folder: Path) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    for _ in range(4):
        with pytest.raises(Cancelled):
            done_here(Ledger(tmp_path), job(), cancelled)
    end = done_here(Ledger(tmp_path), job(), full)
    assert isinstance(end.result, Failed)
    assert end.result.message == (f"{tmp_path}: the disk is full. Free some room, and run the same command again.")
    # By a later run it is tried again.
    assert done_here(Ledger(tmp_path), job(), fill).result.value == 7
