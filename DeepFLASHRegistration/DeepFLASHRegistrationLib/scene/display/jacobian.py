# SPDX-License-Identifier: Apache-2.0
"""The Jacobian determinant in colors over the fixed image."""

from __future__ import annotations

import math

import numpy as np
import slicer

from ...report.views import thinned
from ..arrays import arrayFromImage, imageFromArray
from ..translation import tr as _
from .colors import FOLD_COLOR, determinantColors, limitFor
from .framing import showInSlices
from .toggle import Toggle
from .views import setForegroundOpacity, userComposites, userSliceNodes

_LEGEND_WIDTH = 0.2  # of a slice view
_QUANTILE = 0.995  # of voxels whose determinant lies within the colors


class JacobianDisplay(Toggle):
    """Where tissue grows (red) and shrinks (blue), with a legend; folded voxels, if any, in magenta.

    The log Jacobian volume holds NaN where voxels fold.
    """

    usesLayers = True

    def __init__(
        self,
        logJacobianVolume: slicer.vtkMRMLScalarVolumeNode,
        fixedVolume: slicer.vtkMRMLScalarVolumeNode,
        opacity: float = 0.5,
    ) -> None:
        super().__init__(fixedVolume.GetScene())
        self.volume, self.fixed, self.opacity = logJacobianVolume, fixedVolume, opacity

    @property
    def limit(self) -> float:
        """Factor of volume change at the ends of the colors."""
        values = self._values()
        values = np.abs(values[thinned(values)])
        values = values[np.isfinite(values)]
        return limitFor(float(np.quantile(values, _QUANTILE)) if values.size else 0.0)

    @property
    def folded(self) -> np.ndarray:
        """(k, j, i) bool, where voxels fold."""
        return ~np.isfinite(self._values())

    def setOpacity(self, opacity: float) -> None:
        """Changes how much of the fixed image is covered, also while shown."""
        self.opacity = opacity
        if self.isShown:
            setForegroundOpacity(self.changes, self.scene, opacity)

    def _values(self) -> np.ndarray:
        return arrayFromImage(self.volume.GetImageData())

    def _show(self) -> None:
        self.volume.CreateDefaultDisplayNodes()
        display = self.volume.GetDisplayNode()
        limit = self.limit
        self.changes.set(display, "ColorNodeID", determinantColors(self.scene, limit).GetID())
        self.changes.set(display, "AutoWindowLevel", 0)
        self.changes.set(display, "WindowLevel", 2 * math.log(limit), 0.0)
        self.changes.set(display, "Interpolate", 0)  # the determinant of each voxel as it is; NaN must not spread
        showInSlices(self.changes, self.scene, self.fixed, self.volume, self.opacity, beside=_LEGEND_WIDTH)
        self._showLegend()  # last: a legend looks for its volume in the views when it is itself changed, only then
        folded = self.folded
        if folded.any():
            self._showFolds(folded)

    def _showLegend(self) -> None:
        known = slicer.vtkSlicerColorLogic.GetColorLegendDisplayNode(self.volume)
        legend = known or slicer.vtkSlicerColorLogic.AddDefaultColorLegendDisplayNode(self.volume)
        if known is None:
            self.keepTemporary(legend)
        with self.changes.together():  # names with a format for numbers would be complained of
            self.changes.set(legend, "TitleText", _("Determinant"))
            self.changes.set(legend, "UseColorNamesForLabels", True)
            self.changes.set(legend, "LabelFormat", legend.GetDefaultTextLabelFormat())  # VTK 9.6 writes it otherwise
            self.changes.set(legend, "Visibility", 1)
        legend.Modified()

    def _showFolds(self, folded: np.ndarray) -> None:
        colors = self.temporary("vtkMRMLColorTableNode", "DeepFLASH folds")
        colors.SetTypeToUser()
        colors.SetNumberOfColors(2)
        colors.SetColor(0, "background", 0.0, 0.0, 0.0, 0.0)
        colors.SetColor(1, "folded", *FOLD_COLOR, 1.0)
        node = self.temporary("vtkMRMLLabelMapVolumeNode", "folded voxels")
        node.CopyOrientation(self.volume)
        node.SetAndObserveTransformNodeID(self.volume.GetTransformNodeID())
        node.SetAndObserveImageData(imageFromArray(folded))
        node.CreateDefaultDisplayNodes()
        node.GetDisplayNode().SetAndObserveColorNodeID(colors.GetID())
        for composite in userComposites(self.scene):
            self.changes.set(composite, "LabelVolumeID", node.GetID())
            self.changes.set(composite, "LabelOpacity", 1.0)
        for sliceNode in userSliceNodes(self.scene):
            self.changes.set(sliceNode, "UseLabelOutline", 0)
