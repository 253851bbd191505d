# SPDX-License-Identifier: Apache-2.0
"""What has become of a series: a table with a line for each item, and how all of it was made."""

from __future__ import annotations

import csv
import datetime
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from ..imaging.files import atomic
from ..jobs.ledger import Failed
from ..registration.result import FORMAT
from ..results.plain import grid_values, plain
from ..version import __version__
from .pairs import NamedPair
from .series import REFERENCE, WARPED, Item, SeriesRun
from .summary import Outcome

TABLE, SUMMARY = "series.csv", "series.json"
_COLUMNS = (
    "item", "time_s", "state", "verdict", "reason", "similarity_before", "similarity_after", "folds", "folds_strict",
    "mean_displacement_mm", "largest_displacement_mm", "from_steps_mm", "seconds", "tries", "source",
)  # fmt: skip


def write_series_summary(
    run: SeriesRun, failed: Mapping[str, Failed], volumes: Sequence[Mapping[int, float]] | None = None
) -> None:
    """Writes the table and the summary into the series' folder.

    Args:
        run: the series.
        failed: by name of the job, what failed before it was begun.
        volumes: of each item, {label: mm³ (mm² of a slice)} of the labels that were carried to it.

    Raises:
        OSError, InputError: they cannot be written; earlier ones stay.
    """
    rows = [_row(item, run.series.seconds) for item in run.items(failed)]
    for row, found in zip(rows, volumes or (), strict=False):
        row |= {f"volume_{label}": round(volume, 3) for label, volume in found.items()}
    with atomic(run.out / TABLE) as temporary:
        temporary.write_text(_table(rows), encoding="utf-8", newline="")
    values = {
        "format": FORMAT,
        "program": f"deepflash-registration {__version__}",
        "date": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        "series": {
            "items": list(run.series.names),
            "seconds_between": run.series.seconds or None,
            "grid": grid_values(run.series.grid),
        },
        "how": asdict(run.how),
        "parameters": run.parameters.to_dict(),
        "registered_onto": REFERENCE,
        "results": run.last,
        "warped": WARPED if (run.out / WARPED).is_file() else None,
        "items": rows,
    }
    with atomic(run.out / SUMMARY) as temporary:
        temporary.write_text(json.dumps(plain(values), indent=1, allow_nan=False) + "\n", encoding="utf-8")


def outcome(item: Item) -> Outcome:
    """An item as the summaries of pairs see it."""
    return Outcome(NamedPair(item.number, item.folder.name, None), item.result)


def _row(item: Item, seconds: float) -> dict[str, Any]:
    found = outcome(item)
    before, after = found.figure("similarity") or (None, None)
    moved = found.figure("displacement_mm") or {}
    values = (
        item.number, round(item.number * seconds, 6) if seconds else None, found.state, found.level, found.reason,
        _rounded(before), _rounded(after), found.figure("folds"), found.figure("folds_strict"),
        _rounded(moved.get("mean")), _rounded(moved.get("max")),
        _rounded((found.figure("map_difference_mm") or {}).get("mean")), _rounded(found.figure("seconds")),
        item.result.tries if item.result else None, item.source,
    )  # fmt: skip
    return dict(zip(_COLUMNS, values, strict=True))


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 4)


def _table(rows: Sequence[Mapping[str, Any]]) -> str:
    labels = sorted({name for row in rows for name in row} - set(_COLUMNS), key=lambda name: int(name.split("_")[1]))
    text = io.StringIO()
    writer = csv.DictWriter(text, (*_COLUMNS, *labels), lineterminator="\n")
    writer.writeheader()
    for row in rows:
        writer.writerow({name: " ".join(cell.split()) if isinstance(cell, str) else cell for name, cell in row.items()})
    return text.getvalue().encode("utf-8", "backslashreplace").decode("utf-8")
