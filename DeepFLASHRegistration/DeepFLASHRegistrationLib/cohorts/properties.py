# SPDX-License-Identifier: Apache-2.0
"""What should hold of every method, measured: pairs registered at rest, exchanged and moved, with and without the
alignment, and the maps compared (registration/properties.py)."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from ..jobs.job import Digests, Job, key_of
from ..jobs.ledger import Failed, Ledger
from ..jobs.pool import Ended, Pool
from ..jobs.worker import Worker
from ..process import RegistrationProcess
from .comparison import Comparison, Measured
from .entrants import Entrant
from .many import Settings
from .motions import EXCHANGED, REST, MovedPair
from .pairs import Pairs
from .variants import Variant

FOLDER, TASK = "properties", "properties"
_MEASURED = "measured"
_UNALIGNED = "none"


@dataclass(frozen=True)
class Properties:
    """Of a pair by a method, from one alignment.

    Attributes:
        state: "done", "failed" (it could not be registered at rest) or "open".
        reason: why there is nothing.
        figures: by property mean, p95 and max, as results.properties.measure has them.
        missing: by the key of a motion, why the pair was not registered with it.
    """

    pair: str
    method: str
    alignment: str
    state: str
    reason: str = ""
    figures: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    missing: Mapping[str, str] = field(default_factory=dict)


class Examination:
    """The properties of all methods: OUT/properties/ALIGNMENT/METHOD/KEY/PAIR are results as those of the comparison,
    but without report; OUT/properties/measured/ALIGNMENT/METHOD/PAIR is what they say."""

    def __init__(
        self,
        pairs: Pairs,
        moved: Sequence[MovedPair],
        entrants: Sequence[Entrant],
        out: str | os.PathLike,
        settings: Settings,
        force: bool = False,
    ) -> None:
        """``moved``: by motions.moved_pairs; the rest as for Comparison.

        Raises:
            InputError: an output is taken by something else.
        """
        self.entrants, self.settings = list(entrants), settings
        self.by_pair: dict[str, dict[str, MovedPair]] = {}
        for each in moved:
            self.by_pair.setdefault(each.of, {})[each.key] = each
        self.ledger = Ledger(Path(out) / FOLDER / _MEASURED, force)
        every = replace(pairs, rows=tuple(each.pair for each in moved))
        self.comparisons: dict[str, Comparison] = {}
        for alignment in dict.fromkeys((entrants[0].parameters.initial_alignment, _UNALIGNED)):
            aligned = [
                replace(each, parameters=replace(each.parameters, initial_alignment=alignment)) for each in entrants
            ]
            variant = Variant(every, f"alignment {alignment}", f"{FOLDER}/{alignment}")
            self.comparisons[alignment] = Comparison(variant, aligned, out, settings, force, ())

    def run(
        self,
        ended: Callable[[str, Ended], None] = lambda *_: None,
        progress: Callable[[str, str, Mapping[str, Any]], None] = lambda *_: None,
    ) -> None:
        """Does what is not done; as Comparison.run."""
        for alignment, comparison in self.comparisons.items():
            where = f"alignment {alignment}"
            comparison.run(lambda method, end, where=where: ended(f"{method}, {where}", end), progress)
        digests, jobs = self.ledger.digests(), []
        for alignment, comparison in self.comparisons.items():
            for each in self.entrants:
                ledger = Ledger(comparison.out / each.folder)
                for pair, ways in self.by_pair.items():
                    folders = {
                        key: (ledger.folder / way.pair.name).absolute()
                        for key, way in ways.items()
                        if ledger.done(way.pair.name) is not None
                    }
                    if REST in folders:
                        jobs.append(_job(_name(alignment, each, pair), folders, ways, digests))
        if jobs:
            tries = self.settings.tries
            pool = Pool(lambda _: Worker(self.ledger, RegistrationProcess(), tries), self.settings.workers or 1)
            pool.run(jobs, lambda end: ended(FOLDER, end) if isinstance(end.result, Failed) else None)

    def found(self) -> Iterator[Properties]:
        """What is known of every pair by every method."""
        for alignment, comparison in self.comparisons.items():
            measured = {(one.method, one.pair): one for one in comparison.measured()}
            for each in self.entrants:
                for pair, ways in self.by_pair.items():
                    by_key = {key: measured[each.name, way.pair.name] for key, way in ways.items()}
                    yield self._found(alignment, each, pair, by_key)

    def _found(self, alignment: str, each: Entrant, pair: str, by_key: Mapping[str, Measured]) -> Properties:
        name = _name(alignment, each, pair)
        found = Properties(pair, each.name, alignment, "open")
        if by_key[REST].state == "failed":
            return replace(found, state="failed", reason=by_key[REST].reason)
        done, failed = self.ledger.done(name), self.ledger.failed(name)
        if done is None:
            return found if failed is None else replace(found, state="failed", reason=failed.message)
        missing = {key: one.reason for key, one in by_key.items() if one.state == "failed"}
        return replace(found, state="done", figures=done.value["figures"], missing=missing)


def _name(alignment: str, each: Entrant, pair: str) -> str:
    return f"{alignment}/{each.folder}/{pair}"


def _job(name: str, folders: Mapping[str, Path], ways: Mapping[str, MovedPair], digests: Digests) -> Job:
    """The measuring of one pair's results, in folders by key."""
    moved = {
        key: {"folder": str(folder), **{side: matrix.tolist() for side, matrix in ways[key].moves._asdict().items()}}
        for key, folder in folders.items()
        if key not in (REST, EXCHANGED)
    }
    files = {"fixed": ways[REST].pair.files.fixed, "mask": ways[REST].pair.files.fixed_mask}
    other = str(folders[EXCHANGED]) if EXCHANGED in folders else None

    def key() -> str:
        found = {key: digests.of(folder) for key, folder in folders.items()}
        images = {key: digests.of(Path(path)) for key, path in files.items() if path is not None}
        motions = {key: [way["fixed"], way["moving"]] for key, way in moved.items()}
        return key_of({"task": TASK, "results": found, "images": images, "motions": motions})

    return Job(name, key, TASK, {"rest": str(folders[REST]), "exchanged": other, "moved": moved, **files})
