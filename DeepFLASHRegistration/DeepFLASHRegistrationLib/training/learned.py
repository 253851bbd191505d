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

from ..problem.parameters import Parameters
from ..support.errors import InputError
from .examples import Images
from .pack import Pack

# Of registrations by a model, in voxels: the correlation's window, and the space in which the velocity fades out.
WINDOW, MARGIN = 7.0, 9.6


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
    """How learners are made, and what their models are.

    Attributes:
        kind: of the models, as `methods.prediction` runs them.
    """

    kind: str

    def identity(self) -> dict[str, Any]:
        """Plain values that a checkpoint must agree with, to be gone on from."""
        ...

    def check(self, packs: Sequence[Pack]) -> None:
        """InputError with the remedy if the packs lack what this method needs of them."""
        ...

    def learner(self, shape: tuple[int, ...], device: str | torch.device) -> Learner:
        """A new one, with random weights."""
        ...

    def described(self, packs: Sequence[Pack]) -> tuple[dict[str, Any], Parameters]:
        """Of its models the architecture, and the parameters of registrations by them."""
        ...


def check_labels(packs: Sequence[Pack], label_weight: float) -> None:
    """InputError if labels are to be learned from, and no pack has any."""
    if label_weight and all(pack.labels is None for pack in packs):
        raise InputError(
            f"None of {', '.join(pack.name for pack in packs)} has labels, whose overlap this training judges. Add "
            "a pack with labels, or train by images alone (--label-weight 0)."
        )


def registrations(packs: Sequence[Pack], **changes: Any) -> Parameters:
    """The parameters of registrations by a model, in the voxels of its packs, with some changed."""
    spacing = packs[0].spacing_mm
    lengths = {"spacing_mm": spacing, "window_mm": WINDOW * spacing, "margin_mm": MARGIN * spacing}
    preset = changes.pop("preset", "default")
    return Parameters.from_preset(preset, **{**lengths, "normalization": "percentiles", **changes})
