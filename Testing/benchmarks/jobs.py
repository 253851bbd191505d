# SPDX-License-Identifier: Apache-2.0
"""What the engine of jobs costs beside the work: many jobs that only sleep, worked on by processes of this computer.

    python Testing/benchmarks/jobs.py [--jobs 10000] [--milliseconds 10] [--workers 2] [--folder FOLDER]
    python Testing/benchmarks/jobs.py --ledger --jobs 40000 [--folder FOLDER]

Printed: seconds in all against what the jobs sleep, the difference for each job and process, of every tenth of the jobs
(which grows if something is searched through again and again), and the memory of this process after each tenth. With
--ledger, what the ledger alone takes of each job, and of asking for all of them once they are done, on the file system
of the folder.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

LIBRARY = str(Path(__file__).resolve().parents[2] / "DeepFLASHRegistration")
sys.path.insert(0, LIBRARY)

from DeepFLASHRegistrationLib.jobs.job import Job, key_of
from DeepFLASHRegistrationLib.jobs.ledger import Done, Ledger
from DeepFLASHRegistrationLib.jobs.pool import Ended, Pool
from DeepFLASHRegistrationLib.jobs.status import status
from DeepFLASHRegistrationLib.jobs.worker import Worker
from DeepFLASHRegistrationLib.process import RegistrationProcess
from DeepFLASHRegistrationLib.support.memory import resident_bytes


def sleep(control: Any, arguments: dict[str, Any]) -> dict[str, float]:
    """The task: takes some time, and leaves a small file."""
    time.sleep(arguments["seconds"])
    folder = Path(arguments["folder"])
    folder.mkdir()
    (folder / "result.json").write_text("{}", encoding="utf-8")
    return {"seconds": arguments["seconds"]}


TASKS = {"sleep": sleep}


def process() -> RegistrationProcess:
    """A process that knows the task."""
    return RegistrationProcess(tasks="jobs", environment={"PYTHONPATH": str(Path(__file__).parent)})


def look_at_ledger(count: int, folder: Path) -> None:
    """Claims and completes jobs without any process, and asks for them again."""

    def timed(what: str, work: Callable[[], Any]) -> None:
        began = time.perf_counter()
        work()
        seconds = time.perf_counter() - began
        print(f"{what:40} {seconds:8.2f} s {1000 * seconds / count:8.3f} ms for each job", flush=True)

    def complete(ledger: Ledger) -> None:
        for job in jobs:
            claim = ledger.claim(job, 3)
            claim.result.mkdir()
            (claim.result / "result.json").write_text("{}", encoding="utf-8")
            claim.complete({"seconds": 1.0}, 1.0)

    jobs = [Job(f"j{number:06d}", lambda number=number: key_of(number), "none") for number in range(count)]
    print(f"{count} jobs in {folder}")
    timed("claimed, filled and completed", lambda: complete(Ledger(folder)))
    ledger = Ledger(folder)
    ledger.plan(job.name for job in jobs)
    timed("looked at again (place)", lambda: [ledger.place(job) for job in jobs])
    timed("claimed again", lambda: [ledger.claim(job, 3) for job in jobs])
    timed("what each gave (done)", lambda: [ledger.done(job.name) for job in jobs])
    timed("status", lambda: status(folder))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--jobs", type=int, default=10_000)
    parser.add_argument("--milliseconds", type=float, default=10.0, help="that each sleeps")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--folder", help="in which a folder of results is made (default: the temporary folder)")
    parser.add_argument("--ledger", action="store_true", help="the ledger alone")
    options = parser.parse_args()
    if options.ledger:
        with tempfile.TemporaryDirectory(dir=options.folder) as name:
            look_at_ledger(options.jobs, Path(name) / "out")
        return
    seconds = options.milliseconds / 1000
    with tempfile.TemporaryDirectory(dir=options.folder) as name:
        ledger = Ledger(Path(name) / "out")
        jobs = [
            Job(f"j{number:06d}", lambda number=number: key_of(number), "sleep", {"seconds": seconds})
            for number in range(options.jobs)
        ]
        marks: list[tuple[int, float, float, int]] = []
        count = 0

        def ended(end: Ended) -> None:
            nonlocal count
            assert isinstance(end.result, Done), end.result
            count += 1
            if count == 1 or count % max(1, options.jobs // 10) == 0:
                marks.append((count, time.perf_counter(), time.process_time(), resident_bytes()))

        Pool(lambda _: Worker(ledger, process()), options.workers).run(jobs, ended)
        load = os.getloadavg()[0] if hasattr(os, "getloadavg") else float("nan")
        print(f"{count} jobs of {options.milliseconds:g} ms, {options.workers} processes, load at the end {load:.1f}")
        print(f"{'jobs':>8} {'ms beside each':>15} {'ms of this process':>19} {'MB':>7}")
        for (first, began, busy, _), (last, end, after, memory) in zip(marks, marks[1:]):
            done = last - first
            beside = (end - began) * options.workers / done - seconds
            print(f"{last:8} {1000 * beside:15.2f} {1000 * (after - busy) / done:19.2f} {memory / 2**20:7.1f}")
        (first, began, *_), (last, end, *_) = marks[0], marks[-1]
        beside = (end - began) * options.workers / (last - first) - seconds
        print(f"in all {end - began:.1f} s; {1000 * beside:.2f} ms beside each job")


if __name__ == "__main__":
    main()
