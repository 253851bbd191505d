# SPDX-License-Identifier: Apache-2.0
"""The window in which trained models are installed, after a look at them, and removed."""

from __future__ import annotations

import contextlib
from html import escape

import qt
import slicer
from slicer.i18n import tr as _

from ..methods.consent import accept_noncommercial, noncommercial_accepted, settings_file
from ..methods.installing import Offer, check_free, install, offered, record_of, remove
from ..methods.model_words import model_sentence
from ..methods.trained_models import find_models, user_folder
from ..support.errors import Cancelled, InputError

_WIDTH, _HEIGHT = 560, 460


class ModelsDialog:
    """A list of the user's models to remove from, and a line for the source of another one.

    Nothing is fetched before *Look at it* is pressed, and nothing installed before *Install*.

    Attributes:
        widget: the dialog.
        offer: what was looked at and can be installed; None if there is nothing.
    """

    def __init__(self, parent: qt.QWidget | None = None) -> None:
        self.widget = qt.QDialog(parent)
        self.widget.objectName = "modelsDialog"
        self.widget.windowTitle = _("Trained models")
        self.widget.resize(_WIDTH, _HEIGHT)
        self.offer: Offer | None = None
        self._held = contextlib.ExitStack()
        self._stopped = False
        self._build()
        self.widget.connect("finished(int)", self._onFinished)
        self._showModels()
        self._showOffer(_("Nothing is installed before you have seen what it is."))

    def close(self) -> None:
        """Forgets what was looked at and not installed."""
        self.offer = None
        self._held.close()

    def _build(self) -> None:
        layout = qt.QVBoxLayout(self.widget)
        layout.addWidget(self._label(_("Your models, in {folder}:").format(folder=user_folder())))
        self.models = qt.QListWidget()
        self.models.objectName = "modelsList"
        layout.addWidget(self.models, 1)
        self.removeButton = self._button("removeModelButton", _("Remove"), self._remove)
        layout.addWidget(self.removeButton, 0, qt.Qt.AlignRight)
        layout.addWidget(self._label(_("Install another: its folder, its .zip file, or an https address you trust.")))
        self.source = qt.QLineEdit()
        self.source.objectName = "modelSourceLineEdit"
        self.source.connect("textChanged(QString)", lambda text: self._forget())
        layout.addWidget(self.source)
        row = qt.QHBoxLayout()
        layout.addLayout(row)
        self.folderButton = self._button("modelFolderButton", _("Folder…"), self._chooseFolder)
        self.fileButton = self._button("modelFileButton", _("File…"), self._chooseFile)
        self.lookButton = self._button("lookAtModelButton", _("Look at it"), self.look)
        self.installButton = self._button("installModelButton", _("Install"), self.install)
        for button in (self.folderButton, self.fileButton, self.lookButton, self.installButton):
            row.addWidget(button)
        self.about = self._label("")
        self.about.objectName = "aboutModelLabel"
        self.about.setTextInteractionFlags(qt.Qt.TextSelectableByMouse)
        layout.addWidget(self.about, 1)
        self.consent = qt.QCheckBox(_("Models whose licenses exclude commercial use may be chosen automatically"))
        self.consent.objectName = "noncommercialCheckBox"
        self.consent.toolTip = _("You agree not to use their results commercially. Kept in {file}.").format(
            file=settings_file()
        )
        self.consent.checked = noncommercial_accepted() is True
        self.consent.connect("toggled(bool)", self._onConsent)
        layout.addWidget(self.consent)
        closing = self._button("closeModelsButton", _("Close"), self.widget.reject)
        layout.addWidget(closing, 0, qt.Qt.AlignRight)

    def _label(self, text: str) -> qt.QLabel:
        label = qt.QLabel(text)
        label.wordWrap = True
        return label

    def _button(self, name: str, text: str, pressed: object) -> qt.QPushButton:
        button = qt.QPushButton(text)
        button.objectName, button.autoDefault = name, False
        button.connect("clicked()", pressed)
        return button

    def _onFinished(self, result: int) -> None:
        self._stopped = True

    # ------------------------------------------------------------------------------------------------- removing

    def _showModels(self) -> None:
        self.models.clear()
        for found in find_models():
            if found.bundled:
                continue
            item = qt.QListWidgetItem(found.folder.name)
            source = record_of(found.folder).get("source", "")
            about = model_sentence(found.config, _) if found.config else found.problem
            item.setToolTip(
                "\n".join([about, *([_("Installed from {source}").format(source=source)] if source else [])])
            )
            self.models.addItem(item)
        self.removeButton.enabled = self.models.count > 0
        self.removeButton.toolTip = "" if self.models.count else _("You have installed none.")

    def _remove(self) -> None:
        item = self.models.currentItem()
        if item is None:
            self._showOffer(_("Choose a model of the list to remove."))
            return
        name = item.text()
        if not slicer.util.confirmYesNoDisplay(_("Remove the model {name}?").format(name=name), parent=self.widget):
            return
        try:
            left = remove(name)
            text = _("{name} was removed.").format(name=name)
            if left:
                text += " " + _("Other files stay in its folder: {files}.").format(files=", ".join(left))
            self._showOffer(text)
        except InputError as error:
            self._showOffer(str(error))
        self._showModels()

    # ------------------------------------------------------------------------------------------------ installing

    def _chooseFolder(self) -> None:
        if path := qt.QFileDialog.getExistingDirectory(self.widget, _("The folder of a model")):
            self.source.text = path

    def _chooseFile(self) -> None:
        if path := qt.QFileDialog.getOpenFileName(self.widget, _("The .zip file of a model"), "", "*.zip"):
            self.source.text = path

    def _forget(self) -> None:
        self.close()
        self._showOffer("")

    def look(self) -> None:
        """Fetches what the line names, checks it, and shows what it is."""
        self.close()
        self._showOffer(_("Looking…"))
        slicer.app.processEvents()
        try:
            self.offer = self._held.enter_context(offered(self.source.text, progress=self._onProgress))
            self._showOffer(_aboutOffer(self.offer))
        except Cancelled:
            self.close()
        except (InputError, OSError) as error:
            self.close()
            self._showOffer(escape(str(error)))

    def _onProgress(self, done: int, total: int | None) -> None:
        self.about.text = _("{done} MB have been downloaded.").format(done=f"{done / 1e6:.1f}")
        slicer.app.processEvents()
        if self._stopped:
            raise Cancelled(_("The window was closed."))

    def install(self) -> None:
        """Installs what was looked at; a model of the same name is replaced if the user wants that."""
        if self.offer is None:
            return
        name, replace = self.offer.config.name, False
        try:
            try:
                check_free(name)
            except InputError:
                check_free(name, replace=True)  # else it cannot be replaced either
                question = _("A model {name} is installed already. Replace it?").format(name=name)
                replace = bool(slicer.util.confirmYesNoDisplay(question, parent=self.widget))
                if not replace:
                    return
            folder = install(self.offer, name, replace)
        except (InputError, OSError) as error:
            self._showOffer(escape(str(error)))
            return
        self.close()
        self._showOffer(_("{name} was installed in {folder}.").format(name=name, folder=escape(str(folder))))
        self._showModels()

    def _showOffer(self, text: str) -> None:
        self.about.text = text
        self.installButton.enabled = self.offer is not None
        self.installButton.toolTip = "" if self.offer is not None else _("Look at a model first.")

    def _onConsent(self, checked: bool) -> None:
        try:
            accept_noncommercial(bool(checked))
        except InputError as error:
            self._showOffer(escape(str(error)))


def _aboutOffer(offer: Offer) -> str:
    """What is to be known before it is installed, as rich text."""
    rows = {
        _("Source"): offer.fetched.source,
        _("Size"): f"{offer.bytes / 1e6:.1f} MB",
        _("SHA-256 of the {what}").format(what=offer.fetched.hashed): offer.fetched.sha256,
    }
    lines = [f"{escape(name)}: {escape(value)}" for name, value in rows.items()]
    return "<br>".join([f"<b>{escape(offer.config.name)}</b>", escape(model_sentence(offer.config, _)), *lines])
