# SPDX-License-Identifier: Apache-2.0
"""A registration result as nodes of the scene: all that are wanted, or, if one fails, none."""

from __future__ import annotations

import math
from collections.abc import Generator, Iterator
from dataclasses import dataclass, fields, replace
from functools import cached_property
from typing import Any

import numpy as np
import slicer
import vtk

from ..imaging.grid import Grid
from ..imaging.volume import Volume
from ..problem.dense_map import is_dense
from ..support.errors import InputError
from .appearance import copyLook
from .arrays import arrayFromImage, atOnce, imageFromArray
from .carry import carriedMarkups, carriedModel
from .charts import logHistogram, writeConvergenceChart, writeHistogramChart
from .companions import markCompanion, markDisplayAndStorage
from .fields import AFFINE_ATTRIBUTE, INVERSE_ROLE, affineInSpace, gridTransformInSteps
from .geometry import gridFromVolume, ijkToRasOfGrid, inSpace, vtkMatrixFrom
from .hierarchy import hierarchyOf, placeIn, resultFolder
from .inputs import Inputs
from .labels import Labels
from .lean_fields import leanField
from .propagation import propagatedSegmentation
from .stamps import Stamps, keepStamps
from .tables import labelRows, metricRows, writeTable
from .transaction import Transaction
from .translation import tr as _
from .velocity import DENSE_ATTRIBUTE, VELOCITY_ROLE, velocityText
from .verdict_attribute import keepVerdict

NEW = "new"
# Where a map squeezes to less than this part of the volume, it is looked at whether coarser samples fold it.
_SQUEEZED = -math.log(0.35)


@dataclass
class OutputNodes:
    """Which nodes a result is written to: each a node of the scene (updated), NEW (created), or None (not wanted).

    `writeResult` returns one that holds the nodes; passed to the next run, that updates them. What a result does not
    contain (labels without a segmentation, landmarks without markups) is left out.
    """

    warpedVolume: Any = NEW
    transform: Any = NEW
    inverseTransform: Any = NEW
    logJacobianVolume: Any = NEW
    uncertaintyVolume: Any = NEW
    segmentation: Any = NEW
    markups: Any = NEW
    model: Any = NEW
    metricsTable: Any = NEW
    labelsTable: Any = NEW
    convergenceChart: Any = NEW
    histogramChart: Any = NEW


class PreparedResult:
    """What the nodes of a result hold, each converted when it is first asked for.

    That takes longer than to write them: who must not stand still for long takes the `steps` beforehand.
    """

    def __init__(
        self, result: Any, fixedVolume: slicer.vtkMRMLScalarVolumeNode, movingVolume: slicer.vtkMRMLScalarVolumeNode
    ) -> None:
        self._result, self._fixed = result, fixedVolume
        # Planes of 2-D problems: where points of the one image go in the other.
        self._towards = {"fixedToMoving": gridFromVolume(movingVolume), "movingToFixed": gridFromVolume(fixedVolume)}

    def steps(self, outputs: OutputNodes) -> Iterator[None]:
        """Converts what is wanted, in short steps."""
        if outputs.transform is not None:
            self.fixedToMoving = yield from self._transform("fixedToMoving")
        if outputs.inverseTransform is not None:
            self.movingToFixed = yield from self._transform("movingToFixed")
        for output, name in (
            ("warpedVolume", "warpedVolume"),
            ("logJacobianVolume", "logJacobianVolume"),
            ("uncertaintyVolume", "uncertaintyVolume"),
            ("histogramChart", "histogram"),
        ):
            if getattr(outputs, output) is not None:
                _made = getattr(self, name)
                yield

    def _transform(self, name: str) -> Generator[None, None, slicer.vtkOrientedGridTransform]:
        result = self._result
        determinant, grid = result.log_jacobian.data, result.fixed_grid
        if name == "fixedToMoving":
            field, field_grid, sign, moved = result.fixed_to_moving, result.field_grid, -1, 0.0
        else:
            # The inverse squeezes what the map stretches, there where that goes.
            field, field_grid, sign = result.moving_to_fixed, result.inverse_grid, 1
        where = np.argwhere(~(sign * determinant < _SQUEEZED))  # also what has no logarithm
        if name != "fixedToMoving":
            moved = result.displacement[tuple(where.T)]
        index = np.rint(field_grid.physical_to_index(grid.index_to_physical(where) + moved)).astype(int)
        yield
        field, field_grid = yield from leanField(field, field_grid, index)
        return (yield from gridTransformInSteps(field, field_grid, self._towards[name]))

    @cached_property
    def fixedToMoving(self) -> slicer.vtkOrientedGridTransform:
        """In RAS mm; resamples images."""
        return atOnce(self._transform("fixedToMoving"))

    @cached_property
    def movingToFixed(self) -> slicer.vtkOrientedGridTransform:
        """In RAS mm; moves points."""
        return atOnce(self._transform("movingToFixed"))

    @cached_property
    def histogram(self) -> tuple[np.ndarray, np.ndarray]:
        """Of the log determinants."""
        data = self._result.log_jacobian.data
        return logHistogram(data, arrayFromImage(self._fixed.GetImageData()).reshape(data.shape))

    @cached_property
    def warpedVolume(self) -> vtk.vtkImageData:
        """Voxels."""
        return _voxels(self._result.warped)

    @cached_property
    def logJacobianVolume(self) -> vtk.vtkImageData:
        """Voxels. Folded ones have no logarithm: NaN, whatever the engine marked them with."""
        volume = self._result.log_jacobian
        return _voxels(volume.with_data(np.where(np.isfinite(volume.data), volume.data, np.nan).astype(np.float32)))

    @cached_property
    def uncertaintyVolume(self) -> vtk.vtkImageData | None:
        """Voxels in mm, if it is known."""
        return None if self._result.uncertainty is None else _voxels(self._result.uncertainty)


