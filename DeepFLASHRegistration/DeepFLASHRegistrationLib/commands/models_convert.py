# SPDX-License-Identifier: Apache-2.0
"""deepflash models convert: published weights made a model."""

from __future__ import annotations

import argparse
from pathlib import Path

from .options import say_how_to_install

DESCRIPTION = (
    "Make a model of published weights: FILE is Step_2_final.trch of uniGradICON or multiGradICON, or "
    "longleaf_unicarl_8 of uniCARL, as it was downloaded. The first two cannot be told apart, so KIND says which it "
    "is. The SHA-256 of the file is shown, and recorded in the model's card. Nothing in the file is run."
)


def add_options(parser: argparse.ArgumentParser) -> None:
    """Adds what `run` reads."""
    parser.add_argument("convert", choices=["convert"], metavar="convert", help=argparse.SUPPRESS)
    parser.add_argument("file", metavar="FILE", type=Path, help="file of weights")
    parser.add_argument("--kind", required=True, choices=("unigradicon", "multigradicon", "unicarl"), help="what it is")
    parser.add_argument("-o", "--output", required=True, type=Path, metavar="MODEL", help="folder for the model")
    parser.add_argument("--name", default="", metavar="NAME", help="of the model (default: its kind)")


def run(options: argparse.Namespace) -> int:
    """Runs the command; returns the exit code."""
    from ..support.torch_device import require_torch

    require_torch()
    from ..methods.converting import convert

    folder, digest = convert(options.file, options.kind, options.output, options.name)
    print(f"SHA-256 of {options.file.name}: {digest}")
    say_how_to_install(folder)
    return 0
