# SPDX-License-Identifier: Apache-2.0
"""Which slices make one volume: same series, orientation, size and voxels, and each position once."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from .slices import Slice
from .strays import is_regular, strays_of

_SAME = 1e-3  # of direction cosines and, relatively, of spacings
_SAME_PLACE = 0.01  # mm along the normal
_COMPARED = 50  # groups; more are not looked through, which takes time
_FEW = 5  # fewer slices are no stack of their own
# Marks that no volume mixes, also where one kind of slice follows the other.
_OF_CONTRAST = ("echo", "echo time", "b-value", "inversion time", "image type", "flip angle")
# Values that may differ from slice to slice of one volume tell volumes apart only if each is complete.
_OF_A_MOMENT = ("acquisition time", "content time", "trigger time")


@dataclass(frozen=True, eq=False)
class Stack:
    """The slices of one volume, along the normal of the first.

    Attributes:
        slices: in order of their positions.
        marks: what tells it from others of its series.
    """

    slices: tuple[Slice, ...]
    marks: dict[str, str]

    @property
    def files(self) -> list[Path]:
        """The files of its slices."""
        return list(dict.fromkeys(part.file for part in self.slices))

    @property
    def heights(self) -> np.ndarray:
        """(n,) mm along the normal of the first slice, from it."""
        return _heights(self.slices)

    @property
    def confused(self) -> bool:
        """Whether slices lie at the same place, and nothing tells which of them belong together."""
        return len(self.slices) > 1 and bool((np.diff(self.heights) <= _SAME_PLACE).any())

    @property
    def title(self) -> str:
        """How a message calls it."""
        first = self.slices[0]
        size = "{1}x{0}".format(*first.shape)
        count = f"{len(self.slices)} slices of {size}" if len(self.slices) > 1 else f"one image of {size}"
        words = [first.title, count, *([] if not first.color else ["in color"]), *(["scout"] if first.scout else [])]
        return ", ".join([*words, *(f"{name} {value[:60]}" for name, value in self.marks.items())])


def stacks_of(slices: Iterable[Slice]) -> list[Stack]:
    """The slices put together to volumes, each as long as possible; strays (scouts) of the same kind apart."""
    return [part for alike in _alike(slices) for stack in _volumes(alike) for part in _without_strays(stack)]


def _alike(slices: Iterable[Slice]) -> list[list[Slice]]:
    """Groups of one series, orientation, size and kind; copies of the same slice once."""
    groups: dict[tuple, list[list[Slice]]] = {}
    seen = set()
    for part in sorted(slices, key=lambda s: (s.series, s.number, str(s.file), s.frame)):
        uid = part.header.text(0x00080018)
        if uid and not part.damage:
            if (uid, part.frame) in seen:
                continue
            seen.add((uid, part.frame))
        key = (part.series, part.shape, part.color, part.scout, part.position is None)
        near = groups.setdefault(key, [])
        group = next((g for g in near[-_COMPARED:] if _parallel(g[0], part)), None)
        if group is None:
            near.append([part])
        else:
            group.append(part)
    return [group for near in groups.values() for group in near]


def _parallel(a: Slice, b: Slice) -> bool:
    return np.abs(a.axes - b.axes).max() <= _SAME and bool((np.abs(a.spacing - b.spacing) <= _SAME * a.spacing).all())


def _heights(slices: Sequence[Slice]) -> np.ndarray:
    first = slices[0]
    if first.position is None:
        return np.zeros(len(slices))
    return np.array([(part.position - first.position) @ first.normal for part in slices])


def _stack(slices: Sequence[Slice], marks: dict[str, str]) -> Stack:
    order = np.argsort(_heights(slices), kind="stable")
    return Stack(tuple(slices[k] for k in order), marks)


def _volumes(alike: list[Slice]) -> list[Stack]:
    """Slices that are alike, as volumes that hold each place once."""
    heights = _heights(alike)
    order = np.argsort(heights, kind="stable")
    ends = np.diff(heights[order]) > _SAME_PLACE
    places = np.empty(len(alike), int)
    places[order] = np.concatenate([[0], np.cumsum(ends)])
    count = int(places.max()) + 1
    if count == len(alike):
        return _of_several_kinds(alike) or [_stack(alike, {})]
    differing = [n for n in _names(alike) if len({p.marks.get(n, "") for p in alike}) > 1]

    def split(names: Sequence[str], complete: bool) -> list[Stack] | None:
        return _split(alike, places, lambda k: tuple(alike[k].marks.get(n, "") for n in names), names, complete)

    for name in differing:
        if found := split([name], True):
            return found
    for several in range(2, len(differing) + 1):
        if found := split(differing[:several], True):
            return found
    passed: Counter[int] = Counter()
    turns = []
    for place in places:  # which of the slices at its place it is, by InstanceNumber
        turns.append((str(passed[place]),))
        passed[place] += 1
    if len(set(passed.values())) == 1 and (found := _split(alike, places, lambda k: turns[k], ["repetition"], True)):
        return found
    for name in differing:
        if name not in _OF_A_MOMENT and (found := split([name], False)):
            return found
    return [_stack(alike, {})]


def _of_several_kinds(alike: list[Slice]) -> list[Stack] | None:
    """Slices at places of their own that are not of one volume: what is marked otherwise is woven into it, or follows.

    Two echoes half a step apart, say, or scouts of another thickness: a mark splits the slices into stacks that are
    each regular, or into one that is, where all together are not, and a few others, each an image of its own.
    """
    whole = _stack(alike, {}).slices
    for name in _names(alike):
        if name in (*_OF_A_MOMENT, "acquisition"):  # a stack may be acquired in passes
            continue
        groups: dict[str, list[Slice]] = {}
        for part in whole:
            groups.setdefault(part.marks.get(name, ""), []).append(part)
        if len(groups) < 2:
            continue
        regular = [g for g in groups.values() if len(g) >= _FEW and is_regular(g)]
        if len(regular) == len(groups) and (name in _OF_CONTRAST or _woven(regular, whole)):
            return [_stack(members, {name: value}) for value, members in groups.items()]
        if len(regular) == 1 and 3 * len(regular[0]) >= 2 * len(whole) and not is_regular(whole):
            others = [part for part in whole if part not in regular[0]]
            return [_stack(regular[0], {}), *(_stack([part], {name: part.marks.get(name, "")}) for part in others)]
    return None


def _woven(groups: Sequence[Sequence[Slice]], whole: Sequence[Slice]) -> bool:
    """Whether slices of one group lie between those of another."""
    order = {id(part): k for k, part in enumerate(whole)}
    spans = sorted((order[id(g[0])], order[id(g[-1])]) for g in groups)
    return any(b[0] < a[1] for a, b in zip(spans, spans[1:]))


def _without_strays(stack: Stack) -> list[Stack]:
    """The stack without one or two files that keep it from being regular, and each of them as an image of its own."""
    strays = strays_of(stack.slices)
    kept = tuple(part for part in stack.slices if part not in strays)
    if not strays or {part.file for part in strays} & {part.file for part in kept}:
        return [stack]
    return [Stack(kept, stack.marks), *(Stack((part,), stack.marks) for part in strays)]


def _names(slices: Sequence[Slice]) -> list[str]:
    return list(dict.fromkeys(name for part in slices for name in part.marks))


def _split(
    slices: Sequence[Slice], places: np.ndarray, key: Callable[[int], tuple], names: Sequence[str], complete: bool
) -> list[Stack] | None:
    """The slices by a key, if each group has a place at most once (complete: exactly once); else None."""
    groups: dict[tuple, list[int]] = {}
    for k in range(len(slices)):
        groups.setdefault(key(k), []).append(k)
    count = int(places.max()) + 1
    for members in groups.values():
        if len(set(places[members])) != len(members) or (complete and len(members) != count):
            return None
    return [_stack([slices[k] for k in members], dict(zip(names, value))) for value, members in groups.items()]
