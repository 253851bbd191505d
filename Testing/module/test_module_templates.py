# SPDX-License-Identifier: Apache-2.0
"""A template folder in the scene, and its subjects as they were registered."""

import json
import shutil

import numpy as np
import pytest
from DeepFLASHRegistrationLib.imaging.io import read_labels, read_volume
from DeepFLASHRegistrationLib.process.runner import Runner
from DeepFLASHRegistrationLib.scene.arrays import arrayFromImage
from DeepFLASHRegistrationLib.scene.geometry import gridFromVolume, inSpace
from DeepFLASHRegistrationLib.scene.hierarchy import hierarchyOf, parentOf
from DeepFLASHRegistrationLib.scene.labels import labelsFromNode
from DeepFLASHRegistrationLib.scene.tables import shownTable
from DeepFLASHRegistrationLib.scene.templates import SubjectRun, addTemplate
from DeepFLASHRegistrationLib.scene.velocity import hasVelocity
from DeepFLASHRegistrationLib.support.errors import InputError
from module_nodes import names


@pytest.fixture(scope="module")
def runner(childPython):
    runner = Runner(childPython)
    yield runner
    runner.close()


def test_a_template_is_loaded_as_what_it_is(scene, made_template):
    folder = made_template[0].out
    nodes = addTemplate(scene, folder)
    assert inSpace(gridFromVolume(nodes.volume)).same_as(inSpace(read_volume(folder / "template.nii.gz").grid))
    np.testing.assert_array_equal(
        arrayFromImage(nodes.volume.GetImageData()).squeeze(), read_volume(folder / "template.nii.gz").data
    )
    labels = labelsFromNode(nodes.segmentation, nodes.volume)
    assert set(labels.names.values()) == {"1", "2", "3"}
    np.testing.assert_array_equal(labels.volume.data.squeeze(), read_labels(folder / "labels.nii.gz").data)
    titles, rows = shownTable(nodes.table)
    assert titles == ["Subject", "Verdict", "Distance", "Far"]
    assert sorted(row[0].text for row in rows) == ["s0", "s1", "s2", "s3"]
    distances = [row[2].key for row in rows]
    assert distances == sorted(distances, reverse=True)
    item = parentOf(nodes.volume)
    assert hierarchyOf(scene).GetItemName(item) == folder.name
    assert {parentOf(node) for node in (nodes.segmentation, nodes.table)} == {item}
    # Loaded again, it is what is there already.
    before = names(scene)
    assert addTemplate(scene, folder).volume is nodes.volume
    assert names(scene) == before


def test_a_subject_is_shown_as_it_was_registered(scene, made_template, runner):
    template = made_template[0]
    nodes = addTemplate(scene, template.out)
    run = SubjectRun(nodes, "s2", device="cpu", threads=1)
    runner.wait(runner.start(run))
    assert run.inputs.movingVolume.GetName() == "s2"
    known = json.loads((template.last("s2") / "result.json").read_text(encoding="utf-8"))
    warped = read_volume(template.last("s2") / "warped.nii.gz").data
    np.testing.assert_allclose(
        arrayFromImage(run.nodes.warpedVolume.GetImageData()).squeeze(), warped, atol=1e-3 * warped.max()
    )
    assert run.metrics["smallest_determinant"] == pytest.approx(known["metrics"]["smallest_determinant"], rel=1e-4)
    assert hasVelocity(run.nodes.transform)
    # Its labels are there, too, and are compared with the template's.
    assert run.nodes.segmentation.GetDisplayNode().GetVisibility()
    # Where they lie in the subject, nothing of them belongs over the template.
    assert not run.inputs.movingSegmentation.GetDisplayNode().GetVisibility()
    assert run.metrics["mean_dice_after"] > 0.9
    # Once more: the same volume, and the same outputs.
    before = names(scene)
    again = SubjectRun(nodes, "s2", run.nodes, "cpu", 1)
    runner.wait(runner.start(again))
    assert again.inputs.movingVolume is run.inputs.movingVolume
    assert names(scene) == before


def test_what_is_not_there_is_refused_and_the_scene_is_as_it_was(scene, made_template, tmp_path):
    folder = shutil.copytree(made_template[0].out, tmp_path / "T")
    with pytest.raises(InputError, match="holds no template that is done"):
        addTemplate(scene, tmp_path)
    path = folder / "template.json"
    values = json.loads(path.read_text(encoding="utf-8"))
    values["subjects"][0]["image"] = str(tmp_path / "gone.nii.gz")
    path.write_text(json.dumps(values), encoding="utf-8")
    nodes = addTemplate(scene, folder)
    before = names(scene)
    with pytest.raises(InputError, match=r"gone\.nii\.gz"):
        SubjectRun(nodes, "s0")
    with pytest.raises(InputError, match="T has no subject s9"):
        SubjectRun(nodes, "s9")
    assert names(scene) == before
    # An image that has changed since is not taken for what was registered.
    run = SubjectRun(nodes, "s1")
    array = arrayFromImage(run.inputs.movingVolume.GetImageData())
    array[array.shape[0] // 2] += 7
    run.inputs.movingVolume.GetImageData().Modified()
    with pytest.raises(InputError, match="is the result of another moving image than s1"):
        run.arguments()
    scene.RemoveNode(nodes.volume)
    with pytest.raises(InputError, match="The template was removed from the scene"):
        SubjectRun(nodes, "s1")
