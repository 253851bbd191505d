# SPDX-License-Identifier: Apache-2.0
"""The geodesic as a sequence of transforms: what lies between the affine alignment (t = 0) and the result (t = 1)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import slicer

from ..imaging.grid import Grid
from .fields import gridTransform
from .geometry import gridFromVolume, toWorld
from .hierarchy import placeBeside
from .transaction import Transaction

GEODESIC_ROLE = "DeepFLASH.geodesic"


def geodesicTransforms(
    fields: Sequence[np.ndarray],
    grid: Grid,
    fixedVolume: slicer.vtkMRMLScalarVolumeNode,
    movingVolume: slicer.vtkMRMLScalarVolumeNode,
) -> Iterator[slicer.vtkOrientedGridTransform]:
    """Displacements fixed -> moving (affine included, (*grid.shape, d) LPS mm) as Slicer's transforms, one by one.

    A linear parent of movingVolume is part of them, so that its voxels alone can be put under one.
    """
    movingGrid = gridFromVolume(movingVolume)
    plane = movingGrid if movingGrid.ndim == 2 else gridFromVolume(fixedVolume)
    fromMovingWorld = np.linalg.inv(toWorld(movingVolume))
    for field in fields:
        yield gridTransform(field, grid, plane, then=fromMovingWorld)


def writeGeodesicSequence(
    transform: slicer.vtkMRMLTransformNode,
    times: Sequence[float],
    transforms: Sequence[slicer.vtkOrientedGridTransform],
    fixedVolume: slicer.vtkMRMLScalarVolumeNode,
    movingVolume: slicer.vtkMRMLScalarVolumeNode,
) -> slicer.vtkMRMLSequenceBrowserNode:
    """A sequence of transforms and the browser that steps through it; those that `transform` has already are updated.

    Args:
        transform: of the result; it is made to refer to the browser.
        times: increasing, in 0 ... 1.
        transforms: at each time, from geodesicTransforms.
        fixedVolume, movingVolume: the registered pair.

    Returns:
        The browser; `proxyTransform` gives the transform that follows it. All or nothing is created.
    """
    name = f"{movingVolume.GetName()} to {fixedVolume.GetName()} geodesic"
    with Transaction(fixedVolume.GetScene()) as transaction:
        browser = transform.GetNodeReference(GEODESIC_ROLE)
        if browser is None:
            browser = transaction.create("vtkMRMLSequenceBrowserNode", f"{name} browser")
            browser.SetPlaybackLooped(False)
        sequence = browser.GetMasterSequenceNode() or transaction.create("vtkMRMLSequenceNode", name)
        modifying = browser.StartModify()
        _fill(sequence, times, transforms)
        browser.SetAndObserveMasterSequenceNodeID(sequence.GetID())
        browser.SetSaveChanges(sequence, True)  # the proxy shares the fields instead of copying them
        browser.SetSelectedItemNumber(0)
        browser.EndModify(modifying)  # makes the sequences logic create the proxy
        proxy = proxyTransform(browser)
        if proxy is None:
            raise RuntimeError("The Sequences module did not make a transform for the sequence.")
        proxy.SetName(f"{name} at t")
        for node in transaction.created:
            placeBeside(node, fixedVolume)
        transform.SetNodeReferenceID(GEODESIC_ROLE, browser.GetID())
    return browser


def _fill(
    sequence: slicer.vtkMRMLSequenceNode, times: Sequence[float], transforms: Sequence[slicer.vtkOrientedGridTransform]
) -> None:
    sequence.RemoveAllDataNodes()
    sequence.SetIndexName("t")
    sequence.SetIndexUnit("")
    sequence.SetIndexType(slicer.vtkMRMLSequenceNode.NumericIndex)
    empty = slicer.vtkMRMLTransformNode()
    for time, transform in zip(times, transforms, strict=True):
        # The sequence copies deeply what it is given, so it gets an empty node, and that the field.
        sequence.SetDataNodeAtValue(empty, f"{time:.3g}").SetAndObserveTransformFromParent(transform)


def proxyTransform(browser: slicer.vtkMRMLSequenceBrowserNode) -> slicer.vtkMRMLTransformNode | None:
    """The transform that is the selected item of the browser."""
    sequence = browser.GetMasterSequenceNode()
    return browser.GetProxyNode(sequence) if sequence is not None else None
