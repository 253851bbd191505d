# SPDX-License-Identifier: Apache-2.0
"""A process that is ended together with all it started."""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

_SO_NOSIGPIPE = 0x1022  # sys/socket.h of macOS, which Python does not name

# Words for how processes end; the rest is named by number. Windows has status codes instead of signals.
_REASONS = {
    -getattr(signal, "SIGKILL", 9): "was killed, probably because memory ran out",
    -signal.SIGSEGV: "crashed (segmentation fault)",
    -signal.SIGABRT: "crashed (aborted)",
    -signal.SIGILL: "crashed (illegal instruction: its libraries were built for another processor)",
    -signal.SIGFPE: "crashed (arithmetic error)",
    -getattr(signal, "SIGBUS", 7): "crashed (bus error, perhaps because the disk or memory is full)",
    -signal.SIGTERM: "was terminated",
    0xC0000005: "crashed (access violation)",
    0xC0000017: "was ended, because memory ran out",
    0xC000001D: "crashed (illegal instruction: its libraries were built for another processor)",
    0xC00000FD: "crashed (stack overflow)",
    0xC0000409: "crashed (aborted)",
}


class ProcessTree:
    """A process with pipes, in a group of its own (a job object on Windows) by which all of it can be ended.

    Attributes:
        popen: the process, whose stdout and stderr are read by the caller.
    """

    def __init__(self, command: Sequence[str], environment: Mapping[str, str], folder: Path) -> None:
        arguments: dict[str, Any] = {
            "stdout": subprocess.PIPE,
            "stderr": subprocess.PIPE,
            "bufsize": 0,
            "env": dict(environment),
            "cwd": folder,
        }
        self._ended = False
        if os.name == "posix":
            # A socket, not a pipe: it can be written without waiting, and without SIGPIPE, which ends an
            # application that embeds Python without its signal handlers.
            self._input, theirs = socket.socketpair()
            with theirs:
                try:
                    self.popen = subprocess.Popen(command, stdin=theirs, start_new_session=True, **arguments)
                except BaseException:
                    self._input.close()
                    raise
            self._input.setblocking(False)
            if sys.platform == "darwin":
                self._input.setsockopt(socket.SOL_SOCKET, _SO_NOSIGPIPE, 1)
        else:
            self.popen = subprocess.Popen(
                command, stdin=subprocess.PIPE, creationflags=subprocess.CREATE_NO_WINDOW, **arguments
            )
            self._job = _WindowsJob()
            try:
                self._job.add(self.popen)
            except OSError:
                self.popen.kill()
                raise

    def write(self, data: bytes) -> None:
        """Writes a short message to the process's stdin. Silent if nobody reads it any more."""
        with contextlib.suppress(OSError):
            if os.name == "posix":
                self._input.send(data, getattr(socket, "MSG_NOSIGNAL", 0))
            else:
                self.popen.stdin.write(data)

    def kill(self) -> None:
        """Ends the process and all it started, at once. May be called again, and after its death."""
        if self._ended:
            return
        self._ended = True
        if os.name == "posix":
            # Also when the leader is gone: what it started still bears its number as a group.
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self.popen.pid, signal.SIGKILL)
            self._input.close()
        else:
            self._job.end()
            self.popen.stdin.close()

    def exit_in_words(self, log: Sequence[str]) -> str:
        """Says how the process ended: "was killed, probably because memory ran out"."""
        code = self.popen.returncode
        if code in _REASONS:
            return _REASONS[code]
        text = "\n".join(log)
        # PythonSlicer is a launcher: the death of the interpreter becomes exit code 1 and this line.
        if "exit abnormally" in text and "Fatal Python error" not in text:
            return _REASONS[-getattr(signal, "SIGKILL", 9)]
        if code is not None and code < 0:
            return f"was ended by signal {-code}"
        return f"ended unexpectedly (exit code {code})"


class _WindowsJob:
    """A job object, by which a process and all it starts can be ended.

    It does not end them by being closed: a child whose parent is gone removes its files before it ends itself.
    """

    def __init__(self) -> None:
        from ctypes import wintypes

        kernel = ctypes.WinDLL("kernel32", use_last_error=True)
        kernel.CreateJobObjectW.restype = wintypes.HANDLE
        kernel.CreateJobObjectW.argtypes = (ctypes.c_void_p, wintypes.LPCWSTR)
        kernel.AssignProcessToJobObject.argtypes = (wintypes.HANDLE, wintypes.HANDLE)
        kernel.TerminateJobObject.argtypes = (wintypes.HANDLE, wintypes.UINT)
        kernel.CloseHandle.argtypes = (wintypes.HANDLE,)
        self._kernel = kernel
        self._handle = self._checked(kernel.CreateJobObjectW(None, None))

    def add(self, popen: subprocess.Popen) -> None:
        self._checked(self._kernel.AssignProcessToJobObject(self._handle, int(popen._handle)))

    def end(self) -> None:
        self._kernel.TerminateJobObject(self._handle, 1)
        self._kernel.CloseHandle(self._handle)

    @staticmethod
    def _checked(result: int | None) -> int:
        if not result:
            raise ctypes.WinError(ctypes.get_last_error())
        return result
