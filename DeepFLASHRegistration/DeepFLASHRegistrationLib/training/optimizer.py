# SPDX-License-Identifier: Apache-2.0
"""AdamW on all weights as one vector, with their average: no value of it is looked at, so it can be captured.

A step whose gradient is not finite is skipped, and so is one whose gradient is far larger than those of late, but not
for ever; what is kept of the training is the exponential average of the weights.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

_BETAS = (0.9, 0.99)
_EPSILON = 1e-8
_DECAY = 1e-4
_CLIP = 1.0
_AVERAGE = 0.998
_HISTORY = 200
_TOO_LARGE = 20.0
_PATIENCE = 1.25  # by which a skipped step raises what is too large: where all are, one is taken in the end


class FlatAdam:
    """The weights of a network as one vector, their gradients, moments and average.

    Attributes:
        rate: the learning rate, a tensor that may be written at any time.
        norm: of the last gradient.
        skipped: how many steps were.
    """

    def __init__(self, network: nn.Module):
        parameters = [p for p in network.parameters() if p.requires_grad]
        device = parameters[0].device
        self.weights = torch.cat([p.detach().flatten() for p in parameters])
        self.gradient = torch.zeros_like(self.weights)
        start = 0
        for p in parameters:
            stop = start + p.numel()
            p.data = self.weights[start:stop].view(p.shape)
            p.grad = self.gradient[start:stop].view(p.shape)
            start = stop
        self.mean, self.square = torch.zeros_like(self.weights), torch.zeros_like(self.weights)
        self.average = self.weights.clone()
        self.rate = torch.zeros((), device=device)
        self.count = torch.zeros((), device=device)  # steps taken
        self.skipped = torch.zeros((), device=device)
        self.norm = torch.zeros((), device=device)
        self.history = torch.zeros(_HISTORY, device=device)
        self.limit = torch.full((), float("inf"), device=device)
        self._place = torch.arange(_HISTORY, device=device)

    def state(self) -> dict[str, Tensor]:
        """What a training goes on from."""
        names = ("weights", "average", "mean", "square", "count", "skipped", "history", "limit")
        return {name: getattr(self, name) for name in names}

    def restore(self, state: dict[str, Tensor]) -> None:
        """Goes on from `state`; ValueError if it is of another network."""
        for name, value in self.state().items():
            if name not in state or state[name].shape != value.shape:
                raise ValueError(f"{name} does not fit this network")
        for name, value in self.state().items():
            value.copy_(state[name])

    def clear(self) -> None:
        """Before the gradient is summed up."""
        self.gradient.zero_()

    @torch.no_grad()
    def step(self) -> None:
        """One step along the gradient that has been summed up."""
        norm = self.gradient.norm()
        fine = torch.isfinite(norm) & (norm < self.limit)
        self.norm.copy_(norm)
        g = torch.where(fine, self.gradient * (_CLIP / norm.clamp(min=_CLIP)), 0.0)
        self.skipped += ~fine
        # A skipped step leaves no trace in the median either, else one bad time would raise the limit for the next.
        self.history.copy_(torch.where((self._place == self.count % _HISTORY) & fine, norm, self.history))
        self.limit.copy_(torch.where(fine | ~torch.isfinite(norm), self.limit, _PATIENCE * self.limit))
        self.count += fine
        one, two = _BETAS
        self.mean.copy_(torch.where(fine, one * self.mean + (1 - one) * g, self.mean))
        self.square.copy_(torch.where(fine, two * self.square + (1 - two) * g * g, self.square))
        mean = self.mean / (1 - one**self.count).clamp(min=1e-6)
        square = self.square / (1 - two**self.count).clamp(min=1e-6)
        change = self.rate * (mean / (square.sqrt() + _EPSILON) + _DECAY * self.weights)
        self.weights.sub_(torch.where(fine, change, 0.0))
        decay = torch.clamp((1 + self.count) / (10 + self.count), max=_AVERAGE)
        self.average.copy_(torch.where(fine, decay * self.average + (1 - decay) * self.weights, self.average))

    def look(self) -> None:
        """Sets the limit by the gradients of late; waits for the device."""
        known = self.history[self.history > 0]
        if len(known) >= 20:
            self.limit.fill_(_TOO_LARGE * float(known.median()))
