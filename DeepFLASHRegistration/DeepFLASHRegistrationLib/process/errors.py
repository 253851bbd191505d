# SPDX-License-Identifier: Apache-2.0
"""What can go wrong with a job in the child process."""

from __future__ import annotations

import errno
from collections.abc import Sequence

from ..support.errors import Cancelled as Cancelled

# Out of blocks, out of quota, or past the largest file allowed: for the user they are one and the same.
_NO_ROOM = {errno.ENOSPC, errno.EFBIG, getattr(errno, "EDQUOT", errno.ENOSPC)}


class ProcessError(RuntimeError):
    """A job failed for a reason that is not its input.

    Attributes:
        log: the last lines the child wrote, oldest first.
    """

    def __init__(self, message: str, log: Sequence[str] = ()) -> None:
        super().__init__(message)
        self.log = tuple(log)


class ChildDied(ProcessError):
    """The child ended by itself or was ended by the system. The next job gets a fresh one.

    Attributes:
        returncode: its exit code, negative for a signal, None if it never started.
    """

    def __init__(self, message: str, log: Sequence[str] = (), returncode: int | None = None) -> None:
        super().__init__(message, log)
        self.returncode = returncode


class ChildHung(ProcessError):
    """The child gave no sign of life for too long and was ended."""


class DiskFull(ProcessError):
    """No room for the arrays that travel between the processes, or for what a task writes. Nothing was left behind."""


class JobFailed(ProcessError):
    """The task raised an exception in the child.

    Attributes:
        kind: name of the exception's type.
        traceback: where it was raised in the child.
    """

    def __init__(self, message: str, log: Sequence[str] = (), kind: str = "", traceback: str = "") -> None:
        super().__init__(message, log)
        self.kind = kind
        self.traceback = traceback


class OutOfMemory(JobFailed):
    """The task found too little memory, of the host or of the device."""


def is_no_room(error: BaseException) -> bool:
    """Whether an exception says that the disk (or the share of it one may use) is full."""
    return isinstance(error, OSError) and error.errno in _NO_ROOM
