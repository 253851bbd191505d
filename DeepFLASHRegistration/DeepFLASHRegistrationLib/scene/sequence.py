# SPDX-License-Identifier: Apache-2.0
"""The geodesic as a sequence of transforms: what lies between the affine alignment (t = 0) and the result (t = 1)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import slicer

from ..imaging.grid import Grid
from .fields import gridTransform
from .geometry import gridFromVolume, toWorld
from .hierarchy import placeBeside
from .transaction import Transaction


def createGeodesicSequence(
    times: Sequence[float],
    fields: Sequence[np.ndarray],
    grid: Grid,
    fixedVolume: slicer.vtkMRMLScalarVolumeNode,
    movingVolume: slicer.vtkMRMLScalarVolumeNode,
) -> slicer.vtkMRMLSequenceBrowserNode:
    """A sequence of grid transforms and the browser that steps through it.

    Args:
        times: increasing, in 0 ... 1.
        fields: at each time the displacement fixed -> moving, affine included: (*grid.shape, d) LPS mm.
        grid: of the fields.
        fixedVolume, movingVolume: the registered pair. A linear parent of movingVolume is part of the transforms, so
            that the volume alone can be put under the browser's proxy transform.

    Returns:
        The browser; `proxyTransform` gives the transform that follows it. All or nothing is created.
    """
    fixedGrid, movingGrid = gridFromVolume(fixedVolume), gridFromVolume(movingVolume)
    fromMovingWorld = np.linalg.inv(toWorld(movingVolume))
    name = f"{movingVolume.GetName()} to {fixedVolume.GetName()} geodesic"
    with Transaction(fixedVolume.GetScene()) as transaction:
        sequence = transaction.create("vtkMRMLSequenceNode", name)
        sequence.SetIndexName("t")
        sequence.SetIndexUnit("")
        sequence.SetIndexType(slicer.vtkMRMLSequenceNode.NumericIndex)
        empty = slicer.vtkMRMLTransformNode()
        for time, field in zip(times, fields, strict=True):
            # The sequence copies deeply what it is given, so it gets an empty node, and that the field.
            item = sequence.SetDataNodeAtValue(empty, f"{time:.3g}")
            item.SetAndObserveTransformFromParent(
                gridTransform(field, grid, _plane(movingGrid, fixedGrid), then=fromMovingWorld)
            )
        browser = transaction.create("vtkMRMLSequenceBrowserNode", f"{name} browser")
        browser.SetAndObserveMasterSequenceNodeID(sequence.GetID())
        browser.SetSaveChanges(sequence, True)  # the proxy shares the fields instead of copying them
        browser.SetPlaybackLooped(False)
        # Asking for the item makes the sequences logic create the proxy.
        browser.SetSelectedItemNumber(0)
        proxy = proxyTransform(browser)
        if proxy is None:
            raise RuntimeError("The Sequences module did not make a transform for the sequence.")
        proxy.SetName(f"{name} at t")
        for node in transaction.created:
            placeBeside(node, fixedVolume)
    return browser


def _plane(movingGrid: Grid, fixedGrid: Grid) -> Grid:
    return movingGrid if movingGrid.ndim == 2 else fixedGrid


def proxyTransform(browser: slicer.vtkMRMLSequenceBrowserNode) -> slicer.vtkMRMLTransformNode | None:
    """The transform that is the selected item of the browser."""
    return browser.GetProxyNode(browser.GetMasterSequenceNode())


def removeGeodesicSequence(browser: slicer.vtkMRMLSequenceBrowserNode) -> None:
    """Takes browser, sequence and proxy out of the scene."""
    scene = browser.GetScene()
    sequence, proxy = browser.GetMasterSequenceNode(), proxyTransform(browser)
    for node in (browser, proxy, sequence):
        if node is not None and node.GetScene() is not None:
            scene.RemoveNode(node)
