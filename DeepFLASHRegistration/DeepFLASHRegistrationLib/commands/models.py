# SPDX-License-Identifier: Apache-2.0
"""deepflash models | teach | train | evaluate. Torch is imported by what is run, not by the options."""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from ..problem.parameters import ALIGNMENTS, METHODS, PRESETS, Parameters
from ..support.errors import Cancelled, InputError
from .field_options import add_fields, from_options, given_fields

# Parameters that are no settings of a registration by FLASH, or have an option of another name.
_NOT_SETTINGS = ("preset", "initial_alignment", "method", "model", "refinement")
_DATA = (
    "DATA is a folder with images/ (and labels/, masks/ of the same file names), a folder of images (with x_labels, "
    "x_mask beside x), or a table (.csv) with the columns image, subject, labels, mask."
)


def add_commands(commands: Any) -> None:
    """Adds the commands to the subparsers of `deepflash`."""
    _models_options(
        commands.add_parser(
            "models",
            help="list trained models, or show one's card",
            description="List the trained models that --model knows by name, or show the card of one.",
        )
    )
    _teach_options(
        commands.add_parser(
            "teach",
            help="find velocities of many pairs by FLASH, to train on",
            description="Register pairs drawn from DATA by FLASH and keep their velocities in LABELS. Interrupted, the "
            f"same command goes on where it was. {_DATA}",
        )
    )
    # Its options come from a class that needs torch: they are made when the command is used, from all that follows it.
    train = commands.add_parser("train", help="train a model on images of your own", add_help=False, prefix_chars="\0")
    train.add_argument("rest", nargs="*")
    train.set_defaults(run=_train, traceback=False)
    _evaluate_options(
        commands.add_parser(
            "evaluate",
            help="measure a model on pairs with labels",
            description="Register pairs drawn from DATA by a model and by FLASH, and compare labels, folds and "
            f"seconds. {_DATA}",
        )
    )


def _data_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("data", metavar="DATA", type=Path, help="folder or table of images")
    parser.add_argument(
        "--skip-broken", action="store_true", help="leave out images that cannot be used instead of stopping"
    )
    parser.add_argument("--traceback", action="store_true", help="show where a failure happened")


def _seed_options(parser: argparse.ArgumentParser, pairs: int) -> None:
    parser.add_argument("--seed", type=int, default=0, help="decides which pairs are drawn (default: 0)")
    parser.add_argument(
        "--pairs", type=_positive, default=pairs, metavar="N", help=f"how many pairs (default: {pairs})"
    )


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1, not {value}")
    return value


# --------------------------------------------------------------------------------------------------------- models


def _models_options(parser: argparse.ArgumentParser) -> None:
    parser.set_defaults(run=_models)
    parser.add_argument("name", nargs="?", metavar="NAME", help="model whose card is shown: name or folder")
    parser.add_argument("--traceback", action="store_true", help=argparse.SUPPRESS)


def _models(options: argparse.Namespace) -> int:
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
        print(f"{entry.name}  {config.description} ({config.ndim}-D, {config.spacing_mm:g} mm, {where})")
        print(f"    license: {config.license}. {config.license_note}".rstrip())
        if config.held_out:
            print(f"    on unseen subjects: {', '.join(f'{k} {v}' for k, v in config.held_out.items())}")
        if entry.problem:
            print(f"    {entry.problem}")
    if not found:
        print("No models.")
    print(f"Your own models are looked for in {user_folder()}, which DEEPFLASH_MODELS changes.", file=sys.stderr)
    return 0


# ---------------------------------------------------------------------------------------------------------- teach


def _teach_options(parser: argparse.ArgumentParser) -> None:
    parser.set_defaults(run=_teach)
    _data_options(parser)
    parser.add_argument("-o", "--output", required=True, type=Path, metavar="LABELS", help="folder for the velocities")
    _seed_options(parser, 500)
    parser.add_argument(
        "--processes", type=_positive, metavar="N", help="registrations at a time, a core each (default: all cores)"
    )
    parser.add_argument("--device", default="cpu", help="cpu, cuda, cuda:1 or mps (default: cpu)")
    parser.add_argument("--preset", default="default", choices=PRESETS, help="default: default")
    parser.add_argument("--init", choices=ALIGNMENTS, help="linear alignment of each pair (default: the preset's)")
    add_fields(parser.add_argument_group("settings (default: the preset's)"), Parameters, _NOT_SETTINGS)


def _teach(options: argparse.Namespace) -> int:
    from ..training.dataset import read_dataset
    from ..training.teaching import teach

    changes = {k: v for k, v in given_fields(options, Parameters).items() if k not in _NOT_SETTINGS}
    if options.init:
        changes["initial_alignment"] = options.init
    parameters = _checked(lambda: Parameters.from_preset(options.preset, **changes))
    dataset = read_dataset(options.data, skip_broken=options.skip_broken)
    _say_skipped(dataset.skipped)
    complete = failed = 0

    def tell(taught: Any, done: int, total: int) -> None:
        nonlocal complete, failed
        complete, failed = complete + (not taught.problem), failed + bool(taught.problem)
        if taught.problem:
            print(f"[{done}/{total}] {taught.fixed} <- {taught.moving}: left out. {taught.problem}", flush=True)
        elif taught.seconds:
            before, after = taught.similarity
            print(
                f"[{done}/{total}] {taught.fixed} <- {taught.moving}: similarity {before:.3f} -> {after:.3f}, "
                f"{taught.seconds:.1f} s",
                flush=True,
            )

    try:
        teach(
            dataset,
            options.output,
            parameters,
            options.pairs,
            seed=options.seed,
            processes=options.processes or (_cores() if options.device == "cpu" else 1),
            device=options.device,
            tell=tell,
        )
    except KeyboardInterrupt as error:
        raise Cancelled(
            f"{complete} velocities are complete in {options.output}; run the same command to go on."
        ) from error
    print(f"{complete} velocities in {options.output}" + (f", {failed} pairs left out" if failed else ""))
    return 0 if complete else 1


