# SPDX-License-Identifier: Apache-2.0
"""Maps that were found elsewhere, taken as they are, as geodesics, and as where FLASH begins; known by formulas."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from DeepFLASHRegistrationLib.imaging.grid import Grid
from DeepFLASHRegistrationLib.problem.dense_map import DenseMap, inverted
from DeepFLASHRegistrationLib.problem.known_transform import KnownTransform
from DeepFLASHRegistrationLib.problem.parameters import Parameters
from DeepFLASHRegistrationLib.registration.register import register
from DeepFLASHRegistrationLib.support.errors import InputError
from registration_pairs import (
    bend,
    box,
    fixed_image,
    fixed_labels,
    intensities,
    moving_image,
    moving_labels,
    places,
    quick,
    storages,
    stored,
    turn,
)

pytest.importorskip("torch")


def known(function: Callable[[np.ndarray], np.ndarray], **more: object) -> KnownTransform:
    return KnownTransform("map.nii.gz", lambda points: (function(points), np.ones(len(points), dtype=bool)), **more)


def as_it_is(**changes: object) -> Parameters:
    return Parameters(method="transform", **changes)


def inside(volume: object) -> np.ndarray:
    """(n, d) places of voxels of the object."""
    return places(volume.grid)[volume.data > 0.2 * volume.data.max()]


@pytest.mark.parametrize("geodesic", [False, True], ids=["dense", "geodesic"])
def test_the_map_is_that_which_was_given(geodesic: bool) -> None:
    fixed, moving = fixed_image(), moving_image()
    result = register(
        fixed,
        moving,
        as_it_is(as_geodesic=geodesic),
        initial_map=known(bend),
        fixed_labels=fixed_labels(),
        moving_labels=moving_labels(),
        threads=1,
    )
    points = inside(fixed)
    error = np.linalg.norm(result.deformation.points(points, "fixed_to_moving") - bend(points), axis=-1)
    assert error.mean() < (0.3 if geodesic else 0.02)
    there = result.metrics["map_difference_mm"]
    assert there["mean"] == pytest.approx(error.mean(), abs=0.05)
    assert "map.nii.gz: the result differs from it by" in "\n".join(result.notes)
    back = result.deformation.points(bend(points), "moving_to_fixed")
    assert np.percentile(np.linalg.norm(back - points, axis=-1), 95) < (1.0 if geodesic else 0.1)
    assert result.deformation.timed == geodesic == ("velocity" in result.velocity)
    assert result.metrics["folds_strict"]["count"] == 0
    assert result.metrics["mean_dice_after"] > 0.9
    assert result.verdict.level == "good"
    # The warped image by the formula, at its voxels.
    expected = 1000 * intensities(bend(places(fixed.grid)))
    assert np.abs(result.warped.data - expected).mean() < 12


@pytest.mark.usefixtures("brief_agreement")
def test_flash_goes_on_from_a_map() -> None:
    fixed, moving = fixed_image(), moving_image()
    rough = known(lambda x: x + 0.7 * (bend(x) - x))
    before, after = (
        register(fixed, moving, quick(method=method, as_geodesic=method == "transform"), initial_map=rough, threads=1)
        for method in ("transform", "transform+flash")
    )
    assert after.metrics["similarity_after"] > before.metrics["similarity_after"] + 0.002
    points = inside(fixed)
    errors = [
        np.linalg.norm(r.deformation.points(points, "fixed_to_moving") - bend(points), axis=-1).mean()
        for r in (before, after)
    ]
    assert errors[1] < 0.9 * errors[0]
    assert after.deformation.timed
    assert {record["level"] for record in after.history} == {0, 1, 2, 3}


@pytest.mark.usefixtures("brief_agreement")
@pytest.mark.parametrize("order", range(0, 48, 5))
def test_the_map_is_the_same_however_images_are_stored(order: int) -> None:
    fixed, moving = fixed_image(box((18, 20, 16), 5.4)), moving_image(box((20, 18, 18), (5, 5.3, 5.2), turn(20)))
    usual, other = (
        register(
            stored(fixed, *way), stored(moving, *storages(3)[(7 * order) % 48]), as_it_is(), initial_map=known(bend)
        )
        for way in (storages(3)[0], storages(3)[order])
    )
    points = inside(fixed)
    for direction in ("fixed_to_moving", "moving_to_fixed"):
        np.testing.assert_allclose(
            *(r.deformation.points(points, direction) for r in (usual, other)), rtol=0, atol=0.02
        )


def test_an_affine_part_that_is_known_comes_last() -> None:
    matrix = np.eye(4)
    matrix[:3, :3] = turn(12) @ np.diag([1.05, 0.95, 1.1])
    matrix[:3, 3] = (4, -3, 6)
    grid = box((30, 32, 28), 3.2)

    def whole(x: np.ndarray) -> np.ndarray:
        return bend(x) @ matrix[:3, :3].T + matrix[:3, 3]

    object_ = fixed_image(grid).data > 0.2
    assert known(whole, linear=matrix).affine(grid, object_) is matrix
    fitted = known(whole).affine(grid, object_)
    # By normal equations in the voxels themselves.
    x = places(grid)[object_]
    design = np.column_stack([x, np.ones(len(x))])
    expected = np.linalg.solve(design.T @ design, design.T @ whole(x)).T
    np.testing.assert_allclose(fitted[:3], expected, atol=1e-6)


@pytest.mark.usefixtures("brief_agreement")
def test_of_a_plane_as_well() -> None:
    grid = box((40, 44), 2.4)
    fixed = fixed_image(grid)
    result = register(fixed, moving_image(box((42, 40), 2.5)), as_it_is(), initial_map=known(bend), threads=1)
    points = inside(fixed)
    np.testing.assert_allclose(result.deformation.points(points, "fixed_to_moving"), bend(points), atol=0.05)


# --------------------------------------------------------------------------------------------------- dense maps


def dense(shape: tuple[int, ...] = (20, 24, 22), spacing: float = 2.0) -> tuple[Grid, np.ndarray]:
    """A grid and a displacement (d, *shape) along its axes that rests at its border."""
    grid = box(shape, spacing, turn(30))
    x = np.stack(np.meshgrid(*(np.linspace(0, 1, n) for n in shape), indexing="ij"))
    bump = np.prod(np.sin(np.pi * x) ** 2, axis=0)
    return grid, (bump * np.array([3.0, -4.0, 2.5])[:, None, None, None]).astype(np.float32)


def test_the_inverse_leads_back() -> None:
    from scipy.ndimage import map_coordinates

    grid, u = dense()
    w, lost = inverted(u, grid)
    assert lost == 0
    at = np.indices(grid.shape) + w / 2.0
    there = w + np.stack([map_coordinates(c, at, order=1, mode="nearest") for c in u])
    assert np.abs(there).max() < 0.03


def test_what_has_no_inverse_is_counted() -> None:
    grid, u = dense()
    _, lost = inverted(4 * u, grid)
    assert 0 < lost < 0.5 * grid.size


def test_a_field_is_exact_at_its_own_voxels_and_rests_outside() -> None:
    grid, u = dense()
    affine = np.eye(4)
    affine[:3, :3], affine[:3, 3] = turn(10), (1, 2, 3)
    maps = DenseMap(grid, affine, u, inverted(u, grid)[0])
    x = places(grid)
    moved = (x + np.moveaxis(u, 0, -1) @ grid.direction.T) @ affine[:3, :3].T + affine[:3, 3]
    np.testing.assert_allclose(x + maps.displacement(grid, "fixed_to_moving"), moved, atol=1e-4)
    np.testing.assert_allclose(maps.points(x.reshape(-1, 3), "fixed_to_moving"), moved.reshape(-1, 3), atol=1e-4)
    far = np.array([[500.0, 0, 0]])
    np.testing.assert_allclose(maps.points(far, "fixed_to_moving"), far @ affine[:3, :3].T + affine[:3, 3])
    # Between voxels points and fields agree: Keys' convolution either way.
    between = grid.resampled(factor=[0.7] * 3)
    one = places(between) + maps.displacement(between, "fixed_to_moving")
    np.testing.assert_allclose(
        maps.points(places(between).reshape(-1, 3), "fixed_to_moving"), one.reshape(-1, 3), atol=1e-3
    )


def test_there_is_no_way_between_the_ends() -> None:
    grid, u = dense()
    maps = DenseMap(grid, np.eye(4), u, u)
    assert not maps.displacement(grid, "fixed_to_moving", 0).any()
    with pytest.raises(InputError, match="only its ends, 0 and 1, are known"):
        maps.displacement(grid, "fixed_to_moving", 0.5)
    with pytest.raises(InputError, match="as-geodesic"):
        maps.points(np.zeros((1, 3)), "fixed_to_moving", 0.5)


# ------------------------------------------------------------------------------------------------------ bad maps


def folding(x: np.ndarray) -> np.ndarray:
    """Exchanges voxels of the middle along one axis."""
    bump = np.exp(-((x / 14) ** 2).sum(-1))
    return x + np.stack([-20 * np.tanh(x[..., 0] / 8) * bump, *np.zeros((2, *x.shape[:-1]))], -1)


def test_a_map_that_folds_is_told_and_has_a_geodesic_nearby_that_does_not() -> None:
    fixed, moving = fixed_image(), moving_image()
    as_given = register(fixed, moving, as_it_is(), initial_map=known(folding), threads=1)
    assert as_given.metrics["folds_strict"]["count"] > 0
    assert as_given.verdict.level == "failed"
    assert any("map.nii.gz: folds at" in note and "(as_geodesic)" in note for note in as_given.notes)
    near = register(fixed, moving, as_it_is(as_geodesic=True), initial_map=known(folding), threads=1)
    assert near.metrics["folds_strict"]["count"] == 0
    assert near.metrics["map_difference_mm"]["mean"] < 3


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (lambda x: (x, x[:, 0] > 20), r"reaches \d+ % of the fixed object"),
        (lambda x: (x * [-1, 1, 1], np.ones(len(x), dtype=bool)), "mirrors or flattens"),
        (lambda x: (x * [1, 1, 0], np.ones(len(x), dtype=bool)), "mirrors or flattens"),
        (lambda x: (x + np.nan, np.ones(len(x), dtype=bool)), "no finite numbers"),
        (lambda x: (x + 900.0, np.ones(len(x), dtype=bool)), "do not overlap after the alignment"),
    ],
    ids=["too small", "mirrors", "flattens", "not finite", "elsewhere"],
)
@pytest.mark.parametrize("geodesic", [False, True], ids=["dense", "geodesic"])
def test_maps_that_cannot_be_are_refused(function: Callable, message: str, geodesic: bool) -> None:
    bad = KnownTransform("map.nii.gz", function)
    with pytest.raises(InputError, match=message):
        register(fixed_image(), moving_image(), as_it_is(as_geodesic=geodesic), initial_map=bad, threads=1)


@pytest.mark.parametrize(
    ("method", "given", "message"),
    [
        ("transform", None, "needs a transform from the fixed to the moving image"),
        ("flash", known(bend), 'Use the method "transform\\+flash"'),
    ],
)
def test_method_and_map_must_fit(method: str, given: KnownTransform | None, message: str) -> None:
    with pytest.raises(InputError, match=message):
        register(fixed_image(), moving_image(), quick(method=method), initial_map=given, threads=1)


@pytest.mark.usefixtures("brief_agreement")
def test_a_fit_is_cancelled_with_the_best_so_far() -> None:
    asked = iter(range(100))
    result = register(
        fixed_image(),
        moving_image(),
        as_it_is(as_geodesic=True),
        initial_map=known(bend),
        cancel=lambda: next(asked) > 14,
        threads=1,
    )
    assert result.cancelled
    assert result.deformation.timed
