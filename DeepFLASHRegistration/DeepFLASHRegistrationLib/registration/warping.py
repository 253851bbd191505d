# SPDX-License-Identifier: Apache-2.0
"""Resampling images and labels through a displacement field in mm."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from ..imaging.grid import Grid
from ..imaging.volume import Volume
from ..problem.resampling import Look, linear_values, looked_up
from ..support.torch_device import as_tensor

if TYPE_CHECKING:
    from ..imaging.segmentation import Segmentation


def warp(
    volume: Volume, grid: Grid, displacement: np.ndarray, *, outside: float = 0.0, interpolation: str = "linear"
) -> np.ndarray:
    """The volume at x + u(x) for the points x of a grid.

    Args:
        volume: the moving image, in any units.
        grid: the fixed grid.
        displacement: float32 (*grid.shape, d), LPS mm, fixed -> moving, affine included; an array or a Field.
        outside: value beyond the volume.
        interpolation: "linear", "cubic" (Keys) or "nearest".

    Returns:
        float32 of grid.shape; with "nearest", the volume's own type.
    """
    import torch

    from ..geodesics.sampling import sample_cubic, sample_nearest

    if interpolation == "linear":
        look = linear_values(volume, outside)
    elif interpolation == "cubic":
        data = as_tensor(volume.data).float()
        look = Look(lambda index: sample_cubic(data, index, outside), torch.float32)
    elif interpolation == "nearest":
        data = as_tensor(volume.data)
        look = Look(lambda index: sample_nearest(data, index, outside), data.dtype)
    else:
        raise ValueError(f"Unknown interpolation {interpolation!r}; choose one of linear, cubic, nearest.")
    return looked_up(volume.grid, grid, [look], displacement=displacement)[0].numpy()


def warp_labels(labels: Volume, grid: Grid, displacement: np.ndarray) -> np.ndarray:
    """The label map at x + u(x): at each point the label of largest linear-interpolation weight; 0 outside."""
    return looked_up(labels.grid, grid, [strongest_labels(labels)], displacement=displacement)[0].numpy()


def strongest_labels(labels: Volume, device: str = "cpu") -> Look:
    """The label of largest linear-interpolation weight; 0 outside."""
    from ..geodesics.sampling import LabelSampler

    data = as_tensor(labels.data).to(device)
    return Look(LabelSampler(data), data.dtype)


def warp_segmentation(segmentation: Segmentation, grid: Grid, displacement: np.ndarray) -> Segmentation:
    """Each layer on its own by `warp_labels`, so that names, colors, terminology and overlaps stay what they are."""
    layers = [Volume(grid, warp_labels(each, grid, displacement), each.name) for each in segmentation.layers]
    return segmentation.with_layers(layers)
