# SPDX-License-Identifier: Apache-2.0
"""Fields in the scene: coarse enough to be small, fine enough to be the same map, and saved compressed."""

import gzip

import numpy as np
import pytest
from DeepFLASHRegistrationLib.registration.metrics import folded_voxels
from DeepFLASHRegistrationLib.scene.arrays import arrayFromImage, atOnce
from DeepFLASHRegistrationLib.scene.fields import gridTransform, transformedPoints
from DeepFLASHRegistrationLib.scene.inputs import Inputs
from DeepFLASHRegistrationLib.scene.lean_fields import _between, leanField
from DeepFLASHRegistrationLib.scene.outputs import writeResult
from scene_synthetic import Stretch, addVolume, makeGrid, makeResult, pointsOf, smooth

LPS = (-1, -1, 1)


def fieldOf(truth, grid):
    return (truth.fixedToMoving(pointsOf(grid)) - pointsOf(grid)).astype(np.float32)


def inSlicer(field, grid, points):
    """LPS points through Slicer's transform of a field."""
    return transformedPoints(gridTransform(field, grid), points * LPS) * LPS


def inside(grid, count=3000, border=5):
    rng = np.random.default_rng(0)
    return grid.index_to_physical(rng.uniform(border, np.array(grid.shape) - 1 - border, (count, 3)))


@pytest.mark.parametrize("spacing", [(1.0, 1.0, 1.0), (0.5, 0.5, 2.0), (3.0, 3.0, 3.0)])
def test_a_lean_field_is_the_same_map_on_a_coarser_grid(spacing):
    grid = makeGrid((56, 60, 64), spacing, tilt=0.2, flips=(1, -1, 1))
    truth = Stretch(0.4, 40.0)
    field, coarse = atOnce(leanField(fieldOf(truth, grid), grid))
    points = inside(grid)
    error = np.abs(inSlicer(field, coarse, points) - truth.fixedToMoving(points)).max(-1)
    assert error.max() < 0.15
    assert np.quantile(error, 0.99) < 0.1
    assert coarse.size < grid.size / 7
    assert field.shape == (*coarse.shape, 3)
    # It covers all but a voxel at the border.
    index = grid.physical_to_index(coarse.corners())
    assert index.min() <= 1
    assert (index.max(0) >= np.array(grid.shape) - 2).all()


def test_detail_that_coarser_samples_would_lose_keeps_its_grid():
    grid = makeGrid((56, 60, 64), (1.0, 1.0, 1.0))
    coarse = atOnce(leanField(fieldOf(Stretch(0.6, 9.0), grid), grid))[1]
    assert coarse.spacing[2] == 1.0
    assert (coarse.spacing[:2] > 1.0).all()  # along which nothing changes


def test_between_its_samples_it_is_what_slicer_makes_of_it():
    grid = makeGrid((40, 42, 44), (1.0, 1.2, 1.0), tilt=0.3)
    factors = (3, 2, 1)
    field = fieldOf(Stretch(0.5, 20.0), grid)[:: factors[0], :: factors[1], :: factors[2]]
    affine = grid.affine.copy()
    affine[:3, :3] *= factors
    coarse = type(grid)(field.shape[:3], affine)
    index = np.random.default_rng(1).integers(4, 36, (500, 3))
    points = grid.index_to_physical(index)
    expected = inSlicer(field, coarse, points) - points
    np.testing.assert_allclose(_between(field, np.zeros(3, int), factors, index), expected, atol=1e-4)


def test_a_steep_map_that_coarser_samples_would_fold_does_not_fold():
    grid = makeGrid((56, 60, 64), (1.0, 1.0, 1.0))
    points = pointsOf(grid)
    # Nearly flat, but for a narrow place where the map all but folds.
    field = np.zeros((*grid.shape, 3), np.float32)
    distance = points[..., 0] - 0.5
    near = np.exp(-((points[..., 1] / 2) ** 2) - (points[..., 2] / 2) ** 2)
    field[..., 0] = -0.97 * distance * np.exp(-((distance / 1.5) ** 2)) * near
    assert not folded_voxels(field, grid).any()

    def fine(lean, coarse):
        moved = np.stack([inSlicer(lean, coarse, row.reshape(-1, 3)).reshape(row.shape) for row in points])
        return folded_voxels((moved - points).astype(np.float32), grid)[3:-3, 3:-3, 3:-3].any()

    blind = atOnce(leanField(field, grid))
    assert blind[1].spacing.max() > 1  # too little of it to matter on average
    squeezed = np.argwhere(np.abs(distance) + np.abs(points[..., 1]) + np.abs(points[..., 2]) < 4)
    lean = atOnce(leanField(field, grid, squeezed))
    assert not fine(*lean)


@pytest.fixture
def nodes(scene):
    fixed, moving = makeGrid((40, 42, 44), (1.0, 1.0, 1.0)), makeGrid((44, 44, 44), (1.0, 1.0, 1.0), tilt=0.1)
    volumes = [addVolume(scene, grid, smooth(pointsOf(grid)), name) for grid, name in ((fixed, "f"), (moving, "m"))]
    return writeResult(makeResult(fixed, moving, Stretch(0.3, 40.0)), Inputs(*volumes))


def test_components_are_multiples_of_a_step_that_nobody_sees(nodes):
    for node in (nodes.transform, nodes.inverseTransform):
        values = arrayFromImage(node.GetTransformFromParent().GetDisplacementGrid()) * 2**8
        np.testing.assert_array_equal(values, np.rint(values))


def test_a_scene_is_saved_with_compressed_transforms_and_loaded_as_the_same_maps(scene, nodes, tmp_path):
    points = np.random.default_rng(0).uniform(-15, 15, (500, 3))
    names = [node.GetName() for node in (nodes.transform, nodes.inverseTransform)]
    expected = [
        transformedPoints(node.GetTransformFromParent(), points) for node in (nodes.transform, nodes.inverseTransform)
    ]
    assert scene.WriteToMRB(str(tmp_path / "scene.mrb"))
    scene.Clear(False)
    assert scene.ReadFromMRB(str(tmp_path / "scene.mrb"))
    for name, before in zip(names, expected, strict=True):
        node = scene.GetFirstNodeByName(name)
        # The very same: Slicer interpolates what it has read by cubics, and so does the node of a new result.
        np.testing.assert_allclose(transformedPoints(node.GetTransformFromParent(), points), before, atol=1e-5)
        assert node.GetStorageNode().GetFileName().endswith(".nii.gz")
        assert node.GetStorageNode().GetDefaultWriteFileExtension() == "nii.gz"  # also when it is saved again


def test_what_is_saved_compresses(nodes, tmp_path):
    storage = nodes.transform.GetStorageNode()
    storage.SetFileName(str(tmp_path / "transform.nii.gz"))
    assert storage.WriteData(nodes.transform)
    content = (tmp_path / "transform.nii.gz").read_bytes()
    assert len(content) < len(gzip.decompress(content)) / 4
