# SPDX-License-Identifier: Apache-2.0
"""The child process, `python -m DeepFLASHRegistrationLib.process.child`, started by `RegistrationProcess`.

Messages arrive on stdin as one JSON object per line:
    {"do": "own", "folder": path}                          remove this folder if the parent vanishes
    {"do": "run", "job": 1, "task": name, "folder": path}  from <folder>/arguments to <folder>/result
    {"do": "cancel", "job": 1}
The end of stdin is the end of the parent. Events leave on stdout, each a record separator (RFC 7464) and one
JSON object on a line: ready, alive (every second), started, progress, cancelling, done, failed. Whatever else
is printed, by libraries too, goes to stderr.
"""

from __future__ import annotations

import argparse
import contextlib
import faulthandler
import gc
import importlib
import json
import os
import queue
import signal
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ..support import memory
from ..support.processors import share_processors
from ..support.torch_device import is_memory_gone
from . import folders, transfer
from .errors import is_no_room
from .tasks import TASKS

_HEARTBEAT_SECONDS = 1.0
# Progress beyond this many unread events is dropped: a parent that does not read must not stop the child.
_UNREAD_EVENTS = 1000
_TEXT_LIMIT = 10_000
_REST_SECONDS = 0.5


class Control:
    """What a task is given to speak with the parent."""

    def __init__(self, progress: Callable[[Mapping[str, Any]], None], cancelled: Callable[[], bool]) -> None:
        self.progress = progress
        self.cancelled = cancelled


class _Child:
    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options
        self.jobs: queue.SimpleQueue[dict[str, Any]] = queue.SimpleQueue()
        self.events: queue.SimpleQueue[bytes] = queue.SimpleQueue()
        self.cancelled: set[int] = set()
        self.owned: list[Path] = []
        self.known_modules = 0
        self.messages, self.stdout = _take_over_pipes()

    def main(self) -> None:
        for run in (self.listen, self.speak, self.beat):
            threading.Thread(target=run, name=run.__name__, daemon=True).start()
        self.tell(event="ready", pid=os.getpid())
        while True:
            try:
                message = self.jobs.get(timeout=_REST_SECONDS)
            except queue.Empty:
                # Only at rest, since the next of many jobs would have to ask for the memory again.
                _give_back_memory()
                message = self.jobs.get()
            self.run(message)
            self.collect_garbage()

    def tell(self, **event: Any) -> None:
        """Sends an event to the parent."""
        self.events.put(b"\x1e" + json.dumps(event, default=_plain).encode("ascii") + b"\n")

    def run(self, message: dict[str, Any]) -> None:
        job, folder = message["job"], Path(message["folder"])
        partial = folder / "partial"
        sending = False
        try:
            arguments = transfer.read(folder / "arguments")
            self.tell(event="started", job=job)
            task = TASKS.get(message["task"])
            if task is None:
                raise ValueError(f"There is no task {message['task']!r}, only {', '.join(sorted(TASKS))}.")
            began = time.monotonic()
            value = task(self.control(job), arguments)
            seconds = time.monotonic() - began
            sending = True
            transfer.write(partial, value)
            os.replace(partial, folder / "result")
        except BaseException as error:  # an exit asked for by a library is a failure of the job too
            folders.remove_tree(partial)
            self.tell(
                event="failed",
                job=job,
                kind=_kind(error),
                message=_words(error)[:_TEXT_LIMIT],
                traceback=traceback.format_exc()[-_TEXT_LIMIT:],
                sending=sending,
            )
        else:
            self.tell(event="done", job=job, seconds=seconds)
        self.cancelled.discard(job)

    def collect_garbage(self) -> None:
        """Frees what the last job left in reference cycles."""
        gc.collect()
        # The objects of imported modules stay anyway; to walk through torch's takes 0.15 s each time.
        if len(sys.modules) > self.known_modules:
            self.known_modules = len(sys.modules)
            gc.freeze()

    def control(self, job: int) -> Control:
        told = False

        def progress(event: Mapping[str, Any]) -> None:
            if self.events.qsize() < _UNREAD_EVENTS:
                self.tell(event="progress", job=job, data=dict(event))

        def cancelled() -> bool:
            nonlocal told
            asked = job in self.cancelled
            if asked and not told:
                told = True
                self.tell(event="cancelling", job=job)
            return asked

        return Control(progress, cancelled)

    def listen(self) -> None:
        """Thread that reads the parent's messages."""
        rest = b""
        while True:
            try:
                data = os.read(self.messages, 1 << 16)
            except OSError:
                data = b""
            if not data:
                self.leave()
            *lines, rest = (rest + data).split(b"\n")
            for line in lines:
                message = json.loads(line)
                if message["do"] == "own":
                    self.owned = [path for path in self.owned if path.exists()] + [Path(message["folder"])]
                elif message["do"] == "run":
                    self.jobs.put(message)
                elif message["do"] == "cancel":
                    self.cancelled.add(message["job"])

    def speak(self) -> None:
        """Thread that writes the events, so that a full pipe stops nothing else."""
        while True:
            data = self.events.get()
            # A pipe whose reader is gone is the parent's end, which `listen` sees.
            with contextlib.suppress(OSError):
                while data:
                    data = data[os.write(self.stdout, data) :]

    def beat(self) -> None:
        """Thread that tells that Python still runs.

        If it does not, since native code never gives the interpreter back, the watchdog (a thread that needs
        none) writes where every thread is and ends the process, also if there is no parent any more.
        """
        parent = os.getppid()
        while True:
            faulthandler.dump_traceback_later(self.options.hang_timeout, exit=True)
            if self.events.empty():
                self.tell(event="alive")
            time.sleep(min(_HEARTBEAT_SECONDS, self.options.hang_timeout / 5))
            # A parent that forked and died leaves stdin open: the fork holds the other end.
            if os.getppid() != parent:
                self.leave()

    def leave(self) -> None:
        """Ends this process, without a trace, with all it started."""
        for folder in self.owned:
            folders.remove_tree(folder)
        if os.name == "nt":
            subprocess.run(["taskkill", "/F", "/T", "/PID", str(os.getpid())], check=False)
        elif self.options.owns_group:
            os.killpg(os.getpgrp(), signal.SIGKILL)
        os._exit(0)


