# SPDX-License-Identifier: Apache-2.0
"""The section in which a whole sequence is registered."""

from __future__ import annotations

from typing import Any

import slicer
from slicer.i18n import tr as _

from ..cohorts.series_how import MEAN, PREVIOUS, How
from ..scene.checks import HINT, Check
from ..scene.series import browserOf, sequenceOf, shownItem
from ..scene.series_run import SequenceRun
from .telling import told

_FIRST, _SHOWN = "first", "shown"


class SeriesPanel:
    """*Sequence* of the .ui file: what is registered onto what, and the button that does it."""

    def __init__(self, window: Any) -> None:
        """`window`: the module's widget."""
        self._window, self._offered = window, ""
        box = window.ui.seriesReferenceComboBox
        for title, choice in (
            (_("The first item"), _FIRST),
            (_("The item that is shown now"), _SHOWN),
            (_("The mean of all items"), MEAN),
            (_("Each the item before it"), PREVIOUS),
        ):
            box.addItem(title, choice)
        box.connect("currentIndexChanged(int)", lambda index: self._onReference(box.itemData(index)))
        window.ui.seriesButton.connect("clicked(bool)", lambda checked: self._register())
        window.addObserver(slicer.mrmlScene, slicer.mrmlScene.StartCloseEvent, self._onSceneStartClose)

    def offered(self) -> list[Check]:
        """Chooses the sequence of which a chosen volume is an item, once, and says so."""
        node = self._window._parameterNode
        for volume in (node.movingVolume, node.fixedVolume):
            sequence = sequenceOf(volume)
            if sequence is None or sequence.GetNumberOfDataNodes() < 2:
                continue
            if self._offered != sequence.GetID():
                self._offered, node.sequence = sequence.GetID(), sequence
            text = _("{volume} is one of the {count} items of {sequence}. The section Sequence registers all of them.")
            count = sequence.GetNumberOfDataNodes()
            return [
                Check("sequence", HINT, text.format(volume=volume.GetName(), count=count, sequence=sequence.GetName()))
            ]
        return []

    def update(self) -> None:
        """The button says why it cannot be pressed."""
        ui, node = self._window.ui, self._window._parameterNode
        if node is not None:
            ui.seriesReferenceComboBox.setCurrentIndex(ui.seriesReferenceComboBox.findData(node.seriesReference))
        reason = _("Something is being computed. Wait for its end.") if self._window.runPanel.busy else self._reason()
        ui.seriesButton.enabled = not reason
        ui.seriesButton.toolTip = reason or ui.seriesButton.statusTip

    def ended(self, run: SequenceRun) -> None:
        """What is done plays along with the sequence, also of a run that was cancelled."""
        if run.canBeKept:
            with told(_("Failed to write the result.")):
                run.keep()
                self._window.runPanel.sayOutcome(run, _("Cancelled; what was done is kept."))
        if run.nodes is not None:
            self._play(run)

    def _reason(self) -> str:
        node = self._window._parameterNode
        if node is None or node.sequence is None:
            return _("Choose a sequence of volumes.")
        count = node.sequence.GetNumberOfDataNodes()
        if count < 2 or not node.sequence.GetNthDataNode(0).IsA("vtkMRMLScalarVolumeNode"):
            return _("{name} is no sequence of volumes. Choose another one.").format(name=node.sequence.GetName())
        try:
            self._how().check(count, self._window.form.parameters())
        except ValueError as error:  # of parameters that contradict each other, too
            return str(error)
        return ""

    def _how(self) -> How:
        node = self._window._parameterNode
        reference = {_FIRST: 0, _SHOWN: shownItem(node.sequence)}.get(node.seriesReference, node.seriesReference)
        return How(reference, float(node.seriesSmooth), bool(node.seriesCyclic))

    def _mask(self) -> Any:
        """The fixed mask, if it belongs to an item of the sequence, and not to another pair."""
        node = self._window._parameterNode
        return node.fixedMask if sequenceOf(node.fixedVolume) is node.sequence else None

    def _onReference(self, choice: str) -> None:
        node = self._window._parameterNode
        if node is not None and node.seriesReference != choice:
            node.seriesReference = choice

    def _onSceneStartClose(self, caller: Any, event: Any) -> None:
        self._offered = ""  # the next scene's nodes have the same IDs

    def _register(self) -> None:
        window = self._window
        window.machinePanel.whenIdle(self._begin, window.runPanel.status)
        window._updateButtons()

    def _begin(self) -> bool:
        window, started = self._window, False
        if window._parameterNode:  # the scene may have been closed meanwhile
            with told(_("The registration cannot begin.")):
                machine = window.logic.machine.choice()[:2]
                parameters = window.models.consented()
                run = SequenceRun(
                    window._parameterNode.sequence, self._how(), parameters, self._mask(), machine=machine
                )
                started = window.runPanel.start(run)
        window._updateButtons()
        return started

    def _play(self, run: SequenceRun) -> None:
        """The registered items over those that were registered, in the slices, one after the other."""
        browser = run.nodes.browser
        slicer.modules.sequences.toolBar().setActiveBrowserNode(browser)
        there = browserOf(run.sequence).GetProxyNode(run.sequence)
        slicer.util.setSliceViewerLayers(background=there, foreground=run.nodes.warpedVolume, foregroundOpacity=1.0)
        browser.SetPlaybackActive(run.state == "done")
