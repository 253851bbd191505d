# SPDX-License-Identifier: Apache-2.0
"""The parent's side: a warm child process that runs one job after the other."""

from __future__ import annotations

import os
import sys
import threading
import time
import weakref
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from ..problem.subject import Attached, subjects
from ..support.errors import Cancelled, InputError
from . import folders, transfer
from .connection import Connection
from .errors import ChildDied, ChildHung, DiskFull, JobFailed, OutOfMemory, ProcessError, is_no_room
from .job import Job, RunningJob, State

_PACKAGE = __package__.rpartition(".")[0]
# The folder in which the package lies, for the child's search path.
_LIBRARY = Path(__file__).resolve().parents[len(__package__.split("."))]
# Errors of the task that arrive as themselves: they speak of the input, not of the child.
_CARRIED: dict[str, type[Exception]] = {"InputError": InputError, "Cancelled": Cancelled}

# A result is some times larger than its input: two images in; images, maps and two fields with margin out.
_ROOM_PER_INPUT_BYTE = 16
_ROOM_BYTES = 64 << 20
_MAKE_ROOM = "Free some, or name another folder in the environment variable TMPDIR."
_LOG_LINES = 60
# A child that seems silent is looked at again after this time: a computer that slept, or a parent that stood
# still, must not end it.
_SECOND_LOOK_SECONDS = 3.0
# A process that the system cannot end, as it waits for a broken disk or device, is given up after this time.
_KILL_SECONDS = 5.0


