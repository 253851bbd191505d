# SPDX-License-Identifier: Apache-2.0
"""Landmarks with their names, and which of two lists belong together."""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np

from ..support.errors import InputError

_SHOWN = 8
_TRUST = re.compile(r"\btrust\s*[:=]?\s*(\d+(?:[.,]\d+)?|inf)", re.IGNORECASE)


@dataclass(frozen=True, eq=False)
class Landmarks:
    """A list of named points.

    Attributes:
        positions: (N, d) float64 LPS mm, d 2 or 3; rows of NaN are points without a position (not yet placed, missing).
        names: N; "" where there is none.
        source: the file or node, for messages.
        notes: what had to be guessed of it.
        trust: (N,) mm, to within which standard deviation each is known, where that is told and else NaN; infinite of
            one that is to be measured, and not to steer.

    Raises:
        ValueError: shapes disagree, or a trust is not above 0.
    """

    positions: np.ndarray
    names: tuple[str, ...]
    source: str = ""
    notes: tuple[str, ...] = ()
    trust: np.ndarray | None = None

    def __post_init__(self) -> None:
        positions = np.asarray(self.positions, dtype=np.float64)
        names = tuple(self.names)
        if positions.ndim != 2 or positions.shape[1] not in (2, 3) or len(positions) != len(names):
            raise ValueError(f"Landmarks of shape {positions.shape} with {len(names)} names. Pass (N, d) and N names.")
        trust = np.full(len(names), np.nan) if self.trust is None else np.asarray(self.trust, dtype=np.float64)
        if trust.shape != (len(names),) or (trust <= 0).any():
            raise ValueError(f"trust must be {len(names)} numbers of mm above 0 (or NaN), not {trust}.")
        object.__setattr__(self, "positions", positions)
        object.__setattr__(self, "names", names)
        object.__setattr__(self, "trust", trust)

    @property
    def defined(self) -> np.ndarray:
        """(N,) whether each has a position."""
        return ~np.isnan(self.positions).any(1)


@dataclass(frozen=True, eq=False)
class Pairs:
    """Landmarks that belong together.

    Attributes:
        fixed, moving: (N, d) LPS mm, N at least 1; row by row the same place of the anatomy.
        names: N; those of the fixed ones.
        notes: how they were paired, and what was left out.
        trust: (N,) mm, of both places together; NaN where neither tells it.
    """

    fixed: np.ndarray
    moving: np.ndarray
    names: tuple[str, ...]
    notes: tuple[str, ...]
    trust: np.ndarray

    @property
    def steers(self) -> np.ndarray:
        """(N,) whether each may steer, and is not only to be measured."""
        return ~np.isinf(self.trust)


def told_trust(description: str) -> float:
    """To within how many mm a description says that a landmark is placed ("trust 3 mm", "trust = inf"); else NaN."""
    found = _TRUST.search(description)
    return checked_trust(float(found.group(1).replace(",", "."))) if found else float("nan")


def checked_trust(value: float) -> float:
    """A trust in mm that is above 0, or NaN."""
    if value <= 0:
        raise InputError(f"says that a landmark is trusted to {value:g} mm. Give a number above 0, or inf.")
    return value


def paired(fixed: Landmarks, moving: Landmarks) -> Pairs:
    """Which landmarks belong together.

    Those of the same name, if the names are unique on both sides and the shorter list shares at least half of its own
    with the other; else by their order, if both lists are equally long. Then those without a position on either side
    are left out.

    Returns:
        Pairs, in the order of the fixed ones.

    Raises:
        InputError: neither is possible, or no pair has positions on both sides.
    """
    of_fixed, of_moving = fixed.source or "the fixed landmarks", moving.source or "the moving landmarks"
    where = {name: i for i, name in enumerate(moving.names)}
    common = [name for name in fixed.names if name in where]
    notes = [*fixed.notes, *moving.notes]
    if _unique(fixed) and _unique(moving) and 2 * len(common) >= min(len(fixed.names), len(moving.names)):
        chosen = np.array([i for i, name in enumerate(fixed.names) if name in where], dtype=int)
        partner = np.array([where[name] for name in common], dtype=int)
        for source, other, names in ((of_fixed, of_moving, fixed.names), (of_moving, of_fixed, moving.names)):
            rest = [name for name in names if name not in set(common)]
            if rest:
                notes.append(f"{source}: left out, because {other} has none of that name: {_listed(rest)}")
        if not np.array_equal(partner, np.sort(partner)):
            notes.append(f"{of_moving}: its order differs from that of {of_fixed}; they were paired by their names")
    elif len(fixed.names) == len(moving.names):
        chosen = partner = np.arange(len(fixed.names))
        if fixed.names != moving.names and any(fixed.names) and any(moving.names):
            notes.append(f"{of_moving}: paired with {of_fixed} by order, because their names do not agree")
    else:
        raise InputError(
            f"{of_fixed} has {len(fixed.names)} landmarks, {of_moving} {len(moving.names)}, and their names do not say "
            "which belong together. Give the same names on both sides, or one for one in the same order."
        )
    defined = np.stack([fixed.defined[chosen], moving.defined[partner]])
    if not defined.all():
        lost = [fixed.names[i] or f"number {i + 1}" for i in chosen[~defined.all(0)]]
        sides = [source for source, of_it in zip((of_fixed, of_moving), defined, strict=True) if not of_it.all()]
        notes.append(f"{' and '.join(sides)}: left out on both sides, because they have no position: {_listed(lost)}")
    chosen, partner = chosen[defined.all(0)], partner[defined.all(0)]
    if not len(chosen):
        raise InputError(f"{of_fixed} and {of_moving} have no landmark with a position on both sides. Place them.")
    one, other = fixed.trust[chosen], moving.trust[partner]
    return Pairs(
        fixed.positions[chosen],
        moving.positions[partner],
        tuple(fixed.names[i] for i in chosen),
        tuple(notes),
        np.where(np.isnan(one), other, np.where(np.isnan(other), one, np.hypot(one, other))),
    )


def _unique(landmarks: Landmarks) -> bool:
    return all(landmarks.names) and len(set(landmarks.names)) == len(landmarks.names)


def _listed(names: list[str]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(name if len(name) <= 40 else name[:40] + "…" for name in names[:_SHOWN]) + more
