# SPDX-License-Identifier: Apache-2.0
"""How well methods register pairs with labels: Dice, folds and seconds, by the same register() that users call."""

from __future__ import annotations

import csv
import dataclasses
import difflib
import json
import re
import statistics
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ..imaging.files import atomic
from ..imaging.grid import Grid
from ..imaging.volume import Volume
from ..problem.parameters import METHODS, Parameters
from ..problem.subject import Subject
from ..results.plain import plain
from ..support.errors import InputError
from .dataset import SubjectFiles

_SIDES = {"left", "right", "lh", "rh", "l", "r"}


@dataclass(frozen=True)
class Row:
    """One pair registered by one method.

    Attributes:
        fixed, moving: names of the images.
        method: of `Parameters`.
        shift: voxels by which both images were moved.
        dice: mean Dice over labels, after the alignment alone and in the end.
        structures: the same of each structure that both images have.
        figures: of the registration: similarity, determinants, folds by both measures, seconds in all and without the
            reading, the alignment and the maps.
        verdict: good, check or failed.
        problem: why there is no result, if there is none.
    """

    fixed: str
    moving: str
    method: str
    shift: int
    dice: tuple[float, float] = (float("nan"), float("nan"))
    structures: dict[str, tuple[float, float]] = field(default_factory=dict)
    figures: dict[str, float] = field(default_factory=dict)
    verdict: str = ""
    problem: str = ""


def evaluate(
    pairs: Sequence[tuple[SubjectFiles, SubjectFiles]],
    methods: Mapping[str, Parameters],
    *,
    structures: Mapping[str, Collection[int]] | None = None,
    ignore: Collection[int] = (),
    shift: int = 0,
    skip_broken: bool = False,
    device: str = "auto",
    threads: int | None = None,
) -> Iterator[Row]:
    """Registers pairs by every method.

    Args:
        pairs: (fixed, moving), with labels.
        methods: settings by the method's name.
        structures: {name: labels}, each set of labels as one structure; every label is its own by default.
        ignore: labels that do not count in the mean.
        shift: if not 0, every registration is repeated with both images moved by as many voxels.
        skip_broken: go on after a pair that cannot be read or registered.
        device, threads: see register().

    Yields:
        Row.

    Raises:
        InputError: a pair cannot be read or registered, and ``skip_broken`` is not set.
    """
    shifts = (0, shift) if shift else (0,)
    # The first use of a method reads its model and warms up; it must not count.
    warm = set()
    for fixed, moving in pairs:
        try:
            sides: tuple[Subject, ...] | None = (fixed.read(), moving.read())
            problem = ""
        except InputError as error:
            if not skip_broken:
                raise
            sides, problem = None, str(error)
        for by in shifts:
            for method, parameters in methods.items():
                row = Row(fixed.name, moving.name, method, by, problem=problem)
                if sides is not None:
                    shifted = sides if by == 0 else tuple(moved(side, by) for side in sides)
                    try:
                        if method not in warm and METHODS[parameters.method].needs_model:
                            _registered(row, *shifted, parameters, structures, ignore, device, threads)
                        row = _registered(row, *shifted, parameters, structures, ignore, device, threads)
                        warm.add(method)
                    except InputError as error:
                        if not skip_broken:
                            raise
                        row = dataclasses.replace(row, problem=str(error))
                yield row


def moved(subject: Subject, shift: int) -> Subject:
    """The subject with all it shows moved by ``shift`` voxels along each axis; the border's values fill what is new,
    and nothing is lost: the grid grows at its end."""

    def move(volume: Volume, mode: str) -> Volume:
        grid = Grid(tuple(n + shift for n in volume.grid.shape), volume.grid.affine)
        return dataclasses.replace(volume, grid=grid, data=np.pad(volume.data, (shift, 0), mode=mode))

    if shift < 1:
        raise ValueError("Images are moved by at least one voxel.")
    return dataclasses.replace(
        subject,
        images=tuple(move(each, "edge") for each in subject.images),
        labels=tuple(move(each, "constant") for each in subject.labels),
        mask=None if subject.mask is None else move(subject.mask, "edge"),
        landmarks=None,
    )


