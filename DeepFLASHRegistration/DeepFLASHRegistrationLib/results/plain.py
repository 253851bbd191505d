# SPDX-License-Identifier: Apache-2.0
"""Values as JSON says them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from ..imaging.grid import Grid

_MOST_VOXELS = 1 << 34


def plain(value: Any) -> Any:
    """The value in JSON's own types; what is not finite becomes null."""
    if isinstance(value, Mapping):
        return {str(k): plain(v) for k, v in value.items()}
    if isinstance(value, np.ndarray):
        return plain(value.tolist())
    if isinstance(value, (list, tuple)):
        return [plain(v) for v in value]
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def grid_values(grid: Grid) -> dict[str, Any]:
    """A grid in plain values."""
    values: dict[str, Any] = {"shape": list(grid.shape), "index_to_lps_mm": grid.affine.tolist()}
    if grid.plane is not None:
        values.update(plane=grid.plane.tolist(), slice_axis=grid.slice_axis, slice_step=grid.slice_step)
    if grid.frame_of_reference:
        values["frame_of_reference"] = grid.frame_of_reference
    return values


def grid_from(values: Mapping[str, Any]) -> Grid:
    """The grid of `grid_values`; ValueError for none that an image could have."""
    more = {k: values[k] for k in ("plane", "slice_axis", "slice_step", "frame_of_reference") if k in values}
    if math.prod(int(n) for n in values["shape"]) > _MOST_VOXELS:
        raise ValueError("a grid has too many voxels")
    return Grid(tuple(values["shape"]), np.array(values["index_to_lps_mm"]), **more)
