# SPDX-License-Identifier: Apache-2.0
"""Calls into foreign code that a damaged file can crash, in a process of their own."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

from .errors import InputError

# The child finds what its parent found, however that was started.
_START = (
    "import json, sys; given = json.loads(sys.argv[1]); sys.path[:] = given['path']; "
    "from importlib import import_module; import_module(given['home'])._answer(given)"
)


def memory_to_read(path: Path) -> int:
    """Bytes that a sound reader may take for a file: its own, and what the file unpacks to."""
    return (4 << 30) + 40 * path.stat().st_size


class Crashed(RuntimeError):
    """The process ended without an answer: it crashed, ran out of its memory, or took too long."""


def isolated(function: str, *arguments: Any, seconds: float = 300.0, memory: int = 4 << 30) -> Any:
    """Calls a function of this library in a process of its own, and returns what it returns.

    Args:
        function: "room.module:function", relative to the library.
        arguments: what JSON can hold.
        seconds: after them the process is ended.
        memory: bytes of address space that it may take, where the system can limit them.

    Returns:
        What the function returned, as JSON holds it.

    Raises:
        InputError: the function's.
        Crashed: no answer.
    """
    library = __package__.rpartition(".")[0]
    given = {
        "path": sys.path,
        "home": __name__,
        "function": f"{library}.{function}",
        "arguments": arguments,
        "memory": memory,
    }
    try:
        done = subprocess.run(
            [_python(), "-c", _START, json.dumps(given)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            timeout=seconds,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise Crashed(f"no answer within {seconds:g} s") from error
    try:
        answer = json.loads(done.stdout)
    except ValueError as error:
        raise Crashed(f"the reader ended with exit status {done.returncode}") from error
    if "wrong" in answer:
        raise InputError(answer["wrong"])
    return answer["value"]


def _python() -> str:
    """An interpreter; within Slicer sys.executable is not one on every system."""
    within = shutil.which("PythonSlicer") if "slicer" in sys.modules else None
    return within or sys.executable


def _answer(given: dict[str, Any]) -> None:
    """In the child: calls, and writes the answer as the only thing on standard output."""
    with contextlib.suppress(ImportError, ValueError, OSError):
        import resource

        resource.setrlimit(resource.RLIMIT_AS, (given["memory"], given["memory"]))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    answers = os.dup(1)
    silence = os.open(os.devnull, os.O_WRONLY)
    os.dup2(silence, 1)
    module, _, name = given["function"].partition(":")
    try:
        answer = {"value": getattr(import_module(module), name)(*given["arguments"])}
    except InputError as error:
        answer = {"wrong": str(error)}
    with os.fdopen(answers, "w", encoding="utf-8") as stream:
        json.dump(answer, stream)
