# SPDX-License-Identifier: Apache-2.0
"""Volumes of the structures of a template's subjects: of their own labels, and of the template's through their maps."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..imaging.files import atomic
from ..imaging.grid import Grid
from ..imaging.io import read_labels
from ..imaging.segmentation import OVERLAP
from ..imaging.volume import label_values
from ..jobs.job import Digests
from ..problem.spatial_map import SpatialMap
from ..registration.metrics import jacobian_determinant, label_volumes
from ..results.velocity import load_result
from ..support.errors import InputError
from .saved_template import SavedTemplate

# What a row tells of: the template's own labels, a subject's own, and the template's through the subject's map.
TEMPLATE, OWN, MAP = "template", "labels", "map"


@dataclass(frozen=True)
class Row:
    """Volumes of one subject in mm³ (mm² of a slice), by label; ``source``: TEMPLATE, OWN or MAP."""

    name: str
    source: str
    volumes: Mapping[int, float]


def carried_volumes(deformation: SpatialMap, labels: np.ndarray, grid: Grid) -> dict[int, float]:
    """Volumes that labels have where the map takes them: the integral of its Jacobian determinant over each.

    Args:
        deformation: from the grid's space (fixed) to that in which volumes are wanted.
        labels: on the grid.
    """
    determinant = jacobian_determinant(deformation.displacement(grid, "fixed_to_moving"), grid)
    values = label_values(labels)
    sums = np.bincount(np.searchsorted(values, labels.ravel()), weights=determinant.ravel())
    return {int(value): float(total) * grid.voxel_volume for value, total in zip(values, sums, strict=True) if value}


def structure_volumes(
    template: SavedTemplate,
    told: Callable[[str, int], None] = lambda *_: None,
    note: Callable[[str], None] = lambda _: None,
) -> list[Row]:
    """Of the template and of all its subjects.

    Args:
        template: with labels.
        told: called with the name of each subject and its number, before it is looked at.
        note: called with what is left out, and why.

    Raises:
        InputError: the template has no labels; a file cannot be read.
    """
    if not template.labelled:
        raise InputError(
            f"{template.folder}: has no labels, so that there are no structures. Make it of subjects that all have "
            "some."
        )
    labels = template.subject.labels[0]
    rows = [Row("template", TEMPLATE, _found(labels.data, labels.grid))]
    for number, (name, files) in enumerate(template.subjects.items()):
        told(name, number)
        own = files.labels
        if own is not None and (reason := _changed(own, files.labels_sha256)):
            note(f"{name}: no volumes of its own labels: {own} {reason}.")
        elif own is not None:
            found = read_labels(own)
            rows.append(Row(name, OWN, _found(found.data, found.grid)))
        deformation = load_result(template.result(name)).deformation
        rows.append(Row(name, MAP, carried_volumes(deformation, labels.data, labels.grid)))
    return rows


def _changed(path: Path, sha256: str) -> str:
    """Why a file is not what it was; "" if it is."""
    if not path.exists():
        return "is not there"
    return "" if sha256 in ("", Digests().of(path)) else "is not what it was when the template was made"


def _found(labels: np.ndarray, grid: Grid) -> dict[int, float]:
    return label_volumes(labels, grid.voxel_volume)


def by_title(volumes: Mapping[int, float], structures: Mapping[int, str]) -> dict[str, float]:
    """Volumes by label, as those of named structures: where segments overlap, what lies in several, whose label has
    their names with a plus between them, counts for each. Without a name, or with one that a table has already, a
    structure is called "label_" and its number."""
    found: dict[str, float] = {}
    for label, volume in sorted(volumes.items()):
        for name in structures.get(label, "").split(OVERLAP):
            title = f"label_{label}" if name in ("", "name", "source") else name
            found[title] = found.get(title, 0.0) + volume
    return found


def write_volumes(path: Path, rows: Sequence[Row], structures: Mapping[int, str]) -> None:
    """Writes a line for each row, a column for each structure, as `by_title` names them."""
    sums = [by_title(row.volumes, structures) for row in rows]
    titles = sorted(set().union(*sums), key=lambda title: (title.startswith("label_"), len(title), title))
    text = io.StringIO()
    writer = csv.writer(text, delimiter="\t", lineterminator="\n")
    writer.writerow(["name", "source", *titles])
    for row, volumes in zip(rows, sums, strict=True):
        writer.writerow([row.name, row.source, *(f"{volumes.get(title, 0.0):.2f}" for title in titles)])
    with atomic(path) as temporary:
        temporary.write_text(text.getvalue(), encoding="utf-8", newline="")


def read_volumes(path: Path) -> dict[str, list[float]]:
    """By the title of each structure, the volumes that the template's labels have through the subjects' maps.

    Raises:
        InputError: the table is damaged.
    """
    try:
        with open(path, encoding="utf-8", newline="") as file:
            rows = [row for row in csv.DictReader(file, delimiter="\t") if row["source"] == MAP]
        titles = [title for title in (rows[0] if rows else {}) if title not in ("name", "source")]
        return {title: [float(row[title]) for row in rows] for title in titles}
    except (OSError, KeyError, ValueError, TypeError, csv.Error) as error:
        raise InputError(f'{path}: cannot be used ({error}). Write it again with "deepflash volumes".') from error
