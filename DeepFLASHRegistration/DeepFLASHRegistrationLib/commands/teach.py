# SPDX-License-Identifier: Apache-2.0
"""deepflash teach: velocities by FLASH, or momenta by LDDMM, to train on."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from ..problem.parameters import ALIGNMENTS, PRESETS, Parameters
from ..support.errors import Cancelled, InputError
from ..support.processors import cores
from .field_options import add_fields, given_fields
from .options import DATA, checked, data_options, positive, say_skipped, seed_options

# Parameters that are no settings of a registration by FLASH, or have an option of another name.
_NOT_SETTINGS = ("preset", "initial_alignment", "method", "model", "refinement")


DESCRIPTION = (
    "Register pairs drawn from DATA by FLASH and keep their velocities in LABELS. Interrupted, the "
    f"same command goes on where it was. {DATA} DATA may also be a pack (.npz), of whose pairs LDDMM's momenta are "
    "found (--method lddmm), from which Quicksilver learns."
)
_METHODS = ("flash", "lddmm")


def add_options(parser: argparse.ArgumentParser) -> None:
    """Adds what `run` reads."""
    data_options(parser)
    parser.add_argument("-o", "--output", required=True, type=Path, metavar="LABELS", help="folder for the velocities")
    seed_options(parser, 500)
    parser.add_argument(
        "--processes", type=positive, metavar="N", help="registrations at a time, a core each (default: all cores)"
    )
    parser.add_argument("--device", default="cpu", help="cpu, cuda, cuda:1 or mps (default: cpu)")
    parser.add_argument(
        "--recipe",
        default="",
        metavar="NAME",
        help="of a dual net to be trained: FLASH works with its settings, in the pose of the mean of all images",
    )
    parser.add_argument("--method", default=_METHODS[0], choices=_METHODS, help="that finds them (default: flash)")
    parser.add_argument("--preset", default="default", choices=PRESETS, help="default: default")
    parser.add_argument("--init", choices=ALIGNMENTS, help="linear alignment of each pair (default: the preset's)")
    add_fields(parser.add_argument_group("settings (default: the preset's)"), Parameters, _NOT_SETTINGS)


def run(options: argparse.Namespace) -> int:
    """Runs the command; returns the exit code."""
    from ..training.dataset import read_dataset
    from ..training.teaching import teach

    changes = {k: v for k, v in given_fields(options, Parameters).items() if k not in _NOT_SETTINGS}
    if options.init:
        changes["initial_alignment"] = options.init
    parameters = checked(lambda: Parameters.from_preset(options.preset, **changes))
    of_pack = options.data.suffix == ".npz"
    if of_pack != (options.method == "lddmm"):
        raise InputError(
            "LDDMM's momenta are found of a pack, which \"deepflash pack\" makes of DATA; FLASH's velocities of DATA. "
            "Give --method lddmm with a pack, and only then."
        )
    if of_pack:
        return _momenta(options, changes)
    recipe = None
    if options.recipe:
        from ..training.posed import POSED_RECIPES

        if options.recipe not in POSED_RECIPES:
            raise InputError(
                f"There is no recipe {options.recipe!r} of a dual net. Known are: {', '.join(POSED_RECIPES)}."
            )
        if changes or options.preset != "default":
            raise InputError("A recipe states all settings of FLASH. Leave out the others, or the recipe.")
        recipe = POSED_RECIPES[options.recipe]
    dataset = read_dataset(options.data, skip_broken=options.skip_broken)
    say_skipped(dataset.skipped)
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
            recipe or parameters,
            options.pairs,
            seed=options.seed,
            processes=options.processes or (cores() if options.device == "cpu" else 1),
            device=options.device,
            tell=tell,
        )
    except KeyboardInterrupt as error:
        raise Cancelled(
            f"{complete} velocities are complete in {options.output}; run the same command to go on."
        ) from error
    print(f"{complete} velocities in {options.output}" + (f", {failed} pairs left out" if failed else ""))
    return 0 if complete else 1


def _momenta(options: argparse.Namespace, changes: dict[str, Any]) -> int:
    from ..training.learned import registrations
    from ..training.momenta import teach_momenta
    from ..training.pack import read_pack

    if options.recipe or options.processes or options.init:
        raise InputError("--recipe, --processes and --init are for FLASH on DATA. Leave them out.")
    pack = read_pack(options.data)
    parameters = checked(lambda: registrations([pack], preset=options.preset, **changes))

    def tell(text: str) -> None:
        print(text, flush=True)

    try:
        teach_momenta(
            pack, options.output, parameters, options.pairs, seed=options.seed, device=options.device, tell=tell
        )
    except KeyboardInterrupt as error:
        raise Cancelled(f"What is complete is in {options.output}; run the same command to go on.") from error
    return 0
