# SPDX-License-Identifier: Apache-2.0
"""A folder of files that is written as a whole or not at all."""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import shutil
import signal
import threading
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

from .errors import InputError


def check_output(folder: str | os.PathLike, names: Collection[str], force: bool = False) -> Path:
    """The folder as a Path, if files of these names may be written there; asked before any work.

    Raises:
        InputError: it is a file, holds files and ``force`` is not set, or cannot be written.
    """
    folder = Path(folder)
    try:
        if folder.exists() and not folder.is_dir():
            raise InputError(f"{folder}: is a file. Give the name of a folder.")
        if folder.is_dir() and any(folder.iterdir()) and not force:
            raise InputError(
                f"{folder}: exists and is not empty. Choose another folder, or add --force to replace an "
                "earlier result in it (other files are left alone)."
            )
        for name in names:
            if (folder / name).is_dir():
                raise InputError(f"{folder / name}: is a folder, where a file is to be written. Choose another folder.")
        place = folder
        while not place.exists():
            place = place.parent
        if not place.is_dir():
            raise InputError(f"{folder}: cannot be made, because {place} is a file. Choose another folder.")
        probe = place / f".{secrets.token_hex(8)}"
        with _interrupts_wait():
            probe.mkdir()
            probe.rmdir()
    except (OSError, ValueError) as error:
        if isinstance(error, InputError):
            raise
        reason = getattr(error, "strerror", None) or error
        raise InputError(
            f"{folder}: cannot be written ({reason}). Choose another folder, or change its permissions."
        ) from error
    return folder


@contextlib.contextmanager
def whole_folder(folder: str | os.PathLike, names: Collection[str], force: bool = False) -> Iterator[Path]:
    """Yields a temporary folder for files of some of these names; they appear in `folder` when the block ends well.

    All appear at once, also while an interrupt waits. Of an earlier result all files of these names are replaced or
    removed; files of other names stay.

    Args:
        folder: made if needed.
        names: of all files that may be written.
        force: replace an earlier result in the folder.

    Raises:
        InputError: see check_output.
        OSError: the disk is full or fails; nothing is left behind, and an earlier result is as it was.
    """
    folder = check_output(folder, names, force)
    place = folder if folder.is_dir() else folder.parent
    missing = [parent for parent in (place, *place.parents) if not parent.exists()]
    temporary = place / f".{folder.name}.{secrets.token_hex(6)}.partial"
    try:
        temporary.mkdir(parents=True)
        yield temporary
        with _interrupts_wait():
            if place == folder:
                _replace(temporary, folder, names)
            else:
                os.replace(temporary, folder)
    except OSError as error:
        raise OSError(
            error.errno or errno.EIO,
            f"{folder}: could not be written ({_reason(error, place)}). Nothing was left there; "
            "free some space or choose another folder, and run again",
        ) from error
    finally:
        with _interrupts_wait():
            shutil.rmtree(temporary, ignore_errors=True)
            for parent in missing:
                with contextlib.suppress(OSError):  # it holds what was written, or what somebody else did meanwhile
                    parent.rmdir()


def _reason(error: OSError, place: Path) -> str:
    if error.errno in (errno.ENOSPC, getattr(errno, "EDQUOT", None)):
        return "the disk is full"
    if isinstance(error, FileNotFoundError) and not place.exists():
        return "the folder was removed meanwhile"
    return f"{error.strerror or error}; is there space on the disk?"


def _replace(source: Path, folder: Path, names: Collection[str]) -> None:
    """Puts the files of a result in the place of those in a folder: all of them, or after a failure none."""
    old = source / "replaced"
    old.mkdir()
    done: list[tuple[Path, Path]] = []
    try:
        for name in names:
            for a, b in ((folder / name, old / name), (source / name, folder / name)):
                if os.path.lexists(a):
                    os.replace(a, b)
                    done.append((a, b))
    except BaseException:
        for a, b in reversed(done):
            os.replace(b, a)
        raise


@contextlib.contextmanager
def _interrupts_wait() -> Iterator[None]:
    """Delays signals that would interrupt (Ctrl-C and the like) until the end of the block, where it must not stop
    half-way."""
    held: list[int] = []
    before: dict[int, Any] = {}
    try:
        if threading.current_thread() is threading.main_thread():
            for name in ("SIGINT", "SIGTERM", "SIGHUP"):
                number = getattr(signal, name, None)
                if number is not None and callable(signal.getsignal(number)):
                    before[number] = signal.getsignal(number)
                    signal.signal(number, lambda number, frame: held.append(number))
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    for number in held[:1]:
        signal.raise_signal(number)
