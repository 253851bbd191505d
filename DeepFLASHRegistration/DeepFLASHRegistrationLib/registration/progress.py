# SPDX-License-Identifier: Apache-2.0
"""How far a registration is, and whether somebody wants it to end."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

from ..support.errors import Cancelled

# The phases in their order, and where on the one bar each begins and ends.
PHASES = {"prepare": (0.0, 0.05), "affine": (0.05, 0.2), "level": (0.2, 0.85), "finish": (0.85, 1.0)}


def share_done(phase: str, progress: float) -> float:
    """How much of a phase is done (0 ... 1) when the whole is at `progress`."""
    begin, end = PHASES[phase]
    return min(max((progress - begin) / (end - begin), 0.0), 1.0)


class Progress:
    """Turns the phases' own progress into one bar, and tells it."""

    def __init__(self, tell: Callable[[dict[str, Any]], None] | None, cancel: Callable[[], bool] | None):
        self._tell, self.cancel = tell, cancel or (lambda: False)
        self._started = time.perf_counter()
        self.timings: dict[str, float] = {}
        self._phase = ""
        self._reached = 0.0
        self._phase_started = self._started

    def phase(self, name: str, message: str) -> None:
        """The next phase begins; "" after the last."""
        now = time.perf_counter()
        if self._phase:
            self.timings[self._phase] = self.timings.get(self._phase, 0.0) + now - self._phase_started
        self._phase, self._phase_started = name, now
        if name:
            self.tell(phase=name, progress=PHASES[name][0], message=message)

    def tell(self, **event: Any) -> None:
        self._reached = event.get("progress", self._reached)
        if self._tell is not None:
            self._tell(event)

    def note(self, notes: Sequence[str]) -> None:
        """Tells what a user should know now rather than find in the report."""
        if notes:
            self.tell(phase=self._phase, progress=self._reached, message=notes[0], notes=list(notes))

    def finished(self) -> dict[str, float]:
        self.phase("", "")
        self.timings["total"] = time.perf_counter() - self._started
        return {k: round(v, 4) for k, v in self.timings.items()}

    def stop_if_cancelled(self) -> None:
        if self.cancel():
            raise Cancelled("The registration was cancelled before there was a result.")
