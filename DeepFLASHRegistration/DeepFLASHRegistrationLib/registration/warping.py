# SPDX-License-Identifier: Apache-2.0
"""Resampling images and labels through a displacement field in mm."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from ..imaging.grid import Grid
from ..imaging.resampling import Look, sampled
from ..imaging.volume import Volume
from ..problem.resampling import linear_values
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
        look = lambda index: sample_cubic(data, torch.from_numpy(index), outside).numpy(), np.float32
    elif interpolation == "nearest":
        data = as_tensor(volume.data)
        look = lambda index: sample_nearest(data, torch.from_numpy(index), outside).numpy(), volume.data.dtype
    else:
        raise ValueError(f"Unknown interpolation {interpolation!r}; choose one of linear, cubic, nearest.")
    return sampled(volume.grid, grid, *look, displacement=displacement)


def warp_labels(labels: Volume, grid: Grid, displacement: np.ndarray) -> np.ndarray:
    """The label map at x + u(x): at each point the label of largest linear-interpolation weight; 0 outside."""
    return sampled(labels.grid, grid, *strongest_labels(labels), displacement=displacement)


def strongest_labels(labels: Volume) -> Look:
    """What `sampled` needs to find the label of largest linear-interpolation weight; 0 outside."""
    import torch

    from ..geodesics.sampling import LabelSampler

    label_at = LabelSampler(as_tensor(labels.data))
    return lambda index: label_at(torch.from_numpy(index)).numpy(), labels.data.dtype


def warp_segmentation(segmentation: Segmentation, grid: Grid, displacement: np.ndarray) -> Segmentation:
    """Each layer on its own by `warp_labels`, so that names, colors, terminology and overlaps stay what they are."""
    layers = [Volume(grid, warp_labels(each, grid, displacement), each.name) for each in segmentation.layers]
    return segmentation.with_layers(layers)
