# SPDX-License-Identifier: Apache-2.0
"""Linear transforms of MINC and FreeSurfer (.xfm, "MNI Transform File")."""

from __future__ import annotations

import re

import numpy as np

from ...support.errors import InputError

_RAS_TO_LPS = np.diag([-1.0, -1.0, 1.0, 1.0])


def read_xfm(content: bytes) -> tuple[np.ndarray, list[str]]:
    """Reads a linear .xfm, as minctracc, bestlinreg, mritotal and talairach_avi write it.

    It takes world coordinates (RAS mm) of the source image, here the moving one, to those of the target, the fixed one.
    Several linear parts follow each other in the order of the file, each inverted if it says so.

    Returns:
        (4, 4) LPS mm, fixed -> moving, and notes.

    Raises:
        InputError: no such file, damaged, not linear, or written by ITK, which does not follow the convention.
    """
    text = content.decode("utf-8-sig", "replace")
    if not text.lstrip().startswith("MNI Transform File"):
        raise InputError("is no MNI transform file. Pass the .xfm that MINC or FreeSurfer wrote.")
    lines = text.splitlines()
    if any(line.lstrip().startswith("%") and "ITK-XFM" in line for line in lines):
        raise InputError(
            "was written by ITK, which keeps neither the direction nor the axes of MINC in this format. Save the "
            "transform as .tfm instead."
        )
    statements = [s.strip() for s in " ".join(line.split("%", 1)[0] for line in lines).split(";")]
    statements[0] = statements[0].removeprefix("MNI Transform File").strip()
    forward, parts, types, inverted = np.eye(4), 0, 0, False
    for statement in filter(None, statements):
        name, found, value = statement.partition("=")
        name, value = name.strip().lower(), value.strip()
        if not found:
            raise InputError(f"is damaged ({_shown(statement)} is no statement). Copy it again.")
        if name == "transform_type":
            types, inverted = types + 1, False
            if value.lower() != "linear":
                raise InputError(f"holds a transform of type {_shown(value)}, which is not linear. Pass a linear one.")
        elif name == "invert_flag":
            # After the matrix nobody says to which it belongs; MINC writes it before.
            if value.lower() not in ("true", "false") or parts == types:
                raise InputError("is damaged (its Invert_Flag is unknown, or stands after its matrix). Copy it again.")
            inverted = value.lower() == "true"
        elif name == "linear_transform":
            forward = _matrix(value, inverted) @ forward
            parts += 1
        else:
            raise InputError(f"holds {_shown(name)}, which no linear transform has. Pass a linear one.")
    if not parts:
        raise InputError("holds no linear transform. Copy it again.")
    if parts != types:
        raise InputError(f"is damaged ({parts} matrices for {types} transforms). Copy it again.")
    note = "was read as a transform of MINC, from the moving image (its source) to the fixed one (its target)"
    return _RAS_TO_LPS @ np.linalg.inv(forward) @ _RAS_TO_LPS, [note]


def _matrix(value: str, inverted: bool) -> np.ndarray:
    matrix = np.eye(4)
    try:
        numbers = [float(cell) for cell in value.split()]
        matrix[:3] = np.reshape(numbers, (3, 4))
    except ValueError as error:
        raise InputError("holds a linear transform of other than 12 numbers. Copy it again.") from error
    if not (np.abs(matrix) < 1e9).all() or abs(np.linalg.det(matrix)) < 1e-9:
        raise InputError("holds a transform that is not invertible. Compute it again.")
    return np.linalg.inv(matrix) if inverted else matrix


def _shown(text: str) -> str:
    return repr(re.sub(r"\s+", " ", text)[:40])
