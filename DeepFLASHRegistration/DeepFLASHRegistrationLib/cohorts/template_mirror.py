# SPDX-License-Identifier: Apache-2.0
"""Left and right changed over: the pose in which the plane between both is x = 0, and what is mirrored there."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from ..imaging.volume import Volume
from ..problem.deformation import Deformation
from ..support.errors import InputError

# Cosine of the least angle between an axis and left–right that still counts as none.
_ALONG = 1 - 1e-6


def mirror(ndim: int) -> np.ndarray:
    """The reflection x -> −x, (d+1, d+1)."""
    return np.diag([-1.0, *[1.0] * ndim])


def mirrored(volume: Volume) -> Volume:
    """An image as a mirror in the plane x = 0 shows it: the same voxels, elsewhere."""
    return replace(volume, grid=replace(volume.grid, affine=mirror(volume.ndim) @ volume.grid.affine))


def upright(found: np.ndarray, center: np.ndarray) -> np.ndarray:
    """The rigid map from the space in which the plane between left and right is x = 0, to that of an image.

    Args:
        found: (d+1, d+1), rigid: the image's space -> that of its mirror image, where both look alike.
        center: (d,) of what the image shows; what of it does not go left or right stays.
    """
    d = len(center)
    reflection = mirror(d) @ found
    # The plane's normal is turned around, and its points stay.
    turn = reflection[:d, :d]
    values, vectors = np.linalg.eigh((turn + turn.T) / 2)
    normal = vectors[:, np.argmin(values)] * np.sign(vectors[0, np.argmin(values)])
    across = np.eye(d)[0]
    # The smallest rotation of x onto the normal (Rodrigues).
    cosine = float(across @ normal)
    skew = np.outer(normal, across) - np.outer(across, normal)
    rotation = np.eye(d) + skew + skew @ skew / (1 + cosine)
    onto = center + normal * (float(normal @ reflection[:d, d]) / 2 - float(normal @ center))
    there = np.where(across > 0, 0.0, onto)
    result = np.eye(d + 1)
    result[:d, :d], result[:d, d] = rotation, onto - rotation @ there
    return result


def centered_boxes(boxes: list[np.ndarray]) -> list[np.ndarray]:
    """Corners (…, d) and those of the mirror images."""
    return [*boxes, *(box * np.where(np.arange(box.shape[1]) == 0, -1.0, 1.0) for box in boxes)]


def symmetric(geodesic: Deformation) -> Deformation:
    """The geodesic of the mean of a velocity and its mirror image.

    Raises:
        InputError: the domain's axes are turned against left and right.
    """
    import torch

    from ..geodesics.band import Band

    domain = geodesic.domain
    axis = int(np.argmax(np.abs(domain.direction[0])))
    if abs(domain.direction[0, axis]) < _ALONG:
        raise InputError("--mirrored: the method's working grid is turned against left and right. Choose another one.")
    band = Band(tuple(geodesic.velocity.shape[1:]), geodesic.lengths)
    zero = -domain.affine[0, domain.ndim] / domain.affine[0, axis]
    at = (zero + 0.5) * float(geodesic.cell[axis])
    other = band.reflected(torch.as_tensor(geodesic.velocity.astype(np.float64)), axis, at).numpy()
    other[axis] *= -1
    return replace(geodesic, velocity=((geodesic.velocity + other) / 2).astype(np.float32))
