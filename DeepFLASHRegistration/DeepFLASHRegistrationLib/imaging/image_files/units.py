# SPDX-License-Identifier: Apache-2.0
"""Units of length by the names that image files have for them."""

from __future__ import annotations

from collections.abc import Sequence

_MILLIMETERS = {
    1e-6: ("nm", "nanometer", "nanometre"),
    1e-3: ("um", "µm", "μm", "micron", "micrometer", "micrometre"),
    1.0: ("mm", "millimeter", "millimetre"),
    10.0: ("cm", "centimeter", "centimetre"),
    1e3: ("m", "meter", "metre"),
    25.4: ("in", "inch"),
}
_BY_NAME = {name: factor for factor, names in _MILLIMETERS.items() for name in names}


def scale_to_mm(units: Sequence[str]) -> float | None:
    """How many mm a unit is, the same for all axes; 1 where none is named, None if it is unknown or they differ."""
    names = {unit.strip().strip('"').lower() for unit in units} - {"", "none", "?", "???"}
    factors = {_BY_NAME.get(name, _BY_NAME.get(name.removesuffix("s"))) for name in names}
    if not factors:
        return 1.0
    return factors.pop() if len(factors) == 1 else None
