# SPDX-License-Identifier: Apache-2.0
"""Instance optimization of a trained network: a copy of its weights, or the codes that it says of a pair, fitted to
that pair by the loss of the training."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ..geodesics.band import Lattice
from ..geodesics.jacobian import smallest_determinant
from ..learning.pair_terms import PairTerms
from ..support.tensor_memory import tensor_bytes
from .instance import Judged

# What a process grows by in a step, of what its tensors take: 2.3 GB of 1.5 for the published network of GradICON at 96
# voxels along each axis.
_BESIDE = 1.5
_COPIES = 4  # of the weights: those that are fitted, the best so far, and both means of Adam


@dataclass(frozen=True)
class Fitting:
    """How a network is fitted to a pair.

    Attributes:
        loss: of a device makes what was minimized in training: (network, images (2, *shape) as it sees them, and as
            they are judged) -> PairTerms.
        rate: of learning.
        helps: of the bytes that may be used makes what helps if these do not suffice.
        of: what is fitted, made of a network, which stays as it is, and images as it sees them; a copy of it by
            default.
    """

    loss: Callable[[str | torch.device], Callable[[nn.Module, Tensor, Tensor], PairTerms]]
    rate: float
    helps: Callable[[int], str]
    of: Callable[[nn.Module, Tensor], nn.Module] = lambda network, images: copy.deepcopy(network)


class NetworkInstance:
    """An instance.Instance; see there.

    Args:
        network: stays as it is; attribute `network` is what is fitted.
        images: the fixed and the moving one, (2, *shape), on the network's device.
        needed_bytes: from `step_bytes`.
    """

    def __init__(self, network: nn.Module, images: Tensor, fitting: Fitting, needed: int):
        self.network, self.images = fitting.of(network, images).requires_grad_(True), images
        self.needed_bytes, self.helps = needed, fitting.helps
        self._loss = fitting.loss(images.device)
        shape = tuple(images.shape[1:])
        self._cells = Lattice.cells(shape, tuple(map(float, shape)))

    def parameters(self) -> Iterable[Tensor]:
        return self.network.parameters()

    def loss(self, step: int) -> Tensor:
        with _drawn(step + 1, self.images.device):
            return self._loss(self.network, self.images, self.images).total

    @torch.no_grad()
    def judged(self) -> Judged:
        with _drawn(0, self.images.device):
            terms = self._loss(self.network, self.images, self.images)
        smallest = smallest_determinant(terms.displacements[0], self._cells)
        return Judged(float(terms.total), float(terms.dissimilarity), float(terms.regularization), smallest)


def step_bytes(built: Callable[[], nn.Module], shape: tuple[int, ...], fitting: Fitting) -> int:
    """About how much memory a step of fitting a network takes that sees images of a shape."""
    with torch.device("meta"):
        network, images = built(), torch.empty(2, *shape)
    network = fitting.of(network, images)

    def step() -> None:
        fitting.loss("meta")(network, images, images).total.backward()

    weights = sum(each.numel() * each.element_size() for each in network.parameters())
    return int(_BESIDE * tensor_bytes(step)) + _COPIES * weights


@contextmanager
def _drawn(seed: int, device: torch.device) -> Iterator[None]:
    """Random points are drawn by a seed within, and others' are as they would have been."""
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        yield
