# SPDX-License-Identifier: Apache-2.0
"""deepflash models: the trained models there are. Installing, removing and converting are files of their own."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from types import ModuleType

DESCRIPTION = (
    "List the trained models that --model knows by name, or show the card of one. "
    '"deepflash models install SOURCE" installs one, "deepflash models remove NAME" removes it, "deepflash models '
    'convert FILE" makes one of published weights.'
)


def for_arguments(arguments: Sequence[str]) -> ModuleType:
    """The command for installing, removing or converting if that is asked for, else this one."""
    from . import models_convert, models_install, models_remove

    others = {"install": models_install, "remove": models_remove, "convert": models_convert}
    return others.get(arguments[0] if arguments else "", sys.modules[__name__])


def add_options(parser: argparse.ArgumentParser) -> None:
    """Adds what `run` reads."""
    parser.add_argument("name", nargs="?", metavar="NAME", help="model whose card is shown: name or folder")


def run(options: argparse.Namespace) -> int:
    """Runs the command; returns the exit code."""
    from ..methods.installing import record_of
    from ..methods.model_words import model_sentence
    from ..methods.trained_models import find_models, read_card, user_folder

    if options.name:
        print(read_card(options.name))
        return 0
    found = find_models()
    for entry in found:
        config = entry.config
        if config is None:
            print(f"{entry.name}  cannot be used: {entry.problem}")
            continue
        where = "bundled" if entry.bundled else "yours"
        print(f"{entry.name} ({where}, trained at {config.spacing_mm:g} mm)")
        print(f"    {model_sentence(config)}")
        record = record_of(entry.folder)
        if record:
            print(f"    Installed from {record.get('source')}, SHA-256 {record.get('sha256')}.")
        if entry.problem:
            print(f"    {entry.problem}")
    if not found:
        print("No models.")
    print(f"Your own models are looked for in {user_folder()}, which DEEPFLASH_MODELS changes.", file=sys.stderr)
    return 0
