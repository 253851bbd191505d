# SPDX-License-Identifier: Apache-2.0
import DeepFLASHRegistrationLib.scene.arrays as arrays_module
import DeepFLASHRegistrationLib.scene.outputs as outputs_module
import numpy as np
import pytest
import SimpleITK as sitk
import slicer
import vtk
from DeepFLASHRegistrationLib.scene.arrays import arrayFromImage
from DeepFLASHRegistrationLib.scene.conversion import volumeFromNode
from DeepFLASHRegistrationLib.scene.fields import transformedPoints
from DeepFLASHRegistrationLib.scene.geometry import arrayFromVtkMatrix, ijkToWorld, vtkMatrixFrom
from DeepFLASHRegistrationLib.scene.inputs import Inputs
from DeepFLASHRegistrationLib.scene.labels import labelsFromNode
from DeepFLASHRegistrationLib.scene.outputs import OutputNodes, PreparedResult, writeResult
from DeepFLASHRegistrationLib.support.errors import InputError
from scene_rendering import slicer_nodes
from scene_synthetic import Stretch, addLinear, addSegmentation, addVolume, makeGrid, makeResult, pointsOf, smooth
from vtk.util.numpy_support import vtk_to_numpy

TURN = np.array([[0.96, -0.28, 0, 4], [0.28, 0.96, 0, -6], [0, 0, 1, 3], [0, 0, 0, 1.0]])
AFFINE = np.array([[1.02, 0.05, 0, 2], [-0.05, 0.98, 0.03, -1], [0, -0.03, 1.01, 1.5], [0, 0, 0, 1.0]])
SMALL = {"shape": (24, 26, 28), "spacing": (2.0, 2.0, 2.0)}


def makePair(scene, fixed=None, moving=None, parents=False, truth=None, **keywords):
    """Nodes of a fixed and a moving volume, and their result; with `parents` both lie under linear transforms."""
    fixedGrid = fixed or makeGrid(**SMALL)
    movingGrid = moving or makeGrid((40, 42, 44), (1.8, 2.0, 1.9), tilt=-0.1)
    fixedNode = addVolume(scene, fixedGrid, smooth(pointsOf(fixedGrid)), "fixed")
    movingNode = addVolume(scene, movingGrid, smooth(pointsOf(movingGrid)), "moving")
    if parents:
        for node, matrix in ((fixedNode, TURN), (movingNode, np.linalg.inv(TURN))):
            node.SetAndObserveTransformNodeID(addLinear(scene, matrix).GetID())
        # The moving image is a function of the world, wherever its voxels lie.
        movingGrid = volumeFromNode(movingNode).grid
        movingNode.GetImageData().DeepCopy(
            addVolume(scene, movingGrid, smooth(pointsOf(movingGrid)), "scratch").GetImageData()
        )
        fixedGrid = volumeFromNode(fixedNode).grid
    movingNode.GetDisplayNode().AutoWindowLevelOff()
    movingNode.GetDisplayNode().SetWindowLevel(123, 77)
    truth = truth or Stretch(0.35, 45.0, affine=AFFINE)
    return fixedNode, movingNode, makeResult(fixedGrid, movingGrid, truth, **keywords), truth


def resampledByVtk(transformNode, fixedNode, movingNode):
    """What Slicer's resampling does: fixed voxel -> world -> transform from world -> moving voxel, linear."""
    chain = vtk.vtkGeneralTransform()
    chain.PostMultiply()
    chain.Concatenate(vtkMatrixFrom(ijkToWorld(fixedNode)))
    fromWorld = vtk.vtkGeneralTransform()
    transformNode.GetTransformFromWorld(fromWorld)
    chain.Concatenate(fromWorld)
    chain.Concatenate(vtkMatrixFrom(np.linalg.inv(ijkToWorld(movingNode))))
    moving = vtk.vtkImageData()
    moving.DeepCopy(movingNode.GetImageData())
    reslice = vtk.vtkImageReslice()
    reslice.SetInputData(moving)
    reslice.SetResliceTransform(chain)
    reslice.SetInterpolationModeToLinear()
    reslice.SetBackgroundLevel(-1000)
    reslice.SetOutputSpacing(1, 1, 1)
    reslice.SetOutputOrigin(0, 0, 0)
    reslice.SetOutputExtent(fixedNode.GetImageData().GetExtent())
    reslice.Update()
    return arrayFromImage(reslice.GetOutput()).copy()


