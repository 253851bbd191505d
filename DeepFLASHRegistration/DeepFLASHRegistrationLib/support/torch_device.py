# SPDX-License-Identifier: Apache-2.0
"""What torch computes on: whether it is there, which device, how many threads. Torch is imported when asked for."""

from __future__ import annotations

import contextlib
import functools
import threading
import warnings
from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

from .errors import InputError

if TYPE_CHECKING:
    import torch

# By which words torch says that a GPU failed: a driver or one of its libraries, whatever the reason.
_FAILURES = (
    "CUDA error",
    "CUDA driver error",
    "cuDNN error",
    "CUDNN_STATUS",
    "CUBLAS_STATUS",
    "HIP error",
    "MPS backend",
)


_loading: threading.Thread | None = None


def begin_loading() -> None:
    """Loads torch in a thread of its own, which takes seconds, while files are read; whoever needs it waits for it."""
    global _loading

    def load() -> None:
        with contextlib.suppress(ImportError):  # said by `require_torch`
            import torch  # noqa: F401

    _loading = threading.Thread(target=load, daemon=True)
    _loading.start()


def require_torch() -> None:
    """RuntimeError with the way to get torch if it is missing."""
    if _loading is not None:
        _loading.join()  # here, and not within an import, an interrupt does no harm
    try:
        import torch  # noqa: F401
    except ImportError as error:
        raise RuntimeError(
            "PyTorch is needed to register images. In Slicer, install the PyTorch extension and its PyTorch; elsewhere "
            "run: pip install torch"
        ) from error


def resolve_device(name: str) -> str:
    """A torch device that works: "auto" is a CUDA GPU if there is one; RuntimeError for one that cannot be used."""
    return chosen_device(name)[0]


def chosen_device(name: str) -> tuple[str, str]:
    """A torch device that works, as `resolve_device` finds it; and if "auto" leaves a GPU aside, a sentence why."""
    if name == "auto":
        found, trouble = _gpu()
        if found or not trouble:
            return "cuda" if found else "cpu", ""
        return "cpu", (
            f"The GPU was not used: {trouble.rstrip('.')}. This was computed on the CPU. For the GPU, update its "
            "driver, or install a PyTorch that supports it."
        )
    trouble = _trouble(name)
    if trouble:
        raise RuntimeError(f"The device {name!r} cannot be used ({trouble.rstrip('.')}). Choose auto or cpu.")
    return name, ""


@functools.cache
def _gpu() -> tuple[bool, str]:
    """Whether there is a CUDA GPU that works; if it does not, why. Torch itself says it only once in a process."""
    import torch

    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        there = torch.cuda.is_available()
    if there:
        trouble = _trouble("cuda")
        return not trouble, trouble
    # Of a machine without a GPU, torch tells nothing, or that it found no driver.
    words = [str(warning.message).split("\n")[0] for warning in told]
    return False, next((text for text in words if "driver" in text and "Found no" not in text), "")


def _trouble(name: str) -> str:
    """Why a device cannot compute; "" if it can."""
    import torch

    try:
        torch.zeros(1, device=name).add_(1).cpu()
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        return str(error).split("\n")[0] or type(error).__name__
    return ""


def is_cuda(device: str) -> bool:
    """Whether a torch device is a CUDA GPU: one that knows double precision, and whose work can be recorded."""
    return device.partition(":")[0] == "cuda"


def free_device_bytes(device: str) -> int:
    """Free memory of a GPU; 0 for the CPU and for what shares its memory."""
    import torch

    return torch.cuda.mem_get_info(device)[0] if device.startswith("cuda") else 0


def largest_device_bytes() -> int:
    """The most memory of CUDA GPUs that this process has held so far; 0 if it has used none."""
    import torch

    if not torch.cuda.is_initialized():
        return 0
    return sum(torch.cuda.max_memory_reserved(k) for k in range(torch.cuda.device_count()))


def is_out_of_memory(error: BaseException) -> bool:
    """Whether a device's memory did not suffice."""
    text = str(error).lower()
    return "out of memory" in text or "alloc_failed" in text or type(error).__name__ == "OutOfMemoryError"


def is_memory_gone(error: BaseException) -> bool:
    """Whether the memory of a device, or of the computer, did not suffice."""
    # torch has a type for a GPU's memory only; for the host's it says so in words, which differ between versions.
    words = ("out of memory", "not enough memory", "allocate memory")
    return (
        isinstance(error, MemoryError) or is_out_of_memory(error) or any(word in str(error).lower() for word in words)
    )


def device_failure(error: BaseException) -> str:
    """Why a GPU failed, in torch's words; "" if that is not what the error says."""
    text = str(error).split("\n")[0]
    return text if is_out_of_memory(error) or any(word in text for word in _FAILURES) else ""


def release(device: str) -> None:
    """Gives back what torch keeps of a GPU's memory, if the GPU still answers."""
    import torch

    with contextlib.suppress(RuntimeError):
        if device.startswith("cuda"):
            torch.cuda.empty_cache()
        elif device.startswith("mps"):
            torch.mps.empty_cache()


@contextlib.contextmanager
def torch_threads(count: int | None) -> Iterator[None]:
    """Limits torch's CPU threads within the block; None leaves them."""
    import torch

    if count is None:
        yield
        return
    if count < 1:
        raise InputError(f"threads must be at least 1, not {count}.")
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def as_tensor(array: np.ndarray | torch.Tensor) -> torch.Tensor:
    """An array as a tensor to be read, which shares its memory where that can be; a tensor as it is."""
    import torch

    if isinstance(array, torch.Tensor):
        return array
    array = np.ascontiguousarray(array)
    return torch.from_numpy(array) if array.flags.writeable else torch.tensor(array)
