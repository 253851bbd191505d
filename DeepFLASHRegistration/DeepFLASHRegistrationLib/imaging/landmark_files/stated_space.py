# SPDX-License-Identifier: Apache-2.0
"""The coordinate system that a table of landmarks states: in a comment, in a column, or in its columns' names."""

from __future__ import annotations

import re
from collections.abc import Iterable

from ...support.errors import InputError
from .point_file import TO_LPS

# Columns that hold it, row by row.
_COLUMNS = ("coordinatesystem", "coordsystem", "coordinatespace", "system", "space")
_NUMBERS = {"0": "RAS", "1": "LPS"}  # as Slicer 4 writes it
_WORDS = {"rightanteriorsuperior": "RAS", "leftposteriorsuperior": "LPS"}
_STATEMENT = re.compile(r"(?:coord(?:inate)?s?[\s_-]*(?:system|space)|space|system)\s*[=:]\s*([^,;\t]*)", re.IGNORECASE)
_ALONE = re.compile(
    r"(?:(?:all\s+)?(?:points|coordinates|landmarks)\s+)?(?:are\s+)?(?:in\s+)?(RAS|LPS)\+?"
    r"(?:\s+(?:coordinates|space|system))?(?:,?\s*(?:in\s+)?\(?mm\)?)?\.?",
    re.IGNORECASE,
)
_AXIS = re.compile(r"([xyz])[\s_.(\[-]*(ras|lps)\b\W*|(ras|lps)[\s_.-]*([xyz])\W*")


def of_comments(comments: Iterable[str]) -> str | None:
    """ "RAS" or "LPS", as "# CoordinateSystem = RAS" or "# RAS" state it; None where no comment does.

    Raises:
        InputError: another one, or several.
    """
    found = set()
    for comment in comments:
        text = comment.strip().lstrip("#%/").strip().rstrip(",;\t ")
        stated, alone = _STATEMENT.fullmatch(text), _ALONE.fullmatch(text)
        if stated:
            found.add(_known(stated[1], f"a comment states the coordinate system {stated[1].strip()[:40]!r}", "there"))
        elif alone:
            found.add(alone[1].upper())
    return _one(found, "its comments")


def of_column(header: list[str], rows: list[list[str]]) -> str | None:
    """ "RAS" or "LPS", as a column of that purpose states it for every row; None where there is none, or it is empty.

    Raises:
        InputError: another one, or several.
    """
    column = next((i for i, name in enumerate(header) if re.sub(r"[\s_-]", "", name) in _COLUMNS), None)
    if column is None:
        return None
    values = {row[column].strip() for row in rows if column < len(row)} - {""}
    name = header[column][:40]
    known = {_known(v, f"its column {name!r} holds {v[:40]!r}", "there, or rename the column") for v in values}
    return _one(known, f"its column {name!r}")


def axis_of(name: str) -> str:
    """A column's name; "x_ras", "ras x" and "x (ras)" alike as "x ras"."""
    found = _AXIS.fullmatch(name)
    return f"{found[1] or found[4]} {found[2] or found[3]}" if found else name


def agreed(stated: Iterable[str | None]) -> str:
    """The coordinate system that is stated in one place or several; LPS where in none.

    Raises:
        InputError: they disagree.
    """
    return _one({space for space in stated if space is not None}, "its comments and columns") or "LPS"


def _known(text: str, what: str, where: str) -> str:
    word = re.sub(r"[\s_-]|\bmm\b", "", text.strip().strip("\"'").rstrip("+")).rstrip("+").removesuffix("()")
    space = _NUMBERS.get(word, _WORDS.get(word.lower(), word.upper()))
    if space not in TO_LPS:
        raise InputError(f"{what}, which is unknown. Write RAS or LPS {where}.")
    return space


def _one(found: set[str], where: str) -> str | None:
    if len(found) > 1:
        raise InputError(f"both RAS and LPS are stated in {where}. Keep the coordinates, and their system, of one.")
    return next(iter(found), None)
