# SPDX-License-Identifier: Apache-2.0
"""Objects that no registration was made for: refused, registered rightly, or doubted. No nonsense is good."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import registration_pairs as pairs
from DeepFLASHRegistrationLib.imaging.grid import Grid
from DeepFLASHRegistrationLib.imaging.volume import Volume
from DeepFLASHRegistrationLib.registration import metrics as m
from DeepFLASHRegistrationLib.registration.register import register
from DeepFLASHRegistrationLib.support.errors import InputError

pytest.importorskip("torch")
pytestmark = pytest.mark.usefixtures("fits_once")

Pair = tuple[Volume, Volume, np.ndarray]
FAR = np.array([200.0, 0, 0])


def two_objects() -> Pair:
    """The moving image shows the object, and a second one beside it."""
    grid = pairs.box((32, 30, 60), (3.0, 3.2, 3.1), center=(40.0, 0, 0))
    x = pairs.places(grid)
    both = np.maximum(pairs.intensities(x), pairs.intensities((x - (92, 0, 0)) * (1.2, 0.9, 1.3)))
    return pairs.fixed_image(), Volume(grid, both.astype(np.float32), "moving.nii.gz"), np.zeros(3)


def cut_on_three_sides() -> Pair:
    grid = pairs.box((22, 30, 24), (3.0, 3.2, 3.1), center=(14.0, 8.0, 12.0))
    return pairs.fixed_image(), pairs.moving_image(grid), np.zeros(3)


def empty_field() -> Pair:
    moving = pairs.moving_image()
    return pairs.fixed_image(), moving.with_data(np.zeros_like(moving.data)), np.zeros(3)


def noise() -> Pair:
    moving = pairs.moving_image()
    values = np.random.default_rng(0).normal(100, 10, moving.data.shape).astype(np.float32)
    return pairs.fixed_image(), moving.with_data(values), np.zeros(3)


def _block(grid: Grid, edge: tuple[int, ...], name: str, at: int = 0) -> Volume:
    data = np.zeros(grid.shape, np.float32)
    start = [(n - e) // 2 + at for n, e in zip(grid.shape, edge, strict=True)]
    data[tuple(slice(s, s + e) for s, e in zip(start, edge, strict=True))] = 500
    return Volume(grid, data, name)


def constant_plate() -> Pair:
    grid = pairs.box((28, 30, 26), 3.0)
    return _block(grid, (4, 20, 18), "fixed.nii.gz"), _block(grid, (4, 20, 18), "moving.nii.gz", 2), np.full(3, 6.0)


def eight_voxels() -> Pair:
    grid = pairs.box((28, 30, 26), 3.0)
    return _block(grid, (2, 2, 2), "fixed.nii.gz"), _block(grid, (2, 2, 2), "moving.nii.gz", 3), np.full(3, 9.0)


def far_apart() -> Pair:
    """200 mm between the headers' coordinates."""
    moving = pairs.moving_image()
    affine = moving.grid.affine.copy()
    affine[:3, 3] += FAR
    return pairs.fixed_image(), Volume(Grid(moving.grid.shape, affine), moving.data, moving.name), FAR


def mirrored_header() -> Pair:
    """Stored backwards along the first LPS axis, and the header says otherwise."""
    moving = pairs.moving_image()
    return pairs.fixed_image(), moving.with_data(np.ascontiguousarray(moving.data[..., ::-1])), np.full(3, np.nan)


ODD = (
    two_objects,
    cut_on_three_sides,
    empty_field,
    noise,
    constant_plate,
    eight_voxels,
    far_apart,
    mirrored_header,
)


# What the affine alignment makes of eight voxels is tested with it.
CASES = [
    (make, kind) for make in ODD for kind in ("affine", "centers", "none") if (make, kind) != (eight_voxels, "affine")
]


@pytest.mark.parametrize(("make", "alignment"), CASES, ids=lambda given: getattr(given, "__name__", given))
def test_no_nonsense_is_called_good(make: Callable[[], Pair], alignment: str) -> None:
    """What is good is right: within 5 % of the object's edge where the moving image shows it."""
    fixed, moving, away = make()
    try:
        result = register(fixed, moving, pairs.quick(initial_alignment=alignment), threads=1)
    except InputError as error:
        assert len(str(error)) > 20
        assert make in (empty_field, eight_voxels, far_apart)
        return
    assert np.isfinite(result.fixed_to_moving).all()
    assert make is not empty_field
    if result.verdict.level != "good":
        assert all(str(reason)[-1] in ".)" for reason in result.verdict.reasons)
        return
    points = m.grid_points(fixed.grid, pairs.parts(pairs.bend(pairs.places(fixed.grid))) > 0)
    true = pairs.bend(points) + away
    seen = moving.grid.contains(true)
    found = m.map_points(points, result.fixed_to_moving, result.field_grid)
    assert np.linalg.norm(found - true, axis=1)[seen].mean() < 0.05 * result.metrics["object_mm"]


def test_objects_without_anything_inside_are_never_good() -> None:
    """That outlines lie on each other says nothing about what is in them."""
    for make in (constant_plate, noise):
        fixed, moving, _ = make()
        result = register(fixed, moving, pairs.quick(initial_alignment="centers"), threads=1)
        assert result.verdict.level != "good", make.__name__
        assert result.metrics["agreement"]["share"] < 0.2
