# SPDX-License-Identifier: Apache-2.0
"""A result is a folder of the subject hierarchy: named after its pair, updated as a whole, deleted as a whole."""

import dataclasses

import numpy as np
import pytest
from DeepFLASHRegistrationLib.scene import outputs as outputsModule
from DeepFLASHRegistrationLib.scene.companions import removeOrphans
from DeepFLASHRegistrationLib.scene.conversion import volumeFromNode
from DeepFLASHRegistrationLib.scene.display.jacobian import JacobianDisplay
from DeepFLASHRegistrationLib.scene.hierarchy import hierarchyOf, parentOf, placeIn
from DeepFLASHRegistrationLib.scene.inputs import Inputs
from DeepFLASHRegistrationLib.scene.labels import labelsFromNode
from DeepFLASHRegistrationLib.scene.origins import markOutputs, resultOf, settledOutputs
from DeepFLASHRegistrationLib.scene.outputs import NEW, OutputNodes, writeResult
from DeepFLASHRegistrationLib.scene.velocity import VELOCITY_ROLE, hasVelocity, savedResult
from DeepFLASHRegistrationLib.support.errors import InputError
from scene_synthetic import Stretch, addSegmentation, addVolume, makeGrid, makeResult, pointsOf, smooth

FIXED, MOVING = makeGrid((20, 22, 24), (2.0, 2.0, 2.0)), makeGrid((24, 24, 26), (2.0, 2.0, 2.0), tilt=0.1)


def addImages(scene, *names):
    return [
        addVolume(scene, grid, smooth(pointsOf(grid)), name)
        for grid, name in zip((FIXED, *[MOVING] * len(names)), names, strict=False)
    ]


def register(inputs, outputs=None):
    """A result of the inputs, as a run of the window leaves it."""
    truth = Stretch(0.3, 40.0)
    labels = labelsFromNode(inputs.movingSegmentation) if inputs.movingSegmentation is not None else None
    at = None if labels is None else (lambda points: (points[..., 0] > 0).astype(int))
    grids = [volumeFromNode(volume).grid for volume in (inputs.fixedVolume, inputs.movingVolume)]
    result = makeResult(*grids, truth, labelsAt=at)
    nodes = writeResult(result, inputs, outputs, movingLabels=labels)
    markOutputs(nodes, inputs)
    return nodes


def everyInput(scene):
    fixed, moving = addImages(scene, "fixed", "moving")
    segmentation = addSegmentation(scene, MOVING, {"right": pointsOf(MOVING)[..., 0] > 0})
    markups = scene.AddNewNodeByClass("vtkMRMLMarkupsFiducialNode", "landmarks")
    markups.AddControlPoint(5, -6, 7, "tip")
    return Inputs(fixed, moving, segmentation, movingMarkups=markups)


def made(nodes):
    return [getattr(nodes, each.name) for each in dataclasses.fields(nodes) if getattr(nodes, each.name) is not None]


def idsOf(scene):
    return {scene.GetNthNode(index).GetID() for index in range(scene.GetNumberOfNodes())}


def foldersOf(scene):
    """Their names."""
    hierarchy, items = hierarchyOf(scene), []
    hierarchy.GetItemChildren(hierarchy.GetSceneItemID(), items, True)
    return [hierarchy.GetItemName(item) for item in items if hierarchy.IsItemLevel(item, "Folder")]


def danglingReferences(scene):
    """References to nodes that are not there."""
    found = []
    for node in (scene.GetNthNode(index) for index in range(scene.GetNumberOfNodes())):
        roles = []
        node.GetNodeReferenceRoles(roles)
        for role in roles:
            for index in range(node.GetNumberOfNodeReferences(role)):
                identifier = node.GetNthNodeReferenceID(role, index)
                if identifier and scene.GetNodeByID(identifier) is None:
                    found.append((node.GetName(), role, identifier))
    return found


def test_a_result_is_a_folder_beside_the_fixed_image_named_after_its_pair(scene):
    hierarchy = hierarchyOf(scene)
    study = hierarchy.CreateStudyItem(hierarchy.GetSceneItemID(), "study")
    inputs = everyInput(scene)
    placeIn(inputs.fixedVolume, study)
    nodes = register(inputs)
    folder = parentOf(nodes.transform)
    assert (hierarchy.GetItemName(folder), hierarchy.GetItemParent(folder)) == ("moving to fixed", study)
    hidden = [nodes.transform.GetNodeReference(VELOCITY_ROLE)]
    for chart in (nodes.convergenceChart, nodes.histogramChart):
        series = chart.GetNthPlotSeriesNode(0)
        hidden += [series, series.GetTableNode()]
    assert {parentOf(node) for node in [*made(nodes), *hidden]} == {folder}


