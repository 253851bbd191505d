# SPDX-License-Identifier: Apache-2.0
"""The maps of a geodesic on the fixed grid: where they are needed, and without folds."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from ..imaging.grid import Grid
from ..problem.deformation import Deformation, deformation_from
from ..problem.dense_map import DenseMap
from ..problem.field import Field
from ..support.side_by_side import side_by_side
from ..support.torch_device import as_tensor, is_cuda
from .verdict import SMALLEST_DETERMINANT

if TYPE_CHECKING:
    from torch import Tensor

# Attempts to mend folds of the sampled map by damping the velocity around them.
_UNFOLDING = 6
# The written fields reach beyond the fixed image by this part of its longest edge.
_FIELD_MARGIN = 1 / 20
# Voxels looked through for folds together: in a processor's cache, and on a device.
_VOXELS, _DEVICE_VOXELS = 1 << 16, 1 << 22


def field_grids(fixed: Grid, affine: np.ndarray) -> tuple[Grid, Grid]:
    """Grids of the written fields: the fixed grid with a margin, and a grid of the same axes and spacing over the box
    to which the affine takes it (the same grid where the affine is the identity)."""
    margin = np.ceil(_FIELD_MARGIN * fixed.extent.max() / fixed.spacing - 1e-6).astype(int)
    # The margin stays moderate where voxels are coarse or the object is small.
    margin = np.clip(margin, 2, np.maximum(2, np.array(fixed.shape) // 8))
    grid = fixed.padded(margin)
    d = fixed.ndim
    corners = grid.corners() @ affine[:d, :d].T + affine[:d, d]
    index = grid.physical_to_index(corners)
    lower = np.floor(index.min(0) + 1e-6).astype(int)
    upper = np.ceil(index.max(0) - 1e-6).astype(int)
    return grid, grid.padded(-lower, upper - (np.array(grid.shape) - 1))


@dataclass(frozen=True)
class Maps:
    """The final map: its arguments, what computes its maps, and on the fixed grid, as tensors on their device, where it
    folds and by how much it scales volumes."""

    velocity: dict[str, Any]
    deformation: Deformation | DenseMap
    fixed_to_moving: Field
    moving_to_fixed: Field
    folded: Tensor
    determinant: Tensor
    notes: list[str]


def unfolded(fixed: Grid, velocity: Mapping[str, Any], inside: np.ndarray, device: str) -> Maps:
    """The maps of a velocity, which is weakened where they fold until they do not; or of a dense map as it is.

    The geodesic's map is one to one; its samples on the fixed grid need not be where it is steeper than voxels can
    show (or nearly so: a determinant below the verdict's limit). There, and only there, the velocity's detail is
    damped: a few millimeters around a few voxels.
    """
    field_grid, inverse_grid = field_grids(fixed, velocity["affine"])
    shown, limit = None, SMALLEST_DETERMINANT.check
    on_host = not is_cuda(device)  # other devices may lack what follows
    damped, size = 0, int(np.count_nonzero(inside))
    for attempt in range(_UNFOLDING + 1):
        deformation = deformation_from(velocity, device)
        forward = deformation.field(field_grid, "fixed_to_moving", settled=on_host)
        # Folds are mended wherever they are; those around the object do not count in the metrics.
        anywhere, determinant = _folds(fixed, forward)
        shown = as_tensor(inside).to(anywhere.device) if shown is None else shown
        steep = (determinant < limit).logical_and_(shown).logical_or_(anywhere)
        count = int(steep.count_nonzero())
        # FLASH's own map folds by truncation, which damping cannot mend, and so may a map that is no geodesic; a field
        # that folds widely is no slip.
        if not count or attempt == _UNFOLDING or count > 0.01 * size:
            break
        if not deformation.timed or velocity["band_limited"]:
            break
        damped += count
        steep = (determinant < 1.6 * limit).logical_and_(shown).logical_or_(anywhere)
        index = steep.nonzero().cpu().numpy()
        velocity = _damped(velocity, deformation, fixed.index_to_physical(index) + forward.inner(fixed).at(index))
        forward = anywhere = determinant = steep = None  # room for the next
    notes = []
    if damped:
        notes.append(
            f"The velocity was damped around {damped} voxels, where the map was steeper than the fixed image's "
            "voxels can show."
        )
    # It moves points, which lie between voxels.
    inverse = deformation.field(inverse_grid, "moving_to_fixed", between=True, settled=on_host)
    return Maps(dict(velocity), deformation, forward, inverse, anywhere.logical_and_(shown), determinant, notes)


def _folds(fixed: Grid, forward: Field) -> tuple[Tensor, Tensor]:
    """Which voxels of the fixed grid fold, by the strict criterion, and the determinants there; slab by slab, on the
    field's device."""
    import torch

    from .folds import folds_and_determinants

    # One voxel of the margin makes the differences central everywhere on the fixed grid.
    field = forward.inner(fixed.padded(1))
    folded = torch.empty(fixed.shape, dtype=torch.bool, device=field.device)
    determinant = torch.empty(fixed.shape, device=field.device)
    apart = is_cuda(field.device)
    rows = max(2, (_DEVICE_VOXELS if apart else _VOXELS) // math.prod(fixed.shape[1:]))
    step = np.asarray(fixed.affine[:-1, :-1])

    def fill(start: int) -> None:
        part = slice(start, start + rows)
        folded[part], determinant[part] = folds_and_determinants(field.tensor(slice(start, start + rows + 2)), step)

    starts = range(0, fixed.shape[0], rows)
    for _ in map(fill, starts) if apart else side_by_side(fill, starts):
        pass
    return folded, determinant


def _damped(velocity: Mapping[str, Any], deformation: Deformation, at: np.ndarray) -> dict[str, Any]:
    """The velocity with less detail around points (N, d) of the moving image, LPS mm."""
    import torch

    from ..geodesics.band import Band, attenuated

    # v0 lives in the moving image before the affine: where the points came from.
    back = np.linalg.inv(velocity["affine"])
    came = at @ back[:-1, :-1].T + back[:-1, -1]
    centers = (deformation.domain.physical_to_index(came) + 0.5) * deformation.cell
    band, wavelength = Band(velocity["velocity"].shape[1:], deformation.lengths), deformation.shortest_wavelength
    v0 = torch.as_tensor(velocity["velocity"], device=deformation.device)
    centers = torch.as_tensor(_thinned(centers, wavelength / 3))
    weaker = attenuated(v0, band, centers, 0.7 * wavelength, 0.5).cpu().numpy()
    return {**velocity, "velocity": weaker}


def _thinned(points: np.ndarray, distance: float) -> np.ndarray:
    """Points of a set such that every other lies within about ``distance`` of one kept."""
    _, first = np.unique(np.round(points / distance).astype(int), axis=0, return_index=True)
    return points[np.sort(first)]
