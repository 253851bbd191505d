# SPDX-License-Identifier: Apache-2.0
"""deepflash compare: the same pairs by several methods, measured alike."""

from __future__ import annotations

import argparse
import csv
import dataclasses
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..problem.parameters import ALIGNMENTS, SIMILARITIES
from ..support.errors import Cancelled, InputError
from .options import DATA, IMAGE, check_threads, checked, common_options, positive, say_skipped, seed_options

if TYPE_CHECKING:
    from ..cohorts.entrants import Entrant
    from ..cohorts.many import Settings
    from ..cohorts.pairs import Pairs
    from ..cohorts.properties import Examination
    from ..cohorts.structures import Structures
    from ..cohorts.variants import Variant
    from ..jobs.pool import Ended

_PAIRS = "pairs.csv"
_LABELS = ("fixed_labels", "moving_labels")
DESCRIPTION = (
    "Register the same pairs by several methods, each from the same alignment, and compare what they reach: "
    "comparison.html with tables, charts and pictures, comparison.csv and .json. WHAT is FIXED MOVING; a table of "
    "pairs, as deepflash register-many takes it; or DATA, of which pairs are drawn. " + DATA + " METHODS are presets "
    "(fast, default, fine), flash, lddmm, nephi, greedy, ants, deepflash:MODEL, deepflash+flash:MODEL, "
    "voxelmorph:MODEL, quicksilver:MODEL, icon:MODEL, gradicon:MODEL, constricon:MODEL, carl:MODEL, "
    "nephi-codes:MODEL, and flash:MODEL, which is flash by the settings that MODEL was trained for; each after an @ a "
    "preset (flash@fast), a setting (deepflash+flash:MODEL@refinement=3, flash@iterations=50x50x50), or geodesic for "
    "the geodesic nearest to a map (greedy@geodesic). Interrupted at whatever moment, the same command goes on."
)


def add_options(parser: argparse.ArgumentParser) -> None:
    """Adds what `run` reads."""
    parser.add_argument("what", metavar="WHAT", nargs="+", help=f"two images, each an {IMAGE}; or a table or folder")
    parser.add_argument("--methods", default="fast,default", metavar="NAME,…", help="default: fast,default")
    parser.add_argument("-o", "--output", required=True, type=Path, metavar="OUT", help="folder for all results")
    parser.add_argument("--force", action="store_true", help="replace results of other inputs or settings")
    parser.add_argument("--reference", metavar="NAME", help="the method that others are compared with (the first)")
    for name in _LABELS:
        parser.add_argument(f"--{name.replace('_', '-')}", metavar="FILE", help="of two images")
    parser.add_argument("--init", choices=ALIGNMENTS, default="affine", help="the alignment of all (default: affine)")
    parser.add_argument(
        "--similarity", choices=SIMILARITIES, default="lncc", help="of all but those by a model (default: lncc)"
    )
    parser.add_argument(
        "--subjects",
        metavar="WHO",
        help="of DATA only these: names separated by commas, a text file with one name per line, or the fraction given "
        "to deepflash train --validation",
    )
    parser.add_argument("--skip-broken", action="store_true", help="leave out images of DATA that cannot be used")
    _label_options(parser)
    parser.add_argument(
        "--shift",
        type=positive,
        metavar="N",
        help="also with both images moved by N voxels along each axis, which should change nothing",
    )
    parser.add_argument("--exchange", action="store_true", help="also with the moving image as the fixed one")
    parser.add_argument(
        "--properties",
        action="store_true",
        help="also measure by how far the maps fail to move along with the images (both by 4 voxels, by 10 mm, or "
        "turned by 20°, alike and differently), to be inverted by exchanging them, and not to fold; with the alignment "
        "and without: 16 registrations more of each pair by each method",
    )
    parser.add_argument(
        "--workers",
        type=positive,
        default=1,
        metavar="N",
        help="pairs at once (default: 1, whose seconds are those of a pair that has the computer to itself)",
    )
    parser.add_argument("--tries", type=positive, default=3, metavar="N", help="of a pair whose process dies")
    parser.add_argument("-q", "--quiet", action="store_true", help="no line for each registration")
    seed_options(parser, 16)
    common_options(parser)


