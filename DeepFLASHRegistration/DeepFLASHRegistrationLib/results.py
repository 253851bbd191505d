# SPDX-License-Identifier: Apache-2.0
"""A result as a folder of files, written as a whole or not at all, and read again."""

from __future__ import annotations

import errno
import json
import math
import os
import secrets
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from .deformation import Deformation
from .imaging.errors import InputError
from .imaging.grid import Grid
from .imaging.volume import Volume
from .registration import Result
from .report import FILES, write_report
from .tensors import read_tensors, write_tensors

VELOCITY = "velocity.safetensors"
_FORMAT = "deepflash-geodesic-1"
# What is written for a folded voxel, whose determinant has no logarithm.
_LOG_FLOOR = math.log(1e-3)


def check_output(folder: str | os.PathLike, force: bool = False) -> Path:
    """The folder as a Path, if a result may be written there; asked before any work.

    Raises:
        InputError: it is a file, holds files and ``force`` is not set, or cannot be written.
    """
    folder = Path(folder)
    if folder.exists() and not folder.is_dir():
        raise InputError(f"{folder}: is a file. Give the name of a folder.")
    if folder.is_dir() and any(folder.iterdir()) and not force:
        raise InputError(f"{folder}: exists and is not empty. Choose another folder, or add --force to replace an earlier "
                         "result in it (other files are left alone).")
    place = folder
    while not place.exists():
        place = place.parent
    probe = place / f".{secrets.token_hex(8)}"
    try:
        probe.mkdir()
        probe.rmdir()
    except OSError as error:
        raise InputError(f"{folder}: cannot be written ({error.strerror}). Choose another folder.") from error
    return folder


def save_result(result: Result, folder: str | os.PathLike, fixed: Volume, moving: Volume,
                fixed_labels: Volume | None = None, force: bool = False) -> Path:
    """Writes every file of report.FILES that the result has.

    Args:
        result: what register() returned for ``fixed`` and ``moving``.
        folder: made if needed; the files appear in it all at once, at the end.
        fixed_labels: drawn in the report.
        force: replace an earlier result in the folder; files of other names stay.

    Raises:
        InputError: see check_output.
        OSError: the disk is full or fails; nothing is left behind.
    """
    from .imaging.io import write_affine, write_displacement_field, write_volume

    folder = check_output(folder, force)
    made: Path | None = None
    place = folder if folder.is_dir() else folder.parent
    temporary = None
    try:
        if not place.exists():
            made = place
            while not made.parent.exists():
                made = made.parent
            place.mkdir(parents=True)
        temporary = place / f".{folder.name}.{secrets.token_hex(6)}.partial"
        temporary.mkdir()
        write_volume(temporary / "warped.nii.gz", result.warped)
        write_displacement_field(temporary / "fixed_to_moving.nii.gz", result.field_grid, result.fixed_to_moving,
                                 result.moving_grid)
        write_displacement_field(temporary / "moving_to_fixed.nii.gz", result.inverse_grid, result.moving_to_fixed,
                                 result.fixed_grid)
        write_affine(temporary / "affine.tfm", result.affine, result.fixed_grid, result.moving_grid)
        logarithm = np.maximum(result.log_jacobian.data, np.float32(_LOG_FLOOR))
        write_volume(temporary / "log_jacobian.nii.gz", result.log_jacobian.with_data(logarithm))
        if result.labels is not None:
            write_volume(temporary / "labels.nii.gz", result.labels)
        write_velocity(temporary / VELOCITY, result)
        write_report(temporary / "report.html", result, fixed, moving, fixed_labels)
        (temporary / "result.json").write_text(json.dumps(summary(result), indent=1, allow_nan=False), encoding="utf-8")
        if place == folder:
            for name in FILES:
                if (temporary / name).exists():
                    os.replace(temporary / name, folder / name)
                else:
                    (folder / name).unlink(missing_ok=True)
        else:
            os.replace(temporary, folder)
        made = None
    except OSError as error:
        if error.errno == errno.ENOSPC:
            raise OSError(errno.ENOSPC, f"{folder}: the disk is full, nothing was written. Free some space and try "
                                        "again") from error
        raise
    finally:
        if temporary is not None:
            shutil.rmtree(temporary, ignore_errors=True)
        if made is not None:
            shutil.rmtree(made, ignore_errors=True)
    return folder


