# SPDX-License-Identifier: Apache-2.0
"""Everything can be reached by keyboard."""

from __future__ import annotations

import qt
import slicer


def makeReachable(widget: qt.QWidget) -> None:
    """Lets the Tab key and the underlined letters of labels lead to composite widgets, too.

    A node selector of Slicer refuses the focus, and so does the combo box in it, which passes it on to the selector. A
    slider with a spin box takes none itself, so Qt does not follow its label.
    """
    composites = slicer.util.findChildren(widget, className="qMRMLNodeComboBox")
    composites += slicer.util.findChildren(widget, className="ctkSliderWidget")
    for composite in composites:
        parts = slicer.util.findChildren(composite, className="ctkComboBox")
        parts += slicer.util.findChildren(composite, className="ctkQDoubleSpinBox")
        parts[0].setFocusProxy(None)
        composite.setFocusProxy(parts[0])
        composite.setFocusPolicy(qt.Qt.StrongFocus)


def takesKeys(widget: qt.QObject) -> bool:
    """Whether the Tab key leads to a widget itself."""
    policy = getattr(widget, "focusPolicy", qt.Qt.NoFocus)
    return bool(policy & qt.Qt.TabFocus) and widget.focusProxy() is None


def underlined(text: str, taken: set[str]) -> str:
    """The label with an & before the first letter that is not `taken` yet, which it then is; as it is if all are."""
    for index, letter in enumerate(text):
        if letter.isalpha() and letter.isascii() and letter.lower() not in taken:
            taken.add(letter.lower())
            return f"{text[:index]}&{text[index:]}"
    return text