def resampledByItk(path, fixedNode, movingNode):
    """The saved transform and the two images, as SimpleITK reads them."""

    def image(node):
        volume = volumeFromNode(node)
        return volume.grid.apply_to(sitk.GetImageFromArray(volume.data))

    if path.suffix == ".h5":
        transform = sitk.ReadTransform(str(path))
    else:
        transform = sitk.DisplacementFieldTransform(sitk.ReadImage(str(path), sitk.sitkVectorFloat64))
    resampled = sitk.Resample(image(movingNode), image(fixedNode), transform, sitk.sitkLinear, -1000.0)
    return sitk.GetArrayFromImage(resampled)


def assertSame(resampled, result, movingNode, truth):
    moving = volumeFromNode(movingNode).grid
    index = moving.physical_to_index(truth.fixedToMoving(pointsOf(result.fixed_grid)))
    inside = ((index >= 0) & (index <= np.array(moving.shape) - 1)).all(-1).reshape(resampled.shape)
    assert inside.mean() > 0.5
    error = np.abs(resampled - result.warped.data.reshape(resampled.shape))[inside]
    assert error.max() < 1.5  # of intensities around 100 +- 75
    assert np.sqrt((error**2).mean()) < 0.3


GRIDS = {
    "plain": {},
    "anisotropic": {"spacing": (3.5, 2.0, 1.5)},
    "oblique": {"tilt": 0.4},
    "flipped": {"flips": (-1, 1, 1)},
    "permuted, oblique, flipped, anisotropic": {
        "flips": (1, -1, -1),
        "order": (2, 0, 1),
        "tilt": -0.3,
        "spacing": (1.5, 2.0, 3.0),
    },
}


@pytest.mark.parametrize("parents", [False, True], ids=["", "parents"])
@pytest.mark.parametrize("which", list(GRIDS))
def test_slicer_s_own_transform_resamples_to_the_warped_volume(scene, which, parents):
    fixed = makeGrid(**{**SMALL, **GRIDS[which]})
    moving = makeGrid((40, 42, 44), **{"spacing": (1.8, 2.0, 1.9), **GRIDS[which]})
    fixedNode, movingNode, result, truth = makePair(scene, fixed, moving, parents)
    nodes = writeResult(result, Inputs(fixedNode, movingNode))
    assertSame(resampledByVtk(nodes.transform, fixedNode, movingNode), result, movingNode, truth)
    np.testing.assert_allclose(ijkToWorld(nodes.warpedVolume), ijkToWorld(fixedNode), atol=1e-9)


@pytest.mark.parametrize("suffix", [".nii.gz", ".nrrd", ".h5"])
@pytest.mark.parametrize("which", list(GRIDS))
def test_a_saved_transform_is_the_same_in_simpleitk_and_when_loaded_again(scene, tmp_path, which, suffix):
    fixed = makeGrid(**{**SMALL, **GRIDS[which]})
    moving = makeGrid((40, 42, 44), **{"spacing": (1.8, 2.0, 1.9), **GRIDS[which]})
    fixedNode, movingNode, result, truth = makePair(scene, fixed, moving)
    node = writeResult(result, Inputs(fixedNode, movingNode)).transform
    path = tmp_path / f"transform{suffix}"
    storage = scene.AddNewNodeByClass("vtkMRMLTransformStorageNode")
    storage.SetFileName(str(path))
    assert storage.WriteData(node)
    assertSame(resampledByItk(path, fixedNode, movingNode), result, movingNode, truth)
    loaded = scene.AddNewNodeByClass("vtkMRMLTransformNode", "loaded")
    assert storage.ReadData(loaded)
    assertSame(resampledByVtk(loaded, fixedNode, movingNode), result, movingNode, truth)


