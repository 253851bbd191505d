# SPDX-License-Identifier: Apache-2.0
"""Reading what the next job needs while this one computes."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Generic, TypeVar

_K = TypeVar("_K")
_V = TypeVar("_V")


class Ahead(Generic[_K, _V]):
    """Reads one thing ahead, in a thread of its own."""

    def __init__(self, read: Callable[[_K], _V]) -> None:
        """`read`: gives the value of a key, or raises what `take` will raise."""
        self._read = read
        self._threads = ThreadPoolExecutor(1, "deepflash-ahead")
        self._begun: tuple[_K, Future[_V]] | None = None

    def begin(self, key: _K) -> None:
        """Begins to read what will be taken next. Whatever was begun before and not taken is forgotten."""
        self._forget()
        self._begun = key, self._threads.submit(self._read, key)

    def take(self, key: _K) -> _V:
        """The value of a key: what was begun, if it is this one, else read now."""
        begun, self._begun = self._begun, None
        if begun is not None and begun[0] == key:
            return begun[1].result()
        if begun is not None:
            begun[1].cancel()
        return self._read(key)

    def _forget(self) -> None:
        if self._begun is not None:
            self._begun[1].cancel()
            self._begun = None
