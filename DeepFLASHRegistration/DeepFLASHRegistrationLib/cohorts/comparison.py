# SPDX-License-Identifier: Apache-2.0
"""The same pairs registered by several methods, from the same alignment, and what each reached."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from ..jobs.ledger import Done, Failed, Ledger
from ..jobs.pool import Ended
from ..methods.peers import RUN_AS
from ..problem.parameters import Parameters
from ..results.velocity import SUMMARY
from ..support.errors import InputError
from .entrants import Entrant
from .many import Many, Settings
from .pairs import NamedPair
from .variants import Variant

ALIGNMENT = "alignment"
# What of a registration is not the method's own.
_AROUND = ("prepare", "affine", "finish")
# What structures are counted from, and what is shown of a pair.
_LOOKED_AT = ("labels", "warped")


@dataclass(frozen=True)
class Measured:
    """A pair by a method.

    Attributes:
        variant: how the pairs are seen (variants.Variant.title).
        folder: of the result, relative to that of the comparison.
        state: "done", "failed" (there is no result) or "open".
        reason: why there is none.
        metrics: of result.json.
        verdict: good, check or failed.
        seconds: of the registration, without reading and writing files.
        seconds_alone: of the method, without what comes before and after it: alignment, maps, measuring.
        memory, device_memory: the most that its process, and any it started, had taken until then, and the most that it
            had taken of GPUs, bytes; 0 if nobody knows or there was none.
        structures: Dice by structure, where labels have been named.
        run: of another program, what was run.
    """

    pair: str
    method: str
    variant: str
    folder: str
    state: str
    reason: str = ""
    metrics: Mapping[str, Any] = field(default_factory=dict)
    verdict: str = ""
    seconds: float = math.nan
    seconds_alone: float = math.nan
    memory: int = 0
    device_memory: int = 0
    structures: Mapping[str, float] = field(default_factory=dict)
    run: str = ""

    @property
    def title(self) -> str:
        """The method and how the pairs are seen."""
        return f"{self.method}, {self.variant}" if self.variant else self.method

    def figure(self, *path: str) -> float:
        """A number among the metrics; nan if it is not there."""
        value: Any = self.metrics
        for name in path:
            value = value.get(name) if isinstance(value, Mapping) else None
        return float(value) if isinstance(value, (int, float)) else math.nan


class Comparison:
    """Pairs by all methods: OUT/alignment/PAIR and OUT/METHOD/PAIR are results of their own, and jobs as those of
    register-many; those of a variant lie in a folder of OUT."""

    def __init__(
        self,
        variant: Variant,
        entrants: Sequence[Entrant],
        out: str | os.PathLike,
        settings: Settings,
        force: bool = False,
        shown: Sequence[str] = ("report", *_LOOKED_AT),
    ) -> None:
        """``settings``: but for the parameters; ``shown``: what is written of each result besides its map.

        Raises:
            InputError: two methods are one, or one cannot be used; an output is taken by something else.
        """
        self.pairs, self.title, self.settings, self.force = variant.pairs, variant.title, settings, force
        self.top, self.out = Path(out), Path(out) / variant.folder
        self.entrants = list(entrants)
        names = [each.folder.casefold() for each in self.entrants]
        for each, name in zip(self.entrants, names, strict=True):
            if names.count(name) > 1 or name == ALIGNMENT:
                raise InputError(f"--methods: {each.name!r} is there twice. Name each once.")
        given = self.entrants[0].parameters
        # No iterations: the alignment is all that happens.
        still = Parameters.from_preset(
            "fast", iterations=(0, 0), initial_alignment=given.initial_alignment, similarity=given.similarity
        )
        self._shown = list(shown)
        seen = [name for name in shown if name in _LOOKED_AT]
        self._aligning = self._many(ALIGNMENT, still, self.pairs.rows, ["affine", *seen])
        self._failed: dict[tuple[str, str], Failed] = {}

    def _many(self, folder: str, parameters: Parameters, rows: Sequence[NamedPair], outputs: Sequence[str]) -> Many:
        settings = replace(self.settings, parameters=parameters, outputs=list(outputs))
        return Many(replace(self.pairs, rows=tuple(rows)), self.out / folder, settings, self.force)

    def run(
        self,
        ended: Callable[[str, Ended], None] = lambda *_: None,
        progress: Callable[[str, str, Mapping[str, Any]], None] = lambda *_: None,
    ) -> None:
        """Does what is not done: all alignments, then each method's pairs.

        Args:
            ended: called with the method and the end of each of its pairs.
            progress: called with the method, the pair, and what it tells on its way.

        Raises:
            RuntimeError: torch is missing, or there is no such device.
        """
        self._run(ALIGNMENT, self._aligning, ended, progress)
        for each in self.entrants:
            many = self._many(each.folder, each.parameters, self._aligned(), self._shown)
            self._run(each.name, many, ended, progress)

    def _run(self, name: str, many: Many, ended: Callable, progress: Callable) -> None:
        def end(of: Ended) -> None:
            if isinstance(of.result, Failed):
                self._failed[name, of.job.name] = of.result
            ended(name, of)

        many.run(end, lambda job, event: progress(name, job.name, event))

    def _aligned(self) -> list[NamedPair]:
        """The pairs whose alignment is done, with it."""
        found = []
        for pair in self.pairs.rows:
            affine = self.out / ALIGNMENT / pair.name / "affine.tfm"
            if affine.is_file():
                found.append(replace(pair, files=replace(pair.files, transform=str(affine.absolute()))))
        return found

    def measured(self) -> Iterator[Measured]:
        """What is known of every pair, method by method, the alignment first."""
        aligning = self._aligning.ledger
        for pair in self.pairs.rows:
            yield self._measured(ALIGNMENT, ALIGNMENT, pair, aligning)
        for each in self.entrants:
            ledger = Ledger(self.out / each.folder)
            for pair in self.pairs.rows:
                yield self._measured(each.name, each.folder, pair, ledger)

    def _measured(self, name: str, folder: str, pair: NamedPair, ledger: Any) -> Measured:
        result = ledger.done(pair.name) or ledger.failed(pair.name) or self._failed.get((name, pair.name))
        place = self.out / folder / pair.name
        found = Measured(pair.name, name, self.title, place.relative_to(self.top).as_posix(), "open")
        if result is None:
            without = self._failed.get((ALIGNMENT, pair.name)) or self._aligning.ledger.failed(pair.name)
            if without is not None and name != ALIGNMENT:
                return replace(found, state="failed", reason=f"There is no alignment. {without.message}")
            return found
        if not isinstance(result, Done):
            return replace(found, state="failed", reason=result.message)
        try:
            values = json.loads((place / SUMMARY).read_text(encoding="utf-8"))
            verdict, metrics = values["verdict"]["level"], values["metrics"]
            took = {name: float(value) for name, value in values["timings_seconds"].items()}
            total = took["total"]
        except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
            return replace(found, state="failed", reason=f"Its {SUMMARY} cannot be read ({error}).")
        told = result.value if isinstance(result.value, Mapping) else {}
        return replace(
            found,
            state="done",
            metrics=metrics,
            verdict=verdict,
            seconds=total,
            seconds_alone=math.nan if name == ALIGNMENT else total - sum(took.get(part, 0.0) for part in _AROUND),
            memory=int(told.get("memory_bytes") or 0),
            device_memory=int(told.get("device_memory_bytes") or 0),
            run=next((note for note in told.get("notes") or () if RUN_AS in note), ""),
        )