def writeResult(
    result: Any,
    inputs: Inputs,
    outputs: OutputNodes | None = None,
    *,
    movingLabels: Labels | None = None,
    prepared: PreparedResult | None = None,
    stamps: tuple[dict[str, object], dict[str, object]] | None = None,
    transaction: Transaction | None = None,
) -> OutputNodes:
    """Writes a result into the scene of its inputs, all or nothing.

    New nodes go into a folder of the subject hierarchy: that of the outputs that are updated, or a new one, named after
    the pair, beside the fixed volume.

    Args:
        result: what register() returned.
        inputs: what it was given, not changed. The moving segmentation gets its labels back, markups and model are
            carried to the fixed image.
        outputs: what is wanted and where; default everything in new nodes.
        movingLabels: what labelsFromNode gave for the moving segmentation.
        prepared: the result's contents, if they were converted beforehand.
        stamps: of the fixed and the moving image, as they were registered; by default as they are.
        transaction: new, of the same scene; to be kept by who may want to undo it.

    Returns:
        The nodes; None for what was not wanted or is not in the result.

    Raises:
        InputError: if a chosen node is an input, chosen twice, or of the wrong class. The scene is as before.
    """
    outputs = OutputNodes() if outputs is None else outputs
    fixedVolume, movingVolume = inputs.fixedVolume, inputs.movingVolume
    movingSegmentation = inputs.movingSegmentation
    checkOutputs(outputs, list(inputs.nodes().values()), movingSegmentation)
    prepared = prepared or PreparedResult(result, fixedVolume, movingVolume)
    with transaction or Transaction(fixedVolume.GetScene()) as transaction:
        writer = _Writer(transaction, result, fixedVolume, movingVolume, prepared)
        nodes = replace(outputs, **{each.name: None for each in fields(outputs)})
        nodes.transform = writer.transform(outputs.transform)
        if nodes.transform is not None:
            keepStamps(nodes.transform, *(stamps or map(Stamps().of, (fixedVolume, movingVolume))))
        nodes.inverseTransform = writer.inverse(outputs.inverseTransform)
        if nodes.transform is not None and nodes.inverseTransform is not None:
            nodes.transform.SetNodeReferenceID(INVERSE_ROLE, nodes.inverseTransform.GetID())
            nodes.inverseTransform.SetNodeReferenceID(INVERSE_ROLE, nodes.transform.GetID())
        nodes.warpedVolume = writer.warped(outputs.warpedVolume)
        nodes.logJacobianVolume = writer.logJacobian(outputs.logJacobianVolume)
        nodes.uncertaintyVolume = writer.uncertainty(outputs.uncertaintyVolume)
        if result.labels is not None and movingSegmentation is not None:
            nodes.segmentation = writer.labels(outputs.segmentation, movingSegmentation, movingLabels)
        if inputs.movingMarkups is not None:
            nodes.markups = writer.carried(outputs.markups, inputs.movingMarkups, carriedMarkups)
        if inputs.movingModel is not None:
            nodes.model = writer.carried(outputs.model, inputs.movingModel, carriedModel)
        names = movingLabels.names if movingLabels is not None else {}
        nodes.metricsTable = writer.table(outputs.metricsTable, "metrics", metricRows(result))
        if nodes.metricsTable is not None:
            keepVerdict(nodes.metricsTable, result.verdict, names)
        rows = labelRows(result, names)
        if rows:
            nodes.labelsTable = writer.table(outputs.labelsTable, "labels", rows)
        if result.history:
            nodes.convergenceChart = writer.chart(
                outputs.convergenceChart, "convergence", writeConvergenceChart, result.history
            )
        if outputs.histogramChart is not None:
            nodes.histogramChart = writer.chart(
                outputs.histogramChart, "histogram", writeHistogramChart, prepared.histogram
            )
        _place(transaction, [getattr(nodes, each.name) for each in fields(nodes)], fixedVolume, writer.pair)
    return nodes


