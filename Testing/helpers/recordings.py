# SPDX-License-Identifier: Apache-2.0
"""What records on a CPU as CUDA would, for tests: with what CUDA refuses refused, and what it bakes in baked in."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch
from torch.fx.experimental.proxy_tensor import make_fx
from torch.utils._python_dispatch import TorchDispatchMode

# Where the host waits for a number, or a shape depends on one.
_READS = ("_local_scalar_dense", "item", "nonzero", "masked_select", "equal", "is_nonzero", "unique")


class HostRead(RuntimeError):
    """A tensor was read by the host."""


class NoReads(TorchDispatchMode):
    """Refuses every operation for which the host waits."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func.overloadpacket.__name__ in _READS:
            raise HostRead(f"{func} reads a tensor on the host.")
        if func.overloadpacket.__name__.startswith("index") and any(
            isinstance(x, torch.Tensor) and x.dtype == torch.bool
            for argument in args[1:2]
            if isinstance(argument, list | tuple)
            for x in argument
        ):
            raise HostRead(f"{func} by a mask has a shape that depends on numbers.")
        return func(*args, **(kwargs or {}))


class OneDevice(TorchDispatchMode):
    """Refuses every operation on, or result of, another device than this: what is recorded may copy nothing to it."""

    def __init__(self, device: str):
        super().__init__()
        self.device = device

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        for x in torch.utils._pytree.tree_leaves((args, kwargs, result)):
            if isinstance(x, torch.Tensor) and x.device.type != self.device:
                raise RuntimeError(f"{func} works on the device {x.device} too.")
        return result


class Traced:
    """The operations on tensors as they were done the first time, and nothing else, are done again."""

    made = replayed = 0

    def __init__(self, function, inputs):
        type(self).made += 1
        self.inputs = [x.detach().clone() for x in inputs]
        with NoReads():
            self._graph = make_fx(function)(*self.inputs)
        self.outputs = None

    def replay(self):
        type(self).replayed += 1
        self.outputs = self._graph(*self.inputs)

    @staticmethod
    @contextlib.contextmanager
    def apart(device) -> Iterator[None]:
        yield


class Again(Traced):
    """The function itself is called again: faster than tracing, and its results lie where they lay before."""

    made = replayed = 0

    def __init__(self, function, inputs):
        type(self).made += 1
        self.inputs = [x.detach().clone() for x in inputs]
        self._function = function
        with NoReads():
            self.outputs = function(*self.inputs)

    def replay(self):
        type(self).replayed += 1
        with NoReads():
            _write(self.outputs, self._function(*self.inputs))


def _write(place, value) -> None:
    if isinstance(place, torch.Tensor):
        assert place.shape == value.shape, "shapes are not fixed"
        with torch.no_grad():
            place.copy_(value)
    elif isinstance(place, tuple):
        assert len(place) == len(value)
        for one, other in zip(place, value, strict=True):
            _write(one, other)
