# SPDX-License-Identifier: Apache-2.0
"""Volumes and label maps as new nodes."""

from __future__ import annotations

from collections.abc import Mapping

import slicer
import vtk

from ..imaging.volume import Volume
from .arrays import imageFromArray
from .geometry import ijkToRasOfGrid, inSpace, vtkMatrixFrom
from .labels import Labels
from .propagation import segmentationOfLabels
from .transaction import Transaction

_COLORS = "vtkMRMLColorTableNodeFileGenericColors.txt"


def imageOf(volume: Volume) -> vtk.vtkImageData:
    """Voxels as a node holds them."""
    return imageFromArray(volume.data.reshape(inSpace(volume.grid).shape))


def addVolume(transaction: Transaction, volume: Volume, name: str) -> slicer.vtkMRMLScalarVolumeNode:
    """A new scalar volume; of a 2-D one a slice."""
    node = transaction.create("vtkMRMLScalarVolumeNode", name)
    node.SetIJKToRASMatrix(vtkMatrixFrom(ijkToRasOfGrid(volume.grid)))
    node.SetAndObserveImageData(imageOf(volume))
    node.CreateDefaultDisplayNodes()
    return node


def addSegmentation(
    transaction: Transaction, labels: Volume, names: Mapping[int, str], reference: slicer.vtkMRMLScalarVolumeNode
) -> slicer.vtkMRMLSegmentationNode:
    """A new segmentation of a label map, with a segment for each label that is named."""
    node = transaction.create("vtkMRMLSegmentationNode", f"{reference.GetName()} segmentation")
    node.CreateDefaultDisplayNodes()  # first: it looks for each segment's color when that is added
    colors = transaction.scene.GetNodeByID(_COLORS)
    node.SetAndObserveSegmentation(segmentationOfLabels(Labels(labels, dict(names), {}), colors))
    node.SetReferenceImageGeometryParameterFromVolumeNode(reference)
    return node
