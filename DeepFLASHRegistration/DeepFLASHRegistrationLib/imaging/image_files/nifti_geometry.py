# SPDX-License-Identifier: Apache-2.0
"""Where a NIfTI file says that its voxels lie: sform, qform and pixdim, and which of them counts.

The rule is that of ITK, and so of 3D Slicer, whose results shall lie where ours do: lengths from pixdim, directions and
origin from the sform if its axes are orthogonal to 1e-4 and it is the only one, or of code 1 (scanner), or equal to the
qform but for the sense of axes; else from the qform. What differs from this, or from what the standard says, is told:

- a sform sheared by more than 2e-3 is refused, whatever the qform says;
- a sform sheared by less (rounded numbers) counts as the nearest rotation where there is no qform;
- a length that is 0 or not finite is taken from the sform, never to be 1 mm; a negative one mirrors nothing;
- where the sform or the qform, as the standard reads it, places a corner elsewhere by more than half a voxel, a note
  names both.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ...support.errors import InputError

_SHEAR = 2e-3
_ITK_ORTHONORMAL = 1e-4
_BEYOND, _NEGLIGIBLE = 1e12, 1e-12  # mm: farther than anything, shorter than anything
_NONSENSE = "NaN, infinity or impossible numbers"
_MILLIMETERS = {1: ("meters", 1e3), 3: ("microns", 1e-3)}


@dataclass(frozen=True)
class Orientation:
    """What a NIfTI header says of its geometry.

    Attributes:
        sizes: (3,) voxels along i, j, k.
        axes: how many of them the file has.
        pixdim: (4,) float64: the handedness of the qform, and the lengths of the voxel.
        units: xyzt_units.
        qform_code, sform_code: 0 or less where there is none.
        quaternion: (6,) b, c, d and the offset in x, y, z.
        sform: (3, 4).
    """

    sizes: tuple[int, int, int]
    axes: int
    pixdim: np.ndarray
    units: int
    qform_code: int
    sform_code: int
    quaternion: np.ndarray
    sform: np.ndarray


def place(header: Orientation, name: str) -> tuple[np.ndarray, list[str]]:
    """The matrix (4, 4) from i, j, k to RAS mm, and what is to be noted.

    Raises:
        InputError: nothing says how large the voxels are or where they lie, or the sform is sheared.
    """
    notes: list[str] = []
    unit, scale = _MILLIMETERS.get(header.units & 7, ("", 1.0))
    if unit:
        notes.append(f"its unit is {unit}; all lengths were converted to mm")
    sform, why_not = _sform(header)
    lengths = _lengths(header, sform, name, notes)
    qform = _qform(header, lengths)
    if header.qform_code > 0 and qform is None:
        why_not = why_not or f"its qform (code {header.qform_code}) holds {_NONSENSE}"
    if sform is not None and (shear := _shear(sform)) > _SHEAR:
        raise InputError(_sheared(header, sform, qform, shear, scale, name))
    if sform is None and qform is None and why_not:
        raise InputError(
            f"{name}: {why_not}, and there is no other orientation. Export it again, or write its sform "
            "(a program that shows NIfTI headers can)."
        )
    if why_not:
        notes.append(f"{why_not}; the {'qform' if sform is None else 'sform'} was taken")
    if sform is None and qform is None:
        # ITK's axes are LPS, and by the standard's method 1 those of the file would be RAS.
        notes.append(
            "it has neither sform nor qform: where it lies and which side is left are unknown; it was read as ITK and "
            "3D Slicer do, with i to the left, j to the back, k to the head"
        )
        return np.diag([-scale, -scale, scale, 1.0] * np.append(lengths, 1)), notes
    chosen, which = _chosen(header, sform, qform, lengths)
    _note_other_readings(header, {"sform": sform, "qform": qform}, chosen, which, scale, notes)
    return np.diag([scale, scale, scale, 1.0]) @ chosen, notes


def _sform(header: Orientation) -> tuple[np.ndarray | None, str]:
    """The sform (4, 4) if there is one that says where voxels lie, else why there is none."""
    if header.sform_code <= 0:
        return None, ""
    matrix = np.vstack([header.sform, [0, 0, 0, 1]])
    if not _sensible(matrix):
        return None, f"its sform (code {header.sform_code}) holds {_NONSENSE}"
    lengths = np.linalg.norm(matrix[:3, :3], axis=0)
    if not lengths.any():
        return None, f"its sform (code {header.sform_code}) is all zero"
    for axis in range(3):
        if lengths[axis] == 0 and header.sizes[axis] == 1:  # one slice: some programs leave out how thick it is
            others = [a for a in range(3) if a != axis]
            normal = np.cross(matrix[:3, others[0]], matrix[:3, others[1]]) * (-1 if axis == 1 else 1)
            length = abs(header.pixdim[axis + 1])
            length = length if _sensible(length) and length > 0 else 1.0
            matrix[:3, axis] = length * normal / max(np.linalg.norm(normal), _NEGLIGIBLE)
    unit = matrix[:3, :3] / np.maximum(np.linalg.norm(matrix[:3, :3], axis=0), _NEGLIGIBLE)
    if abs(np.linalg.det(unit)) < 1e-3:
        return None, f"its sform (code {header.sform_code}) is singular: two axes are the same, or one has no length"
    return matrix, ""


def _lengths(header: Orientation, sform: np.ndarray | None, name: str, notes: list[str]) -> np.ndarray:
    """(3,) the lengths of a voxel in the file's unit."""
    given = header.pixdim[1:4].astype(np.float64)
    lengths = np.abs(given)
    for axis in range(3):
        if _sensible(lengths[axis]) and lengths[axis] > 0:
            continue
        wrong = f"pixdim[{axis + 1}] is {given[axis]:g}"
        if sform is not None:
            lengths[axis] = np.linalg.norm(sform[:3, axis])
            if header.sizes[axis] > 1:
                notes.append(f"{wrong}; the voxel's length {lengths[axis]:.6g} was taken from the sform")
        elif header.sizes[axis] > 1:
            raise InputError(
                f"{name}: {wrong}, so the size of its voxels is unknown, and there is no sform that says it. "
                f"Write the distance between voxels in mm there, or export the image again."
            )
        else:
            lengths[axis] = 1.0
            if axis < header.axes:
                notes.append(f"{wrong}; its one slice was taken to be 1 thick")
    negative = [str(axis + 1) for axis in range(3) if given[axis] < 0]
    if negative:
        text = f"pixdim[{', '.join(negative)}] is negative, which NIfTI does not allow; nothing was mirrored for it"
        if sform is None:
            text += " (3D Slicer and ITK may show it mirrored: check which side is left)"
        notes.append(text)
    return lengths


