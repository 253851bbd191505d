# SPDX-License-Identifier: Apache-2.0
"""deepflash train: a model from images of one's own."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType

from ..support.errors import Cancelled
from .field_options import add_fields, from_options
from .options import DATA, checked, data_options, say_how_to_install, say_skipped

DESCRIPTION = (
    f"Train a model on pairs of the images in DATA and write it to MODEL, a folder. {DATA} DATA may also be packs that "
    '"deepflash pack" wrote, which train other kinds of models, by --method, with options of their own: "deepflash '
    'train some.npz --help" tells them. With --method, images are packed first.'
)


def for_arguments(arguments: Sequence[str]) -> ModuleType:
    """The command for packs if packs are named, or a method that learns from packs, else this one."""
    options = {a.partition("=")[0] for a in arguments}
    if "--method" in options or any(a.endswith(".npz") for a in arguments if not a.startswith("-")):
        from . import train_packs

        return train_packs
    return sys.modules[__name__]


def add_options(parser: argparse.ArgumentParser) -> None:
    """Adds what `run` reads. Some of it comes from a class that needs torch."""
    from ..support.torch_device import require_torch

    require_torch()
    from ..training.train import TrainingOptions

    data_options(parser)
    parser.add_argument("-o", "--output", required=True, type=Path, metavar="MODEL", help="folder for the model")
    parser.add_argument("--labels", type=Path, metavar="LABELS", help='velocities that "deepflash teach" found')
    parser.add_argument(
        "--validation",
        default="0.1",
        metavar="WHO",
        help="unseen subjects that decide which weights are kept: a fraction, names separated by commas, or a text "
        "file with one name per line (default: 0.1)",
    )
    add_fields(parser.add_argument_group("training"), TrainingOptions, defaults=True)


def run(options: argparse.Namespace) -> int:
    """Runs the command; returns the exit code."""
    from ..training.dataset import read_dataset, split
    from ..training.teaching import read_manifest
    from ..training.train import TrainingOptions, train

    training_options = checked(lambda: from_options(options, TrainingOptions))
    if options.labels is not None:
        read_manifest(options.labels)
    dataset = read_dataset(options.data, skip_broken=options.skip_broken)
    training, validation = split(dataset, options.validation)
    if os.environ.get("RANK", "0") == "0":  # of torch's launcher
        say_skipped(dataset.skipped)
        print(f"{len(training)} images to train on, {len(validation)} of other subjects to validate with", flush=True)
    try:
        train(training, validation, options.output, training_options, options.labels, print)
    except KeyboardInterrupt as error:
        raise Cancelled(f"The last checkpoint is in {options.output}.") from error
    if os.environ.get("RANK", "0") == "0":
        say_how_to_install(options.output)
    return 0
