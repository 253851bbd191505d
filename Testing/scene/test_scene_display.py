# SPDX-License-Identifier: Apache-2.0
import math

import numpy as np
import pytest
import slicer
from DeepFLASHRegistrationLib.scene.conversion import volumeFromNode
from DeepFLASHRegistrationLib.scene.display import chart_view, side_by_side
from DeepFLASHRegistrationLib.scene.display.changes import Changes
from DeepFLASHRegistrationLib.scene.display.chart_view import ChartDisplay
from DeepFLASHRegistrationLib.scene.display.checkerboard import Checkerboard
from DeepFLASHRegistrationLib.scene.display.colors import FOLD_COLOR, colorAt, completeColors, determinantColors
from DeepFLASHRegistrationLib.scene.display.deformation_grid import DeformationGrid
from DeepFLASHRegistrationLib.scene.display.fade import Fade
from DeepFLASHRegistrationLib.scene.display.flicker import Flicker
from DeepFLASHRegistrationLib.scene.display.geodesic import GeodesicDisplay
from DeepFLASHRegistrationLib.scene.display.jacobian import JacobianDisplay
from DeepFLASHRegistrationLib.scene.display.layouts import addLayouts
from DeepFLASHRegistrationLib.scene.display.outlines import Outlines, lighter
from DeepFLASHRegistrationLib.scene.display.side_by_side import SideBySide
from DeepFLASHRegistrationLib.scene.display.toggle import Displays, Toggle
from DeepFLASHRegistrationLib.scene.display.views import nodesOfClass
from DeepFLASHRegistrationLib.scene.fields import transformedPoints
from DeepFLASHRegistrationLib.scene.geometry import vtkMatrixFrom
from DeepFLASHRegistrationLib.scene.inputs import Inputs
from DeepFLASHRegistrationLib.scene.outputs import OutputNodes, writeResult
from DeepFLASHRegistrationLib.scene.sequence import (
    geodesicOf,
    geodesicTransforms,
    proxyTransform,
    writeGeodesicSequence,
)
from DeepFLASHRegistrationLib.support.errors import InputError
from scene_study import GRID, USUAL, WINDOWS, at, farStudy, grey, makeStudy, other, shownThenAsBefore, stateOf, voxelsIn
from scene_synthetic import Stretch, addLinear, addSegmentation, addVolume, makeGrid, makeResult, pointsOf, smooth


@pytest.fixture
def study(room):
    return makeStudy(room)


# Side by side


def test_fixed_and_warped_stand_side_by_side(room, study):
    toggle = SideBySide(study.fixed, study.nodes.warpedVolume)
    with shownThenAsBefore(room, toggle):
        assert room.shown() == [
            f"DeepFLASH{side}{orientation}"
            for orientation in ("Axial", "Sagittal", "Coronal")
            for side in ("Fixed", "Warped")
        ]
        for orientation, usual in (("Axial", "Red"), ("Coronal", "Green"), ("Sagittal", "Yellow")):
            for side, which, data in (
                ("Fixed", "fixed", smooth(pointsOf(GRID))),
                ("Warped", "moving", study.result.warped.data),
            ):
                picture = room.picture(f"DeepFLASH{side}{orientation}")
                for index, lps in voxelsIn(room, usual):
                    error = at(room, picture, f"DeepFLASH{side}{orientation}", lps) - grey(data[index], which)
                    assert np.abs(error).max() < 12


def test_side_by_side_views_are_linked_and_leave_the_others_alone(room, study):
    with shownThenAsBefore(room, SideBySide(study.fixed, study.nodes.warpedVolume)):
        logic = room.views["DeepFLASHFixedAxial"]._logic
        logic.StartSliceNodeInteraction(slicer.vtkMRMLSliceNode.SliceToRASFlag)
        logic.SetSliceOffset(10.0)
        logic.EndSliceNodeInteraction()
        assert room.views["DeepFLASHWarpedAxial"].get_view_node().GetSliceOffset() == 10.0
        assert room.views["Red"].get_view_node().GetSliceOffset() == 2.0


