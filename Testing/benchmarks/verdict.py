# SPDX-License-Identifier: Apache-2.0
"""The verdict on results of which it is known how right they are: a table, and its confusion matrices.

Each case is registered on small arrays and judged twice: by the verdict, and by what the verdict does not see, the true
map or labels kept aside (`due` is the rule; docs/verdict.md has it in words). The limits were set on the first half of
the cases of every family; the second half says how good they are.

    python Testing/benchmarks/verdict.py [--data FOLDER] [--only WORDS] [--table FILE]

The table is kept as JSON; where it exists already its figures are judged again, by the limits as they are now.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import torch

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "DeepFLASHRegistration"), str(ROOT / "Testing" / "helpers")]

from DeepFLASHRegistrationLib.imaging.intensities import foreground
from DeepFLASHRegistrationLib.imaging.resampling import nearest
from DeepFLASHRegistrationLib.problem.parameters import Parameters
from DeepFLASHRegistrationLib.registration import metrics as m
from DeepFLASHRegistrationLib.registration.agreement import share
from DeepFLASHRegistrationLib.registration.maps import on_fixed_grid
from DeepFLASHRegistrationLib.registration.register import register
from DeepFLASHRegistrationLib.registration.verdict import verdict
from DeepFLASHRegistrationLib.registration.warping import warp_labels
from verdict_cases import Case, made, real

# As "fast", but no coarser than half of these small arrays.
QUICK = {"resolutions": (2, 1), "bands": (15, 31), "iterations": (7, 4)}
# Mean true error in parts of the object's edge; mean Dice.
RIGHT_ERROR, WRONG_ERROR = 0.05, 0.10
RIGHT_DICE, WRONG_DICE = 0.50, 0.35


def due(row: dict[str, Any]) -> str:
    """What a result is: "right", "wrong", or "between", where any verdict may stand."""
    if row["mismatched"]:
        return "wrong"
    if "error" in row:
        before, after = row["error_before"], row["error"]
        if after > WRONG_ERROR or after > max(1.25 * before, RIGHT_ERROR):
            return "wrong"
        return "right" if after <= RIGHT_ERROR and after <= 1.1 * before + 0.002 else "between"
    before, after = row["dice_before"], row["dice"]
    if after < WRONG_DICE or after < before - 0.05:
        return "wrong"
    return "right" if after >= RIGHT_DICE and after >= before - 0.005 else "between"


def judged(case: Case, result: Any) -> dict[str, float]:
    """How right a result is, by what the registration did not see."""
    fixed, found = case.fixed.image, {}
    grid, d = fixed.grid, fixed.ndim
    if case.truth is not None:
        points = m.grid_points(grid, foreground(fixed), 20_000)
        true = case.truth(points)
        seen = case.moving.image.grid.contains(true)
        points, true = points[seen], true[seen]
        size = result.metrics["object_mm"]
        after = m.point_errors(m.map_points(points, result.fixed_to_moving, result.field_grid), true)
        before = m.point_errors(points @ result.affine[:d, :d].T + result.affine[:d, d], true)
        found.update(error_before=before["mean"] / size, error=after["mean"] / size)
    if case.labels is not None:
        own, theirs = case.labels
        maps = on_fixed_grid(grid, {"fixed_to_moving": result.fixed_to_moving, "field_grid": result.field_grid})
        before = nearest(theirs, grid, result.affine)
        volumes = m.label_volumes(theirs.data, theirs.grid.voxel_volume)
        table = m.label_table(nearest(own, grid), before, warp_labels(theirs, grid, maps), grid.voxel_volume, volumes)
        found["dice_before"], found["dice"] = m.mean_dice(table)
    return found


def measured(case: Case) -> dict[str, Any]:
    """A row of the table."""
    parameters = Parameters.from_preset("fast", **{**QUICK, **case.parameters})
    result = register(case.fixed, case.moving, parameters, initial_affine=case.initial, threads=1)
    return {
        "family": case.family,
        "name": case.name,
        "mismatched": case.mismatched,
        **judged(case, result),
        "metrics": json.loads(json.dumps(result.metrics, default=float)),
    }


def matrix(rows: list[dict[str, Any]]) -> str:
    """How often each verdict was given to what is right, between and wrong."""
    counts = Counter((row["due"], row["verdict"]) for row in rows)
    levels = ("good", "check", "failed")
    lines = [f"{'':10}" + "".join(f"{level:>8}" for level in levels)]
    for is_ in ("right", "between", "wrong"):
        lines.append(f"{is_:10}" + "".join(f"{counts[is_, level]:8}" for level in levels))
    right = [row["verdict"] for row in rows if row["due"] == "right"]
    failed, check = (100 * right.count(level) / max(1, len(right)) for level in ("failed", "check"))
    lines.append(f"wrong good {counts['wrong', 'good']}, wrong failed {failed:.0f} %, right but check {check:.0f} %")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path(os.environ.get("DEEPFLASH_DATA", "data")))
    parser.add_argument("--only", default="", help="families whose name holds these words")
    parser.add_argument("--table", type=Path, help="JSON file of the figures: judged again where it exists, else made")
    options = parser.parse_args()
    torch.set_num_threads(1)  # small arrays gain nothing from more
    if options.table and options.table.exists():
        rows = json.loads(options.table.read_text())
    else:
        rows = []
        # Both kinds in turn, so that a run that was ended early holds some of each.
        every = [
            (k / len(kind), make) for kind in map(list, (made(), real(options.data))) for k, make in enumerate(kind)
        ]
        for _, make in sorted(every, key=lambda each: each[0]):
            if options.only not in make.args[0]:
                continue
            started = time.process_time()
            case = make()
            rows.append(measured(case))
            print(f"{case.family}: {case.name}, {time.process_time() - started:.1f} s", file=sys.stderr, flush=True)
            if options.table:
                options.table.write_text(json.dumps(rows))
    numbers: Counter[str] = Counter()
    for row in rows:
        agreement = row["metrics"]["agreement"]
        if agreement:
            pairs = (
                (agreement[a], agreement[b]) for a, b in (("reached", "information"), ("floor", "information_floor"))
            )
            agreement["share"] = share(*pairs)
        found = verdict(row["metrics"])
        row.update(
            due=due(row), verdict=found.level, reasons=[str(r) for r in found.reasons], half=numbers[row["family"]] % 2
        )
        numbers[row["family"]] += 1
    for row in sorted(rows, key=lambda r: (r["half"], r["family"])):
        known = {"right": row["verdict"] == "good", "wrong": row["verdict"] != "good"}.get(row["due"], True)
        agreement = row["metrics"]["agreement"]
        figures = [agreement.get(key, np.nan) for key in ("reached", "floor", "share")] + [row["metrics"]["overlap"]]
        truth = [row.get(key, np.nan) for key in ("error_before", "error", "dice_before", "dice")]
        print(
            f"{'' if known else '*':2}{row['half'] + 1} {row['family']:30}{row['name']:28}{row['due']:8}"
            f"{row['verdict']:7}" + "".join(f"{x:7.3f}" for x in [*truth, *figures])
        )
        if not known:
            print(f"     {' '.join(row['reasons'])}")
    for half, title in ((0, "The half on which the limits were set"), (1, "The other half")):
        print(f"\n{title}\n{matrix([row for row in rows if row['half'] == half])}")


if __name__ == "__main__":
    main()
