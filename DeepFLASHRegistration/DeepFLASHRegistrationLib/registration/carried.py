# SPDX-License-Identifier: Apache-2.0
"""The moving image and its labels on the fixed grid, before and after, and what is seen of both there."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from ..imaging.grid import Grid
from ..imaging.volume import Volume
from ..problem.subject import Subject
from ..support.torch_device import as_tensor
from .maps import Maps

if TYPE_CHECKING:
    from torch import Tensor

# What is known of a voxel of the fixed grid, as bits: that the moving image is there, that it shows the object, and
# that it lies inside its mask; that there is anything but background around; and that the fixed image shows the object.
SEEN, OBJECT, INSIDE, NEAR, FIXED_OBJECT = 1, 2, 4, 8, 16
# Voxels looked through together: in a processor's cache.
_VOXELS = 1 << 16


@dataclass
class Carried:
    """Tensors on the fixed grid, on the device of the maps.

    Attributes:
        seen: uint8 of SEEN, OBJECT, INSIDE and FIXED_OBJECT.
        before, after: the moving image through the affine alone, and through the whole map; float32.
        labels_before, labels: its labels likewise; the first in the smallest integers that hold them; None without.
    """

    seen: Tensor
    before: Tensor
    after: Tensor
    labels_before: Tensor | None = None
    labels: Tensor | None = None


def carried(fixed: Subject, moving: Subject, maps: Maps) -> Carried:
    """What the maps make of the moving image."""
    from ..imaging.intensities import foreground
    from ..problem.resampling import Marks, linear_values, looked_up, nearest_values
    from .warping import strongest_labels

    affine, image, moving_labels = maps.deformation.affine, moving.image, moving.label_map
    on_fixed = maps.fixed_to_moving.inner(fixed.grid)
    background = float(image.data.min())
    own = foreground(fixed.image)
    device = on_fixed.device
    # Labels lie on the image's voxels nearly always: then the places are computed once for both.
    together = moving_labels is not None and moving_labels.grid.same_as(image.grid, 0)
    marks = Marks(_marked(moving, moving_labels if together else None), NEAR, (background, 0))
    look = linear_values(image, background, device)
    after, first = [look], [look]
    if together:
        after.append(strongest_labels(moving_labels, device))
        first.append(nearest_values(_compact(moving_labels), device))
    seen, *after = looked_up(image.grid, fixed.grid, after, None, on_fixed, device, marks)
    seen |= as_tensor(own.view(np.uint8)).to(seen.device) * FIXED_OBJECT
    del own
    if np.array_equal(affine, np.eye(len(affine))) and image.grid.same_as(fixed.grid, 1e-6):
        stay = [image.data.astype(np.float32, copy=False), *([_compact(moving_labels).data] if together else [])]
        before = [as_tensor(each).to(seen.device) for each in stay]
    else:
        marks = marks._replace(wanted=False)
        before = looked_up(image.grid, fixed.grid, first, affine, None, device, marks)
    if moving_labels is not None and not together:
        there, near = moving_labels.grid, nearest_values(_compact(moving_labels), device)
        before += looked_up(there, fixed.grid, [near], affine, None, device)
        after += looked_up(there, fixed.grid, [strongest_labels(moving_labels, device)], None, on_fixed, device)
    (before, *labels_before), (after, *labels) = before, after
    return Carried(seen, before, after, *labels_before, *labels)


def parts(found: Carried, maps: Maps, fixed: Grid, moving: Subject) -> dict[str, Any]:
    """The images and fields of a Result, on the host; they take the place of what they are made of."""

    def volume(values: Tensor | None, name: str) -> Volume | None:
        return None if values is None else Volume(fixed, values.cpu().numpy(), name)

    labels = "" if moving.label_map is None else moving.label_map.name
    maps.fixed_to_moving.settle()
    maps.moving_to_fixed.settle()
    logarithm = maps.determinant.log_().nan_to_num_(nan=-math.inf, posinf=math.inf, neginf=-math.inf)
    return {
        "field_grid": maps.fixed_to_moving.grid,
        "inverse_grid": maps.moving_to_fixed.grid,
        "fixed_to_moving": maps.fixed_to_moving,
        "moving_to_fixed": maps.moving_to_fixed,
        "warped": volume(found.after, moving.image.name),
        "moving_affine": volume(found.before, moving.image.name),
        "labels": volume(found.labels, labels),
        "labels_before": volume(found.labels_before, labels),
        "log_jacobian": volume(logarithm, "log Jacobian determinant"),
    }


def _marked(moving: Subject, labels: Volume | None) -> np.ndarray:
    """What is known of the moving image's voxels: SEEN, OBJECT, INSIDE and NEAR."""
    from ..imaging.intensities import dilated, foreground

    image = moving.image
    marks = foreground(image).view(np.uint8)
    marks *= OBJECT
    marks |= SEEN
    if moving.inside is not None:
        marks[moving.inside] |= INSIDE
    # What is interpolated at a point that is nearest to a voxel comes from it and its neighbors.
    lowest, rows = image.data.min(), max(1, _VOXELS // math.prod(image.grid.shape[1:]))
    for start in range(0, len(marks), rows):
        around = slice(max(0, start - 1), start + rows + 1)
        something = image.data[around] != lowest
        if labels is not None:
            something |= labels.data[around] != 0
        near = dilated(something, (1,) * image.ndim)[start - around.start :][:rows]
        marks[start : start + rows] |= near.view(np.uint8) * np.uint8(NEAR)
    return marks


def _compact(labels: Volume) -> Volume:
    """The same labels in the smallest integers: what they were before is only compared."""
    low, high = int(labels.data.min()), int(labels.data.max())
    fitting = (t for t in (np.int8, np.int16) if np.iinfo(t).min <= low and high <= np.iinfo(t).max)
    return labels.with_data(labels.data.astype(next(fitting, labels.data.dtype), copy=False))