def _label_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--names", type=Path, metavar="TABLE", help="names of labels (.csv: number, name); left and right are combined"
    )
    parser.add_argument(
        "--structures", metavar="NAME,…", help='only these, each of all labels whose names hold its words ("insula")'
    )
    parser.add_argument(
        "--ignore", default="", metavar="N,…", help="labels that are no structures and do not count in the mean"
    )


def run(options: argparse.Namespace) -> int:
    """Runs the command; returns the exit code."""
    from ..cohorts.comparison import Comparison
    from ..cohorts.comparison_page import NAMES, write_comparison
    from ..cohorts.entrants import entrant
    from ..cohorts.many import Settings
    from ..cohorts.statistics import wilcoxon

    wilcoxon(())  # whether SciPy is there is told before the work
    changes = {"initial_alignment": options.init, "similarity": options.similarity}
    names = [name.strip() for name in options.methods.split(",") if name.strip()]
    entrants = [entrant(name, changes) for name in dict.fromkeys(names)]
    if not entrants:
        raise InputError("--methods: names none.")
    reference = options.reference or entrants[0].name
    if reference not in [each.name for each in entrants]:
        raise InputError(f"--reference {reference}: is none of --methods {options.methods}.")
    check_threads(options)
    structures = _structures(options)
    _ready(entrants)
    pairs = _pairs(options)
    settings = Settings(device=options.device, threads=options.threads, workers=options.workers, tries=options.tries)
    for note in pairs.notes:
        print(f"Note: {note}", file=sys.stderr)
    comparisons = [
        Comparison(variant, entrants, options.output, settings, options.force) for variant in _variants(pairs, options)
    ]
    examination = _examination(pairs, entrants, settings, options) if options.properties else None
    about = {"data": list(options.what), "seed": options.seed, "subjects": options.subjects}
    told = _Telling(options.quiet)

    def write() -> str:
        examined = [] if examination is None else list(examination.found())
        return write_comparison(comparisons, reference, structures, about, examined)

    try:
        for comparison in comparisons:
            comparison.run(told.ended, told.progress)
        if examination is not None:
            examination.run(told.ended, told.progress)
    except KeyboardInterrupt as error:
        write()
        raise Cancelled(f"What is done is in {options.output}; run the same command to go on.") from error
    text = write()
    if not options.quiet:
        print(f"\n{text}\n{options.output / NAMES[0]}", flush=True)
    from .main import DONE, SOME_FAILED

    failed = any(each.state == "failed" for comparison in comparisons for each in comparison.measured())
    return SOME_FAILED if failed else DONE


def _structures(options: argparse.Namespace) -> Structures:
    """What counts among the labels."""
    from ..cohorts.structures import Structures
    from ..imaging.label_names import read_names, structures_of

    ignored = checked(lambda: frozenset(int(x) for x in options.ignore.split(",") if x.strip()))
    if options.names is None:
        if options.structures:
            raise InputError("--structures needs the names of the labels: add --names TABLE.")
        return Structures(None, ignored)
    wanted = [name.strip() for name in (options.structures or "").split(",") if name.strip()]
    return Structures(structures_of(read_names(options.names), wanted), ignored)


def _variants(pairs: Pairs, options: argparse.Namespace) -> Iterator[Variant]:
    """The pairs as they are, and as they are to be seen besides."""
    from ..cohorts.variants import Variant, exchanged, moved

    yield Variant(pairs)
    if options.shift:
        yield moved(pairs, options.shift, options.output, _left_out)
    if options.exchange:
        yield exchanged(pairs)


def _examination(pairs: Pairs, entrants: list[Entrant], settings: Settings, options: argparse.Namespace) -> Examination:
    """What measures properties, of pairs that are written for it."""
    from ..cohorts.motions import moved_pairs
    from ..cohorts.properties import FOLDER, Examination

    moved = moved_pairs(pairs, options.output / FOLDER / "images", _left_out)
    return Examination(pairs, moved, entrants, options.output, settings, options.force)


def _left_out(pair: str, why: str) -> None:
    print(f"Note: {pair} is not moved: {why}", file=sys.stderr)


