# SPDX-License-Identifier: Apache-2.0
"""What is known on disk of the jobs of a folder: which are done, who works on which, and how often each was tried.

    OUT/<name>/             the result of a job, renamed to this place when it is whole
    OUT/<name>/job.json     its key and the sizes of its files: a folder with the key of a job is that job, done, unless
                            another program has replaced files of it since (what was deleted or added does not count)
    OUT/.jobs/<id>.json     a job that is not done: how it was tried, and why it failed
    OUT/.jobs/<id>.lock     held by the process that works on it; dropped by the system when that ends
    OUT/.jobs/<id>.work/    where the result is made, in a folder for each claim
    OUT/.jobs/<id>.old/     a result of the same name that is being replaced
    OUT/.jobs/plan.json     the names of all jobs of the run that began last

Several processes may work in one folder, also on several computers if the file system between them knows locks.
"""

from __future__ import annotations

import contextlib
import datetime
import enum
import hashlib
import json
import math
import os
import secrets
import shutil
import socket
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..support.errors import InputError
from ..support.file_lock import FileLock, try_lock
from .job import Digests, Job

RECORD = "job.json"
STATE, PLAN = ".jobs", "plan.json"
_FORMAT = 1
# How long a list of the results in a folder is believed.
_LISTED_SECONDS = 60.0


@dataclass(frozen=True)
class Run:
    """A run, which may have processes on many computers; what one of them has given up the others leave.

    Attributes:
        id: the same for all that belong together.
        began: seconds since 1970. What was given up later, by whatever run, is given up for this one too.
        alike: its processes have the same jobs with the same settings, so that a result which appears is believed.
    """

    id: str = field(default_factory=lambda: secrets.token_hex(8))
    began: float = field(default_factory=time.time)
    alike: bool = False


class Place(enum.Enum):
    """What lies where the result of a job belongs."""

    FREE = "nothing"
    DONE = "the job's result"
    OTHER = "the result of another job"
    FOREIGN = "something else"


@dataclass(frozen=True)
class Done:
    """A job that is done.

    Attributes:
        value: what the task returned.
        seconds: that it took.
        tries: how often it was begun, this time included.
    """

    value: Any
    seconds: float
    tries: int


@dataclass(frozen=True)
class Failed:
    """A job that was given up, after so many tries; ``log`` is what its process said last."""

    message: str
    tries: int
    log: tuple[str, ...] = ()


@dataclass
class _State:
    """Of a job that is not done, as it is written. A try without an end was cut off with its whole process."""

    name: str
    key: str
    tries: list[dict[str, Any]] = field(default_factory=list)
    failed: str | None = None
    log: list[str] = field(default_factory=list)
    run: str = ""
    given_up: float = 0.0

    @property
    def count(self) -> int:
        """Of tries that may have failed by the job's own doing."""
        return sum(each.get("end") != "interrupted" for each in self.tries)


