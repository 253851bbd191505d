# SPDX-License-Identifier: Apache-2.0
"""Memory that is counted before there is any."""

from __future__ import annotations

import pytest
import torch
from DeepFLASHRegistrationLib.support.tensor_memory import tensor_bytes

MEGABYTE = 1 << 20
N = 1 << 18  # floats of a megabyte


def made(count: int = 1) -> torch.Tensor:
    return torch.zeros(count * N, device="meta")


def test_what_lives_at_once_is_counted() -> None:
    one = tensor_bytes(made)

    def both() -> None:
        first, second = made(), made()
        first.add_(second)  # in place
        first.view(2, -1)  # the same

    def one_after_the_other() -> None:
        for _ in range(5):
            made()

    assert one == MEGABYTE
    assert tensor_bytes(both) == 2 * one
    assert tensor_bytes(one_after_the_other) == one
    assert tensor_bytes(lambda: made(3)) == 3 * one


def test_what_is_kept_for_derivatives_is_counted() -> None:
    weight = made().requires_grad_()

    def layers(backward: bool) -> None:
        x = weight
        for _ in range(10):
            x = x.exp()  # whose derivative is itself
        if backward:
            x.sum().backward()

    with torch.no_grad():
        assert tensor_bytes(lambda: layers(False)) == 2 * tensor_bytes(made)
    # Ten answers, and on the way back the slope before and after an operation.
    assert tensor_bytes(lambda: layers(True)) == pytest.approx(12 * tensor_bytes(made), rel=0.1)


def test_other_devices_are_not_counted() -> None:
    assert tensor_bytes(lambda: torch.zeros(N)) == 0
