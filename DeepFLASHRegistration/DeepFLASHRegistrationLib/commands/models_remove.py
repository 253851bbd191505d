# SPDX-License-Identifier: Apache-2.0
"""deepflash models remove: a model of the user's."""

from __future__ import annotations

import argparse

DESCRIPTION = "Remove a model that was installed, or trained into the folder of your own models."


def add_options(parser: argparse.ArgumentParser) -> None:
    """Adds what `run` reads."""
    parser.add_argument("remove", choices=["remove"], metavar="remove", help=argparse.SUPPRESS)
    parser.add_argument("name", metavar="NAME", help="of the model")


def run(options: argparse.Namespace) -> int:
    """Runs the command; returns the exit code."""
    from ..methods.installing import remove

    left = remove(options.name)
    print(f"Removed {options.name}." + (f" Other files stay in its folder: {', '.join(left)}." if left else ""))
    return 0
