# SPDX-License-Identifier: Apache-2.0
"""torch comes through the PyTorch extension, changes nothing of Slicer's, and is not loaded into Slicer."""

import os
import subprocess
import sys
from types import SimpleNamespace

import pytest
from DeepFLASHRegistrationLib.gui import package_installation, torch_installation
from DeepFLASHRegistrationLib.problem.parameters import METHODS, Parameters
from DeepFLASHRegistrationLib.support.errors import Cancelled


@pytest.fixture
def slicer_without_torch(monkeypatch):
    """What is installed, by name; torch is not."""
    installed = dict.fromkeys(torch_installation.KEPT, "1.0")
    monkeypatch.setattr(torch_installation.importlib.metadata, "version", installed.__getitem__)
    monkeypatch.setattr(torch_installation, "torch_is_installed", lambda: "torch" in installed)
    monkeypatch.delitem(sys.modules, "torch", raising=False)
    monkeypatch.delenv("PIP_CONSTRAINT", raising=False)
    return installed


def _extension(monkeypatch, install):
    class PyTorchUtilsLogic:
        def installTorch(self, askConfirmation, torchVersionRequirement):
            assert askConfirmation
            assert torchVersionRequirement.startswith(">=")
            return install()

    monkeypatch.setitem(sys.modules, "PyTorchUtils", SimpleNamespace(PyTorchUtilsLogic=PyTorchUtilsLogic))


def test_where_torch_is_nothing_is_asked(slicer_without_torch, monkeypatch):
    slicer_without_torch["torch"] = "2.5"
    _extension(monkeypatch, lambda: pytest.fail("asked"))
    torch_installation.ensure_torch()


def test_without_the_extension_the_user_is_told_how_to_get_it(slicer_without_torch, monkeypatch):
    monkeypatch.setitem(sys.modules, "PyTorchUtils", None)
    with pytest.raises(RuntimeError, match="Extensions Manager"):
        torch_installation.ensure_torch()


def test_it_is_installed_under_constraints_and_not_imported(slicer_without_torch, monkeypatch):
    seen = {}

    def install():
        with open(os.environ["PIP_CONSTRAINT"], encoding="utf-8") as file:
            seen["constraints"] = file.read().split()
        slicer_without_torch["torch"] = "2.5"
        import torch  # as PyTorchUtils does in the end

        return torch

    _extension(monkeypatch, install)
    torch_installation.ensure_torch()
    assert seen["constraints"] == ["numpy==1.0", "scipy==1.0", "SimpleITK==1.0"]
    assert "torch" not in sys.modules
    assert "PIP_CONSTRAINT" not in os.environ


def test_a_user_who_declines_is_not_bothered(slicer_without_torch, monkeypatch):
    _extension(monkeypatch, lambda: None)
    with pytest.raises(Cancelled):
        torch_installation.ensure_torch()


def test_a_failed_installation_is_told(slicer_without_torch, monkeypatch):
    def install():
        raise subprocess.CalledProcessError(1, "pip")

    _extension(monkeypatch, install)
    with pytest.raises(RuntimeError, match=r"could not be installed \(.*exit status 1"):
        torch_installation.ensure_torch()
    assert "PIP_CONSTRAINT" not in os.environ


def test_a_missing_installer_is_not_taken_for_a_decline(slicer_without_torch, monkeypatch):
    def install():
        raise ModuleNotFoundError("No module named 'light_the_torch'", name="light_the_torch")

    _extension(monkeypatch, install)
    with pytest.raises(RuntimeError, match="light_the_torch"):
        torch_installation.ensure_torch()


def test_a_changed_package_is_told_with_its_remedy(slicer_without_torch, monkeypatch):
    _extension(monkeypatch, lambda: slicer_without_torch.update(torch="2.5", numpy="2.0"))
    with pytest.raises(RuntimeError, match=r"numpy 1\.0 became 2\.0.*numpy==1\.0"):
        torch_installation.ensure_torch()


# ------------------------------------------------------------------------------------------- a method's own package


@pytest.fixture
def asked(slicer_without_torch, monkeypatch):
    """Slicer with torch and without MONAI: what was asked, and what pip was told; the answer is yes."""
    slicer_without_torch["torch"] = "2.9"
    found = SimpleNamespace(questions=[], commands=[], answer=True, install=lambda: None)

    def confirm(text, windowTitle):
        found.questions.append(text)
        return found.answer

    def pip_install(command):
        found.commands.append(command)
        with open(os.environ["PIP_CONSTRAINT"], encoding="utf-8") as file:
            assert "numpy==1.0" in file.read().split()
        found.install()

    util = SimpleNamespace(confirmOkCancelDisplay=confirm, pip_install=pip_install)
    monkeypatch.setattr(package_installation.slicer, "util", util)
    monkeypatch.setattr(package_installation, "package_is_installed", slicer_without_torch.__contains__)
    return found


def _run_of(method):
    return SimpleNamespace(parameters=Parameters(method=method, model="auto"))


def test_a_package_is_asked_for_when_its_method_is_run_and_not_before(asked, slicer_without_torch):
    package_installation.ensure_installed(SimpleNamespace())
    package_installation.ensure_installed(_run_of("quicksilver"))
    assert not asked.questions
    asked.install = lambda: slicer_without_torch.update(monai="1.6")
    package_installation.ensure_installed(_run_of("voxelmorph+flash"))
    assert "MONAI (2 MB, license Apache-2.0)" in asked.questions[0]
    assert asked.commands == ["--no-deps monai>=1.5"]
    package_installation.ensure_installed(_run_of("voxelmorph"))
    assert len(asked.questions) == 1
    asked.install = lambda: slicer_without_torch.update(icon_registration="1.1.9")
    package_installation.ensure_installed(_run_of("gradicon"))
    assert asked.commands[1:] == ["--no-deps icon-registration>=1.1.9"]


def test_who_declines_a_package_gets_nothing_installed(asked):
    asked.answer = False
    with pytest.raises(Cancelled, match="MONAI was not installed"):
        package_installation.ensure_installed(_run_of("voxelmorph"))
    assert not asked.commands


def test_a_package_that_cannot_be_installed_or_changes_slicers_own_is_told(asked, slicer_without_torch):
    def fails():
        raise subprocess.CalledProcessError(1, "pip")

    asked.install = fails
    with pytest.raises(RuntimeError, match=r"MONAI could not be installed \(.*exit status 1"):
        package_installation.ensure_installed(_run_of("voxelmorph"))
    asked.install = lambda: slicer_without_torch.update(monai="1.6", numpy="2.0")
    with pytest.raises(RuntimeError, match=r"Installing MONAI changed .*numpy 1\.0 became 2\.0"):
        package_installation.ensure_installed(_run_of("voxelmorph"))


def test_every_package_of_a_method_is_known_here():
    assert {each.package for each in METHODS.values()} - {""} == set(package_installation._PACKAGES)
