# SPDX-License-Identifier: Apache-2.0
"""What an image file states of its voxels' distances and axes, and the one rule for what it does not state.

For every format but NIfTI and DICOM, whose own rules say more:

- a distance of 0, NaN or infinity is refused;
- a negative one makes its axis run the other way, as in ITK and 3D Slicer, with a note;
- a missing one is taken for 1 mm, with a note;
- axes of which nothing is stated are taken for LPS, as ITK and 3D Slicer take them, with a note.

Pictures of two axes state neither, which goes without saying.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ...support.errors import InputError

_SHORTEST, _LONGEST = 1e-12, 1e12


@dataclass(frozen=True)
class Stated:
    """What a header says, before a reader fills in what is missing.

    Attributes:
        spacing: of each axis in space, None where none is stated.
        name: what the format calls it.
        axes: why the sense of its axes is not known, or nothing.
        remarks: what else is to be noted.
    """

    spacing: Sequence[float | None]
    name: str
    axes: str = ""
    remarks: tuple[str, ...] = ()


def notes_on(path: Path, stated: Stated) -> list[str]:
    """What was assumed or is unusual.

    Raises:
        InputError: a distance that is none.
    """
    notes = list(stated.remarks)
    given = [(axis, value) for axis, value in enumerate(stated.spacing) if value is not None]
    for axis, value in given:
        if not _SHORTEST < abs(value) < _LONGEST:
            raise InputError(
                f"{path}: {stated.name} of axis {axis} is {value:g}, so the size of its voxels is unknown. Write the "
                "distance between voxels in mm there, or export the image again."
            )
    if backwards := [str(axis) for axis, value in given if value < 0]:
        notes.append(
            f"{stated.name} is negative along axis {' and '.join(backwards)}, which was read as running the other way, "
            "as ITK and 3D Slicer do: check which side is left"
        )
    if missing := [str(axis) for axis, value in enumerate(stated.spacing) if value is None]:
        along = "" if not given else f" along axis {' and '.join(missing)}"
        notes.append(f"it does not state the distance of its voxels{along} ({stated.name}); 1 mm was assumed")
    if stated.axes and len(stated.spacing) > 2:
        notes.append(
            f"{stated.axes}; its axes were taken as ITK and 3D Slicer take them, the first to the left, the second to "
            "the back, the third to the head (LPS)"
        )
    return notes
