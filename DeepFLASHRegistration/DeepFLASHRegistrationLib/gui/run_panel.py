# SPDX-License-Identifier: Apache-2.0
"""What is seen of a run: the button that starts and cancels it, progress, time left, convergence and log."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import slicer
from slicer.i18n import tr as _

from ..process.runner import Run
from ..support.errors import Cancelled, InputError
from .convergence_plot import ConvergencePlot


class RunPanel:
    """Follows one run after the other.

    Attributes:
        run: the present or last run, None before the first.
    """

    def __init__(self, ui: Any, logic: Any, ended: Callable[[Run], None]) -> None:
        """`logic` starts and cancels runs; `ended` is called with a run that has ended."""
        self._ui, self._logic, self._ended = ui, logic, ended
        self._plot = ConvergencePlot(ui.convergenceLabel)
        self.run: Run | None = None
        for widget in (ui.progressBar, ui.statusLabel, ui.keepButton, ui.convergenceLabel, ui.logTextEdit):
            widget.hide()
        ui.logButton.connect("toggled(bool)", self._showLog)

    @property
    def busy(self) -> bool:
        """Whether the run goes on."""
        return self.run is not None and not self.run.done

    def start(self, run: Run) -> bool:
        """Starts a run; whether that was possible. What is wrong is told."""
        try:
            self._logic.start(run, self._onEvent, self._onEnd, waitForCompletion=False)
        except Cancelled:
            return False
        except (InputError, RuntimeError) as error:
            slicer.util.errorDisplay(str(error))
            return False
        self.run = run
        self._ui.progressBar.value = 0
        self._ui.progressBar.format = ""
        self.status(_("Starting"))
        return True

    def cancel(self) -> None:
        """Asks the run to stop; asked a second time, ends it at once."""
        self._logic.cancel(now=self.run.state == "cancelling")

    def status(self, text: str) -> None:
        """Says something below the button."""
        self._ui.statusLabel.text = text
        self._ui.statusLabel.visible = bool(text)

    def update(self, missing: str) -> None:
        """The button says what is missing for a registration; while something runs it is Cancel."""
        button = self._ui.registerButton
        self._ui.progressBar.visible = self.busy
        if self.busy and self.run.state == "cancelling":
            button.text, button.toolTip, button.enabled = _("&End now"), _("Do not wait for what was reached."), True
        elif self.busy:
            button.text, button.toolTip, button.enabled = _("&Cancel"), _("Stop, and leave the scene as it is."), True
        else:
            button.text, button.enabled = _("&Register"), not missing
            button.toolTip = missing or _("Register the moving to the fixed volume. The inputs are not changed.")

    def _onEvent(self, event: dict[str, Any]) -> None:
        run, left = self.run, self.run.seconds_left
        text = (
            run.message
            if left is None
            else _("{message} - about {seconds} s left").format(message=run.message, seconds=max(1, round(left)))
        )
        self._ui.progressBar.value = int(1000 * run.progress)
        self._ui.progressBar.format = text
        if self._ui.statusLabel.visible:
            self.status("")
        if len(run.history) > 1:
            self._ui.convergenceLabel.show()
            self._plot.draw(run.history)
        if self._ui.logButton.checked:
            self._showLog(True)

    def _onEnd(self, run: Run) -> None:
        if run.state == "failed":
            self.status(_("Failed: {reason}").format(reason=run.error))
            slicer.util.errorDisplay(str(run.error), detailedText="\n".join(run.log))
        elif run.state == "cancelled":
            self.status(_("Cancelled. The scene is as it was."))
        else:
            done = _("Done in {seconds} s.").format(seconds=round(run.seconds_passed, 1))
            self.status("\n".join([done, *run.notes]))
        self._ended(run)

    def _showLog(self, checked: bool) -> None:
        self._ui.logTextEdit.visible = checked
        if checked:
            self._ui.logTextEdit.plainText = "\n".join(self._logic.log()) or _("(nothing was printed)")