def _place(
    transaction: Transaction, outputs: list[Any], fixedVolume: slicer.vtkMRMLScalarVolumeNode, name: str
) -> None:
    """New nodes go into the folder of the result that they belong to, beside the fixed volume."""
    if not transaction.created:
        return
    earlier = [node for node in outputs if node is not None and node not in transaction.created]
    folder, isNew = resultFolder(earlier, fixedVolume, name)
    if isNew:
        scene = transaction.scene  # a transaction that holds itself would hold all that its nodes were
        transaction.onFailure(lambda: hierarchyOf(scene).RemoveItem(folder, False, False))
    for node in transaction.created:
        placeIn(node, folder)
        markDisplayAndStorage(node)
        if node not in outputs:
            markCompanion(node)


_CLASSES = {
    "warpedVolume": ("vtkMRMLScalarVolumeNode",),
    "transform": ("vtkMRMLTransformNode",),
    "inverseTransform": ("vtkMRMLTransformNode",),
    "logJacobianVolume": ("vtkMRMLScalarVolumeNode",),
    "uncertaintyVolume": ("vtkMRMLScalarVolumeNode",),
    "segmentation": ("vtkMRMLSegmentationNode", "vtkMRMLLabelMapVolumeNode"),
    "markups": ("vtkMRMLMarkupsNode",),
    "model": ("vtkMRMLModelNode",),
    "metricsTable": ("vtkMRMLTableNode",),
    "labelsTable": ("vtkMRMLTableNode",),
    "convergenceChart": ("vtkMRMLPlotChartNode",),
    "histogramChart": ("vtkMRMLPlotChartNode",),
}


def checkOutputs(
    outputs: OutputNodes, inputs: list[slicer.vtkMRMLNode], movingSegmentation: slicer.vtkMRMLNode | None = None
) -> None:
    """Whether a result of these inputs can be written to these nodes; worth asking before the work is done.

    Raises:
        InputError: a chosen node is an input, chosen twice, or of the wrong class.
    """
    chosen: list[slicer.vtkMRMLNode] = []
    for each in fields(outputs):
        node = getattr(outputs, each.name)
        if node is None or node == NEW:
            continue
        if not any(node.IsA(name) for name in _CLASSES[each.name]):
            raise InputError(
                _("{name} ({kind}) cannot hold the output {output}. Choose a node of: {kinds}.").format(
                    name=node.GetName(),
                    kind=node.GetClassName(),
                    output=each.name,
                    kinds=", ".join(_CLASSES[each.name]),
                )
            )
        if any(node is other for other in inputs):
            raise InputError(
                _("{name} is an input and an output. Inputs are never changed: choose another output node.").format(
                    name=node.GetName()
                )
            )
        if any(node is other for other in chosen):
            raise InputError(
                _("{name} is chosen for two outputs. Choose another node for one of them.").format(name=node.GetName())
            )
        chosen.append(node)
    target = outputs.segmentation
    if movingSegmentation is not None and target not in (None, NEW) and not target.IsA(_labelClass(movingSegmentation)):
        raise InputError(
            _("{name} cannot hold the propagated {segmentation}. Choose a {kind}.").format(
                name=target.GetName(),
                segmentation=movingSegmentation.GetName(),
                kind=_labelClass(movingSegmentation),
            )
        )


