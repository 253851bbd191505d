# SPDX-License-Identifier: Apache-2.0
"""Who holds something, told by a file: the system drops the hold when its holder ends, however it ends."""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import sys
from pathlib import Path

# Options of mounts by which locks are not told to other computers.
_LOCAL = {"localflock", "nolock", "local_lock=flock", "local_lock=all"}


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


def knows_locks(folder: Path, mounts: Path = Path("/proc/mounts")) -> bool:
    """Whether files in a folder can be locked, so that other computers that share it know.

    Args:
        folder: in which a file is made for a moment.
        mounts: as proc(5) describes it, where there is one.

    Raises:
        OSError: nothing can be written there.
    """
    if _locks_are_local(folder, mounts):
        return False
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


def is_locked(path: Path) -> bool:
    """Whether somebody holds a file, asked without holding or changing anything; a moment later it may be otherwise."""
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except FileNotFoundError:
        return False
    except OSError:  # Windows does not let a file be opened that is being removed
        return True
    try:
        _lock(descriptor, shared=True)
        return False
    except OSError as error:
        return error.errno in (errno.EACCES, errno.EAGAIN, errno.EDEADLK)
    finally:
        os.close(descriptor)


def _locks_are_local(folder: Path, mounts: Path) -> bool:
    """Whether the folder lies on a file system between computers that is mounted so that locks hold on one of them
    alone (mount.lustre(8), nfs(5))."""
    found: tuple[int, str] = (0, "")
    try:
        lines = mounts.read_text(encoding="utf-8", errors="surrogateescape").splitlines()
    except OSError:
        return False
    for _, place, _, options, *_ in (line.split(" ") for line in lines):
        place = place.encode("latin-1", "replace").decode("unicode_escape")  # a blank is written \040
        if folder.resolve().is_relative_to(place):
            found = max(found, (len(place), options))
    return not _LOCAL.isdisjoint(found[1].split(","))


def _lock(descriptor: int, shared: bool = False) -> None:
    if sys.platform == "win32":
        import msvcrt

        msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
    else:
        import fcntl

        fcntl.flock(descriptor, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)


def _is_there(path: Path, descriptor: int) -> bool:
    try:
        return os.path.samestat(os.stat(path), os.fstat(descriptor))
    except FileNotFoundError:
        return False
