# SPDX-License-Identifier: Apache-2.0
"""Trained models and the chosen volumes: what is greyed, what is said before the run, and what the child looks at."""

import time

import numpy as np
import pytest
from DeepFLASHRegistrationLib.methods import choosing
from DeepFLASHRegistrationLib.methods.consent import accept_noncommercial
from DeepFLASHRegistrationLib.problem.parameters import Parameters
from DeepFLASHRegistrationLib.process.runner import Runner
from DeepFLASHRegistrationLib.scene.checks import ERROR, WARNING, checkInputs
from DeepFLASHRegistrationLib.scene.inputs import Inputs
from DeepFLASHRegistrationLib.scene.model_fits import FitsRun, fitting, modelChecks, statedFits, toBeAsked
from DeepFLASHRegistrationLib.scene.runs import RegistrationRun
from made_models import like_training
from scene_synthetic import addSegmentation, addVolume, makeGrid

AUTO = Parameters(method="deepflash", model="auto")


@pytest.fixture(autouse=True)
def user_models(tmp_path, monkeypatch):
    monkeypatch.setenv("DEEPFLASH_MODELS", str(tmp_path / "user"))


def crops(scene, inverted=False):
    volumes = [like_training("hippocampus", 0), like_training("hippocampus", 1, inverted)]
    return Inputs(*(addVolume(scene, each.grid, each.data, each.name) for each in volumes))


def bodies(scene, shape=(40, 40, 40), spacing=(7, 7, 7)):
    """Large and coarse."""
    grid, nodes = makeGrid(shape, spacing), []
    for name in ("one", "two"):
        data = np.random.default_rng(0).normal(100, 20, shape).astype(np.float32)
        nodes.append(addVolume(scene, grid, data, name))
    return Inputs(*nodes)


def test_what_is_told_at_once_is_told_in_no_time(scene):
    inputs = bodies(scene, (256, 256, 180), (1, 1, 1))
    statedFits(inputs, "deepflash")
    began = time.thread_time()
    fits = statedFits(inputs, "deepflash")
    assert time.thread_time() - began < 0.1
    assert list(fits) == [each.name for each in choosing.preferred("deepflash")]
    assert {each.finding for each in fits["hippocampus"]} == {"size"}
    assert statedFits(Inputs(fixedVolume=inputs.fixedVolume), "deepflash") == {}


def test_a_model_that_fits_needs_no_word(scene):
    inputs = crops(scene)
    fits = statedFits(inputs, "deepflash")
    assert fitting(fits) == "hippocampus"
    for parameters in (AUTO, Parameters(), Parameters(method="deepflash", model="hippocampus")):
        assert modelChecks(parameters, fits) == []
    assert checkInputs(inputs, AUTO, freeHost=64 << 30) == []


def test_where_none_fits_registering_waits_and_flash_is_offered(scene):
    inputs = bodies(scene)
    (found,) = modelChecks(AUTO, statedFits(inputs, "deepflash"))
    assert (found.name, found.level, found.changes) == ("model", ERROR, {"method": "flash"})
    for name in ("brain", "brain-t1", "hippocampus"):
        assert f"{name}: " in found.text
    assert not [each for each in checkInputs(inputs, AUTO, freeHost=64 << 30) if each.level == ERROR]


def test_a_model_that_does_not_fit_is_warned_of_by_its_name(scene):
    named = Parameters(method="deepflash", model="brain")
    (found,) = modelChecks(named, statedFits(bodies(scene), "deepflash"))
    assert (found.level, found.changes) == (WARNING, {"method": "flash"})
    assert "long along its axes" in found.text
    (found,) = modelChecks(named, statedFits(crops(scene), "deepflash"))
    assert found.changes == {"model": "auto"}


def test_a_license_is_asked_about_once_and_only_if_that_model_would_be_chosen():
    license_ = (choosing.Misfit("license", {"license": "CC BY-NC"}),)
    other = (choosing.Misfit("no-mean-image"),)
    assert toBeAsked({"special": license_, "any": ()}) == "special"
    assert toBeAsked({"any": (), "special": license_}) == ""
    assert toBeAsked({"special": (*license_, *other), "any": ()}) == ""
    assert modelChecks(AUTO, {"special": license_, "any": other}) == []  # it will be asked about
    accept_noncommercial(False)
    assert toBeAsked({"special": license_, "any": ()}) == ""
    (found,) = modelChecks(AUTO, {"special": license_, "any": other})
    assert found.level == ERROR
    named = Parameters(method="deepflash", model="special")
    assert modelChecks(named, {"special": license_}) == []  # who names it has chosen it


def test_masks_leave_the_size_open(scene):
    inputs = bodies(scene, spacing=(2, 2, 2))
    assert "size" in {each.finding for each in statedFits(inputs, "deepflash")["hippocampus"]}
    inside = np.zeros((40, 40, 40), bool)
    inside[10:20, 10:20, 10:20] = True
    inputs.fixedMask = addSegmentation(scene, makeGrid((40, 40, 40), (2, 2, 2)), {"in": inside}, inputs.fixedVolume)
    assert "size" not in {each.finding for each in statedFits(inputs, "deepflash")["hippocampus"]}


def test_the_child_looks_at_the_images(scene, childPython):
    runner = Runner(childPython)
    try:
        for inverted, chosen in ((False, "hippocampus"), (True, "")):
            run = runner.start(FitsRun(crops(scene, inverted), "deepflash"))
            runner.wait(run)
            assert list(run.fits) == [each.name for each in choosing.preferred("deepflash")]
            assert fitting(run.fits) == chosen
        assert [each.finding for each in run.fits["hippocampus"]] == ["contrast"]
        (found,) = modelChecks(AUTO, run.fits)
        assert "has another contrast" in found.text
    finally:
        runner.close()


def test_how_long_auto_takes_is_expected_of_the_model_that_may_fit(scene):
    run = RegistrationRun(crops(scene), AUTO)
    run.arguments()
    named = RegistrationRun(crops(scene), Parameters(method="deepflash", model="hippocampus"))
    named.arguments()
    assert run.expected == named.expected != {}
