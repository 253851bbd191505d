# SPDX-License-Identifier: Apache-2.0
"""How long a task still takes: what is expected of its phases, corrected by what was observed of them."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping

# So much of what is expected in all counts as if it had been observed: a pace seen over a moment says little.
_PRIOR = 0.1
# A phase that has used up this part of what was left of it is late: nobody knows more than that it goes on.
_LATE = 0.8
# What is learned is remembered as a ratio within these: beyond them something else than the computer was slow.
_RATIOS = (0.01, 200.0)


class Remaining:
    """Follows the phases of a task, in their order.

    Attributes:
        expected: seconds of each phase.
        spent: seconds of each phase that has ended.
    """

    def __init__(self, expected: Mapping[str, float], now: float | None = None) -> None:
        """The first phase begins. `expected`: in the order of the phases."""
        self.expected = dict(expected)
        self.spent: dict[str, float] = {}
        self._began = self._told = time.monotonic() if now is None else now
        self._phase, self._share = next(iter(self.expected)), 0.0

    def reached(self, phase: str, share: float = 0.0, now: float | None = None) -> None:
        """The task is in this phase, and so much of it is done (0 ... 1). An unknown phase is ignored."""
        now = time.monotonic() if now is None else now
        if phase not in self.expected:
            return
        if phase != self._phase:
            self.spent[self._phase] = self.spent.get(self._phase, 0.0) + now - self._began
            self._began, self._phase, self._share = now, phase, 0.0
        self._share, self._told = max(self._share, min(share, 1.0)), now

    def ended(self, now: float | None = None) -> None:
        """The last phase is over."""
        now = time.monotonic() if now is None else now
        self.spent[self._phase] = self.spent.get(self._phase, 0.0) + now - self._began

    def left(self, skip: tuple[str, ...] = (), now: float | None = None) -> float:
        """Seconds that are left.

        Args:
            skip: phases that will not be done, or not to their end.
        """
        now = time.monotonic() if now is None else now
        following = list(self.expected)[list(self.expected).index(self._phase) + 1 :]
        pace = self._pace()
        rest = sum(self.expected[phase] for phase in following if phase not in skip)
        if self._phase in skip:
            return pace * rest
        present, since = pace * (1 - self._share) * self.expected[self._phase], now - self._told
        late = since > _LATE * present
        return pace * rest + (since * (1 - _LATE) / _LATE if late else present - since)

    def _pace(self) -> float:
        """How many times as long as expected it takes. The start says nothing of it."""
        first = next(iter(self.expected))
        prior = _PRIOR * sum(self.expected.values())
        observed = sum(seconds for phase, seconds in self.spent.items() if phase != first)
        expected = sum(self.expected[phase] for phase in self.spent if phase != first)
        if self._phase != first:
            observed += self._told - self._began
            expected += self._share * self.expected[self._phase]
        return (observed + prior) / (expected + prior) if prior > 0 else 1.0

    def ratios(self) -> dict[str, float]:
        """Of each phase that has ended, how many times as long as expected it took."""
        return {phase: seconds / self.expected[phase] for phase, seconds in self.spent.items() if self.expected[phase]}


def learned(known: Mapping[str, float], ratios: Mapping[str, float]) -> dict[str, float]:
    """What is known of a computer after one more task.

    Args:
        known: by phase, how many times as long as on the computer of reference it takes; {} before the first task.
        ratios: how many times as long as by `known` it took (see `Remaining.ratios`).

    Returns:
        As `known`. The last task counts half (by the geometric mean), the one before it a quarter, and so on.
    """
    found = dict(known)
    for phase, ratio in ratios.items():
        weight = 0.5 if phase in known else 1.0
        factor = known.get(phase, 1.0) * max(ratio, 1e-9) ** weight
        found[phase] = min(max(factor, _RATIOS[0]), _RATIOS[1]) if math.isfinite(factor) else 1.0
    return found
