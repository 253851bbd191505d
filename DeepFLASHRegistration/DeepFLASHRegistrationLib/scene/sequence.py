# SPDX-License-Identifier: Apache-2.0
"""The geodesic as a sequence of transforms: what lies between the affine alignment (t = 0) and the result (t = 1).

It is not saved with the scene: it would be most of it, not every Slicer reads back sequences of fields, and it is
computed anew from the velocity in a moment.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import slicer

from ..imaging.grid import Grid
from .fields import gridTransform
from .geometry import gridFromVolume, toWorld
from .hierarchy import parentOf, placeIn
from .transaction import Transaction
from .translation import tr as _
from .velocity import fingerprint

# The browser says of which transform and velocity it is.
_TRANSFORM_ROLE = "DeepFLASH.transform"
_VELOCITY_ATTRIBUTE = "DeepFLASH.velocity"


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
        transform: of the result.
        times: increasing, in 0 ... 1.
        transforms: at each time, from geodesicTransforms.
        fixedVolume, movingVolume: the registered pair.

    Returns:
        The browser; `proxyTransform` gives the transform that follows it. All or nothing is created.
    """
    name = f"{movingVolume.GetName()} to {fixedVolume.GetName()} geodesic"
    with Transaction(fixedVolume.GetScene()) as transaction:
        browser = _browserOf(transform)
        if browser is None:
            browser = transaction.create("vtkMRMLSequenceBrowserNode", f"{name} browser")
            browser.SetPlaybackLooped(False)
            browser.SetNodeReferenceID(_TRANSFORM_ROLE, transform.GetID())
        sequence = browser.GetMasterSequenceNode() or transaction.create("vtkMRMLSequenceNode", name)
        modifying = browser.StartModify()
        _fill(sequence, times, transforms)
        browser.SetAndObserveMasterSequenceNodeID(sequence.GetID())
        browser.SetSaveChanges(sequence, True)  # the proxy shares the fields instead of copying them
        browser.SetSelectedItemNumber(0)
        browser.EndModify(modifying)  # makes the sequences logic create the proxy
        proxy = proxyTransform(browser)
        if proxy is None:
            raise RuntimeError(_("The Sequences module did not make a transform for the sequence."))
        proxy.SetName(f"{name} at t")
        for node in (browser, sequence, proxy):
            node.SetSaveWithScene(False)
        for node in (*transaction.created, proxy):
            placeIn(node, parentOf(transform))
        browser.SetAttribute(_VELOCITY_ATTRIBUTE, fingerprint(transform))
    return browser


def geodesicOf(transform: slicer.vtkMRMLTransformNode | None) -> slicer.vtkMRMLSequenceBrowserNode | None:
    """The browser of a transform's geodesic; None if there is none yet, or but that of an earlier result."""
    browser = _browserOf(transform) if transform is not None else None
    if browser is None or browser.GetMasterSequenceNode() is None:
        return None
    return browser if browser.GetAttribute(_VELOCITY_ATTRIBUTE) == fingerprint(transform) else None


def removeLostGeodesics(scene: slicer.vtkMRMLScene) -> None:
    """Removes the geodesics of transforms that are gone."""
    count = scene.GetNumberOfNodesByClass("vtkMRMLSequenceBrowserNode")
    for browser in [scene.GetNthNodeByClass(index, "vtkMRMLSequenceBrowserNode") for index in range(count)]:
        if browser.GetAttribute(_VELOCITY_ATTRIBUTE) is None or browser.GetNodeReference(_TRANSFORM_ROLE) is not None:
            continue
        for node in (proxyTransform(browser), browser.GetMasterSequenceNode(), browser):
            if node is not None and node.GetScene() is scene:
                scene.RemoveNode(node)


def _browserOf(transform: slicer.vtkMRMLTransformNode) -> slicer.vtkMRMLSequenceBrowserNode | None:
    scene = transform.GetScene()
    for index in range(scene.GetNumberOfNodesByClass("vtkMRMLSequenceBrowserNode")):
        browser = scene.GetNthNodeByClass(index, "vtkMRMLSequenceBrowserNode")
        if browser.GetNodeReference(_TRANSFORM_ROLE) is transform:
            return browser
    return None


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
