# SPDX-License-Identifier: Apache-2.0
"""Jobs worked on by the workers of a Dask cluster: each opens the ledger of the folder, which all of them share, claims
the job, has it done by a child process of its own, and settles it. What Dask knows is only who is free.

Dask's messages are pickles, so whoever reaches a scheduler runs what he likes: see `dask_clusters` for which are used.
"""

from __future__ import annotations

import asyncio
import dataclasses
import secrets
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from ..process import RegistrationProcess
from ..support.errors import InputError
from ..support.file_lock import knows_locks
from ..version import __version__
from .job import Job
from .ledger import STATE, Claim, Failed, Ledger, Run
from .worker import Attempt, Tell, Worker

_STOP_SECONDS = 5.0


class DaskWorkers:
    """What a connected `distributed.Client` has to work with."""

    def __init__(self, client: Any, count: int, process: Mapping[str, Any] | None = None) -> None:
        """Starts nothing.

        Args:
            client: a `distributed.Client`.
            count: jobs that are handed to Dask at once.
            process: arguments of the RegistrationProcess that each worker makes.
        """
        self.client = client
        self.count = count
        self._process = dict(process or {})
        self._lock = threading.Lock()
        self._runs: set[str] = set()
        # Of jobs that are to be tried again, the addresses at which they were tried.
        self._tried_at: dict[Job, set[str]] = {}

    def seats(self, ledger: Ledger, tries: int) -> Callable[[int], Seat]:
        """What makes workers for a Pool; each hands one job after the other to Dask."""
        with self._lock:
            self._runs.add(ledger.run.id)
        settings = {
            "version": __version__,
            "folder": str(ledger.folder.absolute()),
            "force": ledger.force,
            "run": dataclasses.asdict(ledger.run),
            "tries": tries,
            "process": self._process,
        }
        return lambda _: Seat(self, ledger, settings)

    def submit(self, job: Job, settings: Mapping[str, Any]) -> Any:
        """Hands a job to Dask, which gives it to a worker that has not tried it yet, if there is one."""
        task = {"name": job.name, "key": job.key, "task": job.task, "arguments": dict(job.arguments)}
        where = {}
        if job in self._tried_at:
            others = [each for each in self.client.nthreads() if each not in self._tried_at[job]]
            where = {"workers": others or None, "allow_other_workers": bool(others)}
        name = f"{job.name}-{secrets.token_hex(4)}"
        return self.client.submit(attempt_there, {**settings, **task}, key=name, pure=False, **where)

    def note(self, job: Job, found: Attempt, address: str) -> None:
        """Remembers where a job was tried that is to be tried again."""
        with self._lock:
            if found == Attempt():
                self._tried_at.setdefault(job, set()).add(address)
            elif found.result is not None:
                self._tried_at.pop(job, None)

    def close(self) -> None:
        """Ends what all workers do for the runs that seats were made for, and the processes that they have for them."""
        with self._lock:
            runs, self._runs = self._runs, set()
        for run in runs:
            # One that is gone does not answer.
            ask = threading.Thread(target=self.client.run, args=(stop_there, run), kwargs={"on_error": "ignore"})
            ask.daemon = True
            ask.start()
            ask.join(2 * _STOP_SECONDS)


