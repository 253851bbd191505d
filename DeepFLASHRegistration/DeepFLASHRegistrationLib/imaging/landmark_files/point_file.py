# SPDX-License-Identifier: Apache-2.0
"""What the formats of landmark files share: the parsed file, and how numbers are written."""

from __future__ import annotations

import csv
import io
from dataclasses import dataclass
from typing import Any

import numpy as np

from ...support.errors import InputError

TO_LPS = {"LPS": np.array([1.0, 1.0, 1.0]), "RAS": np.array([-1.0, -1.0, 1.0])}


@dataclass
class PointFile:
    """A parsed file: what is needed to read its points, and to write it again with others.

    Attributes:
        points: (n, d) as stored; a row of NaN has no position.
        labels: n; "" where there is none.
        space: "LPS" or "RAS", how they are stored.
        content: what the format's writer needs to keep everything else.
        notes: what had to be guessed.
        trust: n numbers of mm, to within which each is placed; NaN where the file does not tell.
    """

    points: np.ndarray
    labels: list[str]
    space: str
    content: Any
    notes: tuple[str, ...] = ()
    trust: list[float] | None = None

    @property
    def placed(self) -> np.ndarray:
        """(n,) which points have a position."""
        return ~np.isnan(self.points).all(1)


def known_space(name: str) -> str:
    """ "LPS" or "RAS"; InputError for another coordinate system."""
    if name not in TO_LPS:
        raise InputError(f"its coordinate system {name[:40]} is unknown. Save it in RAS or LPS.")
    return name


def number_text(value: float) -> str:
    """A coordinate as text."""
    return repr(round(float(value), 6))


def line_of(row: list[str], delimiter: str = ",") -> str:
    """A row of a table as text, quoted where it must be."""
    if delimiter == " " and len(row) > 1:  # cell by cell, which quotes empty ones: between spaces they would be none
        return " ".join(line_of([cell], delimiter) for cell in row)
    buffer = io.StringIO()
    csv.writer(buffer, delimiter=delimiter, lineterminator="").writerow(row)
    return buffer.getvalue()
