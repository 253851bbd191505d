# SPDX-License-Identifier: Apache-2.0
"""A method with all its settings, in the words by which a comparison names it."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ..methods.choosing import is_open
from ..methods.trained_models import LEFT_OPEN, WEIGHTS, find_model, model_config
from ..problem.parameters import METHODS, PRESETS, Parameters
from ..support.errors import InputError

_GEODESIC = "geodesic"
_NO_NAME = re.compile(r"[^A-Za-z0-9+._-]+")
# What a name states in another way, and what all methods share.
_STATED = ("preset", "method", "model", "as_geodesic", "initial_alignment")
_FIELDS = {f.name: f for f in dataclasses.fields(Parameters)}


@dataclass(frozen=True)
class Entrant:
    """A method with all its settings, by the name that was given."""

    name: str
    parameters: Parameters

    @property
    def folder(self) -> str:
        """Of its results."""
        return _NO_NAME.sub("-", self.name).strip(".-")

    def model(self) -> dict[str, Any]:
        """What is known of its trained model: name, megabytes of the weights, and in words how it was trained; {} if it
        has none, or if each pair chooses its own."""
        if not METHODS[self.parameters.method].needs_model or is_open(self.parameters):
            return {}
        folder = find_model(self.parameters.model)
        config = model_config(folder)
        size = (folder / WEIGHTS).stat().st_size / 1e6
        return {"name": config.name, "weights_mb": round(size, 2), "trained": config.trained}


def entrant(text: str, changes: Mapping[str, Any]) -> Entrant:
    """A method in the words of --methods: NAME, then each after an @ a preset, "geodesic" or SETTING=VALUE.

    NAME is a method, or METHOD:MODEL; a preset alone is that of flash, and flash:MODEL is flash by the settings that
    the model was trained for. Values of a setting that has one for each level are separated by x.

    Args:
        text: such as "default", "greedy@geodesic", "deepflash+flash:hippocampus@refinement=3",
            "flash@fine@iterations=50x50x50".
        changes: settings that all methods share.

    Raises:
        InputError: there is no such method, preset or setting, or it lacks a model.
    """
    head, *how = text.split("@")
    method, _, model = head.partition(":")
    presets = [word for word in how if word in PRESETS]
    if method in PRESETS and not model and not presets:
        method, presets = "flash", [method]
    settings = dict(word.split("=", 1) for word in how if "=" in word)
    known = [name for name, each in METHODS.items() if not each.needs_transform]
    left = [word for word in how if word not in (*PRESETS, _GEODESIC) and "=" not in word]
    if method not in known or left or len(presets) > 1:
        raise InputError(
            f"--methods: {text!r} is none. There are the presets {', '.join(PRESETS)}, and {', '.join(known)}, with "
            "the model after a colon (deepflash:hippocampus), and each after an @ a preset, a setting "
            "(flash@sigma=0.1), or geodesic (greedy@geodesic)."
        )
    if _GEODESIC in how and not METHODS[method].dense:
        raise InputError(f"--methods: {text!r}: {method} finds a geodesic anyway.")
    needs_model = METHODS[method].needs_model
    if model and not needs_model and (method != "flash" or presets):
        raise InputError(f"--methods: {text!r}: {head.partition(':')[0]} has no model here.")
    try:
        given = {name: _value(name, value, needs_model) for name, value in settings.items()}
        given |= {"method": method, "model": model if needs_model else "", "as_geodesic": _GEODESIC in how}
        if model and not needs_model:
            # The model's own, but for how all are aligned.
            shared = {name: value for name, value in changes.items() if name == "initial_alignment"}
            return Entrant(text, dataclasses.replace(model_config(model).parameters, **shared, **given))
        return Entrant(text, Parameters.from_preset(presets[0] if presets else "default", **{**changes, **given}))
    except ValueError as error:
        raise InputError(f"--methods: {text!r}: {error}") from error


def _value(name: str, text: str, needs_model: bool) -> Any:
    """The value of a setting in words; ValueError if there is no such setting, or if the method does not heed it."""
    if name not in _FIELDS or name in _STATED:
        raise ValueError(f"there is no setting {name!r} here")
    if needs_model and name not in LEFT_OPEN:
        raise ValueError(f"the model states {name}; what is left open is {', '.join(LEFT_OPEN)}")
    default = _FIELDS[name].default
    if isinstance(default, tuple):
        return tuple(int(x) for x in text.split("x"))
    if isinstance(default, bool):
        if text not in ("true", "false"):
            raise ValueError(f"{name} is true or false, not {text!r}")
        return text == "true"
    return type(default)(text)
