# SPDX-License-Identifier: Apache-2.0
"""What the options of several commands share."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
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
