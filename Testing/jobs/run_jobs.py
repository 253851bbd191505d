# SPDX-License-Identifier: Apache-2.0
"""A run of jobs in a process of its own, to be killed: `run_jobs.py OUT LOG COUNT SECONDS RUNS`, of
which RUNS run at once."""

from __future__ import annotations

import os
import sys
from collections import Counter
from pathlib import Path
from typing import Any

from DeepFLASHRegistrationLib.jobs.job import Job, key_of
from DeepFLASHRegistrationLib.jobs.ledger import RECORD, STATE, Ledger
from DeepFLASHRegistrationLib.jobs.pool import Ended, Pool
from DeepFLASHRegistrationLib.jobs.worker import Worker
from DeepFLASHRegistrationLib.process import RegistrationProcess

HERE = Path(__file__).resolve().parent


def job(log: Path, text: str, **more: Any) -> Job:
    """A job that makes OUT/<text>/text.txt."""
    arguments = {"log": str(log), "text": text, **more}
    return Job(text, lambda: key_of({"text": text, "more": list(more.get("ends", ()))}), "make", arguments)


def process() -> RegistrationProcess:
    """A process that knows the tasks."""
    return RegistrationProcess(tasks="job_tasks", environment={"PYTHONPATH": str(HERE)})


def pool(out: Path, workers: int = 1, tries: int = 3) -> Pool:
    """Processes that work on jobs of a folder."""
    ledger = Ledger(out)
    return Pool(lambda _: Worker(ledger, process(), tries), workers)


def run(out: Path, jobs: list[Job], workers: int = 1, tries: int = 3) -> dict[str, Ended]:
    """Runs jobs; what became of each."""
    ended: dict[str, Ended] = {}

    def take(end: Ended) -> None:
        assert end.job.name not in ended
        ended[end.job.name] = end

    pool(out, workers, tries).run(jobs, take)
    return ended


def begun(log: Path) -> Counter[str]:
    """How often each job was begun."""
    return Counter(line.split()[0] for line in log.read_text().splitlines()) if log.exists() else Counter()


def whole(out: Path) -> list[str]:
    """Names of the results, each of which is whole."""
    folders = [folder for folder in out.iterdir() if folder.name != STATE]
    for folder in folders:
        assert sorted(os.listdir(folder)) == [RECORD, "text.txt"]
        assert (folder / "text.txt").read_text() == folder.name
    return sorted(folder.name for folder in folders)


def is_gone(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    status = Path(f"/proc/{pid}/stat")
    return status.exists() and status.read_text().rpartition(")")[2].split()[0] == "Z"


if __name__ == "__main__":
    _out, _log, _count, _seconds, _runs = sys.argv[1:]
    more = {"seconds": float(_seconds), "runs": int(_runs)}
    run(Path(_out), [job(Path(_log), f"t{number}", **more) for number in range(int(_count))])
