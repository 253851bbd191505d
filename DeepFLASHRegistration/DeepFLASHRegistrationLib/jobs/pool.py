# SPDX-License-Identifier: Apache-2.0
"""Jobs worked on by several warm child processes at once, each of which may die."""

from __future__ import annotations

import collections
import contextlib
import functools
import queue
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from ..process import DiskFull, ProcessError, RegistrationProcess
from ..support.errors import Cancelled, InputError
from .job import Job
from .ledger import Claim, Done, Failed, Ledger

# How soon an interrupt is noticed where a wait cannot be interrupted (Windows), and a job of somebody else looked for.
_LOOK_SECONDS = 0.2
_LOG_LINES = 20


@dataclass(frozen=True)
class Ended:
    """The end of a job: what it gave, or why it was given up. ``before``: it was done before this run."""

    job: Job
    result: Done | Failed
    before: bool = False


Tell = Callable[[Job, Mapping[str, Any]], None]


class Pool:
    """Child processes that work through jobs.

    A job whose process died, hung, or ran out of memory is tried again after all others, when nothing else runs beside
    it. One with wrong input, or without room on the disk, is not.
    """

    def __init__(
        self,
        ledger: Ledger,
        process: Callable[[], RegistrationProcess],
        workers: int = 1,
        tries: int = 3,
    ) -> None:
        """Starts nothing yet.

        Args:
            ledger: of the folder of results.
            process: makes a process.
            workers: processes at once.
            tries: of a job at most.
        """
        self._ledger = ledger
        self._process = process
        self._workers = workers
        self._tries = tries
        # Held while jobs are dealt out; told when one ends.
        self._dealing = threading.Condition()
        self._open: set[Job] = set()
        self._working = 0
        self._waiting: collections.deque[Job] = collections.deque()
        self._reserved: dict[int, Job] = {}
        self._again: list[Job] = []
        self._elsewhere: list[Job] = []
        self._processes: list[RegistrationProcess] = []
        self._stopped = False
        self._events: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()

    def run(
        self, jobs: Iterable[Job], ended: Callable[[Ended], None], progress: Tell = lambda job, event: None
    ) -> None:
        """Works on jobs until each is done or given up.

        Args:
            jobs: in the order in which they are begun, but for those that begin after others.
            ended: called with each job's end, by this thread.
            progress: called with each job and what its task tells, by this thread.

        Raises:
            KeyboardInterrupt: and whatever else is raised here by the callbacks. All processes are ended first, and
                what they worked on does not count as tried.
        """
        self._ended, self._progress = ended, progress
        self._waiting.extend(jobs)
        self._open = set(self._waiting)
        self._round(min(self._workers, len(self._waiting)))
        while self._again or self._elsewhere:
            if not self._again:
                time.sleep(_LOOK_SECONDS)
            self._waiting.extend(self._again or self._elsewhere)
            (self._again or self._elsewhere).clear()
            self._round(1)

    def _round(self, workers: int) -> None:
        """Works until nothing waits."""
        threads = [threading.Thread(target=self._work, args=(n,), daemon=True) for n in range(workers)]
        try:
            for thread in threads:
                thread.start()
            running = len(threads)
            while running:
                with contextlib.suppress(queue.Empty):
                    event = self._events.get(timeout=_LOOK_SECONDS)
                    if event is None:  # the last of a thread
                        running -= 1
                    else:
                        event()
        except BaseException:
            self._stop(threads)
            raise

    def _stop(self, threads: list[threading.Thread]) -> None:
        self._stopped = True
        while any(thread.is_alive() for thread in threads):
            # Again, since one may be about to give its process another job.
            for process in list(self._processes):
                process.close()
            for thread in threads:
                thread.join(_LOOK_SECONDS / 4)

    def _work(self, worker: int) -> None:
        """Thread of one process."""
        try:
            with self._process() as process:
                self._processes.append(process)
                while (job := self._next(worker)) is not None:
                    try:
                        self._work_on(process, job, self._following(worker, job))
                    finally:
                        self._rest()
        except BaseException as error:
            self._events.put(functools.partial(_raise, error))
        finally:
            self._events.put(None)

    def _work_on(self, process: RegistrationProcess, job: Job, following: Job | None) -> None:
        result, before = self._done(process, job, following)
        if result is not None:
            with self._dealing:
                self._open.discard(job)
            self._events.put(lambda: self._ended(Ended(job, result, before)))

    def _rest(self) -> None:
        """The end of work on a job, for which others may wait."""
        with self._dealing:
            self._working -= 1
            self._dealing.notify_all()

    def _next(self, worker: int) -> Job | None:
        with self._dealing:
            while not self._stopped:
                job = self._dealt(worker)
                if job is not None:
                    self._working += 1
                    return job
                # What waits for a job that is to be tried again, or done elsewhere, waits for the next round.
                if not (self._working and (self._waiting or self._reserved)):
                    return None
                self._dealing.wait(_LOOK_SECONDS)
            return None

    def _dealt(self, worker: int) -> Job | None:
        """A job that can begin now, if there is one: that reserved for a process, else the first that waits, else what
        another process was to do next, but has not begun."""
        mine = self._reserved.get(worker)
        if mine is not None and self._can_begin(mine):
            return self._reserved.pop(worker)
        job = next(filter(self._can_begin, self._waiting), None)
        if job is not None:
            self._waiting.remove(job)
            return job
        other = next((each for each, job in self._reserved.items() if self._can_begin(job)), None)
        return None if other is None else self._reserved.pop(other)

    def _can_begin(self, job: Job, soon: Job | None = None) -> bool:
        """Whether all that it begins after has ended, or will have with the job ``soon``."""
        return all(before is soon or before not in self._open for before in job.after)

    def _following(self, worker: int, job: Job) -> Job | None:
        """The job that this process will get after this one, reserved for it so that it may read ahead: one that begins
        after it, if there is one."""
        with self._dealing:
            if worker not in self._reserved:
                ready = [each for each in self._waiting if self._can_begin(each, job)]
                found = next((each for each in ready if job in each.after), ready[0] if ready else None)
                if found is not None:
                    self._waiting.remove(found)
                    self._reserved[worker] = found
            return self._reserved.get(worker)

    def _done(self, process: RegistrationProcess, job: Job, following: Job | None) -> tuple[Done | Failed | None, bool]:
        """What became of a job, None if that is not known yet; and whether it was done before."""
        try:
            claim = self._ledger.claim(job, self._tries)
        except (InputError, OSError) as error:
            return Failed(str(error), 0), False
        if claim is None:
            self._elsewhere.append(job)
            return None, False
        if not isinstance(claim, Claim):
            return claim, isinstance(claim, Done)
        return self._tried(process, claim, following), False

    def _tried(self, process: RegistrationProcess, claim: Claim, following: Job | None) -> Done | Failed | None:
        job = claim.job

        def tell(event: dict[str, Any]) -> None:
            if event["event"] == "progress":
                data = {key: value for key, value in event.items() if key not in ("event", "job")}
                self._events.put(lambda: self._progress(job, data))

        given = {**job.arguments, "folder": claim.result, "next": following and dict(following.arguments)}
        began = time.monotonic()
        try:
            value = process.run(job.task, given, callback=tell)
            return claim.complete(value, time.monotonic() - began)
        except Cancelled as end:
            if self._stopped:
                claim.interrupted()
                return None
            return claim.give_up(str(end))
        except (InputError, DiskFull) as error:
            return claim.give_up(str(error))
        except ProcessError as error:
            if claim.tries < self._tries:
                claim.try_again(str(error))
                self._again.append(job)
                return None
            return claim.give_up(str(error), error.log[-_LOG_LINES:])
        except BaseException as error:  # the disk is full, or the result cannot be put in its place
            return claim.give_up(str(error) or type(error).__name__)


def _raise(error: BaseException) -> None:
    raise error
