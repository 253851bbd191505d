# SPDX-License-Identifier: Apache-2.0
"""The command line: deepflash register | apply | phantom, and on trained models: models | teach | train | evaluate.

Exit codes: 0 done, 1 failure, 2 wrong input (nothing written), 130 cancelled (nothing half-written).
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import json
import math
import os
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from ..imaging.files import TRANSFORMS
from ..problem.parameters import ALIGNMENTS, PRESETS, Parameters
from ..support.errors import Cancelled, InputError
from ..support.processors import share_processors
from ..version import __version__
from .field_options import add_fields, given_fields
from .models import add_commands

DONE, FAILED, WRONG_INPUT, CANCELLED = 0, 1, 2, 130


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line; returns the exit code.

    Args:
        arguments: default: those of the process, which may then be ended here.
    """
    try:
        code = _run(arguments)
    except KeyboardInterrupt:  # before or after what _run guards
        code = _say("Cancelled; nothing was written.", CANCELLED)
    if code == CANCELLED and arguments is None:
        # Python would end itself by SIGINT instead if the interrupt came while a module in C, as torch has many, ran
        # Python text on its import: handled or not, CPython keeps such an interrupt in mind (bpo-1054041).
        with contextlib.suppress(OSError):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code)
    return code


def _run(arguments: Sequence[str] | None) -> int:
    try:
        options = _parser().parse_args(arguments)
    except SystemExit as end:  # argparse has said why
        return WRONG_INPUT if end.code else DONE
    _reuse_memory()
    share_processors()
    try:
        with _interruptible(to_the_end=arguments is None):
            return options.run(options)
    except KeyboardInterrupt:
        return _say("Cancelled; nothing was written.", CANCELLED)
    except Cancelled as end:
        return _say(f"Cancelled. {end}", CANCELLED)
    except InputError as error:
        return _say(f"Error: {error}", WRONG_INPUT)
    except BrokenPipeError:
        # The reader of standard output went away; there is nobody to tell.
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return FAILED
    except Exception as error:
        if options.traceback:
            raise
        return _say(f"Failed: {_in_words(error)}", FAILED)


@contextlib.contextmanager
def _interruptible(to_the_end: bool) -> Iterator[None]:
    """Makes Ctrl-C, and what a terminal that closes or a scheduler sends, one KeyboardInterrupt.

    Afterwards they are what they were, or, if only the end of the process follows, without effect: then they come too
    late, and must not change the exit code.
    """
    last = -math.inf

    def interrupt(*_: Any) -> None:
        # Impatient fingers: a second signal must not interrupt the cleaning up after the first.
        nonlocal last
        now = time.monotonic()
        if now - last > 1:
            last = now
            raise KeyboardInterrupt

    before = {}
    try:
        for name in ("SIGINT", "SIGTERM", "SIGHUP"):
            with contextlib.suppress(ValueError, AttributeError, OSError):  # not the main thread, or no such signal
                number = getattr(signal, name)
                # nohup and shells in the background have some ignored, and mean it.
                if signal.getsignal(number) != signal.SIG_IGN:
                    before[number] = signal.signal(number, interrupt)
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, signal.SIG_IGN if to_the_end else handler)


def _say(message: str, code: int) -> int:
    with contextlib.suppress(OSError):
        print(message, file=sys.stderr)
    return code


def _in_words(error: BaseException) -> str:
    if isinstance(error, MemoryError) or "out of memory" in str(error).lower() or "can't allocate memory" in str(error):
        return (
            "the memory did not suffice. Close other programs, choose a larger working voxel (--spacing-mm), or the "
            "preset fast."
        )
    if isinstance(error, OSError) and error.strerror:
        return f"{f'{error.filename}: ' if error.filename else ''}{error.strerror}."
    if isinstance(error, (OSError, RuntimeError, ArithmeticError)) and str(error):
        return str(error)
    return (
        f"unexpected {type(error).__name__}: {error}. This is a mistake in the program: please report it, with what "
        "--traceback shows."
    )


def _reuse_memory() -> None:
    """Lets glibc keep freed blocks: large tensors otherwise go back to the system, and their pages are cleared anew, at
    every step (a tenth of the time of a registration)."""
    if sys.platform == "linux":
        with contextlib.suppress(OSError, AttributeError):
            libc = ctypes.CDLL(None)
            libc.mallopt(-4, 0)  # M_MMAP_MAX: no block of its own for large ones
            libc.mallopt(-1, 2**31 - 1)  # M_TRIM_THRESHOLD


