# SPDX-License-Identifier: Apache-2.0
"""Where to compute: a matter of this computer, so it is kept in the application settings, not in the scene."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import qt
import slicer


class Machine:
    """The choice of device and threads.

    Attributes:
        devices: what can be computed on, as process.child.devices tells it; None before that was asked.
    """

    def __init__(self) -> None:
        self.devices: list[dict[str, Any]] | None = None

    @property
    def device(self) -> str:
        """ "auto", "cpu", "cuda", "cuda:1", "mps"."""
        return slicer.util.settingsValue("DeepFLASHRegistration/device", "auto")

    @device.setter
    def device(self, value: str) -> None:
        qt.QSettings().setValue("DeepFLASHRegistration/device", value)

    @property
    def threads(self) -> int:
        """Threads of the CPU, 0 for as many as there are."""
        return slicer.util.settingsValue("DeepFLASHRegistration/threads", 0, converter=int)

    @threads.setter
    def threads(self, value: int) -> None:
        qt.QSettings().setValue("DeepFLASHRegistration/threads", value)

    def memory(self) -> tuple[str, int]:
        """The device that will be used, as far as is known, and its free bytes (0 for the CPU)."""
        known = {device["name"]: device["free"] or 0 for device in self.devices or []}
        name = "cuda" if self.device == "auto" and "cuda" in known else self.device
        return (name, known[name]) if name.startswith("cuda") and name in known else ("cpu", 0)


class MachinePanel:
    """The widgets of the choice."""

    def __init__(self, ui: Any, machine: Machine, changed: Callable[[], None]) -> None:
        """`changed` is called when the user has chosen."""
        self._ui, self._machine, self._changed = ui, machine, changed
        ui.deviceComboBox.addItems(["auto", "cpu"])
        ui.deviceComboBox.setCurrentText(machine.device)
        ui.threadsSpinBox.value = machine.threads
        ui.deviceComboBox.connect("currentTextChanged(QString)", self._onChanged)
        ui.threadsSpinBox.connect("valueChanged(int)", self._onChanged)

    def offer(self) -> None:
        """Offers the devices that are known by now."""
        box = self._ui.deviceComboBox
        for device in self._machine.devices or []:
            if box.findText(device["name"]) < 0:
                box.addItem(device["name"])
            box.setItemData(box.findText(device["name"]), device["title"], qt.Qt.ToolTipRole)

    def _onChanged(self, value: Any) -> None:
        self._machine.device = self._ui.deviceComboBox.currentText
        self._machine.threads = self._ui.threadsSpinBox.value
        self._changed()
