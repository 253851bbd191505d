# SPDX-License-Identifier: Apache-2.0
"""How far the jobs of a folder are, as its ledger says, whoever works on them and wherever."""

from __future__ import annotations

import datetime
import json
import os
import statistics
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..support.errors import InputError
from ..support.file_lock import is_locked
from .ledger import PLAN, RECORD, STATE, read_record

# So many of the jobs that ended last say how long one takes.
_LOOKED_AT = 200


@dataclass(frozen=True)
class Running:
    """A job that somebody works on: where, since when, for how long, and which try it is."""

    name: str
    host: str
    process: int
    began: str
    seconds: float
    tries: int


@dataclass(frozen=True)
class GivenUp:
    """A job that was given up."""

    name: str
    message: str
    tries: int


@dataclass(frozen=True)
class Status:
    """How far all jobs of the run that began last are.

    Attributes:
        all: jobs in all.
        done: of them.
        failed, running: of the folder.
        waiting: jobs of which nobody has begun, or which are to be tried again.
        seconds_left: an estimate, by those that are done and run; None if nothing tells.
    """

    folder: Path
    all: int
    done: int
    failed: tuple[GivenUp, ...]
    running: tuple[Running, ...]
    waiting: int
    seconds_left: float | None

    def to_dict(self) -> dict[str, Any]:
        """As plain values."""
        return {
            "folder": str(self.folder),
            "all": self.all,
            "done": self.done,
            "failed": [vars(each) for each in self.failed],
            "running": [vars(each) for each in self.running],
            "waiting": self.waiting,
            "seconds_left": self.seconds_left,
        }


def status(folder: str | os.PathLike) -> Status:
    """Reads how far the jobs of a folder are. Nothing is changed, and nobody waits for it.

    Raises:
        InputError: no jobs were ever worked on there, or it may not be read.
    """
    folder = Path(folder)
    state = folder / STATE
    try:
        plan = json.loads((state / PLAN).read_text(encoding="utf-8"))
        names = list(plan["jobs"])
        places = [(folder / name / RECORD, name) for name in names]
        ended = {name: found.st_mtime for path, name in places if (found := _stat(path)) is not None}
        records = [record for path in sorted(state.glob("*.json")) if (record := _record(path)) is not None]
    except (FileNotFoundError, NotADirectoryError) as error:
        raise InputError(
            f"{folder}: no jobs were begun there. Name the folder that register-many, register-series, template or "
            "bids writes to (of bids its folder of work, if it had one of its own)."
        ) from error
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise InputError(f"{folder}: what is known of its jobs cannot be read ({error}).") from error
    open_ = [each for each in records if each["name"] not in ended]
    failed = [GivenUp(each["name"], each["failed"], len(each["tries"])) for each in open_ if each.get("failed")]
    running = [found for each in open_ if (found := _running(state, each)) is not None]
    waiting = max(0, len(names) - len(ended) - len(failed) - len(running))
    took = list(_seconds(folder, ended))
    return Status(folder, len(names), len(ended), tuple(failed), tuple(running), waiting, _left(took, running, waiting))


def _stat(path: Path) -> os.stat_result | None:
    try:
        return path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return None


def _record(path: Path) -> dict[str, Any] | None:
    """The state of a job that is not done."""
    found = None if path.name == PLAN else read_record(path)
    whole = found is not None and isinstance(found.get("name"), str) and isinstance(found.get("tries"), list)
    return found | {"id": path.stem} if whole else None


def _running(state: Path, record: dict[str, Any]) -> Running | None:
    tries = record["tries"]
    if record.get("failed") or not tries or "end" in tries[-1] or not is_locked(state / f"{record['id']}.lock"):
        return None
    last = tries[-1]
    began = datetime.datetime.fromisoformat(last["began"])
    return Running(
        record["name"], last["host"], last["process"], last["began"], time.time() - began.timestamp(), len(tries)
    )


def _seconds(folder: Path, ended: dict[str, float]) -> Iterator[float]:
    """Of the jobs that ended last."""
    for name in sorted(ended, key=ended.__getitem__, reverse=True)[:_LOOKED_AT]:
        record = read_record(folder / name / RECORD)
        if record is not None and isinstance(record.get("seconds"), float):
            yield record["seconds"]


def _left(took: list[float], running: list[Running], waiting: int) -> float | None:
    """If as many go on at once as do now, each as long as those before."""
    if not (took and running):
        return None
    each = statistics.fmean(took)
    begun = sum(max(0.0, each - one.seconds) for one in running)
    return round((begun + waiting * each) / len(running), 1)
