# SPDX-License-Identifier: Apache-2.0
"""Fields that are computed where they are looked at: whatever part is asked for, in whatever way, the same numbers."""

from __future__ import annotations

import dataclasses
import tracemalloc

import numpy as np
import pytest
import registration_pairs as pairs
from DeepFLASHRegistrationLib.imaging.grid import Grid, stored
from DeepFLASHRegistrationLib.problem import field as field_module
from DeepFLASHRegistrationLib.problem.deformation import Deformation
from DeepFLASHRegistrationLib.problem.field import Field
from DeepFLASHRegistrationLib.registration.metrics import map_points

pytest.importorskip("torch")

DIRECTIONS = ("fixed_to_moving", "moving_to_fixed")


def deformation(d: int) -> Deformation:
    rng = np.random.default_rng(d)
    velocity = np.zeros((d, *[9] * d), np.float32)
    low = (slice(None), *[slice(0, 5)] * d)
    velocity[low] = rng.normal(size=(d, *[5] * d)) * 0.3
    affine = np.eye(d + 1)
    affine[:d] += 0.1 * rng.normal(size=(d, d + 1))
    domain = pairs.box((30, 36, 33)[:d], 2.0)
    return Deformation(domain, 1.25, velocity, 6.0, 2.0, 1.0, None, affine, 12.0)


def grids() -> dict[str, Grid]:
    """Along the domain's axes, beyond it on all sides; stored otherwise; turned; and a plane."""
    along = pairs.box((29, 40, 37), (2.5, 2.0, 1.7))
    return {
        "along": along,
        "stored otherwise": stored(along, (2, 0, 1), (True, False, True)),
        "turned": pairs.box((19, 23, 21), 3.0, pairs.turn(20)),
        "plane": pairs.box((41, 50), 1.6),
    }


@pytest.mark.parametrize("direction", DIRECTIONS)
@pytest.mark.parametrize("name", grids())
def test_every_part_is_the_same_part_of_the_whole(monkeypatch: pytest.MonkeyPatch, name: str, direction: str) -> None:
    grid = grids()[name]
    made = deformation(grid.ndim)
    whole = made.displacement(grid, direction)
    assert whole.std() > 0.5
    index = np.stack([np.random.default_rng(0).integers(0, n, 5000) for n in grid.shape], -1)
    inside = grid.padded(-3)
    crop = (slice(3, -3),) * grid.ndim
    for most in (0, 2**28):
        monkeypatch.setattr(field_module, "_KEPT_BYTES", most)
        field = made.field(grid, direction)
        assert (field.shape, field.nbytes, field.dtype) == (whole.shape, whole.nbytes, whole.dtype)
        for rows in (slice(0, 1), slice(3, 10), slice(-4, None), slice(None), slice(5, 5)):
            assert np.array_equal(field[rows], whole[rows])
        assert np.array_equal(field[2:9, 4:6], whole[2:9, 4:6])
        assert np.array_equal(field[..., 1], whole[..., 1])
        assert np.array_equal(field.at(index), whole[tuple(index.T)])
        part = field.inner(inside)
        assert np.array_equal(part[1:4], whole[crop][1:4])
        assert np.array_equal(part.at(np.array([[2] * grid.ndim])), whole[crop][(2,) * grid.ndim][None])
        assert np.array_equal(field, whole)
        assert np.array_equal(2 * field - 1, 2 * whole - 1)


def test_a_part_of_a_large_field_takes_the_memory_of_that_part(monkeypatch: pytest.MonkeyPatch) -> None:
    grid = pairs.box((120, 110, 100), 0.6)
    monkeypatch.setattr(field_module, "_KEPT_BYTES", 0)
    field = deformation(3).field(grid, "moving_to_fixed")
    tracemalloc.start()
    sums = [float(field[start : start + 8].sum()) for start in range(0, len(field), 8)]
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(sums) == 15
    assert peak < field.nbytes / 5


def test_a_small_field_is_computed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    grid = pairs.box((20, 22, 21), 3.0)
    field = deformation(3).field(grid, "fixed_to_moving")
    assert isinstance(field, Field)
    assert np.shares_memory(np.asarray(field), field[4:9])
    assert np.shares_memory(np.asarray(field.inner(grid.padded(-2))), np.asarray(field))


@pytest.mark.parametrize("d", [2, 3])
def test_the_order_in_which_directions_are_asked_for_changes_no_bit(d: int) -> None:
    grid = pairs.box((29, 40, 37)[:d], 2.0)
    both = deformation(d)
    for direction in (*DIRECTIONS, *reversed(DIRECTIONS)):
        assert np.array_equal(both.displacement(grid, direction), deformation(d).displacement(grid, direction))


@pytest.mark.parametrize("spacing", [(0.9, 1.1, 0.8), (4.0, 1.0, 1.3), (9.0, 7.0, 8.0)])
@pytest.mark.parametrize("direction", DIRECTIONS)
def test_fields_of_any_spacing_are_where_their_voxels_go_one_by_one(spacing: tuple[float, ...], direction: str) -> None:
    """Fine ones lie between the particles, coarse ones are particles, and of thick slices some axes are either."""
    made = deformation(3)
    made = dataclasses.replace(made, velocity=0.15 * made.velocity)
    grid = pairs.box(tuple(round(70 / h) for h in spacing), spacing, pairs.turn(15))
    field = np.asarray(made.field(grid, direction))
    at = pairs.places(grid)
    moved = made.points(at.reshape(-1, 3), direction).reshape(at.shape)
    error = np.linalg.norm(at + field - moved, axis=-1)
    assert np.linalg.norm(field, axis=-1).max() > 3
    assert error.mean() < 0.03  # nearly all of it where the velocity fades out
    if min(spacing) > 5:
        assert error.max() < 1e-4


@pytest.mark.parametrize("spacing", [2.0, 5.0])
def test_a_field_meant_between_voxels_is_nearer_there(spacing: float) -> None:
    """Whether its voxels lie between the particles, or are particles."""
    made = deformation(3)
    made = dataclasses.replace(made, velocity=0.15 * made.velocity)
    grid = pairs.box((round(60 / spacing),) * 3, spacing)
    inner = pairs.places(pairs.box((12, 12, 12), 2.3)).reshape(-1, 3)
    there = made.points(inner, "moving_to_fixed")
    plain, meant = (
        np.linalg.norm(map_points(inner, made.field(grid, "moving_to_fixed", between=way), grid) - there, axis=1)
        for way in (False, True)
    )
    assert meant.mean() < 0.8 * plain.mean()
    assert np.percentile(meant, 95) < 0.9 * np.percentile(plain, 95)