class Ledger:
    """The jobs of a folder of results."""

    def __init__(self, folder: str | os.PathLike, force: bool = False, run: Run | None = None) -> None:
        """Makes the folder, or goes on in it.

        Args:
            folder: of all results.
            force: replace results of other jobs.
            run: that this process belongs to; one of its own if None.

        Raises:
            InputError: it is a file, may not be written, or holds something else than results of jobs.
        """
        self.folder = Path(folder)
        # The process that fills a folder in it has another current one.
        self._state = self.folder.absolute() / STATE
        self.force = force
        self.run = run or Run()
        self._listings: dict[str, tuple[float, frozenset[str]]] = {}
        try:
            if not self._state.is_dir() and self.folder.exists():
                if not self.folder.is_dir():
                    raise InputError(f"{folder}: is a file. Give the name of a folder.")
                # What another run has begun meanwhile lies there after its state.
                if any(self.folder.iterdir()) and not self._state.is_dir():
                    raise InputError(
                        f"{folder}: exists and holds something else. Choose a new folder, or an empty one."
                    )
            self._state.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InputError(
                f"{folder}: cannot be written ({error.strerror or error}). Choose another folder, or change its "
                "permissions."
            ) from error
        self._sweep()

    @contextlib.contextmanager
    def alone(self, what: str) -> Iterator[bool]:
        """For something that one process does for all, such as a summary: whether no other one is at it."""
        lock = try_lock(self._state / f"{what}.lock")
        try:
            yield lock is not None
        finally:
            if lock is not None:
                lock.release()

    def digests(self) -> Digests:
        """Of input files, remembered in this folder."""
        return Digests(self._state / "inputs.txt")

    def place(self, job: Job) -> Place:
        """What lies where the job's result belongs. The job's key is looked at only if a result lies there."""
        target = self.folder / job.name
        if not os.path.lexists(target):
            return Place.FREE
        if not target.is_dir():
            return Place.FOREIGN
        record = read_record(target / RECORD)
        if record is None:
            return Place.FOREIGN if any(target.iterdir()) else Place.FREE
        sizes = _sizes(target)
        replaced = any(sizes.get(name, size) != size for name, size in record.get("files", {}).items())
        return Place.DONE if record["key"] == job.key and not replaced else Place.OTHER

    def complete(self, job: Job) -> bool:
        """Whether the job is done, and none of its files is gone. What remains of one that is not whole is removed."""
        place, target = self.place(job), self.folder / job.name
        if place is Place.DONE:
            record = read_record(target / RECORD) or {}
            if record.get("files", {}).keys() <= _sizes(target).keys():
                return True
        if place in (Place.DONE, Place.FOREIGN):
            shutil.rmtree(target, ignore_errors=True)
        return False

    def check(self, job: Job, place: Place) -> None:
        """InputError if the job's result must not be put where this lies."""
        if place is Place.FOREIGN:
            raise InputError(
                f"{self.folder / job.name}: exists and holds something else than such a result. Choose another output."
            )
        if place is Place.OTHER and not self.force:
            raise InputError(
                f"{self.folder / job.name}: holds the result of other inputs or parameters. Choose another output, or "
                "add --force to replace it."
            )

    def done(self, name: str) -> Done | None:
        """What is known of the result of this name; None if there is none."""
        record = read_record(self.folder / name / RECORD)
        return None if record is None else Done(record.get("value"), record.get("seconds", 0.0), record.get("tries", 1))

    def failed(self, name: str) -> Failed | None:
        """Why the job of this name has no result, if it was given up."""
        state = self._read_state(name)
        return None if state is None or state.failed is None else Failed(state.failed, state.count, tuple(state.log))

    def claim(self, job: Job, most: int) -> Claim | Done | Failed | None:
        """Takes a job to work on it.

        Args:
            job: to be claimed.
            most: tries, those that ended with the whole process included. What an earlier run has given up has all of
                them anew.

        Returns:
            A Claim, to be settled by one of its functions; what is known if there is nothing to do; None if somebody
            else works on it.

        Raises:
            InputError: what it reads is not there, or its place is taken.
            OSError: the state cannot be written.
        """
        # Before the lock, since most of what a late run on another computer looks at is done, and locks take longest.
        done = self._listed(job.name) if self.run.alike and not self.force else None
        if done is not None or self.place(job) is Place.DONE:
            return done or self.done(job.name)
        lock = try_lock(self._path(job.name, "lock"))
        if lock is None:
            return None
        claim = None
        try:
            place = self.place(job)
            if place is Place.DONE:
                return self.done(job.name)
            self.check(job, place)
            state = self._read_state(job.name)
            if state is not None and state.key == job.key and state.failed is not None and self._own(state):
                return Failed(state.failed, state.count, tuple(state.log))
            if state is None or state.key != job.key or state.failed is not None:
                state = _State(job.name, job.key)
            if state.count >= most:
                tries = f"{state.count} of {most} tries"
                return self._give_up(state, f"The whole run, or its computer, ended while it worked on this ({tries}).")
            began = datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds")
            state.tries.append({"began": began, "host": socket.gethostname(), "process": os.getpid()})
            self._write_state(state)
            # Of another name each time: who held the lock before may not have noticed its end yet, and still write.
            shutil.rmtree(self._path(job.name, "work"), ignore_errors=True)
            work = self._path(job.name, "work") / secrets.token_hex(4)
            work.mkdir(parents=True)
            claim = Claim(self, job, state, lock, work)
            return claim
        finally:
            if claim is None:
                lock.release()

    def plan(self, names: Iterable[str]) -> None:
        """Notes the names of all jobs of a run, for who asks how far it is. That it cannot be written stops nothing."""
        names = list(names)
        key = hashlib.sha256("\n".join(names).encode("utf-8", "surrogateescape")).hexdigest()
        path = self._state / PLAN
        if (read_record(path) or {}).get("key") != key:
            with contextlib.suppress(OSError):
                _write(path, {"format": _FORMAT, "key": key, "jobs": names})

    def _sweep(self) -> None:
        """Puts away what processes left that were killed."""
        for state in self._state.glob("*.json"):
            if state.name == PLAN:
                continue
            lock = try_lock(state.with_suffix(".lock"))
            if lock is None:
                continue
            with contextlib.suppress(OSError):
                shutil.rmtree(state.with_suffix(".work"), ignore_errors=True)
                name = (read_record(state) or {}).get("name")
                old = state.with_suffix(".old")
                if name and old.is_dir() and not os.path.lexists(self.folder / name):
                    os.replace(old, self.folder / name)  # the new result had not taken its place yet
                shutil.rmtree(old, ignore_errors=True)
                if name and self.done(name) is not None:
                    state.unlink()
            lock.release()

    def _listed(self, name: str) -> Done | None:
        """The result of a job, if it was there when its folder was listed last. Where hundreds of processes ask for ten
        thousands of jobs that others have done, to look at each one's key and files would keep the file system busy."""
        parent, _, own = name.rpartition("/")
        when, names = self._listings.get(parent, (-math.inf, frozenset()))
        if time.monotonic() - when > _LISTED_SECONDS:
            with contextlib.suppress(OSError):
                names = frozenset(os.listdir(self.folder / parent))
            self._listings[parent] = time.monotonic(), names
        return self.done(name) if own in names else None

    def _own(self, state: _State) -> bool:
        """Whether this run, or another one since it began, has given the job up."""
        return state.run == self.run.id or state.given_up >= self.run.began

    def _give_up(self, state: _State, message: str, log: Sequence[str] = ()) -> Failed:
        state.failed, state.log = message, list(log)
        state.run, state.given_up = self.run.id, time.time()
        self._write_state(state)
        return Failed(message, state.count, tuple(log))

    def _path(self, name: str, kind: str) -> Path:
        # A name may have folders in it, and be as long as a name can be.
        return self._state / f"{hashlib.sha256(name.encode('utf-8', 'surrogateescape')).hexdigest()[:24]}.{kind}"

    def _read_state(self, name: str) -> _State | None:
        values = read_record(self._path(name, "json"))
        with contextlib.suppress(TypeError):
            return None if values is None else _State(**{k: v for k, v in values.items() if k != "format"})
        return None

    def _write_state(self, state: _State) -> None:
        _write(self._path(state.name, "json"), {"format": _FORMAT, **vars(state)})


