# SPDX-License-Identifier: Apache-2.0
import numpy as np
import pytest
from DeepFLASHRegistrationLib.imaging.grid import Grid
from DeepFLASHRegistrationLib.imaging.volume import Volume
from DeepFLASHRegistrationLib.imaging.working_grid import working_grid
from imaging_shapes import centered_grid, rotation, sampled, storages

OBLIQUE = centered_grid((45, 60, 50), (2, 2, 2), rotation((1, 2, 3), 30)[:, ::-1], (5, -8, 3))


def covered(grid: Grid, points: np.ndarray, margin: float) -> bool:
    """Whether all points lie at least `margin` mm inside the borders of the grid's voxels."""
    index = grid.physical_to_index(points)
    room = np.minimum(index + 0.5, np.array(grid.shape) - 0.5 - index) * grid.spacing
    return bool((room >= margin - 1e-6).all())


def foreground_points(volume: Volume) -> np.ndarray:
    return volume.grid.index_to_physical(np.argwhere(volume.data > 0))


@pytest.mark.parametrize("spacing", [None, 1.5, 2, 3.7])
@pytest.mark.parametrize("margin", [0, 12])
def test_foreground_and_margin_are_covered_and_little_more(spacing, margin) -> None:
    volume = sampled(OBLIQUE)
    grid = working_grid(volume, spacing_mm=spacing, margin_mm=margin)
    assert covered(grid, foreground_points(volume), margin)
    index = volume.grid.physical_to_index(foreground_points(volume))
    needed = (np.ptp(index, axis=0) + 1) * 2 + 2 * margin
    assert np.all(grid.extent < needed + 2 * grid.spacing)
    assert np.allclose(grid.direction, volume.grid.direction)
    assert np.allclose(grid.spacing, spacing or 2)


def test_voxels_of_unchanged_spacing_coincide_with_the_image() -> None:
    volume = sampled(OBLIQUE)
    offset = volume.grid.physical_to_index(working_grid(volume, margin_mm=7).origin)
    assert np.allclose(offset, np.round(offset))


def test_number_of_voxels_is_kept_to() -> None:
    volume = sampled(OBLIQUE)
    for limit in (30_000, 5000):
        grid = working_grid(volume, margin_mm=10, max_voxels=limit)
        assert 0.7 * limit < grid.size <= limit
        assert covered(grid, foreground_points(volume), 10)


def test_thick_slices_are_refined_to_twice_the_finest_spacing() -> None:
    volume = sampled(centered_grid((20, 110, 90), (5, 1, 1)))
    assert np.allclose(working_grid(volume, margin_mm=5).spacing, (2, 1, 1))
    coarse = working_grid(volume, margin_mm=5, max_voxels=20_000)
    assert coarse.spacing.max() <= 2 * coarse.spacing.min() + 1e-9
    assert coarse.size <= 20_000
    assert covered(coarse, foreground_points(volume), 5)


def test_whole_field_of_view_or_a_mask_can_be_covered() -> None:
    volume = sampled(OBLIQUE)
    assert working_grid(volume, whole=True).same_as(volume.grid)
    assert working_grid(volume.grid).same_as(volume.grid)
    mask_grid = centered_grid((30, 30, 30), (3, 3, 3))
    data = np.zeros(mask_grid.shape, np.uint8)
    data[10:14, 8:20, 15] = 1
    mask = Volume(mask_grid, data)
    grid = working_grid(volume, mask=mask, margin_mm=4)
    assert covered(grid, mask_grid.index_to_physical(np.argwhere(data)), 4)
    assert grid.size < volume.grid.size / 4


def test_same_place_whatever_the_storage() -> None:
    boxes = {tuple(np.round(working_grid(v, margin_mm=6).center, 6)) for v in storages(sampled(OBLIQUE))}
    assert len(boxes) == 1


def test_2d_and_slices_keep_their_plane() -> None:
    flat = sampled(centered_grid((60, 50), (2, 2)))
    assert working_grid(flat, margin_mm=5).ndim == 2
    solid = Grid((1, 60, 50), OBLIQUE.affine).flattened()
    grid = working_grid(solid, margin_mm=5)
    assert np.array_equal(grid.plane, solid.plane)
    assert grid.slice_axis == solid.slice_axis


def test_impossible_wishes_are_refused() -> None:
    for wrong in ({"spacing_mm": 0}, {"spacing_mm": -1}, {"margin_mm": -1}):
        with pytest.raises(ValueError, match="must"):
            working_grid(OBLIQUE, **wrong)
