# SPDX-License-Identifier: Apache-2.0
"""deepflash register-series: the items of a series in time, registered onto one of them, or onto their mean."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..problem.parameters import PRESETS, Parameters
from ..support.errors import Cancelled, InputError
from .field_options import add_fields, given_parameters
from .options import (
    check_threads,
    common_options,
    consent_option,
    keep_consent,
    pool_options,
    result_options,
    say_event,
)

if TYPE_CHECKING:
    from ..cohorts.series import SeriesRun
    from ..jobs.ledger import Failed
    from ..jobs.pool import Ended

DESCRIPTION = (
    "Register all items of a series (a cine, a breathing CT) onto one of them, and write the series as it lies on that "
    "item, each item's velocity, and a table of figures to a folder. The search for each item goes on from what was "
    "found for its neighbour. All items lie on one grid; no linear alignment is sought. Interrupted at whatever "
    "moment, the same command goes on where it was."
)


def add_options(parser: argparse.ArgumentParser) -> None:
    """Adds what `run` reads."""
    parser.add_argument(
        "series",
        metavar="SERIES",
        nargs="+",
        help="a 4-D file (NIfTI, NRRD, MetaImage) or a sequence of 3D Slicer (.seq.nrrd); or several images in the "
        "order of time, which may be volumes of a file, 'FILE[3]'",
    )
    parser.add_argument("-o", "--output", required=True, type=Path, metavar="OUT", help="folder for all results")
    parser.add_argument("--force", action="store_true", help="replace results in OUT, of other inputs or parameters")
    parser.add_argument(
        "--reference",
        type=_reference,
        default=0,
        metavar="N",
        help="what all are registered onto: an item, counted from 0; mean, the mean of all; or previous: each is "
        "registered onto the one before, and all steps one after the other lead onto the first (default: 0)",
    )
    parser.add_argument(
        "--smooth",
        type=float,
        default=0.0,
        metavar="ITEMS",
        help="average the velocities in time by a Gaussian of this standard deviation, in items (default: 0, off)",
    )
    parser.add_argument(
        "--cyclic", action="store_true", help="the first item follows the last, as of a heartbeat or a breath"
    )
    parser.add_argument(
        "--independent",
        action="store_true",
        help="search each item from rest instead of from its neighbour, as many at once as there are CPU threads",
    )
    parser.add_argument("--mask", metavar="FILE", help="where the reference counts")
    parser.add_argument(
        "--labels",
        metavar="FILE",
        help="label map or segmentation of the reference (with previous: of the first item), carried to every item, "
        "with their volumes in the table; may be added later",
    )
    pool_options(parser, "an item", "items at once (default: as many as help)")
    parser.add_argument("--preset", default="default", choices=PRESETS, help="default: default")
    result_options(parser, "of each item beside the warped one", "warped")
    common_options(parser)
    consent_option(parser)
    group = parser.add_argument_group("settings (default: the preset's)")
    add_fields(group, Parameters, ("preset", "initial_alignment"))


def _reference(text: str) -> int | str:
    if text in ("mean", "previous"):
        return text
    try:
        return int(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text!r} is neither an item's number, mean nor previous") from error


def run(options: argparse.Namespace) -> int:
    """Runs the command; returns the exit code."""
    parameters = given_parameters(options)
    check_threads(options)
    keep_consent(options)
    from ..cohorts.many import Settings
    from ..cohorts.series import How, SeriesRun, reference_labels
    from ..imaging.time_series import read_series
    from ..results.outputs import chosen_files

    chosen_files(options.outputs, False)
    series = read_series(options.series)
    how = How(options.reference, options.smooth, options.cyclic, options.independent, options.mask)
    labels = None if options.labels is None else reference_labels(options.labels, series)
    settings = Settings(parameters, options.outputs, options.device, options.threads, options.workers, options.tries)
    found = SeriesRun(series, options.output, settings, how, options.force)
    told = _Telling(options, found)
    try:
        found.run(told.ended, told.progress)
        told.write()
        if told.complete:
            told.say("Writing the series")
            found.write_warped()
            volumes = None if labels is None else found.write_labels(labels)
            told.write(volumes)
    except KeyboardInterrupt as error:
        told.write()
        raise Cancelled(
            f"{told.done} of {told.count} registrations are done in {options.output}; run the same command to go on."
        ) from error
    return told.close()


class _Telling:
    """A line for each registration that ended, or an event of JSON; notes and failures on standard error."""

    def __init__(self, options: argparse.Namespace, found: SeriesRun):
        self.options, self.found = options, found
        self.count = found.count
        self.done = self.count - len(found.open)
        self.failed: dict[str, Failed] = {}
        self.started = time.monotonic()
        if self.done:
            self.say(f"{self.done} of {self.count} registrations were done before.")

    @property
    def complete(self) -> bool:
        """Whether all items have a result."""
        return self.done == self.count

    def say(self, text: str) -> None:
        """A line for people."""
        if not (self.options.json_progress or self.options.quiet):
            print(text, flush=True)

    def progress(self, job: Any, event: Mapping[str, Any]) -> None:
        """Something that a registration tells on its way."""
        if self.options.json_progress:
            say_event({**event, "pair": job.name})

    def ended(self, end: Ended) -> None:
        """The end of a registration."""
        from ..cohorts.pairs import NamedPair
        from ..cohorts.summary import Outcome

        name = end.job.name
        outcome = Outcome(NamedPair(0, name, None), end.result)
        if outcome.state == "done":
            self.done += 1
        else:
            self.failed[name] = end.result
        if self.options.json_progress:
            last = {"phase": "finish", "progress": 1.0, "pair": name}
            last["pairs"] = {"done": self.done, "failed": len(self.failed), "all": self.count}
            if outcome.state == "done":
                folder = str(self.found.ledger.folder / name)
                last |= {"message": "Done", "verdict": outcome.figure("verdict"), "folder": folder}
            else:
                last |= {"message": outcome.reason, "failed": outcome.reason}
            say_event(last)
            return
        head = f"[{self.done + len(self.failed)}/{self.count}] {name}: "
        if outcome.state == "failed":
            print(f"{head}no result. {outcome.reason}", file=sys.stderr, flush=True)
            return
        moved, folds = outcome.figure("displacement_mm") or {}, outcome.figure("folds_strict")
        before, after = outcome.figure("similarity") or (0.0, 0.0)
        why = f". {outcome.reason}" if outcome.level != "good" else ""
        self.say(
            f"{head}{outcome.level}, moved by {moved.get('mean', 0):.2f} mm, correlation {before:.3f} -> {after:.3f}, "
            f"{folds} folds, {outcome.figure('seconds'):.1f} s{why}"
        )

    def write(self, volumes: Any = None) -> None:
        """The table and summary of what is known by now; that they cannot be written stops nothing."""
        from ..cohorts.series_summary import write_series_summary

        try:
            write_series_summary(self.found, self.failed, volumes)
        except (OSError, InputError) as error:
            print(f"Note: {error}", file=sys.stderr, flush=True)

    def close(self) -> int:
        """Says what has become of all; returns the exit code."""
        from .main import DONE, SOME_FAILED

        failed = f", {len(self.failed)} without a result" if self.failed else ""
        self.say(
            f"{self.done} of {self.count} registrations done{failed}; {time.monotonic() - self.started:.1f} s; "
            f"{self.found.ledger.folder / 'series.csv'}"
        )
        return SOME_FAILED if self.failed else DONE
