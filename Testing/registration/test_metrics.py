# SPDX-License-Identifier: Apache-2.0
"""Metrics against independent implementations (SimpleITK) and cases solved by hand."""

import itertools
import math
import time
from types import SimpleNamespace

import numpy as np
import pytest
import scipy.stats
import SimpleITK as sitk
import torch
from DeepFLASHRegistrationLib.imaging.grid import Grid
from DeepFLASHRegistrationLib.imaging.volume import Volume
from DeepFLASHRegistrationLib.registration import metrics as m
from DeepFLASHRegistrationLib.registration import voxelwise
from DeepFLASHRegistrationLib.registration.voxelwise import determinant_statistics, ncc
from DeepFLASHRegistrationLib.support.errors import InputError


def oblique(shape, spacing, turn=0.3, mirrored=False):
    d = len(shape)
    c, s = math.cos(turn), math.sin(turn)
    affine = np.eye(d + 1)
    if d == 3:
        turned = np.array([[c, -s, 0], [s, c, 0], [0, 0, 1]]) @ np.array([[1, 0, 0], [0, c, -s], [0, s, c]])
        affine[:3, :3] = turned * spacing
    else:
        affine[:2, :2] = np.array([[c, -s], [s, c]]) * spacing
    if mirrored:
        affine[:d, 0] *= -1
    affine[:d, d] = np.arange(d) * 7.0 - 30.0
    return Grid(tuple(shape), affine)


def centers(grid):
    return grid.index_to_physical(np.moveaxis(np.indices(grid.shape), 0, -1))


def smooth_field(grid, amplitude, seed=0):
    rng = np.random.default_rng(seed)
    x = centers(grid)
    d = grid.ndim
    waves, phases = rng.normal(0, 0.15, (d, d)), rng.uniform(0, 6, d)
    return (amplitude * np.sin(x @ waves.T + phases)).astype(np.float32)


GRIDS = {
    "3-D oblique": oblique((14, 17, 12), (2.0, 0.7, 1.3)),
    "3-D mirrored": oblique((14, 17, 12), (2.0, 0.7, 1.3), mirrored=True),
    "2-D oblique": oblique((23, 19), (0.6, 1.7)),
    "2-D mirrored": oblique((23, 19), (0.6, 1.7), mirrored=True),
}
every_grid = pytest.mark.parametrize("grid", GRIDS.values(), ids=GRIDS.keys())


# Jacobian determinant ---------------------------------------------------------------------------------------


@every_grid
def test_determinant_of_a_linear_map_is_exact_everywhere(grid):
    d = grid.ndim
    linear = np.eye(d) + np.random.default_rng(1).normal(0, 0.2, (d, d))
    field = centers(grid) @ (linear - np.eye(d)).T + 3.0
    found = m.jacobian_determinant(field.astype(np.float32), grid)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, np.linalg.det(linear), rtol=2e-4)


@every_grid
def test_determinant_agrees_with_itk_in_the_interior(grid):
    field = smooth_field(grid, 1.5)
    d = grid.ndim
    # ITK's filter takes the derivatives along the image's axes but leaves the components in the world's: give
    # it an image without direction, and the components along its axes (i, j, k).
    image = sitk.GetImageFromArray(field.astype(np.float64) @ grid.direction[:, ::-1], isVector=True)
    image.SetSpacing(grid.spacing[::-1].tolist())
    expected = sitk.GetArrayFromImage(sitk.DisplacementFieldJacobianDeterminant(image))
    inside = (slice(1, -1),) * d
    np.testing.assert_allclose(m.jacobian_determinant(field, grid)[inside], expected[inside], atol=2e-4)


def test_determinant_does_not_depend_on_the_slabs(monkeypatch):
    grid = GRIDS["3-D oblique"]
    field = smooth_field(grid, 3.0)
    whole = m.jacobian_determinant(field, grid)
    folds = m.folded_voxels(field, grid)
    monkeypatch.setattr(m, "SLAB_VOXELS", 1)
    np.testing.assert_array_equal(m.jacobian_determinant(field, grid), whole)
    np.testing.assert_array_equal(m.folded_voxels(field, grid), folds)