def _labelClass(source: slicer.vtkMRMLNode) -> str:
    """The class of node that holds what is propagated from `source`."""
    return "vtkMRMLSegmentationNode" if source.IsA("vtkMRMLSegmentationNode") else "vtkMRMLLabelMapVolumeNode"


class _Writer:
    """Writes one kind of output each, into a chosen or a new node."""

    def __init__(
        self,
        transaction: Transaction,
        result: Any,
        fixedVolume: slicer.vtkMRMLScalarVolumeNode,
        movingVolume: slicer.vtkMRMLScalarVolumeNode,
        prepared: PreparedResult,
    ) -> None:
        self.transaction = transaction
        self.prepared = prepared
        self.result = result
        self.fixed = fixedVolume
        self.moving = movingVolume
        # Planes of 2-D problems: where points of the one image lie and where they go in the other.
        self.fixedGrid = gridFromVolume(fixedVolume)
        self.movingGrid = gridFromVolume(movingVolume)
        self.pair = f"{movingVolume.GetName()} to {fixedVolume.GetName()}"

    def _node(self, choice: Any, className: str, name: str) -> slicer.vtkMRMLNode:
        if choice == NEW:
            return self.transaction.create(className, name)
        return self.transaction.lend(choice)

    def _carriedName(self, source: slicer.vtkMRMLNode) -> str:
        return f"{source.GetName()} propagated to {self.fixed.GetName()}"

    def transform(self, choice: Any) -> slicer.vtkMRMLTransformNode | None:
        if choice is None:
            return None
        result = self.result
        data = self.prepared.fixedToMoving
        node = self._node(choice, "vtkMRMLTransformNode", self.pair)
        _setTransform(node, data, self.fixed, self.moving)
        affine = affineInSpace(result.affine, self.fixedGrid, self.movingGrid)
        node.SetAttribute(AFFINE_ATTRIBUTE, " ".join(repr(float(value)) for value in affine.ravel()))
        self._velocity(node)
        return node

    def _velocity(self, transform: slicer.vtkMRMLTransformNode) -> None:
        """Keeps with the transform what it was computed from, if that is a geodesic."""
        known = transform.GetNodeReference(VELOCITY_ROLE)
        dense = is_dense(self.result.velocity)
        transform.SetAttribute(DENSE_ATTRIBUTE, "1" if dense else None)
        if dense:
            if known is not None:  # of an earlier result in the same transform
                self.transaction.lend(known).SetText("")
                transform.RemoveNodeReferenceIDs(VELOCITY_ROLE)
            return
        text = velocityText(self.result)
        node = self._node(known or NEW, "vtkMRMLTextNode", f"{self.pair} velocity")
        node.SetText(text)
        transform.SetNodeReferenceID(VELOCITY_ROLE, node.GetID())

    def inverse(self, choice: Any) -> slicer.vtkMRMLTransformNode | None:
        if choice is None:
            return None
        data = self.prepared.movingToFixed
        node = self._node(choice, "vtkMRMLTransformNode", f"{self.pair} inverse")
        _setTransform(node, data, self.moving, self.fixed)
        return node

    def warped(self, choice: Any) -> slicer.vtkMRMLScalarVolumeNode | None:
        if choice is None:
            return None
        node = self._node(choice, "vtkMRMLScalarVolumeNode", f"{self.pair} warped")
        _setVoxels(node, self.prepared.warpedVolume, self.result.warped.grid)
        node.SetVoxelValueUnits(self.moving.GetVoxelValueUnits())
        node.SetVoxelValueQuantity(self.moving.GetVoxelValueQuantity())
        copyLook(self.moving, node)
        return node

    def logJacobian(self, choice: Any) -> slicer.vtkMRMLScalarVolumeNode | None:
        if choice is None:
            return None
        node = self._node(choice, "vtkMRMLScalarVolumeNode", f"{self.pair} log Jacobian")
        _setVoxels(node, self.prepared.logJacobianVolume, self.result.log_jacobian.grid)
        return node

    def uncertainty(self, choice: Any) -> slicer.vtkMRMLScalarVolumeNode | None:
        if choice is None or self.result.uncertainty is None:
            return None
        node = self._node(choice, "vtkMRMLScalarVolumeNode", f"{self.pair} uncertainty")
        _setVoxels(node, self.prepared.uncertaintyVolume, self.result.uncertainty.grid)
        return node

    def labels(self, choice: Any, source: slicer.vtkMRMLNode, labels: Labels) -> slicer.vtkMRMLNode | None:
        if choice is None:
            return None
        name = self._carriedName(source)
        className = _labelClass(source)
        if className != "vtkMRMLSegmentationNode":
            node = self._node(choice, className, name)
            _setVoxels(node, _voxels(self.result.labels), self.result.labels.grid)
            display = source.GetDisplayNode()
            if display is not None and display.GetColorNodeID():
                node.GetDisplayNode().SetAndObserveColorNodeID(display.GetColorNodeID())
            return node
        segmentation = propagatedSegmentation(self.result.labels, labels, source.GetSegmentation())
        node = self._node(choice, className, name)
        node.SetAndObserveTransformNodeID(None)
        node.SetAndObserveSegmentation(segmentation)
        node.SetReferenceImageGeometryParameterFromVolumeNode(self.fixed)
        node.CreateDefaultDisplayNodes()
        if choice == NEW and source.GetDisplayNode() is not None:
            node.GetDisplayNode().SetVisibility(source.GetDisplayNode().GetVisibility())
        return node

    def carried(self, choice: Any, source: slicer.vtkMRMLNode, carry: Any) -> slicer.vtkMRMLNode | None:
        if choice is None:
            return None
        node = self._node(choice, source.GetClassName(), self._carriedName(source))
        carry(source, node, self.prepared.movingToFixed)
        return node

    def table(self, choice: Any, what: str, rows: list[dict[str, Any]]) -> slicer.vtkMRMLTableNode | None:
        if choice is None:
            return None
        node = self._node(choice, "vtkMRMLTableNode", f"{self.pair} {what}")
        writeTable(node, rows)
        return node

    def chart(self, choice: Any, what: str, write: Any, data: Any) -> slicer.vtkMRMLPlotChartNode | None:
        if choice is None:
            return None
        node = self._node(choice, "vtkMRMLPlotChartNode", f"{self.pair} {what}")
        write(self.transaction, node, f"{self.pair} {what}", data)
        return node


