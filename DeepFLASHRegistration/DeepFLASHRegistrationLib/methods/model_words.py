# SPDX-License-Identifier: Apache-2.0
"""A trained model in words, as far as its own metadata tell: for what, for which images, how good, and its license."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from ..support.words import Translator, english, filled
from .trained_models import ModelConfig

if TYPE_CHECKING:
    from .choosing import Misfit

# Figures on unseen subjects that say in two numbers how good a model is, by their names in ModelConfig.held_out: the
# mean Dice of the labels before and after. The last are those of `deepflash train`.
_DICE = (
    ("Dice, aligned", "Dice, deepflash"),
    ("Dice, aligned", "Dice, predicted"),
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


def figures_of_dice(config: ModelConfig) -> tuple[float, float] | None:
    """The mean Dice of the labels of unseen subjects before and after a prediction; None if it is not stated."""
    for names in _DICE:
        before, after = (config.held_out.get(name) for name in names)
        if isinstance(before, (int, float)) and isinstance(after, (int, float)):
            return float(before), float(after)
    return None


def misfit_sentence(misfit: Misfit, _: Translator = english) -> str:
    """Why a model does not fit two images."""
    return filled(_MISFITS[misfit.finding](_), **misfit.figures)


def choice_note(config: ModelConfig, others: Sequence[tuple[str, Sequence[Misfit]]]) -> str:
    """Why a model was chosen; ``others`` are the names of those that would have come first, and why they did not."""
    parts = [f"The model {config.name} was chosen (auto): it fits both images."]
    parts += [f"{name} does not: {misfit_sentence(misfits[0])}" for name, misfits in others]
    return " ".join(parts)


def nothing_fits(models: Sequence[tuple[str, Sequence[Misfit]]]) -> str:
    """That no model fits, why, and what to do."""
    if not models:
        return (
            "There is no trained model of this method here. Install one (deepflash models install), train one "
            "(deepflash train), or use --method flash, which needs no model."
        )
    only_license = [name for name, misfits in models if [each.finding for each in misfits] == ["license"]]
    reasons = [f"{name}: {misfit_sentence(misfits[0])}" for name, misfits in models]
    remedy = "Use --method flash, which needs no model, or name a model in spite of this (--model)."
    if only_license:
        remedy = f"Agree to such licenses with --accept-noncommercial ({', '.join(only_license)} fits), or: {remedy}"
    return " ".join(["No trained model fits these images.", *reasons, remedy])


_MISFITS = {
    "license": lambda _: _(
        "its license ({license}) excludes commercial use, and you have not agreed to such a license yet."
    ),
    "dimension": lambda _: _("{image} has {has} dimensions, and the model takes images of {model}."),
    "size": lambda _: _(
        "the object in {image} is {smallest_mm:.0f} to {largest_mm:.0f} mm long along its axes, and those that the "
        "model was trained on {low_mm:.0f} to {high_mm:.0f} mm."
    ),
    "coarse": lambda _: _(
        "the voxels of {image} are up to {voxel_mm:.3g} mm long, too coarse for a model trained at {model_mm:.3g} mm."
    ),
    "ct": lambda _: _("{image} is CT, and the model was not trained on that."),
    "not-ct": lambda _: _("{image} is no CT, and the model was trained on that alone."),
    "no-mean-image": lambda _: _("the model does not say what its training images look like."),
    "unlike": lambda _: _(
        "{image} does not look like the images that the model was trained on: it agrees with their mean to "
        "{agreement:.2f}, and they to {usual:.2f}."
    ),
    "contrast": lambda _: _("{image} has another contrast than the images that the model was trained on."),
    "turned": lambda _: _(
        "{image} is turned by {degrees:.0f}° against the images that the model was trained on. Is its orientation "
        "stored rightly?"
    ),
    "damaged": lambda _: _("it cannot be used. {problem}"),
}


def _held_out(config: ModelConfig, _: Translator) -> str:
    dice = figures_of_dice(config)
    if dice is not None:
        text = _(
            "On subjects that it was not trained on, its prediction brings the mean Dice of the labels from "
            "{before:.2f} to {after:.2f}."
        )
        return filled(text, before=dice[0], after=dice[1])
    left = config.held_out.get(_ENERGY)
    if isinstance(left, (int, float)):
        text = _("On subjects that it was not trained on, its prediction leaves {left:.0%} of the energy.")
        return filled(text, left=left)
    if config.held_out:
        figures = ", ".join(f"{name} {value}" for name, value in list(config.held_out.items())[:_MOST_FIGURES])
        return _("On subjects that it was not trained on: {figures}.").format(figures=figures)
    return _("How good it is on subjects that it was not trained on is not stated.")
