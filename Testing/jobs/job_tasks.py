# SPDX-License-Identifier: Apache-2.0
"""Tasks for jobs under test: each writes down that it was run, and then works or fails in its own way."""

from __future__ import annotations

import errno
import os
import signal
import time
from pathlib import Path
from typing import Any

from DeepFLASHRegistrationLib.support.errors import InputError


def make(control: Any, arguments: dict[str, Any]) -> dict[str, Any]:
    """Makes a folder with a text.

    arguments: "log", a file to which a line is added; "text"; "seconds" to take; "runs", how many runs must have begun
    some job before this one ends; "ends", how each run but those beyond the list ends: "killed", "parent killed",
    "input", "full", "memory", or "" for well.
    """
    log, text = Path(arguments["log"]), arguments["text"]
    before = [line.split()[0] for line in log.read_text().splitlines()] if log.exists() else []
    following = arguments["next"] and arguments["next"]["text"]
    with open(log, "a", encoding="utf-8") as file:
        file.write(f"{text} {following} {os.getpid()} {os.getppid()}\n")
    folder = Path(arguments["folder"])
    folder.mkdir()
    (folder / "half").write_text("half of it")
    time.sleep(arguments.get("seconds", 0))
    deadline = time.monotonic() + 60
    while len({line.split()[3] for line in log.read_text().splitlines()}) < arguments.get("runs", 1):
        if time.monotonic() > deadline:
            raise InputError(f"{text}: no other run has begun.")
        time.sleep(0.01)
    end = dict(enumerate(arguments.get("ends", ()))).get(before.count(text), "")
    if end == "killed":
        os.kill(os.getpid(), signal.SIGKILL)
    elif end == "parent killed":
        os.kill(os.getppid(), signal.SIGKILL)
        time.sleep(60)
    elif end == "input":
        raise InputError(f"{text}: is nothing to work on.")
    elif end == "full":
        raise OSError(errno.ENOSPC, f"{folder}: could not be written (the disk is full)")
    elif end == "memory":
        raise MemoryError("too large")
    (folder / "text.txt").write_text(text, encoding="utf-8")
    (folder / "half").unlink()
    return {"length": len(text)}


TASKS = {"make": make}
