# SPDX-License-Identifier: Apache-2.0
"""Which trained models fit the chosen volumes: what is told at once, what the child process sees, and what to say."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ..methods.choosing import Look, Misfit, is_open, preferred, stated_misfits
from ..methods.consent import noncommercial_accepted
from ..methods.model_words import misfit_sentence
from ..problem.parameters import METHODS, Parameters
from ..process.runner import Run
from .checks import ERROR, WARNING, Check, thinned
from .geometry import gridFromVolume
from .inputs import Inputs
from .translation import tr as _

# By name of a model, the preferred ones first, what speaks against it.
Fits = Mapping[str, Sequence[Misfit]]


def statedFits(inputs: Inputs, method: str) -> dict[str, tuple[Misfit, ...]]:
    """What is told at once of the models of a method; {} before both volumes are chosen.

    Raises:
        InputError: a volume cannot be used.
    """
    if not _both(inputs):
        return {}
    accepted = noncommercial_accepted() is True
    sides = [Look.at(image, None, voxel) for image, voxel in _sides(inputs)]
    found = {entry.name: stated_misfits(entry.config, sides, accepted) for entry in preferred(method)}
    if not isMasked(inputs):
        return found
    # The object is what the masks show, at which nobody has looked yet.
    return {name: tuple(each for each in misfits if each.finding != "size") for name, misfits in found.items()}


def _both(inputs: Inputs) -> bool:
    return inputs.fixedVolume is not None and inputs.movingVolume is not None


def isMasked(inputs: Inputs) -> bool:
    """Whether masks say what counts, which only the registration looks at."""
    return inputs.fixedMask is not None or inputs.movingMask is not None


def _sides(inputs: Inputs) -> list[tuple[Any, float]]:
    volumes = inputs.fixedVolume, inputs.movingVolume
    return [(thinned(volume), float(gridFromVolume(volume).spacing.max())) for volume in volumes]


class FitsRun(Run):
    """How the models fit two volumes, as the child process sees it, which takes it a second.

    Attributes:
        fits: what speaks against each model, once it is done.
    """

    task = "fits"
    brief = True

    def __init__(self, inputs: Inputs, method: str) -> None:
        """`method`: of which they are models."""
        super().__init__()
        self._inputs, self._method = inputs, method
        self.fits: dict[str, tuple[Misfit, ...]] = {}

    def arguments(self) -> dict[str, Any]:
        """Both images, thinned out.

        Raises:
            InputError: a volume cannot be used.
        """
        accepted = noncommercial_accepted() is True
        return {"sides": _sides(self._inputs), "accepted": accepted, "method": self._method}

    def finish(self) -> None:
        """Takes what was found."""
        self.fits = {name: tuple(Misfit(*each) for each in found) for name, found in self.value.items()}


def licenseAlone(misfits: Sequence[Misfit]) -> bool:
    """Whether only the user's consent to a license is missing."""
    return [each.finding for each in misfits] == ["license"]


def fitting(fits: Fits) -> str:
    """The model that will be chosen; "" if none fits."""
    return next((name for name, misfits in fits.items() if not misfits), "")


def toBeAsked(fits: Fits) -> str:
    """The model that would be chosen if the user agreed to its license, about which nobody was asked yet; else ""."""
    if noncommercial_accepted() is not None:
        return ""
    first = next((name for name, misfits in fits.items() if not misfits or licenseAlone(misfits)), "")
    return first if first and fits[first] else ""


def reasons(misfits: Sequence[Misfit]) -> str:
    """What speaks against a model, in sentences."""
    texts = [misfit_sentence(each, _) for each in misfits]
    return " ".join(text[0].upper() + text[1:] for text in texts)


def modelChecks(parameters: Parameters, fits: Fits) -> list[Check]:
    """What to say of the chosen model before the run; nothing where nothing is known.

    Args:
        fits: of the chosen volumes, as far as is known; {} if nothing is.
    """
    if not METHODS[parameters.method].needs_model or not fits:
        return []
    flash = {"method": "flash"}, _("Use FLASH")
    if is_open(parameters):
        if fitting(fits) or toBeAsked(fits):
            return []
        told = [f"{name}: {reasons(misfits[:1])}" for name, misfits in fits.items()]
        text = " ".join([_("No trained model fits these volumes."), *told])
        return [Check("model", ERROR, text, *flash)]
    speaking = [each for each in fits.get(parameters.model, ()) if each.finding != "license"]
    if not speaking:
        return []
    text = _("The model {name} was not made for these volumes.").format(name=parameters.model)
    other = {"model": "auto"}, _("Choose one that fits")
    return [Check("model", WARNING, f"{text} {reasons(speaking[:1])}", *(other if fitting(fits) else flash))]