@pytest.mark.parametrize("measure", [m.jacobian_determinant, m.folded_voxels])
def test_field_that_does_not_fit_its_grid_is_refused(measure):
    grid = GRIDS["3-D oblique"]
    with pytest.raises(ValueError, match="shape"):
        measure(np.zeros((*grid.shape, 2), np.float32), grid)
    flat = Grid((1, 5, 5), np.eye(4))
    with pytest.raises(ValueError, match="two samples"):
        measure(np.zeros((1, 5, 5, 3), np.float32), flat)


def test_statistics_of_determinants():
    determinant = np.array([0.5, 2.0, -1.0, np.nan, 1.0], np.float32)
    found = determinant_statistics(determinant[[0, 1, 4]])
    assert found["folds"] == {"count": 0, "percent": 0.0}
    assert found["smallest_determinant"] == 0.5
    assert found["largest_determinant"] == 2.0
    assert found["sd_log_determinant"] == pytest.approx(np.std(np.log([0.5, 2, 1])))
    assert determinant_statistics(determinant)["folds"] == {"count": 2, "percent": 40.0}
    assert determinant_statistics(determinant, determinant > 0)["folds"]["count"] == 0
    with pytest.raises(ValueError, match="mask is empty"):
        determinant_statistics(determinant, np.zeros(5, bool))


# Folds ------------------------------------------------------------------------------------------------------


def folds_by_definition(field, grid):
    """Every simplex of every cell in float64, one at a time."""
    d, shape = grid.ndim, grid.shape
    y = centers(grid) + field.astype(np.float64)
    folded = np.zeros(shape, bool)
    step = grid.affine[:d, :d]

    def volume(vertices, reference):
        edges = np.stack([v - vertices[0] for v in vertices[1:]], -1)
        base = step @ np.stack([np.subtract(r, reference[0]) for r in reference[1:]], -1)
        return np.linalg.det(edges) / np.linalg.det(base)

    simplices = []
    corners = list(itertools.product((0, 1), repeat=d))
    for corner in corners:
        neighbors = [tuple(1 - c if a == axis else c for a, c in enumerate(corner)) for axis in range(d)]
        simplices.append(([corner, *neighbors], [corner]))
    if d == 3:
        for parity in (0, 1):
            four = [c for c in corners if sum(c) % 2 == parity]
            simplices.append((four, four))
    for cell in np.ndindex(*(n - 1 for n in shape)):
        for vertices, touched in simplices:
            at = [tuple(np.add(cell, v)) for v in vertices]
            if not volume([y[a] for a in at], vertices) > 0:
                for t in touched:
                    folded[tuple(np.add(cell, t))] = True
    return folded


@pytest.mark.parametrize("amplitude", [0.03, 0.25])
@pytest.mark.parametrize(
    "grid",
    [
        oblique((5, 7, 6), (2.0, 0.7, 1.3)),
        oblique((5, 7, 6), (2.0, 0.7, 1.3), mirrored=True),
        oblique((9, 8), (0.6, 1.7)),
    ],
    ids=["3-D", "3-D mirrored", "2-D"],
)
def test_strict_folds_agree_with_their_definition(grid, amplitude):
    field = np.random.default_rng(3).normal(0, amplitude, (*grid.shape, grid.ndim)).astype(np.float32)
    expected = folds_by_definition(field, grid)
    assert expected.any() == (amplitude > 0.1)
    assert not expected.all()
    np.testing.assert_array_equal(m.folded_voxels(field, grid), expected)


@every_grid
def test_maps_without_folds_have_none_and_mirror_images_are_folded_everywhere(grid):
    d = grid.ndim
    linear = np.diag(np.linspace(0.4, 2.5, d))
    field = (centers(grid) @ (linear - np.eye(d)).T).astype(np.float32)
    assert not m.folded_voxels(field, grid).any()
    linear[0, 0] *= -1
    field = (centers(grid) @ (linear - np.eye(d)).T).astype(np.float32)
    assert m.folded_voxels(field, grid).all()


@pytest.mark.parametrize("d", [2, 3])
def test_a_voxel_pushed_past_its_neighbor_is_missed_by_central_differences(d):
    grid = Grid((7,) * d, np.eye(d + 1))
    field = np.zeros((*grid.shape, d), np.float32)
    field[(3,) * d][..., 0] = 1.4  # array axis 0 is LPS x here: past the voxel at index 4
    assert m.jacobian_determinant(field, grid)[(3,) * d] > 0
    folded = m.folded_voxels(field, grid)
    assert folded[(3,) * d]
    assert folded[(4, *(3,) * (d - 1))]
    assert not folded[(0,) * d]


