# SPDX-License-Identifier: Apache-2.0
"""deepflash template: the image in the middle of many subjects, and the way from it to each of them."""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..problem.parameters import PRESETS, Parameters
from ..support.errors import Cancelled, InputError
from .cluster_options import Workplace, cluster_options, sbatch_text
from .field_options import add_fields, given_parameters
from .options import (
    DATA,
    check_threads,
    common_options,
    consent_option,
    data_options,
    keep_consent,
    pool_options,
    positive,
    result_options,
    say_event,
    say_skipped,
)

if TYPE_CHECKING:
    from ..cohorts.template import TemplateRun
    from ..jobs.pool import Ended
    from ..training.dataset import Dataset

DESCRIPTION = (
    "Make an unbiased template of many subjects: the image in the middle of them all, with labels by majority where "
    "all have some, each subject's velocity and warped image, and a report. Interrupted at whatever moment, the same "
    f"command goes on where it was. {DATA}"
)


def add_options(parser: argparse.ArgumentParser) -> None:
    """Adds what `run` reads."""
    data_options(parser)
    parser.add_argument("-o", "--output", required=True, type=Path, metavar="OUT", help="folder of the template")
    parser.add_argument("--force", action="store_true", help="replace results in OUT, of other inputs or parameters")
    parser.add_argument(
        "--rounds", type=positive, default=4, metavar="N", help="of registration and averaging (default: 4)"
    )
    parser.add_argument(
        "--average", default="mean", metavar="HOW", help="of the warped images: mean or median (default: mean)"
    )
    parser.add_argument(
        "--voxel-mm",
        type=float,
        default=0.0,
        metavar="X",
        help="edge of the template's voxels (default: as the subjects' usually are)",
    )
    parser.add_argument(
        "--start",
        default="",
        metavar="IMAGE",
        help="what all are aligned with first (default: the subject of middle size)",
    )
    parser.add_argument(
        "--like",
        default="",
        metavar="IMAGE",
        help="in whose pose and on whose voxels the template lies (default: upright cubes around the subjects)",
    )
    parser.add_argument(
        "--standard",
        default="",
        metavar="IMAGE",
        help="of a standard space, such as ICBM's: the template is registered to it at the end, into OUT/standard, "
        'through which "deepflash apply --through" carries subjects there',
    )
    parser.add_argument(
        "--mirrored",
        action="store_true",
        help="the left-right mirror images of the subjects count, too, at no cost: the template is its own in the "
        "plane x = 0",
    )
    parser.add_argument("--dry-run", action="store_true", help="say what would be done, and how long it takes about")
    pool_options(parser, "a subject", "subjects at once (default: as many as help)")
    parser.add_argument("--preset", default="default", choices=PRESETS, help="default: default")
    result_options(parser, "of each subject beside the warped image and its labels", "warped, labels")
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
    from ..cohorts.many import Settings
    from ..cohorts.template import TemplateRun
    from ..cohorts.template_how import How
    from ..cohorts.template_plan import Plan
    from ..results.outputs import chosen_files
    from ..training.dataset import read_dataset

    chosen_files(options.outputs, True)
    how = How(
        options.rounds,
        options.average,
        options.voxel_mm,
        options.start,
        options.like,
        options.standard,
        options.mirrored,
    )
    how.check(parameters)
    dataset = read_dataset(options.data, skip_broken=options.skip_broken)
    say_skipped(dataset.skipped)
    _say_unequal(dataset)
    settings = Settings(parameters, options.outputs, options.device, options.threads, options.workers, options.tries)
    settings = workplace.settings(settings)

    def estimate() -> tuple[float, int]:
        plan = Plan(dataset, settings, how)
        return sum(plan.seconds.values()), plan.memory

    if options.dry_run:
        print(Plan(dataset, settings, how).text())
        return 0
    if options.print_sbatch:
        print(sbatch_text(options, len(dataset), estimate()), end="")
        return 0
    found = TemplateRun(dataset, options.output, settings, how, options.force)
    told = _Telling(options, found)
    try:
        found.settings = replace(settings, dask=workplace.workers(found.ledger, len(dataset), estimate))
        found.run(told.ended, told.progress, told.say)
    except KeyboardInterrupt as error:
        told.write()
        raise Cancelled(
            f"{found.done} of {told.count} alignments, registrations and averages are done in {options.output}; run "
            "the same command to go on."
        ) from error
    except InputError:
        if told.any:
            told.write()
        raise
    told.write()
    return told.close()


