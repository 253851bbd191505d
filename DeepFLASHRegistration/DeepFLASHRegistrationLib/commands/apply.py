# SPDX-License-Identifier: Apache-2.0
"""deepflash apply: images, labels, landmarks and surfaces carried over with a saved result; or its map as a file."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from ..imaging.files import ITK_TRANSFORMS, POINTS, SURFACES
from ..support.errors import InputError
from .options import common_options

DESCRIPTION = (
    'Carry INPUT over with the result that "deepflash register" wrote, at full precision from v0, or with a transform '
    "that another program wrote. Without INPUT, write the map itself."
)


def add_options(parser: argparse.ArgumentParser) -> None:
    """Adds what `run` reads."""
    parser.add_argument(
        "result",
        metavar="OUT",
        help='folder written by "deepflash register"; or a bare transform: of ITK or ANTs, fixed to moving '
        f"({', '.join(ITK_TRANSFORMS)}; a displacement field as .nii.gz, .nrrd, .mha), of FSL FLIRT (.mat), FreeSurfer "
        "(.lta) or MINC (.xfm), moving to fixed, or a registration of DICOM, which says by itself. Linear ones serve "
        "both ways; others take images to the space of the fixed image, points to that of the moving one",
    )
    parser.add_argument(
        "input",
        metavar="INPUT",
        nargs="?",
        help=f"image, label map, landmarks ({', '.join(POINTS)}) or surface ({', '.join(SURFACES)}); numbers without a "
        "stated coordinate system are LPS mm. Without it, the map by which images are carried is written: as a "
        "composite of ITK (.h5), as X5 (.x5, with nitransforms), or as one displacement field (.nii.gz, .nrrd, .mha)",
    )
    parser.add_argument("-o", "--output", required=True, metavar="FILE")
    parser.add_argument("--force", action="store_true", help="overwrite FILE")
    parser.add_argument(
        "--to",
        choices=("fixed", "moving"),
        default="fixed",
        help="the space to carry it to: INPUT lies in the other one (default: fixed)",
    )
    parser.add_argument(
        "--time", type=float, default=1.0, metavar="T", help="time on the geodesic, 0 (affine alone) to 1 (default: 1)"
    )
    parser.add_argument(
        "--through",
        metavar="RESULT",
        help="a further result, whose moving image is the fixed one of OUT: the fixed space is then its (of a subject "
        "on a template the template on a standard space: interpolated once)",
    )
    parser.add_argument(
        "--reference",
        metavar="IMAGE",
        help="image whose grid the output takes (default: the fixed or moving image's, or the field's); of bare "
        "transforms all but fields need it for images, a matrix of FLIRT also for points",
    )
    parser.add_argument(
        "--source",
        metavar="IMAGE",
        help="with a matrix of FLIRT: image in whose space INPUT lies, if INPUT is no image or has another grid",
    )
    parser.add_argument("--labels", action="store_true", help="INPUT is a label map")
    parser.add_argument(
        "--interpolation", choices=("linear", "cubic", "nearest"), default="linear", help="for images (default: linear)"
    )
    common_options(parser)


def run(options: argparse.Namespace) -> int:
    """Runs the command; returns the exit code."""
    from ..results.carrying import Carrying, carry

    if Path(options.output).exists() and not options.force:
        raise InputError(f"{options.output}: exists. Choose another name, or add --force.")
    how = Carrying(
        options.to,
        options.time,
        options.reference,
        options.labels,
        options.interpolation,
        options.source,
        options.through,
    )
    if options.input is None:
        from ..results.map_files import write_map

        write_map(options.result, options.output, how, device=options.device, threads=options.threads)
        return 0
    notes = carry(options.result, options.input, options.output, how, device=options.device, threads=options.threads)
    for note in dict.fromkeys(notes):
        print(f"Note: {note}", file=sys.stderr)
    return 0