@pytest.mark.parametrize("d", [2, 3])
def test_checkerboard_is_invisible_to_central_differences_but_folded(d):
    grid = Grid((8,) * d, np.eye(d + 1))
    sign = (-1.0) ** np.indices(grid.shape).sum(0)
    field = np.repeat(0.6 * sign[..., None], d, axis=-1).astype(np.float32)
    inside = (slice(1, -1),) * d
    np.testing.assert_allclose(m.jacobian_determinant(field, grid)[inside], 1.0, atol=1e-6)
    assert m.folded_voxels(field, grid)[inside].all()


def test_what_is_not_a_number_is_folded():
    grid = Grid((6, 6, 6), np.eye(4))
    field = np.zeros((6, 6, 6, 3), np.float32)
    field[2, 3, 3, 1] = np.nan
    assert m.folded_voxels(field, grid)[2, 3, 3]
    assert determinant_statistics(m.jacobian_determinant(field, grid))["folds"]["count"] > 0


# Labels, similarity -----------------------------------------------------------------------------------------


def test_label_table_agrees_with_itk():
    rng = np.random.default_rng(5)
    blocks = rng.integers(0, 9, (5, 6, 4)).astype(np.int32)
    fixed = blocks.repeat(4, 0).repeat(4, 1).repeat(4, 2)
    before, after = np.roll(fixed, 3, 1), np.roll(fixed, 1, 2)
    table = m.label_table(fixed, before, after, 0.5, m.label_volumes(before, 2.0))
    assert list(table) == list(range(1, 9))
    for moved, key in ((before, "before"), (after, "after")):
        measure = sitk.LabelOverlapMeasuresImageFilter()
        measure.Execute(sitk.GetImageFromArray(moved), sitk.GetImageFromArray(fixed))
        for label, row in table.items():
            assert row[key] == pytest.approx(measure.GetDiceCoefficient(label), abs=1e-12)
    assert table[3]["volume_fixed_mm3"] == 0.5 * np.count_nonzero(fixed == 3)
    assert table[3]["volume_warped_mm3"] == 0.5 * np.count_nonzero(after == 3)
    assert table[3]["volume_moving_mm3"] == 2.0 * np.count_nonzero(before == 3)
    before_mean, after_mean = m.mean_dice(table)
    assert before_mean == pytest.approx(np.mean([row["before"] for row in table.values()]))
    assert after_mean == pytest.approx(np.mean([row["after"] for row in table.values()]))


def test_labels_that_one_image_lacks_are_not_compared_and_lost_labels_count_as_zero():
    fixed = np.array([[1, 1, 2, 3]], np.int32)
    moved = np.array([[1, 1, 0, 4]], np.int32)
    table = m.label_table(fixed, moved, moved, 1.0, {1: 2.0, 3: 1.0, 4: 1.0})
    assert table[1]["after"] == 1.0
    assert table[2]["after"] is None  # not in the moving labels
    assert table[4]["after"] is None  # not in the fixed labels
    assert table[3]["after"] == 0.0  # in both, lost on the way
    assert m.mean_dice(table) == (0.5, 0.5)
    assert all(math.isnan(v) for v in m.mean_dice({}))


@pytest.mark.parametrize("offset", [0, 14_000, 3_000_000, -5])
def test_labels_may_be_large_or_negative(offset):
    fixed = np.array([0, 1, 1, 2, 2, 2], np.int64)
    moved = np.array([0, 1, 2, 2, 2, 0], np.int64)
    a, b = (np.where(x > 0, x + offset, 0) for x in (fixed, moved))
    table = m.label_table(a, b, b, 1.0, m.label_volumes(b, 1.0))
    assert table[1 + offset]["after"] == pytest.approx(2 / 3)
    assert table[2 + offset]["after"] == pytest.approx(4 / 6)


