# SPDX-License-Identifier: Apache-2.0
"""Where to compute, and how fast: matters of this computer, kept in the application settings, not in the scene."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from typing import Any

import qt
import slicer
from slicer.i18n import tr as _

from ..process.remaining import learned
from ..process.runner import Run
from ..scene.runs import DevicesRun
from .torch_installation import torch_is_installed

# Free memory changes; that of a GPU is asked for again after this time.
_AGAIN_SECONDS = 30.0


class Machine:
    """The choice of device and threads.

    Attributes:
        devices: what can be computed on, as process.tasks.devices tells it; None before that was asked.
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

    @property
    def peers(self) -> str:
        """The Python that has other programs, "" if none was named."""
        return slicer.util.settingsValue("DeepFLASHRegistration/peers", "")

    @peers.setter
    def peers(self, value: str) -> None:
        qt.QSettings().setValue("DeepFLASHRegistration/peers", value)

    def choice(self) -> tuple[str, int, str]:
        """Device, threads and the Python that has other programs."""
        return self.device, self.threads, self.peers

    def memory(self) -> tuple[str, int]:
        """The device that will be used, as far as is known, and its free bytes (0 for the CPU)."""
        known = {device["name"]: device["free"] or 0 for device in self.devices or []}
        name = "cuda" if self.device == "auto" and "cuda" in known else self.device
        return (name, known[name]) if name.startswith("cuda") and name in known else ("cpu", 0)

    def pace(self, kind: str) -> dict[str, float]:
        """What was learned from runs of this kind (RegistrationRun.kind), else from those of any preset.

        By phase, how many times as long as on the computer of reference it takes; {} before the first run.
        """
        known = self._paces()
        return known.get(kind) or known.get(_ofAnyPreset(kind)) or {}

    def learn(self, kind: str, ratios: Mapping[str, float]) -> None:
        """Remembers how many times as long as expected, by what `pace` says, the phases of a run took."""
        if not ratios:
            return
        known, before = self._paces(), self.pace(kind)
        for each in (kind, _ofAnyPreset(kind)):
            known[each] = learned(before, ratios)
        qt.QSettings().setValue("DeepFLASHRegistration/pace", json.dumps(known))

    def _paces(self) -> dict[str, dict[str, float]]:
        try:
            return dict(json.loads(slicer.util.settingsValue("DeepFLASHRegistration/pace", "{}")))
        except (ValueError, TypeError):  # written by another program, or by hand
            return {}


def _ofAnyPreset(kind: str) -> str:
    return "/".join(["*", *kind.split("/")[1:]])


class MachinePanel:
    """The widgets of the choice."""

    def __init__(self, ui: Any, logic: Any, changed: Callable[[], None]) -> None:
        """`logic` has the `machine` and runs what asks it; `changed` is called when the user has chosen, and when it
        was told what there is."""
        self._ui, self._logic, self._machine, self._changed = ui, logic, logic.machine, changed
        self._asked = -_AGAIN_SECONDS
        self._run: DevicesRun | None = None
        self._then: Callable[[], bool] | None = None
        ui.deviceComboBox.addItems(["auto", "cpu"])
        ui.deviceComboBox.setCurrentText(self._machine.device)
        ui.threadsSpinBox.value = self._machine.threads
        ui.deviceComboBox.connect("currentTextChanged(QString)", self._onChanged)
        ui.threadsSpinBox.connect("valueChanged(int)", self._onChanged)

    def ask(self) -> None:
        """Asks what can be computed on and what is free, unless that was asked a moment ago or something runs.

        Returns at once. It also starts the child process, so that a run begins sooner.
        """
        if not torch_is_installed() or self._logic.current is not None or self._since() < _AGAIN_SECONDS:
            return
        self._run = self._logic.start(DevicesRun(), waitForCompletion=False)
        self._run.on_end(self._onTold)

    @property
    def asking(self) -> bool:
        """Whether the answer is awaited."""
        return self._run is not None and self._logic.current is self._run

    def whenIdle(self, action: Callable[[], bool], say: Callable[[str], None]) -> bool:
        """Does what starts a run, at once or when what is brief has ended, however it has; the last one counts.

        Args:
            action: returns whether that was possible.
            say: is told why it waits, or cannot be.

        Returns:
            Whether it was started or will be.
        """
        current = self._logic.current
        if current is not None and current.brief:
            say(_("Starting"))
            if self._then is None:
                current.on_end(self._goOn)
            self._then = action
            return True
        if current is not None:  # started from the console, or to make the sample
            say(_("Something else is being computed. Try again when it has ended."))
            return False
        return action()

    def _since(self) -> float:
        return time.monotonic() - self._asked

    def _goOn(self, run: Run) -> None:
        following, self._then = self._then, None
        if run.state != "cancelled" and following is not None:  # else its window or the scene is being closed
            qt.QTimer.singleShot(0, following)

    def _onTold(self, run: DevicesRun) -> None:
        if run.state == "cancelled":  # the scene is being closed, or the window: whoever comes next asks again
            return
        self._asked = time.monotonic()
        box = self._ui.deviceComboBox
        for device in self._machine.devices or []:
            if box.findText(device["name"]) < 0:
                box.addItem(device["name"])
            box.setItemData(box.findText(device["name"]), device["title"], qt.Qt.ToolTipRole)
        self._changed()

    def _onChanged(self, value: Any) -> None:
        self._machine.device = self._ui.deviceComboBox.currentText
        self._machine.threads = self._ui.threadsSpinBox.value
        self._changed()
