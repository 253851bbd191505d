# SPDX-License-Identifier: Apache-2.0
"""A result as a folder of files."""

from __future__ import annotations

import json
import math
import os
from pathlib import Path
from typing import Any

import numpy as np

from ..imaging.volume import Volume
from ..problem.subject import Subject, subjects
from ..registration.result import Result
from ..report import FILES, write_report
from ..support.output_folder import whole_folder
from .plain import grid_values, plain
from .velocity import VELOCITY, write_velocity

# What is written for a folded voxel, whose determinant has no logarithm.
_LOG_FLOOR = math.log(1e-3)


def save_result(
    result: Result,
    folder: str | os.PathLike,
    fixed: Subject | Volume,
    moving: Subject | Volume,
    fixed_labels: Volume | None = None,
    force: bool = False,
) -> Path:
    """Writes every file of report.FILES that the result has.

    Args:
        result: what register() returned for ``fixed`` and ``moving``.
        folder: made if needed; the files appear in it all at once, at the end.
        fixed_labels: drawn in the report, where ``fixed`` is an image alone.
        force: replace an earlier result in the folder; files of other names stay.

    Raises:
        InputError: the folder is a file, holds files and ``force`` is not set, or cannot be written.
        OSError: the disk is full or fails; nothing is left behind, and an earlier result is as it was.
    """
    from ..imaging.io import write_volume
    from ..imaging.transforms import write_affine, write_displacement_field

    one, two = subjects(fixed, moving, {"fixed_labels": fixed_labels})
    with whole_folder(folder, FILES, force) as temporary:
        write_volume(temporary / "warped.nii.gz", result.warped)
        write_displacement_field(
            temporary / "fixed_to_moving.nii.gz", result.field_grid, result.fixed_to_moving, result.moving_grid
        )
        write_displacement_field(
            temporary / "moving_to_fixed.nii.gz", result.inverse_grid, result.moving_to_fixed, result.fixed_grid
        )
        write_affine(temporary / "affine.tfm", result.affine, result.fixed_grid, result.moving_grid)
        logarithm = np.maximum(result.log_jacobian.data, np.float32(_LOG_FLOOR))
        write_volume(temporary / "log_jacobian.nii.gz", result.log_jacobian.with_data(logarithm))
        if result.labels is not None:
            write_volume(temporary / "labels.nii.gz", result.labels)
        write_velocity(temporary / VELOCITY, result)
        write_report(temporary / "report.html", result, one, two)
        (temporary / "result.json").write_text(json.dumps(summary(result), indent=1, allow_nan=False), encoding="utf-8")
    return Path(folder)


def summary(result: Result) -> dict[str, Any]:
    """What result.json holds: plain values; what is not finite becomes null."""
    return plain(
        {
            "verdict": {"level": result.verdict.level, "reasons": result.verdict.reasons},
            "cancelled": result.cancelled,
            "metrics": result.metrics,
            "notes": result.notes,
            "timings_seconds": result.timings,
            "parameters": result.parameters.to_dict(),
            "provenance": result.provenance,
            "affine_fixed_to_moving_lps_mm": result.affine,
            "affine_log_determinant": float(np.log(abs(np.linalg.det(result.affine)))),
            "fixed_grid": grid_values(result.fixed_grid),
            "field_grid": grid_values(result.field_grid),
            "history": result.history,
            "files": {
                name: text for name, text in FILES.items() if name != "labels.nii.gz" or result.labels is not None
            },
        }
    )
