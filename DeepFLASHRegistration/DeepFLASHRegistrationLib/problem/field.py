# SPDX-License-Identifier: Apache-2.0
"""Displacement fields that are computed where they are looked at: on large grids they would fill the memory."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.lib.mixins import NDArrayOperatorsMixin

from ..imaging.grid import Grid
from ..support.memory import KEPT_FIELD_BYTES
from ..support.side_by_side import side_by_side
from ..support.torch_device import is_cuda
from .on_grid import OnGrid, flat_index

if TYPE_CHECKING:
    from torch import Tensor

_KEPT_BYTES = KEPT_FIELD_BYTES
_ROWS = 8
_DEVICE_VOXELS = 1 << 22  # computed together on a device


class Field(NDArrayOperatorsMixin):
    """A displacement field on a grid, array-like: float32 (*grid.shape, d), LPS mm, read-only.

    ``field[a:b]``, with a slice for each axis where wanted, computes that part alone, ``field.at`` single voxels, and
    ``np.asarray(field)``, as any function of arrays, the whole. Up to 256 MB of it are kept once they are computed; of
    a larger field nothing is, so that the memory it takes is that of the part that was asked for.
    """

    dtype = np.dtype(np.float32)

    def __init__(self, grid: Grid, source: OnGrid, lower: Sequence[int] | None = None):
        """``source`` computes it on a grid of which this one is the part from index ``lower`` on."""
        self.grid, self._source = grid, source
        self._lower = tuple(lower or (0,) * grid.ndim)
        self._whole: np.ndarray | None = None

    @property
    def shape(self) -> tuple[int, ...]:
        return (*self.grid.shape, self.grid.ndim)

    @property
    def ndim(self) -> int:
        return len(self.shape)

    @property
    def size(self) -> int:
        return self.grid.size * self.grid.ndim

    @property
    def nbytes(self) -> int:
        return self.size * self.dtype.itemsize

    def __len__(self) -> int:
        return self.shape[0]

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        whole = self._values()
        return whole.astype(dtype) if dtype is not None and dtype != self.dtype else whole

    def __array_ufunc__(self, ufunc: np.ufunc, method: str, *inputs: Any, **options: Any) -> Any:
        arrays = [np.asarray(each) if isinstance(each, Field) else each for each in inputs]
        return getattr(ufunc, method)(*arrays, **options)

    def __getitem__(self, key: Any) -> np.ndarray:
        parts = key if isinstance(key, tuple) else (key,)
        box = all(isinstance(part, slice) and part.step in (None, 1) for part in parts)
        if not box or len(parts) > self.grid.ndim or self._kept:
            return self._values()[key]
        ranges = [part.indices(n)[:2] for part, n in zip(parts, self.grid.shape)]
        ranges += [(0, n) for n in self.grid.shape[len(parts) :]]
        return self._box([first for first, _ in ranges], [max(*both) for both in ranges])

    def at(self, index: np.ndarray) -> np.ndarray:
        """The displacements (n, d) at voxels (n, d)."""
        import torch

        return self.look(torch.from_numpy(np.ascontiguousarray(index)).to(self.device)).cpu().numpy()

    def look(self, index: Tensor) -> Tensor:
        """The same of a tensor on its device, and there."""
        import torch

        if self._whole is not None or (self._kept and not is_cuda(self.device)):
            whole = torch.from_numpy(self._values())
            if not whole.is_contiguous():  # the inner part of another
                return whole[tuple(index.T)]
            return whole.view(-1, self.grid.ndim).index_select(0, flat_index(index, self.grid.shape))
        return self._source.at(index + index.new_tensor(self._lower))

    @property
    def device(self) -> str:
        """Where `tensor` computes it; what is read of it otherwise comes to the host."""
        return self._source.device

    def tensor(self, rows: slice) -> Tensor:
        """Slices of it, (d, …), as a tensor to be read, on its device."""
        import torch

        if not is_cuda(self.device):
            return torch.from_numpy(self[rows]).movedim(-1, 0)
        start, stop, _ = rows.indices(len(self))
        return self._source.tensor(self._ranges([start, *[0] * (self.grid.ndim - 1)], [stop, *self.grid.shape[1:]]))

    def forget(self) -> None:
        """Keeps as little as it can be computed from again, which of a large field takes a moment."""
        if self._source.rest is not None:
            self._source.rest.forget()

    def settle(self) -> None:
        """Brings to the host what it is computed from, so that it needs no device any longer."""
        self._source = self._source.on_host()

    def inner(self, grid: Grid) -> Field:
        """Its part on a grid in its middle, such as the image's within that of its field."""
        lower = [(n - m) // 2 for n, m in zip(self.grid.shape, grid.shape, strict=True)]
        part = Field(grid, self._source, [a + b for a, b in zip(self._lower, lower, strict=True)])
        if self._whole is not None or (self._kept and not is_cuda(self.device)):
            part._whole = self._values()[tuple(slice(a, a + n) for a, n in zip(lower, grid.shape, strict=True))]
        return part

    @property
    def _kept(self) -> bool:
        return self._whole is not None or self.nbytes <= _KEPT_BYTES

    def _values(self) -> np.ndarray:
        if self._whole is not None:
            return self._whole
        whole = self._box([0] * self.grid.ndim, self.grid.shape)
        if self._kept:
            self._whole = whole
            self.forget()
        return whole

    def _box(self, lower: Sequence[int], upper: Sequence[int]) -> np.ndarray:
        """The part from one index up to, not including, another."""
        ranges = self._ranges(lower, upper)
        result = np.empty((*map(len, ranges), self.grid.ndim), self.dtype)
        if is_cuda(self.device):
            rows = max(1, _DEVICE_VOXELS * len(result) * self.grid.ndim // max(1, result.size))
            for start in range(0, len(result), rows):
                part = self._source.tensor([ranges[0][start : start + rows], *ranges[1:]])
                result[start : start + rows] = part.movedim(0, -1).cpu().numpy()
            return result

        def fill(start: int) -> None:
            rows = slice(start, start + _ROWS)
            self._source.fill(result[rows], [ranges[0][rows], *ranges[1:]])

        for _ in side_by_side(fill, range(0, len(result), _ROWS)):
            pass
        return result

    def _ranges(self, lower: Sequence[int], upper: Sequence[int]) -> list[np.ndarray]:
        """Of the part from one index up to, not including, another, the indices of its source."""
        return [np.arange(a, b) + c for a, b, c in zip(lower, upper, self._lower, strict=True)]