def _cores() -> int:
    with contextlib.suppress(AttributeError):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


# ---------------------------------------------------------------------------------------------------------- train


def _train(options: argparse.Namespace) -> int:
    from ..registration.register import require_torch

    require_torch()
    from ..training.dataset import read_dataset, split
    from ..training.teaching import read_manifest
    from ..training.train import TrainingOptions, train

    parser = argparse.ArgumentParser(
        prog="deepflash train",
        description=f"Train a model on pairs of the images in DATA and write it to MODEL, a folder. {_DATA}",
    )
    _data_options(parser)
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
    try:
        parser.parse_args(options.rest, options)
    except SystemExit as end:  # argparse has said why
        return 2 if end.code else 0
    training_options = _checked(lambda: from_options(options, TrainingOptions))
    if options.labels is not None:
        read_manifest(options.labels)
    dataset = read_dataset(options.data, skip_broken=options.skip_broken)
    training, validation = split(dataset, options.validation)
    if os.environ.get("RANK", "0") == "0":  # of torch's launcher
        _say_skipped(dataset.skipped)
        print(f"{len(training)} images to train on, {len(validation)} of other subjects to validate with", flush=True)
    try:
        train(training, validation, options.output, training_options, options.labels, print)
    except KeyboardInterrupt as error:
        raise Cancelled(f"The last checkpoint is in {options.output}.") from error
    return 0


# ------------------------------------------------------------------------------------------------------- evaluate


def _evaluate_options(parser: argparse.ArgumentParser) -> None:
    parser.set_defaults(run=_evaluate)
    parser.add_argument("model", metavar="MODEL", help="name or folder of a model")
    _data_options(parser)
    _seed_options(parser, 16)
    parser.add_argument(
        "--subjects",
        metavar="WHO",
        help="only these: names separated by commas, a text file with one name per line, or the fraction given to "
        "deepflash train --validation",
    )
    parser.add_argument(
        "--methods", default=",".join(METHODS), metavar="NAME,…", help=f"of {', '.join(METHODS)} (default: all)"
    )
    parser.add_argument(
        "--preset", choices=PRESETS, help="settings of the method flash (default: those the model was trained for)"
    )
    parser.add_argument("--refinement", type=_positive, metavar="N", help="iterations of FLASH after the prediction")
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
    parser.add_argument("--threads", type=_positive, metavar="N", help="CPU threads (default: all)")


def _evaluate(options: argparse.Namespace) -> int:
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
    ignore = _checked(lambda: {int(x) for x in options.ignore.split(",") if x.strip()})
    if options.shift < 0:
        raise InputError("--shift must not be negative.")
    dataset = read_dataset(options.data, need_labels=True, skip_broken=options.skip_broken, voxels=False)
    _say_skipped(dataset.skipped)
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

    def tell(row: Any, done: int, total: int) -> None:
        by = f", moved by {row.shift}" if row.shift else ""
        what = f"[{done}/{total}] {row.fixed} <- {row.moving}, {row.method}{by}"
        if row.problem:
            print(f"{what}: left out. {row.problem}", flush=True)
        else:
            print(f"{what}: Dice {row.dice[0]:.4f} -> {row.dice[1]:.4f}, {row.figures['seconds']:.2f} s", flush=True)

    with _finished(rows, options.output, about):
        for row in evaluation.evaluate(
            draw_pairs(dataset, options.pairs, options.seed),
            methods,
            structures=structures,
            ignore=ignore,
            shift=options.shift,
            skip_broken=options.skip_broken,
            device=options.device,
            threads=options.threads,
            tell=tell,
        ):
            rows.append(row)
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
        if method not in METHODS:
            raise InputError(f"--methods: {method!r} is none of {', '.join(METHODS)}.")
        parameters, changes = model.config.parameters, {"method": method, "model": str(model.folder)}
        if method == "flash":
            changes["model"] = ""
            if options.preset:
                parameters = Parameters.from_preset(options.preset, initial_alignment=parameters.initial_alignment)
        if options.init:
            changes["initial_alignment"] = options.init
        if options.refinement:
            changes["refinement"] = options.refinement
        result[method] = dataclasses.replace(parameters, **changes)
    return result


# ---------------------------------------------------------------------------------------------------------- common


def _checked(make: Callable[[], Any]) -> Any:
    """What a function makes of options; a value it refuses is wrong input."""
    try:
        return make()
    except ValueError as error:
        raise InputError(str(error)) from error


def _say_skipped(skipped: tuple[str, ...]) -> None:
    if skipped:
        print(f"{len(skipped)} images were left out:", file=sys.stderr)
        for text in skipped:
            print(f"  {text}", file=sys.stderr)
