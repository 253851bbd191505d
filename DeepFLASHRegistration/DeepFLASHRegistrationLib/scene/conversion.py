# SPDX-License-Identifier: Apache-2.0
"""Input nodes as Volumes and points. Linear parent transforms are honored; no node is changed."""

from __future__ import annotations

import numpy as np
import slicer

from ..imaging.grid import Grid
from ..imaging.landmarks import Landmarks, told_trust
from ..imaging.volume import Volume, checked_image
from ..support.errors import InputError
from .arrays import arrayFromImage
from .geometry import gridFromVolume, toWorld
from .translation import tr as _


def volumeFromNode(node: slicer.vtkMRMLScalarVolumeNode) -> Volume:
    """A scalar volume node as float32 Volume in the world's LPS mm; a single slice becomes 2-D (with its plane).

    Raises:
        InputError: if the node is no scalar volume, is empty or constant, or lies under a non-linear transform.
    """
    volume = viewOfNode(node)
    # A copy: the Volume must not follow later changes of the node.
    return checked_image(volume.with_data(volume.data.copy()))


def viewOfNode(node: slicer.vtkMRMLScalarVolumeNode) -> Volume:
    """The same with the node's own voxels, of whatever type they are, at which nobody has looked.

    Raises:
        InputError: if the node is no scalar volume, is empty, or lies under a non-linear transform.
    """
    if node is None:
        raise InputError(_("No volume is chosen. Choose one."))
    name = node.GetName()
    if not node.IsA("vtkMRMLScalarVolumeNode"):
        raise InputError(
            _("{name} is no scalar volume ({kind}). Choose a volume.").format(name=name, kind=node.GetClassName())
        )
    grid = gridFromVolume(node)
    components = node.GetImageData().GetNumberOfScalarComponents()
    if node.IsA("vtkMRMLTensorVolumeNode") or node.IsA("vtkMRMLVectorVolumeNode") or components != 1:
        raise InputError(
            _(
                "{name} has {components} values per voxel (a color, vector or tensor image). Make a scalar volume of "
                "it (module Vector to Scalar Volume) and register that."
            ).format(name=name, components=components)
        )
    notes = ()
    if node.GetParentTransformNode() is not None:
        parent = node.GetParentTransformNode().GetName()
        notes = (_("{name} is used where its transform {parent} puts it").format(name=name, parent=parent),)
    return Volume(grid, arrayFromImage(node.GetImageData()).reshape(grid.shape), name, notes)


def pointsFromNode(node: slicer.vtkMRMLMarkupsNode, grid: Grid | None = None) -> np.ndarray:
    """The control points of a markups node.

    Args:
        node: markups of any kind; points that were never placed are left out.
        grid: a 2-D grid with a plane, to get the points' coordinates in that plane.

    Returns:
        (N, 3) LPS mm in the world, or (N, 2) in-plane mm.

    Raises:
        InputError: if no point is placed, or the node lies under a non-linear transform.
    """
    landmarks = landmarksFromNode(node, grid)
    return landmarks.positions[landmarks.defined]


def landmarksFromNode(node: slicer.vtkMRMLMarkupsNode, grid: Grid | None = None) -> Landmarks:
    """All control points of a markups node by name; those that were never placed have no position (NaN), and one whose
    description says "trust 3 mm" is trusted so far.

    Args, Raises: as for pointsFromNode.
    """
    matrix = toWorld(node)
    count = node.GetNumberOfControlPoints()
    placed = [
        node.GetNthControlPointPositionStatus(index) == slicer.vtkMRMLMarkupsNode.PositionDefined
        for index in range(count)
    ]
    if not any(placed):
        raise InputError(
            _("{name} has no placed point. Place points, or choose other markups.").format(name=node.GetName())
        )
    points = np.array([node.GetNthControlPointPosition(index) for index in range(count)], dtype=np.float64)
    points = (points @ matrix[:3, :3].T + matrix[:3, 3]) * (-1.0, -1.0, 1.0)
    if grid is not None and grid.plane is not None:
        points = grid.project(points)
    points[~np.array(placed)] = np.nan
    names = tuple(node.GetNthControlPointLabel(index) for index in range(count))
    trust = [told_trust(node.GetNthControlPointDescription(index)) for index in range(count)]
    return Landmarks(points, names, node.GetName(), (), np.array(trust))
