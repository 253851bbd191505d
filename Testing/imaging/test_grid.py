# SPDX-License-Identifier: Apache-2.0
import subprocess
import sys

import numpy as np
import pytest
import SimpleITK as sitk
from DeepFLASHRegistrationLib.imaging.grid import Grid
from DeepFLASHRegistrationLib.imaging.volume import Volume
from imaging_shapes import centered_grid, rotation, storages


def oblique() -> Grid:
    return centered_grid((5, 6, 7), (3, 1, 2), rotation((1, 2, 3), 40)[:, ::-1], (10, -20, 30))


def test_index_and_physical_agree_with_simpleitk() -> None:
    image = sitk.Image([7, 6, 5], sitk.sitkFloat32)
    image.SetSpacing((2, 1, 3))
    image.SetOrigin((4, 5, -6))
    image.SetDirection(rotation((1, 2, 3), 40).ravel().tolist())
    grid = Grid.from_image(image)
    for index in ((0, 0, 0), (4, 5, 6), (1.5, 0.25, 3)):
        there = image.TransformContinuousIndexToPhysicalPoint(index[::-1])
        assert np.allclose(grid.index_to_physical(index), there)
        assert np.allclose(grid.physical_to_index(there), index)
    assert np.allclose(grid.spacing, (3, 1, 2))
    again = grid.apply_to(sitk.Image([7, 6, 5], sitk.sitkUInt8))
    assert np.allclose(again.GetDirection(), image.GetDirection())
    assert np.allclose(again.GetSpacing(), image.GetSpacing())
    assert np.allclose(again.GetOrigin(), image.GetOrigin())


def test_center_and_corners_do_not_depend_on_storage() -> None:
    volume = Volume(oblique(), np.zeros((5, 6, 7), np.float32))
    expected = sorted(map(tuple, volume.grid.corners().round(6)))
    stored = storages(volume)
    assert len(stored) == 48
    for other in stored:
        assert np.allclose(other.grid.center, volume.grid.center)
        assert sorted(map(tuple, other.grid.corners().round(6))) == expected


def test_padded_adds_voxels_where_asked() -> None:
    grid = oblique()
    padded = grid.padded((1, 2, 3), (0, 1, -2))
    assert padded.shape == (6, 9, 8)
    assert np.allclose(padded.index_to_physical((1, 2, 3)), grid.origin)
    assert grid.padded(2).shape == (9, 10, 11)


