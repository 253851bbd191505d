# SPDX-License-Identifier: Apache-2.0
"""Damage to the bytes of a file, by a seed."""

from __future__ import annotations

import random
import re

_HUGE = (b"99999999999", b"-1", b"0", b"nan", b"inf", b"1e400", b"1e308", b"2147483647", b"4294967297", b"9" * 5000)


def damaged(content: bytes, seed: int) -> bytes:
    """The content with one to twenty changes: bytes flipped, cut, inserted and repeated, numbers made huge."""
    rng = random.Random(seed)
    data = bytearray(content)
    for _ in range(rng.choice((1, 1, 1, 2, 5, 20))):
        if not data:
            break
        at, kind = rng.randrange(len(data)), rng.randrange(7)
        if kind == 0:
            data[at] ^= 1 << rng.randrange(8)
        elif kind == 1:
            data[at] = rng.randrange(256)
        elif kind == 2:
            data[rng.randrange(min(len(data), 200))] = rng.choice((0, 255, 127, 32, 10))
        elif kind == 3:
            del data[at : at + rng.choice((1, 2, 8, 100, len(data)))]
        elif kind == 4:
            data[at:at] = rng.randbytes(rng.choice((1, 4, 50)))
        elif kind == 5:
            start = rng.randrange(len(data))
            data[at:at] = data[start : start + rng.choice((4, 40, 400))]
        else:
            numbers = list(re.finditer(rb"\d+(\.\d+)?", data))
            if numbers:
                number = rng.choice(numbers)
                data[number.start() : number.end()] = rng.choice(_HUGE)
    return bytes(data)
