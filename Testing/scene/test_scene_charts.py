# SPDX-License-Identifier: Apache-2.0
import numpy as np
import pytest
from DeepFLASHRegistrationLib.scene.charts import logHistogram
from DeepFLASHRegistrationLib.scene.inputs import Inputs
from DeepFLASHRegistrationLib.scene.outputs import writeResult
from scene_rendering import ChartPicture
from scene_synthetic import Stretch, addVolume, makeGrid, makeResult, pointsOf

GRID = makeGrid((24, 26, 28))


def head(points):
    """A bright ball in the dark."""
    return 100.0 * (np.linalg.norm(points, axis=-1) < 20)


@pytest.fixture
def written(offScreen, scene):
    fixed = addVolume(scene, GRID, head(pointsOf(GRID)).astype(np.float32), "fixed")
    moving = addVolume(scene, GRID, head(pointsOf(GRID)).astype(np.float32), "moving")
    result = makeResult(GRID, GRID, Stretch(0.4, 40.0), image=head)
    return result, writeResult(result, Inputs(fixed, moving)), fixed, moving


def isNear(picture, place, color, reach=2):
    row, column = place
    near = picture[row - reach : row + reach + 1, column - reach : column + reach + 1]
    return (np.abs(near - np.array(color) * 255).max(-1) < 60).any()


def columnsOf(chart, index=0):
    series = chart.GetNthPlotSeriesNode(index)
    table = series.GetTableNode().GetTable()
    return [
        np.array([table.GetValueByName(row, name).ToDouble() for row in range(table.GetNumberOfRows())])
        for name in (series.GetXColumnName(), series.GetYColumnName())
    ]


def test_the_convergence_chart_draws_the_energy_and_its_parts_on_one_axis(written):
    result, nodes, *_ = written
    chart = nodes.convergenceChart
    drawn = ChartPicture(chart)
    names = [chart.GetNthPlotSeriesNode(index).GetName() for index in range(3)]
    assert names == ["Energy", "Images", "Regularization"]
    parts = [columnsOf(chart, index)[1] for index in range(3)]
    np.testing.assert_allclose(parts[0], [entry["energy"] for entry in result.history])
    np.testing.assert_allclose(parts[1] + parts[2], parts[0])
    for index in range(3):
        color = chart.GetNthPlotSeriesNode(index).GetColor()
        for x, y in list(zip(*columnsOf(chart, index)))[1:-1]:
            assert isNear(drawn.picture, drawn.pixel(x, y), color)
    # Readable: the curves lie apart, and nothing is drawn where no curve is.
    heights = [drawn.pixel(5, part[5])[0] for part in parts]
    assert heights[0] > heights[1] + 5 > heights[2] + 10
    above = drawn.pixel(5, parts[0].max())
    assert not any(isNear(drawn.picture, above, chart.GetNthPlotSeriesNode(index).GetColor()) for index in range(3))


def test_the_histogram_chart_has_a_bar_as_high_as_the_share_of_voxels(written):
    _, nodes, *_ = written
    chart = nodes.histogramChart
    drawn = ChartPicture(chart)
    color = chart.GetNthPlotSeriesNode(0).GetColor()
    centers, percents = columnsOf(chart)
    assert percents.sum() == pytest.approx(100)
    checked = 0
    for center, percent in zip(centers, percents, strict=True):
        if percent > 0.2 * percents.max():
            assert isNear(drawn.picture, drawn.pixel(center, 0.5 * percent), color, reach=0)
            checked += 1
        row, column = drawn.pixel(center, percent)
        assert not isNear(drawn.picture, (row + 5, column), color, reach=0)
    assert checked > 5


def test_charts_say_what_they_show(written):
    _, nodes, *_ = written
    for chart in (nodes.convergenceChart, nodes.histogramChart):
        assert chart.GetTitle()
        assert chart.GetXAxisTitle()
        assert chart.GetYAxisTitle()
    assert nodes.convergenceChart.GetLegendVisibility()


def test_the_legend_of_a_second_chart_has_the_same_words(written):
    result, first, fixed, moving = written
    second = writeResult(result, Inputs(fixed, moving))
    for index in range(3):
        names = [nodes.convergenceChart.GetNthPlotSeriesNode(index).GetName() for nodes in (first, second)]
        assert names[0] == names[1]


def test_the_background_does_not_count_in_the_histogram():
    logs = np.zeros((20, 20, 20), np.float32)
    fixed = np.zeros(logs.shape)
    fixed[5:15, 5:15, 5:15] = 100
    logs[5:15, 5:15, 5:10] = 0.5
    logs[5:15, 5:15, 10:15] = -0.25
    logs[5, 5, 5] = np.nan
    percent, edges = logHistogram(logs, fixed)
    middles = (edges[1:] + edges[:-1]) / 2
    filled = {round(float(middle), 2): float(share) for middle, share in zip(middles, percent, strict=True) if share}
    assert list(filled) == pytest.approx([-0.25, 0.5], abs=0.02)
    assert list(filled.values()) == pytest.approx([50, 50], abs=0.1)


def test_a_histogram_of_nothing_is_empty():
    percent, edges = logHistogram(np.full((4, 4, 4), np.nan), np.ones((4, 4, 4)))
    assert not percent.any()
    assert np.isfinite(edges).all()
