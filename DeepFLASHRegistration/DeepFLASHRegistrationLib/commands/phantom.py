# SPDX-License-Identifier: Apache-2.0
"""deepflash phantom: a pair of images whose true map is known."""

from __future__ import annotations

import argparse

DESCRIPTION = (
    "Write two brain-like images related by a known random diffeomorphism and affine, or the "
    "ellipses "
    '("bull\'s eye") of the DeepFLASH paper.'
)


def add_options(parser: argparse.ArgumentParser) -> None:
    """Adds what `run` reads."""
    parser.add_argument("output", metavar="OUT", help="folder for the images")
    parser.add_argument("--kind", choices=("brain", "bullseye"), default="brain")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--force", action="store_true", help="replace an earlier phantom in OUT")


def run(options: argparse.Namespace) -> int:
    """Runs the command; returns the exit code."""
    from ..phantom.pairs import bullseye, make_pair, write_pair

    pair = bullseye(options.seed) if options.kind == "bullseye" else make_pair(options.seed)
    for path in write_pair(options.output, pair, force=options.force).values():
        print(path)
    return 0
