# SPDX-License-Identifier: Apache-2.0
"""What is seen of a run: the button that starts and cancels it, progress, time left, convergence and log."""

from __future__ import annotations

from collections.abc import Callable
from html import escape
from typing import Any

import qt
import slicer
from slicer.i18n import tr as _

from ..process.runner import Run
from ..registration.verdict_words import sentence
from ..scene.runs import RegistrationRun, SaveRun
from ..support.duration import in_words
from ..support.errors import Cancelled, InputError
from .convergence_plot import ConvergencePlot
from .verdict_words import colorOf, shortVerdict

_TICK_MSEC = 500


class RunPanel:
    """Follows one run after the other.

    Attributes:
        run: the present or last run; None before the first, and when the last one is of no interest any more.
        registration: the last registration: it knows more than the scene holds of it.
        settings: the parameter node from which that was started.
    """

    def __init__(self, ui: Any, logic: Any, ended: Callable[[Run], None]) -> None:
        """`logic` starts and cancels runs; `ended` is called with a run that has ended."""
        self._ui, self._logic, self._ended = ui, logic, ended
        self._plot = ConvergencePlot(ui.convergenceLabel)
        self.run: Run | None = None
        self.registration: RegistrationRun | None = None
        self.settings: slicer.vtkMRMLScriptedModuleNode | None = None
        self._subject: tuple[Any, ...] = (None, None, None)
        self._begunFor = self._subject
        self._before = ""  # what was said of a registration before more was made of it
        self._timer = qt.QTimer()
        self._timer.setInterval(_TICK_MSEC)
        self._timer.connect("timeout()", self._sayProgress)
        ui.statusLabel.connect("linkActivated(QString)", self._onLink)
        for widget in (ui.missingLabel, ui.progressBar, ui.keepButton, ui.logTextEdit):
            widget.hide()
        self._clear()
        ui.logButton.connect("toggled(bool)", self._showLog)

    @property
    def busy(self) -> bool:
        """Whether the run goes on."""
        return self.run is not None and not self.run.done

    def setSubject(self, settings: Any, fixed: Any, moving: Any) -> None:
        """What is chosen now. Of a run of something else nothing is shown any more, once it has ended."""
        subject = settings, fixed, moving
        if not _same(subject, self._subject):
            self._subject = subject
            if not self.busy:
                self._clear()

    def isOfSubject(self, run: RegistrationRun | None) -> bool:
        """Whether a registration is one of what is chosen now."""
        if run is None or run is not self.registration or self._subject[0] is not self.settings:
            return False
        return run.inputs.fixedVolume is self._subject[1] and run.inputs.movingVolume is self._subject[2]

    @property
    def canBeKept(self) -> bool:
        """Whether the best so far of what is chosen can be written."""
        return not self.busy and self.isOfSubject(self.registration) and self.registration.canBeKept

    def start(self, run: Run) -> bool:
        """Starts a run; whether that was possible. What is wrong is told."""
        registers = isinstance(run, RegistrationRun)
        if registers:
            self._clear()
        self._before = self._ui.statusLabel.text
        try:
            self._logic.start(run, self._onEvent, self._onEnd, waitForCompletion=False)
        except Cancelled:
            return False
        except (InputError, RuntimeError) as error:
            self._tell(error)
            return False
        self.run, self._begunFor = run, self._subject
        if registers:
            self.registration, self.settings = run, self._subject[0]
        self._ui.progressBar.value = 0
        self._timer.start()
        self._sayProgress()
        return True

    def cancel(self) -> None:
        """Asks the run to stop; asked a second time, ends it at once."""
        self._logic.cancel(now=self.run.state == "cancelling")
        if self.busy:
            self._sayProgress()
            self.status(_("Cancelling. What is being computed is finished first; press again to end it at once."))

    def close(self) -> None:
        """Follows nothing any longer."""
        self._timer.stop()

    def status(self, text: str) -> None:
        """Says something below the button."""
        self._ui.statusLabel.text = text
        self._ui.statusLabel.visible = bool(text)

    def sayOutcome(self, run: Run, line: str) -> None:
        """Says what came of a run, and this."""
        before = [] if isinstance(run, RegistrationRun) or not self._before else [self._before]
        self.status("<br>".join([*before, *outcome(run), *map(escape, [line, *run.notes])]))

    def update(self, missing: str, said: bool) -> None:
        """The button says what is missing for a registration; while something runs it is Cancel. Methods can be
        compared where a registration can begin.

        Args:
            missing: why Register cannot be pressed, "" if it can.
            said: whether that stands above the button already.
        """
        button, label = self._ui.registerButton, self._ui.missingLabel
        compare = self._ui.compareButton
        compare.enabled = not (missing or self.busy)
        compare.toolTip = missing or compare.statusTip
        if self.busy:
            compare.toolTip = _("Something is being computed. Wait for its end.")
        label.text = missing
        label.visible = bool(missing) and not self.busy and not said
        self._ui.progressBar.visible = self.busy
        self._ui.keepButton.visible = self.canBeKept
        if self.busy and self.run.state == "cancelling":
            button.text, button.toolTip, button.enabled = _("&End now"), _("Do not wait for what was reached."), True
        elif self.busy:
            button.text, button.toolTip, button.enabled = _("&Cancel"), _("Stop, and leave the scene as it is."), True
        else:
            button.text, button.enabled = _("&Register"), not missing
            button.toolTip = missing or _("Register the moving to the fixed volume. The inputs are not changed.")

    def _clear(self) -> None:
        """Shows nothing of the last run."""
        self.run = None
        self._plot.clear()
        self._ui.convergenceLabel.hide()
        self.status("")

    def _sayProgress(self) -> None:
        """What is going on and how long it takes; also while nothing is heard."""
        if not self.busy:
            return
        run, left = self.run, self.run.seconds_left
        message = run.message or _("Starting")
        if run.state == "cancelling":
            message = _("Cancelling - {message}").format(message=message)
        if left is not None:
            message = _("{message} - about {time} left").format(message=message, time=in_words(left))
        self._ui.progressBar.format = message

    def _onEvent(self, event: dict[str, Any]) -> None:
        run = self.run
        self._ui.progressBar.value = int(1000 * run.progress)
        self._sayProgress()
        if len(run.history) > 1:
            self._ui.convergenceLabel.show()
            self._plot.draw(run.history)
        if self._ui.logButton.checked:
            self._showLog(True)

    def _onEnd(self, run: Run) -> None:
        self._timer.stop()
        if run.state == "failed":
            word = escape(shortVerdict("failed"))
            color = colorOf(run.state)
            self.status(f"<b style='color: {color}'>{word}</b>: {escape(str(run.error))}")
        elif run.state == "cancelled":
            kept = getattr(run, "canBeKept", False)
            self.status(_("Cancelled. The best so far can be kept.") if kept else _("Cancelled. Nothing was changed."))
        elif isinstance(run, SaveRun):
            self.sayOutcome(run, _("Written: {path}").format(path=run.value))
        else:
            self.sayOutcome(run, _("Done in {seconds} s.").format(seconds=round(run.seconds_passed, 1)))
        if not _same(self._begunFor, self._subject):
            self._ofSomethingElse(run)
        self._ended(run)
        if run.state == "failed":
            self._tell(run.error, run.log)

    def _ofSomethingElse(self, run: Run) -> None:
        """Another pair or scene was chosen meanwhile: of this run only an outcome is of interest, with its name."""
        text = self._ui.statusLabel.text
        self._clear()
        if run.state == "cancelled":
            return
        if isinstance(run, RegistrationRun):
            names = " - ".join(node.GetName() for node in (run.inputs.fixedVolume, run.inputs.movingVolume))
            text = f"{escape(names)}: {text}"
        self.status(text)

    def _tell(self, error: BaseException, log: tuple[str, ...] = ()) -> None:
        """In a dialog, which opens when all has ended that is done here."""
        details = {"detailedText": "\n".join(log)} if log else {}
        qt.QTimer.singleShot(0, lambda: slicer.util.errorDisplay(str(error), **details))

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


def _same(one: tuple[Any, ...], other: tuple[Any, ...]) -> bool:
    return all(first is second for first, second in zip(one, other))


def outcome(run: Run) -> list[str]:
    """The verdict of a registration as rich text, with its first reason and a way to the others; else nothing."""
    verdict = getattr(run, "verdict", None)
    if verdict is None:
        return []
    line = f"<b style='color: {colorOf(verdict.level)}'>{escape(shortVerdict(verdict.level))}</b>"
    if verdict.level != "good" and verdict.reasons:
        line += f": {escape(sentence(verdict.reasons[0], _))}"
    way = escape(_("Report"))
    return [f"{line} <a href='report'>{way}</a>"]
