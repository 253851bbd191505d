# SPDX-License-Identifier: Apache-2.0
"""deepflash train with packs: a model that predicts in one pass, or one of another method."""

from __future__ import annotations

import argparse
from pathlib import Path

from ..support.errors import Cancelled, InputError
from .field_options import add_fields, from_options
from .options import DATA, checked, say_how_to_install

DESCRIPTION = (
    'Train a model on packs, which "deepflash pack" wrote, and write it to MODEL, a folder: one that predicts in one '
    "pass, or one of another method. A GPU pays. The same command goes on where an earlier one was interrupted. PACK "
    f"may also be DATA, which is packed first, as it is by default, beside MODEL (with --method). {DATA}"
)


def add_options(parser: argparse.ArgumentParser) -> None:
    """Adds what `run` reads. Some of it comes from a class that needs torch."""
    from ..support.torch_device import require_torch

    require_torch()
    from ..training.train_on_packs import PackOptions

    parser.add_argument("packs", metavar="PACK", type=Path, nargs="+", help="packs, .npz, or DATA")
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
    parser.add_argument(
        "--validation", metavar="WHO", help="of DATA who is kept aside: see deepflash pack --help (default: 0.1)"
    )
    parser.add_argument(
        "--skip-broken", action="store_true", help="leave out images of DATA that cannot be used instead of stopping"
    )
    add_fields(parser.add_argument_group("training"), PackOptions, defaults=True)


def run(options: argparse.Namespace) -> int:
    """Runs the command; returns the exit code."""
    from ..training.pack import read_pack
    from ..training.train_on_packs import PackOptions, read_mix, train_on_packs

    training, mix = checked(lambda: from_options(options, PackOptions)), read_mix(options.mix)
    if options.validation is not None and all(path.suffix == ".npz" for path in options.packs):
        raise InputError("--validation: packs say who is kept aside. Leave it out, or give it to deepflash pack.")
    packs = [read_pack(_packed(path, options)) for path in options.packs]

    def tell(text: str) -> None:
        print(text, flush=True)

    try:
        train_on_packs(packs, mix, options.output, training, options.resume, options.labels, tell)
    except KeyboardInterrupt as error:
        raise Cancelled(f"The last checkpoint is in {options.output}.") from error
    say_how_to_install(options.output)
    return 0


def _packed(path: Path, options: argparse.Namespace) -> Path:
    """The pack that a path names, or that of the images there, which is made unless it is there and newer than they."""
    if path.suffix == ".npz":
        return path
    from ..training.dataset import read_dataset
    from . import pack

    dataset = read_dataset(path, skip_broken=options.skip_broken, voxels=False)
    name = path.resolve().name.partition(".")[0]
    found = options.output.with_name(f"{options.output.name}-{name}.npz")
    files = [file for each in dataset.subjects for file in (each.image, each.labels, each.mask) if file is not None]
    files += [path] if path.is_file() else []
    if found.exists() and found.stat().st_mtime > max(Path(file).stat().st_mtime for file in files):
        print(f"Of {found}, where {path} was packed before; remove it to pack anew.", flush=True)
        return found
    found.parent.mkdir(parents=True, exist_ok=True)
    parser = argparse.ArgumentParser()
    pack.add_options(parser)
    # Nothing has to be carried anywhere.
    how = ["--limit-mb", "100000", "--name", name]
    how += ["--validation", options.validation] if options.validation is not None else []
    how += ["--skip-broken"] if options.skip_broken else []
    pack.run(parser.parse_args([str(path), "-o", str(found), *how]))
    return found
