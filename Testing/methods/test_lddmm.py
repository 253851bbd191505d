# SPDX-License-Identifier: Apache-2.0
"""LDDMM as a method: a dense map with its own inverse, or the geodesic near it."""

from __future__ import annotations

import numpy as np
import pytest
import registration_pairs as pairs
from DeepFLASHRegistrationLib.registration.register import register
from DeepFLASHRegistrationLib.support.errors import InputError

pytest.importorskip("torch")


@pytest.mark.parametrize("how", ["dense", "geodesic", "refined"])
def test_it_finds_the_map_and_its_inverse(how: str) -> None:
    fixed, moving = pairs.fixed_image(pairs.box((18, 20, 17), 5.2)), pairs.moving_image(pairs.box((19, 18, 18), 5.2))
    method = "lddmm+flash" if how == "refined" else "lddmm"
    parameters = pairs.quick(method=method, as_geodesic=how == "geodesic", initial_alignment="none")
    result = register(fixed, moving, parameters, threads=1)
    points = pairs.places(fixed.grid)[fixed.data > 0.3]
    moved = result.deformation.points(points, "fixed_to_moving")
    before = np.linalg.norm(pairs.bend(points) - points, axis=-1).mean()
    assert np.linalg.norm(pairs.bend(points) - moved, axis=-1).mean() < 0.65 * before
    back = result.deformation.points(moved, "moving_to_fixed")
    assert np.percentile(np.linalg.norm(back - points, axis=-1), 95) < 0.6
    assert result.deformation.timed == (how != "dense")
    assert result.metrics["folds_strict"]["count"] == 0
    levels = {record["level"] for record in result.history}
    assert levels == set(range({"dense": 2, "geodesic": 5, "refined": 6}[how]))


def test_of_a_plane_too_and_on_coarser_cells_than_the_grids() -> None:
    grid = pairs.box((40, 44), 2.4)
    parameters = pairs.quick(method="lddmm", resolutions=(4, 2))
    result = register(pairs.fixed_image(grid), pairs.moving_image(grid), parameters, threads=1)
    assert result.metrics["similarity_after"] > result.metrics["similarity_before"] + 0.005


def test_a_velocity_is_none_of_its_starts() -> None:
    fixed, moving = pairs.fixed_image(), pairs.moving_image()
    start = register(fixed, moving, pairs.quick(iterations=(1, 1)), threads=1).velocity
    with pytest.raises(InputError, match="starts from the images alone"):
        register(fixed, moving, pairs.quick(method="lddmm"), initial_velocity=start, threads=1)
