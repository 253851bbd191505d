# SPDX-License-Identifier: Apache-2.0
"""Landmarks: points with names."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, eq=False)
class Landmarks:
    """Points of one image.

    Attributes:
        positions: (N, d) LPS mm; a row of NaN where a point is known by name but was never placed.
        names: one per point, or none at all.
    """

    positions: np.ndarray
    names: tuple[str, ...] = ()
