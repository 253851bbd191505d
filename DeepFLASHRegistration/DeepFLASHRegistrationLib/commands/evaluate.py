# SPDX-License-Identifier: Apache-2.0
"""deepflash evaluate: a model measured on pairs with labels."""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ..problem.parameters import ALIGNMENTS, METHODS, PRESETS, Parameters
from ..support.errors import Cancelled, InputError
from .options import DATA, checked, data_options, positive, say_skipped, seed_options

_METHODS = [name for name, method in METHODS.items() if not method.fitted]
DESCRIPTION = f"Register pairs drawn from DATA by a model and by FLASH, and compare labels, folds and seconds. {DATA}"


def add_options(parser: argparse.ArgumentParser) -> None:
    """Adds what `run` reads."""
    parser.add_argument("model", metavar="MODEL", help="name or folder of a model")
    data_options(parser)
    seed_options(parser, 16)
    parser.add_argument(
        "--subjects",
        metavar="WHO",
        help="only these: names separated by commas, a text file with one name per line, or the fraction given to "
        "deepflash train --validation",
    )
    parser.add_argument(
        "--methods", default=",".join(_METHODS), metavar="NAME,…", help=f"of {', '.join(_METHODS)} (default: all)"
    )
    parser.add_argument(
        "--preset", choices=PRESETS, help="settings of the method flash (default: those the model was trained for)"
    )
    parser.add_argument("--refinement", type=positive, metavar="N", help="iterations of FLASH after the prediction")
    parser.add_argument("--init", choices=ALIGNMENTS, help="linear alignment of each pair (default: the model's)")
    parser.add_argument(
        "--names", type=Path, metavar="TABLE", help="names of labels (.csv: number, name); left and right are combined"
    )
    parser.add_argument(
        "--structures", metavar="NAME,…", help='only these, each of all labels whose names hold its words ("insula")'
    )
    parser.add_argument(
        "--ignore", default="", metavar="N,…", help="labels that are no structures and do not count in the mean"
    )
    parser.add_argument(
        "--shift", type=int, default=0, metavar="N", help="also with both images moved by N voxels along each axis"
    )
    parser.add_argument("-o", "--output", type=Path, metavar="TABLE", help="write all figures to a .csv or .json file")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1 or mps (default: auto)")
    parser.add_argument("--threads", type=positive, metavar="N", help="CPU threads (default: all)")


def run(options: argparse.Namespace) -> int:
    """Runs the command; returns the exit code."""
    from ..methods.trained_models import load_model
    from ..training import evaluation
    from ..training.dataset import draw_pairs, read_dataset

    if options.output is not None:
        evaluation.check_table(options.output)
    model = load_model(options.model)
    methods = _methods(options, model)
    structures = None
    if options.names is not None:
        wanted = [name.strip() for name in (options.structures or "").split(",") if name.strip()]
        structures = evaluation.structures_of(evaluation.read_names(options.names), wanted)
    elif options.structures:
        raise InputError("--structures needs the names of the labels: add --names TABLE.")
    ignore = checked(lambda: {int(x) for x in options.ignore.split(",") if x.strip()})
    if options.shift < 0:
        raise InputError("--shift must not be negative.")
    dataset = read_dataset(options.data, need_labels=True, skip_broken=options.skip_broken, voxels=False)
    say_skipped(dataset.skipped)
    if options.subjects is not None:
        from ..training.dataset import chosen

        dataset = chosen(dataset, options.subjects)
    rows: list[Any] = []
    about = {
        "model": model.config.name,
        "checksum": model.checksum,
        "data": str(options.data),
        "seed": options.seed,
        "parameters": {name: parameters.to_dict() for name, parameters in methods.items()},
    }

    pairs = draw_pairs(dataset, options.pairs, options.seed)
    total = len(pairs) * len(methods) * (2 if options.shift else 1)

    def tell(row: Any) -> None:
        by = f", moved by {row.shift}" if row.shift else ""
        what = f"[{len(rows)}/{total}] {row.fixed} <- {row.moving}, {row.method}{by}"
        if row.problem:
            print(f"{what}: left out. {row.problem}", flush=True)
        else:
            print(f"{what}: Dice {row.dice[0]:.4f} -> {row.dice[1]:.4f}, {row.figures['seconds']:.2f} s", flush=True)

    with _finished(rows, options.output, about):
        for row in evaluation.evaluate(
            pairs,
            methods,
            structures=structures,
            ignore=ignore,
            shift=options.shift,
            skip_broken=options.skip_broken,
            device=options.device,
            threads=options.threads,
        ):
            rows.append(row)
            tell(row)
            if options.output is not None:
                evaluation.write_table(options.output, rows, about)
    return 0 if any(not row.problem for row in rows) else 1


@contextlib.contextmanager
def _finished(rows: list[Any], output: Path | None, about: dict[str, Any]) -> Iterator[None]:
    """Prints the tables of what there is in the end, also after an interrupt."""
    from ..training.evaluation import as_text, summarize

    try:
        yield
    except KeyboardInterrupt as error:
        if rows:
            print(f"\n{as_text(summarize(rows))}", flush=True)
        kept = f"; the table is in {output}" if output is not None and rows else ""
        raise Cancelled(f"{len(rows)} registrations were measured{kept}.") from error
    print(f"\n{as_text(summarize(rows))}")


def _methods(options: argparse.Namespace, model: Any) -> dict[str, Parameters]:
    """The settings of each method that is to be evaluated."""
    result = {}
    for method in dict.fromkeys(options.methods.split(",")):
        if method not in _METHODS:
            raise InputError(f"--methods: {method!r} is none of {', '.join(_METHODS)}.")
        parameters, changes = model.config.parameters, {"method": method, "model": str(model.folder)}
        if not METHODS[method].needs_model:
            changes["model"] = ""
            if options.preset:
                parameters = Parameters.from_preset(options.preset, initial_alignment=parameters.initial_alignment)
        if options.init:
            changes["initial_alignment"] = options.init
        if options.refinement:
            changes["refinement"] = options.refinement
        result[method] = dataclasses.replace(parameters, **changes)
    return result