def _take_over_pipes() -> tuple[int, int]:
    """Gives stdin and stdout to the protocol alone, and others an empty stdin and stderr for a stdout.

    Descriptors made here are not inherited, so nothing this process starts holds the pipes.
    """
    messages, events = os.dup(0), os.dup(1)
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.close(nothing)
    os.dup2(2, 1)
    return messages, events


def _plain(value: Any) -> Any:
    """Numbers of numpy and torch as Python's, anything else as text."""
    return value.item() if getattr(value, "ndim", None) == 0 else str(value)


def _words(error: BaseException) -> str:
    """What an error says; of the system's not the number, where somebody has put it in words."""
    if isinstance(error, OSError) and error.strerror and error.filename is None:
        return error.strerror
    return str(error)


def _kind(error: BaseException) -> str:
    if is_no_room(error):
        return "DiskFull"
    if is_memory_gone(error):
        return "OutOfMemory"
    return type(error).__name__


def _give_back_memory() -> None:
    """Returns to the system what is free, so that a warm child at rest is small."""
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_initialized():
        torch.cuda.empty_cache()
    memory.give_back_memory()


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the child until its parent ends."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--hang-timeout", type=float, default=120.0, help="seconds without a sign of life")
    parser.add_argument("--owns-group", action="store_true", help="the process group is this child's own")
    parser.add_argument("--tasks", metavar="MODULE", help="a module whose TASKS are added")
    parser.add_argument("--memory-bytes", type=int, metavar="N", help="that this process may have at most")
    options = parser.parse_args(arguments)
    share_processors()
    memory.keep_freed_memory()
    if options.memory_bytes:
        memory.limit_memory(options.memory_bytes)
    faulthandler.enable()
    child = _Child(options)
    if options.tasks:
        TASKS.update(importlib.import_module(options.tasks).TASKS)
    child.main()


if __name__ == "__main__":
    main()
