# SPDX-License-Identifier: Apache-2.0
"""Fixed and warped images side by side, in linked slice views of their own layout."""

from __future__ import annotations

import numpy as np
import slicer

from ..geometry import arrayFromVtkMatrix
from .toggle import Toggle
from .views import OWN_VIEW, nodesOfClass, showLayout, userComposites, userSliceNodes

_LAYOUT, _MANY = 63851, 63853  # any numbers that no other layout has
_MOST_IN_A_ROW = 4
_VIEW_GROUP = 63851  # linked views move together with those of their group only
_ORIENTATIONS = ("Axial", "Sagittal", "Coronal")


class SideBySide(Toggle):
    """Left the fixed, right the warped image; as many orientations below each other as make sense for the image. Of
    several warped images all in one orientation, in rows."""

    usesLayers = True

    def __init__(
        self,
        fixedVolume: slicer.vtkMRMLScalarVolumeNode,
        *warpedVolumes: slicer.vtkMRMLScalarVolumeNode,
    ) -> None:
        super().__init__(fixedVolume.GetScene())
        self.orientations = _sensibleOrientations(fixedVolume)
        many = len(warpedVolumes) > 1
        names = [f"Warped{number}" for number in range(1, len(warpedVolumes) + 1)] if many else ["Warped"]
        self.volumes = {"Fixed": fixedVolume, **dict(zip(names, warpedVolumes, strict=True))}
        if many:
            self.orientations = self.orientations[:1]

    def _show(self) -> None:
        showLayout(self.changes, self.scene, *layout(self.orientations, tuple(self.volumes)))
        views = {
            f"{OWN_VIEW}{side}{orientation}": (volume, orientation)
            for side, volume in self.volumes.items()
            for orientation in self.orientations
        }
        # Hot linking is one switch of Slicer's for all views: taken back on the user's, it goes back on these as well.
        for composite in userComposites(self.scene):
            self.changes.set(composite, "HotLinkedControl", 1)
        with self.changes.together():
            for name, (volume, _) in views.items():
                composite = _composite(self.scene, name)
                self.changes.set(composite, "BackgroundVolumeID", volume.GetID())
                self.changes.set(composite, "ForegroundVolumeID", None)
                self.changes.set(composite, "LabelVolumeID", None)
                self.changes.set(composite, "LinkedControl", 1)
                composite.SetHotLinkedControl(1)
        # Afterwards: a view that gets its first volume moves to where that lies.
        slices = {node.GetLayoutName(): node for node in nodesOfClass(self.scene, "vtkMRMLSliceNode")}
        for name, (_, orientation) in views.items():
            if name in slices:
                self._place(slices[name], orientation)

    def _place(self, sliceNode: slicer.vtkMRMLSliceNode, orientation: str) -> None:
        """Shows what the user's view of that orientation shows, or else the middle of the fixed image."""
        modifying = sliceNode.StartModify()
        sliceNode.SetOrientation(orientation)
        width, height = (max(size, 1) for size in sliceNode.GetDimensions()[:2])
        for like in userSliceNodes(self.scene):
            if like.GetOrientation() == orientation:
                sliceNode.GetSliceToRAS().DeepCopy(like.GetSliceToRAS())
                extent = like.GetFieldOfView()
                break
        else:
            bounds = [0.0] * 6
            self.volumes["Fixed"].GetRASBounds(bounds)
            sliceNode.JumpSliceByCentering(*np.add(bounds[::2], bounds[1::2]) / 2)
            axes = np.abs(arrayFromVtkMatrix(sliceNode.GetSliceToRAS())[:3, :2])
            extent = tuple(np.subtract(bounds[1::2], bounds[::2]) @ axes)
        scale = max(extent[0] / width, extent[1] / height)
        sliceNode.SetFieldOfView(scale * width, scale * height, sliceNode.GetFieldOfView()[2])
        sliceNode.SetXYZOrigin(0, 0, 0)
        sliceNode.UpdateMatrices()
        sliceNode.EndModify(modifying)


def layout(
    orientations: tuple[str, ...] = _ORIENTATIONS, sides: tuple[str, ...] = ("Fixed", "Warped")
) -> tuple[int, str]:
    """Number and description of the layout: an orientation in each row; of more sides than two, rows of one."""

    def view(side: str, orientation: str) -> str:
        color = "#6A8CC7" if side == "Fixed" else "#E0913C"
        letter = side.removeprefix("Warped") or "W"
        return (
            f'<item><view class="vtkMRMLSliceNode" singletontag="{OWN_VIEW}{side}{orientation}">'
            f'<property name="orientation" action="default">{orientation}</property>'
            f'<property name="viewlabel" action="default">{"F" if side == "Fixed" else letter}</property>'
            f'<property name="viewcolor" action="default">{color}</property>'
            f'<property name="viewgroup" action="default">{_VIEW_GROUP}</property></view></item>'
        )

    rows = [[(side, orientation) for side in sides] for orientation in orientations]
    if len(sides) > 2:
        count = -(-len(sides) // -(-len(sides) // _MOST_IN_A_ROW))
        rows = [row[start : start + count] for row in rows for start in range(0, len(row), count)]
    text = "".join(
        f'<item><layout type="horizontal">{"".join(view(*each) for each in row)}</layout></item>' for row in rows
    )
    return _LAYOUT if len(sides) == 2 else _MANY, f'<layout type="vertical">{text}</layout>'


def _sensibleOrientations(volume: slicer.vtkMRMLScalarVolumeNode) -> tuple[str, ...]:
    """All three; of a single slice the one that lies in it."""
    image = volume.GetImageData()
    if image is None or 1 not in image.GetDimensions():
        return _ORIENTATIONS
    bounds = [0.0] * 6
    volume.GetRASBounds(bounds)
    thinnest = int(np.argmin(np.subtract(bounds[1::2], bounds[::2])))
    return ({0: "Sagittal", 1: "Coronal", 2: "Axial"}[thinnest],)


def _composite(scene: slicer.vtkMRMLScene, name: str) -> slicer.vtkMRMLSliceCompositeNode:
    """The composite node of a view; made here if the view does not exist yet, which then uses it."""
    for node in nodesOfClass(scene, "vtkMRMLSliceCompositeNode"):
        if node.GetLayoutName() == name:
            return node
    node = slicer.vtkMRMLSliceCompositeNode()
    node.SetLayoutName(name)
    return scene.AddNode(node)
