# SPDX-License-Identifier: Apache-2.0
"""What the options of several commands share."""

from __future__ import annotations

import argparse
import json
import shlex
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from ..support.errors import InputError

IMAGE = (
    "image file (NIfTI, NRRD, MetaImage, .mgz, a picture, ...) or DICOM folder; of a file of several volumes one, "
    "'FILE[3]' (counted from 0), or their mean, 'FILE[mean]'"
)
DATA = (
    "DATA is a folder with images/ (and labels/, masks/ of the same file names), a folder of images (with x_labels, "
    "x_mask beside x), or a table (.csv) with the columns image, subject, labels, mask."
)


def common_options(parser: argparse.ArgumentParser) -> None:
    """--device, --threads."""
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1 or mps (default: auto)")
    parser.add_argument("--threads", type=int, metavar="N", help="CPU threads (default: all)")


def result_options(
    parser: argparse.ArgumentParser, what: str = "beside the velocity and result.json", default: str = "all"
) -> None:
    """What is written of a registration, and how its progress is told: --outputs, --json-progress, --quiet.

    ``what``, ``default``: of the files that --outputs chooses."""
    parser.add_argument(
        "--outputs",
        type=_names,
        metavar="NAME,…",
        help=f"write only these files {what}: warped, fixed_to_moving, moving_to_fixed, affine, log_jacobian, "
        f"uncertainty, labels, segmentation, report; none for none of them (default: {default})",
    )
    progress_options(parser)


def progress_options(parser: argparse.ArgumentParser) -> None:
    """How progress is told: --json-progress, --quiet."""
    parser.add_argument(
        "--json-progress",
        action="store_true",
        help="one JSON object per event on standard output instead of text for people",
    )
    parser.add_argument("-q", "--quiet", action="store_true", help="no progress")


def pool_options(parser: argparse.ArgumentParser, what: str, workers: str) -> None:
    """How several at once are worked on: --workers, --tries. ``what``: one of them; ``workers``: help of the first."""
    parser.add_argument("--workers", type=positive, metavar="N", help=workers)
    parser.add_argument(
        "--tries",
        type=positive,
        default=3,
        metavar="N",
        help=f"how often {what} is tried whose process dies, at most (default: 3)",
    )


def check_threads(options: argparse.Namespace) -> None:
    """InputError for a number of threads that cannot be."""
    if options.threads is not None and options.threads < 1:
        raise InputError(f"threads must be at least 1, not {options.threads}.")


def consent_option(parser: Any) -> None:
    """--accept-noncommercial; see `keep_consent`."""
    parser.add_argument(
        "--accept-noncommercial",
        action=argparse.BooleanOptionalAction,
        help="agree to licenses that exclude commercial use, so that --model auto may choose models under them; kept "
        "until --no-accept-noncommercial",
    )


def keep_consent(options: argparse.Namespace) -> None:
    """Keeps what the user said about licenses that exclude commercial use, if anything."""
    if options.accept_noncommercial is not None:
        from ..methods.consent import accept_noncommercial

        path = accept_noncommercial(options.accept_noncommercial)
        what = "agreed to" if options.accept_noncommercial else "declined"
        print(f"Note: you have {what} licenses that exclude commercial use; kept in {path}.", file=sys.stderr)


def _names(text: str) -> list[str]:
    return [] if text.strip() == "none" else [name.strip() for name in text.split(",")]


def say_event(event: Mapping[str, Any]) -> None:
    """A line of --json-progress."""
    from ..registration.result import FORMAT
    from ..results.plain import plain

    print(json.dumps(plain({"format": FORMAT, **event}), allow_nan=False), flush=True)


def data_options(parser: argparse.ArgumentParser) -> None:
    """A data set, and what becomes of images that cannot be used."""
    parser.add_argument("data", metavar="DATA", type=Path, help="folder or table of images")
    parser.add_argument(
        "--skip-broken", action="store_true", help="leave out images that cannot be used instead of stopping"
    )


def seed_options(parser: argparse.ArgumentParser, pairs: int) -> None:
    """How many pairs are drawn, and which."""
    parser.add_argument("--seed", type=int, default=0, help="decides which pairs are drawn (default: 0)")
    parser.add_argument("--pairs", type=positive, default=pairs, metavar="N", help=f"how many pairs (default: {pairs})")


def positive(text: str) -> int:
    """The type of an option that is at least 1."""
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1, not {value}")
    return value


def checked(make: Callable[[], Any]) -> Any:
    """What a function makes of options; a value it refuses is wrong input."""
    try:
        return make()
    except ValueError as error:
        raise InputError(str(error)) from error


def say_skipped(skipped: tuple[str, ...]) -> None:
    """Names the images that were left out."""
    if skipped:
        print(f"{len(skipped)} images were left out:", file=sys.stderr)
        for text in skipped:
            print(f"  {text}", file=sys.stderr)


def say_how_to_install(folder: Path) -> None:
    """Prints the line that makes a model that was trained into a folder known by its name."""
    words = ["deepflash", "models", "install", str(folder)]
    line = subprocess.list2cmdline(words) if sys.platform == "win32" else shlex.join(words)
    print(f"To use it by its name: {line}", flush=True)
