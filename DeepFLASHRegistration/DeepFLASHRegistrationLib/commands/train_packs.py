# SPDX-License-Identifier: Apache-2.0
"""deepflash train with packs: a model that predicts in one pass."""

from __future__ import annotations

import argparse
from pathlib import Path

from ..support.errors import Cancelled
from .field_options import add_fields, from_options
from .options import checked, say_how_to_install

DESCRIPTION = (
    'Train a model that predicts in one pass on packs, which "deepflash pack" wrote, and write it to MODEL, a folder. '
    "A GPU pays. The same command goes on where an earlier one was interrupted."
)


def add_options(parser: argparse.ArgumentParser) -> None:
    """Adds what `run` reads. Some of it comes from a class that needs torch."""
    from ..support.torch_device import require_torch

    require_torch()
    from ..training.train_on_packs import PackOptions

    parser.add_argument("packs", metavar="PACK", type=Path, nargs="+", help='files that "deepflash pack" wrote')
    parser.add_argument("-o", "--output", required=True, type=Path, metavar="MODEL", help="folder for the model")
    parser.add_argument(
        "--mix",
        default="",
        metavar="NAME=SHARE,…",
        help="how often pairs come from each pack; both sides of a pair are of one (default: equally often)",
    )
    parser.add_argument(
        "--resume", type=Path, metavar="CHECKPOINT", help="go on from this one (default: that in MODEL, if any)"
    )
    parser.add_argument(
        "--labels", type=Path, metavar="MOMENTA", help='of the pack, which "deepflash teach" found: for quicksilver'
    )
    add_fields(parser.add_argument_group("training"), PackOptions, defaults=True)


def run(options: argparse.Namespace) -> int:
    """Runs the command; returns the exit code."""
    from ..training.pack import read_pack
    from ..training.train_on_packs import PackOptions, read_mix, train_on_packs

    training, mix = checked(lambda: from_options(options, PackOptions)), read_mix(options.mix)
    packs = [read_pack(path) for path in options.packs]

    def tell(text: str) -> None:
        print(text, flush=True)

    try:
        train_on_packs(packs, mix, options.output, training, options.resume, options.labels, tell)
    except KeyboardInterrupt as error:
        raise Cancelled(f"The last checkpoint is in {options.output}.") from error
    say_how_to_install(options.output)
    return 0
