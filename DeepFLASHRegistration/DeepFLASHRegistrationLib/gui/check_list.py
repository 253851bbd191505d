# SPDX-License-Identifier: Apache-2.0
"""What speaks against a registration, with the remedies that one click can apply."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import qt
from slicer.i18n import tr as _

from ..scene.checks import ERROR, HINT, WARNING, Check

_ICONS = {ERROR: "SP_MessageBoxCritical", WARNING: "SP_MessageBoxWarning", HINT: "SP_MessageBoxInformation"}


class CheckList:
    """Rows of text and button in a frame, which is hidden while there is nothing to say."""

    def __init__(self, frame: qt.QFrame, remedy: Callable[[dict[str, Any]], None]) -> None:
        """`remedy` gets the parameters to change when a row's button is pressed."""
        self._frame, self._remedy = frame, remedy
        self._shown: list[Check] = []
        self._rows: list[qt.QWidget] = []
        frame.hide()

    def missing(self, node: Any, problem: str) -> str:
        """Why a registration cannot begin; empty if it can.

        Args:
            node: what is chosen, a parameter node, or None.
            problem: why the parameters contradict each other.
        """
        if not node or not node.fixedVolume:
            return _("Choose a fixed volume.")
        if not node.movingVolume:
            return _("Choose a moving volume.")
        if node.movingVolume is node.fixedVolume:
            return _("Fixed and moving volume are the same. Choose another one.")
        return problem or "\n".join(self.errors)

    @property
    def errors(self) -> list[str]:
        """Texts of what makes a registration impossible."""
        return [check.text for check in self._shown if check.level == ERROR]

    def show(self, checks: list[Check]) -> None:
        """Shows these checks instead of the earlier ones."""
        if checks == self._shown:
            return
        self._shown = list(checks)
        for row in self._rows:
            row.hide()
            row.deleteLater()
        self._rows = [self._row(check) for check in checks]
        for row in self._rows:
            self._frame.layout().addWidget(row)
        self._frame.visible = bool(checks)

    def _row(self, check: Check) -> qt.QWidget:
        row = qt.QWidget()
        layout = qt.QHBoxLayout(row)
        layout.setContentsMargins(0, 0, 0, 0)
        icon = qt.QLabel()
        icon.setPixmap(row.style().standardIcon(getattr(qt.QStyle, _ICONS[check.level])).pixmap(16, 16))
        icon.setAlignment(qt.Qt.AlignTop)
        layout.addWidget(icon)
        text = qt.QLabel()
        text.setTextFormat(qt.Qt.PlainText)  # names of nodes and models are anybody's
        text.text = check.text
        text.wordWrap = True
        narrow = qt.QSizePolicy(qt.QSizePolicy.Ignored, qt.QSizePolicy.Preferred)  # as wide as the panel, and as high
        narrow.setHeightForWidth(True)  # as what it says needs
        text.setSizePolicy(narrow)
        text.setTextInteractionFlags(qt.Qt.TextSelectableByMouse)
        layout.addWidget(text, 1)
        if check.changes:
            button = qt.QPushButton(check.action)
            button.objectName = f"remedyButton{check.name.title().replace(' ', '')}"
            button.connect("clicked()", lambda changes=check.changes: self._remedy(changes))
            layout.addWidget(button)
        return row
