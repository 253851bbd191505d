# SPDX-License-Identifier: Apache-2.0
"""Who holds something, told by a file: the system drops the hold when its holder ends, however it ends."""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import sys
from pathlib import Path


class FileLock:
    """A hold on a file that this process has until `release`."""

    def __init__(self, path: Path, descriptor: int) -> None:
        self._path = path
        self._descriptor = descriptor

    def release(self) -> None:
        """Gives the hold up, and removes the file."""
        if sys.platform == "win32":  # where an open file cannot be removed
            os.close(self._descriptor)
            with contextlib.suppress(OSError):
                self._path.unlink()
            return
        # In this order: who opened it meanwhile will see that it is no longer there.
        with contextlib.suppress(OSError):
            self._path.unlink()
        os.close(self._descriptor)


def try_lock(path: Path) -> FileLock | None:
    """The hold on a file, which is made if needed; None if somebody has it.

    Raises:
        OSError: the file cannot be made.
    """
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            _lock(descriptor)
        except OSError as error:
            if error.errno in (errno.EACCES, errno.EAGAIN, errno.EDEADLK):
                os.close(descriptor)
                return None
            # The file system knows no locks: then nobody else has one either.
        if _is_there(path, descriptor):
            return FileLock(path, descriptor)
        os.close(descriptor)  # its holder removed it in between, and another may hold the file of that name by now


def _lock(descriptor: int) -> None:
    if sys.platform == "win32":
        import msvcrt

        msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
    else:
        import fcntl

        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)


def _is_there(path: Path, descriptor: int) -> bool:
    try:
        return os.path.samestat(os.stat(path), os.fstat(descriptor))
    except FileNotFoundError:
        return False


def knows_locks(folder: Path) -> bool:
    """Whether files in a folder can be locked.

    Raises:
        OSError: nothing can be written there.
    """
    path = folder / f"lock-{secrets.token_hex(6)}"
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    try:
        _lock(descriptor)
        return True
    except OSError:
        return False
    finally:
        os.close(descriptor)
        path.unlink(missing_ok=True)
