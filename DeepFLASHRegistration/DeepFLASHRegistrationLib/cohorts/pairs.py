# SPDX-License-Identifier: Apache-2.0
"""A table of pairs to register: found, checked as far as that takes no reading, and named."""

from __future__ import annotations

import dataclasses
import difflib
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from ..imaging.files import stem
from ..imaging.io import selection
from ..problem.reading import SEVERAL, PairFiles
from ..support.errors import InputError
from ..support.tables import Row, Table, read_table

FILES = tuple(field.name for field in dataclasses.fields(PairFiles))
SUMMARIES = ("summary.tsv", "summary.html")
_NEEDED = ("fixed", "moving")
_OUTPUT = "output"
COLUMNS = (*FILES, _OUTPUT)
# What no name of a file may have on one of the systems.
_NO_NAME = re.compile(r'[\x00-\x1f<>:"|?*\\]')


@dataclass(frozen=True)
class NamedPair:
    """A line of the table.

    Attributes:
        line: its number in the file, from 1.
        name: of the folder of its result.
        files: with the table's folder before relative paths.
    """

    line: int
    name: str
    files: PairFiles

    def paths(self) -> dict[str, Path]:
        """The files that there are, by column, without what is selected of one ('series.nii.gz[3]')."""
        return {name: selection(file)[0] for name, file in self.files.every().items()}


@dataclass(frozen=True)
class Pairs:
    """The lines of a table in their order; ``notes`` say what of it is not used."""

    path: Path
    rows: tuple[NamedPair, ...]
    notes: tuple[str, ...] = ()


def read_pairs(path: str | os.PathLike, out: str | os.PathLike) -> Pairs:
    """Reads a table of pairs.

    Columns, in any order: fixed, moving; where there are any, fixed_labels, moving_labels, fixed_mask, moving_mask,
    fixed_points, moving_points, transform, in the place of the alignment, and fixed_channels, moving_channels, further
    images of the same subjects, several with "|" between them; and output, the name of the folder of the result within
    `out` (without it, or where it is empty: the names of moving and fixed image). Paths are relative to the table's
    folder. Other columns are noted.

    Args:
        path: of the table (.csv, .tsv).
        out: folder of all results.

    Raises:
        InputError: says in which line and column something is missing, wrong, or there twice.
    """
    path = Path(path)
    table = read_table(path)
    table = dataclasses.replace(
        table,
        titles=tuple(map(_column, table.titles)),
        rows=tuple(Row(row.line, {_column(key): value for key, value in row.cells.items()}) for row in table.rows),
    )
    _check_columns(table)
    rows = [row for row in table.rows if any(row.cells.get(column) for column in COLUMNS)]
    if not rows:
        raise InputError(f"{path}: names no pairs. Give one on each line below the titles.")
    pairs = [NamedPair(row.line, *_pair(path, row)) for row in rows]
    _check_names(path, pairs)
    _check_apart(path, pairs, Path(out))
    unused = [title for title in table.titles if title not in COLUMNS]
    notes = [f"{path}: not used: the column{'s' * (len(unused) > 1)} {', '.join(unused)}."] if unused else []
    return Pairs(path, tuple(pairs), tuple(notes + _one_sided(pairs)))


def _column(title: str) -> str:
    return re.sub(r"[\s-]+", "_", title)


def _check_columns(table: Table) -> None:
    titles = table.titles
    for title in titles:
        meant = difflib.get_close_matches(title, COLUMNS, 1, 0.8)
        if title not in COLUMNS and meant and meant[0] not in titles:
            raise InputError(f"{table.path}: has a column {title!r}. Rename it to {meant[0]!r}, or to something else.")
    for title in _NEEDED:
        if title not in titles:
            raise InputError(
                f"{table.path}: has no column {title!r}, but: {', '.join(titles) or 'nothing'}. Its first line must "
                f"have the titles {' and '.join(_NEEDED)}; and it may have {', '.join(COLUMNS[2:])}."
            )