def summary(result: Result) -> dict[str, Any]:
    """What result.json holds: plain values; what is not finite becomes null."""
    return _plain({
        "verdict": {"level": result.verdict.level, "reasons": result.verdict.reasons},
        "cancelled": result.cancelled,
        "metrics": result.metrics,
        "notes": result.notes,
        "timings_seconds": result.timings,
        "parameters": result.parameters.to_dict(),
        "provenance": result.provenance,
        "affine_fixed_to_moving_lps_mm": result.affine,
        "affine_log_determinant": float(np.log(abs(np.linalg.det(result.affine)))),
        "fixed_grid": _grid_values(result.fixed_grid),
        "field_grid": _grid_values(result.field_grid),
        "history": result.history,
        "files": {name: text for name, text in FILES.items() if name != "labels.nii.gz" or result.labels is not None},
    })


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, np.ndarray):
        return _plain(value.tolist())
    if isinstance(value, (list, tuple)):
        return [_plain(v) for v in value]
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def _grid_values(grid: Grid) -> dict[str, Any]:
    values: dict[str, Any] = {"shape": list(grid.shape), "index_to_lps_mm": grid.affine.tolist()}
    if grid.plane is not None:
        values.update(plane=grid.plane.tolist(), slice_axis=grid.slice_axis, slice_step=grid.slice_step)
    return values


def _grid(values: Mapping[str, Any]) -> Grid:
    plane = {k: values[k] for k in ("plane", "slice_axis", "slice_step") if k in values}
    return Grid(tuple(values["shape"]), np.array(values["index_to_lps_mm"]), **plane)


# -------------------------------------------------------------------------------------------------- the geodesic

_NUMBERS = ("unit_mm", "alpha", "power", "gamma", "metric_step", "margin_mm", "band_limited", "integrator", "steps")


def write_velocity(path: Path, result: Result) -> None:
    """Writes v0 and all that is needed to recompute every map from it."""
    values = result.velocity
    settings = {k: values[k] for k in _NUMBERS}
    settings["domain"] = _grid_values(values["domain"])
    settings["fixed"] = _grid_values(result.fixed_grid)
    settings["moving"] = _grid_values(result.moving_grid)
    write_tensors(path, {"velocity": values["velocity"].astype(np.float32), "affine": values["affine"]},
                  {"format": _FORMAT, "geodesic": json.dumps(_plain(settings)),
                   "parameters": json.dumps(result.parameters.to_dict())})


@dataclass(frozen=True, eq=False)
class SavedResult:
    """What `load_result` reads: the geodesic and the grids it was found on."""

    deformation: Deformation
    fixed_grid: Grid
    moving_grid: Grid


def load_result(path: str | os.PathLike) -> SavedResult:
    """Reads a result folder, or its velocity.safetensors.

    Raises:
        InputError: missing, damaged, or not written by this program.
    """
    path = Path(path)
    if path.is_dir():
        path = path / VELOCITY
    if not path.is_file():
        raise InputError(f"{path}: there is no such file. Pass the folder that \"deepflash register\" wrote.")
    tensors, metadata = read_tensors(path)
    try:
        if metadata.get("format") != _FORMAT:
            raise ValueError("it holds no geodesic of this program")
        settings = json.loads(metadata["geodesic"])
        grids = [_grid(settings[k]) for k in ("domain", "fixed", "moving")]
        velocity, affine = tensors["velocity"], tensors["affine"]
        d = grids[0].ndim
        modes = velocity.shape[1:]
        if velocity.shape[0] != d or len(modes) != d or any(n % 2 == 0 or n > 1023 for n in modes):
            raise ValueError("the velocity has an impossible shape")
        if affine.shape != (d + 1, d + 1) or not (np.isfinite(velocity).all() and np.isfinite(affine).all()):
            raise ValueError("the velocity or the affine is not finite")
        if abs(np.linalg.det(affine)) < 1e-12:
            raise ValueError("the affine is singular")
        numbers = {k: settings[k] for k in _NUMBERS}
        if not (0 < numbers["unit_mm"] < 1e6 and 0 <= numbers["steps"] <= 1000):
            raise ValueError("its settings are out of range")
        deformation = Deformation(domain=grids[0], velocity=velocity.astype(np.float32), affine=affine, **numbers)
    except (KeyError, TypeError, ValueError, json.JSONDecodeError) as error:
        raise InputError(f"{path}: cannot be used ({error}). Register again.") from error
    return SavedResult(deformation, grids[1], grids[2])
