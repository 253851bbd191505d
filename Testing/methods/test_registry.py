# SPDX-License-Identifier: Apache-2.0
"""A method is a file and a line of a list, and every door then knows it."""

from __future__ import annotations

import sys
from types import ModuleType

import numpy as np
import pytest
import registration_pairs as pairs
from DeepFLASHRegistrationLib.methods.registry import Estimated
from DeepFLASHRegistrationLib.problem import parameters
from DeepFLASHRegistrationLib.problem.methods import Method
from DeepFLASHRegistrationLib.problem.parameters import METHODS, SEARCHES, SIMILARITIES, Parameters
from DeepFLASHRegistrationLib.registration.register import register

torch = pytest.importorskip("torch")


@pytest.fixture
def still(monkeypatch):
    """A method that finds no deformation."""

    def estimate(problem, plan, device, initial, watch):
        level = problem.levels(plan.parameters)[0]
        velocity = torch.zeros(len(level.band.modes), *level.band.modes)
        record = {"energy": 1.0, "similarity": 1.0, "regularization": 0.0, "smallest_determinant": 1.0}
        history = [{"level": 0, "iteration": 0, "seconds": 0.0, **record}]
        return Estimated(problem.geodesic(velocity, level.metric, plan.parameters), history, False)

    module = ModuleType("DeepFLASHRegistrationLib.methods.still")
    module.estimate = estimate
    monkeypatch.setitem(sys.modules, module.__name__, module)
    monkeypatch.setitem(parameters.METHODS, "still", Method("still"))
    (field,) = [f for f in Parameters.__dataclass_fields__.values() if f.name == "method"]
    monkeypatch.setattr(field, "metadata", {**field.metadata, "choices": tuple(METHODS)})


def test_a_method_is_a_file_and_a_name_in_one_list(still):
    fixed, moving = pairs.fixed_image(), pairs.moving_image()
    result = register(fixed, moving, Parameters(method="still", initial_alignment="none"), threads=1)
    assert result.parameters.method == "still"
    np.testing.assert_allclose(result.warped.data, result.moving_affine.data, atol=1e-3 * moving.data.max())


def test_a_method_that_needs_a_model_says_so():
    with pytest.raises(ValueError, match="'deepflash' needs a model"):
        Parameters(method="deepflash")


def test_every_method_is_a_file_that_estimates():
    from importlib import import_module

    for method in METHODS.values():
        assert callable(import_module(f"DeepFLASHRegistrationLib.methods.{method.file}").estimate)


def test_every_similarity_that_can_be_chosen_is_made():
    from DeepFLASHRegistrationLib.geodesics.similarities import MAKERS

    assert set(MAKERS) == set(SIMILARITIES)


def test_every_search_of_the_parameters_is_one_of_the_engine():
    from DeepFLASHRegistrationLib.geodesics.search.directions import DIRECTIONS

    assert set(DIRECTIONS) == set(SEARCHES)