def test_the_inverse_node_inverts(scene):
    fixedNode, movingNode, result, truth = makePair(scene)
    nodes = writeResult(result, Inputs(fixedNode, movingNode))
    rng = np.random.default_rng(0)
    lps = rng.uniform(-20, 20, (200, 3))
    ras = lps * (-1, -1, 1)
    there = transformedPoints(nodes.transform.GetTransformFromParent(), ras)
    np.testing.assert_allclose(there * (-1, -1, 1), truth.fixedToMoving(lps), atol=0.05)
    back = transformedPoints(nodes.inverseTransform.GetTransformFromParent(), there)
    np.testing.assert_allclose(back, ras, atol=0.1)
    assert nodes.transform.GetNodeReferenceID("spatialRegistrationFixed") == fixedNode.GetID()
    assert nodes.transform.GetNodeReferenceID("spatialRegistrationMoving") == movingNode.GetID()
    assert nodes.inverseTransform.GetNodeReferenceID("spatialRegistrationFixed") == movingNode.GetID()
    grid = nodes.transform.GetTransformFromParent()
    assert grid.IsA("vtkOrientedGridTransform")
    # On a coarser grid, but as large.
    image = grid.GetDisplacementGrid()
    reach = (np.array(image.GetDimensions()) - 1) * image.GetSpacing()
    assert image.GetNumberOfPoints() < np.prod(result.field_grid.shape) / 4
    assert (reach >= (result.fixed_grid.extent - result.fixed_grid.spacing)[::-1]).all()


def test_volumes_look_like_moving_and_lie_on_fixed(scene):
    fixedNode, movingNode, result, _ = makePair(scene)
    nodes = writeResult(result, Inputs(fixedNode, movingNode))
    display = nodes.warpedVolume.GetDisplayNode()
    assert (display.GetWindow(), display.GetLevel(), display.GetAutoWindowLevel()) == (123, 77, 0)
    np.testing.assert_allclose(arrayFromImage(nodes.warpedVolume.GetImageData()), result.warped.data)
    np.testing.assert_allclose(arrayFromImage(nodes.logJacobianVolume.GetImageData()), result.log_jacobian.data)


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_a_pair_of_slices_at_different_depths(scene, axis):
    shape, away = [26, 27, 28], [0.0, 0.0, 0.0]
    shape[axis] = 1
    away[2 - axis] = 9.0
    fixed = makeGrid(tuple(shape), (2.0, 2.0, 2.0), tilt=0.2)
    moving = makeGrid(tuple(1 if n == 1 else n + 8 for n in shape), (2.0, 2.0, 2.0), tilt=0.2, center=away)

    def wave(points):
        return smooth(np.concatenate([points, points[..., :1] * 0], -1))

    fixed, moving = fixed.flattened(), moving.flattened()
    fixedNode = addVolume(scene, fixed, wave(pointsOf(fixed)), "fixed")
    movingNode = addVolume(scene, moving, wave(pointsOf(moving)), "moving")
    truth = Stretch(0.3, 45.0, affine=[[1, 0.02, 1], [-0.02, 1, -2], [0, 0, 1]], ndim=2)
    result = makeResult(fixed, moving, truth, image=wave)
    nodes = writeResult(result, Inputs(fixedNode, movingNode))
    assert nodes.warpedVolume.GetImageData().GetDimensions() == fixedNode.GetImageData().GetDimensions()
    np.testing.assert_allclose(ijkToWorld(nodes.warpedVolume), ijkToWorld(fixedNode), atol=1e-9)
    assertSame(resampledByVtk(nodes.transform, fixedNode, movingNode), result, movingNode, truth)
    middle = np.array(volumeFromNode(movingNode).grid.lift(moving.center)) * (-1, -1, 1)
    back = transformedPoints(nodes.inverseTransform.GetTransformFromParent(), middle[None])[0]
    assert abs(fixed.normal @ (back * (-1, -1, 1) - fixed.lift(fixed.center))) < 1e-4


def labelsOf(grid):
    points = pointsOf(grid)
    return {
        "left": np.linalg.norm(points - (9, 0, 0), axis=-1) < 8,
        "right": np.linalg.norm(points - (-9, 0, 0), axis=-1) < 7,
    }


