# SPDX-License-Identifier: Apache-2.0
"""Volumes shown in the user's views, and brought into these where they do not show them whole already."""

from __future__ import annotations

import math

import numpy as np
import slicer

from ..geometry import arrayFromVtkMatrix
from .changes import Changes
from .views import nodesOfClass, userComposites, userSliceNodes

_MARGIN = 1.05  # of the volume's size
_ZOOMED = 0.6  # of it, in both directions, is what someone wanted to see
_SMALL = 2.5  # a volume is seen well unless the view is so many times larger, in both directions
_NEAR, _FAR = 0.4, 2.5  # a camera's distance, in that from which the volume fills its view


def showInSlices(
    changes: Changes,
    scene: slicer.vtkMRMLScene,
    background: slicer.vtkMRMLVolumeNode,
    foreground: slicer.vtkMRMLVolumeNode | None = None,
    foregroundOpacity: float = 0.0,
    beside: float = 0.0,
) -> None:
    """Shows volumes in all slice views of the user, and brings the background into view (see `frame`).

    Filled segments and label maps would cover them: of segments the outlines stay, label maps go.
    """
    with changes.together():
        for composite in userComposites(scene):
            changes.set(composite, "BackgroundVolumeID", background.GetID())
            changes.set(composite, "ForegroundVolumeID", foreground.GetID() if foreground is not None else None)
            changes.set(composite, "LabelVolumeID", None)
            changes.set(composite, "ForegroundOpacity", foregroundOpacity)
            changes.set(composite, "Compositing", slicer.vtkMRMLSliceCompositeNode.Alpha)
        for segments in nodesOfClass(scene, "vtkMRMLSegmentationDisplayNode"):
            if segments.GetVisibility() and segments.GetVisibility2DFill():
                changes.set(segments, "Visibility2DFill", 0)
        frame(changes, scene, background, beside)


def frame(changes: Changes, scene: slicer.vtkMRMLScene, volume: slicer.vtkMRMLVolumeNode, beside: float = 0.0) -> None:
    """Moves slice and 3-D views to a volume.

    Views that show all of it in a sensible size stay, and those that someone zoomed into it. Slices keep their depth
    where it meets the volume.

    Args:
        changes: take it back.
        scene: whose views; there may be none.
        volume: with voxels.
        beside: part of a slice view's width, on the right, that is kept free of the volume.
    """
    bounds = [0.0] * 6
    volume.GetRASBounds(bounds)
    low, high = np.array(bounds[::2]), np.array(bounds[1::2])
    if not (low < high).all():
        return
    for sliceNode in userSliceNodes(scene):
        _frameSlice(changes, sliceNode, low, high, beside)
    for camera in nodesOfClass(scene, "vtkMRMLCameraNode"):
        _frameCamera(changes, camera, low, high)


def _frameSlice(
    changes: Changes, sliceNode: slicer.vtkMRMLSliceNode, low: np.ndarray, high: np.ndarray, beside: float
) -> None:
    matrix = arrayFromVtkMatrix(sliceNode.GetSliceToRAS())
    corners = np.stack(np.meshgrid(*zip(low, high, strict=True), indexing="ij"), -1).reshape(-1, 3)
    inView = (corners - matrix[:3, 3]) @ matrix[:3, :3]  # its axes are unit vectors
    first, last = inView.min(0), inView.max(0)
    size, middle = last - first, (first + last) / 2
    view, origin = np.array(sliceNode.GetFieldOfView()[:2]), np.array(sliceNode.GetXYZOrigin()[:2])
    begin, end = origin - view / 2, origin + view / 2 - [beside * view[0], 0]
    met = first[2] <= 0 <= last[2]
    zoomed = (view < _ZOOMED * size[:2]).all() and (first[:2] < origin).all() and (origin < last[:2]).all()
    whole = (begin <= first[:2]).all() and (last[:2] <= end).all() and (view < _SMALL * size[:2]).any()
    if met and (zoomed or whole):
        return
    pixels = np.maximum(sliceNode.GetDimensions()[:2], 1)
    scale = (_MARGIN * size[:2] / (pixels * [1 - beside, 1])).max()
    center = middle + np.array([beside * scale * pixels[0] / 2, 0, 0])
    if met:
        center[2] = 0
    matrix[:3, 3] += matrix[:3, :3] @ center
    changes.set(sliceNode, "Placement", *matrix.ravel().tolist(), float(scale * pixels[1]), 0.0, 0.0, 0.0)


def _frameCamera(changes: Changes, camera: slicer.vtkMRMLCameraNode, low: np.ndarray, high: np.ndarray) -> None:
    position, focus = np.array(camera.GetPosition()), np.array(camera.GetFocalPoint())
    away = np.linalg.norm(position - focus)
    wanted = np.linalg.norm(high - low) / 2 / math.sin(math.radians(camera.GetViewAngle()) / 2)
    inside = (low <= focus).all() and (focus <= high).all()
    if (inside and _NEAR * wanted < away < _FAR * wanted) or not away > 0:
        return
    middle = (low + high) / 2
    changes.set(camera, "FocalPoint", *middle.tolist())
    changes.set(camera, "Position", *(middle + (position - focus) * wanted / away).tolist())
    camera.ResetClippingRange()
