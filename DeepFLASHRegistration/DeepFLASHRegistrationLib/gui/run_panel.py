# SPDX-License-Identifier: Apache-2.0
"""What is seen of a run: the button that starts and cancels it, progress, time left, convergence and log."""

from __future__ import annotations

from collections.abc import Callable
from html import escape
from typing import Any

import slicer
from slicer.i18n import tr as _

from ..process.runner import Run
from ..registration.verdict_words import sentence
from ..support.errors import Cancelled, InputError
from .convergence_plot import ConvergencePlot
from .verdict_words import COLORS, shortVerdict


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
        ui.statusLabel.connect("linkActivated(QString)", self._onLink)
        for widget in (
            ui.missingLabel,
            ui.progressBar,
            ui.statusLabel,
            ui.keepButton,
            ui.convergenceLabel,
            ui.logTextEdit,
        ):
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
        if self.busy:
            self.status(_("Cancelling. What is being computed is finished first; press again to end it at once."))

    def status(self, text: str) -> None:
        """Says something below the button."""
        self._ui.statusLabel.text = text
        self._ui.statusLabel.visible = bool(text)

    def update(self, missing: str) -> None:
        """The button says what is missing for a registration; while something runs it is Cancel."""
        button, label = self._ui.registerButton, self._ui.missingLabel
        label.text = missing
        label.visible = bool(missing) and not self.busy
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
        cancelling = run.state == "cancelling"
        if cancelling:
            text = _("Cancelling - {message}").format(message=run.message)
        elif left is None:
            text = run.message
        else:
            text = _("{message} - about {seconds} s left").format(message=run.message, seconds=max(1, round(left)))
        self._ui.progressBar.value = int(1000 * run.progress)
        self._ui.progressBar.format = text
        if self._ui.statusLabel.visible and not cancelling:
            self.status("")
        if len(run.history) > 1:
            self._ui.convergenceLabel.show()
            self._plot.draw(run.history)
        if self._ui.logButton.checked:
            self._showLog(True)

    def _onEnd(self, run: Run) -> None:
        if run.state == "failed":
            word = escape(shortVerdict("failed"))
            self.status(f"<b style='color: {COLORS['failed']}'>{word}</b>: {escape(str(run.error))}")
        elif run.state == "cancelled":
            kept = getattr(run, "canBeKept", False)
            self.status(_("Cancelled. The best so far can be kept.") if kept else _("Cancelled. Nothing was changed."))
        else:
            lines = [_("Done in {seconds} s.").format(seconds=round(run.seconds_passed, 1)), *run.notes]
            self.status("<br>".join([*outcome(run), *map(escape, lines)]))
        self._ended(run)
        if run.state == "failed":
            slicer.util.errorDisplay(str(run.error), detailedText="\n".join(run.log))

    def _onLink(self, target: str) -> None:
        """Shows the report section, wherever it is scrolled to."""
        self._ui.reportCollapsibleButton.collapsed = False
        slicer.app.processEvents()  # it has its size only then
        area = self._ui.reportCollapsibleButton.parent()
        while area is not None and not area.inherits("QScrollArea"):
            area = area.parent()
        if area is not None:
            area.ensureWidgetVisible(self._ui.verdictLabel)

    def _showLog(self, checked: bool) -> None:
        self._ui.logTextEdit.visible = checked
        if checked:
            self._ui.logTextEdit.plainText = "\n".join(self._logic.log()) or _("(nothing was printed)")


def outcome(run: Run) -> list[str]:
    """The verdict of a registration as rich text, with its first reason and a way to the others; else nothing."""
    verdict = getattr(run, "verdict", None)
    if verdict is None:
        return []
    line = f"<b style='color: {COLORS.get(verdict.level, 'gray')}'>{escape(shortVerdict(verdict.level))}</b>"
    if verdict.level != "good" and verdict.reasons:
        line += f": {escape(sentence(verdict.reasons[0], _))}"
    way = escape(_("Report"))
    return [f"{line} <a href='report'>{way}</a>"]