class Seat:
    """A worker of a Pool that has a job done by some worker of Dask, and waits for it."""

    def __init__(self, workers: DaskWorkers, ledger: Ledger, settings: Mapping[str, Any]) -> None:
        self._workers = workers
        self._ledger = ledger
        self._settings = settings
        self._closed = False
        self._future: Any = None

    def attempt(self, job: Job, following: Job | None = None, tell: Tell = lambda job, event: None) -> Attempt:
        """As Worker.attempt; what the task tells is heard at its end, and only its notes.

        Raises:
            InputError: the workers cannot work in this folder.
            RuntimeError: the scheduler is gone.
        """
        from distributed import CancelledError, KilledWorker

        if self._closed:
            return Attempt()
        try:
            self._future = self._workers.submit(job, self._settings)
        except (InputError, OSError) as error:  # what it reads is not there
            return Attempt(Failed(str(error), 0))
        try:
            found, told, address = self._future.result()
        except KilledWorker:
            return self._given_up(job)
        except (CancelledError, OSError) as error:
            if self._closed:
                return Attempt()
            raise RuntimeError(
                f"The Dask scheduler does not answer any more ({error or 'it has gone'}). Jobs that were begun may "
                "still end; run the same command to go on."
            ) from error
        finally:
            self._future = None
        self._workers.note(job, found, address)
        for event in told:
            tell(job, event)
        return found

    def close(self) -> None:
        """If something is worked on, ends all that the workers do for this command."""
        self._closed = True
        future = self._future
        if future is not None:
            self._workers.close()
            future.cancel()

    def leave(self) -> None:
        """As Worker.leave: Dask's workers wait for the next by themselves."""

    def _given_up(self, job: Job) -> Attempt:
        """Of a job on which Dask has lost so many workers that it does not try it again."""
        claim = self._ledger.claim(job, self._settings["tries"])
        if isinstance(claim, Claim):
            return Attempt(claim.give_up("Its workers ended each time, and Dask does not try it again."))
        return Attempt(claim, elsewhere=claim is None)


# ----------------------------------------------------------------------------------------- within a worker of Dask

_LOCAL = threading.local()
# Workers by run, and the runs that have ended.
_WORKERS: dict[str, set[Worker]] = {}
_BUSY: dict[str, int] = {}
_ENDED: set[str] = set()
_CHANGING = threading.Lock()


def attempt_there(what: Mapping[str, Any]) -> tuple[Attempt, list[Mapping[str, Any]], str]:
    """Works on a job in a worker of Dask.

    Args:
        what: of the job its name, key, task and arguments; folder, force, run, tries, process and version as
            `DaskWorkers.seats` has them.

    Returns:
        What came of it, what its task told that has notes, and the worker's address.

    Raises:
        InputError: this worker cannot work in the folder, or is of another version.
    """
    from distributed import get_worker

    run, told = what["run"]["id"], []
    address = get_worker().address
    with _CHANGING:
        if run in _ENDED:
            return Attempt(), [], address
        _BUSY[run] = _BUSY.get(run, 0) + 1
    try:
        job = Job(what["name"], lambda: what["key"], what["task"], what["arguments"])
        found = _worker(what).attempt(job, None, lambda _, event: told.append(event) if event.get("notes") else None)
        return found, told, address
    finally:
        with _CHANGING:
            _BUSY[run] -= 1


async def stop_there(run: str) -> None:
    """Ends what this worker of Dask does for a run, and waits until that is settled."""
    with _CHANGING:
        _ENDED.add(run)
        workers = _WORKERS.pop(run, set())
    for worker in workers:
        await asyncio.to_thread(worker.close)
    end = time.monotonic() + _STOP_SECONDS
    while _BUSY.get(run) and time.monotonic() < end:
        await asyncio.sleep(0.02)


def _worker(what: Mapping[str, Any]) -> Worker:
    """The worker of this thread; it stays warm from one job of a run to the next."""
    run = what["run"]["id"]
    known = getattr(_LOCAL, "worker", None)
    if known is not None and known[:2] == (run, what["folder"]):
        return known[2]
    if known is not None:
        known[2].close()
    _check(what)
    ledger = Ledger(what["folder"], what["force"], Run(**what["run"]))
    worker = Worker(ledger, RegistrationProcess(**what["process"]), what["tries"], spread=True)
    with _CHANGING:
        _WORKERS.setdefault(run, set()).add(worker)
    _LOCAL.worker = (run, what["folder"], worker)
    return worker


def _check(what: Mapping[str, Any]) -> None:
    import socket

    here, state = socket.gethostname(), Path(what["folder"]) / STATE
    if what["version"] != __version__:
        raise InputError(
            f"The worker on {here} has version {__version__} of this program, and the command is of version "
            f"{what['version']}. Install the same everywhere."
        )
    if not state.is_dir():
        raise InputError(
            f"{what['folder']}: is not seen by the worker on {here}. Choose a folder on a file system that all workers "
            "share."
        )
    if not knows_locks(state):
        raise InputError(f"{what['folder']}: {NO_LOCKS}")


NO_LOCKS = (
    "lies on a file system without file locks, by which several computers share the work. Mount it with locks (Lustre: "
    "with the option flock), or choose another folder."
)
