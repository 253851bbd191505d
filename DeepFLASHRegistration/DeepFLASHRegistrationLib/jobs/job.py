# SPDX-License-Identifier: Apache-2.0
"""What a job is, and the key by which it is known again: a hash of all that decides its result."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from ..support.errors import InputError

# A file changed twice within this time may bear the same date, so what was read so shortly after is not remembered.
_SETTLED_NANOSECONDS = 2_000_000_000
# Files that say where the voxels are, beside a file of the same name that holds them.
_IN_PARTS = (".hdr", ".img", ".mhd", ".nhdr")
_BLOCK = 1 << 20


@dataclass(eq=False)
class Job:
    """A task for the child process, which fills a folder.

    Attributes:
        name: of the result's folder, relative to that of all results; unique among them. People see it.
        make_key: computes `key`, which takes as long as reading all that the job reads.
        task: of the child process. Its arguments get "folder", which it makes and fills, and "next", the arguments of
            the job that will follow in the same process (None if none is known), so that it may read ahead.
        arguments: of the task.
        after: jobs that it begins after, however they end: it may read what they gave.
    """

    name: str
    make_key: Callable[[], str]
    task: str
    arguments: Mapping[str, Any] = field(default_factory=dict)
    after: tuple[Job, ...] = ()

    @cached_property
    def key(self) -> str:
        """Hash of all that decides the result; InputError if something that it reads is not there."""
        return self.make_key()


def key_of(values: Any) -> str:
    """SHA-256 of plain values (what JSON can say), whatever the order of a mapping's keys."""
    text = json.dumps(values, sort_keys=True, ensure_ascii=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode("ascii")).hexdigest()


class Digests:
    """SHA-256 of files and folders. What was read once is remembered, also from one run and computer to the next, as
    long as size, dates and number of a file stay the same. May be used by several threads and processes."""

    def __init__(self, memory: Path | None = None) -> None:
        """`memory`: a file to remember by; made if needed."""
        self._memory = memory
        self._lock = threading.Lock()
        self._known: dict[str, str] = {}
        self._read_to = 0  # bytes of the memory that are known

    def of(self, path: Path) -> str:
        """Of a file, with the file beside it that belongs to it, or of all in a folder.

        Raises:
            InputError: it cannot be read.
        """
        try:
            files = list(_parts(path))
            if files == [path]:
                return self._of_file(path)
            return key_of([[file.relative_to(path.parent).as_posix(), self._of_file(file)] for file in files])
        except OSError as error:
            raise InputError(f"{path}: cannot be read ({error.strerror or error}). Check the path.") from error

    def _of_file(self, path: Path) -> str:
        found = path.stat()
        dates = found.st_mtime_ns, found.st_ctime_ns
        # Not the number of the device, which another computer has another one for.
        stamp = key_of([os.path.abspath(path), found.st_ino, found.st_size, *dates])
        with self._lock:
            if stamp not in self._known:
                self._recall()
            if stamp in self._known:
                return self._known[stamp]
        digest = hashlib.sha256()
        with open(path, "rb") as file:
            while block := file.read(_BLOCK):
                digest.update(block)
        value = digest.hexdigest()
        if time.time_ns() - max(dates) > _SETTLED_NANOSECONDS:
            self._remember(stamp, value)
        return value

    def _recall(self) -> None:
        """Reads what other processes have written to the memory meanwhile."""
        if self._memory is None:
            return
        with contextlib.suppress(OSError), open(self._memory, "rb") as file:
            file.seek(self._read_to)
            whole, end, _ = file.read().rpartition(b"\n")
            self._read_to += len(whole + end)
            # One that wrote may have been killed within a line.
            lines = (line.split("\t") for line in whole.decode("ascii", "replace").splitlines())
            self._known |= {parts[0]: parts[1] for parts in lines if len(parts) == 2 and len(parts[1]) == 64}

    def _remember(self, stamp: str, value: str) -> None:
        with self._lock:
            self._known[stamp] = value
            if self._memory is not None:
                # Without it, the file is read again.
                with contextlib.suppress(OSError), open(self._memory, "a", encoding="ascii") as file:
                    file.write(f"{stamp}\t{value}\n")


def _parts(path: Path) -> Iterable[Path]:
    if path.is_dir():
        return sorted(file for file in path.rglob("*") if file.is_file())
    if path.name.lower().endswith((*_IN_PARTS, ".img.gz", ".hdr.gz")):
        stem = path.name.partition(".")[0] + "."
        return sorted(file for file in path.parent.iterdir() if file.name.startswith(stem) and file.is_file())
    with open(path, "rb") as file:
        # One DICOM file stands for all slices beside it.
        if file.read(132)[128:] == b"DICM":
            return sorted(file for file in path.parent.iterdir() if file.is_file())
    return [path]
