# SPDX-License-Identifier: Apache-2.0
"""torch comes through the PyTorch extension, changes nothing of Slicer's, and is not loaded into Slicer."""

import os
import subprocess
import sys
from types import SimpleNamespace

import pytest
from DeepFLASHRegistrationLib.gui import torch_installation
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