@pytest.mark.parametrize("overlapping", [False, True])
def test_a_propagated_segmentation_keeps_what_segments_are(scene, overlapping):
    moving = makeGrid((40, 42, 44), (1.8, 2.0, 1.9))
    masks = labelsOf(moving)
    if overlapping:
        masks["all"] = masks["left"] | masks["right"]
    fixedNode, movingNode, result, truth = makePair(scene, moving=moving, parents=True)
    source = addSegmentation(scene, moving, masks, shared=not overlapping)
    source.SetAndObserveTransformNodeID(movingNode.GetParentTransformNode().GetID())
    labels = labelsFromNode(source, movingNode)

    def labelsAt(points):
        index = np.rint(labels.volume.grid.physical_to_index(points)).astype(int)
        return labels.volume.data[tuple(np.moveaxis(np.clip(index, 0, np.array(labels.volume.grid.shape) - 1), -1, 0))]

    result = makeResult(result.fixed_grid, labels.volume.grid, truth, labelsAt=labelsAt)
    node = writeResult(result, Inputs(fixedNode, movingNode, source), movingLabels=labels).segmentation
    segmentation, original = node.GetSegmentation(), source.GetSegmentation()
    assert list(segmentation.GetSegmentIDs()) == list(original.GetSegmentIDs())
    for identifier in segmentation.GetSegmentIDs():
        segment, before = segmentation.GetSegment(identifier), original.GetSegment(identifier)
        assert segment.GetName() == before.GetName()
        assert segment.GetColor() == before.GetColor()
        for tag in ("TerminologyEntry", "Own"):
            value, expected = vtk.reference(""), vtk.reference("")
            assert segment.GetTag(tag, value)
            assert before.GetTag(tag, expected)
            assert str(value) == str(expected)
    again = labelsFromNode(node, fixedNode)
    for identifier in segmentation.GetSegmentIDs():

        def where(each, volume, identifier=identifier):
            return np.isin(volume, [label for label, ids in each.segments.items() if identifier in ids])

        np.testing.assert_array_equal(where(again, again.volume.data), where(labels, result.labels.data))
    parameter = slicer.vtkSegmentationConverter.GetReferenceImageGeometryParameterName()
    geometry = slicer.vtkOrientedImageData()
    text = segmentation.GetConversionParameter(parameter)
    slicer.vtkSegmentationConverter.DeserializeImageGeometry(text, geometry, False)
    matrix = vtk.vtkMatrix4x4()
    geometry.GetImageToWorldMatrix(matrix)
    np.testing.assert_allclose(arrayFromVtkMatrix(matrix), ijkToWorld(fixedNode), atol=1e-6)
    assert geometry.GetDimensions() == fixedNode.GetImageData().GetDimensions()


def test_a_propagated_label_map_stays_a_label_map(scene):
    moving = makeGrid((40, 42, 44), (1.8, 2.0, 1.9))
    fixedNode, movingNode, _, truth = makePair(scene, moving=moving)
    sevens = (labelsOf(moving)["left"] * 7).astype(np.int16)
    source = addVolume(scene, moving, sevens, "map", "vtkMRMLLabelMapVolumeNode")
    source.GetDisplayNode().SetAndObserveColorNodeID("vtkMRMLColorTableNodeLabels")
    labels = labelsFromNode(source)
    at = lambda points: (np.linalg.norm(points - (9, 0, 0), axis=-1) < 8) * 7  # noqa: E731
    result = makeResult(makeGrid(**SMALL), moving, truth, labelsAt=at)
    node = writeResult(result, Inputs(fixedNode, movingNode, source), movingLabels=labels).segmentation
    assert node.GetClassName() == "vtkMRMLLabelMapVolumeNode"
    np.testing.assert_array_equal(arrayFromImage(node.GetImageData()), result.labels.data)
    assert node.GetDisplayNode().GetColorNodeID() == "vtkMRMLColorTableNodeLabels"


