# SPDX-License-Identifier: Apache-2.0
"""deepflash bids: a BIDS app that registers the images of a data set to a template."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from ..problem.parameters import ALIGNMENTS, PRESETS, Parameters
from ..support.errors import Cancelled, InputError
from ..version import __version__
from .field_options import add_fields, given_parameters
from .options import (
    check_threads,
    common_options,
    consent_option,
    keep_consent,
    pool_options,
    progress_options,
)
from .register_many import Telling

if TYPE_CHECKING:
    from ..cohorts.bids_dataset import Choice
    from ..cohorts.bids_space import Space

DESCRIPTION = (
    "Register each T1w image (or another kind: --suffix) of a data set in BIDS to a template, several at once, and "
    "write BIDS derivatives: the velocity, from which every map follows, the image on the template, a report of each "
    "subject (participant); then a table, an overview and a paragraph for the methods section (group). Brain masks are "
    "taken from derivatives (desc-brain_mask), where there are any. Interrupted at whatever moment, the same command "
    "goes on where it was."
)
# As cohorts.bids_files.TRANSFORMS, which is not loaded for a help.
_TRANSFORMS = ("itk", "x5")


def add_options(parser: argparse.ArgumentParser) -> None:
    """Adds what `run` reads."""
    parser.add_argument("bids_dir", metavar="BIDS_DIR", type=Path, help="the data set, which is only read")
    parser.add_argument(
        "output_dir", metavar="OUT", type=Path, help="folder of derivatives: BIDS_DIR/derivatives/NAME, or elsewhere"
    )
    parser.add_argument("level", choices=("participant", "group"), help="what to do; group looks at what is in OUT")
    parser.add_argument("--version", action="version", version=f"deepflash {__version__}")
    for what, prefix in (("participant", "sub-"), ("session", "ses-")):
        parser.add_argument(
            f"--{what}-label",
            f"--{what}_label",
            nargs="+",
            default=(),
            metavar="LABEL",
            help=f"{what}s, with or without {prefix} (default: all)",
        )
    parser.add_argument(
        "--template",
        metavar="IMAGE|FOLDER",
        help='what all are registered to (for participant): an image, or a folder that "deepflash template" made',
    )
    parser.add_argument(
        "--template-name", default="", metavar="NAME", help="what its space is called (default: by the file or folder)"
    )
    parser.add_argument("--suffix", default="T1w", metavar="NAME", help="the kind of images (default: T1w)")
    parser.add_argument(
        "-d",
        "--derivatives",
        nargs="+",
        type=Path,
        metavar="FOLDER",
        help="where masks and labels are looked for (default: each folder in BIDS_DIR/derivatives)",
    )
    parser.add_argument("--no-masks", action="store_true", help="use no brain masks")
    parser.add_argument(
        "--labels",
        default="",
        metavar="NAME",
        help="carry label maps of derivatives over that are named so, as dseg or desc-aseg_dseg; with labels of the "
        "template there is Dice",
    )
    parser.add_argument(
        "--transforms",
        nargs="+",
        choices=_TRANSFORMS,
        default=(),
        help="also write the maps both ways for other programs: for ITK and ANTs (.h5; 24 bytes for each voxel of the "
        "template, 190 MB at 1 mm, each way), or as X5 (with nitransforms). deepflash apply makes them at any time",
    )
    parser.add_argument(
        "-w", "--work-dir", "--work_dir", type=Path, metavar="WORK", help="folder of the work (default: OUT/.deepflash)"
    )
    parser.add_argument("--force", action="store_true", help="replace results of other inputs or parameters")
    pool_options(parser, "an image", "images at once (default: as many as help)")
    parser.add_argument("--init", choices=ALIGNMENTS, help="default: affine")
    parser.add_argument("--preset", default="default", choices=PRESETS, help="default: default")
    progress_options(parser)
    common_options(parser)
    consent_option(parser)
    group = parser.add_argument_group("settings (default: the preset's)")
    add_fields(group, Parameters, ("preset", "initial_alignment"))


def run(options: argparse.Namespace) -> int:
    """Runs the command; returns the exit code."""
    parameters = given_parameters(options)
    check_threads(options)
    from ..cohorts.bids_dataset import Choice
    from ..cohorts.bids_space import read_space

    choice = Choice(
        tuple(options.participant_label),
        tuple(options.session_label),
        options.suffix,
        None if options.derivatives is None else tuple(options.derivatives),
        not options.no_masks,
        options.labels,
    )
    if options.level == "group":
        return _group(options, choice)
    if options.template is None:
        raise InputError("--template: is needed. Name the image, or the folder of a template, to register to.")
    keep_consent(options)
    return _participant(options, choice, read_space(options.template, options.template_name), parameters)


def _participant(options: argparse.Namespace, choice: Choice, space: Space, parameters: Parameters) -> int:
    from ..cohorts.bids import BidsRun
    from ..cohorts.bids_dataset import read_bids
    from ..cohorts.many import Settings
    from ..imaging.transform_files.composite import check_x5

    if "x5" in options.transforms:
        check_x5()
    out = options.output_dir
    dataset = read_bids(options.bids_dir, choice, out)
    settings = Settings(parameters, None, options.device, options.threads, options.workers, options.tries)
    found = BidsRun(dataset, space, out, settings, options.work_dir, options.transforms, choice.labels, options.force)
    for note in dataset.notes:
        print(f"Note: {note}", file=sys.stderr)
    told = _Telling(options, found)
    try:
        found.run(told.ended, told.progress)
    except KeyboardInterrupt as error:
        raise Cancelled(
            f"{told.done} of {told.count} images are done in {out}; run the same command to go on."
        ) from error
    return told.close()


class _Telling(Telling):
    """As of many pairs; what is known of all is written by the level group."""

    things = "images"

    @property
    def place(self) -> Path:
        return self.many.out

    def shown(self, name: str) -> str:
        return name.rpartition("/")[2]

    def write(self, complete: bool = False) -> None:
        """Nothing: another call may work on other participants."""

    def close(self) -> int:
        from .main import SOME_FAILED

        for name, message in self.many.lacking.items():
            print(f"{self.shown(name)}: not in its place. {message}", file=sys.stderr, flush=True)
        code = super().close()
        return SOME_FAILED if self.many.lacking else code


def _group(options: argparse.Namespace, choice: Choice) -> int:
    from ..cohorts.bids_group import write_group

    path, notes = write_group(options.bids_dir, options.output_dir, choice, options.work_dir)
    for note in notes:
        print(f"Note: {note}", file=sys.stderr)
    if not options.quiet:
        print(path)
    return 0
