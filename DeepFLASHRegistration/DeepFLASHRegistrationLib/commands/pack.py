# SPDX-License-Identifier: Apache-2.0
"""deepflash pack: images and labels of many subjects in one file to train on."""

from __future__ import annotations

import argparse
import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..support.errors import Cancelled, InputError
from .options import DATA, data_options, say_skipped

if TYPE_CHECKING:
    from ..problem.subject import Subject
    from ..training.dataset import Dataset, SubjectFiles
    from ..training.label_naming import Naming
    from ..training.pack import Pack
    from ..training.packing import Frame, Source

DESCRIPTION = (
    "Scale and align the images in DATA and write them, with their labels, on one grid to PACK, a file (.npz) that "
    f'"deepflash train" reads with PyTorch and NumPy alone. {DATA}'
)
_MAPS_ALONE = "the images in DATA are label maps, of which images of any contrast are made"


def add_options(parser: argparse.ArgumentParser) -> None:
    """Adds what `run` reads."""
    data_options(parser)
    parser.add_argument("-o", "--output", required=True, type=Path, metavar="PACK", help="file to write, .npz")
    parser.add_argument("--limit-mb", type=float, default=45.0, metavar="X", help="most megabytes (default: 45)")
    parser.add_argument(
        "--give-way",
        choices=("subjects", "resolution"),
        default="subjects",
        help="what gives way where the limit does not hold all (default: subjects)",
    )
    parser.add_argument("--name", help="of the set, as --mix calls it (default: that of PACK)")
    parser.add_argument(
        "--validation",
        default="0.1",
        metavar="WHO",
        help="subjects that are never trained on: a fraction, names separated by commas, or a text file with one name "
        "per line (default: 0.1)",
    )
    grid = parser.add_argument_group("grid")
    grid.add_argument("--spacing-mm", type=float, default=0.0, metavar="X", help="voxels (default: about the images')")
    grid.add_argument("--shape", metavar="N,N,N", help="voxels along z, y, x (default: what holds all)")
    grid.add_argument("--like", type=Path, metavar="PACK", help="the grid of another pack, to be mixed with it")
    labels = parser.add_argument_group("labels")
    labels.add_argument("--label-maps", action="store_true", help=_MAPS_ALONE)
    labels.add_argument(
        "--ignore-up-to", type=int, default=0, metavar="N", help="labels up to this number are no structures"
    )
    labels.add_argument(
        "--outside-from",
        type=int,
        default=0,
        metavar="N",
        help="labels from this number on lie around what is registered (a head around its brain)",
    )
    labels.add_argument(
        "--names",
        metavar="TABLE",
        help="names of labels (.csv: number, name), or freesurfer: left and right of one name look alike",
    )
    facts = parser.add_argument_group("what models that are trained on it say")
    for name in ("description", "license", "attribution"):
        facts.add_argument(f"--{name}", default="", metavar="TEXT")


def run(options: argparse.Namespace) -> int:
    """Runs the command; returns the exit code."""
    from ..imaging.files import atomic
    from ..training.dataset import chosen, read_dataset
    from ..training.packing import coarsened_to_limit, pack_subjects, within_limit

    frame, naming = _frame(options), _naming(options)
    if not 0 < options.limit_mb < 1e6:
        raise InputError(f"--limit-mb must be above 0, not {options.limit_mb:g}.")
    if options.output.suffix != ".npz":
        raise InputError(f"{options.output}: packs are .npz files. Name one.")
    dataset = read_dataset(options.data, skip_broken=options.skip_broken, voxels=False)
    say_skipped(dataset.skipped)
    unseen = [s.name for s in chosen(dataset, options.validation).subjects]
    _check_split(dataset, unseen)
    name = options.name or options.output.stem
    try:
        pack = pack_subjects(
            name,
            [_source(files, options.label_maps) for files in dataset.subjects],
            frame,
            spacing_mm=options.spacing_mm,
            naming=naming,
            maps_alone=options.label_maps,
            unseen=unseen,
            tell=lambda text: print(text, flush=True),
        )
    except KeyboardInterrupt as error:
        raise Cancelled("Nothing was written.") from error
    facts = {key: getattr(options, key) for key in ("description", "license", "attribution") if getattr(options, key)}
    pack = dataclasses.replace(pack, facts=facts)
    if options.give_way == "resolution":
        content, spacing = coarsened_to_limit(pack, options.limit_mb)
        dropped: tuple[str, ...] = ()
    else:
        content, dropped = within_limit(pack, options.limit_mb)
        spacing = pack.spacing_mm
    with atomic(options.output) as temporary:
        temporary.write_bytes(content)
    print(_summary(pack, content, spacing, dropped, options))
    return 0


def _summary(pack: Pack, content: bytes, spacing: float, dropped: tuple[str, ...], options: argparse.Namespace) -> str:
    kept = len(pack) - len(dropped)
    lines = [
        f"{options.output}: {kept} subjects, {len(pack.unseen)} of them to validate with, voxels of {spacing:.3g} mm, "
        f"{len(content) / 1e6:.1f} MB"
    ]
    if dropped:
        lines.append(f"{options.limit_mb:g} MB hold no more: without {', '.join(dropped)}")
    if spacing > pack.spacing_mm:
        lines.append(f"{options.limit_mb:g} MB hold all only at {spacing:.3g} mm instead of {pack.spacing_mm:.3g} mm")
    return "\n".join(lines)


def _source(files: SubjectFiles, maps_alone: bool) -> Source:
    from ..imaging.io import read_labels
    from ..problem.subject import Subject
    from ..training.packing import Source

    def read() -> Subject:
        if not maps_alone:
            return files.read()
        labels = read_labels(files.image)
        return Subject(labels.with_data(labels.data.astype("float32")), labels)

    return Source(files.name, read)


def _check_split(dataset: Dataset, unseen: list[str]) -> None:
    if len(dataset) - len(unseen) < 2:
        raise InputError(
            f"{dataset.path}: has {len(dataset)} images, of which {len(unseen)} are kept aside. Pairs to train on need "
            "two more: give more images, or --validation 0."
        )


def _frame(options: argparse.Namespace) -> Frame | None:
    from ..learning.feature_net import MULTIPLE
    from ..training.pack import read_pack
    from ..training.packing import Frame

    if options.like is not None:
        if options.shape or options.spacing_mm:
            raise InputError("--like says the grid: leave out --shape and --spacing-mm.")
        other = read_pack(options.like)
        return Frame(other.shape, other.spacing_mm)
    if not 0 <= options.spacing_mm < 1e3:
        raise InputError(f"--spacing-mm must be above 0, not {options.spacing_mm:g}.")
    if not options.shape:
        return None
    try:
        shape = tuple(int(n) for n in options.shape.split(","))
    except ValueError:
        shape = ()
    if len(shape) not in (2, 3) or any(n < MULTIPLE or n % MULTIPLE for n in shape):
        raise InputError(f"--shape {options.shape}: give multiples of {MULTIPLE}, one per axis, such as 128,160,128.")
    if not options.spacing_mm:
        raise InputError("--shape needs --spacing-mm: how large its voxels are.")
    return Frame(shape, options.spacing_mm)


def _naming(options: argparse.Namespace) -> Naming:
    from ..imaging.label_names import read_names
    from ..training.label_naming import FREESURFER_SIDES, Naming, sides

    alike: Any = {}
    if options.names == "freesurfer":
        alike = FREESURFER_SIDES
    elif options.names:
        alike = sides(read_names(Path(options.names)))
    return Naming(options.ignore_up_to, options.outside_from, alike)