def test_landmarks_are_carried_from_where_their_parent_puts_them(scene):
    fixedNode, movingNode, result, truth = makePair(scene)
    markups = scene.AddNewNodeByClass("vtkMRMLMarkupsFiducialNode", "landmarks")
    markups.AddControlPoint(5, -6, 7, "tip")
    markups.AddControlPoint(0, 0, 0, "never placed")
    markups.UnsetNthControlPointPosition(1)
    markups.SetAndObserveTransformNodeID(addLinear(scene, TURN).GetID())
    carried = writeResult(result, Inputs(fixedNode, movingNode, movingMarkups=markups)).markups
    world = (TURN @ (5, -6, 7, 1))[:3] * (-1, -1, 1)
    np.testing.assert_allclose(
        np.array(carried.GetNthControlPointPositionWorld(0)) * (-1, -1, 1), truth.movingToFixed(world), atol=0.05
    )
    assert carried.GetNthControlPointLabel(0) == "tip"
    assert carried.GetNthControlPointPositionStatus(1) == markups.GetNthControlPointPositionStatus(1)
    np.testing.assert_allclose(markups.GetNthControlPointPosition(0), (5, -6, 7))


def addBall(scene, name="ball", radius=8):
    sphere = vtk.vtkSphereSource()
    sphere.SetRadius(radius)
    sphere.Update()
    heights = vtk.vtkElevationFilter()
    heights.SetInputData(sphere.GetOutput())
    heights.Update()
    model = scene.AddNewNodeByClass("vtkMRMLModelNode", name)
    model.SetAndObserveMesh(heights.GetOutput())
    model.CreateDefaultDisplayNodes()
    return model


@pytest.mark.parametrize("parent", [False, True])
def test_a_model_is_carried_with_its_look_and_its_scalars(scene, parent):
    fixedNode, movingNode, result, truth = makePair(scene)
    model = addBall(scene)
    display = model.GetDisplayNode()
    display.SetColor(0.2, 0.4, 0.6)
    display.SetOpacity(0.3)
    display.SetActiveScalarName("Elevation")
    display.SetScalarVisibility(True)
    display.SetAndObserveColorNodeID("vtkMRMLColorTableNodeLabels")
    if parent:
        model.SetAndObserveTransformNodeID(addLinear(scene, TURN).GetID())
    matrix = TURN if parent else np.eye(4)
    before = vtk_to_numpy(model.GetMesh().GetPoints().GetData()).copy()
    modified = model.GetMTime(), model.GetMesh().GetMTime(), display.GetMTime()
    carried = writeResult(result, Inputs(fixedNode, movingNode, movingModel=model)).model
    assert (model.GetMTime(), model.GetMesh().GetMTime(), display.GetMTime()) == modified
    assert carried.GetParentTransformNode() is None
    world = (before @ matrix[:3, :3].T + matrix[:3, 3]) * (-1, -1, 1)
    vertices = vtk_to_numpy(carried.GetMesh().GetPoints().GetData()) * (-1, -1, 1)
    np.testing.assert_allclose(vertices, truth.movingToFixed(world), atol=0.05)
    assert np.abs(vertices - world).max() > 1
    assert carried.GetMesh().GetNumberOfPolys() == model.GetMesh().GetNumberOfPolys()
    assert carried.GetMesh().GetPointData().GetNormals() is None  # those of the old shape
    heights = [vtk_to_numpy(each.GetMesh().GetPointData().GetArray("Elevation")) for each in (model, carried)]
    np.testing.assert_array_equal(*heights)
    look = carried.GetDisplayNode()
    assert (look.GetColor(), look.GetOpacity()) == ((0.2, 0.4, 0.6), 0.3)
    assert (look.GetActiveScalarName(), look.GetScalarVisibility()) == ("Elevation", 1)
    assert look.GetColorNodeID() == "vtkMRMLColorTableNodeLabels"