def test_label_arrays_of_floats_or_of_other_shapes_are_refused():
    with pytest.raises(ValueError, match="integers"):
        m.label_volumes(np.zeros(3, np.float32), 1.0)
    with pytest.raises(ValueError, match="one shape"):
        m.label_table(np.zeros(3, int), np.zeros(4, int), np.zeros(3, int), 1.0, {})


def test_volume_change_in_percent():
    moving, warped = {1: 10.0, 2: 4.0, 3: 1.0, 5: 0.0}, {1: 15.0, 3: 3.0}
    assert m.volume_change(moving, warped) == {1: pytest.approx(50.0), 2: -100.0, 3: pytest.approx(200.0)}
    assert list(m.volume_change(moving, warped, smallest=2.0)) == [1, 2]


def test_ncc_agrees_with_numpy_also_for_large_offsets():
    rng = np.random.default_rng(0)
    a = rng.normal(0, 1, (30, 40, 41)).astype(np.float32)
    b = a + rng.normal(0, 1, a.shape).astype(np.float32)
    mask = rng.random(a.shape) > 0.7
    assert ncc(a, b) == pytest.approx(np.corrcoef(a.ravel(), b.ravel())[0, 1], abs=1e-9)
    assert ncc(a, -b, mask) == pytest.approx(-np.corrcoef(a[mask], b[mask])[0, 1], abs=1e-9)
    raised = a.astype(np.float64) + 1e6
    assert ncc(raised, b) == pytest.approx(ncc(a, b), abs=1e-6)


@pytest.mark.parametrize("voxels", [1, 700, 1 << 16])
def test_figures_do_not_depend_on_the_portions(monkeypatch, voxels):
    """Against NumPy's and SciPy's of the whole, as arrays and as tensors."""
    monkeypatch.setattr(voxelwise, "VOXELS", voxels)
    rng = np.random.default_rng(1)
    a, b, c = rng.normal(5, 1, (3, 11, 13, 12)).astype(np.float32)
    inside, labels = rng.random(a.shape) > 0.6, rng.integers(0, 5, (3, *a.shape)).astype(np.int16)
    for kind in (np.asarray, torch.from_numpy):
        found = voxelwise.similarities(kind(a), [kind(b), kind(c)], kind(inside))
        double = [x[inside].astype(np.float64) for x in (a, b, c)]
        assert found == pytest.approx([scipy.stats.pearsonr(double[0], x).statistic for x in double[1:]], abs=1e-9)
        spread = determinant_statistics(kind(a - 3), kind(inside))
        assert spread["sd_log_determinant"] == pytest.approx(np.std(np.log((a - 3)[inside & (a > 3)])), abs=1e-6)
        assert spread["folds"]["count"] == np.count_nonzero(inside & (a <= 3))
        for shift in (0, -7, 3_000_000):  # counted one by one, or listed
            shifted = np.where(labels > 0, labels.astype(np.int64) + shift, 0)
            names, counts = voxelwise.label_counts([kind(x) for x in shifted], [(0, 2)])
            assert names == [k + shift for k in range(1, 5)]
            wanted = [[np.count_nonzero(x == k) for k in range(1, 5)] for x in labels]
            both = [np.count_nonzero((labels[0] == k) & (labels[2] == k)) for k in range(1, 5)]
            assert counts.tolist() == [*wanted, both]


@pytest.mark.parametrize("kind", [np.bool_, np.uint8, np.uint16, np.uint32, ">i4"])
def test_labels_of_any_integers_are_counted(kind):
    labels = np.array([[0, 1, 1], [1, 0, 0]]).astype(kind)
    assert m.label_volumes(labels, 0.5) == {1: 1.5}


def test_ncc_of_a_constant_or_of_nothing_is_not_a_number():
    a = np.random.default_rng(0).random((4, 5))
    assert math.isnan(ncc(a, np.full_like(a, 0.1)))
    assert math.isnan(ncc(a, a, np.zeros(a.shape, bool)))
    with pytest.raises(ValueError, match="one shape"):
        ncc(a, a[:2])


# Maps of points ---------------------------------------------------------------------------------------------


