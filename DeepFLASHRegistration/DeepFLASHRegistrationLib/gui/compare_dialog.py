# SPDX-License-Identifier: Apache-2.0
"""The window in which methods are chosen, run one after the other on the present pair, and compared."""

from __future__ import annotations

import os
from collections.abc import Callable
from html import escape
from typing import Any

import qt
from slicer.i18n import tr as _

from ..cohorts.entrants import entrant
from ..methods.choosing import preferred
from ..methods.peers import PEERS
from ..problem.parameters import METHODS, Parameters
from ..process.runner import Run
from ..scene.comparison import Compared, Comparison
from ..scene.display.side_by_side import SideBySide
from ..scene.inputs import Inputs
from ..scene.outputs import OutputNodes
from ..support.errors import Cancelled, InputError
from .parameter_texts import methodSentences, parameterTexts
from .result_table import ResultTable

_WIDTH, _HEIGHT = 720, 560
# Each in the words of `deepflash compare`; which of them are chosen at first.
_ICONS = ("icon:auto", "gradicon:auto", "constricon:auto", "carl:auto", "unigradicon:auto", "unicarl:auto")
_BASELINES = ("voxelmorph:auto", "quicksilver:auto", "nephi-codes:auto")
_PREDICTING = ("deepflash:auto", "deepflash+flash:auto", *_BASELINES, *_ICONS)
_OFFERED = ("fast", "default", "fine", *_PREDICTING, "lddmm", "nephi", "ants", "greedy")
_AT_FIRST = ("fast", "default")