def test_tables_and_charts_hold_the_numbers(scene):
    fixedNode, movingNode, result, _ = makePair(scene)
    nodes = writeResult(result, Inputs(fixedNode, movingNode))
    table = nodes.metricsTable.GetTable()
    rows = {
        table.GetValue(row, 0).ToString(): [table.GetValue(row, column).ToString() for column in (1, 2, 3)]
        for row in range(table.GetNumberOfRows())
    }
    assert not {"Verdict", "Reason"} & set(rows)  # these are no measurements
    assert rows["Mean Dice"] == ["0.6", "0.9", ""]
    assert rows["Mean landmark distance"] == ["5", "1.5", "mm"]
    labels = nodes.labelsTable.GetTable()
    assert labels.GetValueByName(0, "Volume change (%)").ToDouble() == 10
    assert labels.GetValueByName(0, "Dice before").ToDouble() == 0.6
    series = nodes.convergenceChart.GetNthPlotSeriesNode(0)
    assert series.GetYColumnName() == "Energy"
    assert series.GetTableNode().GetTable().GetValueByName(9, "Energy").ToDouble() == 1.0


def idsOf(scene):
    return {scene.GetNthNode(index).GetID() for index in range(scene.GetNumberOfNodes())}


def everything(scene):
    """Nodes for every input, and two different results."""
    moving = makeGrid((40, 42, 44), (1.8, 2.0, 1.9))
    fixedNode, movingNode, _, _ = makePair(scene, moving=moving)
    source = addSegmentation(scene, moving, labelsOf(moving))
    labels = labelsFromNode(source)
    markups = scene.AddNewNodeByClass("vtkMRMLMarkupsFiducialNode", "landmarks")
    markups.AddControlPoint(5, -6, 7, "tip")
    model = addBall(scene)
    at = lambda points: np.linalg.norm(points - (9, 0, 0), axis=-1) < 8  # noqa: E731
    results = [makeResult(makeGrid(**SMALL), moving, Stretch(0.3 - 0.1 * n, 45.0), labelsAt=at) for n in range(2)]
    inputs = Inputs(fixedNode, movingNode, source, movingMarkups=markups, movingModel=model)
    return inputs, results, {"movingLabels": labels}


def contentOf(nodes):
    """What a user would notice of the output nodes."""
    labels = (
        nodes.segmentation.GetSegmentation()
        .GetSegment("Id.left")
        .GetRepresentation(slicer.vtkSegmentationConverter.GetSegmentationBinaryLabelmapRepresentationName())
    )
    content = [
        arrayFromImage(image).copy()
        for image in (
            nodes.warpedVolume.GetImageData(),
            nodes.logJacobianVolume.GetImageData(),
            labels,
            nodes.transform.GetTransformFromParent().GetDisplacementGrid(),
            nodes.inverseTransform.GetTransformFromParent().GetDisplacementGrid(),
        )
    ]
    content.append(np.array(nodes.markups.GetNthControlPointPosition(0)))
    content.append(np.array(nodes.model.GetMesh().GetPoint(5)))
    tables = [
        nodes.metricsTable,
        nodes.labelsTable,
        nodes.convergenceChart.GetNthPlotSeriesNode(0).GetTableNode(),
        nodes.histogramChart.GetNthPlotSeriesNode(0).GetTableNode(),
    ]
    for table in tables:
        content.append(
            [
                [
                    table.GetTable().GetValue(row, column).ToString()
                    for column in range(table.GetTable().GetNumberOfColumns())
                ]
                for row in range(table.GetTable().GetNumberOfRows())
            ]
        )
    display = nodes.warpedVolume.GetDisplayNode()
    content.append([display.GetWindow(), display.GetLevel()])
    content.append([nodes.transform.GetAttribute("DeepFLASH.affine")])
    return content


def same(one, other):
    return all(np.array_equal(np.asarray(a), np.asarray(b)) for a, b in zip(one, other, strict=True))


def test_a_second_run_updates_the_same_nodes(scene):
    inputs, results, keywords = everything(scene)
    first = writeResult(results[0], inputs, **keywords)
    before, content = idsOf(scene), contentOf(first)
    second = writeResult(results[1], inputs, first, **keywords)
    assert second == first
    assert idsOf(scene) == before
    assert not same(contentOf(second), content)


