# SPDX-License-Identifier: Apache-2.0
"""How regular two maps are that should be inverse to each other, as the ICON family measures it.

Maps act on coordinates of 0..1 along each axis (`icon.Transform`). No value is looked at, so that CUDA can capture it.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .icon import Transform, per_axis

DELTA = 1e-3  # of GradICON's finite differences, in lengths of the image


def jittered(identity: Tensor, stride: int = 1) -> Tensor:
    """Points near every stride-th voxel of (1, d, *shape): moved by about a voxel along each axis."""
    shape = identity.shape[2:]
    points = identity[(..., *[slice(None, None, stride)] * len(shape))]
    return points + per_axis(torch.randn_like(points), [1 / n for n in shape])


def inconsistency(forth: Transform, back: Transform, points: Tensor) -> Tensor:
    """ICON's: mean square of ε − φ_AB(φ_BA(ε)) and of ε − φ_BA(φ_AB(ε)), summed (Greer et al., ICCV 2021)."""
    return (points - forth(back(points))).square().mean() + (points - back(forth(points))).square().mean()


def inconsistency_gradient(forth: Transform, back: Transform, points: Tensor, delta: float = DELTA) -> Tensor:
    """GradICON's: ‖∇(ε − φ_AB(φ_BA(ε)))‖² by forward differences: the mean over components and points, summed over the
    axes (Tian et al., CVPR 2023)."""
    here = points - forth(back(points))
    parts = []
    for axis in range(points.shape[1]):
        there = points.clone()
        there[:, axis] += delta
        parts.append(((there - forth(back(there)) - here) / delta).square().mean())
    return torch.stack(parts).sum()


def diffusion(velocity: Tensor) -> Tensor:
    """ConstrICON's: ‖∇v‖² of a velocity (n, d, *shape): the mean over components and voxels, summed over the axes
    (Greer et al., MICCAI 2023). Both v and x count in its voxels, so that it is the same at any resolution."""
    v = per_axis(velocity, [n - 1 for n in velocity.shape[2:]])
    return torch.stack([torch.diff(v, dim=axis).square().mean() for axis in range(2, v.ndim)]).sum()
