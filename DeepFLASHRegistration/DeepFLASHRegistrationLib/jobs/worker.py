# SPDX-License-Identifier: Apache-2.0
"""Working on one job, whoever asks for it: claimed, done by a child process that may die, and settled."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..process import DiskFull, ProcessError, RegistrationProcess
from ..process.errors import is_no_room
from ..support.errors import Cancelled, InputError
from .job import Job
from .ledger import Claim, Done, Failed, Ledger

_LOG_LINES = 20

Tell = Callable[[Job, Mapping[str, Any]], None]


@dataclass(frozen=True)
class Attempt:
    """What came of working on a job.

    Attributes:
        result: what it gave, or why it was given up; None if neither is known yet: then it is to be tried again.
        before: it was done before.
        elsewhere: somebody else works on it.
    """

    result: Done | Failed | None = None
    before: bool = False
    elsewhere: bool = False


class Worker:
    """Works on jobs, one after the other, by a child process of its own."""

    def __init__(
        self,
        ledger: Ledger,
        process: RegistrationProcess,
        tries: int = 3,
        spread: bool = False,
        keep: Callable[[RegistrationProcess], None] | None = None,
    ) -> None:
        """Starts nothing yet.

        Args:
            ledger: of the folder of results.
            process: to be used by this worker alone.
            tries: of a job at most.
            spread: other computers, with disks of their own, work on the same jobs.
            keep: gets the process when this worker needs it no longer; without it the process is ended.
        """
        self._ledger = ledger
        self._process = process
        self._tries = tries
        self._spread = spread
        self._keep = keep
        self._closed = False

    def attempt(self, job: Job, following: Job | None = None, tell: Tell = lambda job, event: None) -> Attempt:
        """Works on a job if it is neither done nor worked on by somebody else.

        Args:
            job: to be worked on.
            following: what this worker will get next, so that its process may read ahead.
            tell: called with the job and what its task tells, by this thread.
        """
        if self._closed:
            return Attempt()
        try:
            claim = self._ledger.claim(job, self._tries)
        except (InputError, OSError) as error:
            return Attempt(Failed(in_words(self._ledger.folder, error), 0))
        if claim is None:
            return Attempt(elsewhere=True)
        if not isinstance(claim, Claim):
            return Attempt(claim, before=isinstance(claim, Done))
        return Attempt(self._tried(claim, following, tell))

    def close(self) -> None:
        """Ends the process; what is being worked on does not count as tried. May be called by any thread."""
        self._closed = True
        self._process.close()

    def leave(self) -> None:
        """No job is left for this worker."""
        if self._keep is None or self._closed:
            self.close()
        else:
            self._keep(self._process)

    def _tried(self, claim: Claim, following: Job | None, tell: Tell) -> Done | Failed | None:
        job = claim.job

        def heard(event: dict[str, Any]) -> None:
            if event["event"] == "progress":
                tell(job, {key: value for key, value in event.items() if key not in ("event", "job")})

        given = {**job.arguments, "folder": claim.result, "next": following and dict(following.arguments)}
        began = time.monotonic()
        try:
            value = self._process.run(job.task, given, callback=heard)
            return claim.complete(value, time.monotonic() - began)
        except Cancelled as end:
            if self._closed:
                claim.interrupted()
                return None
            return claim.give_up(str(end))
        except InputError as error:
            return claim.give_up(str(error))
        except ProcessError as error:
            # Another computer may have room on its disk.
            hopeless = isinstance(error, DiskFull) and not self._spread
            if claim.tries < self._tries and not hopeless:
                claim.try_again(str(error))
                return None
            return claim.give_up(str(error), () if hopeless else error.log[-_LOG_LINES:])
        except BaseException as error:  # the disk is full, or the result cannot be put in its place
            return claim.give_up(in_words(self._ledger.folder, error))


def in_words(folder: Path, error: BaseException) -> str:
    """What is said of a job in a folder that an error ended."""
    if is_no_room(error):
        return f"{folder}: the disk is full. Free some room, and run the same command again."
    return str(error) or type(error).__name__