# ------------------------------------------------------------------------------------------------------- options


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="deepflash", description="Diffeomorphic registration of medical images by band-limited geodesics."
    )
    parser.add_argument("--version", action="version", version=f"deepflash {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    _register_options(
        commands.add_parser(
            "register",
            help="register a moving image to a fixed one",
            description="Register MOVING to FIXED and write images, transforms, velocity and a report to a folder.",
        )
    )
    _apply_options(
        commands.add_parser(
            "apply",
            help="carry an image, labels, points or a surface over with a saved result",
            description='Carry INPUT over with the result that "deepflash register" wrote, at full precision from v0.',
        )
    )
    _phantom_options(
        commands.add_parser(
            "phantom",
            help="make a pair of images whose true map is known",
            description="Write two brain-like images related by a known random diffeomorphism and affine, or the "
            "ellipses "
            '("bull\'s eye") of the DeepFLASH paper.',
        )
    )
    add_commands(commands)
    return parser


def _common(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1 or mps (default: auto)")
    parser.add_argument("--threads", type=int, metavar="N", help="CPU threads (default: all)")
    parser.add_argument("--traceback", action="store_true", help="show where a failure happened")


def _register_options(parser: argparse.ArgumentParser) -> None:
    parser.set_defaults(run=_register)
    parser.add_argument("fixed", metavar="FIXED", help="image file or DICOM folder")
    parser.add_argument("moving", metavar="MOVING", help="image file or DICOM folder")
    parser.add_argument("-o", "--output", required=True, metavar="OUT", help="folder for the results")
    parser.add_argument("--force", action="store_true", help="replace an earlier result in OUT")
    for name, what in (
        ("moving-labels", "label map to carry over"),
        ("fixed-labels", "label map to compare with"),
        ("fixed-mask", "where the fixed image counts"),
        ("moving-mask", "where the moving image counts"),
        ("fixed-points", "landmarks (.fcsv, .mrk.json, .csv)"),
        ("moving-points", "the same landmarks in the moving image"),
    ):
        parser.add_argument(f"--{name}", metavar="FILE", help=what)
    parser.add_argument(
        "--init",
        default="",
        metavar="HOW",
        help=f"{', '.join(ALIGNMENTS)}, or a transform file ({', '.join(TRANSFORMS)}); default: affine",
    )
    parser.add_argument("--preset", default="default", choices=PRESETS, help="default: default")
    parser.add_argument(
        "--truth", metavar="FILE", help="true fixed-to-moving displacement field: the error against it is reported"
    )
    parser.add_argument(
        "--json-progress",
        action="store_true",
        help="one JSON object per event on standard output instead of a progress bar",
    )
    parser.add_argument("-q", "--quiet", action="store_true", help="no progress bar")
    _common(parser)
    group = parser.add_argument_group("settings (default: the preset's)")
    add_fields(group, Parameters, ("preset", "initial_alignment"))


def _apply_options(parser: argparse.ArgumentParser) -> None:
    parser.set_defaults(run=_apply)
    parser.add_argument("result", metavar="OUT", help='folder written by "deepflash register"')
    parser.add_argument("input", metavar="INPUT", help="image, label map, landmarks or surface")
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
        "--reference", metavar="IMAGE", help="image whose grid the output takes (default: the fixed or moving image's)"
    )
    parser.add_argument("--labels", action="store_true", help="INPUT is a label map")
    parser.add_argument(
        "--interpolation", choices=("linear", "cubic", "nearest"), default="linear", help="for images (default: linear)"
    )
    _common(parser)


def _phantom_options(parser: argparse.ArgumentParser) -> None:
    parser.set_defaults(run=_phantom)
    parser.add_argument("output", metavar="OUT", help="folder for the images")
    parser.add_argument("--kind", choices=("brain", "bullseye"), default="brain")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--force", action="store_true", help="replace an earlier phantom in OUT")
    parser.add_argument("--traceback", action="store_true", help=argparse.SUPPRESS)


# ------------------------------------------------------------------------------------------------------- commands