@pytest.mark.parametrize("hot", [0, 1])
def test_views_that_were_linked_hot_or_not_are_so_again(room, study, hot):
    for name in USUAL:
        room.composite(name).SetHotLinkedControl(hot)
    toggle = SideBySide(study.fixed, study.nodes.warpedVolume)
    toggle.show()
    shown = nodesOfClass(room.scene, "vtkMRMLSliceCompositeNode")
    assert {node.GetHotLinkedControl() for node in shown} == {1}  # one switch for all
    toggle.hide()
    assert [room.composite(name).GetHotLinkedControl() for name in USUAL] == [hot] * 3


def test_a_layout_that_the_user_chose_meanwhile_stays(room, study):
    toggle = SideBySide(study.fixed, study.nodes.warpedVolume)
    toggle.show()
    room.layoutNode.SetViewArrangement(slicer.vtkMRMLLayoutNode.SlicerLayoutOneUpRedSliceView)
    toggle.hide()
    assert room.layoutNode.GetViewArrangement() == slicer.vtkMRMLLayoutNode.SlicerLayoutOneUpRedSliceView


def test_a_single_slice_needs_one_orientation(room):
    grid = makeGrid((24, 1, 26))
    volume = addVolume(room.scene, grid, smooth(pointsOf(grid)))
    toggle = SideBySide(volume, volume)
    toggle.show()
    assert room.shown() == ["DeepFLASHFixedCoronal", "DeepFLASHWarpedCoronal"]
    toggle.hide()


def test_several_results_lie_beside_the_fixed_volume_in_rows(room, study):
    volumes = [study.nodes.warpedVolume, study.fixed, study.nodes.warpedVolume, study.fixed]
    toggle = SideBySide(study.fixed, *volumes)
    toggle.show()
    names = [f"DeepFLASH{name}Axial" for name in ("Fixed", "Warped1", "Warped2", "Warped3", "Warped4")]
    assert room.shown() == sorted(names)
    composites = {node.GetLayoutName(): node for node in nodesOfClass(room.scene, "vtkMRMLSliceCompositeNode")}
    shown = [composites[name].GetBackgroundVolumeID() for name in names]
    assert shown == [volume.GetID() for volume in (study.fixed, *volumes)]
    # Five views are three above two, not one row of stripes.
    assert side_by_side.layout(("Axial",), tuple(toggle.volumes))[1].count('type="horizontal"') == 2
    toggle.hide()
    assert room.layoutNode.GetViewArrangement() == slicer.vtkMRMLLayoutNode.SlicerLayoutConventionalView


def test_layouts_are_known_when_a_scene_is_loaded_that_shows_one():
    scene = slicer.vtkMRMLScene()
    addLayouts(scene)  # without views there is nothing to do
    node = slicer.vtkMRMLLayoutNode()
    scene.AddNode(node)
    addLayouts(scene)
    for (number, _), view in (
        (side_by_side.layout(), "DeepFLASHWarpedCoronal"),
        (side_by_side.layout(("Axial",), ("Fixed", "Warped1", "Warped2")), "DeepFLASHWarped2Axial"),
        (chart_view.layout(), "DeepFLASHPlot2"),
    ):
        node.SetViewArrangement(number)
        assert view in node.GetCurrentLayoutDescription()


def test_a_layout_that_came_with_a_loaded_scene_is_taken_away_too(room, study):
    toggle = SideBySide(study.fixed, study.nodes.warpedVolume)
    addLayouts(room.scene)
    room.layoutNode.SetViewArrangement(side_by_side.layout()[0])
    toggle.show()
    assert room.layoutNode.GetViewArrangement() == side_by_side.layout()[0]
    toggle.hide()
    assert room.layoutNode.GetViewArrangement() == slicer.vtkMRMLLayoutNode.SlicerLayoutConventionalView


# Flicker and checkerboard


def test_flicker_shows_one_then_the_other(room, study):
    toggle = Flicker(study.fixed, study.nodes.warpedVolume)
    with shownThenAsBefore(room, toggle):
        for which, data in (("fixed", smooth(pointsOf(GRID))), ("moving", study.result.warped.data)) * 2:
            for name in USUAL:
                picture = room.picture(name)
                for index, lps in voxelsIn(room, name):
                    assert np.abs(at(room, picture, name, lps) - grey(data[index], which)).max() < 12
            toggle.step()
    toggle.step()
    assert not toggle.isShown


