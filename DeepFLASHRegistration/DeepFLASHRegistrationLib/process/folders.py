# SPDX-License-Identifier: Apache-2.0
"""Private temporary folders that vanish with their owner."""

from __future__ import annotations

import contextlib
import functools
import os
import shutil
import stat
import tempfile
import time
from pathlib import Path
from typing import IO

from ..support import memory

_PREFIX = "deepflash-"
_LOCK = "owner.lock"
# Between a folder's creation and its lock a sweeper must not take it for abandoned.
_SETTLED_SECONDS = 60.0
_SHARED_MEMORY = Path("/dev/shm")


def base_with_room(need: int) -> Path:
    """Where a folder of `need` bytes is best put: shared memory if it has room, else the temporary folder.

    Shared memory counts as memory, hence at most half of what is free is taken.
    """
    if os.access(_SHARED_MEMORY, os.W_OK | os.X_OK):
        free = min(shutil.disk_usage(_SHARED_MEMORY).free, _free_bytes(int(time.monotonic())) // 2)
        if free >= need:
            return _SHARED_MEMORY
    return Path(tempfile.gettempdir())


@functools.lru_cache(1)
def _free_bytes(second: int) -> int:
    """Free memory, asked for once in a second: it takes milliseconds, as much as all else about a small job."""
    return memory.free_bytes() or 0


class PrivateFolder:
    """A folder that only this user may enter, removed by `remove` or, after a crash, by a later `sweep`."""

    def __init__(self, base: Path) -> None:
        self.path = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=base))
        try:
            self._lock = open(self.path / _LOCK, "wb")  # noqa: SIM115 - held until remove()
        except OSError:
            shutil.rmtree(self.path, ignore_errors=True)
            raise
        # Where locks are unknown, no sweeper gets one either.
        with contextlib.suppress(OSError):
            _try_lock(self._lock)

    def remove(self) -> None:
        """Removes the folder and all in it. May be called again."""
        self._lock.close()
        remove_tree(self.path)


def remove_tree(path: Path) -> None:
    """Removes a folder, also while another thread adds files to it. What cannot be removed stays."""
    for _ in range(5):
        shutil.rmtree(path, ignore_errors=True)
        if not path.exists():
            return
        time.sleep(0.01)


def sweep() -> None:
    """Removes folders whose owner is gone: the system drops a process's locks however it ends."""
    for base in {_SHARED_MEMORY, Path(tempfile.gettempdir())}:
        with contextlib.suppress(OSError):
            for path in base.glob(_PREFIX + "*"):
                with contextlib.suppress(OSError):
                    _remove_if_abandoned(path)


def _remove_if_abandoned(path: Path) -> None:
    status = path.lstat()
    if not stat.S_ISDIR(status.st_mode) or time.time() - status.st_mtime < _SETTLED_SECONDS:
        return
    if os.name == "posix":
        if status.st_uid != os.getuid():
            return
        with open(path / _LOCK, "rb") as lock:
            _try_lock(lock)
    else:
        # An open file cannot be removed there, so this fails while the owner lives.
        os.unlink(path / _LOCK)
    remove_tree(path)


def _try_lock(file: IO[bytes]) -> None:
    if os.name == "posix":
        import fcntl

        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
