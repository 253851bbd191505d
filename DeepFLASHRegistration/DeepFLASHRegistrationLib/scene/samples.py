# SPDX-License-Identifier: Apache-2.0
"""A made pair of heads as nodes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import slicer

from ..imaging.volume import Volume
from .arrays import imageFromArray
from .geometry import ijkToRasOfGrid, vtkMatrixFrom
from .labels import Labels
from .propagation import segmentationOfLabels
from .transaction import Transaction

_NAME = "DeepFLASH head"
_COLORS = "vtkMRMLColorTableNodeFileGenericColors.txt"
_LPS_RAS = (-1.0, -1.0, 1.0)


def addSample(scene: slicer.vtkMRMLScene, pair: Mapping[str, Any]) -> list[slicer.vtkMRMLNode]:
    """A fixed and a moving volume, each with a segmentation and landmarks; all or nothing.

    Args:
        pair: the attributes of phantom.PhantomPair that are shown, by name.

    Returns:
        The nodes: fixed volume, moving volume, their segmentations, their markups.
    """
    with Transaction(scene) as transaction:
        volumes, segmentations, markups = [], [], []
        for side in ("fixed", "moving"):
            name = f"{_NAME} {side}"
            volumes.append(_volume(transaction, pair[side], name))
            segmentations.append(_segmentation(transaction, pair[f"{side}_labels"], pair["label_names"], volumes[-1]))
            markups.append(_markups(transaction, pair[f"{side}_points"], pair["point_names"], f"{name} landmarks"))
    return [*volumes, *segmentations, *markups]


def _volume(transaction: Transaction, volume: Volume, name: str) -> slicer.vtkMRMLScalarVolumeNode:
    node = transaction.create("vtkMRMLScalarVolumeNode", name)
    node.SetIJKToRASMatrix(vtkMatrixFrom(ijkToRasOfGrid(volume.grid)))
    node.SetAndObserveImageData(imageFromArray(volume.data))
    node.CreateDefaultDisplayNodes()
    return node


def _segmentation(
    transaction: Transaction, volume: Volume, names: Mapping[int, str], reference: slicer.vtkMRMLScalarVolumeNode
) -> slicer.vtkMRMLSegmentationNode:
    labels = Labels(volume, {int(label): name for label, name in names.items()}, {})
    node = transaction.create("vtkMRMLSegmentationNode", f"{reference.GetName()} segmentation")
    node.CreateDefaultDisplayNodes()  # first: it looks for each segment's color when that is added
    node.SetAndObserveSegmentation(segmentationOfLabels(labels, transaction.scene.GetNodeByID(_COLORS)))
    node.SetReferenceImageGeometryParameterFromVolumeNode(reference)
    return node


def _markups(
    transaction: Transaction, points: np.ndarray, names: tuple[str, ...], name: str
) -> slicer.vtkMRMLMarkupsFiducialNode:
    node = transaction.create("vtkMRMLMarkupsFiducialNode", name)
    node.CreateDefaultDisplayNodes()
    for point, label in zip(np.asarray(points) * _LPS_RAS, names, strict=True):
        node.AddControlPoint(*point, label)
    node.GetDisplayNode().SetVisibility(False)
    return node
