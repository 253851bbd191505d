# SPDX-License-Identifier: Apache-2.0
"""The trained models of a method as a list to choose from: those that do not fit the volumes are greyed, with the
reason."""

from __future__ import annotations

from collections.abc import Callable

import qt
from slicer.i18n import tr as _

from ..methods.model_words import model_sentence, model_title
from ..methods.trained_models import AUTO, find_models
from ..scene.model_fits import Fits, reasons

_WIDEST, _MARGIN = 640, 24  # of the open list, in pixels, which may be wider than the panel
# Where a list of Qt keeps whether an item can be chosen (Qt.UserRole - 1): it can (enabled, selectable), or is greyed.
_FLAGS_ROLE, _CHOOSABLE, _GREYED = 255, 33, 0


class ModelBox:
    """A combo box of the models there are, each with what it is for; the folder of another one may be typed."""

    def __init__(self, changed: Callable[[str], None]) -> None:
        """`changed` is called with the name or folder that the user has chosen."""
        self.widget = qt.QComboBox()
        self.widget.editable = True
        self.widget.setInsertPolicy(qt.QComboBox.NoInsert)
        self._changed, self._filling, self._fits, self._method = changed, False, {}, "deepflash"
        self.reload()
        self.widget.connect("currentTextChanged(QString)", self._onText)
        # Its beginning is what is seen of a long title.
        self.widget.connect("currentIndexChanged(int)", lambda index: self.widget.lineEdit().setCursorPosition(0))

    def reload(self) -> None:
        """Looks again which models there are; what is chosen stays."""
        chosen, self._filling = self.chosen, True
        try:
            self.widget.clear()
            self._tips = {AUTO: _("Of the models below, the one that fits both volumes is chosen before the run.")}
            self.widget.addItem(_("The one that fits (auto)"), AUTO)
            for found in find_models():
                if found.config is not None and found.config.method == self._method:
                    self.widget.addItem(model_title(found.config), found.name)
                    self._tips[found.name] = model_sentence(found.config, _)
            self.show(chosen)
            view = self.widget.view()
            view.setMinimumWidth(min(_WIDEST, view.sizeHintForColumn(0) + _MARGIN))
        finally:
            self._filling = False
        self.showFits(self._fits)

    def showMethod(self, method: str) -> None:
        """Lists the models of a method that needs one."""
        if method.removesuffix("+flash") != self._method:
            self._method = method.removesuffix("+flash")
            self.reload()

    def showFits(self, fits: Fits) -> None:
        """Greys what does not fit; the tooltip says why."""
        self._fits, self._filling = fits, True
        text, cursor = self.widget.currentText, self.widget.lineEdit().cursorPosition
        try:
            for index in range(self.widget.count):
                name = self.widget.itemData(index)
                misfits = fits.get(name, ())
                tip = "\n".join([*([reasons(misfits)] if misfits else []), self._tips[name]])
                self.widget.setItemData(index, tip, qt.Qt.ToolTipRole)
                self.widget.setItemData(index, _GREYED if misfits else _CHOOSABLE, _FLAGS_ROLE)
            # An item that changes writes its title over what was typed since it was chosen.
            if self.widget.currentText != text:
                self.widget.setCurrentText(text)
            self.widget.lineEdit().setCursorPosition(cursor)
        finally:
            self._filling = False

    @property
    def chosen(self) -> str:
        """The name of the model with the title that is shown, else the text itself: a name or a folder."""
        text = self.widget.currentText
        index = self.widget.findText(text)
        return text.strip() if index < 0 else self.widget.itemData(index)

    def show(self, name: str) -> None:
        """Shows a model, by its name or folder."""
        index = self.widget.findData(name)
        self.widget.setCurrentIndex(index)
        if index < 0:
            self.widget.setCurrentText(name)
        self.widget.lineEdit().setCursorPosition(0)

    def _onText(self, text: str) -> None:
        if not self._filling:
            self._changed(self.chosen)
