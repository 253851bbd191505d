# SPDX-License-Identifier: Apache-2.0
"""Which trained models fit the chosen volumes, kept up to date while the user chooses; and consents, asked once."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import slicer
from slicer.i18n import tr as _

from ..methods.choosing import is_open
from ..methods.consent import accept_noncommercial, noncommercial_accepted
from ..methods.model_words import model_sentence
from ..methods.trained_models import find_models, model_config
from ..problem.parameters import METHODS, Parameters
from ..scene.checks import Check
from ..scene.geometry import gridFromVolume
from ..scene.inputs import Inputs
from ..scene.model_fits import Fits, FitsRun, isMasked, licenseAlone, modelChecks, statedFits, toBeAsked
from ..support.errors import InputError
from .models_dialog import ModelsDialog
from .parameter_form import ParameterForm
from .torch_installation import torch_is_installed


class ModelFits:
    """What is known of the models and the chosen volumes: at once what they state, and when the child process has
    looked at the images all of it. While no method predicts, nothing is looked at."""

    def __init__(self, form: ParameterForm, logic: Any, changed: Callable[[], None]) -> None:
        """`changed` is called when more is known."""
        self._form, self._logic, self._changed = form, logic, changed
        self._stated: tuple[Any, Fits] = (None, {})  # of which volumes and models, and what is told at once
        self._known: tuple[Any, Fits] = (None, {})  # the same, when the images were looked at
        self.fits: Fits = {}
        form.getModelsButton.connect("clicked()", self._getModels)

    def checks(self, inputs: Inputs, parameters: Parameters) -> list[Check]:
        """What to say of the chosen model; has the images looked at if they have not been."""
        if not METHODS[parameters.method].needs_model:
            return []
        try:
            key = self._key(inputs, parameters.method)
            if key != self._stated[0]:
                self._stated = key, statedFits(inputs, parameters.method)
            self.fits = self._known[1] if key == self._known[0] else self._stated[1]
        except InputError:  # which is told anyway
            key, self.fits = None, {}
        if key != self._known[0] and any(not each or licenseAlone(each) for each in self.fits.values()):
            self._ask(inputs, parameters.method, key)
        self._form.showFits(self.fits)
        return modelChecks(parameters, self.fits)

    def _ask(self, inputs: Inputs, method: str, key: Any) -> None:
        """Returns at once; where nobody can be asked now, what is stated must do until the run."""
        if isMasked(inputs) or self._logic.current is not None or not torch_is_installed():
            return

        def told(run: FitsRun) -> None:
            if run.state == "done":
                self._known = key, run.fits
                self._changed()

        try:
            self._logic.start(FitsRun(inputs, method), waitForCompletion=False).on_end(told)
        except (InputError, RuntimeError):
            return

    def _key(self, inputs: Inputs, method: str) -> Any:
        """What decides which models fit.

        Raises:
            InputError: a volume cannot be used.
        """
        chosen = [each for each in (inputs.fixedVolume, inputs.movingVolume) if each is not None]
        volumes = [
            (each.GetID(), gridFromVolume(each).affine.tolist(), each.GetImageData().GetMTime()) for each in chosen
        ]
        models = [(str(each.folder), each.config.versions if each.config else {}) for each in find_models()]
        return volumes, models, method.removesuffix("+flash"), noncommercial_accepted(), isMasked(inputs)

    def consented(self) -> Parameters:
        """The parameters of the form; asks once whether a model for non-commercial use may be chosen, if one fits best.

        Raises:
            InputError: it cannot be kept.
        """
        parameters = self._form.parameters()
        name = toBeAsked(self.fits) if is_open(parameters) else ""
        if not name:
            return parameters
        text = _(
            "Of the trained models {name} fits best, but its license excludes commercial use.\n\n{about}\n\nMay models "
            "under such licenses be chosen? You agree not to use their results commercially. This is asked once; Get "
            "models… changes it."
        ).format(name=name, about=model_sentence(model_config(name), _))
        accept_noncommercial(bool(slicer.util.confirmYesNoDisplay(text, windowTitle=_("License of a trained model"))))
        self._changed()
        return parameters

    def _getModels(self) -> None:
        dialog = ModelsDialog(self._form.getModelsButton.window())
        dialog.widget.exec_()
        dialog.close()
        self._form.models.reload()
        self._changed()
