# SPDX-License-Identifier: Apache-2.0
"""deepflash project: a new subject brought to a template, and where it lies among the template's own."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from ..support.errors import InputError
from .options import IMAGE, check_threads, common_options, result_options
from .progress_bar import shown

if TYPE_CHECKING:
    from ..cohorts.projection import Projection

DESCRIPTION = (
    'Bring IMAGE to the template in the folder TEMPLATE, written by "deepflash template", as the template\'s own '
    "subjects were, with its settings; carry its labels to IMAGE; and say how far it lies from the template, and what "
    "part of the subjects lies nearer."
)
_DEFAULT = ("warped", "labels", "report")


def add_options(parser: argparse.ArgumentParser) -> None:
    """Adds what `run` reads."""
    parser.add_argument("image", metavar="IMAGE", help=IMAGE)
    parser.add_argument("template", metavar="TEMPLATE", type=Path, help="folder of the template")
    parser.add_argument("-o", "--output", required=True, metavar="OUT", type=Path, help="folder for the results")
    parser.add_argument("--force", action="store_true", help="replace an earlier result in OUT")
    parser.add_argument("--labels", metavar="FILE", help="of IMAGE, to compare with the template's and to carry there")
    parser.add_argument(
        "--channel",
        dest="channels",
        default=[],
        action="append",
        metavar="FILE",
        help="a further image of IMAGE's subject, for each that the template has, in the same order",
    )
    parser.add_argument("--mask", metavar="FILE", help="where IMAGE counts")
    result_options(
        parser,
        "beside the velocity, result.json, projection.json and the template's labels in IMAGE",
        "warped, labels, report",
    )
    common_options(parser)


def run(options: argparse.Namespace) -> int:
    """Runs the command; returns the exit code."""
    check_threads(options)
    from ..cohorts.projection import WRITTEN, project, save_projection
    from ..cohorts.saved_template import load_template
    from ..problem.reading import read_subject
    from ..results.before import check_needs
    from ..results.outputs import chosen_files
    from ..support.memory import free_bytes
    from ..support.output_folder import check_output
    from ..support.torch_device import begin_loading

    outputs = options.outputs
    if outputs is None:
        outputs = [name for name in _DEFAULT if name != "labels" or options.labels is not None]
    if options.labels is None and "labels" in outputs:
        raise InputError("--outputs labels: needs labels of IMAGE to carry over. Pass them with --labels.")
    files = chosen_files(outputs, options.labels is not None)
    check_output(options.output, WRITTEN, options.force)
    template, free = load_template(options.template), free_bytes()
    begin_loading()
    subject = read_subject(options.image, options.labels, options.mask, channels=options.channels)
    sides = template.subject, subject
    need = check_needs(options.output, files, sides, template.parameters, None, options.device, free)
    with shown(options) as progress:
        first = {"phase": "prepare", "progress": 0.0, "message": need.message, "bytes_to_write": need.disk}
        progress(first | ({"notes": list(need.notes)} if need.notes else {}))
        found = project(subject, template, device=options.device, threads=options.threads, progress=progress)
        progress({"phase": "finish", "progress": 0.97, "message": "Writing the files"})
        save_projection(found, options.output, template, subject, options.force, outputs)
        last = {"phase": "finish", "progress": 1.0, "message": "Done"}
        progress(last | {"verdict": found.result.verdict.to_dict(), "folder": str(options.output)})
    if not options.json_progress:
        _summarize(options, found, len(template.subjects))
    return 0


def _summarize(options: argparse.Namespace, found: Projection, count: int) -> None:
    from ..registration.verdict_words import sentence

    verdict = found.result.verdict
    print(verdict.level.upper())
    for reason in verdict.reasons:
        print(f"  {sentence(reason)}")
    far = ": far from the rest" if found.far else ""
    print(f"Distance {found.distance:.4g}, farther than {found.percentile:.0f} % of the {count} subjects{far}.")
    if found.flipped:
        print("Its left and right seem exchanged: check the orientation in its header, and how it was converted.")
    print(f"{options.output}")