def test_another_pair_has_its_own_folder_and_names_of_its_own(scene):
    fixed, one, two = addImages(scene, "fixed", "one", "two")
    first = register(Inputs(fixed, one))
    second = register(Inputs(fixed, two))
    third = register(Inputs(one, two))
    fourth = register(Inputs(one, fixed))
    assert foldersOf(scene)[-4:] == ["one to fixed", "two to fixed", "two to one", "fixed to one"]
    names = [node.GetName() for nodes in (first, second, third, fourth) for node in made(nodes)]
    assert len(set(names)) == len(names)
    assert not [name for name in names if name.endswith(("_1", "_2"))]


def test_a_rerun_updates_the_result_and_what_it_did_not_hold_goes_into_the_same_folder(scene):
    inputs = everyInput(scene)
    first = register(inputs, OutputNodes(warpedVolume=None))
    folder, folders = parentOf(first.transform), foldersOf(scene)
    second = register(inputs, dataclasses.replace(first, warpedVolume=NEW))
    assert second.transform is first.transform
    assert parentOf(second.warpedVolume) == folder
    assert foldersOf(scene) == folders


def test_a_folder_is_called_as_its_pair_though_a_node_beside_it_is(scene):
    fixed, moving = addImages(scene, "fixed", "moving")
    (other,) = addImages(scene, "moving to fixed")
    placeIn(other, parentOf(fixed))  # as Slicer's window does with every new node
    nodes = register(Inputs(fixed, moving))
    assert hierarchyOf(scene).GetItemName(parentOf(nodes.transform)) == "moving to fixed"


def test_a_second_result_of_a_pair_does_not_mix_with_the_first(scene):
    inputs = everyInput(scene)
    first, second = register(inputs), register(inputs)
    assert foldersOf(scene)[-2:] == ["moving to fixed", "moving to fixed (2)"]
    assert parentOf(first.transform) != parentOf(second.transform)


def test_a_result_that_is_registered_again_has_its_results_beside_it(scene):
    fixed, one, two = addImages(scene, "fixed", "one", "two")
    warped = register(Inputs(fixed, one)).warpedVolume
    again = register(Inputs(warped, two))
    assert parentOf(again.transform) != parentOf(warped)
    assert hierarchyOf(scene).GetItemParent(parentOf(again.transform)) == hierarchyOf(scene).GetSceneItemID()


def test_a_node_of_the_user_s_stays_where_it_is(scene):
    inputs = everyInput(scene)
    (mine,) = addImages(scene, "mine")
    where = parentOf(mine)
    nodes = register(inputs, OutputNodes(warpedVolume=mine))
    assert parentOf(mine) == where
    hierarchyOf(scene).RemoveItem(parentOf(nodes.transform))
    removeOrphans(scene)
    assert mine.GetScene() is scene
    assert mine.GetDisplayNode() is not None


def test_with_its_folder_all_of_a_result_goes(room, scene):
    inputs = everyInput(scene)
    hierarchyOf(scene)
    before, folders = idsOf(scene), foldersOf(scene)
    nodes = register(inputs)
    display = JacobianDisplay(nodes.logJacobianVolume, inputs.fixedVolume)
    display.show()
    display.hide()
    assert len(idsOf(scene) - before) > 20
    assert hierarchyOf(scene).RemoveItem(parentOf(nodes.transform), True, True)
    removeOrphans(scene)
    left = {scene.GetNodeByID(identifier).GetName() for identifier in idsOf(scene) - before}
    assert left == set()
    assert foldersOf(scene) == folders
    assert danglingReferences(scene) == []


def test_with_a_saved_and_loaded_folder_all_of_a_result_goes(scene, tmp_path):
    inputs = everyInput(scene)
    nodes = register(inputs)
    kept = {node.GetName() for node in inputs.nodes().values()}
    results = {node.GetName() for node in made(nodes)}
    assert scene.WriteToMRB(str(tmp_path / "scene.mrb"))
    scene.Clear(False)
    assert scene.ReadFromMRB(str(tmp_path / "scene.mrb"))
    transform = scene.GetFirstNodeByName("moving to fixed")
    assert hasVelocity(transform)
    hierarchyOf(scene).RemoveItem(parentOf(transform), True, True)
    removeOrphans(scene)
    names = {scene.GetNthNode(index).GetName() for index in range(scene.GetNumberOfNodes())}
    assert kept <= names
    assert not results & names
    for className in ("vtkMRMLTextNode", "vtkMRMLTableNode", "vtkMRMLPlotSeriesNode", "vtkMRMLTransformStorageNode"):
        assert not scene.GetNumberOfNodesByClass(className), className


@pytest.mark.parametrize("output", ["transform", "convergenceChart", "warpedVolume"])
def test_one_output_takes_along_what_only_it_needed(scene, output):
    inputs = everyInput(scene)
    bare = OutputNodes(**dict.fromkeys(OutputNodes.__dataclass_fields__))
    register(inputs, dataclasses.replace(bare, metricsTable=NEW))
    before, folders = idsOf(scene), foldersOf(scene)
    nodes = register(inputs, dataclasses.replace(bare, **{output: NEW}))
    scene.RemoveNode(getattr(nodes, output))
    removeOrphans(scene)
    assert idsOf(scene) == before
    assert foldersOf(scene) == folders


