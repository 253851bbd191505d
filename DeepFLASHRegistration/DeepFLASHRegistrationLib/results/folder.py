# SPDX-License-Identifier: Apache-2.0
"""A result as a folder of files."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Collection, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from ..imaging.segmentation import Segmentation, write_segmentation
from ..imaging.volume import Volume
from ..problem.field import Field
from ..problem.subject import Subject, subjects
from ..registration.result import FORMAT, Result
from ..registration.warping import warp_segmentation
from ..report import FILES, write_report
from ..support.output_folder import whole_folder
from .outputs import SEGMENTATION, UNCERTAINTY, chosen_files
from .plain import grid_values, plain
from .rounding import field_step, squeezed
from .velocity import FIELDS, VELOCITY, write_velocity

# What is written for a folded voxel, whose determinant has no logarithm.
_LOG_FLOOR = math.log(1e-3)


def save_result(
    result: Result,
    folder: str | os.PathLike,
    fixed: Subject | Volume,
    moving: Subject | Volume,
    fixed_labels: Volume | None = None,
    force: bool = False,
    outputs: Collection[str] | None = None,
    segmentation: Segmentation | None = None,
) -> Path:
    """Writes the files of report.FILES that the result has, or some of them.

    Args:
        result: what register() returned for ``fixed`` and ``moving``.
        folder: made if needed; the files appear in it all at once, at the end.
        fixed_labels: drawn in the report, where ``fixed`` is an image alone.
        force: replace an earlier result in the folder, also the files of it that are not written now; files of other
            names stay.
        outputs: what is written beside the velocity and result.json: names of files as in `chosen_files`; all by
            default.
        segmentation: of the moving image, carried to the fixed one with its names and colors.

    Raises:
        InputError: the folder is a file, holds files and ``force`` is not set, or cannot be written; an output is
            unknown.
        OSError: the disk is full or fails; nothing is left behind, and an earlier result is as it was.
    """
    one, two = subjects(fixed, moving, {"fixed_labels": fixed_labels})
    there = result.labels is not None, segmentation is not None, not result.deformation.timed
    files = chosen_files(outputs, *there, result.uncertainty is not None)
    with whole_folder(folder, FILES, force) as temporary:
        with ThreadPoolExecutor(1) as beside:
            # Drawn on one processor while others compress.
            report = None
            if "report.html" in files:
                report = beside.submit(write_report, temporary / "report.html", result, one, two, files)
            changes = _write_arrays(result, temporary, files)
            if segmentation is not None and SEGMENTATION in files:
                carried = warp_segmentation(segmentation, result.fixed_grid, result.displacement)
                write_segmentation(temporary / SEGMENTATION, carried)
            if VELOCITY in files:
                write_velocity(temporary / VELOCITY, result)
            if report:
                report.result()
        text = json.dumps(summary(result, files, changes), indent=1, allow_nan=False)
        (temporary / "result.json").write_text(text, encoding="utf-8")
    return Path(folder)


def _write_arrays(result: Result, folder: Path, files: Collection[str]) -> dict[str, float]:
    """Writes the images and transforms among the files; by how many mm rounding changed components at most, by file."""
    from ..imaging.io import write_volume
    from ..imaging.transforms import write_affine, write_displacement_field

    changes = {}
    there, back = squeezed(result)
    forth, inverse = FIELDS
    fields = {
        forth: (result.field_grid, result.fixed_to_moving, result.moving_grid, there),
        inverse: (result.inverse_grid, result.moving_to_fixed, result.fixed_grid, back),
    }
    for name, (grid, field, target, where) in fields.items():
        if name in files:
            step = field_step(field, grid, where)
            write_displacement_field(folder / name, grid, field, target, step)
            changes[name] = (step or 0) / 2
            if isinstance(field, Field):
                field.forget()
    if "affine.tfm" in files:
        write_affine(folder / "affine.tfm", result.affine, result.fixed_grid, result.moving_grid)
    if "warped.nii.gz" in files:
        write_volume(folder / "warped.nii.gz", result.warped)
    if "log_jacobian.nii.gz" in files:
        logarithm = np.maximum(result.log_jacobian.data, np.float32(_LOG_FLOOR))
        write_volume(folder / "log_jacobian.nii.gz", result.log_jacobian.with_data(logarithm))
    if UNCERTAINTY in files:
        write_volume(folder / UNCERTAINTY, result.uncertainty)
    if "labels.nii.gz" in files:
        write_volume(folder / "labels.nii.gz", result.labels)
    return changes


def summary(result: Result, files: Collection[str], changes: Mapping[str, float]) -> dict[str, Any]:
    """What result.json holds: plain values; what is not finite becomes null.

    files: names of those that are written; changes: by how many mm rounding changed components at most, by file.
    """
    return plain(
        {
            "format": FORMAT,
            "verdict": result.verdict.to_dict(),
            "cancelled": result.cancelled,
            "metrics": result.metrics,
            "notes": result.notes,
            "timings_seconds": result.timings,
            "parameters": result.parameters.to_dict(),
            "provenance": result.provenance,
            "affine_fixed_to_moving_lps_mm": result.affine,
            "affine_log_determinant": float(np.log(abs(np.linalg.det(result.affine)))),
            "fixed_grid": grid_values(result.fixed_grid),
            "moving_grid": grid_values(result.moving_grid),
            "field_grid": grid_values(result.field_grid),
            "history": result.history,
            "files": {name: FILES[name] for name in files},
            "largest_change_by_rounding_mm": changes,
        }
    )
