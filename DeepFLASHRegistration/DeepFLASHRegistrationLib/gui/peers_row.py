# SPDX-License-Identifier: Apache-2.0
"""The Python that has other programs, named where one of their methods is chosen."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import qt
from slicer.i18n import tr as _

from ..problem.parameters import METHODS


class PeersRow:
    """A line with a path, kept in the application settings; nothing is installed anywhere.

    Attributes:
        widget: to be put into a layout.
    """

    def __init__(self, machine: Any, changed: Callable[[], None]) -> None:
        """`changed` is called when the user has named another one."""
        self._machine, self._changed = machine, changed
        self.widget = qt.QWidget()
        layout = qt.QHBoxLayout(self.widget)
        layout.setContentsMargins(0, 0, 0, 0)
        self.path = qt.QLineEdit(machine.peers)
        self.path.objectName = "peersPythonLineEdit"
        self.path.setPlaceholderText(_("Python with antspyx, picsl-greedy"))
        self.path.toolTip = _(
            "The Python of an environment of their own, since they pin versions of NumPy: python -m venv peers; "
            "peers/bin/pip install antspyx picsl-greedy. Nothing is installed in Slicer."
        )
        self.path.connect("editingFinished()", self._onEdited)
        self.button = qt.QToolButton()
        self.button.objectName, self.button.text = "peersPythonButton", "…"
        self.button.toolTip = _("Choose the program python of that environment.")
        self.button.connect("clicked()", self._choose)
        layout.addWidget(self.path, 1)
        layout.addWidget(self.button)
        self.widget.hide()

    def update(self, method: str) -> None:
        """Is seen only if the method is another program's."""
        self.widget.visible = METHODS[method].peer

    def _choose(self) -> None:
        if path := qt.QFileDialog.getOpenFileName(self.widget, _("Python with ANTs or Greedy")):
            self.path.text = path
            self._onEdited()

    def _onEdited(self) -> None:
        if self.path.text.strip() != self._machine.peers:
            self._machine.peers = self.path.text.strip()
            self._changed()
