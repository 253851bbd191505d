# SPDX-License-Identifier: Apache-2.0
"""Linear transforms in ITK's files (.tfm, .txt, .mat, .h5), checked before ITK gets them."""

from __future__ import annotations

import re
import struct
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from ...support.errors import InputError
from ...support.isolation import Crashed, isolated
from ..files import quiet

# What allocates by numbers in the file is never linear.
_DENSE = re.compile(rb"(BSpline|DisplacementField|VelocityField|Kernel|Deformable|ThinPlate|ElasticBody)\w*")
_OF_ITK = re.compile(rb"\w+_(double|float)_\d_\d")
_ELASTIX = re.compile(rb"^\s*\(Transform \"", re.MULTILINE)
_HDF5 = b"\x89HDF\r\n\x1a\n"


def read_itk(path: Path, content: bytes) -> np.ndarray:
    """Reads a linear ITK transform, also a composite of linear ones.

    Args:
        path: the file, which ITK opens by itself.
        content: what it holds.

    Returns:
        (d+1, d+1) homogeneous LPS mm, fixed -> moving; d is 2 or 3.

    Raises:
        InputError: no ITK transform, or not linear; without the file's name.
    """
    _check(path.suffix.lower(), content)
    try:
        # Damaged HDF5 and composites without parts crash it.
        matrix = isolated("imaging.transform_files.itk_affine:matrix_of", str(path), seconds=60, memory=2 << 30)
    except Crashed as error:
        raise _no_transform() from error
    return np.array(matrix)


def dense_dimension(content: bytes) -> int:
    """How many dimensions a transform of ITK has that is not linear and may be large; 0 for any other content."""
    found = _DENSE.search(content)
    named = found and re.search(rb"_(?:double|float)_(\d)_\d", found[0])
    return 0 if not found else int(named[1]) if named else 3


def matrix_of(path: str) -> list[list[float]]:
    """The matrix in a file, in a process of its own."""
    transform = opened(path)
    if not transform.IsLinear():
        raise _not_linear()
    d = transform.GetDimension()
    matrix = np.eye(d + 1)
    matrix[:d, d] = transform.TransformPoint((0.0,) * d)
    # From far apart points, so that an offset of hundreds of mm costs no digit of the matrix.
    reach = 1024.0
    for axis in range(d):
        ends = [transform.TransformPoint(tuple(s * reach * (a == axis) for a in range(d))) for s in (1.0, -1.0)]
        matrix[:d, axis] = (np.array(ends[0]) - ends[1]) / (2 * reach)
    return matrix.tolist()


def opened(path: str) -> sitk.Transform:
    """The transform in a file, in a process of its own."""
    try:
        with quiet() as warnings:
            transform = sitk.ReadTransform(path)
    # ITK's own errors, some with a piece of the file that is no text.
    except (RuntimeError, UnicodeDecodeError) as error:
        raise _no_transform() from error
    if any("more than one transform" in warning for warning in warnings):
        raise InputError(
            "holds several transforms side by side, of which ITK would take the first and forget the rest. Save one, "
            "or a composite of them."
        )
    return transform


def _no_transform() -> InputError:
    return InputError(
        "is no ITK transform file (.tfm, .txt, .mat, .h5), nor one of FSL FLIRT (.mat), FreeSurfer (.lta) or MINC "
        "(.xfm). Save the transform in one of these formats."
    )


def _not_linear() -> InputError:
    return InputError("holds a transform that is not linear. Pass a rigid or affine transform.")


def _check(suffix: str, content: bytes) -> None:
    """Refuses what would make ITK allocate what a file merely says, or what is of another program."""
    matlab = _is_matlab_4(content)
    if content.startswith(b"MATLAB ") or (matlab and not _OF_ITK.search(content)):
        raise InputError("is a MATLAB file, but no transform of ITK. Save the transform as .tfm.")
    if _ELASTIX.search(content):
        raise InputError(
            "is a file of elastix's parameters. Have it write a transform of ITK, or a displacement field."
        )
    if dense_dimension(content):
        raise _not_linear()
    if suffix == ".mat":
        good = matlab
    elif suffix in (".h5", ".hdf5"):
        good = content.startswith(_HDF5)
    else:
        good = content.lstrip().startswith(b"#Insight Transform File") and b"\0" not in content
    if not good:
        raise _no_transform()


def _is_matlab_4(content: bytes) -> bool:
    """Whether the content is a list of small matrices as MATLAB 4 stores them, the format of ITK's .mat."""
    position = 0
    while position < len(content):
        header = content[position : position + 20]
        if len(header) < 20:
            return False
        kind, rows, columns, imaginary, name = min(
            (struct.unpack(order + "5i", header) for order in "<>"), key=lambda numbers: abs(numbers[0])
        )
        if imaginary or not (0 <= kind < 2000 and 0 < name < 200 and 0 <= rows < 100 and 0 <= columns < 100):
            return False
        position += 20 + name + rows * columns * (4 if kind // 10 % 10 == 1 else 8)
    return position == len(content) > 0
