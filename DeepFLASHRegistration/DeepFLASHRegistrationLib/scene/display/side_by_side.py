# SPDX-License-Identifier: Apache-2.0
"""Fixed and warped side by side, in linked slice views of their own layout."""

from __future__ import annotations

import numpy as np
import slicer

from ..geometry import arrayFromVtkMatrix
from .toggle import Toggle
from .views import OWN_VIEW, nodesOfClass, showLayout, userComposites, userSliceNodes

_LAYOUT = 63851  # any number that no other layout has
_VIEW_GROUP = 63851  # linked views move together with those of their group only
_ORIENTATIONS = ("Axial", "Sagittal", "Coronal")


class SideBySide(Toggle):
    """Left the fixed, right the warped image; as many orientations below each other as make sense for the image."""

    usesLayers = True

    def __init__(
        self,
        fixedVolume: slicer.vtkMRMLScalarVolumeNode,
        warpedVolume: slicer.vtkMRMLScalarVolumeNode,
    ) -> None:
        super().__init__(fixedVolume.GetScene())
        self.volumes = {"Fixed": fixedVolume, "Warped": warpedVolume}
        self.orientations = _sensibleOrientations(fixedVolume)

    def _show(self) -> None:
        showLayout(self.changes, self.scene, *layout(self.orientations))
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


def layout(orientations: tuple[str, ...] = _ORIENTATIONS) -> tuple[int, str]:
    """Number and description of the layout."""

    def view(side: str, orientation: str) -> str:
        color = {"Fixed": "#6A8CC7", "Warped": "#E0913C"}[side]
        return (
            f'<item><view class="vtkMRMLSliceNode" singletontag="{OWN_VIEW}{side}{orientation}">'
            f'<property name="orientation" action="default">{orientation}</property>'
            f'<property name="viewlabel" action="default">{side[0]}</property>'
            f'<property name="viewcolor" action="default">{color}</property>'
            f'<property name="viewgroup" action="default">{_VIEW_GROUP}</property></view></item>'
        )

    rows = "".join(
        '<item><layout type="horizontal">'
        + "".join(view(side, orientation) for side in ("Fixed", "Warped"))
        + "</layout></item>"
        for orientation in orientations
    )
    return _LAYOUT, f'<layout type="vertical">{rows}</layout>'


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