def test_converted_in_short_steps_beforehand_it_is_the_same(scene, monkeypatch):
    monkeypatch.setattr(arrays_module, "_SLAB_VALUES", 500)
    inputs, results, keywords = everything(scene)
    prepared = PreparedResult(results[0], inputs.fixedVolume, inputs.movingVolume)
    assert len(list(prepared.steps(OutputNodes()))) > 20
    monkeypatch.undo()
    nodes = writeResult(results[0], inputs, prepared=prepared, **keywords)
    at_once = writeResult(results[0], inputs, **keywords)
    assert same(contentOf(nodes), contentOf(at_once))


STEPS = [
    "gridTransformInSteps",
    "propagatedSegmentation",
    "carriedMarkups",
    "carriedModel",
    "writeTable",
    "writeConvergenceChart",
    "writeHistogramChart",
    "placeIn",
    "_setVoxels",
]


@pytest.mark.parametrize("step", STEPS)
def test_a_failure_anywhere_leaves_the_scene_as_it_was(scene, monkeypatch, step):
    inputs, results, keywords = everything(scene)
    chosen = writeResult(results[0], inputs, **keywords)
    chosen.warpedVolume.GetDisplayNode().SetWindowLevel(50, 60)
    before, content = idsOf(scene), contentOf(chosen)
    calls = []
    real = getattr(outputs_module, step)

    def failing(*arguments, **keywordArguments):
        calls.append(1)
        real(*arguments, **keywordArguments)
        if len(calls) == 2 or step not in ("gridTransformInSteps", "writeTable", "_setVoxels"):
            raise RuntimeError("disk on fire")
        return real(*arguments, **keywordArguments)

    monkeypatch.setattr(outputs_module, step, failing)
    if step != "placeIn":
        with pytest.raises(RuntimeError, match="disk on fire"):
            writeResult(results[1], inputs, chosen, **keywords)
        assert idsOf(scene) == before
        assert same(contentOf(chosen), content)
    calls.clear()
    with pytest.raises(RuntimeError, match="disk on fire"):
        writeResult(results[1], inputs, **keywords)
    assert idsOf(scene) == before


def test_outputs_that_are_not_wanted_are_not_made(scene):
    fixedNode, movingNode, result, _ = makePair(scene)
    before = idsOf(scene)
    none = OutputNodes(**dict.fromkeys(OutputNodes.__dataclass_fields__))
    assert writeResult(result, Inputs(fixedNode, movingNode), none) == none
    assert idsOf(scene) == before


def test_inputs_and_outputs_are_kept_apart(scene):
    fixedNode, movingNode, result, _ = makePair(scene)
    with pytest.raises(InputError, match="moving is an input and an output"):
        writeResult(result, Inputs(fixedNode, movingNode), OutputNodes(warpedVolume=movingNode))
    other = scene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", "other")
    with pytest.raises(InputError, match="other is chosen for two outputs"):
        writeResult(result, Inputs(fixedNode, movingNode), OutputNodes(warpedVolume=other, logJacobianVolume=other))
    with pytest.raises(InputError, match="cannot hold the output transform"):
        writeResult(result, Inputs(fixedNode, movingNode), OutputNodes(transform=other))


def test_inputs_are_not_changed(scene):
    inputs, results, keywords = everything(scene)
    nodes = list(inputs.nodes().values())
    before = [node.GetMTime() for node in nodes]
    writeResult(results[0], inputs, **keywords)
    assert [node.GetMTime() for node in nodes] == before
    assert slicer_nodes(scene, "vtkMRMLSegmentationNode")


def test_the_uncertainty_becomes_a_volume_only_where_it_is_known(scene):
    fixedNode, movingNode, result, _ = makePair(scene)
    assert writeResult(result, Inputs(fixedNode, movingNode)).uncertaintyVolume is None
    spread = result.log_jacobian.with_data(np.abs(result.log_jacobian.data) + 0.25)
    result.uncertainty = spread
    nodes = writeResult(result, Inputs(fixedNode, movingNode))
    assert nodes.uncertaintyVolume.GetName().endswith("uncertainty")
    np.testing.assert_allclose(arrayFromImage(nodes.uncertaintyVolume.GetImageData()), spread.data)
    again = writeResult(result, Inputs(fixedNode, movingNode), nodes)
    assert again.uncertaintyVolume is nodes.uncertaintyVolume
