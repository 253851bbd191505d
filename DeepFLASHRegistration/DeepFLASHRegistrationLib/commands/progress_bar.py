# SPDX-License-Identifier: Apache-2.0
"""The progress of one registration, on a terminal or for a program."""

from __future__ import annotations

import argparse
import contextlib
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

from .options import say_event


class _Bar:
    """Events as a bar on a terminal, as JSON lines, or not at all; notes always, each once, on standard error."""

    def __init__(self, kind: str):
        self.kind, self.started, self.width = kind, time.monotonic(), 0
        self.noted: set[str] = set()

    def __call__(self, event: dict[str, Any]) -> None:
        for note in event.get("notes", ()):
            self.note(note)
        if self.kind == "json":
            say_event(event)
        elif self.kind == "bar":
            done = max(0.0, min(1.0, float(event.get("progress", 0.0))))
            text = f"[{'#' * round(30 * done):30}] {100 * done:3.0f} %  {time.monotonic() - self.started:5.1f} s  "
            text += event.get("message", "")
            if "energy" in event:
                text += f", energy {event['energy']:.4g}"
            print("\r" + text.ljust(self.width)[: max(self.width, len(text))], end="", file=sys.stderr, flush=True)
            self.width = len(text)

    def note(self, text: str) -> None:
        """Says something that stays on the terminal, above the bar."""
        if text not in self.noted:
            self.noted.add(text)
            start = f"\r{' ' * self.width}\r" if self.kind == "bar" else ""
            print(f"{start}Note: {text}", file=sys.stderr, flush=True)

    def close(self) -> None:
        if self.kind == "bar":
            print(file=sys.stderr, flush=True)


@contextlib.contextmanager
def shown(options: argparse.Namespace) -> Iterator[Callable[[dict[str, Any]], None]]:
    """What is called with the events of one registration, told as the options --json-progress and --quiet say."""
    kind = "json" if options.json_progress else "bar" if not options.quiet and sys.stderr.isatty() else "none"
    bar = _Bar(kind)
    try:
        yield bar
    finally:
        bar.close()
