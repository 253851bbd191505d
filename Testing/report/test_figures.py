# SPDX-License-Identifier: Apache-2.0
"""Pictures: patient axes whatever the storage order, pixels that decode, overlays in the right place."""

import itertools
import math
import re

import numpy as np
import pytest
import SimpleITK as sitk
from DeepFLASHRegistrationLib.imaging.grid import Grid
from DeepFLASHRegistrationLib.report import charts, overlays, pixels, views

ORIENTATIONS = [
    (order, signs) for order in itertools.permutations(range(3)) for signs in itertools.product((1, -1), repeat=3)
]


def stored_as(order, signs, edge=(7, 9, 11), spacing=(1.0, 2.0, 3.0)):
    """A grid over one fixed box, array axis a running along LPS axis order[a], forwards or backwards."""
    affine = np.eye(4)
    affine[:3, :3] = 0
    for a, (axis, sign) in enumerate(zip(order, signs)):
        affine[axis, a] = sign * spacing[axis]
        affine[axis, 3] = -sign * spacing[axis] * (edge[axis] - 1) / 2
    return Grid(tuple(edge[axis] for axis in order), affine)


def scene(grid):
    """Values that depend on the place in the patient only."""
    return grid.index_to_physical(np.moveaxis(np.indices(grid.shape), 0, -1)) @ np.array([1.0, 100.0, 10_000.0])


