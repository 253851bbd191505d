# SPDX-License-Identifier: Apache-2.0
"""The voxel grid: shape, and the one place where array indices and millimeters meet."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

# NIfTI stores direction cosines in single precision, scanners round them to about five digits.
_ORTHOGONALITY_TOLERANCE = 1e-3


@dataclass(frozen=True, eq=False)
class Grid:
    """A regular grid of voxels in physical space.

    Attributes:
        shape: voxels per axis in array order, slowest first: (k, j, i) or (j, i).
        affine: (d+1, d+1) float64, homogeneous array index -> LPS mm (x, y[, z]). Its columns are orthogonal.
        plane: for a 2-D grid cut out of 3-D space (an image of a single slice): (4, 3) float64, homogeneous
            in-plane mm -> homogeneous LPS mm. The in-plane coordinates of a point are its projections on the first
            two columns, so that slices of equal orientation share coordinates. None elsewhere.
        slice_axis: which axis of the 3-D array had a single slice (only meaningful with `plane`).
        slice_step: signed thickness of that slice in mm along the plane's normal (only meaningful with `plane`).
        frame_of_reference: UID of DICOM's frame of reference in which its mm count; "" where none is known.

    Raises:
        ValueError: if the shape is empty, or the affine is not finite, singular or sheared.
    """

    shape: tuple[int, ...]
    affine: np.ndarray
    plane: np.ndarray | None = None
    slice_axis: int = 0
    slice_step: float = 1.0
    frame_of_reference: str = ""
    _inverse: np.ndarray = field(init=False, repr=False)

    def __post_init__(self) -> None:
        shape = tuple(int(n) for n in self.shape)
        affine = np.array(self.affine, dtype=np.float64)
        d = len(shape)
        if d not in (2, 3):
            raise ValueError(f"A grid has 2 or 3 axes, not {d}. Pass one volume of one component.")
        if min(shape) < 1:
            raise ValueError(f"A grid of shape {shape} holds no voxel. Pass an image that is not empty.")
        if affine.shape != (d + 1, d + 1):
            raise ValueError(f"A grid of {d} axes needs an affine of shape {(d + 1, d + 1)}, not {affine.shape}.")
        if not np.isfinite(affine).all():
            raise ValueError("The affine holds NaN or infinity. Repair the image's origin, spacing and direction.")
        if np.abs(affine[d] - np.eye(d + 1)[d]).max() > 0:
            raise ValueError(f"The last row of an affine must be {np.eye(d + 1)[d]}, not {affine[d]}.")
        spacing = np.linalg.norm(affine[:d, :d], axis=0)
        if spacing.min() <= 0:
            raise ValueError("The affine gives an axis no length. Repair the image's spacing and direction.")
        cosines = affine[:d, :d] / spacing
        if np.abs(cosines.T @ cosines - np.eye(d)).max() > _ORTHOGONALITY_TOLERANCE:
            raise ValueError(
                "The voxel axes are not orthogonal (sheared, or a gantry tilt). "
                "Resample the image on an orthogonal grid first."
            )
        plane = self.plane
        if plane is not None:
            plane = np.array(plane, dtype=np.float64)
            if d != 2 or plane.shape != (4, 3):
                raise ValueError("Only a 2-D grid lies in a plane, given as a (4, 3) matrix.")
            plane.setflags(write=False)
        inverse = np.linalg.inv(affine)
        affine.setflags(write=False)
        inverse.setflags(write=False)
        for name, value in (("shape", shape), ("affine", affine), ("plane", plane), ("_inverse", inverse)):
            object.__setattr__(self, name, value)

    @property
    def ndim(self) -> int:
        """Number of axes, 2 or 3."""
        return len(self.shape)

    @property
    def size(self) -> int:
        """Number of voxels."""
        return int(np.prod(self.shape, dtype=np.int64))

    @property
    def spacing(self) -> np.ndarray:
        """(d,) mm between voxel centers, in array order."""
        return np.linalg.norm(self.affine[:-1, :-1], axis=0)

    @property
    def direction(self) -> np.ndarray:
        """(d, d) whose columns are the unit vectors of the array's axes in LPS."""
        return self.affine[:-1, :-1] / self.spacing

    @property
    def origin(self) -> np.ndarray:
        """(d,) LPS mm of the center of voxel 0."""
        return self.affine[:-1, -1].copy()

    @property
    def extent(self) -> np.ndarray:
        """(d,) mm of the field of view in array order, voxel borders included."""
        return self.spacing * self.shape

    @property
    def center(self) -> np.ndarray:
        """(d,) LPS mm of the middle of the field of view."""
        return self.index_to_physical((np.array(self.shape) - 1) / 2)

    @property
    def voxel_volume(self) -> float:
        """Volume of a voxel in mm^d."""
        return float(np.prod(self.spacing))

    def index_to_physical(self, points: np.ndarray) -> np.ndarray:
        """Array indices (..., d), fractions allowed, to LPS mm (..., d)."""
        return np.asarray(points, dtype=np.float64) @ self.affine[:-1, :-1].T + self.affine[:-1, -1]

    def physical_to_index(self, points: np.ndarray) -> np.ndarray:
        """LPS mm (..., d) to array indices (..., d) as fractions."""
        return np.asarray(points, dtype=np.float64) @ self._inverse[:-1, :-1].T + self._inverse[:-1, -1]

    @property
    def inverse_affine(self) -> np.ndarray:
        """(d+1, d+1), homogeneous LPS mm -> array index."""
        return self._inverse

    def corners(self) -> np.ndarray:
        """(2**d, d) LPS mm of the centers of the corner voxels."""
        ends = np.stack(np.meshgrid(*[[0, n - 1] for n in self.shape], indexing="ij"), -1)
        return self.index_to_physical(ends.reshape(-1, self.ndim))

    def same_as(self, other: Grid, tolerance: float = 1e-3) -> bool:
        """Whether both grids have the same shape and their corners agree to `tolerance` voxels."""
        if self.shape != other.shape or (self.plane is None) != (other.plane is None):
            return False
        limit = tolerance * float(self.spacing.min())
        near = bool(np.abs(self.corners() - other.corners()).max() <= limit)
        if near and self.plane is not None:
            near = bool(np.abs(self.lift(self.corners()) - other.lift(other.corners())).max() <= limit)
        return near

    def padded(self, lower: int | Sequence[int], upper: int | Sequence[int] | None = None) -> Grid:
        """The grid with `lower` voxels added before and `upper` (default: the same) after each axis; negative crops."""
        lower = np.broadcast_to(np.asarray(lower, dtype=int), (self.ndim,))
        upper = lower if upper is None else np.broadcast_to(np.asarray(upper, dtype=int), (self.ndim,))
        affine = self.affine.copy()
        affine[:-1, -1] = self.index_to_physical(-lower)
        return replace(self, shape=tuple(np.array(self.shape) + lower + upper), affine=affine)

    def blocks(self, factors: Sequence[int]) -> Grid:
        """The grid whose voxels are blocks of ``factors`` voxels per axis, which must divide the shape."""
        if any(n % f for n, f in zip(self.shape, factors, strict=True)):
            raise ValueError(f"Blocks of {tuple(factors)} voxels do not divide a shape of {self.shape}.")
        d, affine = self.ndim, self.affine.copy()
        affine[:d, d] = self.index_to_physical((np.array(factors) - 1) / 2)
        affine[:d, :d] *= factors
        return replace(self, shape=tuple(n // f for n, f in zip(self.shape, factors, strict=True)), affine=affine)

    def resampled(
        self, spacing: float | Sequence[float] | None = None, *, factor: float | Sequence[float] | None = None
    ) -> Grid:
        """A grid over the same field of view (voxel borders, not centers, coincide) with other voxels.

        Args:
            spacing: mm in array order; a voxel is made slightly larger or smaller so that a whole number fits.
            factor: instead of spacing, how many times larger the voxels shall be, per axis. What does not divide
                the shape makes the last voxel stick out of the field of view, so that averaging over blocks of
                `factor` voxels gives exactly this grid's voxels.

        Returns:
            Grid, cell-centered: an averaged voxel lies in the middle of those it averages.
        """
        if (spacing is None) == (factor is None):
            raise ValueError("Give either spacing or factor.")
        if factor is not None:
            ratio = np.broadcast_to(np.asarray(factor, dtype=np.float64), (self.ndim,))
            shape = np.maximum(np.ceil(np.array(self.shape) / ratio - 1e-9), 1).astype(int)
        else:
            wanted = np.broadcast_to(np.asarray(spacing, dtype=np.float64), (self.ndim,))
            if not (wanted > 0).all():
                raise ValueError(f"Spacing must be positive, not {spacing}.")
            shape = np.maximum(np.round(self.extent / wanted), 1).astype(int)
            ratio = np.array(self.shape) / shape
        affine = self.affine.copy()
        affine[:-1, :-1] *= ratio
        affine[:-1, -1] = self.index_to_physical((ratio - 1) / 2)
        return replace(self, shape=tuple(shape), affine=affine)

    def lift(self, points: np.ndarray) -> np.ndarray:
        """In-plane mm (..., 2) of a grid with a `plane` to LPS mm (..., 3)."""
        if self.plane is None:
            raise ValueError("This grid lies in no plane of 3-D space.")
        return np.asarray(points, dtype=np.float64) @ self.plane[:3, :2].T + self.plane[:3, 2]

    def project(self, points: np.ndarray) -> np.ndarray:
        """LPS mm (..., 3) to the in-plane mm (..., 2) of their projections on this grid's `plane`."""
        if self.plane is None:
            raise ValueError("This grid lies in no plane of 3-D space.")
        return (np.asarray(points, dtype=np.float64) - self.plane[:3, 2]) @ self.plane[:3, :2]

    def contains(self, points: np.ndarray) -> np.ndarray:
        """Which of points (..., d), LPS mm, lie in the field of view, up to its voxels' outer faces; NaN does not."""
        index = self.physical_to_index(points)
        return ((index >= -0.5) & (index <= np.array(self.shape) - 0.5)).all(-1)

    def in_plane(self, points: np.ndarray) -> np.ndarray:
        """Points (N, 3) of 3-D space as the points (N, 2) of a 2-D grid: seen along its slice's normal, or in the plane
        z = 0, where ITK and Slicer put a 2-D image. All others as they are."""
        if self.ndim == 2 and points.shape[1] == 3:
            if self.plane is not None:
                return self.project(points)
            if not points[:, 2].any():
                return points[:, :2]
        return points

    @property
    def normal(self) -> np.ndarray:
        """(3,) unit normal of the `plane`."""
        return np.cross(self.plane[:3, 0], self.plane[:3, 1])

    def flattened(self) -> Grid:
        """The 2-D grid, with its `plane`, of a 3-D grid that has one slice on some axis."""
        if self.ndim != 3 or 1 not in self.shape:
            raise ValueError("Only a 3-D grid with a single slice can be flattened.")
        axis = self.shape.index(1)
        direction = self.direction
        # In-plane axes follow the world's, not the storage, so that flipped or transposed slices share coordinates.
        across = [a for a in range(3) if a != axis]
        across.sort(key=lambda a: int(np.argmax(np.abs(direction[:, a]))))
        units = np.stack(
            [direction[:, a] * np.sign(direction[np.argmax(np.abs(direction[:, a])), a]) for a in across], 1
        )
        units[:, 1] -= units[:, 0] * (units[:, 0] @ units[:, 1])
        units[:, 1] /= np.linalg.norm(units[:, 1])
        normal = np.cross(units[:, 0], units[:, 1])
        plane = np.zeros((4, 3))
        plane[:3, :2] = units
        plane[:3, 2] = normal * (normal @ self.origin)
        plane[3, 2] = 1
        keep = [a for a in range(3) if a != axis]
        affine = np.eye(3)
        affine[:2, :2] = units.T @ self.affine[:3, keep]
        affine[:2, 2] = units.T @ self.origin
        step = float(normal @ self.affine[:3, axis])
        return Grid(tuple(self.shape[a] for a in keep), affine, plane, axis, step, self.frame_of_reference)

    def lifted(self) -> Grid:
        """The 3-D grid of one slice of a 2-D grid with a `plane`; the inverse of `flattened`."""
        keep = [a for a in range(3) if a != self.slice_axis]
        shape = [1, 1, 1]
        affine = np.eye(4)
        for column, axis in enumerate(keep):
            shape[axis] = self.shape[column]
            affine[:3, axis] = self.plane[:3, :2] @ self.affine[:2, column]
        affine[:3, self.slice_axis] = self.normal * self.slice_step
        affine[:3, 3] = self.lift(self.origin)
        return Grid(tuple(shape), affine, frame_of_reference=self.frame_of_reference)

    @classmethod
    def from_image(cls, image: Any) -> Grid:
        """The grid of a SimpleITK image, or of the file that an ImageFileReader has looked at (of its first 3 axes)."""
        n = image.GetDimension()
        d = min(n, 3)
        direction = np.array(image.GetDirection(), dtype=np.float64).reshape(n, n)[:d, :d]
        affine = np.eye(d + 1)
        affine[:d, :d] = (direction * np.array(image.GetSpacing()[:d]))[:, ::-1]
        affine[:d, d] = image.GetOrigin()[:d]
        return cls(tuple(image.GetSize()[:d][::-1]), affine)

    def to_image_geometry(self) -> tuple[tuple[int, ...], tuple[float, ...], tuple[float, ...], tuple[float, ...]]:
        """(size, spacing, origin, direction) in ITK's order and layout."""
        return (
            self.shape[::-1],
            tuple(map(float, self.spacing[::-1])),
            tuple(map(float, self.origin)),
            tuple(map(float, self.direction[:, ::-1].ravel())),
        )

    def apply_to(self, image: Any) -> Any:
        """Gives a SimpleITK image of this shape this grid's origin, spacing and direction, and returns it."""
        _, spacing, origin, direction = self.to_image_geometry()
        image.SetSpacing(spacing)
        image.SetOrigin(origin)
        image.SetDirection(direction)
        return image


def over_indices(linear: np.ndarray, offset: np.ndarray, ranges: Sequence[np.ndarray]) -> Iterator[np.ndarray]:
    """An affine function of the array index, component by component, without a table of all indices.

    Args:
        linear: (m, d).
        offset: (m,).
        ranges: the indices along each axis, d arrays.

    Yields:
        m arrays (len(ranges[0]), …), float64.
    """
    d = len(ranges)
    for row, start in zip(linear, offset, strict=True):
        part = np.full((1,) * d, start)
        for axis, index in enumerate(ranges):
            shape = [1] * d
            shape[axis] = -1
            part = part + (row[axis] * index).reshape(shape)
        yield part


def stored(grid: Grid, order: Sequence[int], backwards: Sequence[bool]) -> Grid:
    """The same points with their axes in another order, some of them backwards.

    Args:
        order: for each axis of the new grid, which of the old it is.
        backwards: for each axis of the new grid, whether it runs against the old.
    """
    d = grid.ndim
    matrix = np.zeros((d + 1, d + 1))
    matrix[d, d] = 1
    for new, (old, back) in enumerate(zip(order, backwards, strict=True)):
        matrix[old, new] = -1 if back else 1
        matrix[old, d] = grid.shape[old] - 1 if back else 0
    return replace(grid, shape=tuple(grid.shape[a] for a in order), affine=grid.affine @ matrix)


def upright(grid: Grid) -> tuple[tuple[int, ...], tuple[bool, ...]]:
    """The storage nearest to axes z, y, x that all ascend, as arguments of `stored`.

    Computed on images stored so, a registration does not depend on how their files are.
    """
    d = grid.ndim
    cosines = grid.direction[::-1]  # rows z, y, x; columns the array's axes
    order = max(itertools.permutations(range(d)), key=lambda p: sum(abs(cosines[k, p[k]]) for k in range(d)))
    return order, tuple(bool(cosines[k, axis] < 0) for k, axis in enumerate(order))
