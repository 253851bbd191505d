# SPDX-License-Identifier: Apache-2.0
"""Jobs dealt out to several workers at once, in an order that they allow."""

from __future__ import annotations

import contextlib
import functools
import itertools
import queue
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Protocol

from .job import Job
from .ledger import Done, Failed
from .worker import Attempt, Tell

# How soon an interrupt is noticed where a wait cannot be interrupted (Windows), and a job of somebody else looked for.
_LOOK_SECONDS = 0.2
# Of the time that others' jobs have been waited for; many computers that look too often keep the file system busy.
_LOOK_PART, _LOOK_SECONDS_AT_MOST = 0.1, 20.0


@dataclass(frozen=True)
class Ended:
    """The end of a job: what it gave, or why it was given up. ``before``: it was done before this run."""

    job: Job
    result: Done | Failed
    before: bool = False


class _Worker(Protocol):
    def attempt(self, job: Job, following: Job | None, tell: Tell) -> Attempt: ...

    def close(self) -> None: ...

    def leave(self) -> None: ...


class Pool:
    """Works through jobs by several workers.

    A job that is to be tried again is so after all others; on one computer, when nothing else runs beside it.
    """

    def __init__(self, worker: Callable[[int], _Worker], workers: int = 1, apart: bool = False) -> None:
        """Starts nothing yet.

        Args:
            worker: makes a worker, given its number from 0.
            workers: at once.
            apart: what one of them works on takes nothing from the others, so that trying again needs not wait for
                them.
        """
        self._worker = worker
        self._count = workers
        self._apart = apart
        # Held while jobs are dealt out; told when one ends.
        self._dealing = threading.Condition()
        self._open: set[Job] = set()
        self._working = 0
        self._waiting: dict[Job, None] = {}
        self._after: dict[Job, list[Job]] = {}
        self._reserved: dict[int, Job] = {}
        self._again: list[Job] = []
        self._elsewhere: list[Job] = []
        self._workers: list[_Worker] = []
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
            KeyboardInterrupt: and whatever else is raised here by the callbacks. All workers are closed first, and
                what they worked on does not count as tried.
        """
        self._ended, self._progress = ended, progress
        self._waiting = dict.fromkeys(jobs)
        self._open = set(self._waiting)
        for job in self._waiting:
            for before in job.after:
                self._after.setdefault(before, []).append(job)
        self._round(min(self._count, len(self._waiting)))
        waiting = pauses()
        while self._again or self._elsewhere:
            if self._again:
                waiting = pauses()
            else:
                time.sleep(next(waiting))
            left, workers = (self._again, 1) if self._again else (self._elsewhere, self._count)
            self._waiting.update(dict.fromkeys(left))
            left.clear()
            self._round(min(workers, len(self._waiting)))

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
            # Again, since one may be about to begin another job.
            for worker in list(self._workers):
                worker.close()
            for thread in threads:
                thread.join(_LOOK_SECONDS / 4)

    def _work(self, number: int) -> None:
        """Thread of one worker."""
        worker = None
        try:
            worker = self._worker(number)
            self._workers.append(worker)
            while (job := self._next(number)) is not None:
                try:
                    self._work_on(worker, job, self._following(number, job))
                finally:
                    self._rest()
        except BaseException as error:
            self._events.put(functools.partial(_raise, error))
        finally:
            if worker is not None:
                (worker.close if self._stopped else worker.leave)()
                self._workers.remove(worker)
            self._events.put(None)

    def _work_on(self, worker: _Worker, job: Job, following: Job | None) -> None:
        found = worker.attempt(job, following, lambda job, event: self._events.put(lambda: self._progress(job, event)))
        if found.result is not None:
            with self._dealing:
                self._open.discard(job)
            self._events.put(lambda: self._ended(Ended(job, found.result, found.before)))
        elif found.elsewhere:
            self._elsewhere.append(job)
        elif self._apart:
            with self._dealing:
                self._waiting[job] = None
        else:
            self._again.append(job)

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
        """A job that can begin now, if there is one: that reserved for a worker, else the first that waits, else what
        another worker was to do next, but has not begun."""
        mine = self._reserved.get(worker)
        if mine is not None and self._can_begin(mine):
            return self._reserved.pop(worker)
        job = next(filter(self._can_begin, self._waiting), None)
        if job is not None:
            del self._waiting[job]
            return job
        other = next((each for each, job in self._reserved.items() if self._can_begin(job)), None)
        return None if other is None else self._reserved.pop(other)

    def _can_begin(self, job: Job, soon: Job | None = None) -> bool:
        """Whether all that it begins after has ended, or will have with the job ``soon``."""
        return all(before is soon or before not in self._open for before in job.after)

    def _following(self, worker: int, job: Job) -> Job | None:
        """The job that this worker will get after this one, reserved for it so that it may read ahead: one that begins
        after it, if there is one."""
        with self._dealing:
            if worker not in self._reserved:
                for each in itertools.chain(self._after.get(job, ()), self._waiting):
                    if each in self._waiting and self._can_begin(each, job):
                        del self._waiting[each]
                        self._reserved[worker] = each
                        break
            return self._reserved.get(worker)


def pauses() -> Iterator[float]:
    """Seconds after which a job of somebody else is looked at again, each time: the longer, the longer it was."""
    waited = 0.0
    while True:
        pause = min(max(_LOOK_SECONDS, _LOOK_PART * waited), _LOOK_SECONDS_AT_MOST)
        yield pause
        waited += pause


def _raise(error: BaseException) -> None:
    raise error