def _ready(entrants: Any) -> None:
    """InputError if a method lacks what it needs, before the work."""
    from ..methods.choosing import is_open
    from ..methods.peers import peers_python
    from ..methods.trained_models import load_model
    from ..problem.parameters import METHODS

    for each in entrants:
        if METHODS[each.parameters.method].needs_model and not is_open(each.parameters):
            load_model(each.parameters.model)
        if METHODS[each.parameters.method].peer:
            peers_python()


def _pairs(options: argparse.Namespace) -> Pairs:
    """What is compared, as a table of pairs; one that has to be written lies in the folder of results."""
    from ..cohorts.pairs import read_pairs
    from ..support.tables import read_table

    what = [Path(text) for text in options.what]
    labels = {name: getattr(options, name) for name in _LABELS if getattr(options, name)}
    if len(what) > 2:
        raise InputError("Give two images, or one table or folder.")
    if len(what) == 2:
        return _written(options.output, [{"fixed": what[0], "moving": what[1], **labels, "output": "pair"}])
    if labels:
        raise InputError("--fixed-labels and --moving-labels are those of two images; a table has columns for them.")
    if what[0].is_file():
        titles = {title.lower() for title in read_table(what[0]).titles}
        if {"fixed", "moving"} <= titles:
            return read_pairs(what[0], options.output)
    return _written(options.output, _drawn(what[0], options))


def _drawn(data: Path, options: argparse.Namespace) -> list[dict[str, Any]]:
    """Pairs of different subjects of a data set."""
    from ..training.dataset import chosen, draw_pairs, read_dataset

    dataset = read_dataset(data, skip_broken=options.skip_broken, voxels=False)
    say_skipped(dataset.skipped)
    if options.subjects is not None:
        dataset = chosen(dataset, options.subjects)
    rows = []
    for fixed, moving in draw_pairs(dataset, options.pairs, options.seed):
        row = {"fixed": fixed.image, "moving": moving.image, "output": f"{moving.name}_to_{fixed.name}"}
        row |= {"fixed_labels": fixed.labels, "moving_labels": moving.labels}
        row |= {"fixed_mask": fixed.mask, "moving_mask": moving.mask}
        rows.append({key: value for key, value in row.items() if value is not None})
    if not rows:
        raise InputError(f"{data}: has no two subjects to make a pair of.")
    return rows


def _written(out: Path, rows: list[dict[str, Any]]) -> Pairs:
    from ..cohorts.pairs import COLUMNS, read_pairs
    from ..imaging.files import atomic
    from ..imaging.io import selection

    for row in rows:
        for name, value in row.items():
            if name != "output":
                row[name] = str(Path(value).absolute())
                if not selection(row[name])[0].exists():
                    raise InputError(f"{value}: there is no such file or folder.")
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{out}: cannot be made ({error.strerror}). Choose another folder.") from error
    columns = [name for name in COLUMNS if any(name in row for row in rows)]
    with atomic(out / _PAIRS) as temporary, open(temporary, "w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, columns)
        writer.writeheader()
        writer.writerows(rows)
    return dataclasses.replace(read_pairs(out / _PAIRS, out / "results"))


class _Telling:
    """A line for each registration; notes and failures on standard error, each once."""

    def __init__(self, quiet: bool):
        self.quiet, self.noted = quiet, set()

    def progress(self, method: str, pair: str, event: Mapping[str, Any]) -> None:
        for note in event.get("notes", ()):
            if note not in self.noted:
                self.noted.add(note)
                print(f"Note: {pair}: {note}", file=sys.stderr, flush=True)

    def ended(self, method: str, end: Ended) -> None:
        from ..jobs.ledger import Done

        result = end.result
        if not isinstance(result, Done):
            print(f"{method}, {end.job.name}: no result. {result.message}", file=sys.stderr, flush=True)
        elif not self.quiet:
            value = result.value if isinstance(result.value, Mapping) else {}
            dice = (value.get("dice") or (None, None))[1]
            text = "" if dice is None else f"Dice {dice:.4f}, "
            print(f"{method}, {end.job.name}: {text}{value.get('seconds', 0.0):.1f} s", flush=True)
