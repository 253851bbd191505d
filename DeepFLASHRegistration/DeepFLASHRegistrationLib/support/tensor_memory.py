# SPDX-License-Identifier: Apache-2.0
"""How much memory work with tensors takes, before there is any: the work is done on torch's device "meta", on which
tensors have shapes and no values."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


def tensor_bytes(work: Callable[[], Any]) -> int:
    """The most memory that the tensors which ``work`` makes on the device "meta" would take at once anywhere else; what
    operations take for a moment beside their answers is not known."""
    with _Counting() as counted:
        work()
    return counted.most


class _Counting(TorchDispatchMode):
    """Counts what all operations within it make, until nobody holds it any longer.

    Attributes:
        now, most: bytes.
    """

    def __init__(self) -> None:
        super().__init__()
        self.now = self.most = 0
        self._held: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        made = func(*args, **(kwargs or {}))
        for each in tree_leaves(made):
            if isinstance(each, torch.Tensor) and each.device.type == "meta":
                storage = each.untyped_storage()
                key, size = storage._cdata, storage.nbytes()
                if key not in self._held:
                    self._held.add(key)
                    self.now += size
                    weakref.finalize(storage, self._freed, key, size)
        self.most = max(self.most, self.now)
        return made

    def _freed(self, key: int, size: int) -> None:
        self._held.discard(key)
        self.now -= size