def _qform(header: Orientation, lengths: np.ndarray) -> np.ndarray | None:
    """The qform (4, 4), or None (nifti1.h, method 2)."""
    if header.qform_code <= 0 or not _sensible(header.quaternion):
        return None
    b, c, d = header.quaternion[:3]
    rest = 1 - (b * b + c * c + d * d)
    if rest < 1e-7:
        b, c, d = np.array([b, c, d]) / np.sqrt(b * b + c * c + d * d)
        a = 0.0
    else:
        a = np.sqrt(rest)
    rotation = np.array(
        [
            [a * a + b * b - c * c - d * d, 2 * (b * c - a * d), 2 * (b * d + a * c)],
            [2 * (b * c + a * d), a * a + c * c - b * b - d * d, 2 * (c * d - a * b)],
            [2 * (b * d - a * c), 2 * (c * d + a * b), a * a + d * d - b * b - c * c],
        ]
    )
    matrix = np.eye(4)
    matrix[:3, :3] = rotation * lengths * [1, 1, -1 if header.pixdim[0] < 0 else 1]
    matrix[:3, 3] = header.quaternion[3:]
    return matrix


def _sensible(values: np.ndarray) -> bool:
    with np.errstate(invalid="ignore"):
        return bool((np.abs(values) < _BEYOND).all())


def _shear(matrix: np.ndarray) -> float:
    """The largest cosine between two axes, to what single precision resolves."""
    unit = matrix[:3, :3] / np.linalg.norm(matrix[:3, :3], axis=0)
    return round(float(np.abs(unit.T @ unit - np.eye(3)).max()), 5)


def _chosen(
    header: Orientation, sform: np.ndarray | None, qform: np.ndarray | None, lengths: np.ndarray
) -> tuple[np.ndarray, str]:
    """The matrix that counts, with the file's lengths, and which it is."""
    if qform is None or (sform is not None and _itk_takes_sform(header, sform, qform)):
        unit = sform[:3, :3] / np.linalg.norm(sform[:3, :3], axis=0)
        chosen = sform.copy()
        if np.abs(unit @ unit.T - np.eye(3)).max() > _ITK_ORTHONORMAL:
            left, _, right = np.linalg.svd(unit)
            sheared, unit = unit, left @ right
            # About the middle, so that no corner moves farther than it must.
            middle = (np.array(header.sizes) - 1) / 2
            chosen[:3, 3] += (sheared - unit) * lengths @ middle
        chosen[:3, :3] = unit * lengths
        return chosen, "sform"
    return qform, "qform"


