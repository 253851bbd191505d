# SPDX-License-Identifier: Apache-2.0
"""A template that is done, read from its folder."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from ..imaging.grid import Grid
from ..problem.parameters import Parameters
from ..problem.subject import Subject
from ..registration.result import FORMAT
from ..results.plain import grid_from
from ..results.velocity import VELOCITY
from ..support.errors import InputError
from .template_files import (
    AXIS,
    LABELS,
    MASK,
    MEAN,
    POSED,
    REGISTERED,
    SPACE,
    SUBJECTS,
    SUMMARY,
    TEMPLATE,
    further,
    mask_of,
)


@dataclass(frozen=True)
class TemplateSubject:
    """A subject on a template.

    Attributes:
        image, labels: its own files; None without labels.
        labels_sha256: of its labels as they were ("" if that is not known).
        distance: length of its geodesic, the affine pose apart.
        verdict: the level of that on its registration.
        far: whether it lies far from the rest.
        to_mirror: which part of the way to the template's mirror image lies on that to it; None if that is not known.
        flipped: whether its left and right seem exchanged.
    """

    image: Path
    labels: Path | None
    distance: float
    verdict: str
    far: bool
    labels_sha256: str = ""
    to_mirror: float | None = None
    flipped: bool = False


@dataclass(frozen=True)
class SavedTemplate:
    """What new subjects and statistics need of a template.

    Attributes:
        folder: where it lies.
        parameters: by which its subjects were registered.
        domain: the working grid on which all velocities live.
        middle: (d+1, d+1) LPS mm, template -> the image that all were aligned with affinely.
        subjects: those that are on it, by name.
        structures: names of labels, where they have some.
        labelled: whether there are labels by majority.
        channels: how many further images it has.
        cut: whether its subjects are cut, so that there are masks of where most are seen.
    """

    folder: Path
    parameters: Parameters
    domain: Grid
    middle: np.ndarray
    subjects: dict[str, TemplateSubject]
    structures: dict[int, str]
    labelled: bool
    channels: int
    cut: bool

    @cached_property
    def subject(self) -> Subject:
        """The template with its further images and labels."""
        from ..imaging.io import read_labels, read_mask, read_volume

        found = read_labels(self.folder / LABELS) if self.labelled else None
        names = TEMPLATE, *further(TEMPLATE, self.channels)
        mask = read_mask(self.folder / MASK) if self.cut else None
        return Subject(tuple(read_volume(self.folder / name) for name in names), found, mask)

    @property
    def distances(self) -> list[float]:
        """Of all subjects."""
        return [each.distance for each in self.subjects.values()]

    @property
    def posed(self) -> Subject:
        """What all subjects were aligned with affinely."""
        return self._known(POSED, 0)

    @property
    def registered(self) -> Subject:
        """What they were registered to in the last round."""
        return self._known(REGISTERED, self.channels)

    @property
    def mean(self) -> np.ndarray:
        """Of the velocities that were found there."""
        return self._velocity(MEAN)

    @property
    def sides(self) -> dict[str, float]:
        """Which part of the way to the template's mirror image lies on that to each subject, where that is known."""
        found = {name: each.to_mirror for name, each in self.subjects.items()}
        return {name: value for name, value in found.items() if value is not None}

    @property
    def asymmetry(self) -> np.ndarray:
        """The velocity with which the geodesic to the template's mirror image begins; known if `sides` are."""
        return self._velocity(AXIS)

    def _velocity(self, name: str) -> np.ndarray:
        path = self.folder / SPACE / name
        try:
            return np.load(path, allow_pickle=False)
        except (OSError, ValueError, EOFError) as error:
            raise InputError(f"{path}: is damaged ({error}). Copy the folder again.") from error

    def _known(self, name: str, channels: int) -> Subject:
        from ..imaging.io import read_mask, read_volume

        place = self.folder / SPACE
        mask = read_mask(place / mask_of(name)) if self.cut else None
        return Subject(tuple(read_volume(place / each) for each in (name, *further(name, channels))), mask=mask)

    def result(self, name: str) -> Path:
        """Folder of a subject's result."""
        return self.folder / SUBJECTS / name


def load_template(folder: str | os.PathLike) -> SavedTemplate:
    """Reads what `deepflash template` wrote.

    Raises:
        InputError: there is none, or it is not done, damaged, half copied, or of another version.
    """
    folder = Path(folder)
    path = folder / SUMMARY
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise InputError(
            f'{folder}: holds no template that is done (no {SUMMARY}). Pass the folder that "deepflash template" '
            "wrote; where it was interrupted, run the same command again."
        ) from error
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: cannot be read ({error}). Copy the folder again.") from error
    try:
        _check(folder, values)
        rows = [row for row in values["subjects"] if row["state"] == "done"]
        return SavedTemplate(
            folder,
            Parameters.from_dict(values["parameters"]),
            grid_from(values["domain"]),
            np.array(values["middle"], dtype=np.float64),
            {str(row["name"]): _subject(row) for row in rows},
            {int(number): str(name) for number, name in values["structures"].items()},
            values["labels"] is not None,
            len(values["channels"]),
            values["mask"] is not None,
        )
    except (LookupError, TypeError, AttributeError, ValueError, ArithmeticError) as error:
        if isinstance(error, InputError):
            raise
        reason = f"{error} is missing" if isinstance(error, KeyError) else error
        raise InputError(
            f"{path}: cannot be used ({reason}). Make the template again with this version: the same command, which "
            "keeps what is done."
        ) from error


def _subject(row: Mapping[str, Any]) -> TemplateSubject:
    labels = Path(row["labels"]) if row["labels"] else None
    distance, verdict, far = float(row["distance"]), str(row["verdict"]), row["far"] == "yes"
    sides = None if row["to_mirror"] is None else float(row["to_mirror"]), row["flipped"] == "yes"
    return TemplateSubject(
        Path(row["image"]), labels, distance, verdict, far, str(row.get("labels_sha256", "")), *sides
    )


def _check(folder: Path, values: dict[str, Any]) -> None:
    if values["format"] != FORMAT:
        raise ValueError(f"it has format {values['format']}, this version {FORMAT}")
    if not values["complete"]:
        raise InputError(f"{folder}: the template is not done. Run the command that makes it again; it goes on there.")
    files = [TEMPLATE, *(f"{SPACE}/{name}" for name in (POSED, REGISTERED, MEAN))]
    count = len(values["channels"])
    files += [*further(TEMPLATE, count), *(f"{SPACE}/{name}" for name in further(REGISTERED, count))]
    if values["mask"] is not None:
        files += [MASK, *(f"{SPACE}/{mask_of(name)}" for name in (POSED, REGISTERED))]
    files += [LABELS] if values["labels"] is not None else []
    files += [f"{SUBJECTS}/{row['name']}/{VELOCITY}" for row in values["subjects"] if row["state"] == "done"]
    sided = any(row["to_mirror"] is not None for row in values["subjects"] if row["state"] == "done")
    files += [f"{SPACE}/{AXIS}"] if sided else []
    missing = [name for name in files if not (folder / name).is_file()]
    if missing:
        more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        raise InputError(
            f"{folder / missing[0]}{more}: missing. Copy the folder again, or run the command that made it again."
        )