def test_nothing_goes_that_is_still_of_use(scene):
    nodes = register(everyInput(scene))
    before = idsOf(scene)
    removeOrphans(scene)
    assert idsOf(scene) == before
    assert hasVelocity(nodes.transform)


def test_the_colors_of_what_is_shown_stay(scene):
    inputs = everyInput(scene)
    before = idsOf(scene)
    nodes = register(inputs)
    toggle = JacobianDisplay(nodes.logJacobianVolume, inputs.fixedVolume)
    toggle.show()
    colors = nodes.logJacobianVolume.GetDisplayNode().GetColorNode()
    assert colors.GetID() not in before
    removeOrphans(scene)
    assert colors.GetScene() is scene
    assert nodes.logJacobianVolume.GetDisplayNode().GetColorNode() is colors
    toggle.hide()
    removeOrphans(scene)
    assert colors.GetScene() is None


def test_a_failure_leaves_no_folder(scene, monkeypatch):
    inputs = everyInput(scene)
    hierarchyOf(scene)
    before, folders = idsOf(scene), foldersOf(scene)
    monkeypatch.setattr(outputsModule, "markCompanion", lambda node: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        register(inputs)
    assert idsOf(scene) == before
    assert foldersOf(scene) == folders


def test_the_result_of_a_pair_is_found_again(scene):
    fixed, one, two = addImages(scene, "fixed", "one", "two")
    first, second = register(Inputs(fixed, one)), register(Inputs(fixed, two))
    assert resultOf(Inputs(fixed, one)).transform is first.transform
    found = resultOf(Inputs(fixed, two))
    assert [node for node in made(found) if node != NEW] == made(second)
    assert resultOf(Inputs(one, two)) == OutputNodes()
    newest = register(Inputs(fixed, one))
    scene.RemoveNode(newest.warpedVolume)
    found = resultOf(Inputs(fixed, one))
    assert found.transform is newest.transform
    assert found.warpedVolume == NEW  # not that of the other result
    assert resultOf(Inputs()) == OutputNodes()


def test_outputs_of_another_pair_are_given_up_and_those_of_the_own_found_again(scene):
    fixed, one, two = addImages(scene, "fixed", "one", "two")
    first, other = Inputs(fixed, one), Inputs(fixed, two)
    nodes = register(first)
    absent = ("uncertaintyVolume", "segmentation", "markups", "model", "labelsTable")
    chosen = dataclasses.replace(nodes, **dict.fromkeys(absent, NEW))
    # Another pair: everything new; back again before anything was run: the first result, not a second.
    away = settledOutputs(chosen, other, pairChanged=True)
    assert away == OutputNodes()
    assert settledOutputs(away, first, pairChanged=True).transform is nodes.transform
    # The user may want a second result of the pair, and keep the first as it is.
    assert settledOutputs(OutputNodes(), first, pairChanged=False) == OutputNodes()
    assert settledOutputs(chosen, first, pairChanged=False) == chosen
    # Nor is one taken that other settings update, nor one made that is not wanted.
    assert settledOutputs(away, first, pairChanged=True, taken=[nodes.warpedVolume]) == OutputNodes()
    unwanted = settledOutputs(dataclasses.replace(away, warpedVolume=None), first, pairChanged=True)
    assert (unwanted.warpedVolume, unwanted.transform) == (None, nodes.transform)


def test_an_output_that_was_deleted_is_made_anew_in_its_folder(scene):
    inputs = everyInput(scene)
    nodes = register(inputs)
    folder = parentOf(nodes.transform)
    scene.RemoveNode(nodes.warpedVolume)
    again = register(inputs, dataclasses.replace(nodes, warpedVolume=NEW))
    assert again.warpedVolume.GetName() == "moving to fixed warped"
    assert parentOf(again.warpedVolume) == folder


def test_a_map_that_is_no_geodesic_says_so_and_one_that_is_takes_its_place(scene):
    inputs = everyInput(scene)
    grids = [volumeFromNode(volume).grid for volume in (inputs.fixedVolume, inputs.movingVolume)]
    result = makeResult(*grids, Stretch(0.3, 40.0))
    still = np.zeros((3, *grids[0].shape), np.float32)
    dense = {"domain": grids[0], "affine": np.eye(4), "forth": still, "back": still}
    bare = OutputNodes(**dict.fromkeys(OutputNodes.__dataclass_fields__))
    transform = writeResult(result, inputs, dataclasses.replace(bare, transform=NEW)).transform
    assert hasVelocity(transform)
    outputs = dataclasses.replace(bare, transform=transform)
    geodesic, result.velocity = result.velocity, dense
    writeResult(result, inputs, outputs)
    assert not hasVelocity(transform)
    with pytest.raises(InputError, match="is no geodesic"):
        savedResult(transform)
    result.velocity = geodesic
    writeResult(result, inputs, outputs)
    assert hasVelocity(transform)
    savedResult(transform)