def _pair(path: Path, row: Row) -> tuple[str, PairFiles]:
    """The name and the files of a line."""
    found: dict[str, Any] = {}
    for column in FILES:
        text = row.cells.get(column)
        if not text:
            if column in _NEEDED:
                raise InputError(f"{path}, line {row.line}, column {column}: is empty. Name an image.")
            continue
        where = f"{path}, line {row.line}, column {column}"
        if column in SEVERAL:
            several = [each.strip() for each in text.split("|")]
            if not all(several):
                raise InputError(
                    f"{where}: item {several.index('') + 1} is empty. Name an image, or leave its bar out."
                )
            found[column] = tuple(_file(path, each, where) for each in several)
        else:
            found[column] = _file(path, text, where)
    files = PairFiles(**found)
    name = row.cells.get(_OUTPUT) or "_to_".join(stem(selection(each)[0]) for each in (files.moving, files.fixed))
    return checked_name(name, f"{path}, line {row.line}, column {_OUTPUT}"), files


def _file(table: Path, text: str, where: str) -> str:
    """The file that a cell names."""
    file = os.path.abspath(os.path.join(table.parent, os.path.expanduser(text)))
    try:
        there = selection(file)[0].exists()
    except (OSError, ValueError) as error:  # a name too long, or with a NUL in it
        raise InputError(f"{where}: {text[:200]!r} is no path ({error}).") from error
    if not there:
        raise InputError(f"{where}: there is no file or folder {file}. Paths are relative to the folder of the table.")
    return file


def checked_name(text: str, where: str) -> str:
    """A name for a folder of results, with "/" between its folders; InputError if it is none everywhere."""
    text = text.replace("\\", "/").rstrip("/")
    parts = text.split("/")
    if PurePosixPath(text).is_absolute() or ".." in parts or re.match(r"[A-Za-z]:", text):
        raise InputError(f"{where}: {text!r} leads out of the folder of results. Give a name within it.")
    if not all(parts) or any(part.startswith(".") or part[-1] in ". " or _NO_NAME.search(part) for part in parts):
        raise InputError(f"{where}: {text!r} is no name for a folder everywhere. Use letters, digits, - and _.")
    if parts[0].casefold() in SUMMARIES:
        raise InputError(f"{where}: {text!r} is the name of the summary. Give another one.")
    return text


def _check_names(path: Path, pairs: Sequence[NamedPair]) -> None:
    # Not all file systems tell small letters from capitals.
    lines: dict[tuple[str, ...], NamedPair] = {}
    for pair in pairs:
        parts = tuple(pair.name.casefold().split("/"))
        if parts in lines:
            raise InputError(
                f"{path}, line {pair.line}, column {_OUTPUT}: {pair.name!r} is that of line {lines[parts].line} too. "
                "Give each pair a name of its own."
            )
        lines[parts] = pair
    for parts, pair in lines.items():
        for count in range(1, len(parts)):
            if parts[:count] in lines:
                raise InputError(
                    f"{path}, line {pair.line}, column {_OUTPUT}: {pair.name!r} lies within the output of line "
                    f"{lines[parts[:count]].line}. Give it a name beside it."
                )


def _check_apart(path: Path, pairs: Sequence[NamedPair], out: Path) -> None:
    """Refuses outputs that are inputs, or would hold some."""
    top = os.path.realpath(out)
    outputs = {os.path.join(top, *pair.name.split("/")): pair for pair in pairs}
    places: dict[Path, str] = {}
    for pair in pairs:
        for column, file in pair.paths().items():
            place = places.get(file) or places.setdefault(file, os.path.realpath(file))
            while len(place) > len(top) and place.startswith(top + os.sep):
                if place in outputs:
                    raise InputError(
                        f"{path}, line {outputs[place].line}, column {_OUTPUT}: {outputs[place].name!r} is or holds "
                        f"what line {pair.line} names as {column}. Choose another output."
                    )
                place = os.path.dirname(place)


def _one_sided(pairs: Sequence[NamedPair]) -> list[str]:
    """What follows from labels on one side alone."""
    alone = {"moving": "they are carried over, but there is no Dice", "fixed": "they are only drawn in the report"}
    notes = []
    for side, other in (("moving", "fixed"), ("fixed", "moving")):
        lines = [
            pair.line
            for pair in pairs
            if getattr(pair.files, f"{side}_labels") and not getattr(pair.files, f"{other}_labels")
        ]
        if lines:
            shown = ", ".join(map(str, lines[:8])) + (", …" if len(lines) > 8 else "")
            notes.append(f"Labels of the {side} image alone (line{'s' * (len(lines) > 1)} {shown}): {alone[side]}.")
    return notes
