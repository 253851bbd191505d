# SPDX-License-Identifier: Apache-2.0
"""A job for the child process, and what the parent knows of the one that runs."""

from __future__ import annotations

import enum
import threading
from dataclasses import dataclass, field
from typing import Any


class State(enum.Enum):
    """What a RegistrationProcess is doing."""

    IDLE = "idle"
    STARTING = "starting"
    RUNNING = "running"
    CANCELLING = "cancelling"
    FAILED = "failed"


@dataclass(eq=False)
class Job:
    """A job given to the child.

    Attributes:
        number: counts the jobs of a RegistrationProcess from 1.
        task: name of the task.
        done: whether it has ended, in whatever way.
        cancelled: whether it was cancelled; it may have a result nevertheless, the best so far.
        result: what the task returned.
        error: why there is no result.
        seconds: "total" from `submit` to the result's arrival and "task", what the task itself took of it.
    """

    number: int
    task: str
    done: bool = False
    cancelled: bool = False
    result: Any = None
    error: BaseException | None = None
    seconds: dict[str, float] = field(default_factory=dict)


@dataclass(eq=False)
class RunningJob:
    """What is known of the running job."""

    job: Job
    arguments: dict[str, Any]
    began: float
    heard: float
    thread: threading.Thread = field(init=False)
    warm: bool = False
    sent: bool = False
    started: bool = False
    abandoned: bool = False
    broken: BaseException | None = None
    asked: float | None = None
    now: bool = False
    noticed: bool = False
    suspected: float | None = None
    reason: BaseException | None = None
    killed: float = 0.0
