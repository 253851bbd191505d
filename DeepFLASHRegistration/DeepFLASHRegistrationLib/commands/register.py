# SPDX-License-Identifier: Apache-2.0
"""deepflash register: a moving image registered to a fixed one, and everything written to a folder."""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..imaging.files import ITK_TRANSFORMS, POINTS, TRANSFORMS
from ..problem.parameters import ALIGNMENTS, METHODS, PRESETS, Parameters
from ..support.errors import InputError
from .field_options import add_fields, given_fields
from .options import IMAGE, checked, common_options, consent_option, keep_consent, result_options
from .progress_bar import shown

if TYPE_CHECKING:
    import numpy as np

    from ..imaging.grid import Grid
    from ..problem.subject import Subject


# Nobody minds less on a disk.
_WORTH_SAYING = 10_000_000

DESCRIPTION = "Register MOVING to FIXED and write images, transforms, velocity and a report to a folder."


def add_options(parser: argparse.ArgumentParser) -> None:
    """Adds what `run` reads."""
    parser.add_argument("fixed", metavar="FIXED", help=IMAGE)
    parser.add_argument("moving", metavar="MOVING", help="likewise")
    parser.add_argument("-o", "--output", required=True, metavar="OUT", help="folder for the results")
    parser.add_argument("--force", action="store_true", help="replace an earlier result in OUT")
    for name, what in (
        ("moving-labels", "label map or segmentation (.seg.nrrd, DICOM SEG) to carry over"),
        ("fixed-labels", "label map or segmentation, likewise, to compare with"),
        ("fixed-mask", "where the fixed image counts"),
        ("moving-mask", "where the moving image counts"),
        ("fixed-points", f"landmarks ({', '.join(POINTS)}); numbers without a stated coordinate system are LPS mm"),
        ("moving-points", "the same landmarks in the moving image"),
    ):
        parser.add_argument(f"--{name}", metavar="FILE", help=what)
    for side in ("fixed", "moving"):
        parser.add_argument(
            f"--{side}-channel",
            dest=f"{side}_channels",
            default=[],
            action="append",
            metavar="FILE",
            help=f"a further image of the {side} subject (T2 beside T1, dose beside CT) to compare besides, given for "
            "both sides, in the same order",
        )
    parser.add_argument(
        "--init",
        default=[],
        action="append",
        metavar="HOW",
        help=f"{', '.join(ALIGNMENTS)}, or a linear transform file: of ITK ({', '.join(ITK_TRANSFORMS)}; fixed to "
        "moving), FSL FLIRT (.mat), FreeSurfer (.lta) or MINC (.xfm; these three moving to fixed), or a Spatial "
        "Registration of DICOM (which says by itself); default: affine. With --method transform also a displacement "
        "field, another transform of ITK or ANTs, or a Deformable Spatial Registration of DICOM; several, in the order "
        "of antsApplyTransforms, by --init for each",
    )
    parser.add_argument(
        "--refine",
        metavar="RESULT",
        help="go on from this result (a folder) of the same fixed image, in its alignment, with what steers now",
    )
    parser.add_argument("--preset", default="default", choices=PRESETS, help="default: default")
    parser.add_argument(
        "--truth", metavar="FILE", help="true fixed-to-moving displacement field: the error against it is reported"
    )
    result_options(parser)
    common_options(parser)
    consent_option(parser)
    group = parser.add_argument_group("settings (default: the preset's)")
    add_fields(group, Parameters, ("preset", "initial_alignment"))


def run(options: argparse.Namespace) -> int:
    """Runs the command; returns the exit code."""
    parameters, transforms = _parameters(options)
    keep_consent(options)
    from ..methods.choosing import settled
    from ..problem.reading import PairFiles
    from ..registration.register import register
    from ..report import FILES
    from ..results.before import check_needs
    from ..results.folder import save_result
    from ..results.known_maps import with_transforms
    from ..results.outputs import chosen_files
    from ..support.memory import free_bytes
    from ..support.output_folder import check_output
    from ..support.torch_device import begin_loading

    names = [field.name for field in dataclasses.fields(PairFiles) if field.name != "transform"]
    pair = PairFiles(**{name: getattr(options, name) for name in names})
    labelled = pair.moving_labels is not None
    files = chosen_files(options.outputs, labelled, pair.segmented, parameters.dense, parameters.samples > 0)
    for output, there, what in (
        ("labels", labelled, "labels"),
        ("segmentation", pair.segmented, "a segmentation (.seg.nrrd, DICOM SEG)"),
    ):
        if output in (options.outputs or ()) and not there:
            raise InputError(f"--outputs {output}: needs {what} to carry over. Pass them with --moving-labels.")
    check_output(options.output, FILES, options.force)
    free = free_bytes()
    begin_loading()
    fixed, moving, segmentation = pair.read()
    fixed, given = with_transforms(transforms, fixed, moving, parameters)
    if options.refine is not None:
        parameters, fixed, given = _refining(options, parameters, fixed, moving)
    truth = _truth(options, fixed)
    parameters, why = settled(parameters, fixed, moving)
    fixed = fixed.with_image(fixed.image.noted(*why))
    affine = given.get("initial_affine")
    need = check_needs(options.output, files, (fixed, moving), parameters, affine, options.device, free)
    if need.disk >= _WORTH_SAYING and not options.json_progress:
        with contextlib.suppress(OSError):
            print(f"{need.message} to {options.output} (--outputs chooses less).", file=sys.stderr)
    with shown(options) as progress:
        first = {"phase": "prepare", "progress": 0.0, "message": need.message, "bytes_to_write": need.disk}
        progress(first | ({"notes": list(need.notes)} if need.notes else {}))
        result = register(
            fixed,
            moving,
            parameters,
            **given,
            device=options.device,
            threads=options.threads,
            progress=progress,
        )
        if truth is not None:
            from ..registration.metrics import truth_error

            result.metrics["truth_error_mm"] = truth_error(result, *truth)
        progress({"phase": "finish", "progress": 0.97, "message": "Writing the files"})
        before = _stamp(options.output)
        try:
            save_result(
                result,
                options.output,
                fixed,
                moving,
                force=options.force,
                outputs=options.outputs,
                segmentation=segmentation,
            )
        except KeyboardInterrupt:
            if _stamp(options.output) == before:
                raise  # else it came too late: everything is in place
        last = {"phase": "finish", "progress": 1.0, "message": "Done"}
        progress(last | {"verdict": result.verdict.to_dict(), "folder": options.output})
    if not options.json_progress:
        _summarize(result, Path(options.output) / ("report.html" if "report.html" in files else "result.json"))
    return 0


