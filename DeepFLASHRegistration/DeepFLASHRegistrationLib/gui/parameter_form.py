# SPDX-License-Identifier: Apache-2.0
"""The parameters as widgets, made from the metadata of their one definition."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable
from typing import Any

import qt
from slicer.i18n import tr as _

from ..methods.model_words import model_sentence
from ..methods.trained_models import AUTO, LEFT_OPEN, model_config
from ..problem.parameters import METHODS, Parameters
from ..scene.model_fits import Fits, fitting
from ..support.errors import InputError
from .keyboard import underlined
from .model_box import ModelBox
from .parameter_texts import methodSentences, parameterTexts

# Underlined in Slicer's menus and in what is always seen of the window.
_OTHER_LETTERS = "efvhxmskogrlbc"


class ParameterForm:
    """A labeled widget for every field of Parameters.

    What the user does not touch keeps its exact value, whatever the widgets can show of it. Values that contradict each
    other for a moment (a level added to one list and not yet to the others) are kept as they are typed, and told.

    Attributes:
        widgets: name of the field -> its widget.
        models: the list of trained models; getModelsButton, below it, leads to more of them.
        methodNote: what the chosen method does, and where it was published.
        modelNote: what the chosen model is for, how good it is, and what its license asks its users to know.
    """

    def __init__(self, changed: Callable[[], None]) -> None:
        """`changed` is called after every change by the user."""
        self._changed = changed
        self._values = Parameters().to_dict()
        self._showing = False
        self.fittingModel = ""
        self._texts = parameterTexts()
        self._letters = set(_OTHER_LETTERS)
        self.widgets: dict[str, qt.QWidget] = {}
        self.models = ModelBox(lambda name: self._set("model", name))
        self.getModelsButton = qt.QPushButton(_("Get models…"))
        self.getModelsButton.objectName = "getModelsButton"
        self.getModelsButton.toolTip = _("Install trained models from a file or an address, or remove them.")
        self.methodNote, self.modelNote = _note("methodNoteLabel"), _note("modelNoteLabel")
        self._fields = {each.name: each for each in dataclasses.fields(Parameters)}
        for each in self._fields.values():
            self.widgets[each.name] = self._widget(each)
        self._show()

    def addTo(self, layout: qt.QFormLayout, names: Iterable[str] | None = None) -> None:
        """Puts widgets into a form, by default all that are nowhere yet."""
        for name in names or [name for name, widget in self.widgets.items() if widget.parent() is None]:
            label = qt.QLabel(underlined(self._texts[name][0], self._letters) + ":")
            label.setBuddy(self.widgets[name])
            label.toolTip = self.widgets[name].toolTip
            layout.addRow(label, self.widgets[name])
            if name == "method":
                layout.addRow(self.methodNote)
            if name == "model":
                layout.addRow(self.modelNote)
                layout.addRow("", self.getModelsButton)

    def values(self) -> dict[str, Any]:
        """Plain values as they are shown, also if they contradict each other."""
        return dict(self._values)

    def setValues(self, values: dict[str, Any]) -> None:
        """Shows these values; missing ones are those of the preset. Calls nobody back."""
        preset = values.get("preset", "default")
        known = {name: value for name, value in values.items() if name in self._fields}
        self._values = {**Parameters.from_preset(preset).to_dict(), **known}
        self._show()

    def _beside_preset(self) -> dict[str, Any]:
        """What choosing another preset leaves as it is."""
        return {name: self._values[name] for name in ("method", "model", *LEFT_OPEN)}

    def change(self, values: dict[str, Any]) -> None:
        """Changes some values, as the user would; a preset comes first and changes the others. Calls nobody back."""
        if "preset" in values:
            self.setValues({"preset": values["preset"], **self._beside_preset()})
        self.setValues({**self._values, **values})

    def parameters(self) -> Parameters:
        """The parameters shown.

        Raises:
            ValueError: they contradict each other; says which.
        """
        return Parameters.from_dict(self._values)

    def changes(self, names: Iterable[str]) -> list[str]:
        """Which of these are not as the preset has them, each with its value as it is shown."""
        usual = Parameters.from_preset(self._values["preset"]).to_dict() | {"preset": "default"}
        return [self._described(name) for name in names if self._values[name] != usual[name]]

    def _described(self, name: str) -> str:
        label, _help, titles = self._texts[name]
        value = self._values[name]
        if name == "model":
            return value
        if isinstance(value, str) and titles:
            return titles[value].partition(":")[0]
        if isinstance(value, bool):
            return label if value else _("not {setting}").format(setting=label)
        return f"{label} {', '.join(map(str, value)) if isinstance(value, list) else value}"

    def problem(self) -> str:
        """Why they contradict each other; empty if they do not."""
        if METHODS[self._values["method"]].needs_model and not self._values["model"]:
            return _("Choose a trained model (section Method): the chosen method predicts by one.")
        try:
            self.parameters()
        except ValueError as error:
            return str(error)
        return ""

    # ------------------------------------------------------------------------------------------------- widgets

    def _widget(self, each: dataclasses.Field) -> qt.QWidget:
        meta, name = each.metadata, each.name
        if meta["choices"] and each.type == "str":
            widget = qt.QComboBox()
            for choice, title in self._texts[name][2].items():
                widget.addItem(title, choice)
            widget.connect("currentIndexChanged(int)", lambda index: self._set(name, widget.itemData(index)))
        elif name == "model":
            widget = self.models.widget
        elif each.type == "bool":
            widget = qt.QCheckBox()
            widget.connect("toggled(bool)", lambda value: self._set(name, bool(value)))
        elif each.type == "int":
            widget = qt.QSpinBox()
            widget.setRange(int(meta["range"][0]), int(meta["range"][1]))
            widget.connect("valueChanged(int)", lambda value: self._set(name, int(value)))
        elif each.type == "float":
            widget = qt.QDoubleSpinBox()
            widget.setDecimals(max(2, _decimals(each.default), _decimals(meta["range"][0])))
            widget.setRange(*meta["range"])
            widget.setSingleStep(max(10.0**-widget.decimals, each.default / 10 or 0.5))
            widget.connect("valueChanged(double)", lambda value: self._set(name, float(value)))
        else:
            widget = qt.QLineEdit()
            widget.connect("textEdited(QString)", lambda text: self._set(name, _listed(text, each.type)))
        if meta["unit"] and hasattr(widget, "suffix"):
            widget.suffix = f" {meta['unit']}"
        widget.objectName = f"{name}ParameterWidget"
        widget.toolTip = self._tip(each)
        # A wheel that scrolls the panel must not change what lies under the pointer.
        widget.setFocusPolicy(qt.Qt.StrongFocus)
        widget.setSizePolicy(qt.QSizePolicy.Expanding, qt.QSizePolicy.Fixed)
        if hasattr(widget, "setSizeAdjustPolicy"):  # long titles must not widen the panel
            widget.setSizeAdjustPolicy(qt.QComboBox.AdjustToMinimumContentsLengthWithIcon)
        return widget

    def _tip(self, each: dataclasses.Field) -> str:
        meta, titles = each.metadata, self._texts[each.name][2]
        default = ", ".join(map(str, each.default)) if isinstance(each.default, tuple) else each.default
        default = titles.get(default, default)
        unit = f" {meta['unit']}" if meta["unit"] else ""
        lines = [
            self._texts[each.name][1],
            _("Default: {value}{unit}").format(value=default, unit=unit),
        ]
        if meta["range"]:
            low, high = meta["range"]
            lines.append(_("Range: {low} to {high}").format(low=f"{low:g}", high=f"{high:g}"))
        names = f"{each.name} = {' | '.join(map(repr, titles))}" if titles else each.name
        lines.append(_("In Python: {name}").format(name=names))
        return "\n".join(lines)

    def _set(self, name: str, value: Any) -> None:
        if self._showing:
            return
        if name == "preset":
            self.setValues({"preset": value, **self._beside_preset()})
        elif name == "method" and METHODS[value].needs_model and not self._values["model"]:
            self.setValues({**self._values, "method": value, "model": AUTO})
        else:
            self._values[name] = value
            self._mark()
        self._changed()

    def _show(self) -> None:
        self._showing = True
        try:
            for name, widget in self.widgets.items():
                value, each = self._values[name], self._fields[name]
                if each.metadata["choices"] and each.type == "str":
                    widget.setCurrentIndex(widget.findData(value))
                elif name == "model":
                    self.models.show(value)
                elif each.type == "str":
                    widget.text = value
                elif each.type == "bool":
                    widget.checked = value
                elif each.type in ("int", "float"):
                    widget.value = value
                else:
                    widget.text = value if isinstance(value, str) else ", ".join(map(str, value))
        finally:
            self._showing = False
        self._mark()

    def _showNote(self) -> None:
        """What the method does. The model matters to those that predict; its purpose and license to its users."""
        method = METHODS[self._values["method"]]
        sentence = methodSentences().get(self._values["method"], "")
        self.methodNote.text = f"{sentence} {method.citation}." if method.citation else sentence
        predicted = method.needs_model
        self.widgets["model"].enabled = predicted
        if predicted:
            self.models.showMethod(self._values["method"])
        note, name = "", self._values["model"]
        if predicted and name == AUTO:
            name = self.fittingModel
            note = _("The model {name} fits both volumes.").format(name=name) if name else ""
        if predicted and name:
            try:
                note = " ".join([*([note] if note else []), model_sentence(model_config(name), _)])
            except InputError as error:
                note = str(error)
        self.modelNote.text = note
        self.modelNote.visible = bool(note)

    def showFits(self, fits: Fits) -> None:
        """Shows which models fit the chosen volumes, as far as is known."""
        self.models.showFits(fits)
        self.fittingModel = fitting(fits)
        self._showNote()

    def _mark(self) -> None:
        """Lists that contradict each other are underlined in red, in whatever style Slicer has."""
        style = "border-bottom: 2px solid #d04040;" if self.problem() else ""
        for name, each in self._fields.items():
            if each.type.startswith("tuple"):
                self.widgets[name].setStyleSheet(style)
        self._showNote()


def _note(name: str) -> qt.QLabel:
    """A paragraph below a widget."""
    label = qt.QLabel()
    label.objectName = name
    label.wordWrap = True
    label.setTextFormat(qt.Qt.PlainText)  # it quotes models and papers
    narrow = qt.QSizePolicy(qt.QSizePolicy.Ignored, qt.QSizePolicy.Preferred)  # a sentence must not widen the panel
    narrow.setHeightForWidth(True)
    label.setSizePolicy(narrow)
    return label


def _decimals(value: float) -> int:
    text = f"{value:.8f}".rstrip("0")
    return len(text.partition(".")[2])


def _listed(text: str, kind: str) -> list[Any] | str:
    """What a list holds, of the kind of a field; or the text itself, if it is no such list."""
    if kind == "tuple[int | str, ...]":  # names may have blanks in them
        parts = [part.strip() for part in text.split(",")]
        return [int(part) if part.isascii() and part.isdigit() else part for part in parts if part]
    one = {"tuple[int, ...]": int, "tuple[float, ...]": float, "tuple[str, ...]": str}[kind]
    try:
        return [one(part) for part in text.replace(",", " ").split()]
    except ValueError:
        return text