def _say_unequal(dataset: Dataset) -> None:
    """What about the subjects has consequences that nobody may expect."""
    without = [each.name for each in dataset.subjects if each.labels is None]
    if without and len(without) < len(dataset):
        shown = ", ".join(without[:6]) + (", …" if len(without) > 6 else "")
        print(f"Note: the template gets no labels, since {len(without)} have none: {shown}.", file=sys.stderr)
    known: dict[str, str] = {}
    for each in dataset.subjects:
        first = known.setdefault(os.path.realpath(each.image), each.name)
        if first != each.name:
            print(f"Note: {first} and {each.name} are the same file, which counts twice.", file=sys.stderr)
    if len(dataset.persons) < len(dataset):
        text = f"{len(dataset)} images of {len(dataset.persons)} persons count alike"
        print(f"Note: {text}; give one image of each for a mean of persons.", file=sys.stderr)


class _Telling:
    """A line for each job that ended, or an event of JSON; failures on standard error."""

    def __init__(self, options: argparse.Namespace, found: TemplateRun):
        self.options, self.found = options, found
        # What is to be replaced is not done.
        self.count, self.done, self.failed = found.count, 0 if options.force else found.done, 0
        # Whether a job has ended in this run.
        self.any = False
        self.started = time.monotonic()

    def say(self, text: str) -> None:
        """A line for people, and an event."""
        if self.options.json_progress:
            say_event({"phase": "prepare", "progress": min(1.0, self.done / self.count), "message": text})
        elif not self.options.quiet:
            print(text, flush=True)

    def progress(self, job: Any, event: Mapping[str, Any]) -> None:
        """Something that a job tells on its way."""
        if self.options.json_progress:
            say_event({**event, "pair": job.name})

    def ended(self, end: Ended) -> None:
        """The end of a job."""
        from ..jobs.ledger import Done

        name, good = end.job.name, isinstance(end.result, Done)
        self.any = True
        self.done, self.failed = self.done + good, self.failed + (not good)
        if self.options.json_progress:
            last = {"phase": "finish", "progress": 1.0, "pair": name}
            last["pairs"] = {"done": self.done, "failed": self.failed, "all": self.count}
            folder = str(self.found.ledger.folder / name)
            last |= {"message": "Done", "folder": folder} if good else {"message": end.result.message}
            say_event(last | ({} if good else {"failed": end.result.message}))
        elif not good:
            print(f"{name}: left out. {end.result.message}", file=sys.stderr, flush=True)
        elif not self.options.quiet:
            print(
                f"[{min(self.done + self.failed, self.count)}/{self.count}] {name}: {end.result.seconds:.1f} s",
                flush=True,
            )

    def write(self) -> None:
        """The table, summary and page of what is known by now; that they cannot be written stops nothing."""
        from ..cohorts.template_summary import write_template_summary

        try:
            write_template_summary(self.found)
        except (OSError, InputError) as error:
            print(f"Note: {error}", file=sys.stderr, flush=True)

    def close(self) -> int:
        """Says what has become of all; returns the exit code."""
        from ..cohorts.template_summary import PAGE
        from .main import DONE, SOME_FAILED

        found = self.found
        if not (self.options.json_progress or self.options.quiet):
            left = f", {len(found.failed)} left out" if found.failed else ""
            far = found.far()
            if far:
                print(f"Far from the rest: {', '.join(far)}.")
            flipped = found.flipped()
            if flipped:
                print(f"Left and right seem exchanged: {', '.join(flipped)}. Check how these were converted.")
            print(
                f"Template of {len(found.left)} subjects{left}, mean deformation {found.left_over['mean_voxels']:.3f} "
                f"voxels; {time.monotonic() - self.started:.0f} s; {found.ledger.folder / PAGE}"
            )
        return SOME_FAILED if found.failed else DONE
