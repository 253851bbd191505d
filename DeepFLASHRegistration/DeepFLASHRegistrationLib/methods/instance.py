# SPDX-License-Identifier: Apache-2.0
"""Instance optimization: the parameters of whatever is differentiable, fitted to the pair in front of us.

One loop for all: fields of coordinates, latent codes, the weights of trained networks. It tells how far it is and how
long it will take, ends when that is wanted, and always leaves the best parameters so far.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from ..support import memory
from ..support.errors import Cancelled, InputError
from ..support.torch_device import free_device_bytes, is_cuda, release


@dataclass(frozen=True)
class Judged:
    """How well a pair is registered by the parameters as they are.

    Attributes:
        energy: what is to be small: similarity and regularization together.
        similarity: the dissimilarity of the images.
        regularization: what the map itself costs.
        smallest_determinant: of the map, where it was looked at.
    """

    energy: float
    similarity: float
    regularization: float
    smallest_determinant: float


class Instance(Protocol):
    """A pair, and what registers it.

    Attributes:
        needed_bytes: about what a step takes of the memory at most.
        helps: of the bytes that may be used makes what helps if they do not suffice.
    """

    needed_bytes: int
    helps: Callable[[int], str]

    def parameters(self) -> Iterable[Tensor]:
        """What is fitted: leaves that require gradients."""

    def loss(self, step: int) -> Tensor:
        """Of a step, from 0 on; may draw other points at each. ArithmeticError if the map is no longer finite; it and
        its derivatives may raise Cancelled."""

    def judged(self) -> Judged:
        """The same figures for the same parameters, whatever the step, by which the best are kept. As `loss`, it may
        raise ArithmeticError and Cancelled."""


@dataclass(frozen=True)
class Schedule:
    """How it is fitted.

    Attributes:
        steps: of Adam.
        rate: of learning, at first.
        last: the part of it that is left at the end; it falls geometrically.
        judged_every: steps after which the parameters are judged; also before the first and after the last.
        of_judging: how many times as long as that a step takes, about: what is known before the first.
    """

    steps: int
    rate: float
    last: float = 0.1
    judged_every: int = 20
    of_judging: float = 1.0


@dataclass(frozen=True)
class Fitted:
    """What became of it: the records of all who were the best so far, and why it ended, in a word."""

    history: list[dict[str, Any]]
    ending: str

    @property
    def cancelled(self) -> bool:
        return self.ending == "cancelled"


def fit(
    instance: Instance,
    schedule: Schedule,
    device: str,
    report: Callable[[int, dict[str, Any], float], None],
    cancelled: Callable[[], bool],
) -> Fitted:
    """Lowers the loss by Adam; leaves the instance with the best parameters that were judged.

    Args:
        device: where the instance lies.
        report: called with the number of steps taken, the record of the last judgement (energy, similarity,
            regularization, smallest_determinant, level, iteration, seconds), and about how many seconds are left.
        cancelled: asked before every step.

    Raises:
        InputError: the memory does not suffice; of a GPU it is a RuntimeError as torch's own, for the caller to go on
            elsewhere.
    """
    check_memory("Instance optimization", instance.needed_bytes, device, instance.helps)
    started = time.perf_counter()
    weights = list(instance.parameters())
    optimizer = torch.optim.Adam(weights, lr=schedule.rate, betas=(0.9, 0.99))
    best, kept, history = math.inf, [w.detach().clone() for w in weights], []
    record: dict[str, Any] = {}
    ending = "bound"

    def judge(step: int) -> None:
        nonlocal best, record
        found = instance.judged()
        record = {"level": 0, "iteration": step, **vars(found), "seconds": time.perf_counter() - started}
        if found.energy < best:
            best = found.energy
            history.append(record)
            for own, weight in zip(kept, weights, strict=True):
                own.copy_(weight.detach())

    try:
        judge(0)
        began = time.perf_counter()
        report(0, record, schedule.of_judging * schedule.steps * (began - started))
        for step in range(schedule.steps):
            if cancelled():
                raise Cancelled("Cancelled.")
            for group in optimizer.param_groups:
                group["lr"] = schedule.rate * schedule.last ** (step / schedule.steps)
            _step(instance, step, optimizer, weights)
            done = step + 1
            if done % schedule.judged_every == 0 or done == schedule.steps:
                judge(done)
            report(done, record, (time.perf_counter() - began) * (schedule.steps - done) / done)
    except Cancelled:
        ending = "cancelled"
    except ArithmeticError:
        ending = "hopeless"
    with torch.no_grad():
        for own, weight in zip(kept, weights, strict=True):
            weight.copy_(own)
    return Fitted(history, ending)


def _step(instance: Instance, step: int, optimizer: torch.optim.Optimizer, weights: list[Tensor]) -> None:
    """One step; ArithmeticError, and nothing changed, if the loss or a gradient is no number."""
    optimizer.zero_grad(set_to_none=True)
    loss = instance.loss(step)
    loss.backward()
    if not math.isfinite(loss.item()) or not all(w.grad is None or w.grad.isfinite().all() for w in weights):
        raise ArithmeticError("no number")
    optimizer.step()


def check_memory(what: str, needed: int, device: str, helps: Callable[[int], str]) -> None:
    """Raises what `fit` says unless so many bytes are free for something, `what`; ``helps``: see `Instance`."""
    release(device)
    memory.give_back_memory()
    free = free_device_bytes(device) if is_cuda(device) else memory.free_bytes()
    if free is None or needed <= memory.USABLE_FRACTION * free:
        return
    said = f"needs about {needed / 2**30:.1f} GB of memory, and {free / 2**30:.1f} GB are free"
    if is_cuda(device):
        raise RuntimeError(f"{device} is out of memory: {what} {said}.")
    raise InputError(f"{what} {said}. Close other programs, or {helps(int(memory.USABLE_FRACTION * free))}.")