class Claim:
    """A job that this process works on.

    Attributes:
        result: the folder that the task makes and fills.
    """

    def __init__(self, ledger: Ledger, job: Job, state: _State, lock: FileLock, work: Path) -> None:
        self.job = job
        self.result = work / "result"
        self._work = work
        self._ledger = ledger
        self._state = state
        self._lock = lock

    @property
    def tries(self) -> int:
        """How often it was tried, this time included."""
        return self._state.count

    def complete(self, value: Any, seconds: float) -> Done:
        """Puts the result in its place, by one rename.

        Raises:
            InputError: its place was taken meanwhile.
            OSError: it cannot be put there; the job is still claimed.
        """
        ledger, target = self._ledger, self._ledger.folder / self.job.name
        if ledger.place(self.job) is Place.DONE:  # by another computer, after the file system took this one's lock
            self._leave()
            return ledger.done(self.job.name)
        done = Done(value, round(seconds, 3), self.tries)
        _write(
            self.result / RECORD,
            {"format": _FORMAT, "name": self.job.name, "key": self.job.key, **vars(done), "files": _sizes(self.result)},
        )
        target.parent.mkdir(parents=True, exist_ok=True)
        place = ledger.place(self.job)
        ledger.check(self.job, place)
        old = ledger._path(self.job.name, "old")
        shutil.rmtree(old, ignore_errors=True)
        if place is Place.OTHER:
            os.replace(target, old)
        elif target.exists():
            target.rmdir()
        os.replace(self.result, target)
        shutil.rmtree(old, ignore_errors=True)
        with contextlib.suppress(OSError):
            ledger._path(self.job.name, "json").unlink()
        self._leave()
        return done

    def try_again(self, message: str) -> None:
        """Ends this try, which failed for a reason that another may not meet."""
        self._end("failed", message)

    def give_up(self, message: str, log: Sequence[str] = ()) -> Failed:
        """Ends this try, which failed, and the job with it."""
        self._state.tries[-1].update(end="failed", message=message)
        try:
            return self._ledger._give_up(self._state, message, log)
        except OSError:  # a full disk; then nobody will know but who asked
            return Failed(message, self.tries, tuple(log))
        finally:
            self._leave()

    def interrupted(self) -> None:
        """Ends this try, which was stopped from outside and does not count."""
        self._end("interrupted", "")

    def _end(self, end: str, message: str) -> None:
        self._state.tries[-1].update(end=end, message=message)
        try:
            with contextlib.suppress(OSError):
                self._ledger._write_state(self._state)
        finally:
            self._leave()

    def _leave(self) -> None:
        shutil.rmtree(self._work, ignore_errors=True)
        with contextlib.suppress(OSError):
            self._work.parent.rmdir()
        self._lock.release()


def _sizes(folder: Path) -> dict[str, int]:
    """Bytes of the files in a folder but for the record, by name."""
    with os.scandir(folder) as entries:
        return {each.name: each.stat().st_size for each in entries if each.is_file() and each.name != RECORD}


def read_record(path: Path) -> dict[str, Any] | None:
    """What is written of a job, done or not; None if there is nothing like it."""
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None
    return values if isinstance(values, dict) and values.get("format") == _FORMAT and "key" in values else None


def _write(path: Path, values: Mapping[str, Any]) -> None:
    # Processes of two computers may have the same number.
    temporary = path.with_name(f"{path.name}.{secrets.token_hex(4)}")
    try:
        temporary.write_text(json.dumps(values, allow_nan=False) + "\n", encoding="utf-8")
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
