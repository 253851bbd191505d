# SPDX-License-Identifier: Apache-2.0
"""vtkImageData and NumPy arrays, in array order (k, j, i)."""

from __future__ import annotations

from collections.abc import Generator, Iterator, Sequence
from typing import TypeVar

import numpy as np
import vtk
from vtk.util.numpy_support import get_vtk_array_type, numpy_to_vtk, vtk_to_numpy

# What is worked through in one go: some hundredths of a second.
_SLAB_VALUES = 1 << 21

_Value = TypeVar("_Value")


def arrayFromImage(image: vtk.vtkImageData) -> np.ndarray:
    """The voxels as a view of shape (k, j, i), or (k, j, i, c) for several components. Copy before writing."""
    scalars = vtk_to_numpy(image.GetPointData().GetScalars())
    shape = image.GetDimensions()[::-1]
    return scalars.reshape(shape if scalars.ndim == 1 else (*shape, scalars.shape[1]))


def imageFromArray(
    array: np.ndarray, components: bool = False, image: vtk.vtkImageData | None = None
) -> vtk.vtkImageData:
    """An image of its own memory from an array (k, j, i), with `components` (k, j, i, c); origin 0, spacing 1.

    A plane (j, i) counts as one slice. `image` may give the object to fill, e.g. an oriented one.
    """
    array = np.ascontiguousarray(array)
    if array.dtype == bool:
        array = array.astype(np.uint8)
    shape = array.shape[:-1] if components else array.shape
    shape = (1,) * (3 - len(shape)) + tuple(shape)
    flat = array.reshape(-1, array.shape[-1]) if components else array.reshape(-1)
    image = vtk.vtkImageData() if image is None else image
    image.SetDimensions(*shape[::-1])
    image.GetPointData().SetScalars(numpy_to_vtk(flat, deep=True, array_type=get_vtk_array_type(array.dtype)))
    return image


def emptyImage(shape: Sequence[int], dtype: np.dtype) -> vtk.vtkImageData:
    """An image of several components, shape (k, j, i, c), whose values are to be written; origin 0, spacing 1."""
    values = vtk.vtkDataArray.CreateDataArray(get_vtk_array_type(dtype))
    values.SetNumberOfComponents(shape[-1])
    values.SetNumberOfTuples(int(np.prod(shape[:-1])))
    image = vtk.vtkImageData()
    image.SetDimensions(*shape[-2::-1])
    image.GetPointData().SetScalars(values)
    return image


def slabs(array: np.ndarray) -> Iterator[slice]:
    """Slices of the first axis that together are all of it, each of about as many values as are done in no time."""
    thick = max(1, _SLAB_VALUES * len(array) // max(array.size, 1))
    return (slice(start, start + thick) for start in range(0, len(array), thick))


def atOnce(steps: Generator[None, None, _Value]) -> _Value:
    """Takes all steps of a function that does its work in short ones, and returns its value."""
    while True:
        try:
            next(steps)
        except StopIteration as end:
            return end.value
