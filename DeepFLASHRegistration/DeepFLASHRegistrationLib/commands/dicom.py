# SPDX-License-Identifier: Apache-2.0
"""deepflash dicom: a result as DICOM objects, to be sent to an archive or a planning system."""

from __future__ import annotations

import argparse
import sys

from .options import common_options

DESCRIPTION = (
    "Write a result as DICOM objects that refer to the series it was computed from: alignment.dcm, a Spatial "
    "Registration of the linear part; deformation.dcm, a Deformable Spatial Registration of the whole map; and, with "
    "--moving-labels, segmentation.dcm, a segmentation on the fixed series."
)


def add_options(parser: argparse.ArgumentParser) -> None:
    """Adds what `run` reads."""
    parser.add_argument("result", metavar="RESULT", help='folder written by "deepflash register"')
    parser.add_argument("--fixed", required=True, metavar="DICOM", help="folder of the fixed series, or a file of it")
    parser.add_argument("--moving", required=True, metavar="DICOM", help="likewise of the moving series")
    parser.add_argument(
        "--moving-labels",
        metavar="FILE",
        help="label map or segmentation (.seg.nrrd, DICOM SEG) of the moving image, carried to the fixed series",
    )
    parser.add_argument("-o", "--output", required=True, metavar="OUT", help="folder for the objects")
    parser.add_argument("--force", action="store_true", help="replace such objects in OUT")
    common_options(parser)


def run(options: argparse.Namespace) -> int:
    """Runs the command; returns the exit code."""
    from ..results.dicom_objects import write_dicom

    notes = write_dicom(
        options.result,
        options.fixed,
        options.moving,
        options.output,
        options.moving_labels,
        force=options.force,
        device=options.device,
        threads=options.threads,
    )
    for note in dict.fromkeys(notes):
        print(f"Note: {note}", file=sys.stderr)
    return 0