class CompareDialog:
    """A check list of methods, a table of what each reached, and their results side by side.

    Attributes:
        widget: the dialog; not modal, so that results can be looked at while others are computed.
        comparison: the present or last one; None before the first.
    """

    def __init__(self, parent: qt.QWidget | None, logic: Any, show: Callable[[OutputNodes], None]) -> None:
        """`logic` starts and cancels runs; `show` shows the nodes of a result in the module's window."""
        self._logic, self._show = logic, show
        self._inputs, self._changes = Inputs(), {}
        self._display: SideBySide | None = None
        self._running: Compared | None = None
        self.comparison: Comparison | None = None
        self.widget = qt.QDialog(parent)
        self.widget.objectName = "compareDialog"
        self.widget.windowTitle = _("Compare methods")
        self.widget.resize(_WIDTH, _HEIGHT)
        self._build()
        self.widget.connect("finished(int)", lambda result: self.close())

    def open(self, inputs: Inputs, parameters: Parameters) -> None:
        """Offers the methods for a pair; alignment and similarity are those of the parameters."""
        if not self.busy:
            self._inputs = inputs
            self._changes = {
                "initial_alignment": parameters.initial_alignment,
                "similarity": parameters.similarity,
            }
            self._fill()
        self.widget.show()
        self.widget.raise_()

    def close(self) -> None:
        """Ends what is computed and takes away what is shown; the results stay in the scene."""
        self.cancel(now=True)
        self.sideBySideButton.checked = False
        self.widget.hide()
        self._update()

    @property
    def busy(self) -> bool:
        """Whether methods are being run."""
        return self._running is not None

    # ------------------------------------------------------------------------------------------------- the window

    def _build(self) -> None:
        layout = qt.QVBoxLayout(self.widget)
        self.pairLabel = _label()
        self.list = qt.QListWidget()
        self.list.objectName = "methodsList"
        self.list.connect("itemChanged(QListWidgetItem*)", lambda item: self._update())
        self.list.connect("currentRowChanged(int)", lambda row: self._describe())
        self.about = _label()
        self.about.objectName = "aboutMethodLabel"
        self.progress = qt.QProgressBar()
        self.progress.maximum = 1000
        self.progress.hide()
        self.status = _label()
        self.status.objectName = "compareStatusLabel"
        self.view = qt.QTableView()
        self.view.objectName = "comparisonTableView"
        self.table = ResultTable(self.view)
        self.table.setTable(None)
        self.startButton = _button("startComparisonButton", _("Compare"), self._onStart)
        self.showButton = _button("showComparedButton", _("Show"), self._onShow)
        self.sideBySideButton = _button("comparedSideBySideButton", _("Side by side"), None)
        self.sideBySideButton.checkable = True
        self.sideBySideButton.connect("toggled(bool)", self._onSideBySide)
        closing = _button("closeComparisonButton", _("Close"), self.widget.reject)
        for widget, stretch in ((self.pairLabel, 0), (self.list, 2), (self.about, 0), (self.startButton, 0)):
            layout.addWidget(widget, stretch)
        for widget, stretch in ((self.progress, 0), (self.status, 0), (self.view, 2)):
            layout.addWidget(widget, stretch)
        row = qt.QHBoxLayout()
        layout.addLayout(row)
        for button in (self.showButton, self.sideBySideButton, closing):
            row.addWidget(button)

    def _fill(self) -> None:
        """The methods that can be chosen, as they were chosen before."""
        chosen = set(self._chosen()) if self.list.count else set(_AT_FIRST)
        blocked = self.list.blockSignals(True)
        self.list.clear()
        offered = [*_OFFERED, *(["transform"] if self._inputs.initialTransform is not None else [])]
        for name in offered:
            title, about, missing = self._words(name)
            item = qt.QListWidgetItem(title)
            item.setData(qt.Qt.UserRole, name)
            item.setToolTip(missing or about)
            item.setCheckState(qt.Qt.Checked if name in chosen and not missing else qt.Qt.Unchecked)
            usable = qt.Qt.ItemIsUserCheckable | qt.Qt.ItemIsEnabled | qt.Qt.ItemIsSelectable
            item.setFlags(qt.Qt.NoItemFlags if missing else usable)
            self.list.addItem(item)
        self.list.blockSignals(blocked)
        names = [escape(node.GetName()) for node in (self._inputs.movingVolume, self._inputs.fixedVolume) if node]
        self.pairLabel.text = _("{moving} onto {fixed}, by each of these methods, from one alignment:").format(
            moving=names[0] if names else "", fixed=names[-1] if names else ""
        )
        self.status.text = ""
        self._describe()
        self._update()

    def _words(self, name: str) -> tuple[str, str, str]:
        """Title of a method, what is to be known of it, and what is missing for it."""
        texts, method = parameterTexts(), name.partition(":")[0]
        title = texts["preset"][2].get(name) or texts["method"][2][method]
        method = method if method in METHODS else "flash"
        about = " ".join(filter(None, (methodSentences().get(method, ""), METHODS[method].citation)))
        missing = ""
        if METHODS[method].peer and not (self._logic.machine.peers or os.environ.get(PEERS)):
            missing = _("Name a Python that has it first: choose the method in the section Method.")
        if METHODS[method].needs_model and not preferred(method):
            missing = _("There is no trained model of it here. Get models… installs one.")
        return title, about, missing

    def _describe(self) -> None:
        item = self.list.currentItem()
        self.about.text = escape(item.toolTip()) if item is not None else ""

    def _chosen(self) -> list[str]:
        items = [self.list.item(row) for row in range(self.list.count)]
        return [item.data(qt.Qt.UserRole) for item in items if item.checkState() == qt.Qt.Checked]

    def _results(self) -> list[Compared]:
        """Whose nodes are still in the scene."""
        methods = self.comparison.methods if self.comparison else []
        return [each for each in methods if each.nodes is not None and each.nodes.warpedVolume.GetScene() is not None]

    def _update(self) -> None:
        chosen, results = self._chosen(), self._results()
        self.list.enabled = not self.busy
        self.startButton.text = _("Cancel") if self.busy else _("Compare")
        self.startButton.enabled = self.busy or bool(chosen)
        self.startButton.toolTip = "" if self.startButton.enabled else _("Choose at least one method.")
        self.progress.visible = self.busy
        for button in (self.showButton, self.sideBySideButton):
            button.enabled = bool(results)
            button.toolTip = "" if results else _("There is no result yet. Compare first.")
        if results:
            self.showButton.toolTip = _("Show the chosen line of the table in the module's window.")
            self.sideBySideButton.toolTip = _("Show the fixed volume and the result of each method.")

    # ---------------------------------------------------------------------------------------------------- the runs

    def _onStart(self) -> None:
        if self.busy:
            self.cancel()
            return
        methods = {}
        try:
            for name in self._chosen():
                if METHODS.get(name) and METHODS[name].needs_transform:
                    methods[name] = Parameters(method=name, **self._changes)
                else:
                    methods[name.removesuffix(":auto")] = entrant(name, self._changes).parameters
        except InputError as error:
            self.status.text = escape(str(error))
            return
        current = self._logic.current
        if current is not None and not current.brief:
            self.status.text = _("Something else is being computed. Try again when it has ended.")
            return
        if current is not None:
            current.on_end(lambda run: qt.QTimer.singleShot(0, self._onStart))
            return
        self.sideBySideButton.checked = False
        self.comparison = Comparison(self._inputs, methods, self._logic.newRun)
        self.table.setTable(None)
        self.status.text = ""
        self._next()

    def _next(self) -> None:
        """Starts what comes next; what cannot be started is told in its line."""
        self._running = None
        while following := self.comparison.next():
            method, run = following
            try:
                self._logic.start(run, lambda event, run=run: self._onEvent(run), self._onEnd, waitForCompletion=False)
            except Cancelled:
                self.comparison.stop()
            except (InputError, RuntimeError) as error:
                self.comparison.failed(method, error)
                self.table.setTable(self.comparison.table)
                continue
            else:
                self._running = method
                self._onEvent(run)
            break
        self._tell()
        self._update()

    def _onEvent(self, run: Run) -> None:
        methods = self.comparison.methods
        done = sum(each.state not in ("waiting", "running") for each in methods)
        self.progress.value = int(1000 * (done + run.progress) / len(methods))
        name = self._running.name if self._running else ""
        self.progress.format = f"{name}: {run.message}" if run.message else name

    def _onEnd(self, run: Run) -> None:
        method = self._running
        if method is None:  # the window was closed, or the scene
            return
        self.comparison.ended(method, run)
        if run.state == "cancelled":
            self.comparison.stop()
        self.table.setTable(self.comparison.table)
        if self.sideBySideButton.checked:  # with one more
            self._onSideBySide(True)
        if run.state == "cancelled":  # perhaps since the window goes: nothing follows
            self._next()
        else:
            qt.QTimer.singleShot(0, self._next)

    def cancel(self, now: bool = False) -> None:
        """Ends what is computed, and what would come after it; what is finished stays."""
        if self.busy:
            self.comparison.stop()
            if now:
                self._running = None
            self._logic.cancel(now=now)

    def _tell(self) -> None:
        """Why there is no result, of each method that has none."""
        lines = [
            f"<b>{escape(each.name)}</b>: {escape(each.reason)}"
            for each in (self.comparison.methods if self.comparison else [])
            if each.reason
        ]
        self.status.text = "<br>".join(lines)

    # -------------------------------------------------------------------------------------------------- the results

    def _onShow(self) -> None:
        """The chosen line, or the first."""
        results = self._results()
        name = self.table.selected()
        found = [each for each in results if each.name == name] or results
        if found:
            self._show(found[0].nodes)

    def _onSideBySide(self, checked: bool) -> None:
        if self._display is not None:
            self._display.hide()
            self._display = None
        results = self._results()
        if checked and results and self._inputs.fixedVolume.GetScene() is not None:
            self._display = SideBySide(self._inputs.fixedVolume, *(each.nodes.warpedVolume for each in results))
            self._display.show()


def _label() -> qt.QLabel:
    label = qt.QLabel()
    label.wordWrap = True
    label.setTextInteractionFlags(qt.Qt.TextSelectableByMouse)
    return label


def _button(name: str, text: str, pressed: Callable[[], None] | None) -> qt.QPushButton:
    button = qt.QPushButton(text)
    button.objectName, button.autoDefault = name, False
    if pressed is not None:
        button.connect("clicked()", pressed)
    return button
