# SPDX-License-Identifier: Apache-2.0
"""What every training of a network knows of itself: its time, how much is done, and how to go on from a checkpoint."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from .trainer import Schedule


class Resumable:
    """Base of trainings, which set these attributes when they are made, and call `begin`.

    Attributes:
        predictor: the network.
        optimizer: of its weights.
        schedule: iterations and minutes.
        device: where the network is.
        iteration: updates until now.
    """

    predictor: nn.Module
    optimizer: torch.optim.Optimizer
    schedule: Schedule
    device: str
    iteration: int

    def begin(self) -> None:
        """Nothing is done yet, and the clock runs."""
        self.iteration = 0
        self._started, self._spent = time.monotonic(), 0.0

    def seconds(self) -> float:
        """Spent on the training, interruptions not counted."""
        return self._spent + time.monotonic() - self._started

    def progress(self) -> float:
        """How much of the training is done, 0..1."""
        done = self.iteration / self.schedule.iterations
        if self.schedule.minutes:
            done = max(done, self.seconds() / (60 * self.schedule.minutes))
        return min(done, 1.0)

    def moments(self) -> dict[str, Tensor]:
        """The optimizer's state, by names."""
        result = {}
        for name, weight in self.predictor.named_parameters():
            for key, value in self.optimizer.state.get(weight, {}).items():
                result[f"{name}:{key}"] = torch.as_tensor(value).detach()
        return result

    def restore(
        self, weights: Mapping[str, Tensor], moments: Mapping[str, Tensor], iteration: int, seconds: float
    ) -> None:
        """Goes on from a checkpoint; all that is drawn depends on the iteration alone."""
        self.predictor.load_state_dict(weights)
        for name, weight in self.predictor.named_parameters():
            kept = {key.rpartition(":")[2]: v for key, v in moments.items() if key.rpartition(":")[0] == name}
            if kept:
                self.optimizer.state[weight] = {
                    key: v.clone() if key == "step" else v.to(self.device) for key, v in kept.items()
                }
        self.iteration, self._spent, self._started = iteration, seconds, time.monotonic()
