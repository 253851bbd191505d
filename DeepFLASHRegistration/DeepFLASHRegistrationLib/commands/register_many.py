# SPDX-License-Identifier: Apache-2.0
"""deepflash register-many: the pairs of a table, each registered into a folder of its own."""

from __future__ import annotations

import argparse
import contextlib
import sys
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..problem.parameters import ALIGNMENTS, METHODS, PRESETS, Parameters
from ..support.errors import Cancelled, InputError
from .cluster_options import Workplace, cluster_options, sbatch_text
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
    from ..cohorts.bids import BidsRun
    from ..cohorts.many import Many
    from ..cohorts.pairs import Pairs
    from ..jobs.ledger import Failed
    from ..jobs.pool import Ended

DESCRIPTION = (
    "Register the pairs that TABLE names, several at once, each into a folder of its own in OUT, with a summary of "
    "all. TABLE (.csv, .tsv) has a line of titles and a line for each pair, with the columns fixed, moving and, where "
    "there are any, fixed_labels, moving_labels, fixed_mask, moving_mask, fixed_points, moving_points, transform (a "
    "linear one in the place of the alignment; with --method transform any) and output, the name of the pair's folder. "
    "Paths are relative to the table. A pair that fails stops no other. Interrupted at whatever moment, the same "
    "command goes on where it was: what is done is not done again."
)
# So long after it was written last, the summary is written again, or so many times as long as that took.
_SUMMARY_SECONDS, _SUMMARY_PART = 5.0, 20.0


def add_options(parser: argparse.ArgumentParser) -> None:
    """Adds what `run` reads."""
    parser.add_argument("table", metavar="TABLE", type=Path, help="of pairs")
    parser.add_argument(
        "-o", "--output", required=True, type=Path, metavar="OUT", help="folder for all results, summary.html and .tsv"
    )
    parser.add_argument(
        "--force", action="store_true", help="replace results of the same output, of other inputs or parameters"
    )
    pool_options(
        parser,
        "a pair",
        "pairs at once (default: one for each CPU thread, as far as the memory suffices; one on a GPU)",
    )
    parser.add_argument("--init", choices=ALIGNMENTS, help="default: affine")
    parser.add_argument("--preset", default="default", choices=PRESETS, help="default: default")
    result_options(parser)
    common_options(parser)
    cluster_options(parser)
    consent_option(parser)
    group = parser.add_argument_group("settings (default: the preset's)")
    add_fields(group, Parameters, ("preset", "initial_alignment"))


def run(options: argparse.Namespace) -> int:
    """Runs the command; returns the exit code."""
    parameters = given_parameters(options)
    check_threads(options)
    keep_consent(options)
    with Workplace(options) as workplace:
        return _run(options, parameters, workplace)


def _run(options: argparse.Namespace, parameters: Parameters, workplace: Workplace) -> int:
    from ..cohorts.many import Many, Settings, estimated
    from ..cohorts.pairs import read_pairs

    pairs = read_pairs(options.table, options.output)
    without = [pair.line for pair in pairs.rows if pair.files.transform is None]
    if METHODS[parameters.method].needs_transform and without:
        raise InputError(
            f"{options.table}, line {without[0]}, column transform: is empty, and --method {parameters.method} takes "
            "the transform of each pair. Name it."
        )
    _check_outputs(options.outputs, pairs)
    settings = Settings(parameters, options.outputs, options.device, options.threads, options.workers, options.tries)
    settings = workplace.settings(settings)

    def estimate(count: int) -> tuple[float, int]:
        each, memory = estimated(pairs.rows, parameters, options.device)
        return count * each, memory

    if options.print_sbatch:
        print(sbatch_text(options, len(pairs.rows), estimate(len(pairs.rows))), end="")
        return 0
    many = Many(pairs, options.output, settings, options.force)
    for note in pairs.notes:
        print(f"Note: {note}", file=sys.stderr)
    told = Telling(options, many)
    try:
        if many.open:
            count = len(many.open)
            many.settings = replace(settings, dask=workplace.workers(many.ledger, count, lambda: estimate(count)))
        many.run(told.ended, told.progress)
    except KeyboardInterrupt as error:
        told.write()
        raise Cancelled(
            f"{told.done} of {len(pairs.rows)} pairs are done in {options.output}; run the same command to go on."
        ) from error
    told.write(complete=True)
    return told.close()


