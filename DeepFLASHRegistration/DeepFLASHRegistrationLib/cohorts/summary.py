# SPDX-License-Identifier: Apache-2.0
"""What has become of many pairs: a table for programs, and a page for people."""

from __future__ import annotations

import csv
import io
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

from ..imaging.files import atomic
from ..jobs.ledger import Done, Failed, Ledger
from ..registration.verdict import LEVELS, Verdict
from ..registration.verdict_words import sentence
from ..report.page import symbol
from ..report.style import STYLE
from ..report.tables import duration, escaped
from .pairs import SUMMARIES, NamedPair, Pairs

_TSV, _HTML = SUMMARIES
_REPORT = "report.html"


@dataclass(frozen=True)
class Outcome:
    """A pair and what has become of it; ``result`` is None while nothing has."""

    pair: NamedPair
    result: Done | Failed | None

    @property
    def state(self) -> str:
        """ "done", "failed" (there is no result), or "open"."""
        return "open" if self.result is None else "done" if isinstance(self.result, Done) else "failed"

    @property
    def level(self) -> str:
        """Of the verdict on the result; "" if there is none."""
        level = (self._value.get("verdict") or {}).get("level")
        return level if level in LEVELS else ""

    @property
    def reason(self) -> str:
        """The verdict's first and gravest reason, or why there is no result."""
        if isinstance(self.result, Failed):
            return self.result.message
        try:
            reasons = Verdict.from_dict(self._value["verdict"]).reasons if self.level else []
            return sentence(reasons[0]) if reasons else ""
        except (LookupError, TypeError, ValueError, AttributeError):  # as another version wrote it
            return ""

    @property
    def dice(self) -> tuple[float | None, float | None]:
        """Mean Dice before and after."""
        before, after = self._value.get("dice") or (None, None)
        return before, after

    def figure(self, name: str) -> Any:
        """Another figure that the task gave; None if it did not."""
        return self._value.get(name)

    @property
    def _value(self) -> Mapping[str, Any]:
        value = self.result.value if isinstance(self.result, Done) else None
        return value if isinstance(value, dict) else {}


def outcomes(pairs: Pairs, ledger: Ledger, failed: Mapping[str, Failed] | None = None) -> list[Outcome]:
    """What is known of all pairs of a table, in its order; `failed`: by name, what failed before it was begun."""
    return [
        Outcome(pair, ledger.done(pair.name) or ledger.failed(pair.name) or (failed or {}).get(pair.name))
        for pair in pairs.rows
    ]


def write_summaries(pairs: Pairs, found: Sequence[Outcome], folder: Path) -> None:
    """Writes summary.tsv and summary.html into the folder of results.

    Raises:
        OSError, InputError: they cannot be written; earlier ones stay.
    """

    def report(name: str) -> str:
        return f"{name}/{_REPORT}" if (folder / name / _REPORT).is_file() else ""

    page = overview(pairs.path.name, found, report)
    for name, text in ((_TSV, _table(found)), (_HTML, page)):
        with atomic(folder / name) as temporary:
            temporary.write_text(text, encoding="utf-8", newline="")


# ----------------------------------------------------------------------------------------------------------- the table

_COLUMNS = (
    "line", "output", "state", "verdict", "reason", "dice_before", "dice_after", "folds", "folds_strict", "seconds",
    "tries", "notes", "fixed", "moving",
)  # fmt: skip


def _table(found: Iterable[Outcome]) -> str:
    text = io.StringIO()
    writer = csv.writer(text, delimiter="\t", lineterminator="\n")
    writer.writerow(_COLUMNS)
    for each in found:
        before, after = (None if value is None else round(value, 5) for value in each.dice)
        cells = [each.pair.line, each.pair.name, each.state, each.level, each.reason, before, after]
        cells += [each.figure(name) for name in ("folds", "folds_strict", "seconds")]
        cells += [each.result.tries if each.result else None, len(each.figure("notes") or ())]
        cells += [each.pair.files.fixed, each.pair.files.moving]
        writer.writerow(" ".join(cell.split()) if isinstance(cell, str) else cell for cell in cells)
    return text.getvalue().encode("utf-8", "backslashreplace").decode("utf-8")


# ------------------------------------------------------------------------------------------------------------ the page

