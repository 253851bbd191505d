# SPDX-License-Identifier: Apache-2.0
"""What is said of the jobs of a folder while others work on them."""

from __future__ import annotations

import os
import socket
import time
from pathlib import Path

import pytest
from DeepFLASHRegistrationLib.jobs.job import Job, key_of
from DeepFLASHRegistrationLib.jobs.ledger import PLAN, STATE, Claim, Ledger
from DeepFLASHRegistrationLib.jobs.status import status
from DeepFLASHRegistrationLib.support.errors import InputError


def claimed(ledger: Ledger, name: str) -> Claim:
    """A job that this process works on."""
    claim = ledger.claim(Job(name, lambda: key_of(name), "none"), 3)
    assert isinstance(claim, Claim)
    claim.result.mkdir()
    return claim


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    """Of ten jobs, of which three are done that took 10, 20 and 30 s."""
    ledger = Ledger(tmp_path / "out")
    ledger.plan([f"site/s{number}" for number in range(10)])
    for number in range(3):
        claimed(ledger, f"site/s{number}").complete(None, 10.0 * (number + 1))
    return ledger


def test_each_job_is_done_failed_running_or_waiting(ledger: Ledger) -> None:
    claimed(ledger, "site/s3").give_up("is no image")
    claimed(ledger, "site/s4").try_again("was killed")
    claimed(ledger, "site/s5").interrupted()
    began = time.time()
    running = [claimed(ledger, "site/s6"), claimed(ledger, "site/s7")]
    found = status(ledger.folder)
    assert (found.all, found.done, found.waiting) == (10, 3, 4)
    assert [(each.name, each.message, each.tries) for each in found.failed] == [("site/s3", "is no image", 1)]
    assert {each.name for each in found.running} == {"site/s6", "site/s7"}
    for each in found.running:
        assert (each.host, each.process, each.tries) == (socket.gethostname(), os.getpid(), 1)
        assert abs(time.time() - each.seconds - began) < 2
    # Two at once, 20 s each: both that run, and four besides.
    assert found.seconds_left == pytest.approx((2 * 20 + 4 * 20) / 2, abs=2)
    again = found.to_dict()
    assert again["failed"] == [{"name": "site/s3", "message": "is no image", "tries": 1}]
    running[0].complete(None, 20.0)
    assert status(ledger.folder).done == 4
    assert running[1].complete(None, 20.0)


def test_who_was_killed_runs_no_more(ledger: Ledger) -> None:
    claim = claimed(ledger, "site/s3")
    claim._lock.release()  # as the system does when a process ends
    found = status(ledger.folder)
    assert (found.running, found.waiting, found.seconds_left) == ((), 7, None)


def test_asking_changes_nothing(ledger: Ledger) -> None:
    claimed(ledger, "site/s3")
    before = sorted((path, path.stat().st_mtime_ns) for path in ledger.folder.rglob("*"))
    status(ledger.folder)
    assert sorted((path, path.stat().st_mtime_ns) for path in ledger.folder.rglob("*")) == before


def test_a_folder_without_jobs_is_refused_and_damaged_states_are_no_jobs(ledger: Ledger, tmp_path: Path) -> None:
    for folder in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(InputError, match=r"no jobs were begun there\. Name the folder"):
            status(folder)
    claimed(ledger, "site/s3")
    (state,) = (path for path in (ledger.folder / STATE).glob("*.json") if path.name != PLAN)
    for text in (
        "",
        "{",
        '{"format": 1, "key": "x", "name": 3, "tries": []}',
        '{"format": 1, "key": "x", "name": "a"}',
    ):
        state.write_text(text)
        assert status(ledger.folder).running == ()
    for text in ("", "[]", '{"jobs": 3}'):
        (ledger.folder / STATE / PLAN).write_text(text)
        with pytest.raises(InputError, match="what is known of its jobs cannot be read"):
            status(ledger.folder)


def test_the_plan_is_that_of_the_run_that_began_last(ledger: Ledger) -> None:
    ledger.plan(["site/s0", "site/s1", "other"])
    found = status(ledger.folder)
    assert (found.all, found.done, found.waiting) == (3, 2, 1)
    # A later run takes it for no job.
    assert Ledger(ledger.folder).folder == ledger.folder
    assert status(ledger.folder).all == 3
