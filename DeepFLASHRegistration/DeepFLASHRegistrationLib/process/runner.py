# SPDX-License-Identifier: Apache-2.0
"""Runs on their way through a warm child process: started, looked at from a timer, finished or cancelled.

Neither Qt nor Slicer: who waits says how (a timer that calls `step`, or `wait` with something to do meanwhile).
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from ..support.errors import Cancelled
from . import Job, RegistrationProcess
from .remaining import Remaining

# Below this progress, what is left cannot be told from what has passed.
_TELLING = 0.1
# What a result needs in this process is done in steps; as many as fit into this time follow each other at once.
_TURN_SECONDS = 0.03
_NEXT_TURN = object()


class Run:
    """One task for the child process, and what has become of it. Subclasses say what goes in and what comes out.

    Attributes:
        state: "new", "running", "cancelling", "done", "cancelled" or "failed".
        phase, message, progress: what the task says it is doing; progress in 0 ... 1.
        history: the events that carried an energy, in order.
        value: what the task returned, None until it has. Of a cancelled run, the best so far if there is one.
        error: why the run failed or was cancelled.
        notes: what was changed or noticed on the way.
        expected: seconds that each phase may take, in order, the first until the task begins and the last after it has
            ended; to be set by `arguments`, {} if nothing is known.
    """

    task = ""
    brief = False  # whether it ends by itself so soon that others wait for it
    left_out: tuple[str, ...] = ()  # phases that are not done, or not to their end, once it was cancelled

    def __init__(self) -> None:
        self.state = "new"
        self.phase = self.message = ""
        self.progress = 0.0
        self.history: list[dict[str, Any]] = []
        self.notes: list[str] = []
        self.value: Any = None
        self.error: BaseException | None = None
        self.log: tuple[str, ...] = ()
        self.seconds: dict[str, float] = {}
        self.expected: dict[str, float] = {}
        self._began: float | None = None
        self._ended = 0.0
        self._remaining: Remaining | None = None
        self._events: list[Callable[[dict[str, Any]], None]] = []
        self._ends: list[Callable[[Run], None]] = []

    def arguments(self) -> dict[str, Any]:
        """What the task is given; InputError if it cannot be had."""
        return {}

    def prepare(self) -> Iterator[None]:
        """What `finish` needs and takes time, in short steps; between them a window may handle its events."""
        yield from ()

    def finish(self) -> None:
        """Makes what is wanted of `value`."""

    @property
    def done(self) -> bool:
        """Whether it has ended, in whatever way."""
        return self.state in ("done", "cancelled", "failed")

    @property
    def seconds_passed(self) -> float:
        """Since the start, or until the end; 0 if it never began."""
        if self._began is None:
            return 0.0
        return (self._ended if self.done else time.monotonic()) - self._began

    @property
    def seconds_left(self) -> float | None:
        """An estimate: of what was expected, corrected by the progress so far; None as long as that says too little."""
        if self.done or self._began is None:
            return None
        if self._remaining is not None:
            return self._remaining.left(self.left_out if self.state == "cancelling" else ())
        if self.state == "cancelling" or self.progress < _TELLING:
            return None
        return self.seconds_passed * (1 - self.progress) / self.progress

    @property
    def ratios(self) -> dict[str, float]:
        """Of each phase, how many times as long as expected it took; {} if that was not known, or it is not done."""
        return self._remaining.ratios() if self._remaining is not None and self.state == "done" else {}

    def share_done(self, phase: str, progress: float) -> float:
        """How much of a phase is done (0 ... 1)."""
        return 0.0

    def begin(self, began: float) -> None:
        """Marks the start, which was at this time (time.monotonic)."""
        self.state, self._began = "running", began
        if self.expected:
            self._remaining = Remaining(self.expected, began)

    def task_ended(self) -> None:
        """Marks that the task has returned its value, and what is wanted of it begins to be made."""
        if self._remaining is not None:
            self._remaining.reached(list(self.expected)[-1])

    def on_event(self, callback: Callable[[dict[str, Any]], None] | None) -> None:
        """`callback` gets every event of the task: phase, progress, message, and while optimizing energy and so on."""
        if callback is not None:
            self._events.append(callback)

    def on_end(self, callback: Callable[[Run], None] | None) -> None:
        """`callback` gets this run when it has ended; at once if it has already."""
        if callback is None:
            return
        if self.done:
            callback(self)
        else:
            self._ends.append(callback)

    def take(self, event: Mapping[str, Any]) -> None:
        """Remembers an event and passes it on."""
        self.phase = event.get("phase", self.phase)
        self.message = event.get("message", self.message)
        self.progress = max(self.progress, float(event.get("progress", 0.0)))
        if self._remaining is not None:
            self._remaining.reached(self.phase, self.share_done(self.phase, self.progress))
        self.notes += [note for note in event.get("notes", ()) if note not in self.notes]
        if "energy" in event:
            self.history.append(dict(event))
        for callback in list(self._events):
            callback(dict(event))

    def end(self, state: str, error: BaseException | None = None) -> None:
        """Marks the end and tells it."""
        self.state, self.error, self._ended = state, error, time.monotonic()
        if self._remaining is not None:
            self._remaining.ended()
        callbacks, self._ends, self._events = self._ends, [], []
        for callback in callbacks:
            callback(self)


class Runner:
    """Gives runs, one at a time, to a child process that stays warm between them."""

    def __init__(self, python: str | os.PathLike | None = None, tasks: str | None = None) -> None:
        """Starts nothing. `python`: the child's interpreter, None for this one; `tasks`: a module with more of them."""
        self._process = RegistrationProcess(python, tasks=tasks)
        self._run: Run | None = None
        self._job: Job | None = None
        self._stepping = False
        self._ending: Iterator[Any] | None = None
        self._written = False

    @property
    def current(self) -> Run | None:
        """The run that has not ended yet."""
        return self._run

    @property
    def pid(self) -> int | None:
        """Process number of the child, None if there is none."""
        return self._process.pid

    def log(self) -> list[str]:
        """The last lines that the child printed."""
        return self._process.log()

    def start(self, run: Run) -> Run:
        """Starts a run and returns it at once.

        Raises:
            InputError: what it needs cannot be had; nothing was started.
            RuntimeError: another run has not ended.
        """
        if self._run is not None:
            raise RuntimeError("A registration is running. Wait for its end, or cancel it.")
        began = time.monotonic()
        self._job = self._process.submit(run.task, run.arguments())
        run.begin(began)
        self._run = run
        return run

    def step(self) -> None:
        """Takes in what has happened since the last call; call it some twenty times a second while a run goes on."""
        run, job = self._run, self._job
        # A callback that lets a window handle its events may come here again.
        if run is None or self._stepping:
            return
        self._stepping = True
        try:
            for event in self._process.poll():
                if event["event"] == "progress":
                    run.take({key: value for key, value in event.items() if key not in ("event", "job")})
        finally:
            self._stepping = False
        if job.done and run is self._run:
            self._take_end(run, job)

    def _take_end(self, run: Run, job: Job) -> None:
        run.value, run.seconds = job.result, dict(job.seconds)
        error = job.error
        cancelled = not self._written and (
            job.cancelled or getattr(job.result, "cancelled", False) or run.state == "cancelling"
        )
        if cancelled:
            error = error or Cancelled("The registration was cancelled; the scene is as before.")
        elif error is None:
            try:
                if self._ending is None:
                    run.task_ended()
                    self._ending = self._steps(run)
                turn_ends = time.monotonic() + _TURN_SECONDS
                while (step := next(self._ending, self)) is not self:
                    if step is _NEXT_TURN or time.monotonic() > turn_ends:
                        return
            except Exception as problem:  # whatever it is, it belongs to this run, and the next one must be possible
                error = problem
        self._forget()
        if error is not None:
            run.log = tuple(getattr(error, "log", ()))
        run.end("cancelled" if cancelled else "done" if error is None else "failed", error)

    def _steps(self, run: Run) -> Iterator[Any]:
        """Makes what is wanted of the run's value. Between the steps a window may handle its events."""
        yield from run.prepare()
        yield _NEXT_TURN
        run.finish()
        self._written = True  # it cannot be cancelled any more
        yield _NEXT_TURN

    def _forget(self) -> None:
        self._run = self._job = self._ending = None
        self._written = False

    def wait(self, run: Run, meanwhile: Callable[[], None] = lambda: None) -> Any:
        """Waits for the end of a run and returns its value.

        Args:
            meanwhile: called some fifty times a second, e.g. to keep a window alive.

        Raises:
            Whatever the run failed for; Cancelled if it was cancelled.
        """
        try:
            while not run.done:
                self.step()
                meanwhile()
                if self._ending is None:  # else there is something to do
                    time.sleep(0.02)
        except BaseException:
            self.cancel(now=True)
            self.close()
            raise
        if run.error is not None:
            raise run.error
        return run.value

    def cancel(self, now: bool = False) -> None:
        """Asks the present run to stop; with `now`, the child is ended at once and nothing is kept."""
        if self._written:
            self.step()  # which tells that it is done
        elif self._run is not None:
            self._run.state = "cancelling"
            self._process.cancel(now)

    def close(self) -> None:
        """Ends the child with all it started; a present run ends as cancelled. The next run starts a fresh one."""
        run, written = self._run, self._written
        self._forget()
        self._process.close()
        if run is None or run.done:
            return
        if written:
            run.end("done")
        else:
            run.end("cancelled", Cancelled("The registration was ended; the scene is as before."))
