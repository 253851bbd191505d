# SPDX-License-Identifier: Apache-2.0
"""Names of labels from a table, and the structures that they make up."""

from __future__ import annotations

import csv
import difflib
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from ..support.errors import InputError

_SIDES = {"left", "right", "lh", "rh", "l", "r"}


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