def _registered(
    row: Row,
    fixed: Subject,
    moving: Subject,
    parameters: Parameters,
    structures: Mapping[str, Collection[int]] | None,
    ignore: Collection[int],
    device: str,
    threads: int | None,
) -> Row:
    from ..registration.metrics import label_table, label_volumes, mean_dice
    from ..registration.register import register

    result = register(fixed, moving, parameters, device=device, threads=threads)
    found, seconds = result.metrics, result.timings
    table = {label: line for label, line in found["dice"].items() if label not in ignore}
    if structures is None:
        parts = {str(label): line for label, line in table.items()}
    else:
        names = list(structures)
        own = _on_fixed(fixed.label_map, result.fixed_grid)
        # Left and right, or many labels that make a structure, are compared as one.
        merged = [_merged(x, structures.values()) for x in (own, result.labels_before.data, result.labels.data)]
        volumes = label_volumes(_merged(moving.label_map.data, structures.values()), moving.label_map.grid.voxel_volume)
        lines = label_table(*merged, result.fixed_grid.voxel_volume, volumes)
        parts = {names[number - 1]: line for number, line in lines.items()}
    return dataclasses.replace(
        row,
        dice=mean_dice(table),
        structures={k: (v["before"], v["after"]) for k, v in parts.items() if v["after"] is not None},
        figures={
            "similarity_before": found["similarity_before"],
            "similarity_after": found["similarity_after"],
            "folds": found["folds"]["count"],
            "folds_strict": found["folds_strict"]["count"],
            "smallest_determinant": found["smallest_determinant"],
            "sd_log_determinant": found["sd_log_determinant"],
            "seconds": seconds["total"],
            "seconds_velocity": seconds["total"] - sum(seconds.get(k, 0) for k in ("prepare", "affine", "finish")),
        },
        verdict=result.verdict.level,
    )


def _on_fixed(labels: Volume, grid: Grid) -> np.ndarray:
    from ..imaging.resampling import nearest

    return nearest(labels, grid)


def _merged(labels: np.ndarray, groups: Collection[Collection[int]]) -> np.ndarray:
    """Each group's labels as 1, 2, …; all others 0."""
    result = np.zeros(labels.shape, dtype=np.int32)
    for number, group in enumerate(groups, 1):
        result[np.isin(labels, list(group))] = number
    return result


# ------------------------------------------------------------------------------------------------------ structures


def read_names(path: Path) -> dict[int, str]:
    """Names of labels from a table whose first two columns are number and name.

    Raises:
        InputError: there is none in it.
    """
    try:
        text = Path(path).read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: cannot be read as a table ({error}). Save it as CSV in UTF-8.") from error
    first = text.partition("\n")[0]
    names = {}
    try:
        rows = list(csv.reader(text.splitlines(), delimiter=max(",;\t", key=first.count)))
    except csv.Error as error:
        raise InputError(f"{path}: cannot be read as a table ({error}). Save it as CSV in UTF-8.") from error
    for row in rows:
        if len(row) >= 2 and re.fullmatch(r"-?[0-9]{1,10}", row[0].strip()) and row[1].strip():
            names[int(row[0])] = " ".join(row[1].split())
    if not names:
        raise InputError(f"{path}: names no label. Its first two columns must be a number and a name.")
    return names


def structures_of(names: Mapping[int, str], wanted: Sequence[str] = ()) -> dict[str, set[int]]:
    """Labels by structure, left and right together.

    Args:
        names: of labels.
        wanted: structures, each of all labels whose names hold its words in this order ("insula": the anterior and the
            posterior insula, left and right); all by default, each by its name.

    Raises:
        InputError: no name holds the words.
    """
    plain = {label: _without_side(name) for label, name in names.items()}
    if not wanted:
        groups: dict[str, set[int]] = {}
        for label, name in plain.items():
            groups.setdefault(name, set()).add(label)
        return groups
    groups = {}
    for structure in wanted:
        words = f" {_without_side(structure)} "
        groups[structure] = {label for label, name in plain.items() if words in f" {name} "}
        if not groups[structure]:
            close = difflib.get_close_matches(words.strip(), set(plain.values()), 3, 0.5)
            meant = f" Similar: {', '.join(close)}." if close else ""
            raise InputError(f"There is no structure {structure!r} among the names of labels.{meant}")
    return groups


def _without_side(name: str) -> str:
    return " ".join(word for word in re.findall(r"[^\s_,.-]+", name.lower()) if word not in _SIDES)


# -------------------------------------------------------------------------------------------------------- summary


