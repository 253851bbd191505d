# SPDX-License-Identifier: Apache-2.0
"""The parent's end of one running child: its pipes, what it said, whether it lives."""

from __future__ import annotations

import collections
import contextlib
import json
import os
import subprocess
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from . import transfer
from .folders import PrivateFolder
from .tree import ProcessTree

_EVENT_BYTES = 1 << 20
_EVENTS = 10_000
_LOG_BYTES = 1 << 16
_LINE_LENGTH = 500
_START = b"\x1e"


class Log:
    """The last 64 kB of what a process printed. Safe to use from several threads."""

    def __init__(self) -> None:
        self._data = b""
        self._lock = threading.Lock()

    def add(self, data: bytes) -> None:
        """Appends output, and forgets the oldest beyond the limit."""
        with self._lock:
            self._data = (self._data + data)[-_LOG_BYTES:]

    def lines(self, count: int) -> list[str]:
        """The last `count` lines, oldest first, each cut to 500 characters."""
        with self._lock:
            text = self._data.decode("utf-8", errors="replace")
        return [line[:_LINE_LENGTH] for line in text.splitlines() if line.strip()][-count:]


class Connection:
    """A child process with threads that always read what it writes, so that it never waits for the parent.

    Attributes:
        log: what it printed that is no event.
        last_sign: time.monotonic() of its last event.
    """

    def __init__(
        self, command: Sequence[str], environment: Mapping[str, str], folder: Path, news: threading.Event
    ) -> None:
        """Starts the command.

        Args:
            command, environment, folder: what to run, with what environment variables, and where.
            news: set after every event, and when there will be no more.

        Raises:
            OSError: if it cannot be started.
        """
        self.log = Log()
        self.last_sign = time.monotonic()
        self._news = news
        # Events that nobody fetches push out the oldest: progress, since a job's end comes last.
        self._events: collections.deque[dict[str, Any]] = collections.deque(maxlen=_EVENTS)
        self._folder: PrivateFolder | None = None
        self._closed = False
        self._lock = threading.RLock()
        self._process = os.getpid()
        self._tree = ProcessTree(command, environment, folder)
        self._threads = [
            threading.Thread(target=run, daemon=True, name="deepflash-reader")
            for run in (self._read_events, self._read_log)
        ]
        for thread in self._threads:
            thread.start()

    @property
    def pid(self) -> int:
        """Process number of what was started (the launcher, if it is one)."""
        return self._tree.popen.pid

    @property
    def lives(self) -> bool:
        """Whether the process has not ended."""
        return self._tree.popen.poll() is None

    def new_folder(self, base: Path) -> Path:
        """Makes a private folder for a job, removed when its result is here, by `remove_folder`, or at last.

        Raises:
            OSError: if it cannot be made, also because the connection is closed.
        """
        folder = PrivateFolder(base)
        with self._lock:
            if self._closed:
                folder.remove()
                raise OSError("The child process is closed.")
            self._folder = folder
        self.send(do="own", folder=str(folder.path))
        return folder.path

    def remove_folder(self) -> None:
        """Removes the job's folder, if there still is one."""
        with self._lock:
            if self._folder is not None:
                self._folder.remove()
                self._folder = None

    def send(self, **message: Any) -> None:
        """Sends a message, without waiting."""
        self._tree.write(json.dumps(message).encode("ascii") + b"\n")

    def events(self) -> list[dict[str, Any]]:
        """The events that came since the last call, with "time", the time.monotonic() of their arrival."""
        found = []
        with contextlib.suppress(IndexError):
            while True:
                found.append(self._events.popleft())
        return found

    def kill(self) -> None:
        """Ends the child and all it started, without waiting for its end."""
        # A process forked off this one has no say in it.
        if self._process == os.getpid():
            self._tree.kill()

    def close(self) -> None:
        """Ends the child, waits until it is gone and its output read, and removes its files."""
        if self._process != os.getpid():
            return
        self.kill()
        popen = self._tree.popen
        with contextlib.suppress(subprocess.TimeoutExpired):
            popen.wait(timeout=5)
        for thread in self._threads:
            # The garbage collector may call this from anywhere, even from one of them.
            if thread is not threading.current_thread():
                thread.join(timeout=1)
        # Something that escaped from the tree may still write to a pipe; then a thread reads there.
        if not any(thread.is_alive() for thread in self._threads):
            popen.stdout.close()
            popen.stderr.close()
        with self._lock:
            self._closed = True
        self.remove_folder()

    def exit_in_words(self) -> tuple[str, int | None]:
        """How the process ended, as the end of a sentence, and its exit code (negative: signal)."""
        return self._tree.exit_in_words(self.log.lines(50)), self._tree.popen.returncode

    def receive(self) -> Any:
        """The value that the job left in its folder, which is then removed.

        Raises:
            FileNotFoundError: if there is none.
            ValueError: if it is none that this version knows.
        """
        folder = self._folder
        if folder is None:
            raise FileNotFoundError("There is no job.")
        value = transfer.read(folder.path / "result")
        self.remove_folder()
        return value

    def _read_log(self) -> None:
        for data in _chunks(self._tree.popen.stderr):
            self.log.add(data)

    def _read_events(self) -> None:
        rest = b""
        for data in _chunks(self._tree.popen.stdout):
            rest += data
            if _START not in rest:
                self.log.add(rest)
                rest = b""
                continue
            *lines, rest = rest.split(b"\n")
            for line in lines:
                self._take(line)
            if len(rest) > _EVENT_BYTES:
                self.log.add(rest)
                rest = b""
        self._news.set()

    def _take(self, line: bytes) -> None:
        noise, start, text = line.rpartition(_START)
        try:
            event = json.loads(text) if start else None
            if not isinstance(event, dict) or not isinstance(event.get("event"), str):
                raise ValueError("not an event")
        except (ValueError, RecursionError):
            self.log.add(line + b"\n")
            return
        if noise:
            self.log.add(noise + b"\n")
        self.last_sign = time.monotonic()
        if event["event"] == "alive":
            return
        if event["event"] == "done":
            # Here, in a thread, since the first result imports what it is made of.
            try:
                event["value"] = self.receive()
            except Exception as error:
                event |= {
                    "event": "failed",
                    "kind": type(error).__name__,
                    "message": f"The result cannot be read: {error}",
                }
        event["time"] = time.monotonic()
        self._events.append(event)
        self._news.set()


def _chunks(file: Any) -> Iterator[bytes]:
    with contextlib.suppress(OSError, ValueError):
        while data := os.read(file.fileno(), 1 << 16):
            yield data
