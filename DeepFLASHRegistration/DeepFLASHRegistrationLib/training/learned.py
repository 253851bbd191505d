# SPDX-License-Identifier: Apache-2.0
"""What a method gives to be trained on packs: a network, a loss, and what it needs of them.

`PackTraining` draws pairs, makes their images on the device, takes the optimizer's steps, keeps checkpoints and
validates; what is learned is the method's own. CONTRIBUTING.md tells how to add one.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from .examples import Images
from .pack import Pack


class Learner(Protocol):
    """A network on a device for images of one shape; looks at no value on the way, so that CUDA can capture it.

    Attributes:
        network: all that is trained.
        parts: names of the parts of the loss, along the last axis of what `loss` returns besides.
    """

    network: nn.Module
    parts: Sequence[str]

    def loss(self, images: Images) -> tuple[Tensor, Tensor]:
        """The loss of images 2k and 2k + 1 as pairs, and its parts (any number of rows, len(parts)), detached."""
        ...

    def displacement(self, fixed: Tensor, moving: Tensor) -> Tensor:
        """Pairs of images (n, *shape) -> fixed_to_moving minus the identity in voxels, (n, 3, *shape)."""
        ...


class Method(Protocol):
    """How learners are made."""

    def identity(self) -> dict[str, Any]:
        """Plain values that a checkpoint must agree with, to be gone on from."""
        ...

    def check(self, packs: Sequence[Pack]) -> None:
        """InputError with the remedy if the packs lack what this method needs of them."""
        ...

    def learner(self, shape: tuple[int, ...], device: str | torch.device) -> Learner:
        """A new one, with random weights."""
        ...
