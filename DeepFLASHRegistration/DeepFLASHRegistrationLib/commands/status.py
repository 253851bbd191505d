# SPDX-License-Identifier: Apache-2.0
"""deepflash status: how far the jobs of a folder are, asked from anywhere."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from ..cohorts.template_files import POSES, SUMMARY
from .options import positive

if TYPE_CHECKING:
    from ..jobs.status import Status

DESCRIPTION = (
    "Say how far the jobs of a folder are that register-many, register-series, template or bids writes to: what is "
    "done, failed, running (where, and for how long) and waiting, and about how long the rest will take. It reads the "
    "folder alone, so that it may be asked on any computer that sees it, also when the terminal of the command is "
    "closed."
)


def add_options(parser: argparse.ArgumentParser) -> None:
    """Adds what `run` reads."""
    parser.add_argument("folder", metavar="OUT", type=Path, help="folder of the results")
    parser.add_argument("--json", action="store_true", help="one JSON object instead of text for people")
    parser.add_argument(
        "--most", type=positive, default=20, metavar="N", help="jobs that are named of each kind (default: 20)"
    )


def run(options: argparse.Namespace) -> int:
    """Runs the command; returns the exit code."""
    from ..cohorts.bids_folder import WORK
    from ..jobs.status import status

    derivatives = options.folder / WORK
    found = status(derivatives if derivatives.is_dir() else options.folder)
    if options.json:
        from .options import say_event

        say_event(found.to_dict())
    else:
        print(_text(found, options.most), flush=True)
    return 0


def _text(found: Status, most: int) -> str:
    counts = f"{len(found.failed)} failed, {len(found.running)} running, {found.waiting} waiting"
    left = "" if found.seconds_left is None else f"; about {_duration(found.seconds_left)} left"
    lines = [f"{found.folder}: {found.done} of {found.all} done, {counts}{left}"]
    if found.waiting and not found.running:
        lines.append("Nobody works on them. The same command goes on.")
    if found.done == found.all and (found.folder / POSES).is_dir() and not (found.folder / SUMMARY).is_file():
        lines.append("The template itself is not done yet. Unless its command still runs, the same one goes on.")
    for kind, texts in (
        (
            "running",
            [f"{one.name}: {one.host}, for {_duration(one.seconds)}, try {one.tries}" for one in found.running],
        ),
        ("failed", [f"{one.name}: {one.message}" for one in found.failed]),
    ):
        lines += [f"  {kind} {text}" for text in texts[:most]]
        if len(texts) > most:
            lines.append(f"  and {len(texts) - most} more {kind} (--most)")
    return "\n".join(lines)


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60:02} min"
