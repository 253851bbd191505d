# SPDX-License-Identifier: Apache-2.0
"""Small packs of balls in balls, and a network to match."""

from __future__ import annotations

import numpy as np
from DeepFLASHRegistrationLib.learning.feature_net import Design, Head
from DeepFLASHRegistrationLib.training.pack import FIRST_OUTSIDE, Pack

SHAPE = (32, 32, 32)
TINY = Design((4, 6, 8, 8), (4, 6, 8), (Head(8, 8, 2.86, steps=2), Head(4, 8, 2.86, steps=2), Head(2, 6, 3.5, steps=2)))


def balls(rng: np.random.Generator) -> np.ndarray:
    """Label codes: a ball with two smaller ones inside, in a shell that lies outside."""
    at = np.stack(np.meshgrid(*[np.arange(n) for n in SHAPE], indexing="ij"), -1)
    center = (np.array(SHAPE) - 1) / 2 + rng.normal(0, 0.5, 3)
    axes = rng.uniform(0.85, 1.15, 3)

    def inside(offset: tuple[float, ...], radius: float) -> np.ndarray:
        return (((at - center - np.array(offset)) / axes) ** 2).sum(-1) < radius**2

    labels = np.zeros(SHAPE, np.uint8)
    labels[inside((0, 0, 0), 14)] = FIRST_OUTSIDE
    labels[inside((0, 0, 0), 12)] = 1
    labels[inside((0, 3, -5), 4)] = 2
    labels[inside((0, 3, 5), 4)] = 3
    return labels


def pack(name: str, count: int = 4, seed: int = 0, *, images: bool = True, labels: bool = True) -> Pack:
    """Subjects of different shapes."""
    rng = np.random.default_rng(seed)
    maps = np.stack([balls(rng) for _ in range(count)])
    table = np.zeros(256, np.uint8)
    table[1:4] = 120, 220, 60
    pictures = np.clip(table[maps] + rng.normal(0, 4, maps.shape) * (table[maps] > 0), 0, 255).astype(np.uint8)
    return Pack(
        name,
        tuple(f"{name}-{k}" for k in range(count)),
        pictures if images else None,
        maps if labels else None,
        np.repeat(np.eye(4)[None], count, 0),
        1.25,
        (count - 1,),
        (*range(4), *[0] * (FIRST_OUTSIDE - 4), 501),
        (0, 1, 2, 2),
    )
