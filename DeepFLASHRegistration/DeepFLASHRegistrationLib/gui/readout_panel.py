# SPDX-License-Identifier: Apache-2.0
"""What a result says of the point under the mouse, and buttons that lead to the points to look at.

The values stand in the panel, in Slicer's Data Probe, and, if wanted, beside the mouse pointer.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import qt
import slicer
from slicer.i18n import tr as _
from slicer.util import VTKObservationMixin

from ..scene import places
from ..scene.readout import Reading, read
from ..support.errors import InputError
from .display_panel import Shown
from .telling import told

_BESIDE_POINTER = "DeepFLASH/ValuesBesidePointer"  # in Slicer's settings


class ReadoutPanel(VTKObservationMixin):
    """The label with the values, and the buttons below the displays."""

    def __init__(self, ui: Any, reveal: Callable[[], None]) -> None:
        """`reveal` shows the result if nothing is shown of it: a place of it says nothing over other volumes."""
        super().__init__()
        self._ui, self._shown, self._reveal = ui, Shown(), reveal
        self._labelsTable: slicer.vtkMRMLTableNode | None = None
        self._probe = ProbeLine()
        ui.besidePointerCheckBox.checked = slicer.util.settingsValue(_BESIDE_POINTER, True, slicer.util.toBool)
        ui.besidePointerCheckBox.connect("toggled(bool)", lambda on: qt.QSettings().setValue(_BESIDE_POINTER, on))
        ui.changeButton.connect("clicked(bool)", lambda: self._go(places.largestChange))
        ui.squeezeButton.connect("clicked(bool)", lambda: self._go(places.smallestDeterminant))
        ui.worstLabelButton.connect("clicked(bool)", self._goToWorstLabel)
        self._say(None)

    def setShown(self, shown: Shown, labelsTable: slicer.vtkMRMLTableNode | None) -> None:
        """Reads these nodes from now on."""
        if not shown.same(self._shown):
            self._say(None)
        self._shown, self._labelsTable = shown, labelsTable
        jacobian = shown.fixedVolume is not None and shown.logJacobianVolume is not None
        labels = None not in (shown.fixedVolume, labelsTable, shown.segmentation)
        for button, there, missing in (
            (self._ui.changeButton, jacobian, _("There is no Jacobian volume yet. Register first.")),
            (self._ui.squeezeButton, jacobian, _("There is no Jacobian volume yet. Register first.")),
            (
                self._ui.worstLabelButton,
                labels,
                _("No labels were compared. Choose a segmentation of both volumes and register."),
            ),
        ):
            button.enabled = there
            button.toolTip = button.statusTip if there else missing
        cursor = slicer.mrmlScene.GetFirstNodeByClass("vtkMRMLCrosshairNode")
        if cursor is not None and not self.hasObserver(
            cursor, slicer.vtkMRMLCrosshairNode.CursorPositionModifiedEvent, self._onCursor
        ):
            self.addObserver(cursor, slicer.vtkMRMLCrosshairNode.CursorPositionModifiedEvent, self._onCursor)

    def close(self) -> None:
        """Follows the mouse no longer."""
        self.removeObservers()
        self._probe.close()

    def _onCursor(self, cursor: slicer.vtkMRMLCrosshairNode, event: Any = None) -> None:
        shown, ras = self._shown, [0.0, 0.0, 0.0]
        if shown.fixedVolume is None or (shown.transform is None and shown.logJacobianVolume is None):
            return
        inView = cursor.GetCursorPositionRAS(ras)
        nodes = shown.transform, shown.logJacobianVolume, shown.segmentation
        self._say(read(np.array(ras), shown.fixedVolume, *nodes) if inView else None)

    def _say(self, reading: Reading | None) -> None:
        text = "" if reading is None else readingText(reading)
        self._ui.readoutLabel.text = text
        self._probe.say(text)
        # Whoever drags changes window and level, zooms or draws, and wants to see that.
        dragging = slicer.app.mouseButtons() != qt.Qt.NoButton
        if self._ui.besidePointerCheckBox.checked and not dragging and self._ui.readoutLabel.visible:
            qt.QToolTip.showText(qt.QCursor.pos(), text)

    def _go(self, find: Callable[..., places.Place | None]) -> None:
        with told(_("The place cannot be shown.")):
            place = find(self._shown.logJacobianVolume, self._shown.fixedVolume)
            if place is not None:
                places.jump(slicer.mrmlScene, place)
                self._reveal()
                self._ui.readoutLabel.text = determinantText(place.value)

    def _goToWorstLabel(self) -> None:
        with told(_("The place cannot be shown.")):
            place = places.worstLabel(self._labelsTable, self._shown.segmentation)
            if place is None:
                raise InputError(_("No label was compared with one of the fixed volume."))
            places.jump(slicer.mrmlScene, place)
            self._reveal()
            self._ui.readoutLabel.text = _("{name}: Dice {dice}").format(name=place.name, dice=f"{place.value:.2f}")


class ProbeLine:
    """A line of its own in Slicer's Data Probe, where there is one."""

    def __init__(self) -> None:
        self._label: qt.QLabel | None = None

    def say(self, text: str) -> None:
        """Shows the text, or nothing."""
        if self._label is None and text:
            info = getattr(getattr(slicer.modules, "DataProbeInstance", None), "infoWidget", None)
            if info is None:
                return
            self._label = qt.QLabel()
            self._label.objectName = "DeepFLASHReadout"
            self._label.indent = 6
            self._label.wordWrap = True
            info.frame.layout().addWidget(self._label)
        if self._label is not None:
            self._label.text = text
            self._label.visible = bool(text)

    def close(self) -> None:
        """Takes the line out."""
        if self._label is not None:
            self._label.deleteLater()
            self._label = None


def readingText(reading: Reading) -> str:
    """In words, a line for each kind of value."""
    lines = []
    if reading.displacement is not None:
        text = _("Moved {mm} mm").format(mm=f"{reading.displacement:.1f}")
        if reading.deformation is not None:
            text += _(", {mm} mm of it beyond the alignment").format(mm=f"{reading.deformation:.1f}")
        lines.append(text)
    rest = [] if reading.determinant is None else [determinantText(reading.determinant)]
    rest += reading.segments or ()
    return "\n".join([*lines, "; ".join(rest)] if rest else lines)


def determinantText(determinant: float) -> str:
    """A volume change in percent."""
    if math.isnan(determinant):
        return _("folded")
    percent = round(100 * (determinant - 1)) + 0  # an integer: no "-0"
    return _("volume {percent} % in the moving image").format(percent=f"{percent:+d}")
