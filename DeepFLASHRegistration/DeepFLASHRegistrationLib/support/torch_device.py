# SPDX-License-Identifier: Apache-2.0
"""What torch computes on: whether it is there, which device, how many threads. Torch is imported when asked for."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from .errors import InputError


def require_torch() -> None:
    """RuntimeError with the way to get torch if it is missing."""
    try:
        import torch  # noqa: F401
    except ImportError as error:
        raise RuntimeError(
            "PyTorch is needed to register images. In Slicer, install the PyTorch extension and its PyTorch; elsewhere "
            "run: pip install torch"
        ) from error


def resolve_device(name: str) -> str:
    """A torch device that works: "auto" is a CUDA GPU if there is one; RuntimeError for one that cannot be used."""
    import torch

    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        torch.zeros(1, device=name)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).split("\n")[0]
        raise RuntimeError(f"The device {name!r} cannot be used ({reason}). Choose auto or cpu.") from error
    return name


def free_device_bytes(device: str) -> int:
    """Free memory of a GPU; 0 for the CPU and for what shares its memory."""
    import torch

    return torch.cuda.mem_get_info(device)[0] if device.startswith("cuda") else 0


def is_out_of_memory(error: BaseException) -> bool:
    """Whether the memory of a device, or of the computer, did not suffice."""
    # torch has a type for a GPU's memory only; for the host's it says so in words, which differ between versions.
    words = ("out of memory", "not enough memory", "allocate memory")
    return isinstance(error, MemoryError) or any(word in str(error).lower() for word in words)


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
