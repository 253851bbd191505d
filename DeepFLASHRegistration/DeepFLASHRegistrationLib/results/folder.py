# SPDX-License-Identifier: Apache-2.0
"""A result as a folder of files: what is in them, and the geodesic read again."""

from __future__ import annotations

import json
import math
import os
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..imaging.grid import Grid
from ..imaging.volume import Volume
from ..problem.deformation import Deformation
from ..problem.parameters import INTEGRATORS
from ..registration.register import Result
from ..report import FILES, write_report
from ..support.errors import InputError
from ..support.output_folder import whole_folder
from ..support.tensors import read_tensors, write_tensors

VELOCITY = "velocity.safetensors"
_FORMAT = "deepflash-geodesic-1"
# What is written for a folded voxel, whose determinant has no logarithm.
_LOG_FLOOR = math.log(1e-3)


def save_result(
    result: Result,
    folder: str | os.PathLike,
    fixed: Volume,
    moving: Volume,
    fixed_labels: Volume | None = None,
    force: bool = False,
) -> Path:
    """Writes every file of report.FILES that the result has.

    Args:
        result: what register() returned for ``fixed`` and ``moving``.
        folder: made if needed; the files appear in it all at once, at the end.
        fixed_labels: drawn in the report.
        force: replace an earlier result in the folder; files of other names stay.

    Raises:
        InputError: the folder is a file, holds files and ``force`` is not set, or cannot be written.
        OSError: the disk is full or fails; nothing is left behind, and an earlier result is as it was.
    """
    from ..imaging.io import write_volume
    from ..imaging.transforms import write_affine, write_displacement_field

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
        write_report(temporary / "report.html", result, fixed, moving, fixed_labels)
        (temporary / "result.json").write_text(json.dumps(summary(result), indent=1, allow_nan=False), encoding="utf-8")
    return Path(folder)


def summary(result: Result) -> dict[str, Any]:
    """What result.json holds: plain values; what is not finite becomes null."""
    return _plain(
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
            "fixed_grid": _grid_values(result.fixed_grid),
            "field_grid": _grid_values(result.field_grid),
            "history": result.history,
            "files": {
                name: text for name, text in FILES.items() if name != "labels.nii.gz" or result.labels is not None
            },
        }
    )


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
    if math.prod(int(n) for n in values["shape"]) > _MOST_VOXELS:
        raise ValueError("a grid has too many voxels")
    return Grid(tuple(values["shape"]), np.array(values["index_to_lps_mm"]), **plane)


# -------------------------------------------------------------------------------------------------- the geodesic

# Numbers of a Deformation, with what they may be.
_NUMBERS = (
    ("unit_mm", 1e-9, 1e6),
    ("alpha", 0.0, 1e9),
    ("power", 0.0, 32.0),
    ("gamma", 1e-9, 1e9),
    ("metric_step", 1e-9, 1e9),
    ("margin_mm", 0.0, 1e6),
    ("steps", 0, 1000),
)
_MOST_POINTS, _MOST_VOXELS = 1 << 28, 1 << 34


def write_velocity(path: Path, result: Result) -> None:
    """Writes v0 and all that is needed to recompute every map from it."""
    values = result.velocity
    settings = {k: values[k] for k in (*(name for name, *_ in _NUMBERS), "band_limited", "integrator")}
    settings["domain"] = _grid_values(values["domain"])
    settings["fixed"] = _grid_values(result.fixed_grid)
    settings["moving"] = _grid_values(result.moving_grid)
    tensors = {"velocity": values["velocity"].astype(np.float32), "affine": values["affine"].astype(np.float64)}
    text = json.dumps(_plain(settings))
    write_tensors(
        path,
        tensors,
        {
            "format": _FORMAT,
            "geodesic": text,
            "crc32": _checksum(tensors, text),
            "parameters": json.dumps(result.parameters.to_dict()),
        },
    )


def _checksum(tensors: Mapping[str, np.ndarray], text: str) -> str:
    """A flipped bit of a velocity is a wrong map that looks like a right one."""
    value = zlib.crc32(text.encode())
    for name in sorted(tensors):
        value = zlib.crc32(tensors[name].tobytes(), zlib.crc32(f"{name}{tensors[name].shape}".encode(), value))
    return f"{value:08x}"


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
        raise InputError(f'{path}: there is no such file. Pass the folder that "deepflash register" wrote.')
    tensors, metadata = read_tensors(path)
    if metadata.get("format") == _FORMAT and "crc32" not in metadata:
        raise InputError(
            f"{path}: was written by an early version, without the checksum that tells whether it is intact. "
            "Register the images again; result.json beside it has the parameters."
        )
    try:
        if metadata.get("format") != _FORMAT:
            raise ValueError("it holds no geodesic of this program")
        if metadata["crc32"] != _checksum(tensors, metadata["geodesic"]):
            raise ValueError("its checksum is wrong")
        settings = json.loads(metadata["geodesic"])
        domain, fixed, moving = (_grid(settings[k]) for k in ("domain", "fixed", "moving"))
        deformation = _deformation(domain, tensors["velocity"], tensors["affine"], settings)
        if not domain.ndim == fixed.ndim == moving.ndim:
            raise ValueError("its grids differ in dimension")
    except (LookupError, TypeError, AttributeError, ValueError, ArithmeticError, RecursionError) as error:
        reason = f"{error} is missing" if isinstance(error, KeyError) else error
        raise InputError(f"{path}: cannot be used ({reason}). Copy it again, or register again.") from error
    return SavedResult(deformation, fixed, moving)


def _deformation(domain: Grid, velocity: np.ndarray, affine: np.ndarray, settings: Mapping[str, Any]) -> Deformation:
    """The Deformation of checked values; ValueError for those that no registration leaves."""
    d = domain.ndim
    modes = velocity.shape[1:]
    if velocity.dtype != np.float32 or len(modes) != d or len(velocity) != d or any(n % 2 == 0 for n in modes):
        raise ValueError("the velocity has an impossible shape")
    if affine.shape != (d + 1, d + 1) or not (np.isfinite(velocity).all() and np.isfinite(affine).all()):
        raise ValueError("the velocity or the affine is not finite")
    if not 1e-12 < abs(np.linalg.det(affine)) < 1e12 or (affine[d] != np.eye(d + 1)[d]).any():
        raise ValueError("the affine is singular")
    for name, low, high in _NUMBERS:
        if not (settings[name] is None and name == "metric_step") and not low <= float(settings[name]) <= high:
            raise ValueError(f"its {name} is out of range")
    if settings["integrator"] not in INTEGRATORS or (type(settings["band_limited"]), type(settings["steps"])) != (
        bool,
        int,
    ):
        raise ValueError("its settings are unknown")
    lengths = domain.extent / float(settings["unit_mm"])
    # A map takes about as many points as the velocity has coefficients; a stretched domain would take any number.
    wavelength = min(2 * length / max(n - 1, 1) for n, length in zip(modes, lengths, strict=True))
    if np.prod(np.minimum(lengths * 8 / wavelength, domain.shape)) > _MOST_POINTS:
        raise ValueError("its grid does not suit its band")
    numbers = {name: settings[name] for name in ("metric_step", "steps", "integrator", "band_limited")}
    numbers |= {name: float(settings[name]) for name, *_ in _NUMBERS if name not in numbers}
    return Deformation(domain=domain, velocity=velocity, affine=affine, **numbers)