def _itk_takes_sform(header: Orientation, sform: np.ndarray, qform: np.ndarray) -> bool:
    """What ITK 5.4 does where there are both (itkNiftiImageIO.cxx, SetImageIOOrientationFromNIfTI)."""
    linear, other = sform[:3, :3].astype(np.float32), qform[:3, :3].astype(np.float32)
    shift = np.abs(sform[:3, 3] - qform[:3, 3])
    if np.abs(linear - other).max() <= 1e-5 and shift.sum() <= 1e-7:
        return True
    unit = linear / np.linalg.norm(linear, axis=0)
    if np.abs(unit @ unit.T - np.eye(3)).max() > _ITK_ORTHONORMAL:
        return False
    if header.sform_code == 1:
        return True
    return _turned(sform, qform)


def _turned(sform: np.ndarray, qform: np.ndarray) -> bool:
    """Whether both say the same but for the sense of axes.

    ITK compares but a part of their decompositions, and so takes the sform then: always if the axes are those of the
    world, by the accident of rounding if they are oblique.
    """
    lengths, other_lengths = (np.linalg.norm(m[:3, :3], axis=0) for m in (sform, qform))
    cosines = np.abs((sform[:3, :3] / lengths).T @ (qform[:3, :3] / other_lengths))
    return bool(
        np.abs(cosines - np.eye(3)).max() <= 1e-4
        and np.abs(lengths - other_lengths).max() <= 1e-4
        and np.abs(sform[:3, 3] - qform[:3, 3]).max() <= 1e-4
    )


def _corners(header: Orientation) -> np.ndarray:
    """(8, 4) homogeneous i, j, k of the corners of the volume."""
    ends = [(-0.5, n - 0.5) if n > 1 else (0.0, 0.0) for n in header.sizes]
    corners = np.stack(np.meshgrid(*ends, indexing="ij"), -1).reshape(-1, 3)
    return np.concatenate([corners, np.ones((len(corners), 1))], 1)


def _apart(header: Orientation, first: np.ndarray, second: np.ndarray) -> tuple[float, np.ndarray, np.ndarray]:
    """How far the farthest corner is moved, and where each matrix places it."""
    corners = _corners(header)
    one, two = corners @ first[:3].T, corners @ second[:3].T
    distances = np.linalg.norm(one - two, axis=1)
    farthest = int(distances.argmax())
    return float(distances[farthest]), one[farthest], two[farthest]


def _note_other_readings(
    header: Orientation,
    readings: dict[str, np.ndarray | None],
    chosen: np.ndarray,
    which: str,
    scale: float,
    notes: list[str],
) -> None:
    half = 0.5 * np.linalg.norm(chosen[:3, :3], axis=0).min()
    codes = {"sform": header.sform_code, "qform": header.qform_code}
    for name, matrix in readings.items():
        if matrix is None:
            continue
        distance, here, there = _apart(header, chosen, matrix)
        if distance <= half:
            continue
        places = f"one corner lies at {_point(here * scale)} instead of {_point(there * scale)} mm RAS"
        if name == which:
            notes.append(
                f"its {name} as it stands places the image elsewhere by up to {distance * scale:.3g} mm than the "
                f"{name} with the voxel lengths of pixdim, at right angles, which was taken as ITK and 3D Slicer take "
                f"it: {places}"
            )
        else:
            turned = header.sform_code > 1 and _turned(readings["sform"], readings["qform"])
            why = "they differ in the sense of axes alone, where ITK takes either" if turned else "as ITK does"
            notes.append(
                f"its sform (code {codes['sform']}) and qform (code {codes['qform']}) place it up to "
                f"{distance * scale:.3g} mm apart; the {which} was taken ({why}, and so 3D Slicer): {places}"
            )


def _sheared(
    header: Orientation, sform: np.ndarray, qform: np.ndarray | None, shear: float, scale: float, name: str
) -> str:
    text = (
        f"{name}: its voxel axes are not orthogonal: by its sform (code {header.sform_code}) two of them meet at "
        f"{np.rad2deg(np.arccos(min(shear, 1.0))):.3g} degrees. "
    )
    if qform is None:
        return text + "There is no qform. Resample it on an orthogonal grid (e.g. in the program that made it)."
    distance, here, there = _apart(header, sform, qform)
    return text + (
        f"Its qform (code {header.qform_code}) says otherwise: {distance * scale:.3g} mm apart at one corner, "
        f"{_point(here * scale)} by the sform and {_point(there * scale)} mm RAS by the qform. Resample it on an "
        "orthogonal grid by the sform, or set the sform's code to 0 if the qform is right."
    )


def _point(point: np.ndarray) -> str:
    return "(" + ", ".join(f"{v:.1f}" for v in point) + ")"