def summarize(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """A line for each method (and shift): number of pairs, mean and standard deviation of Dice, share of FLASH's gain,
    folded voxels, seconds (median), and Dice of each structure.

    The share is that of the mean gains, over the pairs that both methods registered; its spread that of the pairs'.
    """
    found = [r for r in rows if not r.problem and np.isfinite(r.dice).all()]
    lines = []
    for method, shift in dict.fromkeys((r.method, r.shift) for r in rows):
        mine = [r for r in found if (r.method, r.shift) == (method, shift)]
        line: dict[str, Any] = {
            "method": method,
            "shift": shift,
            "pairs": len(mine),
            "left_out": sum((r.method, r.shift) == (method, shift) for r in rows) - len(mine),
        }
        if mine:
            line["dice_before"], line["dice"] = (_spread([r.dice[k] for r in mine]) for k in (0, 1))
            line["share_of_gain"] = _share(mine, [r for r in found if (r.method, r.shift) == ("flash", shift)])
            line["folds"] = sum(r.figures["folds"] for r in mine)
            line["folds_strict"] = sum(r.figures["folds_strict"] for r in mine)
            line["smallest_determinant"] = min(r.figures["smallest_determinant"] for r in mine)
            line["sd_log_determinant"] = statistics.fmean(r.figures["sd_log_determinant"] for r in mine)
            for key in ("seconds", "seconds_velocity"):
                line[key] = statistics.median(r.figures[key] for r in mine)
            names = dict.fromkeys(name for r in mine for name in r.structures)
            line["structures"] = {
                name: [_spread([r.structures[name][k] for r in mine if name in r.structures]) for k in (0, 1)]
                for name in names
            }
        lines.append(line)
    return lines


def _spread(values: Sequence[float]) -> tuple[float, float]:
    """Mean and standard deviation."""
    return statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else 0.0


def _share(rows: Sequence[Row], flash: Sequence[Row]) -> tuple[float, float] | None:
    gains = {(r.fixed, r.moving): r.dice[1] - r.dice[0] for r in flash}
    both = [(r.dice[1] - r.dice[0], gains[r.fixed, r.moving]) for r in rows if (r.fixed, r.moving) in gains]
    if not both or sum(b for _, b in both) <= 0:
        return None
    return sum(a for a, _ in both) / sum(b for _, b in both), _spread([a / b for a, b in both if b > 0])[1]


def as_text(summary: Sequence[Mapping[str, Any]]) -> str:
    """The summary as tables to read."""
    lines = [["", "pairs", "Dice", "of FLASH's gain", "folds", "strict", "s", "s without rest"]]
    full = [line for line in summary if line["pairs"]]
    if full:
        lines.append(["alignment alone", str(full[0]["pairs"]), _pm(full[0]["dice_before"]), *[""] * 5])
    for line in full:
        share = line["share_of_gain"]
        lines.append(
            [
                _title(line),
                str(line["pairs"]),
                _pm(line["dice"]),
                "" if share is None else f"{100 * share[0]:.1f} %",
                str(line["folds"]),
                str(line["folds_strict"]),
                f"{line['seconds']:.2f}",
                f"{line['seconds_velocity']:.2f}",
            ]
        )
    text = _columns(lines)
    names = list(dict.fromkeys(name for line in full for name in line["structures"]))
    if names:
        table = [["", "alignment alone", *map(_title, full)]]
        for name in names:
            cells = [line["structures"].get(name) for line in full]
            before = next(cell[0] for cell in cells if cell)
            table.append([name, _pm(before), *(_pm(cell[1]) if cell else "" for cell in cells)])
        text += "\n\n" + _columns(table)
    left_out = [f"{line['left_out']} of {_title(line)}" for line in summary if line["left_out"]]
    return text + (f"\n\nLeft out: {', '.join(left_out)} registrations." if left_out else "")


def _title(line: Mapping[str, Any]) -> str:
    return line["method"] + (f", moved by {line['shift']}" if line["shift"] else "")


def _pm(value: tuple[float, float]) -> str:
    return f"{value[0]:.4f} ± {value[1]:.4f}"


def _columns(rows: Sequence[Sequence[str]]) -> str:
    widths = [max(len(row[k]) for row in rows) for k in range(len(rows[0]))]
    return "\n".join(
        "  ".join(cell.ljust(w) if k == 0 else cell.rjust(w) for k, (cell, w) in enumerate(zip(row, widths))).rstrip()
        for row in rows
    )


def write_table(path: Path, rows: Sequence[Row], about: Mapping[str, Any]) -> None:
    """Writes the rows: .csv (a line per registration) or .json (with the summary, and what is known ``about`` it).

    Raises:
        InputError: another suffix, or a folder that may not be written.
    """
    suffix = check_table(path)
    with atomic(path) as temporary:
        if suffix == ".json":
            values = {**about, "rows": [dataclasses.asdict(row) for row in rows], "summary": summarize(rows)}
            temporary.write_text(json.dumps(plain(values), indent=1, allow_nan=False) + "\n", encoding="utf-8")
            return
        names = list(dict.fromkeys(name for row in rows for name in row.structures))
        figures = list(dict.fromkeys(name for row in rows for name in row.figures))
        with open(temporary, "w", encoding="utf-8", newline="") as file:
            writer = csv.writer(file)
            titles = ["fixed", "moving", "method", "shift", "dice_before", "dice_after", *figures, "verdict", "problem"]
            writer.writerow(titles + [f"dice_{when}: {name}" for name in names for when in ("before", "after")])
            for row in rows:
                cells = [row.fixed, row.moving, row.method, row.shift, *row.dice]
                cells += [row.figures.get(name, "") for name in figures] + [row.verdict, row.problem]
                writer.writerow(cells + [x for name in names for x in row.structures.get(name, ("", ""))])


def check_table(path: Path) -> str:
    """The suffix of a table that write_table knows; InputError otherwise."""
    suffix = Path(path).suffix.lower()
    if suffix not in (".csv", ".json"):
        raise InputError(f"{path}: is neither .csv nor .json. Name it so.")
    if not Path(path).absolute().parent.is_dir():
        raise InputError(f"{path}: the folder {Path(path).parent} does not exist. Create it first.")
    return suffix
