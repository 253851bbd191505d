# SPDX-License-Identifier: Apache-2.0
"""Tasks for the child under test: each misbehaves in its own way."""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import time
from typing import Any

import numpy as np


def echo(control: Any, arguments: dict[str, Any]) -> Any:
    return arguments


def fields(control: Any, arguments: dict[str, Any]) -> Any:
    """What a registration of `fixed` and `moving` sends back, in kind and size."""
    fixed, moving = arguments["fixed"], arguments["moving"]
    return {
        "warped": fixed,
        "before": moving,
        "log_jacobian": fixed.with_data(np.zeros_like(fixed.data)),
        "fixed_to_moving": np.zeros((*fixed.data.shape, 3), np.float32),
        "moving_to_fixed": np.zeros((*fixed.data.shape, 3), np.float32),
    }


def optimize(control: Any, arguments: dict[str, Any]) -> Any:
    """Improves until it is cancelled or done, and returns the best so far."""
    for iteration in range(arguments["iterations"]):
        energy = np.float32(1 / (iteration + 1))
        control.progress({"phase": "level", "iteration": iteration, "energy": energy})
        if control.cancelled():
            break
        time.sleep(0.01)
    return {"iterations": iteration + 1, "best": np.full(1000, iteration)}


def sleep(control: Any, arguments: dict[str, Any]) -> None:
    """Sleeps, deaf to cancel, after telling who it is and, if asked, starting a process of its own."""
    started = [os.getpid()]
    if arguments.get("start"):
        started.append(subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"]).pid)
    control.progress({"pids": started})
    time.sleep(arguments.get("seconds", 60))


def finish_slowly(control: Any, arguments: dict[str, Any]) -> str:
    control.progress({})
    while not control.cancelled():
        time.sleep(0.01)
    time.sleep(arguments["seconds"])
    return "best so far"


def hang(control: Any, arguments: dict[str, Any]) -> None:
    """Sleeps in native code without letting other threads of Python run."""
    control.progress({})
    time.sleep(0.5)  # until the event is on its way
    if os.name == "nt":
        ctypes.PyDLL("kernel32").Sleep(60_000)
    else:
        ctypes.PyDLL(None).sleep(60)


def crash(control: Any, arguments: dict[str, Any]) -> None:
    print("about to crash")
    ctypes.string_at(0)


def be_killed(control: Any, arguments: dict[str, Any]) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def leave(control: Any, arguments: dict[str, Any]) -> None:
    print("no more of this", file=sys.stderr)
    os._exit(3)


def fail(control: Any, arguments: dict[str, Any]) -> None:
    if arguments["kind"] == "InputError":
        from DeepFLASHRegistrationLib.support.errors import InputError

        raise InputError("brain.nii: every voxel is 0. Check the file.")
    print("Last words, größer")
    raise {"MemoryError": MemoryError, "ZeroDivisionError": ZeroDivisionError, "SystemExit": SystemExit}[
        arguments["kind"]
    ]("told so")


def flood(control: Any, arguments: dict[str, Any]) -> int:
    """Prints 100 MB of lines, from Python's stdout and natively from both descriptors, half a line last."""
    line = b"x" * 99 + b"\n"
    for descriptor in (1, 2):
        for _ in range(500):
            os.write(descriptor, line * 1000)
    print("end of the flood")
    return len(line) * 1_000_000


def report(control: Any, arguments: dict[str, Any]) -> str:
    for iteration in range(arguments["events"]):
        control.progress({"iteration": iteration})
    return "reported"


def limit_files(control: Any, arguments: dict[str, Any]) -> Any:
    """Returns 4 MB, having lowered the largest size of a file to `size`."""
    import resource

    largest = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
    resource.setrlimit(resource.RLIMIT_FSIZE, (arguments["size"], largest))
    return np.zeros(4 << 20, np.uint8)


def take(control: Any, arguments: dict[str, Any]) -> int:
    """Takes memory."""
    return np.ones(arguments["bytes"], np.uint8).nbytes


def unknown_object(control: Any, arguments: dict[str, Any]) -> object:
    return object()


def descriptors(control: Any, arguments: dict[str, Any]) -> int:
    return len(os.listdir("/proc/self/fd"))


TASKS = {
    task.__name__: task
    for task in (
        echo,
        fields,
        optimize,
        sleep,
        finish_slowly,
        hang,
        crash,
        be_killed,
        leave,
        fail,
        flood,
        report,
        limit_files,
        take,
        unknown_object,
        descriptors,
    )
}
