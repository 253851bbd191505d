# SPDX-License-Identifier: Apache-2.0
"""What the window shows, as a node that is saved with the scene."""

import json
from typing import Any, Union

import slicer
from slicer import (
    vtkMRMLLabelMapVolumeNode,
    vtkMRMLMarkupsClosedCurveNode,
    vtkMRMLMarkupsCurveNode,
    vtkMRMLMarkupsFiducialNode,
    vtkMRMLMarkupsLineNode,
    vtkMRMLModelNode,
    vtkMRMLPlotChartNode,
    vtkMRMLScalarVolumeNode,
    vtkMRMLSegmentationNode,
    vtkMRMLSequenceNode,
    vtkMRMLTableNode,
    vtkMRMLTransformNode,
)
from slicer.parameterNodeWrapper import parameterNodeWrapper

from ..problem.parameters import Parameters
from ..scene.comparison import withoutCompared
from ..scene.inputs import Inputs, onlyPair
from ..scene.origins import settledOutputs
from ..scene.outputs import NEW, OutputNodes
from ..scene.sequence import geodesicOf
from .display_panel import Shown

# Union, not |: the parameter node wrapper of Slicer 5.10 cannot connect the latter to a node selector.
Labels = Union[vtkMRMLSegmentationNode, vtkMRMLLabelMapVolumeNode, None]  # noqa: UP007
Markups = Union[  # noqa: UP007
    vtkMRMLMarkupsFiducialNode,
    vtkMRMLMarkupsLineNode,
    vtkMRMLMarkupsCurveNode,
    vtkMRMLMarkupsClosedCurveNode,
    None,
]


@parameterNodeWrapper
class DeepFLASHRegistrationParameterNode:
    """What the window shows.

    Inputs (see Inputs), outputs (see OutputNodes; None stands for a new node) and whether each is wanted, the
    parameters of the registration as JSON text (see Parameters), and a sequence with how it is registered.
    """

    fixedVolume: vtkMRMLScalarVolumeNode
    movingVolume: vtkMRMLScalarVolumeNode
    movingSegmentation: Labels
    fixedSegmentation: Labels
    fixedMask: Labels
    movingMask: Labels
    fixedMarkups: Markups
    movingMarkups: Markups
    movingModel: vtkMRMLModelNode
    initialTransform: vtkMRMLTransformNode
    fixedChannel: vtkMRMLScalarVolumeNode
    movingChannel: vtkMRMLScalarVolumeNode
    settings: str = ""
    pair: str = ""  # IDs of the volumes for which the outputs were chosen last

    warpedVolume: vtkMRMLScalarVolumeNode
    transform: vtkMRMLTransformNode
    inverseTransform: vtkMRMLTransformNode
    logJacobianVolume: vtkMRMLScalarVolumeNode
    uncertaintyVolume: vtkMRMLScalarVolumeNode
    segmentation: Labels
    markups: Markups
    model: vtkMRMLModelNode
    metricsTable: vtkMRMLTableNode
    labelsTable: vtkMRMLTableNode
    convergenceChart: vtkMRMLPlotChartNode
    histogramChart: vtkMRMLPlotChartNode

    sequence: vtkMRMLSequenceNode
    seriesReference: str = "first"
    seriesSmooth: float = 0.0
    seriesCyclic: bool = False

    wantWarpedVolume: bool = True
    wantTransform: bool = True
    wantInverseTransform: bool = True
    wantLogJacobianVolume: bool = True
    wantSegmentation: bool = True
    wantMarkups: bool = True
    wantModel: bool = True
    wantTables: bool = True

    def inputs(self) -> Inputs:
        """The chosen inputs."""
        return Inputs(**{name: getattr(self, name) for name in Inputs.__dataclass_fields__})

    def chooseOnlyPair(self, scene: slicer.vtkMRMLScene) -> None:
        """Chooses the volumes of a scene that holds but two, if none is chosen yet."""
        if not self.fixedVolume and not self.movingVolume:
            self.fixedVolume, self.movingVolume = onlyPair(scene)

    def outputs(self) -> OutputNodes:
        """The chosen outputs, NEW for new ones, None for unwanted ones."""
        return OutputNodes(
            **{
                name: (getattr(self, name) or NEW) if self._wants(name) else None
                for name in OutputNodes.__dataclass_fields__
            }
        )

    def outputsToWrite(self) -> OutputNodes:
        """The same for a registration, which leaves results alone that were made to be compared."""
        return withoutCompared(self.outputs())

    def setOutputs(self, nodes: OutputNodes) -> None:
        """Chooses these nodes, so that the next run updates them; what is None stays chosen as it is."""
        with slicer.util.NodeModify(self.parameterNode):
            for name in OutputNodes.__dataclass_fields__:
                setattr(self, name, getattr(nodes, name) or getattr(self, name))

    def settleOutputs(self) -> None:
        """Outputs of another pair are given up; those that this pair has already are chosen (see settledOutputs)."""
        inputs, outputs = self.inputs(), self.outputs()
        if not inputs.fixedVolume or not inputs.movingVolume:
            return
        pair = f"{inputs.fixedVolume.GetID()} {inputs.movingVolume.GetID()}"
        settled = settledOutputs(outputs, inputs, self.pair not in ("", pair), self._takenElsewhere())
        with slicer.util.NodeModify(self.parameterNode):
            for name in OutputNodes.__dataclass_fields__:
                node = getattr(settled, name)
                if node is not getattr(outputs, name):
                    setattr(self, name, None if node == NEW else node)
            if self.pair != pair:
                self.pair = pair

    def _takenElsewhere(self) -> list[slicer.vtkMRMLNode]:
        """The outputs of other settings."""
        scene, own = self.parameterNode.GetScene(), self.parameterNode
        others = [
            DeepFLASHRegistrationParameterNode(node)
            for node in slicer.util.getNodesByClass("vtkMRMLScriptedModuleNode", scene)
            if node is not own and node.GetAttribute("ModuleName") == own.GetAttribute("ModuleName")
        ]
        nodes = [getattr(other, name) for other in others for name in OutputNodes.__dataclass_fields__]
        return [node for node in nodes if node is not None]

    def _wants(self, name: str) -> bool:
        if name == "uncertaintyVolume":  # who asks for random answers wants it; without them there is none
            return True
        return getattr(self, f"want{name[0].upper()}{name[1:]}", self.wantTables)

    def values(self) -> dict[str, Any]:
        """The parameters as plain values."""
        return json.loads(self.settings) if self.settings else Parameters().to_dict()

    def shown(self) -> Shown:
        """What can be displayed."""
        names = set(Shown.__dataclass_fields__) - {"browser"}
        return Shown(**{name: getattr(self, name) for name in names}, browser=geodesicOf(self.transform))


def removeUnusedSettings(nodes: list[slicer.vtkMRMLScriptedModuleNode]) -> None:
    """Removes those for which no volume was ever chosen from the scene, if there are others."""
    found = [DeepFLASHRegistrationParameterNode(node) for node in nodes]
    unused = [node for node in found if not (node.fixedVolume or node.movingVolume or node.sequence)]
    for node in unused if len(unused) < len(found) else unused[1:]:
        slicer.mrmlScene.RemoveNode(node.parameterNode)