class RegistrationProcess:
    """A child process that registers images, kept warm from one job to the next.

    The child is started by the first job and replaced after a failure. It ends, with all it started and its
    files, by `close`, when this object is dropped, or when this process ends, however it ends. From a GUI,
    call `submit`, then `poll` from a timer: neither waits. In a script, call `run` or `register`.

    >>> with RegistrationProcess() as process:
    ...     result = process.register(fixed, moving, parameters)
    """

    def __init__(
        self,
        python: str | os.PathLike | None = None,
        *,
        tasks: str | None = None,
        environment: Mapping[str, str] | None = None,
        memory_bytes: int | None = None,
        grace: float = 10.0,
        finishing: float = 120.0,
        hang_timeout: float = 120.0,
    ) -> None:
        """Starts nothing yet.

        Args:
            python: the interpreter for the child, None for this one. In Slicer: shutil.which("PythonSlicer").
            tasks: a module (found on PYTHONPATH) whose TASKS the child offers besides its own.
            environment: variables to set for the child, besides those of this process.
            memory_bytes: that the child may have at most, where the system can hold it to that (Linux).
            grace: seconds after `cancel` within which the task must notice it, else the child is ended.
            finishing: seconds without progress that a task which has noticed may take to finish its result.
            hang_timeout: seconds without a sign of life after which the child counts as hung and is ended.
        """
        self._command = [
            os.fspath(python or sys.executable),
            "-u",
            "-X",
            "utf8",
            "-m",
            f"{_PACKAGE}.process.child",
            "--hang-timeout",
            str(hang_timeout),
        ]
        if os.name == "posix":
            self._command += ["--owns-group"]
        if tasks:
            self._command += ["--tasks", tasks]
        if memory_bytes:
            self._command += ["--memory-bytes", str(memory_bytes)]
        self._environment = dict(environment or {})
        self.grace = grace
        self.finishing = finishing
        self.hang_timeout = hang_timeout
        self._lock = threading.RLock()
        self._news = threading.Event()
        self._state = State.IDLE
        self._connection: Connection | None = None
        self._finalizer: Callable[[], Any] | None = None
        self._reaper: threading.Thread | None = None
        self._count = 0
        self._run: RunningJob | None = None

    @property
    def state(self) -> State:
        """What the process does; FAILED until the next job if the last one did."""
        return self._state

    @property
    def busy(self) -> bool:
        """Whether a job has not ended yet."""
        return self._run is not None

    @property
    def pid(self) -> int | None:
        """Process number of the child (its launcher, if it has one), None if there is none."""
        return self._connection.pid if self._connection else None

    def log(self, count: int = 200) -> list[str]:
        """The last lines that the present child printed, oldest first."""
        return self._connection.log.lines(count) if self._connection else []

    def submit(self, task: str, arguments: Mapping[str, Any] | None = None) -> Job:
        """Gives the child a job, and starts it if there is none. Returns at once.

        Args:
            task: one of tasks.TASKS, or of the module `tasks`.
            arguments: the task's arguments, of the types that `transfer.write` takes. Their arrays are copied by
                a thread: do not change them before the event "started".

        Returns:
            Job, which `poll` fills in.

        Raises:
            RuntimeError: if another job has not ended yet.
        """
        with self._lock:
            if self._run is not None:
                raise RuntimeError("A job is running in this process. Wait for its end, or use another one.")
            if self._connection is not None and not self._connection.lives:
                self._drop_connection()
            self._count += 1
            now = time.monotonic()
            self._run = run = RunningJob(Job(self._count, task), dict(arguments or {}), began=now, heard=now)
            run.warm = self._connection is not None
            self._state = State.STARTING
            self._start_sending(run)
            return run.job

    def poll(self) -> list[dict[str, Any]]:
        """What happened since the last call. Returns at once. Call it some ten times a second while `busy`.

        Returns:
            Events in order, each with "event" and "job" (its number):
            "started"; "progress" with the keys that the task reports; "cancelling" (the task has noticed);
            and one of "done" (the Job has its result), "cancelled" (there is none), "failed" (the Job has its
            error).
        """
        with self._lock:
            events: list[dict[str, Any]] = []
            self._news.clear()
            run = self._run
            if run is None:
                return events
            self._take_events(run, events)
            if not run.job.done:
                self._check(run, events)
            return events

    def cancel(self, now: bool = False) -> None:
        """Asks the running task to stop and to return what it has so far. Does nothing if no job runs.

        Args:
            now: do not ask but end the child, which leaves no result.
        """
        with self._lock:
            run = self._run
            if run is None:
                return
            run.now = run.now or now
            if run.asked is None:
                run.asked = time.monotonic()
                self._state = State.CANCELLING
                if run.sent:
                    self._connection.send(do="cancel", job=run.job.number)
            self._news.set()

    def wait(
        self,
        timeout: float | None = None,
        callback: Callable[[dict[str, Any]], None] | None = None,
        cancel: Callable[[], bool] | None = None,
    ) -> Any:
        """Waits for the end of the present job.

        Args:
            timeout: seconds to wait at most; the job goes on after that.
            callback: called with every event of `poll`.
            cancel: asked at least twenty times a second; true cancels.

        Returns:
            What the task returned. None if no job runs.

        Raises:
            TimeoutError: if the job has not ended in time.
            InputError, Cancelled: raised by the task, or by the end of an uncooperative one after `cancel`.
            ProcessError: any other failure, as one of its subclasses ChildDied, ChildHung, DiskFull,
                OutOfMemory and JobFailed.
        """
        run = self._run
        if run is None:
            return None
        end = None if timeout is None else time.monotonic() + timeout
        while True:
            for event in self.poll():
                if callback is not None:
                    callback(event)
            if run.job.done:
                break
            if cancel is not None and cancel():
                self.cancel()
            if end is not None and time.monotonic() >= end:
                raise TimeoutError(f"The job has not ended within {timeout:g} s.")
            # Short, since death and silence are noticed by looking.
            self._news.wait(0.05)
        if run.job.error is not None:
            raise run.job.error
        return run.job.result

    def run(
        self,
        task: str,
        arguments: Mapping[str, Any] | None = None,
        *,
        timeout: float | None = None,
        callback: Callable[[dict[str, Any]], None] | None = None,
        cancel: Callable[[], bool] | None = None,
    ) -> Any:
        """`submit` and `wait`. A job left early (timeout, exception in a callback, Ctrl-C) is ended."""
        job = self.submit(task, arguments)
        try:
            return self.wait(timeout, callback, cancel)
        finally:
            if not job.done:
                self.close()

    def register(
        self,
        fixed: Any,
        moving: Any,
        parameters: Any = None,
        *,
        progress: Callable[[dict[str, Any]], None] | None = None,
        cancel: Callable[[], bool] | None = None,
        **inputs: Any,
    ) -> Any:
        """`registration.register.register` in the child: the same arguments, result and errors. Waits for its end.

        Args:
            fixed, moving: Subject or Volume.
            parameters: Parameters, None for the defaults.
            progress: called with every Event of the registration.
            cancel: as for `wait`.
            inputs: the other arguments of `registration.register.register`: labels, masks, points, device, threads.

        Returns:
            registration.result.Result; with `cancelled` set, the best so far.
        """
        attached = {name: inputs.pop(name) for name in list(inputs) if name in Attached.__annotations__}
        # What was passed wrongly is said here, and costs no warm child.
        fixed, moving = subjects(fixed, moving, attached)
        arguments = {"fixed": fixed, "moving": moving, **inputs}
        if parameters is not None:
            arguments["parameters"] = parameters

        def report(event: dict[str, Any]) -> None:
            if event["event"] == "progress" and progress is not None:
                progress({key: value for key, value in event.items() if key not in ("event", "job")})

        return self.run("register", arguments, callback=report, cancel=cancel)

    def close(self) -> None:
        """Ends the child with all it started, and removes its files.

        A running job ends as cancelled, without a result. A later job starts a fresh child.
        """
        with self._lock:
            run = self._run
            if run is not None:
                run.abandoned = True
        if run is not None:
            run.thread.join()
        with self._lock:
            if run is not None and not run.job.done:
                self._end(run, Cancelled("The job was ended with its process."))
            self._drop_connection()
            self._state = State.IDLE
        if self._reaper is not None:
            self._reaper.join()

    def __enter__(self) -> RegistrationProcess:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def _start_sending(self, run: RunningJob) -> None:
        self._news.clear()
        run.thread = threading.Thread(target=self._send, args=(run,), daemon=True, name="deepflash-send")
        run.thread.start()

    def _send(self, run: RunningJob) -> None:
        """Thread that starts the child if need be and hands it the job, both of which may take a while."""
        try:
            connection = self._connection
            if connection is None:
                connection = self._connect()
            need = _ROOM_PER_INPUT_BYTE * transfer.size_of(run.arguments) + _ROOM_BYTES
            folder = connection.new_folder(folders.base_with_room(need))
            transfer.write(folder / "arguments", run.arguments, stop=lambda: run.abandoned)
            with self._lock:
                if not run.abandoned:
                    run.sent = True
                    connection.send(do="run", job=run.job.number, task=run.job.task, folder=str(folder))
                    if run.asked is not None:
                        connection.send(do="cancel", job=run.job.number)
        except BaseException as error:
            run.broken = error
        finally:
            self._news.set()

    def _connect(self) -> Connection:
        folders.sweep()
        environment = {**os.environ, **self._environment}
        path = environment.get("PYTHONPATH")
        environment["PYTHONPATH"] = os.pathsep.join([str(_LIBRARY), *([path] if path else [])])
        connection = Connection(self._command, environment, _LIBRARY, self._news)
        self._finalizer = weakref.finalize(self, connection.close)
        self._connection = connection
        return connection

    def _drop_connection(self) -> None:
        """Ends the child at once; a thread waits until it is gone, which may take a while if it was large."""
        if self._connection is None:
            return
        self._connection.kill()
        self._connection = None
        self._reaper = threading.Thread(target=self._finalizer, daemon=True, name="deepflash-reaper")
        self._reaper.start()

    def _take_events(self, run: RunningJob, events: list[dict[str, Any]]) -> None:
        for event in self._connection.events() if self._connection is not None else ():
            kind = event["event"]
            if event.get("job") != run.job.number or run.job.done:
                continue
            run.heard = event["time"]
            if kind == "started":
                run.started = True
                run.arguments = {}
                if self._state is State.STARTING:
                    self._state = State.RUNNING
            elif kind == "cancelling":
                run.noticed = True
            if kind == "done":
                run.job.seconds = {"total": event["time"] - run.began, "task": event.get("seconds")}
                events.append(self._finish(run, result=event["value"]))
            elif kind == "failed":
                events.append(self._fail(run, event))
            elif kind in ("started", "progress", "cancelling"):
                data = event.get("data")
                data = data if isinstance(data, dict) else {}
                events.append({**data, "event": kind, "job": run.job.number})

    def _check(self, run: RunningJob, events: list[dict[str, Any]]) -> None:
        """Looks for what the child does not say itself: its death and its silence."""
        now = time.monotonic()
        connection = self._connection
        if run.broken is not None:
            events.append(self._finish(run, error=self._sending_error(run.broken)))
        elif connection is None:
            # The thread is about to start it.
            return
        elif not connection.lives and run.warm and not run.started:
            # It had died at rest, or did so just now; the job is not to blame, and gets a fresh child.
            if not run.thread.is_alive():
                run.warm = False
                self._drop_connection()
                self._start_sending(run)
        elif not connection.lives:
            # Its last words may still be on their way.
            connection.close()
            self._take_events(run, events)
            if not run.job.done:
                events.append(self._end(run, run.reason or self._death(connection)))
        elif run.reason is not None:
            if now - run.killed > _KILL_SECONDS:
                events.append(self._end(run, run.reason))
        else:
            run.reason = self._reason_to_kill(run, connection, now)
            if run.reason is not None:
                run.killed = now
                connection.kill()

    def _reason_to_kill(self, run: RunningJob, connection: Connection, now: float) -> BaseException | None:
        ended = "The job was ended without a result"
        if run.now:
            return Cancelled(f"{ended}.")
        if run.asked is not None and not run.noticed and now - run.asked > self.grace:
            return Cancelled(f"{ended}: it did not react within {self.grace:g} s.")
        if run.asked is not None and run.noticed and now - run.heard > self.finishing:
            return Cancelled(f"{ended}: nothing was heard of it for {self.finishing:g} s.")
        if now - connection.last_sign <= self.hang_timeout:
            run.suspected = None
        elif run.suspected is None:
            run.suspected = now
        elif now - run.suspected > _SECOND_LOOK_SECONDS:
            return self._hang(connection)
        return None

    def _hang(self, connection: Connection) -> ProcessError:
        return ChildHung(
            f"The registration process gave no sign of life for {self.hang_timeout:g} s and was ended.",
            connection.log.lines(_LOG_LINES),
        )

    def _death(self, connection: Connection) -> ProcessError:
        log = connection.log.lines(_LOG_LINES)
        # The child's own watchdog was faster.
        if any(line.startswith("Timeout (") for line in log):
            return self._hang(connection)
        words, code = connection.exit_in_words()
        return ChildDied(f"The registration process {words}.", log, code)

    def _sending_error(self, error: BaseException) -> BaseException:
        if is_no_room(error):
            return DiskFull(f"No room for the images in the temporary folder: {error}. {_MAKE_ROOM}")
        if self._connection is None and isinstance(error, OSError):
            return ChildDied(f"The registration process cannot be started: {error}.")
        return error

    def _fail(self, run: RunningJob, event: dict[str, Any]) -> dict[str, Any]:
        kind, message = str(event.get("kind")), str(event.get("message"))
        log = self._connection.log.lines(_LOG_LINES)
        if kind in _CARRIED:
            return self._finish(run, error=_CARRIED[kind](message))
        if kind == "DiskFull":
            if event.get("sending"):  # else the task wrote where it was told to, and has said where
                message = f"No room for the result in the temporary folder: {message}. {_MAKE_ROOM}"
            return self._finish(run, error=DiskFull(message, log))
        if kind == "OutOfMemory":
            found: type[JobFailed] = OutOfMemory
            message = f"Not enough memory. Choose a coarser grid, or close other programs. ({message})"
        else:
            found = JobFailed
            # The type of a RuntimeError says nothing that its message does not.
            message = message if kind == "RuntimeError" else f"{kind}: {message}"
        # What an unforeseen failure leaves behind is unknown (a GPU's context may be lost): start afresh.
        return self._end(run, found(message, log, kind, str(event.get("traceback", ""))))

    def _end(self, run: RunningJob, error: BaseException) -> dict[str, Any]:
        """Ends the job and the child."""
        event = self._finish(run, error=error)
        self._drop_connection()
        return event

    def _finish(self, run: RunningJob, result: Any = None, error: BaseException | None = None) -> dict[str, Any]:
        job = run.job
        run.abandoned = True
        if self._connection is not None:
            self._connection.remove_folder()
        job.result, job.error, job.done = result, error, True
        job.cancelled = isinstance(error, Cancelled) or (error is None and run.noticed)
        self._run = None
        self._state = State.IDLE if error is None or job.cancelled else State.FAILED
        kind = "done" if error is None else "cancelled" if job.cancelled else "failed"
        return {"event": kind, "job": job.number, "message": str(error or "")}