@pytest.mark.parametrize("factor", [2, 3, (1, 2, 4)])
def test_averaged_voxels_lie_in_the_middle_of_those_they_average(factor) -> None:
    grid = centered_grid((12, 12, 12), (1, 2, 3))
    coarse = grid.resampled(factor=factor)
    factors = np.broadcast_to(factor, 3)
    assert coarse.shape == tuple(12 // factors)
    assert np.allclose(coarse.origin, grid.index_to_physical((factors - 1) / 2))
    assert np.allclose(coarse.center, grid.center)
    assert np.allclose(coarse.extent, grid.extent)


def test_resampled_by_spacing_keeps_the_field_of_view() -> None:
    grid = oblique()
    fine = grid.resampled(0.7)
    assert np.allclose(fine.extent, grid.extent)
    assert np.allclose(fine.center, grid.center)
    assert np.all(np.abs(fine.spacing / 0.7 - 1) < 0.15)


def test_same_as_tells_grids_apart() -> None:
    grid = oblique()
    assert grid.same_as(oblique())
    moved = grid.affine.copy()
    moved[0, 3] += 0.01
    assert not grid.same_as(Grid(grid.shape, moved))
    assert grid.same_as(Grid(grid.shape, moved), tolerance=0.1)
    assert not grid.same_as(grid.padded(1))


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_a_slice_becomes_flat_and_comes_back(axis: int) -> None:
    shape = [5, 6, 7]
    shape[axis] = 1
    solid = Grid(tuple(shape), oblique().affine)
    flat = solid.flattened()
    assert flat.ndim == 2
    assert flat.plane.shape == (4, 3)
    assert np.allclose(flat.lifted().affine, solid.affine)
    assert flat.lifted().shape == solid.shape
    index = [2, 3, 4]
    index[axis] = 0
    in_plane = flat.index_to_physical([i for a, i in enumerate(index) if a != axis])
    assert np.allclose(flat.lift(in_plane), solid.index_to_physical(index))
    assert np.allclose(flat.project(flat.lift(in_plane)), in_plane)


def test_slices_of_other_storage_share_coordinates() -> None:
    solid = Grid((1, 6, 7), oblique().affine)
    point = solid.index_to_physical((0, 2, 3))
    values = {
        tuple(v.grid.flattened().project(point).round(6))
        for v in storages(Volume(solid, np.zeros(solid.shape, np.float32)))
    }
    assert len(values) == 1


@pytest.mark.parametrize(
    ("shape", "affine", "message"),
    [
        ((4, 5), np.eye(4), "affine of shape"),
        ((4, 0, 5), np.eye(4), "no voxel"),
        ((4,), np.eye(2), "2 or 3 axes"),
        ((4, 5), np.full((3, 3), np.nan), "NaN"),
        ((4, 5), np.diag([1.0, 0, 1]), "no length"),
        ((4, 5), np.array([[1, 0.2, 0], [0, 1, 0], [0, 0, 1]]), "not orthogonal"),
    ],
)
def test_impossible_grids_are_refused(shape, affine, message) -> None:
    with pytest.raises(ValueError, match=message):
        Grid(shape, affine)


def test_affine_cannot_be_changed_behind_the_grid() -> None:
    with pytest.raises(ValueError, match="read-only"):
        oblique().affine[0, 0] = 3


def test_volume_refuses_an_array_of_another_shape() -> None:
    with pytest.raises(ValueError, match=r"same .* order"):
        Volume(oblique(), np.zeros((7, 6, 5)))


def test_grid_and_volume_import_neither_simpleitk_nor_torch() -> None:
    code = (
        "import sys; import DeepFLASHRegistrationLib.imaging.grid, DeepFLASHRegistrationLib.imaging.volume; "
        "assert 'SimpleITK' not in sys.modules and 'torch' not in sys.modules"
    )
    path = repr([p for p in sys.path if p])
    subprocess.run([sys.executable, "-c", f"import sys; sys.path[:0] = {path}; {code}"], check=True)


@pytest.mark.parametrize("direction", [np.eye(3), rotation((1, 2, 3), 40)])
def test_a_grid_contains_what_lies_in_its_voxels(direction) -> None:
    affine = np.eye(4)
    affine[:3, :3] = direction @ np.diag([1.0, 2.0, 3.0])
    affine[:3, 3] = 5, -7, 11
    grid = Grid((4, 5, 6), affine)
    index = np.array([(-0.49, 0, 0), (3.49, 4.49, 5.49), (-0.51, 0, 0), (0, 4.51, 0), (0, 0, 5.51), (1, 2, 3)])
    points = grid.index_to_physical(index)
    assert grid.contains(points).tolist() == [True, True, False, False, False, True]
    assert not grid.contains(np.full((1, 3), np.nan)).any()
    assert grid.contains(points.reshape(2, 3, 3)).shape == (2, 3)


def test_a_block_lies_in_the_middle_of_its_voxels() -> None:
    grid = Grid((6, 4, 5), oblique().affine)
    blocks = grid.blocks((3, 2, 1))
    assert blocks.shape == (2, 2, 5)
    voxels = np.argwhere(np.ones((3, 2, 1))) + np.array([3, 2, 4])
    np.testing.assert_allclose(blocks.index_to_physical(np.array([1, 1, 4])), grid.index_to_physical(voxels).mean(0))
    np.testing.assert_allclose(blocks.extent, grid.extent)
    with pytest.raises(ValueError, match="do not divide"):
        grid.blocks((4, 2, 1))
