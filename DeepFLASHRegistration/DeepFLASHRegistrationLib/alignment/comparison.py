# SPDX-License-Identifier: Apache-2.0
"""Two images at one level of the alignment: what their points give at a map, summed, on processors.

`device_comparison` does the same on a GPU.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple, Protocol, TypeVar

import numpy as np

from .pyramid import BINS, Pyramid, Sampler, mapped

Item, Outcome = TypeVar("Item"), TypeVar("Outcome")
_BLOCK = 16_384
_GRAM = 1024  # products of this length are too small for the BLAS to use threads of its own, beside ours


class Points(NamedTuple):
    """The points of the fixed image that count: float32 (d, n) relative to its center, values and bins (n,)."""

    places: np.ndarray
    values: np.ndarray
    bins: np.ndarray

    @classmethod
    def of(cls, fixed: Pyramid, level: int) -> Points:
        places, values, bins = fixed.points(level)
        return cls(np.ascontiguousarray((places - fixed.center).T, dtype=np.float32), values, bins)


class Comparing(Protocol):
    """What the search asks for."""

    points: Points

    def products(self, found: np.ndarray, measure: str, derivatives: bool) -> tuple[np.ndarray, np.ndarray | None]:
        """At a map (d, d+1): the products of the rows below with each other, and for the ratio their sums per bin.

        Rows: 1, fixed value, the derivatives of the moving value by the entries of a small change of the map, row by
        row (if asked for), moving value; over the points that the moving image shows. Float64.
        """

    def many(self, maps: Sequence[np.ndarray]) -> list[tuple[np.ndarray, np.ndarray]]:
        """`products` for the ratio, without derivatives, at many maps."""

    def sampled(self, found: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The moving values at the points (n,), and where they are known."""

    def each(self, work: Callable[[Item], Outcome], items: Sequence[Item]) -> list[Outcome]:
        """What becomes of each item by a work that asks for products, side by side where that is faster."""


class Comparison:
    """See Comparing. Sums are taken over fixed blocks in fixed order: they do not depend on the threads."""

    def __init__(self, fixed: Pyramid, moving: Pyramid, level: int, pool: ThreadPoolExecutor) -> None:
        points, sampler = pool.submit(Points.of, fixed, level), pool.submit(Sampler, moving, level)
        self.points, self.sampler, self.pool = points.result(), sampler.result(), pool
        self._starts = range(0, self.points.places.shape[1], _BLOCK)

    def products(self, found: np.ndarray, measure: str, derivatives: bool) -> tuple[np.ndarray, np.ndarray | None]:
        spread = map if len(self._starts) == 1 else self.pool.map
        blocks = list(
            spread(lambda begin: self._block(slice(begin, begin + _BLOCK), found, measure, derivatives), self._starts)
        )
        return sum(b[0] for b in blocks), None if measure == "correlation" else sum(b[1] for b in blocks)

    def many(self, maps: Sequence[np.ndarray]) -> list[tuple[np.ndarray, np.ndarray]]:
        return self.each(lambda found: self.products(found, "ratio", False), maps)

    def each(self, work: Callable[[Item], Outcome], items: Sequence[Item]) -> list[Outcome]:
        # Work that itself waited for the pool could wait for ever.
        return list((self.pool.map if len(self._starts) == 1 else map)(work, items))

    def sampled(self, found: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        values, valid = self.sampler(mapped(found, self.points.places), False)
        return values[0], valid

    def _block(
        self, part: slice, found: np.ndarray, measure: str, derivatives: bool
    ) -> tuple[np.ndarray, np.ndarray | None]:
        places, values, bins = (x[..., part] for x in self.points)
        d = len(places)
        points = mapped(found, places)
        sampled, valid = self.sampler(points, derivatives)
        n = points.shape[1]
        rows = np.zeros((3 + derivatives * d * (d + 1), -(-n // _GRAM) * _GRAM), np.float32)
        rows[0, :n] = valid
        np.multiply(values, valid, out=rows[1, :n])
        np.multiply(sampled[0], valid, out=rows[-1, :n])
        if derivatives:
            # d/d(change) of value(point + change @ (point, 1)), row by row of change.
            first = 2
            for slope in sampled[1:] * valid:
                np.multiply(points, slope, out=rows[first : first + d, :n])
                rows[first + d, :n] = slope
                first += d + 1
        parts = rows.reshape(len(rows), -1, _GRAM).transpose(1, 0, 2)
        gram = (parts @ parts.transpose(0, 2, 1)).sum(0, dtype=np.float64)
        if measure == "correlation":
            return gram, None
        return gram, np.stack([np.bincount(bins, row[:n], BINS) for row in rows], 1)
