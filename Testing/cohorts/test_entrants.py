# SPDX-License-Identifier: Apache-2.0
"""Methods in the words of --methods."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import made_models
import pytest
from DeepFLASHRegistrationLib.cohorts.entrants import entrant
from DeepFLASHRegistrationLib.methods.trained_models import WEIGHTS
from DeepFLASHRegistrationLib.problem.parameters import Parameters
from DeepFLASHRegistrationLib.support.errors import InputError


@pytest.mark.parametrize(
    ("text", "method", "preset", "model", "geodesic"),
    [
        ("fast", "flash", "fast", "", False),
        ("flash@fine", "flash", "fine", "", False),
        ("greedy", "greedy", "default", "", False),
        ("greedy@geodesic", "greedy", "default", "", True),
        ("lddmm@fast@geodesic", "lddmm", "fast", "", True),
        ("deepflash+flash:hippocampus", "deepflash+flash", "default", "hippocampus", False),
    ],
)
def test_methods_in_words(text: str, method: str, preset: str, model: str, geodesic: bool) -> None:
    found = entrant(text, {"similarity": "mi"}).parameters
    assert (found.method, found.preset, found.model, found.as_geodesic) == (method, preset, model, geodesic)
    assert found.similarity == "mi"


@pytest.mark.parametrize(
    ("text", "settings"),
    [
        ("flash@sigma=0.1", {"sigma": 0.1, "similarity": "mi"}),
        ("fast@similarity=ssd@iterations=50x60", {"preset": "fast", "similarity": "ssd", "iterations": (50, 60)}),
        ("flash@fine@symmetric=false@max_voxels=5000", {"preset": "fine", "symmetric": False, "max_voxels": 5000}),
        ("deepflash+flash:hippocampus@refinement=3", {"refinement": 3}),
    ],
)
def test_a_method_may_have_settings_of_its_own(text: str, settings: dict[str, Any]) -> None:
    found = entrant(text, {"similarity": "mi", "initial_alignment": "rigid"}).parameters
    assert {name: getattr(found, name) for name in settings} == settings
    assert found.initial_alignment == "rigid"


def test_flash_by_the_settings_of_a_model_is_what_the_model_was_trained_for(tmp_path: Path) -> None:
    trained_for = Parameters(similarity="ncc", resolutions=(2,), bands=(9,), iterations=(30,), sigma=0.02)
    folder = made_models.make(tmp_path / "model", parameters=trained_for, trained="a minute")
    found = entrant(f"flash:{folder}@tolerance=0.001", {"similarity": "mi", "initial_alignment": "rigid"})
    expected = {**trained_for.to_dict(), "initial_alignment": "rigid", "tolerance": 0.001}
    assert found.parameters.to_dict() == expected
    assert found.model() == {}
    known = entrant(f"deepflash:{folder}", {}).model()
    size = (folder / WEIGHTS).stat().st_size / 1e6
    assert known == {"name": "ellipsoids", "weights_mb": pytest.approx(size, abs=0.01), "trained": "a minute"}


@pytest.mark.parametrize(
    "text",
    [
        "",
        "quick",
        "flash@best",
        "flash@geodesic",
        "deepflash",
        "transform",
        ":x",
        "fast@fine",
        "flash@fast@fine",
        "greedy:hippocampus",
        "flash:hippocampus@fast",
        "flash@sigma",
        "flash@sigma=much",
        "flash@simga=0.1",
        "flash@method=greedy",
        "flash@iterations=5,5,5",
        "flash@iterations=5x5",
        "flash@symmetric=1",
        "flash@initial_alignment=none",
        "deepflash:hippocampus@sigma=0.1",
    ],
)
def test_methods_that_are_none(text: str) -> None:
    with pytest.raises(InputError, match="--methods: "):
        entrant(text, {})
