# SPDX-License-Identifier: Apache-2.0
"""A trained model in words, as far as its own metadata tell: for what, for which images, how good, and its license."""

from __future__ import annotations

from ..support.words import Translator, english, filled
from .trained_models import ModelConfig

# Figures on unseen subjects that say in two numbers how good a model is, by their names in ModelConfig.held_out: the
# mean Dice of the labels before and after. The last are those of `deepflash train`.
_DICE = (
    ("Dice, aligned", "Dice, deepflash"),
    ("Dice over all labels, aligned", "Dice, deepflash"),
    ("validation Dice before", "validation Dice after"),
)
_ENERGY = "energy left"
_MOST_FIGURES = 3


def model_title(config: ModelConfig) -> str:
    """Name and purpose in a line."""
    return f"{config.name}: {config.description}" if config.description else config.name


def model_sentence(config: ModelConfig, _: Translator = english) -> str:
    """What for, which images, how good on subjects it was not trained on, and the license."""
    parts = [
        _("Purpose: {purpose}.").format(purpose=config.description.rstrip("."))
        if config.description
        else _("What it is for is not stated."),
        filled(
            _("It takes {dimensions}-D images of objects of {low:.0f} to {high:.0f} mm."),
            dimensions=config.ndim,
            low=config.extent_mm[0],
            high=config.extent_mm[1],
        ),
        _held_out(config, _),
        _("License: {license}.").format(license=config.license.rstrip(".")),
        config.license_note,
    ]
    return " ".join(part for part in parts if part)


def _held_out(config: ModelConfig, _: Translator) -> str:
    for names in _DICE:
        before, after = (config.held_out.get(name) for name in names)
        if isinstance(before, (int, float)) and isinstance(after, (int, float)):
            text = _(
                "On subjects that it was not trained on, its prediction brings the mean Dice of the labels from "
                "{before:.2f} to {after:.2f}."
            )
            return filled(text, before=before, after=after)
    left = config.held_out.get(_ENERGY)
    if isinstance(left, (int, float)):
        text = _("On subjects that it was not trained on, its prediction leaves {left:.0%} of the energy.")
        return filled(text, left=left)
    if config.held_out:
        figures = ", ".join(f"{name} {value}" for name, value in list(config.held_out.items())[:_MOST_FIGURES])
        return _("On subjects that it was not trained on: {figures}.").format(figures=figures)
    return _("How good it is on subjects that it was not trained on is not stated.")
