# SPDX-License-Identifier: Apache-2.0
"""Parameters: validated where they are made, and the same after a trip through JSON."""

from __future__ import annotations

import dataclasses
import json
import math
from typing import Any

import numpy as np
import pytest
from DeepFLASHRegistrationLib.problem.parameters import PRESETS, Parameters


@pytest.mark.parametrize("preset", PRESETS)
def test_a_preset_survives_json(preset: str) -> None:
    parameters = Parameters.from_preset(preset)
    assert parameters.preset == preset
    assert Parameters.from_dict(json.loads(json.dumps(parameters.to_dict()))) == parameters


def test_changes_survive_json() -> None:
    parameters = Parameters.from_preset("fast", sigma=0.2, bands=(7, 9), resolutions=(3, 1), iterations=(1, 0))
    values = json.loads(json.dumps(parameters.to_dict()))
    assert Parameters.from_dict(values) == parameters
    assert parameters.sigma == 0.2
    assert parameters.bands == (7, 9)


def test_the_defaults_are_the_default_preset() -> None:
    assert Parameters() == Parameters.from_preset("default")


def test_paper_is_the_paper() -> None:
    paper = Parameters.from_preset("paper")
    assert (paper.similarity, paper.alpha, paper.power, paper.sigma) == ("ssd", 3.0, 6.0, 0.03)
    assert (paper.bands, paper.integrator, paper.steps, paper.map) == ((15,), "euler", 10, "band-limited")


def test_missing_values_are_the_named_presets() -> None:
    assert Parameters.from_dict({"preset": "fine"}) == Parameters.from_preset("fine")
    assert Parameters.from_dict({}) == Parameters()


def test_every_setting_tells_what_it_is() -> None:
    for field in dataclasses.fields(Parameters):
        assert field.metadata["label"]
        assert field.metadata["help"].endswith((".", ")"))
        if field.type not in ("str", "tuple[str, ...]", "bool"):
            low, high = field.metadata["range"]
            assert low < high
        if field.type in ("str", "tuple[str, ...]") and field.name != "model":
            assert field.metadata["choices"]


def test_values_are_plain() -> None:
    parameters = Parameters(
        sigma=np.float32(0.25),
        steps=np.int64(3),
        resolutions=[2, 1],
        bands=np.array([7, 9]),
        iterations=(2.0, 3),
        bias_correction=np.bool_(True),
    )
    assert type(parameters.sigma) is float
    assert parameters.sigma == 0.25
    assert type(parameters.steps) is int
    assert parameters.bands == (7, 9)
    assert [type(n) for n in parameters.bands + parameters.iterations] == [int] * 4
    assert parameters.bias_correction is True


def test_they_cannot_be_changed_behind_the_validation() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        Parameters().sigma = -1.0


WRONG: list[tuple[dict[str, Any], str]] = [
    ({"sigma": 0}, "sigma must lie between 0.001 and 10, not 0"),
    ({"sigma": -1.0}, "sigma must lie between"),
    ({"sigma": math.nan}, "sigma must be a number, not nan"),
    ({"sigma": math.inf}, "sigma must lie between"),
    ({"sigma": "0.1"}, "sigma must be a number, not '0.1'"),
    ({"sigma": True}, "sigma must be a number"),
    ({"sigma": None}, "sigma must be a number"),
    ({"steps": 2.5}, "steps must be an integer, not 2.5"),
    ({"steps": math.inf}, "steps must"),
    ({"steps": 10**30}, "steps must lie between"),
    ({"similarity": "lcc"}, "similarity must be one of lncc, ncc, ssd, mi, not 'lcc'"),
    ({"preset": "best"}, "preset must be one of"),
    ({"map": ["band-limited"]}, "map must be one of"),
    ({"bias_correction": "yes"}, "bias_correction must be True or False, not 'yes'"),
    ({"bias_correction": 1}, "bias_correction must be True or False"),
    ({"bands": (15, 30, 47)}, "bands must be odd numbers"),
    ({"bands": (15, 31)}, "one entry per level each, but have 3, 2 and 3"),
    ({"bands": 15}, "bands must be a list of integers, not 15"),
    ({"bands": "15,31,47"}, "bands must be a list of integers"),
    ({"bands": (15, 31, 1)}, "bands must lie between 3 and"),
    ({"bands": (15, 31, math.nan)}, "bands must be an integer"),
    ({"iterations": ("three", 2, 1)}, "iterations must be an integer, not 'three'"),
    ({"rigid_labels": (" ",)}, "rigid_labels must be an integer, not ' '"),
    ({"rigid_labels": (0,)}, "rigid_labels must lie between 1 and"),
    ({"resolutions": (), "bands": (), "iterations": ()}, "one entry per level"),
    ({"resolutions": (1, 2, 4)}, "resolutions must run from coarse to fine"),
    ({"resolutions": (4, 2, 0)}, "resolutions must lie between"),
    ({"window_low": 10.0, "window_high": 10.0}, "window_low must lie below window_high"),
]


@pytest.mark.parametrize(("changes", "message"), WRONG, ids=[m for _, m in WRONG])
def test_what_is_wrong_is_refused_by_name(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=r"must|need") as error:
        Parameters(**changes)
    assert message in str(error.value)


def test_structures_may_be_named() -> None:
    parameters = Parameters(rigid_labels=[" left femur ", 3])
    assert parameters.rigid_labels == ("left femur", 3)
    assert Parameters.from_dict(json.loads(json.dumps(parameters.to_dict()))) == parameters


def test_unknown_names_are_refused() -> None:
    with pytest.raises(ValueError, match=r"Unknown parameter 'sigmma'\. There are: "):
        Parameters.from_preset("fast", sigmma=1)
    with pytest.raises(ValueError, match=r"Unknown preset 'best'. Choose one of fast, default, fine, paper\."):
        Parameters.from_preset("best")
    with pytest.raises(ValueError, match="Unknown parameter 'old_name'"):
        Parameters.from_dict({"preset": "fast", "old_name": 1})
