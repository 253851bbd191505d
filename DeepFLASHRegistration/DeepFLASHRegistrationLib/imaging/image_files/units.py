# SPDX-License-Identifier: Apache-2.0
"""Units of length and time by the names that image files have for them."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

_MILLIMETERS = {
    1e-6: ("nm", "nanometer", "nanometre"),
    1e-3: ("um", "µm", "μm", "micron", "micrometer", "micrometre"),
    1.0: ("mm", "millimeter", "millimetre"),
    10.0: ("cm", "centimeter", "centimetre"),
    1e3: ("m", "meter", "metre"),
    25.4: ("in", "inch"),
}
_SECONDS = {"s": 1.0, "sec": 1.0, "second": 1.0, "seconds": 1.0, "ms": 1e-3, "msec": 1e-3, "milliseconds": 1e-3}
_BY_NAME = {name: factor for factor, names in _MILLIMETERS.items() for name in names}


def scale_to_mm(units: Sequence[str]) -> float | None:
    """How many mm a unit is, the same for all axes; 1 where none is named, None if it is unknown or they differ."""
    names = {unit.strip().strip('"').lower() for unit in units} - {"", "none", "?", "???"}
    factors = {_BY_NAME.get(name, _BY_NAME.get(name.removesuffix("s"))) for name in names}
    if not factors:
        return 1.0
    return factors.pop() if len(factors) == 1 else None


def even_seconds(times: Sequence[str], unit: str) -> float:
    """From each of some times, as they are written, to the next; 0 if their unit is none of time, or they are no
    numbers that increase evenly."""
    scale = _SECONDS.get(unit.strip().lower(), 0.0)
    try:
        values = [float(time) for time in times]
    except ValueError:
        return 0.0
    steps = [after - before for before, after in itertools.pairwise(values)]
    even = bool(steps) and steps[0] > 0 and all(math.isclose(step, steps[0], rel_tol=1e-3) for step in steps)
    return scale * steps[0] if even else 0.0
