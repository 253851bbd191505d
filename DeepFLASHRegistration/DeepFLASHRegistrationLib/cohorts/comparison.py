# SPDX-License-Identifier: Apache-2.0
"""The same pairs registered by several methods, from the same alignment, and what each reached."""

from __future__ import annotations

import json
import math
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from ..jobs.ledger import Done, Failed, Ledger
from ..jobs.pool import Ended
from ..problem.parameters import METHODS, PRESETS, Parameters
from ..results.velocity import SUMMARY
from ..support.errors import InputError
from .many import Many, Settings
from .pairs import NamedPair, Pairs

ALIGNMENT = "alignment"
_GEODESIC = "geodesic"
_NO_NAME = re.compile(r"[^A-Za-z0-9+._-]+")


@dataclass(frozen=True)
class Entrant:
    """A method with all its settings, by the name that was given."""

    name: str
    parameters: Parameters

    @property
    def folder(self) -> str:
        """Of its results."""
        return _NO_NAME.sub("-", self.name).strip(".-")


def entrant(text: str, changes: Mapping[str, Any]) -> Entrant:
    """A method in the words of --methods: METHOD, METHOD:MODEL, each with @PRESET or @geodesic; a preset alone is that
    of flash.

    Args:
        text: such as "default", "greedy", "greedy@geodesic", "deepflash+flash:hippocampus".
        changes: settings that all methods share.

    Raises:
        InputError: there is no such method, preset, or it lacks a model.
    """
    head, _, how = text.partition("@")
    method, _, model = head.partition(":")
    preset = how if how in PRESETS else "default"
    if method in PRESETS and not model and not how:
        method, preset = "flash", method
    known = [name for name, each in METHODS.items() if not each.needs_transform]
    if method not in known or (how and how not in (*PRESETS, _GEODESIC)):
        raise InputError(
            f"--methods: {text!r} is none. There are the presets {', '.join(PRESETS)}, and {', '.join(known)}, with "
            "the model after a colon (deepflash:hippocampus) and a preset, or geodesic, after an @ (greedy@geodesic)."
        )
    if how == _GEODESIC and not METHODS[method].dense:
        raise InputError(f"--methods: {text!r}: {method} finds a geodesic anyway.")
    try:
        settings = {**changes, "method": method, "model": model, "as_geodesic": how == _GEODESIC}
        return Entrant(text, Parameters.from_preset(preset, **settings))
    except ValueError as error:
        raise InputError(f"--methods: {text!r}: {error}") from error


@dataclass(frozen=True)
class Measured:
    """A pair by a method.

    Attributes:
        state: "done", "failed" (there is no result) or "open".
        reason: why there is none.
        metrics: of result.json.
        verdict: good, check or failed.
        seconds: of the registration, without reading and writing files.
        memory: the most that its process, and any it started, had taken until then, bytes; 0 if nobody knows.
    """

    pair: str
    method: str
    state: str
    reason: str = ""
    metrics: Mapping[str, Any] = field(default_factory=dict)
    verdict: str = ""
    seconds: float = math.nan
    memory: int = 0

    def figure(self, *path: str) -> float:
        """A number among the metrics; nan if it is not there."""
        value: Any = self.metrics
        for name in path:
            value = value.get(name) if isinstance(value, Mapping) else None
        return float(value) if isinstance(value, (int, float)) else math.nan


class Comparison:
    """Pairs by all methods: OUT/alignment/PAIR and OUT/METHOD/PAIR are results of their own, and jobs as those of
    register-many."""

    def __init__(
        self, pairs: Pairs, entrants: Sequence[Entrant], out: str | os.PathLike, settings: Settings, force: bool = False
    ) -> None:
        """``settings``: but for the parameters.

        Raises:
            InputError: two methods are one, or one cannot be used; an output is taken by something else.
        """
        self.pairs, self.out, self.settings, self.force = pairs, Path(out), settings, force
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
        self._aligning = self._many(ALIGNMENT, still, pairs.rows, ["affine"])
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
            many = self._many(each.folder, each.parameters, self._aligned(), ["report"])
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
        if result is None:
            without = self._failed.get((ALIGNMENT, pair.name)) or self._aligning.ledger.failed(pair.name)
            if without is not None and name != ALIGNMENT:
                return Measured(pair.name, name, "failed", f"There is no alignment. {without.message}")
            return Measured(pair.name, name, "open")
        if not isinstance(result, Done):
            return Measured(pair.name, name, "failed", result.message)
        try:
            values = json.loads((self.out / folder / pair.name / SUMMARY).read_text(encoding="utf-8"))
            verdict = values["verdict"]["level"]
            metrics, seconds = values["metrics"], float(values["timings_seconds"]["total"])
        except (OSError, ValueError, LookupError, TypeError) as error:
            return Measured(pair.name, name, "failed", f"Its {SUMMARY} cannot be read ({error}).")
        memory = result.value.get("memory_bytes") if isinstance(result.value, Mapping) else None
        return Measured(pair.name, name, "done", "", metrics, verdict, seconds, int(memory or 0))