def _register(options: argparse.Namespace) -> int:
    from ..imaging.io import read_labels, read_mask, read_volume
    from ..imaging.points import read_points
    from ..imaging.transforms import read_displacement_field

    parameters, transform = _parameters(options)
    from ..results.folder import FILES, save_result
    from ..support.output_folder import check_output

    check_output(options.output, FILES, options.force)

    def optional(path: str | None, read: Any) -> Any:
        return None if path is None else read(path)

    fixed, moving = read_volume(options.fixed), read_volume(options.moving)
    inputs = {
        "moving_labels": optional(options.moving_labels, read_labels),
        "fixed_labels": optional(options.fixed_labels, read_labels),
        "fixed_mask": optional(options.fixed_mask, read_mask),
        "moving_mask": optional(options.moving_mask, read_mask),
        "fixed_points": optional(options.fixed_points, lambda p: read_points(p)[0]),
        "moving_points": optional(options.moving_points, lambda p: read_points(p)[0]),
    }
    if transform is not None:
        from ..imaging.transforms import read_affine

        inputs["initial_affine"] = read_affine(transform, fixed.ndim, fixed.grid, moving.grid)
    truth = optional(options.truth, read_displacement_field)
    if truth is not None and truth[0].ndim != fixed.ndim:
        raise InputError(
            f"{options.truth}: is a {truth[0].ndim}-D field, but {options.fixed} is {fixed.ndim}-D. Pass the "
            "true field of this pair."
        )
    from ..registration.register import register

    with _bar(options) as progress:
        result = register(
            fixed, moving, parameters, device=options.device, threads=options.threads, progress=progress, **inputs
        )
        if truth is not None:
            from ..registration.metrics import truth_error

            result.metrics["truth_error_mm"] = truth_error(result, *truth)
        progress({"phase": "finish", "progress": 0.97, "message": "Writing the files"})
        before = _stamp(options.output)
        try:
            save_result(result, options.output, fixed, moving, inputs["fixed_labels"], options.force)
        except KeyboardInterrupt:
            if _stamp(options.output) == before:
                raise  # else it came too late: everything is in place
        progress({"phase": "finish", "progress": 1.0, "message": "Done"})
    if not options.json_progress:
        _summarize(result, Path(options.output))
    return DONE


def _stamp(folder: str) -> tuple[int, int] | None:
    """Tells one result in a folder from another; None without one."""
    try:
        found = (Path(folder) / "result.json").stat()
    except OSError:
        return None
    return found.st_ino, found.st_mtime_ns


def _parameters(options: argparse.Namespace) -> tuple[Parameters, str | None]:
    """The settings, and the path of the initial transform if --init names one."""
    changes = {name: value for name, value in given_fields(options, Parameters).items() if name != "preset"}
    transform = None
    if options.init in ALIGNMENTS:
        changes["initial_alignment"] = options.init
    elif options.init:
        if not options.init.lower().endswith(TRANSFORMS):
            raise InputError(
                f"--init {options.init}: is neither one of {', '.join(ALIGNMENTS)} nor a transform file "
                f"({', '.join(TRANSFORMS)})."
            )
        transform = options.init
    try:
        return Parameters.from_preset(options.preset, **changes), transform
    except ValueError as error:
        raise InputError(str(error)) from error


def _summarize(result: Any, folder: Path) -> None:
    metrics = result.metrics
    print(f"{result.verdict.level.upper()}")
    for reason in result.verdict.reasons:
        print(f"  {reason}")
    if "truth_error_mm" in metrics:
        error = metrics["truth_error_mm"]
        print(
            f"  Error against the true map: mean {error['mean']:.2f} mm, 95 % within {error['p95']:.2f} mm, "
            f"largest {error['max']:.2f} mm (before: mean {error['mean_before']:.2f} mm)."
        )
    print(f"{result.timings['total']:.1f} s on {result.provenance['device']}; {folder / 'report.html'}")


class _Bar:
    """Events as a bar on a terminal, as JSON lines, or not at all."""

    def __init__(self, kind: str):
        self.kind, self.started, self.width = kind, time.monotonic(), 0

    def __call__(self, event: dict[str, Any]) -> None:
        if self.kind == "json":
            print(json.dumps(event), flush=True)
        elif self.kind == "bar":
            done = max(0.0, min(1.0, float(event.get("progress", 0.0))))
            text = f"[{'#' * round(30 * done):30}] {100 * done:3.0f} %  {time.monotonic() - self.started:5.1f} s  "
            text += event.get("message", "")
            if "energy" in event:
                text += f", energy {event['energy']:.4g}"
            print("\r" + text.ljust(self.width)[: max(self.width, len(text))], end="", file=sys.stderr, flush=True)
            self.width = len(text)

    def close(self) -> None:
        if self.kind == "bar":
            print(file=sys.stderr, flush=True)


@contextlib.contextmanager
def _bar(options: argparse.Namespace) -> Any:
    kind = "json" if options.json_progress else "bar" if not options.quiet and sys.stderr.isatty() else "none"
    bar = _Bar(kind)
    try:
        yield bar
    finally:
        bar.close()


def _apply(options: argparse.Namespace) -> int:
    from ..results.carrying import carry

    if Path(options.output).exists() and not options.force:
        raise InputError(f"{options.output}: exists. Choose another name, or add --force.")
    carry(
        options.result,
        options.input,
        options.output,
        to=options.to,
        time=options.time,
        reference=options.reference,
        labels=options.labels,
        interpolation=options.interpolation,
        device=options.device,
        threads=options.threads,
    )
    return DONE


def _phantom(options: argparse.Namespace) -> int:
    from ..phantom.pairs import bullseye, make_pair, write_pair

    pair = bullseye(options.seed) if options.kind == "bullseye" else make_pair(options.seed)
    for path in write_pair(options.output, pair, force=options.force).values():
        print(path)
    return DONE