@every_grid
def test_sampling_is_exact_for_linear_functions_and_not_a_number_outside(grid):
    d = grid.ndim
    slope = np.random.default_rng(2).normal(0, 1, (d, d))
    field = centers(grid) @ slope.T
    index = np.random.default_rng(3).uniform(0, 1, (50, d)) * (np.array(grid.shape) - 1)
    points = grid.index_to_physical(index)
    np.testing.assert_allclose(m.sample(field, grid, points), points @ slope.T, atol=1e-9)
    np.testing.assert_allclose(m.sample(field[..., 0], grid, points), points @ slope[0], atol=1e-9)
    corners = grid.corners()
    np.testing.assert_allclose(m.sample(field, grid, corners), corners @ slope.T, atol=1e-9)
    outside = grid.index_to_physical(np.array([[-0.1] * d, [*([0.0] * (d - 1)), grid.shape[-1]]]))
    assert np.isnan(m.sample(field, grid, outside)).all()
    assert np.isnan(m.sample(field, grid, np.full((1, d), np.nan))).all()


def test_sampling_a_grid_of_one_slice():
    grid = Grid((1, 3, 3), np.eye(4))
    values = np.arange(9.0).reshape(1, 3, 3)
    np.testing.assert_allclose(m.sample(values, grid, np.array([[0, 0.5, 1.0]])), [2.5])


def test_sampling_agrees_with_itk():
    grid = GRIDS["3-D oblique"]
    field = smooth_field(grid, 2.0)
    transform = sitk.DisplacementFieldTransform(
        grid.apply_to(sitk.GetImageFromArray(field.astype(np.float64), isVector=True))
    )
    index = np.random.default_rng(3).uniform(0.1, 0.9, (20, 3)) * (np.array(grid.shape) - 1)
    points = grid.index_to_physical(index)
    expected = [transform.TransformPoint(p) for p in points.tolist()]
    np.testing.assert_allclose(m.map_points(points, field, grid), expected, atol=1e-5)


def test_grid_points_take_all_or_an_even_part_of_the_mask():
    grid = GRIDS["3-D oblique"]
    mask = np.zeros(grid.shape, bool)
    mask[3:9, 4:10, 2:8] = True
    every = m.grid_points(grid, mask, limit=None)
    np.testing.assert_allclose(every, centers(grid)[mask])
    some = m.grid_points(grid, mask, limit=40)
    assert 20 <= len(some) <= 40
    assert {tuple(p) for p in some.round(6)} <= {tuple(p) for p in every.round(6)}
    assert len(m.grid_points(grid, limit=None)) == grid.size
    with pytest.raises(ValueError, match="mask"):
        m.grid_points(grid, mask[1:])


def test_inverse_error_of_translations_is_their_mismatch():
    grid = Grid((10, 11, 12), np.eye(4))
    forth, back = np.zeros((10, 11, 12, 3), np.float32), np.zeros((10, 11, 12, 3), np.float32)
    forth[..., 0], back[..., 0] = 2.0, -1.7
    points = m.grid_points(grid, limit=None)
    mapped = m.map_points(points, forth, grid)
    found = m.inverse_error(points, mapped, back, grid)
    assert found["mean"] == pytest.approx(0.3, abs=1e-6)
    assert found["p95"] == pytest.approx(0.3, abs=1e-6)
    assert found["max"] == pytest.approx(0.3, abs=1e-6)
    assert found["outside"] == pytest.approx(0.2)  # two of ten planes leave the inverse field's grid
    lost = m.inverse_error(points, mapped + 100.0, back, grid)
    assert math.isnan(lost["mean"])
    assert lost["outside"] == 1.0