def _setTransform(
    node: slicer.vtkMRMLTransformNode,
    data: vtk.vtkAbstractTransform,
    fixed: slicer.vtkMRMLNode,
    moving: slicer.vtkMRMLNode,
) -> None:
    node.SetAndObserveTransformNodeID(None)
    node.SetAndObserveTransformFromParent(data)
    if node.GetStorageNode() is None:
        node.AddDefaultStorageNode()
    if node.GetStorageNode() is not None:
        # The only one of Slicer's formats for transforms that it compresses. A file that was chosen stays chosen.
        node.GetStorageNode().SetDefaultWriteFileExtension("nii.gz")
    node.SetNodeReferenceID(node.GetFixedNodeReferenceRole(), fixed.GetID())
    node.SetNodeReferenceID(node.GetMovingNodeReferenceRole(), moving.GetID())


def _voxels(volume: Volume) -> vtk.vtkImageData:
    image = imageFromArray(volume.data.reshape(inSpace(volume.grid).shape))
    image.GetScalarRange()  # it is remembered, and a display will ask for it
    return image


def _setVoxels(node: slicer.vtkMRMLVolumeNode, image: vtk.vtkImageData, grid: Grid) -> None:
    node.SetAndObserveTransformNodeID(None)  # the grid is the world's
    node.SetIJKToRASMatrix(vtkMatrixFrom(ijkToRasOfGrid(grid)))
    node.SetAndObserveImageData(image)
    node.CreateDefaultDisplayNodes()
