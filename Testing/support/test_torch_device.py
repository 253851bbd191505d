# SPDX-License-Identifier: Apache-2.0
"""Which device is used, and what is said where it is not the one that was hoped for."""

from __future__ import annotations

import warnings

import pytest
from DeepFLASHRegistrationLib.support import torch_device
from DeepFLASHRegistrationLib.support.torch_device import (
    chosen_device,
    device_failure,
    is_out_of_memory,
    resolve_device,
)

torch = pytest.importorskip("torch")

# As torch says them (c10/cuda/CUDAFunctions.cpp, torch/cuda/__init__.py).
OLD_DRIVER = (
    "CUDA initialization: The NVIDIA driver on your system is too old (found version 11040). Please update your GPU "
    "driver by downloading and installing a new version from the URL: http://www.nvidia.com/Download/index.aspx"
)
NO_KERNELS = "CUDA error: no kernel image is available for execution on the device"


@pytest.fixture(autouse=True)
def _forgotten():
    torch_device._gpu.cache_clear()
    yield
    torch_device._gpu.cache_clear()


def driver(monkeypatch, there: bool, says: str = "", fails: str = "") -> None:
    """The CUDA driver of a machine: whether torch finds a GPU, what it warns of, and how the first use of it fails."""

    def is_available() -> bool:
        if says:
            warnings.warn(says, UserWarning, stacklevel=2)
        return there

    zeros = torch.zeros

    def filled(*shape, device="cpu", **more):
        if str(device).startswith("cuda"):
            if fails:
                raise RuntimeError(fails)
            device = "cpu"
        return zeros(*shape, device=device, **more)

    monkeypatch.setattr(torch.cuda, "is_available", is_available)
    monkeypatch.setattr(torch, "zeros", filled)


def test_without_a_gpu_auto_is_the_cpu_and_nothing_is_said(monkeypatch):
    driver(monkeypatch, False)
    assert chosen_device("auto") == ("cpu", "")


def test_a_gpu_that_works_is_taken(monkeypatch):
    driver(monkeypatch, True)
    assert chosen_device("auto") == ("cuda", "")
    assert chosen_device("cuda:1") == ("cuda:1", "")


def test_a_driver_too_old_is_told_with_the_remedy_every_time(monkeypatch):
    driver(monkeypatch, False, OLD_DRIVER)
    for _ in range(2):
        device, note = chosen_device("auto")
        assert device == "cpu"
        assert "too old (found version 11040)" in note
        assert "This was computed on the CPU" in note
        assert "update its driver" in note
    assert resolve_device("auto") == "cpu"


def test_no_warning_of_torch_reaches_the_user_beside_the_note(monkeypatch, recwarn):
    driver(monkeypatch, False, OLD_DRIVER)
    chosen_device("auto")
    assert not recwarn.list


def test_a_gpu_that_this_torch_has_no_code_for_is_left_aside_and_told(monkeypatch):
    driver(monkeypatch, True, fails=NO_KERNELS)
    device, note = chosen_device("auto")
    assert device == "cpu"
    assert "no kernel image" in note
    assert "install a PyTorch that supports it" in note
    with pytest.raises(RuntimeError, match=r"'cuda' cannot be used \(CUDA error: no kernel.+\)\. Choose auto or cpu\."):
        chosen_device("cuda")


@pytest.mark.parametrize("name", ["cuda:77", "mps", "nonsense", "", "meta"])
def test_one_that_is_named_but_absent_or_cannot_compute_is_refused_with_the_remedy(name):
    if name == "mps" and torch.backends.mps.is_available():
        pytest.skip("this machine has it")
    with pytest.raises(RuntimeError, match=rf"The device '{name}' cannot be used \(.+\)\. Choose auto or cpu\."):
        resolve_device(name)


@pytest.mark.parametrize(
    ("text", "full"),
    [
        ("CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 8 GiB", True),
        ("CUDA error: out of memory\nCUDA kernel errors might be asynchronously reported", True),
        ("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`", True),
        ("MPS backend out of memory (MPS allocated: 5 GB)", True),
        ("CUDA error: unspecified launch failure\nCompile with TORCH_USE_CUDA_DSA", False),
        ("CUDA error: device is lost", False),
        ("cuDNN error: CUDNN_STATUS_EXECUTION_FAILED", False),
    ],
)
def test_what_a_gpu_fails_of_is_told_from_what_a_program_does_wrong(text, full):
    assert device_failure(RuntimeError(text)) == text.split("\n")[0]
    assert is_out_of_memory(RuntimeError(text)) == full
    for other in ("mat1 and mat2 shapes cannot be multiplied", "a Tensor with 2 elements cannot be converted"):
        assert not device_failure(RuntimeError(other))
