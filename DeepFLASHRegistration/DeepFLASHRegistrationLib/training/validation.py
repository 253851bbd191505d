# SPDX-License-Identifier: Apache-2.0
"""Weights judged on pairs of a pack as they are."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from ..geodesics.band import Lattice
from ..geodesics.batched import BatchedSampler
from ..geodesics.jacobian import smallest_determinant
from ..geodesics.similarities import LocalCorrelation
from ..learning.blocks import mean_pooled
from .optimizer import FlatAdam
from .pack import FIRST_OUTSIDE, Pack
from .trainer import mean_dice

if TYPE_CHECKING:
    from .pack_training import PackTraining

# Of every pack at most so many pairs are judged: a validation must not take the time of the training.
_MOST_PAIRS = 4
_DARK = 0.02


class Validator:
    """Dice of labels by the nearest voxel, dissimilarity before and after, smallest determinant."""

    def __init__(self, training: PackTraining):
        self.drawing, self.maker = training.drawing, training.maker
        self.learner = training.method.learner(self.drawing.shape, training.device)
        training.hand_constants(self.learner.network)
        self.learner.network.eval()
        self._flat = FlatAdam(self.learner.network)  # for its view of the weights as one vector
        cells = Lattice.cells(self.drawing.shape, tuple(map(float, self.drawing.shape)))
        self.cells, self.sample = cells, BatchedSampler(cells, cells, torch.float32, training.device)

    @torch.no_grad()
    def __call__(self, weights: Tensor, pairs: Sequence[tuple[str, int, int]]) -> dict[str, float]:
        """Means over pairs of named packs, by "pack figure"."""
        self._flat.weights.copy_(weights)
        rows: dict[str, list[list[float]]] = {}
        for name, fixed, moving in pairs:
            rows.setdefault(name, []).append(self._judged(name, fixed, moving))
        found = {}
        for name, values in rows.items():
            mean = np.mean(values, 0)
            keys = ("dissimilarity_before", "dissimilarity", "dice_before", "dice", "smallest_determinant")
            found |= {f"{name} {key}": round(float(x), 4) for key, x in zip(keys, mean) if np.isfinite(x)}
            found[f"{name} smallest_determinant"] = round(float(np.min(values, 0)[-1]), 4)
        return found

    def _judged(self, name: str, fixed: int, moving: int) -> list[float]:
        torch.manual_seed(fixed * 1000 + moving)
        images = self.maker(self.maker.tensors(self.drawing.plain(name, fixed, moving, (fixed, moving))))
        forth = self.learner.displacement(images.seen[:1], images.seen[1:])
        halves = mean_pooled(images.clean[:1, None], 2)[:, 0]
        term = LocalCorrelation(halves, (halves > _DARK).float(), (2,) * forth.shape[1])
        warped = self.sample(images.clean[1:, None], forth)
        before, after = (float(term(mean_pooled(x, 2)[:, 0])) for x in (images.clean[1:, None], warped))
        dice = [math.nan, math.nan]
        if bool((images.weights > 0).any()):
            there = self.sample(images.labels[1:, None], forth, mode="nearest")[0, 0]
            fixed, moving, carried = map(_structures, (*images.labels, there))
            dice = [mean_dice(fixed, x) for x in (moving, carried)]
        return [before, after, *dice, smallest_determinant(forth[0], self.cells)]


def unseen_pairs(packs: Sequence[Pack]) -> list[tuple[str, int, int]]:
    """Some pairs of subjects that are never trained on, of each pack that has any."""
    return [
        (pack.name, a, b)
        for pack in packs
        for a, b in list(zip(pack.unseen, (*pack.unseen[1:], *pack.unseen[:1])))[:_MOST_PAIRS]
        if a != b
    ]


def _structures(codes: Tensor) -> Tensor:
    """Labels without what lies outside."""
    codes = codes.long()
    return torch.where(codes < FIRST_OUTSIDE, codes, 0)