def _check_outputs(outputs: list[str] | None, pairs: Pairs) -> None:
    """InputError for an unknown output, and for one that no pair can have."""
    from ..results.outputs import chosen_files

    chosen_files(outputs, True, True)
    for output, there, what in (
        ("labels", any(pair.files.moving_labels for pair in pairs.rows), "labels"),
        ("segmentation", any(pair.files.segmented for pair in pairs.rows), "a segmentation (.seg.nrrd)"),
    ):
        if output in (outputs or ()) and not there:
            raise InputError(f"--outputs {output}: needs {what} to carry over. Name them in a column moving_labels.")


class Telling:
    """A line for each pair that ended, or an event of JSON; notes and failures on standard error; and the summary."""

    things = "pairs"

    def __init__(self, options: argparse.Namespace, many: Many | BidsRun):
        self.options, self.many = options, many
        self.pairs = {pair.name: pair for pair in many.pairs.rows}
        self.count = len(self.pairs)
        self.done = self.count - len(many.open)
        self.failed: dict[str, Failed] = {}
        self.noted: set[str] = set()
        self.started = self.written = time.monotonic()
        self.writing = 0.0
        self.alone = many.settings.share == (1, 1)  # else the last of several calls writes the summary
        if self.done and self.line:
            print(f"{self.done} of {self.count} {self.things} were done before.", flush=True)

    @property
    def line(self) -> bool:
        """Whether a line is printed for each pair."""
        return not (self.options.json_progress or self.options.quiet)

    def shown(self, name: str) -> str:
        """What a pair is called in a line."""
        return name

    def progress(self, job: Any, event: Mapping[str, Any]) -> None:
        """Something that a pair tells on its way."""
        for note in event.get("notes", ()):
            if note not in self.noted:
                self.noted.add(note)
                print(f"Note: {self.shown(job.name)}: {note}", file=sys.stderr, flush=True)
        if self.options.json_progress:
            say_event({**event, "pair": job.name})

    def ended(self, end: Ended) -> None:
        """The end of a pair."""
        from ..cohorts.summary import Outcome

        pair = self.pairs[end.job.name]
        outcome = Outcome(pair, end.result)
        if outcome.state == "done":
            self.done += 1
        else:
            self.failed[pair.name] = end.result
        head = f"[{self.done + len(self.failed)}/{self.count}] {self.shown(pair.name)}: "
        if self.options.json_progress:
            last = {"phase": "finish", "progress": 1.0, "pair": pair.name}
            last["pairs"] = {"done": self.done, "failed": len(self.failed), "all": self.count}
            if outcome.state == "done":
                folder = str(self.many.ledger.folder / pair.name)
                last |= {"message": "Done", "verdict": outcome.figure("verdict"), "folder": folder}
            else:
                last |= {"message": outcome.reason, "failed": outcome.reason}
            say_event(last)
        elif outcome.state == "failed":
            print(f"{head}no result. {outcome.reason}", file=sys.stderr, flush=True)
        elif self.line:
            print(head + _figures(outcome), flush=True)
        now = time.monotonic()
        if self.alone and now - self.written > max(_SUMMARY_SECONDS, _SUMMARY_PART * self.writing):
            self.write()

    def write(self, complete: bool = False) -> None:
        """The summary of what is known by now, `complete` if nothing is open; that it cannot be written stops nothing.

        Of several calls with a share each, who finds another one writing the complete summary leaves that to it."""
        from ..cohorts.summary import outcomes, write_summaries

        began, ledger = time.monotonic(), self.many.ledger
        if not (self.alone or complete):
            return
        try:
            with contextlib.nullcontext(True) if self.alone else ledger.alone("summary") as mine:
                if mine:
                    write_summaries(self.many.pairs, outcomes(self.many.pairs, ledger, self.failed), ledger.folder)
        except (OSError, InputError) as error:
            print(f"Note: {error}", file=sys.stderr, flush=True)
        self.written = time.monotonic()
        self.writing = self.written - began

    @property
    def place(self) -> Path:
        """Where to look."""
        return self.many.ledger.folder / "summary.html"

    def close(self) -> int:
        """Says what has become of all; returns the exit code."""
        from .main import DONE, SOME_FAILED

        if self.line:
            failed = f", {len(self.failed)} without a result" if self.failed else ""
            seconds = time.monotonic() - self.started
            print(f"{self.done} of {self.count} {self.things} done{failed}; {seconds:.1f} s; {self.place}", flush=True)
        return SOME_FAILED if self.failed else DONE


def _figures(outcome: Any) -> str:
    """What a line says of a pair."""
    before, after = outcome.dice
    texts = [outcome.level]
    if after is not None:
        texts.append(f"Dice {before:.3f} -> {after:.3f}")
    texts += [f"{outcome.figure('folds_strict')} folds", f"{outcome.figure('seconds'):.1f} s"]
    return ", ".join(texts) + (f". {outcome.reason}" if outcome.level != "good" else "")