_MORE_STYLE = """
.pairs { width: 100% } .pairs td, .pairs th { vertical-align: top; padding: 5px 10px 5px 0; text-align: left }
.pairs .n { text-align: right; white-space: nowrap; font-variant-numeric: tabular-nums }
.pairs .level { white-space: nowrap } .pairs .level .symbol { display: inline-block; margin: 0 6px -2px 0 }
.pairs td.why { color: var(--soft); overflow-wrap: anywhere } .pairs th { overflow-wrap: anywhere }
.pairs a { color: var(--s1) }
.none th, .none .level { color: var(--failed) } .open th { color: var(--soft); font-weight: 400 }
"""
_TITLES = ("Verdict", "First reason", "Dice before", "Dice after", "Folds", "Time")


def overview(title: str, found: Sequence[Outcome], report: Callable[[str], str], what: str = "pair") -> str:
    """The page of many registrations, as HTML.

    Args:
        title: of all of them.
        found: all of them.
        report: the address of the report of a pair, by its name, from where the page lies; "" without.
        what: one of them is called.
    """
    titles = (what.capitalize(), *_TITLES)
    head = "".join(f'<th class="{"n" if i > 2 else ""}">{each}</th>' for i, each in enumerate(titles))
    rows = "".join(_row(each, report(each.pair.name)) for each in found)
    title = escaped(title)
    done = sum(each.state == "done" for each in found)
    waiting = sum(each.state == "open" for each in found)
    sub = f"{done} of {len(found)} {what}s registered" + (f", {waiting} still to be done" if waiting else "")
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">"
        '<meta name="viewport" content="width=device-width, initial-scale=1"><meta name="color-scheme" '
        f'content="light dark"><title>{title} – registrations</title><style>{STYLE}{_MORE_STYLE}</style></head><body>'
        f'<main><header><p class="kind">DeepFLASH registrations</p><h1>{title}</h1><p class="sub">{sub}</p></header>'
        f"{_cards(found, what)}{_failures(found)}<section><h2>All {what}s</h2>"
        f'<table class="pairs"><thead><tr>{head}</tr></thead>{rows}</table></section></main></body></html>\n'
    )


def _cards(found: Sequence[Outcome], what: str) -> str:
    cards = [
        (f"Verdict {level}", str(sum(each.level == level for each in found)), note)
        for level, note in zip(LEVELS, ("look at the pictures", "look closer", "do not use"), strict=True)
    ]
    none = sum(each.state == "failed" for each in found)
    if none:
        cards.append(("Without a result", str(none), "see below"))
    dice = [each.dice for each in found if each.dice[1] is not None]
    if dice:
        before, after = (statistics.fmean(values) for values in zip(*dice, strict=True))
        cards.append(("Mean Dice of labels", f"{after:.3f}", f"{before:.3f} before, {len(dice)} {what}s"))
    seconds = [each.figure("seconds") for each in found if each.figure("seconds") is not None]
    if seconds:
        cards.append(("Time, median", duration(statistics.median(seconds)), f"{duration(sum(seconds))} in all"))
    inner = "".join(
        f'<div class="card"><p class="name">{name}</p><p class="value">{value}</p><p class="note">{note}</p></div>'
        for name, value, note in cards
    )
    return f'<section class="cards">{inner}</section>'


def _failures(found: Sequence[Outcome]) -> str:
    failed = [each for each in found if each.state == "failed"]
    if not failed:
        return ""
    items = "".join(f"<li><b>{escaped(each.pair.name)}</b>: {escaped(each.reason)}</li>" for each in failed)
    return (
        '<section class="verdict failed"><div class="head">'
        f"{symbol('failed')}<div><h2>{len(failed)} without a result</h2><p>Mend what is named here, and run the same "
        f"command again: what is done is not done twice.</p></div></div><ul>{items}</ul></section>"
    )


def _row(each: Outcome, report: str) -> str:
    name = escaped(each.pair.name)
    if report:
        name = f'<a href="{escaped(quote(report))}">{name}</a>'
    if each.state != "done":
        word, style = ("no result", "none") if each.state == "failed" else ("to be done", "open")
        return (
            f'<tr class="{style}"><th scope="row">{name}</th><td class="level">{word}</td>'
            f'<td class="why" colspan="5">{escaped(each.reason)}</td></tr>'
        )
    seconds, folds = each.figure("seconds"), each.figure("folds_strict")
    texts = ["–" if value is None else f"{value:.3f}" for value in each.dice]
    texts += ["–" if folds is None else str(folds), "–" if seconds is None else duration(seconds)]
    figures = "".join(f'<td class="n">{text}</td>' for text in texts)
    return (
        f'<tr><th scope="row">{name}</th><td class="level">{symbol(each.level) if each.level else ""}{each.level}</td>'
        f'<td class="why">{escaped(each.reason)}</td>{figures}</tr>'
    )
