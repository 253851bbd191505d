# SPDX-License-Identifier: Apache-2.0
"""The buttons that show a result and take it away again."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any

import qt
import slicer
from slicer.i18n import tr as _

from ..scene.display.chart_view import ChartDisplay
from ..scene.display.checkerboard import Checkerboard
from ..scene.display.deformation_grid import DeformationGrid, defaultSpacing
from ..scene.display.fade import Fade
from ..scene.display.flicker import Flicker
from ..scene.display.geodesic import GeodesicDisplay
from ..scene.display.ground import Ground
from ..scene.display.jacobian import JacobianDisplay
from ..scene.display.outlines import Outlines
from ..scene.display.side_by_side import SideBySide
from ..scene.display.toggle import Displays, Toggle
from ..support.errors import InputError
from .delayed import delayed

_FLICKER_MSEC = 600


@dataclass
class Shown:
    """The nodes that can be shown; None where there is none."""

    fixedVolume: Any = None
    movingVolume: Any = None
    warpedVolume: Any = None
    transform: Any = None
    logJacobianVolume: Any = None
    segmentation: Any = None
    fixedSegmentation: Any = None
    browser: Any = None
    convergenceChart: Any = None
    histogramChart: Any = None

    def same(self, other: Shown) -> bool:
        """Whether all nodes are the same."""
        return all(getattr(self, each.name) is getattr(other, each.name) for each in fields(self))


# Button -> what it needs, and what to say where that is missing.
_NEEDS = {
    "fade": (("fixedVolume", "warpedVolume"), lambda: _("There is no warped volume yet. Register first.")),
    "sideBySide": (("fixedVolume", "warpedVolume"), lambda: _("There is no warped volume yet. Register first.")),
    "flicker": (("fixedVolume", "warpedVolume"), lambda: _("There is no warped volume yet. Register first.")),
    "checkerboard": (("fixedVolume", "warpedVolume"), lambda: _("There is no warped volume yet. Register first.")),
    "grid": (("fixedVolume", "transform"), lambda: _("There is no transform yet. Register first.")),
    "jacobian": (("fixedVolume", "logJacobianVolume"), lambda: _("There is no Jacobian volume yet. Register first.")),
    "outlines": (
        ("segmentation", "fixedSegmentation"),
        lambda: _("A propagated segmentation and one of the fixed volume are needed. Choose both and register."),
    ),
    "charts": (("fixedVolume", "convergenceChart"), lambda: _("There are no charts yet. Register first.")),
    "geodesic": (
        ("fixedVolume", "movingVolume", "browser"),
        lambda: _("There is no transform to follow yet. Register first."),
    ),
}


class DisplayPanel:
    """Checkable buttons of the .ui file, each with its display of the scene.

    Attributes:
        shown: the nodes in question.
    """

    def __init__(self, ui: Any, makeGeodesic: Callable[[], bool]) -> None:
        """`makeGeodesic` is asked for the geodesic's browser when its button is pressed and there is none; it returns
        whether it can be made, and `setShown` follows when it is."""
        self._ui, self._makeGeodesic = ui, makeGeodesic
        self._displays = Displays()
        self._canMakeGeodesic = self._geodesicAwaited = self._busy = False
        self.shown = Shown()
        self._timer = qt.QTimer()
        self._timer.setInterval(_FLICKER_MSEC)
        self._timer.connect("timeout()", self._onFlicker)
        self._later = delayed(self._showNew, msec=0)
        for name in _NEEDS:
            self._button(name).connect("clicked(bool)", lambda checked, name=name: self._onButton(name, checked))
        ui.fadeSlider.connect("valueChanged(double)", self._onFade)
        self._key = qt.QShortcut(slicer.util.mainWindow() or ui.fadeButton)
        self._key.setKey(qt.QKeySequence("F8"))
        self._key.connect("activated()", self._onKey)
        ui.gridSpacingSlider.connect("valueChanged(double)", self._onGridSpacing)
        ui.jacobianOpacitySlider.connect("valueChanged(double)", self._onJacobianOpacity)
        ui.timeSlider.connect("valueChanged(double)", self._onTime)
        self._update()

    def setShown(self, shown: Shown, canMakeGeodesic: bool) -> None:
        """Offers to show these nodes; what is on of others is taken away."""
        self._canMakeGeodesic = canMakeGeodesic
        if not shown.same(self.shown):
            self._displays.hideAll()
            self._displays = Displays(None if shown.fixedVolume is None else Ground(shown.fixedVolume))
            self._timer.stop()
            self.shown = shown
            if shown.fixedVolume is not None and shown.fixedVolume.GetImageData() is not None:
                spacing = defaultSpacing(shown.fixedVolume)
                slider = self._ui.gridSpacingSlider
                blocked = slider.blockSignals(True)
                slider.minimum, slider.maximum = spacing / 5, spacing * 5
                slider.singleStep = spacing / 10
                slider.value = spacing
                slider.blockSignals(blocked)
        if self._geodesicAwaited and shown.browser is not None:
            self._geodesicAwaited = False
            self._show("geodesic")
        self._update()

    def setBusy(self, busy: bool) -> None:
        """While something is computed, no geodesic can be."""
        if busy != self._busy:
            self._busy = busy
            self._update()

    def clear(self) -> None:
        """Takes everything away; the nodes may be gone already."""
        self._later.stop()
        self.setShown(Shown(), False)

    def close(self) -> None:
        """Takes everything away, for good."""
        self.clear()
        self._key.deleteLater()

    def showResult(self) -> None:
        """Shows a new result as it is first looked at, unless something of it is shown already: after what the window
        has to do now, so that it does not stand still."""
        self._later.start()

    def _showNew(self) -> None:
        if self._ui.fadeButton.enabled and not any(map(self._isShown, _NEEDS)):
            self._show("fade")
            self._update()

    # -------------------------------------------------------------------------------------------------- buttons

    def _button(self, name: str) -> qt.QPushButton:
        return getattr(self._ui, f"{name}Button")

    def _onButton(self, name: str, checked: bool) -> None:
        if not checked:
            self._displays.hide(name)
        elif name == "geodesic" and self.shown.browser is None:
            self._geodesicAwaited = self._makeGeodesic()
        else:
            self._show(name)
        self._update()

    def _show(self, name: str) -> None:
        toggles = self._displays.toggles
        if name not in toggles:
            toggles[name] = self._toggle(name)
        try:
            self._displays.show(name)
        except (InputError, RuntimeError) as error:
            slicer.util.errorDisplay(str(error))

    def _toggle(self, name: str) -> Toggle:
        s, ui = self.shown, self._ui
        return {
            "fade": lambda: Fade(s.fixedVolume, s.warpedVolume, ui.fadeSlider.value),
            "sideBySide": lambda: SideBySide(s.fixedVolume, s.warpedVolume),
            "flicker": lambda: Flicker(s.fixedVolume, s.warpedVolume),
            "checkerboard": lambda: Checkerboard(s.fixedVolume, s.warpedVolume),
            "grid": lambda: DeformationGrid(s.transform, s.fixedVolume, ui.gridSpacingSlider.value),
            "jacobian": lambda: JacobianDisplay(s.logJacobianVolume, s.fixedVolume, ui.jacobianOpacitySlider.value),
            "outlines": lambda: Outlines(s.segmentation, s.fixedSegmentation),
            "charts": lambda: ChartDisplay(s.fixedVolume, s.convergenceChart, s.histogramChart),
            "geodesic": lambda: GeodesicDisplay(s.browser, s.fixedVolume, s.movingVolume),
        }[name]()

    def _isShown(self, name: str) -> bool:
        return name in self._displays.toggles and self._displays.toggles[name].isShown

    def _update(self) -> None:
        """Buttons follow what is shown: showing one may have hidden another."""
        for name, (needed, reason) in _NEEDS.items():
            button = self._button(name)
            absent = [each for each in needed if getattr(self.shown, each) is None]
            missing = bool(absent) and not (absent == ["browser"] and self._canMakeGeodesic)
            waits = name == "geodesic" and self._busy and self.shown.browser is None and not missing
            button.enabled = not missing and not waits
            button.toolTip = reason() if missing else button.statusTip
            if waits:
                button.toolTip = _("Something is being computed. Wait for its end.")
            button.checked = self._isShown(name) or (name == "geodesic" and self._geodesicAwaited)
        if self._isShown("flicker"):
            self._timer.start()
        else:
            self._timer.stop()
        self._ui.fadeSlider.enabled = self._key.enabled = self._isShown("fade")
        self._ui.gridSpacingSlider.enabled = self._isShown("grid")
        self._ui.jacobianOpacitySlider.enabled = self._isShown("jacobian")
        self._ui.timeSlider.enabled = self._isShown("geodesic")

    def geodesicFailed(self) -> None:
        """The geodesic that was asked for does not come."""
        self._geodesicAwaited = False
        self._update()

    # -------------------------------------------------------------------------------------------------- sliders

    def _onFlicker(self) -> None:
        self._displays.toggles["flicker"].step()

    def _onFade(self, value: float) -> None:
        if self._isShown("fade"):
            self._displays.toggles["fade"].setOpacity(value)

    def _onKey(self) -> None:
        """From the fixed volume to the warped one and back."""
        self._ui.fadeSlider.value = 0.0 if self._ui.fadeSlider.value > 0.5 else 1.0

    def _onGridSpacing(self, value: float) -> None:
        if self._isShown("grid"):
            self._displays.toggles["grid"].setSpacing(value)

    def _onJacobianOpacity(self, value: float) -> None:
        if self._isShown("jacobian"):
            self._displays.toggles["jacobian"].setOpacity(value)

    def _onTime(self, value: float) -> None:
        if self._isShown("geodesic"):
            self._displays.toggles["geodesic"].setTime(value)
