# SPDX-License-Identifier: Apache-2.0
"""The sections below *Register*: closed at first, and what was chosen in a closed one is said in its title."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import qt
import slicer
from slicer.i18n import tr as _

from .parameter_form import ParameterForm
from .peers_row import PeersRow

# A longer title is cut, as it must not widen the panel; the tooltip has all of it.
_MOST_CHARACTERS = 58
# The choices of each section: nodes and parameters. What no other section has is in `parameters`.
_NODES = {
    "carry": ("movingSegmentation", "movingMarkups", "movingModel"),
    "series": ("sequence",),
    "alignment": (
        *("fixedMask", "movingMask", "fixedChannel", "movingChannel"),
        *("initialTransform", "fixedSegmentation", "fixedMarkups"),
    ),
}
_PARAMETERS = {
    "method": ("preset", "method", "model", "similarity"),
    "alignment": ("initial_alignment",),
}
_OUTPUTS = (
    *("warpedVolume", "transform", "inverseTransform", "logJacobianVolume"),
    *("segmentation", "markups", "model", "tables"),
)
_NAMES = ("carry", "method", "alignment", "series", "outputs", "parameters")


class Folds:
    """Collapsible buttons of the .ui file, with the widgets of the form in them. Whether each is open is kept in the
    application settings."""

    def __init__(self, ui: Any, form: ParameterForm, machine: Any, changed: Callable[[], None]) -> None:
        """`changed` is called when another Python for other programs is named."""
        self._form, self._machine = form, machine
        form.addTo(ui.alignmentLayout, _PARAMETERS["alignment"])
        method = ui.methodWidget.layout()  # empty layouts are no variables of ui
        form.addTo(method, _PARAMETERS["method"])
        self._peers = PeersRow(machine, changed)
        method.addRow(self._peers.widget)
        form.addTo(ui.parametersWidget.layout())
        self._sections = {name: getattr(ui, f"{name}CollapsibleButton") for name in _NAMES}
        self._titles = {name: section.text for name, section in self._sections.items()}
        self._outputs = [getattr(ui, f"{name}CheckBox") for name in _OUTPUTS]
        for name, section in self._sections.items():
            key = f"DeepFLASHRegistration/folds/{name}"
            section.collapsed = not slicer.util.settingsValue(key, False, converter=slicer.util.toBool)
            section.connect(
                "contentsCollapsed(bool)", lambda closed, name=name, key=key: self._onFolded(name, key, closed)
            )
        self._chosen: dict[str, list[str]] = {name: [] for name in _NAMES}

    def update(self, node: Any) -> None:
        """Says what the parameter node and the form hold beside the defaults."""
        self._peers.update(self._form.values()["method"])
        known = {name for names in _PARAMETERS.values() for name in names}
        rest = [name for name in self._form.widgets if name not in known]
        for name in _NAMES:
            chosen = [each.GetName() for each in self._nodesOf(node, name)]
            chosen += self._form.changes(rest if name == "parameters" else _PARAMETERS.get(name, ()))
            self._chosen[name] = chosen
        self._chosen["outputs"] = [
            _("without {output}").format(output=each.text) for each in self._outputs if not each.checked
        ]
        if self._machine.device != "auto":
            self._chosen["parameters"].append(self._machine.device)
        if self._machine.threads:
            self._chosen["parameters"].append(_("{count} threads").format(count=self._machine.threads))
        for name in _NAMES:
            self._entitle(name)

    def _nodesOf(self, node: Any, name: str) -> list[slicer.vtkMRMLNode]:
        nodes = [getattr(node, each) for each in _NODES.get(name, ())] if node else []
        return [each for each in nodes if each is not None]

    def _onFolded(self, name: str, key: str, closed: bool) -> None:
        qt.QSettings().setValue(key, not closed)
        self._entitle(name)

    def _entitle(self, name: str) -> None:
        section, title, chosen = self._sections[name], self._titles[name], "; ".join(self._chosen[name])
        text = f"{title}: {chosen}" if chosen and section.collapsed else title
        section.text = (text if len(text) <= _MOST_CHARACTERS else f"{text[: _MOST_CHARACTERS - 1]}…").replace(
            "&", "&&"
        )
        section.toolTip = chosen
