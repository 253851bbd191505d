# SPDX-License-Identifier: Apache-2.0
"""Tables of text as people write them by hand or with a spreadsheet: CSV, TSV, semicolons, any line ends."""

from __future__ import annotations

import csv
import io
from dataclasses import dataclass
from pathlib import Path

from .errors import InputError


@dataclass(frozen=True)
class Row:
    """A line that is not empty: its number in the file, from 1, and its cells without blanks around, by title."""

    line: int
    cells: dict[str, str]


@dataclass(frozen=True)
class Table:
    """Titles, in lower case, in their order, and what stands below them."""

    path: Path
    titles: tuple[str, ...]
    rows: tuple[Row, ...]


def read_table(path: Path) -> Table:
    """Reads a table in UTF-8 with a line of titles; commas, semicolons or tabs separate its cells.

    Raises:
        InputError: it cannot be read, a title stands there twice, or a line has more cells than there are titles.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
        first = text.partition("\n")[0]
        # As it stands in the file, so that the reader sees all kinds of line ends, also within quotes.
        lines = csv.reader(io.StringIO(text, newline=""), delimiter=max(",;\t", key=first.count))
        numbered = [(lines.line_num, [cell.strip() for cell in cells]) for cells in lines]
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror or error}). Check the path.") from error
    except (UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{path}: cannot be read as a table ({error}). Save it as CSV in UTF-8.") from error
    filled = [(number, cells) for number, cells in numbered if any(cells)]
    titles = tuple(title.lower() for title in filled[0][1]) if filled else ()
    for title in titles:
        if title and titles.count(title) > 1:
            raise InputError(f"{path}: has the column {title!r} twice. Remove or rename one of them.")
    rows = []
    for number, cells in filled[1:]:
        surplus = [cell for cell in cells[len(titles) :] if cell]
        if surplus:
            raise InputError(
                f"{path}, line {number}: has more cells than there are columns, the first of them "
                f"{_short(surplus[0])!r}. Put a value that has separators in it in quotes."
            )
        cells += [""] * (len(titles) - len(cells))
        # A column without a title, as of row numbers that a program wrote, is nobody's.
        rows.append(Row(number, {title: cell for title, cell in zip(titles, cells, strict=False) if title}))
    return Table(path, tuple(filter(None, titles)), tuple(rows))


def _short(text: str) -> str:
    return text if len(text) <= 60 else text[:59] + "…"