# Views ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("order", "signs"), ORIENTATIONS)
def test_pictures_do_not_depend_on_the_storage_order(order, signs):
    reference, grid = stored_as((2, 1, 0), (1, 1, 1)), stored_as(order, signs)
    middle = [n // 2 for n in grid.shape]
    for expected, found in zip(views.views(reference), views.views(grid)):
        assert (found.name, found.letters, found.tilt) == (expected.name, expected.letters, 0.0)
        picture = expected.cut(scene(reference), [n // 2 for n in reference.shape])
        np.testing.assert_array_equal(found.cut(scene(grid), middle), picture)
        assert grid.spacing[found.across] == reference.spacing[expected.across]
        assert grid.spacing[found.down] == reference.spacing[expected.down]


def test_the_patient_is_shown_in_radiological_convention():
    grid = stored_as((2, 1, 0), (1, 1, 1))
    points = grid.index_to_physical(np.moveaxis(np.indices(grid.shape), 0, -1))
    left, posterior, superior = np.moveaxis(points, -1, 0)
    middle = [n // 2 for n in grid.shape]
    expected = {
        "axial": ("R", "L", "A", "P", left, posterior),
        "coronal": ("R", "L", "S", "I", left, -superior),
        "sagittal": ("A", "P", "S", "I", posterior, -superior),
    }
    for view in views.views(grid):
        *letters, to_the_right, downwards = expected[view.name]
        assert list(view.letters) == letters
        assert (np.diff(view.cut(to_the_right, middle), axis=1) > 0).all()
        assert (np.diff(view.cut(downwards, middle), axis=0) > 0).all()


def test_oblique_grids_are_shown_along_the_nearest_axes_and_say_how_far_off_they_are():
    angle = math.radians(20)
    turn = np.eye(4)
    turn[:2, :2] = [[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]]
    grid = stored_as((0, 2, 1), (-1, 1, -1))
    found = views.views(Grid(grid.shape, turn @ grid.affine))
    assert [v.name for v in found] == ["axial", "coronal", "sagittal"]
    assert [v.normal for v in found] == [1, 2, 0]
    assert [round(v.tilt, 3) for v in found] == [0.0, 20.0, 20.0]


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_a_single_slice_of_a_volume_looks_like_that_slice(axis):
    grid = stored_as((1, 2, 0), (-1, 1, -1))
    middle = [n // 2 for n in grid.shape]
    index = tuple(slice(m, m + 1) if a == axis else slice(None) for a, m in enumerate(middle))
    affine = grid.affine.copy()
    affine[:3, 3] += affine[:3, axis] * middle[axis]
    flat = Grid(tuple(1 if a == axis else n for a, n in enumerate(grid.shape)), affine).flattened()
    (found,) = views.views(flat)
    (expected,) = [v for v in views.views(grid) if v.normal == axis]
    assert (found.name, found.letters) == (expected.name, expected.letters)
    data = scene(grid)
    np.testing.assert_array_equal(found.cut(data[index].squeeze(axis), (0, 0)), expected.cut(data, middle))


def test_plain_2d_images_are_shown_as_they_are_in_any_storage_order():
    plain = np.arange(12.0).reshape(3, 4)
    (view,) = views.views(Grid((3, 4), np.array([[0, 1.0, 0], [1.0, 0, 0], [0, 0, 1]])))
    np.testing.assert_array_equal(view.cut(plain, (0, 0)), plain)
    assert view.letters == ("", "", "", "")
    (view,) = views.views(Grid((4, 3), np.array([[-1.0, 0, 3], [0, 1.0, 0], [0, 0, 1]])))
    np.testing.assert_array_equal(view.cut(plain.T[::-1], (0, 0)), plain)


@pytest.mark.parametrize(("order", "signs"), ORIENTATIONS[::5])
def test_points_and_pixels_agree(order, signs):
    grid = stored_as(order, signs)
    data, middle = scene(grid), [n // 2 for n in grid.shape]
    for view in views.views(grid):
        picture = view.cut(data, middle)
        rows, columns = np.indices(picture.shape) + 0.5
        index = view.place(columns, rows, middle, grid.shape)
        np.testing.assert_array_equal(data[tuple(np.moveaxis(index.astype(int), -1, 0))], picture)
        np.testing.assert_array_equal(view.project(index, grid.shape), np.stack([columns, rows], -1))


def test_the_center_is_that_of_the_bright_object():
    data = np.full((60, 70, 300), -1000.0, np.float32)
    data[10:20, 40:60, 200:280] = 50.0
    assert np.abs(np.subtract(views.foreground_center(data), (14.5, 49.5, 239.5))).max() <= 4
    assert views.foreground_center(np.zeros((5, 6), np.float32)) == (2, 3)


# Pixels -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(5, 7), (1, 1), (40, 30, 3)])
def test_png_files_decode_to_the_same_pixels(tmp_path, shape):
    picture = np.random.default_rng(0).integers(0, 256, shape).astype(np.uint8)
    (tmp_path / "a.png").write_bytes(pixels.png(picture))
    found = sitk.GetArrayFromImage(sitk.ReadImage(str(tmp_path / "a.png")))
    np.testing.assert_array_equal(found, picture)
    assert pixels.data_uri(picture).startswith("data:image/png;base64,iVBORw0KGgo")


def test_gray_windows():
    slices = [np.linspace(0, 100, 1000), np.array([np.nan, np.inf])]
    low, high = pixels.window(slices)
    assert (low, high) == (pytest.approx(1.0, abs=0.1), pytest.approx(99.7, abs=0.1))
    np.testing.assert_allclose(
        pixels.gray(np.array([0.0, 50.35, 200.0, np.nan]), (low, high)), [0, 0.5, 1, 0], atol=1e-2
    )
    low, high = pixels.window([np.full(9, 3.0)])
    assert low == 3.0
    assert high > low
    assert pixels.window([np.array([np.nan])]) == (0.0, 1.0)


def test_differences_are_black_where_images_agree_and_colored_by_sign():
    a, b = np.array([[0.5, 1.0, 0.0]], np.float32), np.array([[0.5, 0.0, 1.0]], np.float32)
    equal, brighter, darker = pixels.difference_picture(a, b)[0].astype(int)
    assert equal.tolist() == [0, 0, 0]
    assert brighter[0] > brighter[2] + 100
    assert darker[2] > darker[0] + 100


def test_checkerboards_alternate():
    found = pixels.checkerboard(np.zeros((4, 6)), np.ones((4, 6)), (2, 3))
    np.testing.assert_array_equal(found[:, [0, 5]] // 255, [[0, 1], [0, 1], [1, 0], [1, 0]])


def test_determinants_are_symmetric_in_log_and_folds_are_loud():
    base = np.full((1, 3), 0.5, np.float32)
    logs = np.array([[-0.7, 0.0, 0.7]], np.float32)
    low, middle, high = pixels.determinant_picture(base, logs, 0.7, np.zeros((1, 3), bool))[0].astype(int)
    assert low[2] > low[0] + 50
    assert high[0] > high[2] + 50
    assert np.ptp(middle) == 0
    folded = pixels.determinant_picture(base, np.array([[np.nan, -np.inf, 0]]), 0.7, np.array([[True, True, False]]))
    np.testing.assert_array_equal(folded[0, :2], np.array([pixels.FOLD_COLOR, pixels.FOLD_COLOR]))


@pytest.mark.parametrize(
    "sight",
    [  # Viénot, Brettel, Mollon 1999, for linear RGB
        np.eye(3),
        [[0.11238, 0.88762, 0.0], [0.11238, 0.88762, 0.0], [0.00401, -0.00401, 1.0]],
        [[0.29275, 0.70725, 0.0], [0.29275, 0.70725, 0.0], [-0.02234, 0.02234, 1.0]],
    ],
    ids=["full", "protanopia", "deuteranopia"],
)
def test_colors_that_matter_are_told_apart_by_color_blind_readers(sight):
    def seen(colors):
        return np.clip((np.asarray(colors) ** 2.2) @ np.array(sight).T, 0, 1) ** (1 / 2.2)

    low, middle, high = seen(pixels.diverging(np.array([-0.7, 0.0, 0.7])))
    for a, b in itertools.combinations((low, middle, high), 2):
        assert np.linalg.norm(a - b) > 0.35
    scale = seen(pixels.diverging(np.linspace(-1, 1, 101)))
    gray = seen(np.linspace(0, 0.85, 50)[:, None] * np.ones(3))
    folded = seen(pixels.FOLD_COLOR / 255.0)
    assert np.linalg.norm(np.concatenate([scale, gray]) - folded, axis=-1).min() > 0.35


# Overlays ---------------------------------------------------------------------------------------------------


def test_outlines_run_along_pixel_edges():
    labels = np.zeros((4, 5), int)
    labels[1:3, 1:4] = 7
    assert overlays.outline_path(*overlays.outline(labels)) == "M1 1H4M1 3H4M1 1V3M4 1V3"
    labels[1:3, 3] = 8
    assert overlays.outline_path(*overlays.outline(labels)) == "M1 1H4M1 3H4M1 1V3M3 1V3M4 1V3"
    assert overlays.outline_path(*overlays.outline(np.ones((2, 2), int))) == "M0 0H2M0 2H2M0 0V2M2 0V2"
    assert overlays.outline_path(*overlays.outline(np.zeros((2, 2), int))) == ""


def test_lines_break_where_points_are_missing():
    points = np.array([[[0, 0], [1.26, 0], [np.nan, 0], [3, 1], [4, 1]]], float)
    assert overlays.polylines(points) == "M0 0L1.3 0M3 1L4 1"


def test_the_deformation_grid_moves_with_the_map_after_the_affine():
    grid = stored_as((2, 1, 0), (1, -1, 1), edge=(31, 31, 31), spacing=(1.0, 1.0, 1.0))
    outer = grid.padded(10)
    affine = np.eye(4)
    affine[:3, 3] = (3.0, 0.0, -2.0)
    (axial, _, _) = views.views(grid)

    def numbers(shift):
        back = np.zeros((*outer.shape, 3), np.float32) + np.float32(shift) - affine[:3, 3].astype(np.float32)
        path = overlays.deformation_grid(axial, (15, 15, 15), grid, affine, back, outer, lines=5)
        return np.array(re.findall(r"[ML](\S+) ([^ML]+)", path), float)

    still = numbers((0.0, 0.0, 0.0))
    straight = np.round((np.arange(5) + 0.5) * 31 / 5, 1)
    assert set(straight) <= set(still[:, 0])
    assert still.min() >= 0
    assert still.max() <= 31
    np.testing.assert_allclose(numbers((2.0, 1.0, 5.0)) - still, np.broadcast_to([2.0, 1.0], still.shape), atol=0.11)


# Charts -----------------------------------------------------------------------------------------------------


def test_round_ticks():
    assert charts.nice_ticks(0, 1) == pytest.approx([0, 0.2, 0.4, 0.6, 0.8, 1.0])
    assert charts.nice_ticks(-7, 13) == [-5, 0, 5, 10]
    assert charts.nice_ticks(2, 2) == [2]
    assert [charts.short(v) for v in (0, 0.25, 1234.5, 1e6, 2e-5)] == ["0", "0.25", "1234", "1e6", "2e-5"]


@pytest.mark.parametrize("limit", [0.05, 0.2, 0.4, 0.7, 1.0, 2.0, 3.4])
def test_factor_ticks_are_symmetric_and_apart(limit):
    ticks = charts.factor_ticks(limit)
    at = np.array([t for t, _ in ticks])
    np.testing.assert_allclose(at, -at[::-1])
    assert len(at) >= 3
    assert np.abs(at).max() <= limit * 1.01
    assert np.diff(at).min() > 0.15 * limit


def test_convergence_charts_use_a_log_axis_only_where_it_helps():
    falling = 1000 * 0.7 ** np.arange(20)
    chart = charts.line_chart([charts.Series("energy", "s1", falling)], [0, 12], "x", "y")
    assert ">100<" in chart
    assert ">10<" in chart
    assert chart.count('class="rule"') == 1
    assert chart.count("M", chart.index('class="line s1"')) >= 2
    linear = charts.line_chart([charts.Series("energy", "s1", falling - 500)], [0], "x", "y")
    assert ">0<" in linear


@pytest.mark.parametrize("values", [[3.0], [0.0, 0.0], [1.0, np.nan, 2.0], [-1.0, np.inf]])
def test_charts_of_few_or_odd_values_hold_numbers_only(values):
    series = [charts.Series("a", "s1", np.array(values)), charts.Series("none", "s2", np.full(len(values), np.nan))]
    chart = charts.line_chart(series, [0], "x", "y")
    assert "nan" not in chart
    assert "inf" not in chart


def test_histograms_show_percent_and_put_outliers_in_the_last_bin():
    chart = charts.log_histogram(np.array([-9.0, -0.1, 0.1, 9.0]), 1.0, "determinant", "percent")
    assert chart.count('class="low"') == 2
    assert chart.count('class="high"') == 2
    assert ">1/2<" in chart


def test_a_chart_as_a_file_of_its_own_is_a_picture_with_its_style():
    """What programs that show files need: the name space, without which they take it for any XML."""
    from xml.etree import ElementTree

    from DeepFLASHRegistrationLib.report.charts import box_chart, standalone

    root = ElementTree.fromstring(standalone(box_chart([("a < b", [1.0, 2.0]), ("c", [2.0, 4.0])], "Dice")))
    assert root.tag == "{http://www.w3.org/2000/svg}svg"
    style = root.find("{http://www.w3.org/2000/svg}style")
    assert ".box" in style.text
    assert ".tick" in style.text
    assert len(root.findall("{http://www.w3.org/2000/svg}rect")) == 2
