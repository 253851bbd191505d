# SPDX-License-Identifier: Apache-2.0
"""What the labels of a set mean: what is inside, what looks alike, and whether all subjects name the same things."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from ..support.errors import InputError
from .pack import FIRST_OUTSIDE

# A subject of whose labels fewer occur in most others is named by another scheme.
_SHARED = 0.5
# What FreeSurfer numbers on the right, and what the same is on the left.
FREESURFER_SIDES = dict(
    zip(
        (41, 42, 43, 44, 46, 47, 49, 50, 51, 52, 53, 54, 57, 58, 60, 62, 63, 163, 164),
        (2, 3, 4, 5, 7, 8, 10, 11, 12, 13, 17, 18, 25, 26, 28, 30, 31, 136, 137),
        strict=True,
    )
)


@dataclass(frozen=True)
class Naming:
    """What the labels of a set mean.

    Attributes:
        ignored: labels up to this number are no structures.
        outside: from this number on they lie around what is registered (a head around its brain); 0: none do.
        alike: labels and the one whose look they share when painted (left and right).
    """

    ignored: int = 0
    outside: int = 0
    alike: Mapping[int, int] = field(default_factory=dict)

    def is_inner(self, value: int) -> bool:
        """Whether a label is a structure of what is registered."""
        return value > self.ignored and not (self.outside and value >= self.outside)

    def codes(self, values: Sequence[int], where: str) -> dict[int, int]:
        """8-bit codes of labels.

        Raises:
            InputError: there are more than a pack holds.
        """
        inner = [v for v in values if self.is_inner(v)]
        outer = [v for v in values if v > self.ignored and not self.is_inner(v)]
        if len(inner) >= FIRST_OUTSIDE or len(outer) > 256 - FIRST_OUTSIDE:
            raise InputError(
                f"{where}: has {len(values)} labels; a pack holds {FIRST_OUTSIDE - 1} structures, and "
                f"{256 - FIRST_OUTSIDE} labels around them. Join some of them."
            )
        return {v: i + 1 for i, v in enumerate(inner)} | {v: FIRST_OUTSIDE + i for i, v in enumerate(outer)}


def sides(names: Mapping[int, str]) -> dict[int, int]:
    """Labels on the right, and those of the same names on the left."""
    known = {_words(name): number for number, name in names.items()}
    found = {}
    for number, name in names.items():
        words = _words(name)
        if "right" in words:
            left = known.get(tuple("left" if word == "right" else word for word in words))
            if left is not None:
                found[number] = left
    return found


def check_naming(labels: Sequence[tuple[str, Sequence[int]]], where: str) -> None:
    """InputError if some subjects name structures by another scheme than most do.

    Args:
        labels: names of subjects, and the labels that each has.
        where: what the message begins with.
    """
    count = Counter(value for _, values in labels for value in set(values))
    common = {value for value, n in count.items() if 2 * n > len(labels)}
    for name, values in labels:
        shared = len(common & set(values))
        if shared < _SHARED * len(set(values)):
            raise InputError(
                f"{where}: the labels of {name} are named unlike the others': {shared} of its {len(set(values))} occur "
                "in most subjects. Give the same structures the same numbers, or put the subjects of each scheme into "
                "a pack of their own."
            )


def painted(codes: np.ndarray, alike: Sequence[int]) -> np.ndarray:
    """An image of a code map, the same gray for a structure in every subject, by which they can be aligned; what lies
    outside stays dark."""
    like = np.array(alike, int)
    # Multiples of the golden ratio modulo 1 are far from each other, however many there are.
    table = np.zeros(256, np.float32)
    table[: len(like)] = 0.3 + 0.7 * (like * 0.61803399 % 1)
    table[0] = table[FIRST_OUTSIDE:] = 0
    return table[codes]


def _words(name: str) -> tuple[str, ...]:
    return tuple(re.findall(r"[^\s_,.-]+", name.lower()))
