# SPDX-License-Identifier: Apache-2.0
"""Work in parts, side by side on the processors."""

from __future__ import annotations

import collections
import sys
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from .processors import cores

Item, Outcome = TypeVar("Item"), TypeVar("Outcome")
_MOST = 4  # what is bound by memory gains nothing from more


def side_by_side(work: Callable[[Item], Outcome], items: Iterable[Item]) -> Iterator[Outcome]:
    """What becomes of each item, in their order; only a few are worked on, or wait to be fetched, at a time.

    As many threads as torch is allowed, where it is in use; it then takes one in each, since its own would wait for
    each other after every short operation.
    """
    torch = sys.modules.get("torch")
    torch = torch if hasattr(torch, "set_num_threads") else None  # another thread may be importing it
    threads = min(_MOST, torch.get_num_threads() if torch else cores())
    if threads < 2:
        yield from map(work, items)
        return
    if torch:
        before = torch.get_num_threads()
        torch.set_num_threads(1)
    pending: collections.deque = collections.deque()
    pool = ThreadPoolExecutor(threads)
    try:
        for item in items:
            pending.append(pool.submit(work, item))
            if len(pending) > threads:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
        if torch:
            torch.set_num_threads(before)