def _refining(
    options: argparse.Namespace, parameters: Parameters, fixed: Subject, moving: Subject
) -> tuple[Parameters, Subject, dict[str, Any]]:
    """The settings, the fixed subject and what register() is given to go on from a result."""
    from ..results.starts import check_same_images, refined

    start = refined(options.refine, parameters)
    ndim = len(start.given["initial_velocity"]["affine"]) - 1
    check_same_images(options.refine, ndim, fixed=fixed, moving=moving)
    return start.parameters, fixed.with_image(fixed.image.noted(*start.notes)), start.given


def _truth(options: argparse.Namespace, fixed: Subject) -> tuple[Grid, np.ndarray] | None:
    if options.truth is None:
        return None
    from ..imaging.transforms import read_displacement_field

    truth = read_displacement_field(options.truth)
    if truth[0].ndim != fixed.ndim:
        raise InputError(
            f"{options.truth}: is a {truth[0].ndim}-D field, but {options.fixed} is {fixed.ndim}-D. Pass the "
            "true field of this pair."
        )
    return truth


def _stamp(folder: str) -> tuple[int, int] | None:
    """Tells one result in a folder from another; None without one."""
    try:
        found = (Path(folder) / "result.json").stat()
    except OSError:
        return None
    return found.st_ino, found.st_mtime_ns


def _parameters(options: argparse.Namespace) -> tuple[Parameters, list[str]]:
    """The settings, and the paths of the initial transforms if --init names any."""
    changes = {name: value for name, value in given_fields(options, Parameters).items() if name != "preset"}
    # As of any option the last one counts; of files all that follow each other.
    transforms = []
    for text in options.init:
        transforms = [] if text in ALIGNMENTS else [*transforms, text]
    if options.init and not transforms:
        changes["initial_alignment"] = options.init[-1]
    parameters = checked(lambda: Parameters.from_preset(options.preset, **changes))
    if options.refine is not None and options.init:
        raise InputError("--refine goes on in the alignment of its result. Leave --init out.")
    _check_transforms(transforms, parameters)
    return parameters, transforms


def _check_transforms(transforms: list[str], parameters: Parameters) -> None:
    """InputError unless the method can do with them."""
    from ..results.bare_transform import is_transform

    for text in transforms:
        if not is_transform(text):
            raise InputError(
                f"--init {text}: is neither one of {', '.join(ALIGNMENTS)} nor a transform file "
                f"({', '.join(TRANSFORMS)}, DICOM; with --method transform also a displacement field)."
            )
    if METHODS[parameters.method].needs_transform and not transforms:
        raise InputError(f"--method {parameters.method}: needs the transform: --init FILE, fixed to moving.")
    if parameters.as_geodesic and not METHODS[parameters.method].fitted:
        raise InputError(f"--as-geodesic: the method {parameters.method} finds a geodesic anyway. Leave it out.")


def _summarize(result: Any, shown: Path) -> None:
    from ..registration.verdict_words import sentence

    metrics = result.metrics
    print(f"{result.verdict.level.upper()}")
    for reason in result.verdict.reasons:
        print(f"  {sentence(reason)}")
    if "truth_error_mm" in metrics:
        error = metrics["truth_error_mm"]
        print(
            f"  Error against the true map: mean {error['mean']:.2f} mm, 95 % within {error['p95']:.2f} mm, "
            f"largest {error['max']:.2f} mm (before: mean {error['mean_before']:.2f} mm)."
        )
    print(f"{result.timings['total']:.1f} s on {result.provenance['device']}; {shown}")
