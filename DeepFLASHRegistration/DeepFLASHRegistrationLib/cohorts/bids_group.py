# SPDX-License-Identifier: Apache-2.0
"""What has become of all images of a data set in BIDS: a table with its dictionary, an overview, and what to write in
the methods section."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..jobs.ledger import STATE, Done, Failed, Ledger
from ..registration.verdict import LEVELS
from ..support.errors import InputError
from .bids import registration_name
from .bids_dataset import BidsDataset, BidsImage, Choice, read_bids
from .bids_files import read_record, transform_stem
from .bids_folder import WORK, own_description, table, write_json, write_text
from .bids_methods import methods_text
from .pairs import NamedPair
from .summary import Outcome, overview

_CITATION = "logs/CITATION.md"
_DICTIONARY: dict[str, dict[str, Any]] = {
    "participant_id": {"Description": "Participant"},
    "session_id": {"Description": "Session, where there are any"},
    "image": {"Description": "The image, within the data set"},
    "space": {"Description": "The template's space, as in from-T1w_to-SPACE"},
    "state": {
        "Description": "What has become of it",
        "Levels": {"done": "registered", "failed": "there is no result", "open": "not done yet"},
    },
    "verdict": {
        "Description": "What the registration is worth by the program's criteria",
        "Levels": dict(zip(LEVELS, ("all criteria are met", "look at the report", "do not use it"), strict=True)),
    },
    "reason": {"Description": "First reason of the verdict, or why there is no result"},
    "mask": {"Description": "Brain mask that was used; n/a: none, all of the head counted"},
    "similarity_before": {"Description": "Correlation with the template in the mask, aligned linearly"},
    "similarity_after": {"Description": "Correlation with the template in the mask, registered"},
    "dice_before": {"Description": "Mean Dice of the labels, aligned linearly"},
    "dice_after": {"Description": "Mean Dice of the labels, registered"},
    "folds": {"Description": "Folded voxels, by central differences", "Units": "voxels"},
    "folds_strict": {"Description": "Folded voxels, by all corner simplices", "Units": "voxels"},
    "sd_log_jacobian": {"Description": "Standard deviation of the logarithm of the Jacobian determinant"},
    "seconds": {"Description": "Of the registration", "Units": "s"},
    "tries": {"Description": "How often it was begun"},
    "notes": {"Description": "How many notes its report has"},
    "version": {"Description": "Of the program"},
}


@dataclass(frozen=True)
class Row:
    """An image in a space; ``record``: what was written of it, None without a result."""

    image: BidsImage
    space: str
    outcome: Outcome
    record: Mapping[str, Any] | None


def write_group(
    folder: str | os.PathLike, out: Path, choice: Choice, work: Path | None = None
) -> tuple[Path, tuple[str, ...]]:
    """Writes group_SUFFIX.tsv, its .json and .html, and the paragraph for the methods section.

    Args:
        folder: of the data set.
        out: of the derivatives.
        choice: of what the data set has.
        work: folder of the jobs, which knows why some failed; None for the one within `out`.

    Returns:
        The overview, and notes.

    Raises:
        InputError: there is nothing yet, or a folder is none of its kind.
    """
    if own_description(out) is None:
        raise InputError(f'{out}: has no registrations yet. Run "deepflash bids … participant" first.')
    dataset = read_bids(folder, Choice(choice.participants, choice.sessions, choice.suffix, (), False), out)
    spaces = _spaces(out, choice.suffix)
    if not spaces:
        raise InputError(f'{out}: has no {choice.suffix} images registered. Run "deepflash bids … participant" first.')
    failed = _Failures(out / WORK if work is None else work)
    rows = [_row(image, space, out, failed) for space in spaces for image in dataset.images]
    notes = tuple(_notes(dataset, rows))
    name = f"group_{choice.suffix}"
    write_text(out / f"{name}.tsv", table([tuple(_DICTIONARY), *map(_cells, rows)]))
    write_json(out / f"{name}.json", _DICTIONARY)
    pages = {row.outcome.pair.name: f"{row.image.participant}.html" for row in rows}

    def report(pair: str) -> str:
        return pages[pair] if (out / pages[pair]).is_file() else ""

    title = f"{dataset.title}: {choice.suffix} to {', '.join(spaces)}"
    page = overview(title, [row.outcome for row in rows], report, "image")
    write_text(out / f"{name}.html", page)
    (out / _CITATION).parent.mkdir(exist_ok=True)
    write_text(out / _CITATION, methods_text(dataset, choice.suffix, rows))
    return out / f"{name}.html", notes


def _spaces(out: Path, suffix: str) -> list[str]:
    """The spaces to which images of a suffix were registered."""
    found = out.glob(f"sub-*/**/*_from-{suffix}_to-*_mode-image_xfm.json")
    return sorted({path.name.partition("_to-")[2].partition("_mode-")[0] for path in found})


class _Failures:
    """Why images have no result, as far as the folder of the jobs is there."""

    def __init__(self, work: Path) -> None:
        self._ledger = Ledger(work) if (work / STATE).is_dir() else None

    def of(self, name: str) -> Failed | None:
        """Of the job of this name."""
        return None if self._ledger is None else self._ledger.failed(name)


def _row(image: BidsImage, space: str, out: Path, failures: _Failures) -> Row:
    record = read_record(out / image.folder / f"{transform_stem(image, space)}.json")
    pair = NamedPair(0, f"{image.name} to {space}", None)
    if record is None:
        return Row(image, space, Outcome(pair, failures.of(registration_name(image, space))), None)
    figures = record["Figures"]
    return Row(image, space, Outcome(pair, Done(figures, figures.get("seconds"), figures.get("tries", 1))), record)


def _cells(row: Row) -> tuple[Any, ...]:
    outcome, record = row.outcome, row.record or {}
    metrics = record.get("Result", {}).get("metrics") or {}
    program = str((record.get("Result", {}).get("provenance") or {}).get("program", ""))
    session = row.image.entities.get("ses")
    values = {
        "participant_id": row.image.participant,
        "session_id": session and f"ses-{session}",
        "image": f"{row.image.folder}/{row.image.path.name}",
        "space": row.space,
        "state": outcome.state,
        "verdict": outcome.level,
        "reason": outcome.reason,
        "mask": record.get("BrainMask"),
        "similarity_before": _rounded(metrics.get("similarity_before")),
        "similarity_after": _rounded(metrics.get("similarity_after")),
        "dice_before": _rounded(outcome.dice[0]),
        "dice_after": _rounded(outcome.dice[1]),
        "sd_log_jacobian": _rounded(metrics.get("sd_log_determinant")),
        "seconds": _rounded(outcome.figure("seconds"), 2),
        "tries": outcome.result.tries if outcome.result else None,
        "notes": None if row.record is None else len(outcome.figure("notes") or ()),
        "version": program.rpartition(" ")[2],
        **{name: outcome.figure(name) for name in ("folds", "folds_strict")},
    }
    return tuple(values[name] for name in _DICTIONARY)


def _rounded(value: Any, digits: int = 5) -> float | None:
    return round(value, digits) if isinstance(value, int | float) else None


def _notes(dataset: BidsDataset, rows: list[Row]) -> list[str]:
    notes = list(dataset.notes)
    without = [row.outcome.pair.name for row in rows if row.record is None]
    if without:
        shown = ", ".join(without[:6]) + (", …" if len(without) > 6 else "")
        notes.append(f"{len(without)} of {len(rows)} images have no result: {shown}.")
    return notes
