# SPDX-License-Identifier: Apache-2.0
"""Which files of a result are written, and how much that will be."""

from __future__ import annotations

import math
import os
import shutil
from collections.abc import Collection
from pathlib import Path

import numpy as np

from ..imaging.grid import Grid
from ..problem.parameters import Parameters
from ..registration.maps import field_grids
from ..registration.needs import TURNED
from ..report import FILES
from ..support.errors import InputError
from .velocity import FIELDS, VELOCITY

# By the name of an output, that of its file.
OUTPUTS = {name.split(".")[0]: name for name in FILES}
SEGMENTATION = "segmentation.seg.nrrd"
UNCERTAINTY = "uncertainty.nii.gz"
# Without the first nothing could be computed anew, without the second nobody knows what a folder holds.
_ALWAYS = (VELOCITY, "result.json")

# At most, of the bytes in memory: fields of brains take 0.33 to 0.36, smoother or finer ones less; a warped image what
# its background leaves of it.
_FIELD_SHARE, _IMAGE_SHARE, _LABEL_SHARE = 0.37, 1.0, 0.1
_REPORT_BYTES, _REST_BYTES = 1_500_000, 50_000


def chosen_files(
    outputs: Collection[str] | None,
    labels: bool,
    segmentation: bool = False,
    dense: bool = False,
    uncertainty: bool = False,
) -> list[str]:
    """Names of the files to write, in the order of report.FILES.

    Args:
        outputs: names of files, with or without suffix; None for all.
        labels, segmentation: whether there are labels to write, and a segmentation.
        dense: whether the map is no geodesic: then its fields take the place of the velocity.
        uncertainty: whether it is known.

    Raises:
        InputError: there is no such output.
    """
    wanted = set(FILES) if outputs is None else set(_ALWAYS)
    if dense:
        wanted = (wanted - {VELOCITY}) | set(FIELDS)
    for name in outputs or ():
        file = OUTPUTS.get(name, name)
        if file not in FILES:
            raise InputError(f"There is no output {name!r}. Choose among {', '.join(OUTPUTS)}.")
        wanted.add(file)
    there = {"labels.nii.gz": labels, SEGMENTATION: segmentation, VELOCITY: not dense, UNCERTAINTY: uncertainty}
    return [name for name in FILES if name in wanted and there.get(name, True)]


def written_bytes(files: Collection[str], fixed: Grid, parameters: Parameters, affine: np.ndarray | None = None) -> int:
    """How many bytes the files of a result take at most.

    Args:
        files: as `chosen_files` returns them.
        fixed: the fixed image's grid.
        parameters: of the registration.
        affine: the linear map, if it is known.
    """
    return math.ceil(sum(_sizes(files, fixed, parameters, affine).values()))


def waiting_bytes(files: Collection[str], fixed: Grid, parameters: Parameters, affine: np.ndarray | None = None) -> int:
    """How many more bytes lie on the disk at most while the files are written: components of a field wait there for the
    end of the first (see `imaging.image_files.gzip_blocks`)."""
    sizes = _sizes(files, fixed, parameters, affine)
    components = fixed.ndim if fixed.plane is None else 3
    return math.ceil(max((sizes.get(name, 0) for name in FIELDS), default=0) * (components - 1) / components)


def _sizes(files: Collection[str], fixed: Grid, parameters: Parameters, affine: np.ndarray | None) -> dict[str, float]:
    """Bytes of each file at most."""
    d = fixed.ndim
    forth, back = field_grids(fixed, np.eye(d + 1) if affine is None else affine)
    turned = TURNED if affine is None and parameters.initial_alignment in ("rigid", "affine") else 1.0
    components = d if fixed.plane is None else 3
    sizes = {
        "warped.nii.gz": 4 * _IMAGE_SHARE * fixed.size,
        "labels.nii.gz": 4 * _LABEL_SHARE * fixed.size,
        SEGMENTATION: 4 * _LABEL_SHARE * fixed.size,
        FIELDS[0]: 4 * _FIELD_SHARE * components * forth.size,
        FIELDS[1]: 4 * _FIELD_SHARE * components * back.size * turned,
        "log_jacobian.nii.gz": 4 * fixed.size,
        UNCERTAINTY: 4 * fixed.size,
        VELOCITY: 4 * d * max(parameters.bands) ** d,
        "report.html": _REPORT_BYTES,
    }
    return {name: sizes.get(name, _REST_BYTES) for name in files}


def check_space(folder: str | os.PathLike, size: int) -> None:
    """InputError unless so many bytes are free where the folder is, or will be."""
    place = Path(folder).absolute()
    while not place.exists():
        place = place.parent
    free = shutil.disk_usage(place).free
    if size > free:
        raise InputError(
            f"{folder}: up to {megabytes(size)} will be written, and {megabytes(free)} are free on that disk. Free "
            "some space, choose another folder, or fewer files (--outputs)."
        )


def megabytes(size: float) -> str:
    """A number of bytes in words."""
    return f"{size / 1e9:.1f} GB" if size >= 1e9 else f"{max(1, round(size / 1e6))} MB"
