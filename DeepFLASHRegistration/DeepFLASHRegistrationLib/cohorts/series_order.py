# SPDX-License-Identifier: Apache-2.0
"""In which order the items of a series are registered, what each starts from, and what counts in a mean over time."""

from __future__ import annotations

import math

# Of a Gaussian, in standard deviations: what lies beyond weighs less than 0.0004.
_REACH = 4.0


def from_reference(count: int, reference: int, cyclic: bool = False) -> list[tuple[int, int]]:
    """The items but the reference, from it outwards on both sides by turns, each with its neighbour on the way there.

    Args:
        count: of items.
        reference: one of them.
        cyclic: whether the first follows the last, so that either side has half of them.
    """
    ahead, behind = count - 1 - reference, reference
    if cyclic:
        ahead, behind = count // 2, (count - 1) // 2
    steps = [
        ((reference + sign * far) % count, (reference + sign * (far - 1)) % count, far, sign < 0)
        for sign, most in ((1, ahead), (-1, behind))
        for far in range(1, most + 1)
    ]
    return [(item, neighbour) for item, neighbour, *_ in sorted(steps, key=lambda step: step[2:])]


def weights_in_time(count: int, item: int, sigma: float, cyclic: bool = False) -> dict[int, float]:
    """Weights of the items whose mean is the Gaussian mean around one of them; their sum is 1, also at the ends of the
    series, beyond which there is nothing.

    Args:
        count: of items.
        item: in the middle.
        sigma: standard deviation, in items.
        cyclic: whether the first follows the last; then a wide Gaussian goes round.
    """
    reach = math.ceil(_REACH * sigma)
    found: dict[int, float] = {}
    for offset in range(-reach, reach + 1):
        other = item + offset
        if cyclic:
            other %= count
        elif not 0 <= other < count:
            continue
        found[other] = found.get(other, 0.0) + math.exp(-0.5 * (offset / sigma) ** 2)
    total = sum(found.values())
    return {other: weight / total for other, weight in sorted(found.items())}
