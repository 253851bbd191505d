# SPDX-License-Identifier: Apache-2.0
"""The loop of instance optimisation, on functions whose minimum is known."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from DeepFLASHRegistrationLib.geodesics.sampling import NonFiniteField
from DeepFLASHRegistrationLib.methods.instance import Judged, Schedule, fit
from DeepFLASHRegistrationLib.support.errors import Cancelled, InputError


class Bowl:
    """‖w − target‖² of two weights, which start at 0."""

    needed_bytes = 1000

    def __init__(self) -> None:
        self.weights = torch.zeros(2, requires_grad=True)
        self.target = torch.tensor([1.0, -2.0])
        self.steps: list[int] = []

    def helps(self, usable: int) -> str:
        return f"take what fits into {usable} bytes"

    def parameters(self) -> list[torch.Tensor]:
        return [self.weights]

    def loss(self, step: int) -> torch.Tensor:
        self.steps.append(step)
        return (self.weights - self.target).square().sum()

    def judged(self) -> Judged:
        value = float((self.weights.detach() - self.target).square().sum())
        return Judged(value, value, 0.0, 1.0)


def silent(*_: Any) -> None:
    pass


def test_the_minimum_is_found_and_every_step_told() -> None:
    bowl, told = Bowl(), []
    found = fit(bowl, Schedule(200, 0.05, judged_every=10), "cpu", lambda *said: told.append(said), lambda: False)
    torch.testing.assert_close(bowl.weights.detach(), bowl.target, atol=0.02, rtol=0)
    assert (found.ending, found.cancelled) == ("bound", False)
    assert bowl.steps == list(range(200))
    assert [step for step, _, _ in told] == list(range(201))
    # How long it will take is told before the first step, and nothing is left at the end.
    assert all(left > 0 for _, _, left in told[:200])
    assert told[200][2] == 0
    energies = [record["energy"] for record in found.history]
    assert energies[0] == 5.0
    assert energies == sorted(energies, reverse=True)


def test_the_best_is_kept_where_later_steps_are_worse() -> None:
    """A rate that overshoots by ten times what was to be gone."""
    bowl = Bowl()
    found = fit(bowl, Schedule(3, 30.0, last=1.0, judged_every=1), "cpu", silent, lambda: False)
    assert [record["iteration"] for record in found.history] == [0]
    assert bowl.weights.tolist() == [0.0, 0.0]


@pytest.mark.parametrize("after", [0, 1, 25])
def test_cancelled_at_any_time_the_best_so_far_is_left(after: int) -> None:
    bowl = Bowl()
    found = fit(bowl, Schedule(200, 0.05, judged_every=10), "cpu", silent, lambda: len(bowl.steps) >= after)
    assert found.cancelled
    assert len(bowl.steps) == after
    assert bowl.judged().energy == found.history[-1]["energy"]
    assert found.history[-1]["iteration"] == after // 10 * 10


def test_cancelled_within_a_step_the_best_so_far_is_left() -> None:
    class Interrupted(Bowl):
        def loss(self, step: int) -> torch.Tensor:
            found = super().loss(step)
            if step == 12:
                found.register_hook(self.raised)
            return found

        @staticmethod
        def raised(slope: torch.Tensor) -> None:
            raise Cancelled("on the way back")

    bowl = Interrupted()
    found = fit(bowl, Schedule(100, 0.05, judged_every=5), "cpu", silent, lambda: False)
    assert found.cancelled
    assert found.history[-1]["iteration"] == 10
    assert bowl.judged().energy == found.history[-1]["energy"] < 5


@pytest.mark.parametrize("refused", [False, True])
def test_what_is_no_number_ends_it_with_the_best_so_far(refused: bool) -> None:
    class Falling(Bowl):
        def loss(self, step: int) -> torch.Tensor:
            if step == 12 and refused:
                raise NonFiniteField("no map")
            return super().loss(step) * (math.nan if step == 12 else 1.0)

    bowl = Falling()
    found = fit(bowl, Schedule(100, 0.05, judged_every=5), "cpu", silent, lambda: False)
    assert found.ending == "hopeless"
    assert found.history[-1]["iteration"] == 10
    assert bowl.judged().energy == found.history[-1]["energy"] < 5


def test_what_the_memory_cannot_hold_is_refused_before_the_first_step() -> None:
    bowl = Bowl()
    bowl.needed_bytes = 1 << 60
    with pytest.raises(InputError, match=r"needs about 1073741824\.0 GB of memory.* take what fits into \d+ bytes\."):
        fit(bowl, Schedule(10, 0.1), "cpu", silent, lambda: False)
    assert not bowl.steps


def test_on_a_gpu_it_is_an_error_from_which_registrations_go_on_to_the_processor(monkeypatch) -> None:
    from DeepFLASHRegistrationLib.methods import instance
    from DeepFLASHRegistrationLib.support.torch_device import device_failure, is_out_of_memory

    monkeypatch.setattr(instance, "free_device_bytes", lambda device: 1 << 30)
    bowl = Bowl()
    bowl.needed_bytes = 3 << 30
    with pytest.raises(RuntimeError, match=r"needs about 3\.0 GB of memory, and 1\.0 GB are free") as found:
        fit(bowl, Schedule(10, 0.1), "cuda", silent, lambda: False)
    assert is_out_of_memory(found.value)
    assert device_failure(found.value)
    assert not bowl.steps
