# SPDX-License-Identifier: Apache-2.0
"""A template folder in the scene: the template, its labels, its subjects, and each of them as it was registered."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import slicer

from ..cohorts.saved_template import SavedTemplate, load_template
from ..imaging.grid import Grid
from ..imaging.volume import label_values
from ..results.starts import arguments_of, check_same_images
from ..results.velocity import load_result
from ..support.errors import InputError
from .added import addSegmentation, addVolume
from .geometry import inSpace
from .hierarchy import hierarchyOf, placeIn
from .inputs import Inputs
from .outputs import OutputNodes
from .runs import RegistrationRun
from .tables import writeTable
from .transaction import Transaction
from .translation import tr as _

# Of the template's volume: its folder. Of a subject's volume: its file.
FOLDER_ATTRIBUTE, FILE_ATTRIBUTE = "DeepFLASH.template", "DeepFLASH.file"
_SEGMENTATION, _TABLE = "deepflashSegmentation", "deepflashSubjects"


@dataclass(frozen=True)
class TemplateNodes:
    """What was loaded of a template.

    Attributes:
        saved: what its folder holds.
        volume, table: the template, and its subjects with verdicts and distances.
        segmentation: the labels that most subjects have; None without labels.
    """

    saved: SavedTemplate
    volume: slicer.vtkMRMLScalarVolumeNode
    table: slicer.vtkMRMLTableNode
    segmentation: slicer.vtkMRMLSegmentationNode | None


def addTemplate(scene: slicer.vtkMRMLScene, folder: str | os.PathLike) -> TemplateNodes:
    """Loads what `deepflash template` wrote, all or nothing, into a folder of the subject hierarchy; or finds the nodes
    that were loaded of it before.

    Raises:
        InputError: there is none, or it is not done, damaged or half copied.
    """
    place = Path(folder).absolute()
    saved, name = load_template(place), place.name
    known = _withAttribute(scene, FOLDER_ATTRIBUTE, str(place))
    if known is not None and known.GetNodeReference(_TABLE) is not None:
        return TemplateNodes(saved, known, known.GetNodeReference(_TABLE), known.GetNodeReference(_SEGMENTATION))
    subject = saved.subject
    with Transaction(scene) as transaction:
        volume = addVolume(transaction, subject.image, name)
        volume.SetAttribute(FOLDER_ATTRIBUTE, str(place))
        segmentation = None
        if saved.labelled:
            numbers = [int(each) for each in label_values(subject.labels[0].data) if each]
            names = {number: saved.structures.get(number, str(number)) for number in numbers}
            segmentation = addSegmentation(transaction, subject.labels[0], names, volume)
            volume.SetNodeReferenceID(_SEGMENTATION, segmentation.GetID())
        table = transaction.create("vtkMRMLTableNode", f"{name} subjects")
        writeTable(table, _rows(saved))
        volume.SetNodeReferenceID(_TABLE, table.GetID())
        hierarchy = hierarchyOf(scene)
        item = hierarchy.CreateFolderItem(hierarchy.GetSceneItemID(), name)
        transaction.onFailure(lambda: hierarchyOf(scene).RemoveItem(item, False, False))
        for node in transaction.created:
            placeIn(node, item)
    return TemplateNodes(saved, volume, table, segmentation)


def _rows(saved: SavedTemplate) -> list[dict[str, Any]]:
    ordered = sorted(saved.subjects.items(), key=lambda item: -item[1].distance)
    flipped = any(each.flipped for each in saved.subjects.values())
    return [
        {
            "Subject": name,
            "Verdict": each.verdict,
            "Distance": each.distance,
            "Far from the rest": _("yes") if each.far else "",
            **({"Sides exchanged": _("perhaps") if each.flipped else ""} if flipped else {}),
        }
        for name, each in ordered
    ]


def subjectInputs(nodes: TemplateNodes, name: str) -> Inputs:
    """The template and one of its subjects, which is loaded unless it is there already.

    Raises:
        InputError: there is no such subject, or its image or labels cannot be read.
    """
    from ..imaging.io import read_labels, read_volume

    scene, files = nodes.volume.GetScene(), nodes.saved.subjects.get(name)
    if scene is None:
        raise InputError(_("The template was removed from the scene. Load it again."))
    if files is None:
        raise InputError(_("{template} has no subject {name}.").format(template=nodes.volume.GetName(), name=name))
    volume = _withAttribute(scene, FILE_ATTRIBUTE, str(files.image))
    if volume is None:
        with Transaction(scene) as transaction:
            volume = addVolume(transaction, read_volume(files.image), name)
            volume.SetAttribute(FILE_ATTRIBUTE, str(files.image))
            if files.labels is not None:
                labels = read_labels(files.labels)
                numbers = [int(each) for each in label_values(labels.data) if each]
                names = {number: nodes.saved.structures.get(number, str(number)) for number in numbers}
                segmentation = addSegmentation(transaction, labels, names, volume)
                volume.SetNodeReferenceID(_SEGMENTATION, segmentation.GetID())
    return Inputs(
        nodes.volume,
        volume,
        movingSegmentation=volume.GetNodeReference(_SEGMENTATION),
        fixedSegmentation=nodes.segmentation,
    )


def _withAttribute(scene: slicer.vtkMRMLScene, name: str, value: str) -> slicer.vtkMRMLScalarVolumeNode | None:
    count = scene.GetNumberOfNodesByClass("vtkMRMLScalarVolumeNode")
    volumes = (scene.GetNthNodeByClass(index, "vtkMRMLScalarVolumeNode") for index in range(count))
    return next((each for each in volumes if each.GetAttribute(name) == value), None)


class SubjectRun(RegistrationRun):
    """A subject of a template as it was registered: its maps, images and figures from its velocity; nothing is
    searched."""

    task = "made"

    def __init__(
        self,
        nodes: TemplateNodes,
        name: str,
        outputs: OutputNodes | None = None,
        device: str = "auto",
        threads: int | None = None,
    ) -> None:
        """Loads the subject's files, if they are not in the scene.

        Raises:
            InputError: as `subjectInputs`.
        """
        # Further images decided about the velocity, which is known.
        parameters = replace(nodes.saved.parameters, channel_weights=(), channel_similarities=())
        super().__init__(subjectInputs(nodes, name), parameters, outputs, device, threads)
        self._folder = nodes.saved.result(name)

    def _expected(self, aligned: bool) -> dict[str, float]:
        """Nothing: what is known is how long a search takes."""
        return {}

    def _start(self, fixed: Grid, moving: Grid) -> dict[str, Any]:
        saved = load_result(self._folder)
        check_same_images(str(self._folder), saved.moving_grid.ndim, moving=self.moving)
        if not inSpace(fixed).same_as(inSpace(saved.fixed_grid)):
            raise InputError(
                _("{name} does not lie where it lay when it was loaded. Load the template again.").format(
                    name=self.inputs.fixedVolume.GetName()
                )
            )
        return {"velocity": arguments_of(saved.deformation)}

    def finish(self) -> None:
        """Writes the outputs, all or none; the subject's own labels, which lie elsewhere than the template, are hidden
        from then on."""
        super().finish()
        own = self.inputs.movingSegmentation
        if own is not None and own.GetDisplayNode() is not None:
            own.GetDisplayNode().SetVisibility(False)