def test_fading_shows_as_much_of_the_warped_image_as_wanted(room, study):
    toggle = Fade(study.fixed, study.nodes.warpedVolume, 0.0)
    with shownThenAsBefore(room, toggle):
        for opacity in (0.0, 0.25, 1.0):
            toggle.setOpacity(opacity)
            for name in USUAL:
                picture = room.picture(name)
                for _, lps in voxelsIn(room, name):
                    fixed = grey(smooth(lps), "fixed")
                    warped = grey(other(study.truth.fixedToMoving(lps)), "moving")
                    assert at(room, picture, name, lps)[0] == pytest.approx(
                        (1 - opacity) * fixed + opacity * warped, abs=4
                    )
                assert room.composite(name).GetLinkedControl()


@pytest.mark.parametrize("cube", [16, 24])
def test_the_checkerboard_alternates(room, study, cube):
    toggle = Checkerboard(study.fixed, study.nodes.warpedVolume, cubeMm=cube)
    data = smooth(pointsOf(GRID)), study.result.warped.data
    with shownThenAsBefore(room, toggle):
        seen = set()
        for name in USUAL:
            picture = room.picture(name)
            for index, lps in voxelsIn(room, name, step=1):
                inCube = (np.array(index) * 2) % cube
                if (inCube < 4).any() or (inCube > cube - 5).any():
                    continue
                odd = int(sum(np.array(index) * 2 // cube) % 2)
                seen.add(odd)
                expected = grey(data[odd][index], ("fixed", "moving")[odd])
                assert np.abs(at(room, picture, name, lps) - expected).max() < 12
        assert seen == {0, 1}


# Deformation grid


def gridLines(sliceNode, spacing):
    """Where Slicer puts undeformed lines in a slice view, in slice coordinates: ([x ...], [y ...])."""
    lines = []
    for size in sliceNode.GetFieldOfView()[:2]:
        count = int(size / spacing)
        lines.append((size - count * spacing) / 2 - size / 2 + spacing * np.arange(count + 1))
    return lines


def isYellow(pixels):
    """Also when shaded."""
    red, green, blue = np.moveaxis(pixels, -1, 0)
    return (red > 100) & (green > 0.7 * red) & (green < 0.95 * red) & (blue < 0.3 * red)


@pytest.mark.parametrize("far", [False, True])
def test_grid_lines_are_where_the_displacement_puts_them(room, far):
    study = farStudy(room) if far else makeStudy(room)
    toggle = DeformationGrid(study.nodes.transform, study.fixed, spacingMm=10)
    with shownThenAsBefore(room, toggle):
        for spacing in (10, 15):
            toggle.setSpacing(spacing)
            picture = room.picture("Red")
            node = room.views["Red"].get_view_node()
            across, along = gridLines(node, spacing)
            toRas = node.GetSliceToRAS()
            checked = 0
            for x in across:
                for y in (along[1:] + along[:-1]) / 2:
                    straight = np.array(toRas.MultiplyPoint((x, y, 0, 1))[:3])
                    line = study.truth.unbend(straight * (-1, -1, 1)) * (-1, -1, 1)
                    row, column = room.pixel("Red", line)
                    if not (8 < row < picture.shape[0] - 8 and 8 < column < picture.shape[1] - 8):
                        continue
                    if np.abs(straight[:2]).max() > 45:
                        continue  # beyond the field the displacement is only continued
                    checked += 1
                    assert isYellow(picture[row, column - 1 : column + 2]).any()
                    between = study.truth.unbend(np.add(straight, (spacing / 2, 0, 0)) * (-1, -1, 1)) * (-1, -1, 1)
                    row, column = room.pixel("Red", between)
                    assert not isYellow(picture[row, column - 1 : column + 2]).any()
            assert checked >= 20


def test_the_grid_is_shown_in_three_dimensions(room, study):
    view = room.threeD()
    toggle = DeformationGrid(study.nodes.transform, study.fixed, spacingMm=10)
    toggle.show()
    view.reset_camera()
    shown = room.picture(view)
    assert isYellow(shown).mean() > 0.05
    toggle.hide()
    assert not isYellow(room.picture(view)).any()


def test_without_the_inverse_node_the_grid_is_inverted_numerically(room, study):
    grids = []
    for inverse in (True, False):
        if not inverse:
            room.scene.RemoveNode(study.nodes.inverseTransform)
        toggle = DeformationGrid(study.nodes.transform, study.fixed)
        toggle.show()
        points = np.random.default_rng(0).uniform(-30, 30, (100, 3))
        grids.append(transformedPoints(toggle._node.GetTransformToParent(), points))
        toggle.hide()
    np.testing.assert_allclose(grids[0], study.truth.unbend(points * (-1, -1, 1)) * (-1, -1, 1), atol=0.25)
    np.testing.assert_allclose(grids[0], grids[1], atol=0.3)


def test_spacing_suits_the_extent(room):
    from DeepFLASHRegistrationLib.scene.display.deformation_grid import defaultSpacing

    for spacing, expected in ((1.3, 2.0), (7.0, 10.0), (0.1, 0.2)):
        grid = makeGrid((20, 20, 40), (spacing,) * 3)
        assert defaultSpacing(addVolume(room.scene, grid, np.zeros(grid.shape))) == pytest.approx(expected)


# Jacobian


def test_determinants_have_their_colors_over_the_fixed_image(room, study):
    toggle = JacobianDisplay(study.nodes.logJacobianVolume, study.fixed, opacity=0.5)
    assert toggle.limit == 2.0
    data, background = study.result.log_jacobian.data, smooth(pointsOf(GRID))
    with shownThenAsBefore(room, toggle):
        for name in USUAL:
            picture = room.picture(name)
            for index, lps in voxelsIn(room, name):
                row, column = room.pixel(name, lps * (-1, -1, 1))
                if column > 0.7 * picture.shape[1]:
                    continue  # the legend
                color = np.array(colorAt(data[index], 2.0)) * 255
                expected = 0.5 * color + 0.5 * grey(background[index], "fixed")
                assert np.abs(picture[row, column] - expected).max() < 14
        assert not room.composite("Red").GetLabelVolumeID()


def test_the_legend_shows_the_ends_of_the_colors(room, study):
    toggle = JacobianDisplay(study.nodes.logJacobianVolume, study.fixed)
    with shownThenAsBefore(room, toggle):
        picture = room.picture("Red")
        legend = picture[:, int(0.8 * picture.shape[1]) :]
        for logDeterminant in (-math.log(2), 0.0, math.log(2)):
            distance = np.abs(legend - np.array(colorAt(logDeterminant, 2.0)) * 255).max(-1)
            assert (distance < 8).sum() > 20
    colors = room.scene.GetFirstNodeByName("DeepFLASH determinant")
    assert [colors.GetColorName(index) for index in range(0, 257, 32)] == [
        "0.5",
        "0.59",
        "0.71",
        "0.84",
        "1",
        "1.19",
        "1.41",
        "1.68",
        "2",
    ]


def test_the_colors_of_a_loaded_scene_are_made_whole_again(scene, tmp_path):
    count = determinantColors(scene, 4.0).GetNumberOfColors()
    assert scene.WriteToMRB(str(tmp_path / "scene.mrb"))
    scene.Clear(False)
    assert scene.ReadFromMRB(str(tmp_path / "scene.mrb"))
    completeColors(scene)
    (node,) = [node for node in nodesOfClass(scene, "vtkMRMLColorTableNode") if "determinant" in node.GetName()]
    for index in (0, 5, count // 2, count - 7, count - 1):
        color = [0.0] * 4
        node.GetColor(index, color)
        logDeterminant = (2 * index / (count - 1) - 1) * math.log(4.0)
        assert color == pytest.approx([*colorAt(logDeterminant, 4.0), 1.0], abs=0.01)


def test_shrinking_and_growing_by_the_same_factor_are_equally_far_from_white():
    for factor in (1.2, 1.7, 5.0):
        up, down = colorAt(math.log(factor), 2.0), colorAt(-math.log(factor), 2.0)
        assert up[0] > up[2]
        assert down[2] > down[0]
        fraction = min(1.0, math.log(factor) / math.log(2))
        assert up[1] == pytest.approx(1 - fraction * 0.98)
        assert down[1] == pytest.approx(1 - fraction * 0.81)
    assert colorAt(0.0, 2.0) == (1, 1, 1)


def test_folded_voxels_are_loud(room):
    truth = Stretch(1.3, 40.0)
    study = makeStudy(room, truth)
    toggle = JacobianDisplay(study.nodes.logJacobianVolume, study.fixed)
    folded = truth.determinant(pointsOf(GRID)) <= 0
    assert folded.any()
    np.testing.assert_array_equal(toggle.folded, folded)
    with shownThenAsBefore(room, toggle):
        loud = np.array(FOLD_COLOR) * 255
        for name in USUAL:
            picture = room.picture(name)
            counted = 0
            for index, lps in voxelsIn(room, name, step=2):
                row, column = room.pixel(name, lps * (-1, -1, 1))
                if column > 0.65 * picture.shape[1]:
                    continue  # the legend
                assert (np.abs(picture[row, column] - loud).max() < 8) == folded[index]
                counted += 1
            assert counted > 20


# Outlines


@pytest.mark.parametrize("kind", ["segmentation", "label map"])
def test_outlines_run_along_the_borders(room, study, kind):
    points = pointsOf(GRID)
    boxes = {
        "propagated": (np.abs(points) < (20, 16, 16)).all(-1),
        "fixed": (np.abs(points - (6, 0, 0)) < (20, 16, 16)).all(-1),
    }
    nodes = {}
    for name, mask in boxes.items():
        if kind == "segmentation":
            nodes[name] = addSegmentation(room.scene, GRID, {"box": mask}, study.fixed, name=name)
        else:
            nodes[name] = addVolume(room.scene, GRID, mask.astype(np.uint8), name, "vtkMRMLLabelMapVolumeNode")
            nodes[name].GetDisplayNode().SetAndObserveColorNodeID("vtkMRMLColorTableNodeLabels")
    if kind == "segmentation":
        color = np.array(nodes["fixed"].GetSegmentation().GetNthSegment(0).GetColor())
    else:
        color = [0.0] * 4
        room.scene.GetNodeByID("vtkMRMLColorTableNodeLabels").GetColor(1, color)
        color = np.array(color[:3])
    room.show(study.fixed)
    toggle = Outlines(nodes["propagated"], nodes["fixed"])
    with shownThenAsBefore(room, toggle):
        picture = room.picture("Red")
        for left, right, wanted in ((-20, 20, color), (-14, 26, np.array(lighter(color)))):
            for x in (left, right):
                for y in (-10.0, 0.0, 10.0):
                    row, column = room.pixel("Red", (-x, -y, 2.0))
                    near = picture[row, column - 4 : column + 5]
                    assert (np.abs(near - wanted * 255).max(-1) < 40).any()
        row, column = room.pixel("Red", (0, 0, 2.0))
        inside = picture[row - 8 : row + 9, column - 8 : column + 9]
        assert (np.ptp(inside, axis=-1) < 4).all()  # gray: no fill


# Geodesic


def makeGeodesic(study, count=5, truth=None):
    times = np.linspace(0, 1, count)
    grid = study.result.field_grid
    whole = study.result.fixed_to_moving if truth is None else truth.fixedToMoving(pointsOf(grid)) - pointsOf(grid)
    transforms = list(geodesicTransforms([t * whole for t in times], grid, study.fixed, study.moving))
    return writeGeodesicSequence(study.nodes.transform, times, transforms, study.fixed, study.moving)


def assertOnItsWay(room, study, toggle, truth, times=(0.0, 0.5, 1.0, 0.25)):
    for time in times:
        toggle.setTime(time)
        assert toggle.time == time
        picture = room.picture("Red")
        for _, lps in voxelsIn(room, "Red"):
            point = lps + time * (truth.fixedToMoving(lps) - lps)
            assert np.abs(at(room, picture, "Red", lps) - grey(other(point), "moving")).max() < 12


@pytest.mark.parametrize("parent", [False, True])
def test_scrubbing_the_geodesic_moves_moving_to_fixed_without_copies(room, study, parent):
    if parent:
        # Elsewhere by its voxels, back in place by its parent: the world is the same.
        turn = np.array([[0.8, -0.6, 0, 5], [0.6, 0.8, 0, -7], [0, 0, 1, 3], [0, 0, 0, 1.0]])
        study.moving.ApplyTransformMatrix(vtkMatrixFrom(np.linalg.inv(turn)))
        study.moving.SetAndObserveTransformNodeID(addLinear(room.scene, turn).GetID())
    browser = makeGeodesic(study)
    assert geodesicOf(study.nodes.transform) is browser
    image, modified = study.moving.GetImageData(), study.moving.GetMTime()
    toggle = GeodesicDisplay(browser, study.fixed, study.moving)
    with shownThenAsBefore(room, toggle):
        assertOnItsWay(room, study, toggle, study.truth)
        shown = room.scene.GetNodeByID(room.composite("Red").GetForegroundVolumeID())
        assert shown.GetImageData() is image
        assert study.moving.GetMTime() == modified
        volumeFromNode(study.moving)  # it could be registered again
        shared = proxyTransform(browser).GetTransformFromParent()
        assert shared is browser.GetMasterSequenceNode().GetNthDataNode(1).GetTransformFromParent()


def test_the_geodesic_of_a_later_result_takes_the_place_of_the_first(room, study):
    first = makeGeodesic(study)
    study.result.velocity["velocity"][0, 2, 2, 2] = 0.1
    writeResult(study.result, Inputs(study.fixed, study.moving), study.nodes)
    assert geodesicOf(study.nodes.transform) is None  # it is that of the earlier result
    before, truth = stateOf(room)["nodes"], Stretch(0.2, 30.0)
    again = makeGeodesic(study, 3, truth)
    assert again is first
    assert stateOf(room)["nodes"] == before
    assert again.GetMasterSequenceNode().GetNumberOfDataNodes() == 3
    toggle = GeodesicDisplay(again, study.fixed, study.moving)
    toggle.show()
    assertOnItsWay(room, study, toggle, truth, (1.0, 0.0, 0.5))


def test_a_geodesic_whose_sequence_was_removed_is_told_and_can_be_made_again(room, study):
    browser = makeGeodesic(study)
    room.scene.RemoveNode(browser.GetMasterSequenceNode())
    before = stateOf(room)
    with pytest.raises(InputError, match="no steps any more"):
        GeodesicDisplay(browser, study.fixed, study.moving).show()
    assert stateOf(room) == before
    assert geodesicOf(study.nodes.transform) is None
    assert makeGeodesic(study) is browser
    toggle = GeodesicDisplay(browser, study.fixed, study.moving)
    toggle.show()
    assertOnItsWay(room, study, toggle, study.truth, (1.0,))


# Charts


def test_each_chart_gets_a_view_below_the_slices(room, study):
    charts = study.nodes.convergenceChart, study.nodes.histogramChart
    toggle = ChartDisplay(study.fixed, *charts)
    with shownThenAsBefore(room, toggle):
        assert room.shown() == list(USUAL)
        assert {room.composite(name).GetBackgroundVolumeID() for name in USUAL} == {study.fixed.GetID()}
        views = {node.GetLayoutName(): node for node in nodesOfClass(room.scene, "vtkMRMLPlotViewNode")}
        assert [views[f"DeepFLASHPlot{number}"].GetPlotChartNodeID() for number in (1, 2)] == [
            chart.GetID() for chart in charts
        ]
        assert "DeepFLASHPlot2" in room.layoutNode.GetCurrentLayoutDescription()


def test_a_chart_that_is_missing_is_left_out(room, study):
    toggle = ChartDisplay(study.fixed, None, study.nodes.histogramChart)
    toggle.show()
    assert "DeepFLASHPlot2" not in room.layoutNode.GetCurrentLayoutDescription()
    toggle.hide()


# All together


def test_displays_that_need_the_same_views_exclude_each_other(room, study):
    displays = Displays()
    warped = study.nodes.warpedVolume
    displays.toggles = {
        "sides": SideBySide(study.fixed, warped),
        "flicker": Flicker(study.fixed, warped),
        "board": Checkerboard(study.fixed, warped),
        "jacobian": JacobianDisplay(study.nodes.logJacobianVolume, study.fixed),
        "grid": DeformationGrid(study.nodes.transform, study.fixed),
    }
    before, state = room.pictures(), stateOf(room)
    for name in ("grid", "sides", "flicker", "board", "jacobian", "sides", "board"):
        displays.show(name)
        assert [other for other, toggle in displays.toggles.items() if toggle.isShown] == sorted(
            {"grid", name}, key=list(displays.toggles).index
        )
    displays.hide("board")
    assert displays.toggles["grid"].isShown
    displays.hideAll()
    assert stateOf(room)["layout"] == state["layout"]
    for name, picture in room.pictures().items():
        np.testing.assert_array_equal(picture, before[name])


def test_closing_the_scene_while_things_are_shown_is_safe(room, study):
    toggles = [
        SideBySide(study.fixed, study.nodes.warpedVolume),
        DeformationGrid(study.nodes.transform, study.fixed),
        JacobianDisplay(study.nodes.logJacobianVolume, study.fixed),
    ]
    for toggle in toggles:
        toggle.show()
    room.scene.Clear(False)
    for toggle in toggles:
        toggle.hide()
    assert not any(toggle.isShown for toggle in toggles)


def test_without_views_displays_still_work_on_the_nodes(scene):
    fixed = addVolume(scene, GRID, smooth(pointsOf(GRID)), "fixed")
    moving = addVolume(scene, GRID, other(pointsOf(GRID)), "moving")
    nodes = writeResult(makeResult(GRID, GRID, Stretch(0.3, 40.0), image=other), Inputs(fixed, moving), OutputNodes())
    for toggle in (
        Flicker(fixed, nodes.warpedVolume),
        Checkerboard(fixed, nodes.warpedVolume),
        DeformationGrid(nodes.transform, fixed),
        JacobianDisplay(nodes.logJacobianVolume, fixed),
    ):
        toggle.show()
        toggle.hide()


def test_a_display_that_fails_is_as_if_it_had_not_been_tried(room, study):
    class Failing(Toggle):
        def _show(self):
            self.changes.set(room.composite("Red"), "BackgroundVolumeID", study.fixed.GetID())
            self.temporary("vtkMRMLScalarVolumeNode", "scratch")
            raise RuntimeError("no")

    before = stateOf(room)
    with pytest.raises(RuntimeError, match="no"):
        Failing(room.scene).show()
    assert stateOf(room) == before


def test_what_the_user_changed_meanwhile_stays(room, study):
    toggle = Flicker(study.fixed, study.nodes.warpedVolume)
    toggle.show()
    room.composite("Red").SetBackgroundVolumeID(study.nodes.logJacobianVolume.GetID())
    room.scene.RemoveNode(study.moving)
    toggle.hide()
    assert room.composite("Red").GetBackgroundVolumeID() == study.nodes.logJacobianVolume.GetID()
    assert room.composite("Green").GetBackgroundVolumeID() is None  # what it showed is gone
    assert room.composite("Red").GetForegroundOpacity() == 0.25


def test_a_volume_whose_colors_were_deleted_meanwhile_has_those_of_any(room, study):
    display = study.nodes.logJacobianVolume.GetDisplayNode()
    colors = slicer.vtkMRMLColorTableNode()
    colors.SetTypeToWarm1()
    room.scene.AddNode(colors)
    display.SetAndObserveColorNodeID(colors.GetID())
    toggle = JacobianDisplay(study.nodes.logJacobianVolume, study.fixed)
    toggle.show()
    room.scene.RemoveNode(colors)
    toggle.hide()
    usual = slicer.vtkMRMLScalarVolumeDisplayNode()
    usual.SetDefaultColorMap()
    assert display.GetColorNodeID() == usual.GetColorNodeID()


def test_changes_keep_the_first_value(room, study):
    changes = Changes()
    display = study.fixed.GetDisplayNode()
    for level in (10.0, 20.0, 30.0):
        changes.set(display, "WindowLevel", 50.0, level)
    changes.giveBack()
    assert (display.GetWindow(), display.GetLevel()) == WINDOWS["fixed"]