def found_by(field, grid, affine=None):
    """What `truth_error` looks at of a Result whose warped image shows a box in the middle."""
    image = np.zeros(grid.shape, np.float32)
    image[tuple(slice(n // 3, 2 * n // 3) for n in grid.shape)] = 1
    return SimpleNamespace(
        fixed_grid=grid,
        field_grid=grid,
        warped=Volume(grid, image),
        fixed_to_moving=field,
        affine=np.eye(grid.ndim + 1) if affine is None else affine,
    )


@every_grid
def test_a_shift_from_the_truth_is_the_error_whatever_the_grid_of_the_truth(grid):
    """An affine map is linear between its samples, so any grid around the object gives the same numbers."""
    d = grid.ndim
    affine = np.eye(d + 1)
    affine[:d, :d] += 0.05 * np.diag(np.arange(d) - 1.0)
    shift = np.array([3.0, 4.0, 0.0])[:d]

    def field(where, extra=0.0):
        return (centers(where) @ (affine[:d, :d] - np.eye(d)).T + extra).astype(np.float32)

    for truth_grid in (grid, grid.padded(2).resampled(factor=2)):
        exact = m.truth_error(found_by(field(grid), grid, affine), truth_grid, field(truth_grid))
        assert exact == pytest.approx({"mean": 0, "p95": 0, "max": 0, "mean_before": 0}, abs=1e-4)
        off = m.truth_error(found_by(field(grid, shift), grid, affine), truth_grid, field(truth_grid))
        assert off == pytest.approx({"mean": 5, "p95": 5, "max": 5, "mean_before": 0}, abs=1e-4)
        before = m.truth_error(found_by(field(grid, shift), grid, affine), truth_grid, field(truth_grid, shift))
        assert before == pytest.approx({"mean": 0, "p95": 0, "max": 0, "mean_before": 5}, abs=1e-4)


def test_a_truth_that_covers_nothing_is_refused():
    grid = GRIDS["3-D oblique"]
    affine = grid.affine.copy()
    affine[:3, 3] += 1e4
    field = np.zeros((*grid.shape, 3), np.float32)
    with pytest.raises(InputError, match="does not cover"):
        m.truth_error(found_by(field, grid), Grid(grid.shape, affine), field)


def test_border_hits_count_points_outside_the_voxels_of_the_moving_image():
    grid = Grid((4, 4), np.eye(3))
    points = np.array([[0.0, 0.0], [-0.4, 3.4], [-0.6, 0.0], [np.nan, 1.0]])
    assert m.border_hits(points, grid) == 0.5
    assert math.isnan(m.border_hits(points[:0], grid))


def test_landmark_errors_in_mm():
    mapped = np.array([[3.0, 4.0, 0.0], [1.0, 1.0, 1.0], [np.nan] * 3])
    moving = np.array([[0.0, 0.0, 0.0], [1.0, 1.0, 1.0], [0.0, 0.0, 0.0]])
    np.testing.assert_allclose(m.landmark_errors(mapped, moving), [5.0, 0.0, np.nan])
    with pytest.raises(ValueError, match="pairs"):
        m.landmark_errors(mapped, moving[:2])


# Speed ------------------------------------------------------------------------------------------------------


def best_of(repeats, call):
    """CPU seconds of the quickest of some calls: what the code takes when nothing else disturbs."""
    seconds = []
    for _ in range(repeats):
        start = time.process_time()
        call()
        seconds.append(time.process_time() - start)
    return min(seconds)


def test_whole_brain_volumes_are_measured_quickly():
    # Three times the figures aimed at (0.25 s, 1 s, 0.06 s), for slower machines.
    shape = (128, 160, 128)
    grid = oblique(shape, (1.0, 1.2, 0.9))
    field = smooth_field(grid, 1.0)
    labels = np.random.default_rng(0).integers(0, 140, (16, 20, 16)).astype(np.int32)
    fixed = labels.repeat(8, 0).repeat(8, 1).repeat(8, 2)
    moved = np.roll(fixed, 2, 1)
    volumes = m.label_volumes(moved, 1.0)
    assert best_of(3, lambda: m.jacobian_determinant(field, grid)) < 0.75
    assert best_of(3, lambda: m.folded_voxels(field, grid)) < 3.0
    assert best_of(3, lambda: m.label_table(fixed, moved, moved, 1.0, volumes)) < 0.18


def test_a_landmark_at_anothers_partner_is_counted() -> None:
    """Two of four exchanged; and near partners that are merely imprecise are none."""
    moving = np.array([(0.0, 0, 0), (50, 0, 0), (0, 50, 0), (0, 0, 50)])
    off = moving + np.array([1.0, 0, 0])
    assert m.nearer_another(off, moving, 2.0) == 0
    assert m.nearer_another(off[[1, 0, 2, 3]], moving, 2.0) == 0.5
    close = np.array([(0.0, 0, 0), (1.5, 0, 0)])
    assert m.nearer_another(close[[1, 0]], close, 2.0) == 0
    assert m.nearer_another(np.full((4, 3), np.nan), moving, 2.0) == 0
