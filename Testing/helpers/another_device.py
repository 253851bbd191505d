# SPDX-License-Identifier: Apache-2.0
"""A device that is none: its tensors lie on the CPU, say that they lie elsewhere, and meet no others.

What runs on it runs on a GPU, as far as it matters which tensor lies where: an operation on tensors of both, or NumPy's
look at one of its own, is refused as CUDA refuses it. It goes by the name of "meta", of which torch has no kernels to
confuse it with.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

NAME = "meta"


def is_it(device: str) -> bool:
    """What `is_cuda` is of CUDA."""
    return str(device).startswith(NAME)


class _Elsewhere(torch.Tensor):
    @staticmethod
    def __new__(cls, inner):
        layout = {"strides": inner.stride(), "storage_offset": inner.storage_offset(), "dtype": inner.dtype}
        return torch.Tensor._make_wrapper_subclass(cls, inner.shape, **layout, device=NAME)

    def __init__(self, inner):
        self.inner = inner

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        return _done(func, args, kwargs or {}, [])


def _done(func, args, kwargs, brought):
    tensors = [x for x in tree_leaves((args, kwargs)) if isinstance(x, torch.Tensor)]
    there = [x for x in tensors if isinstance(x, _Elsewhere)]
    name, device = func.overloadpacket.__name__, kwargs.get("device")
    if name not in ("_to_copy", "copy_") and there and any(x.ndim for x in tensors if not isinstance(x, _Elsewhere)):
        raise RuntimeError(f"{func}: expected all tensors to be on the same device, but found {NAME} and cpu.")
    to = bool(there) if device is None else torch.device(device).type == NAME
    if name == "copy_":
        to = isinstance(args[0], _Elsewhere)
    if there and not to:
        brought.append(there[0].numel())
    if device is not None:
        kwargs = {**kwargs, "device": "cpu"}
    args, kwargs = tree_map(lambda x: x.inner if isinstance(x, _Elsewhere) else x, (args, kwargs))
    known = {id(x.inner): x for x in there}

    def labelled(x):
        if not to or not isinstance(x, torch.Tensor):
            return x
        return known[id(x)] if id(x) in known else _Elsewhere(x)

    return tree_map(labelled, func(*args, **kwargs))


class _Operations(TorchDispatchMode):
    def __init__(self):
        super().__init__()
        self.brought: list[int] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        return _done(func, args, kwargs or {}, self.brought)


class _Calls(TorchFunctionMode):
    """What torch does in one step without telling the other mode."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if func in (torch.tensor, torch.as_tensor) and kwargs.get("device") is not None:
            device = kwargs.pop("device")
            return func(*args, **kwargs).to(device)
        if func is torch.Tensor.new_tensor:
            return torch.tensor(args[1], dtype=args[0].dtype).to(args[0].device)
        if func is torch.Tensor.tolist and isinstance(args[0], _Elsewhere):
            return args[0].inner.tolist()
        return func(*args, **kwargs)


@contextlib.contextmanager
def another_device() -> Iterator[list[int]]:
    """Within it, in this thread, there is the device; how many elements each tensor had that came from it."""
    with _Operations() as mode, _Calls():
        yield mode.brought
