# SPDX-License-Identifier: Apache-2.0
"""Resampling images and labels through a displacement field in mm."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from ..imaging.grid import Grid
from ..imaging.resampling import slabs
from ..imaging.volume import Volume

if TYPE_CHECKING:
    from ..imaging.segmentation import Segmentation


def warp(
    volume: Volume, grid: Grid, displacement: np.ndarray, *, outside: float = 0.0, interpolation: str = "linear"
) -> np.ndarray:
    """The volume at x + u(x) for the points x of a grid.

    Args:
        volume: the moving image, in any units.
        grid: the fixed grid.
        displacement: float32 (*grid.shape, d), LPS mm, fixed -> moving, affine included.
        outside: value beyond the volume.
        interpolation: "linear", "cubic" (Keys) or "nearest".

    Returns:
        float32 of grid.shape; with "nearest", the volume's own type.
    """
    import torch

    from ..geodesics.sampling import sample_cubic, sample_linear, sample_nearest

    samplers = {"linear": sample_linear, "cubic": sample_cubic, "nearest": sample_nearest}
    if interpolation not in samplers:
        raise ValueError(f"Unknown interpolation {interpolation!r}; choose one of {', '.join(samplers)}.")
    data = torch.tensor(volume.data)
    if interpolation != "nearest":
        data = data.float()
    result = np.empty(grid.shape, dtype=volume.data.dtype if interpolation == "nearest" else np.float32)
    for part, index in slabs(volume.grid, grid, displacement=displacement):
        values = samplers[interpolation](data, torch.from_numpy(index), outside)
        result[part] = values.numpy().reshape(result[part].shape)
    return result


def warp_labels(labels: Volume, grid: Grid, displacement: np.ndarray) -> np.ndarray:
    """The label map at x + u(x): at each point the label of largest linear-interpolation weight; 0 outside."""
    import torch

    from ..geodesics.sampling import LabelSampler

    label_at = LabelSampler(torch.tensor(labels.data))
    result = np.empty(grid.shape, dtype=labels.data.dtype)
    for part, index in slabs(labels.grid, grid, displacement=displacement):
        result[part] = label_at(torch.from_numpy(index)).numpy().reshape(result[part].shape)
    return result


def warp_segmentation(segmentation: Segmentation, grid: Grid, displacement: np.ndarray) -> Segmentation:
    """Each layer on its own by `warp_labels`, so that names, colors, terminology and overlaps stay what they are."""
    layers = [Volume(grid, warp_labels(each, grid, displacement), each.name) for each in segmentation.layers]
    return segmentation.with_layers(layers)
