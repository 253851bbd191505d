# SPDX-License-Identifier: Apache-2.0
"""Functions of tensors that a GPU records once and replays: launching a few hundred small kernels takes ten times as
long as running them.

The same function serves everywhere. It may not read a tensor on the host: what it has to refuse it tells `require`,
which raises at once, or, where the function is recorded, after it ran. Elsewhere than on CUDA nothing is.
"""

from __future__ import annotations

import contextlib
import functools
import gc
import threading
from collections.abc import Callable, Hashable, Iterator, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor

_one_at_a_time = threading.Lock()
_thread = threading.local()  # conditions: what `require` was told since; streams: of this thread, by device


def require(holds: Tensor, error: Exception) -> None:
    """Raise the error unless ``holds``, a single truth value, is true; in a `Captured` function, when it ends."""
    conditions = getattr(_thread, "conditions", None)
    if conditions is not None:
        conditions.append((holds, error))
    elif not bool(holds):
        raise error


@contextlib.contextmanager
def _later() -> Iterator[list[tuple[Tensor, Exception]]]:
    """Within it `require` only gathers conditions, of this thread."""
    before = getattr(_thread, "conditions", None)
    _thread.conditions = found = []
    try:
        yield found
    finally:
        _thread.conditions = before


@contextlib.contextmanager
def _uncollected() -> Iterator[None]:
    """Within it Python collects no garbage: destroying what a GPU holds would spoil what is being recorded."""
    collecting = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collecting:
            gc.enable()


class Recording(Protocol):
    """What was recorded of a function on one kind of device.

    Attributes:
        inputs: where a replay finds its arguments.
        outputs: where it leaves the function's value.
    """

    inputs: list[Tensor]
    outputs: Any

    def __init__(self, function: Callable[..., Any], inputs: Sequence[Tensor]): ...

    def replay(self) -> None: ...

    @staticmethod
    def apart(device: torch.device) -> contextlib.AbstractContextManager[None]:
        """Where the function runs the times that it is not replayed."""


class CudaGraph:
    """See Recording."""

    def __init__(self, function: Callable[..., Any], inputs: Sequence[Tensor]):
        self.inputs = [x.detach().clone() for x in inputs]
        self.device = self.inputs[0].device
        # A recording has memory of its own, for which torch does not give back what it keeps for others meanwhile.
        if torch.cuda.mem_get_info(self.device)[0] < torch.cuda.memory_reserved(self.device):
            torch.cuda.empty_cache()
        self.graph = torch.cuda.CUDAGraph()
        with _one_at_a_time, _uncollected(), self.apart(self.device):
            # Other threads may go on meanwhile, with a registration of their own.
            self.graph.capture_begin(capture_error_mode="thread_local")
            try:
                self.outputs = function(*self.inputs)
            except BaseException:
                with contextlib.suppress(RuntimeError):  # the first error says why
                    self.graph.capture_end()
                raise
            self.graph.capture_end()

    def replay(self) -> None:
        with torch.cuda.device(self.device):
            self.graph.replay()

    @staticmethod
    @contextlib.contextmanager
    def apart(device: torch.device) -> Iterator[None]:
        """A stream of this thread: the usual one cannot be recorded, and libraries keep working memory by stream."""
        streams = _thread.__dict__.setdefault("streams", {})
        index = torch.cuda.current_device() if device.index is None else device.index
        if index not in streams:
            streams[index] = torch.cuda.Stream(device)
        stream, usual = streams[index], torch.cuda.current_stream(device)
        stream.wait_stream(usual)
        try:
            with torch.cuda.stream(stream):
                yield
        finally:
            usual.wait_stream(stream)


# By type of device, what records there.
RECORDINGS: dict[str, type[Recording]] = {"cuda": CudaGraph}


class Captured:
    """Calls of one function of tensors, of which there are many with the same shapes.

    Where the device can record, the first call with some shapes is a usual one, in which libraries choose their
    kernels; the second records, and from then on the recording is replayed.

    Attributes:
        wanted: whether anything is to be recorded.
        trouble: why nothing is although the device could; "" as long as it is.
    """

    def __init__(self, wanted: bool = True):
        self.wanted, self.trouble = wanted, ""
        self._key: Hashable = None
        self._recording: Recording | None = None
        self._errors: list[Exception] = []

    def __call__(self, function: Callable[..., Any], *inputs: Tensor, key: Hashable = None) -> Any:
        """The function's value, which is the caller's to keep.

        Args:
            function: its value is a tensor, or tuples of such. It may read tensors that are no inputs: they must stay
                where they are, and change only in place. It reads none on the host, and runs the same kernels for the
                same shapes and key. It is held no longer than the call lasts.
            inputs: its arguments.
            key: what else than shapes decides what the function does; of several, the last recording is kept.

        Raises:
            What `require` was told first.
        """
        device = inputs[0].device
        recording = RECORDINGS.get(device.type) if self.wanted else None
        if recording is None:
            return function(*inputs)
        key = (key, *((x.shape, x.dtype, x.device) for x in inputs))
        known, self._key = key == self._key, key
        if not known:
            self.forget()
        elif not self.trouble:
            with contextlib.suppress(_NotReplayed):
                return self._checked(*self._replayed(recording, function, inputs))
        with recording.apart(device):
            found = self._flagged(function, *inputs)
        return self._checked(*found)

    def forget(self) -> None:
        """Gives back what a recording holds."""
        self._recording = None

    def _flagged(self, function: Callable[..., Any], *inputs: Tensor) -> tuple[Any, Tensor | None]:
        with _later() as conditions:
            value = function(*inputs)
        self._errors = [error for _, error in conditions]
        return value, torch.stack([holds for holds, _ in conditions]) if conditions else None

    def _checked(self, value: Any, flags: Tensor | None) -> Any:
        for holds, error in zip([] if flags is None else flags.tolist(), self._errors, strict=True):
            if not holds:
                raise error
        return value

    def _replayed(
        self, recording: type[Recording], function: Callable[..., Any], inputs: Sequence[Tensor]
    ) -> tuple[Any, Tensor | None]:
        try:
            if self._recording is None:
                self._recording = recording(functools.partial(self._flagged, function), inputs)
            for place, x in zip(self._recording.inputs, inputs, strict=True):
                place.copy_(x)
            self._recording.replay()
            return _copied(self._recording.outputs)
        except RuntimeError as error:
            # Of too little memory, or a driver or library that cannot record; a broken device will say so again.
            self.trouble = str(error).split("\n")[0] or type(error).__name__
        self.forget()
        raise _NotReplayed


class _NotReplayed(Exception):
    pass


def _copied(value: Any) -> Any:
    """Tensors within tuples as new ones: the next replay writes over its own."""
    if isinstance(value, Tensor):
        return value.detach().clone()
    if isinstance(value, tuple):
        parts = map(_copied, value)
        return type(value)(*parts) if hasattr(value, "_fields") else tuple(parts)
    return value
