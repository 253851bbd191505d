# SPDX-License-Identifier: Apache-2.0
"""The geodesic as a file, from which every map can be computed anew: written, and read again."""

from __future__ import annotations

import json
import os
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..imaging.grid import Grid
from ..problem.deformation import Deformation
from ..problem.parameters import INTEGRATORS
from ..registration.result import Result
from ..support.errors import InputError
from ..support.tensors import read_tensors, write_tensors
from .plain import grid_from, grid_values, plain

if TYPE_CHECKING:
    from .written_maps import WrittenMaps

VELOCITY, SUMMARY = "velocity.safetensors", "result.json"
# What a folder holds of a map that is no geodesic.
FIELDS = ("fixed_to_moving.nii.gz", "moving_to_fixed.nii.gz")
_FORMAT = "deepflash-geodesic-1"
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
_MOST_POINTS = 1 << 28


def write_velocity(path: Path, result: Result, history: bool = False) -> None:
    """Writes v0 and all that is needed to recompute every map from it; with `history` also how it was found, from
    which, and the images, the whole result can be made again."""
    values = result.velocity
    settings = {k: values[k] for k in (*(name for name, *_ in _NUMBERS), "band_limited", "integrator")}
    settings["domain"] = grid_values(values["domain"])
    settings["fixed"] = grid_values(result.fixed_grid)
    settings["moving"] = grid_values(result.moving_grid)
    tensors = {"velocity": values["velocity"].astype(np.float32), "affine": values["affine"].astype(np.float64)}
    text = json.dumps(plain(settings))
    write_tensors(
        path,
        tensors,
        {
            "format": _FORMAT,
            "geodesic": text,
            "crc32": _checksum(tensors, text),
            "parameters": json.dumps(result.parameters.to_dict()),
            **({"history": json.dumps(plain(_history(result)))} if history else {}),
        },
    )


def _history(result: Result) -> dict[str, Any]:
    values = {name: getattr(result, name) for name in ("history", "cancelled", "timings", "provenance", "notes")}
    return {**values, **{name: result.metrics.get(name, ()) for name in ("unusual", "levels_ended")}}


def _checksum(tensors: Mapping[str, np.ndarray], text: str) -> str:
    """A flipped bit of a velocity is a wrong map that looks like a right one."""
    value = zlib.crc32(text.encode())
    for name in sorted(tensors):
        value = zlib.crc32(tensors[name].tobytes(), zlib.crc32(f"{name}{tensors[name].shape}".encode(), value))
    return f"{value:08x}"


@dataclass(frozen=True, eq=False)
class SavedResult:
    """What `load_result` reads: the geodesic, or the fields of a map that is none, the grids it was found on, and how
    (None where that was not kept)."""

    deformation: Deformation | WrittenMaps
    fixed_grid: Grid
    moving_grid: Grid
    parameters: dict[str, Any] | None = None
    history: dict[str, Any] | None = None


def load_result(path: str | os.PathLike) -> SavedResult:
    """Reads a result folder, or its velocity.safetensors.

    Raises:
        InputError: missing, damaged, or not written by this program.
    """
    path = Path(path)
    if path.is_dir():
        if not (path / VELOCITY).exists() and all((path / name).is_file() for name in (SUMMARY, *FIELDS)):
            return _load_fields(path)
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
        domain, fixed, moving = (grid_from(settings[k]) for k in ("domain", "fixed", "moving"))
        deformation = _deformation(domain, tensors["velocity"], tensors["affine"], settings)
        found = [json.loads(metadata[name]) if name in metadata else None for name in ("parameters", "history")]
        if not domain.ndim == fixed.ndim == moving.ndim:
            raise ValueError("its grids differ in dimension")
    except (LookupError, TypeError, AttributeError, ValueError, ArithmeticError, RecursionError) as error:
        reason = f"{error} is missing" if isinstance(error, KeyError) else error
        raise InputError(f"{path}: cannot be used ({reason}). Copy it again, or register again.") from error
    return SavedResult(deformation, fixed, moving, *found)


def _load_fields(folder: Path) -> SavedResult:
    """Of a folder whose map is no geodesic."""
    from .written_maps import WrittenMaps

    path = folder / SUMMARY
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        fixed, moving = (grid_from(values[name]) for name in ("fixed_grid", "moving_grid"))
        affine = np.array(values["affine_fixed_to_moving_lps_mm"], dtype=np.float64)
        if affine.shape != (fixed.ndim + 1,) * 2 or not np.isfinite(affine).all():
            raise ValueError("the affine is none")
        maps = WrittenMaps(fixed, moving, affine, *(folder / name for name in FIELDS))
        return SavedResult(maps, fixed, moving, values["parameters"])
    except (LookupError, TypeError, AttributeError, ValueError, ArithmeticError, RecursionError, OSError) as error:
        reason = f"{error} is missing" if isinstance(error, KeyError) else error
        raise InputError(f"{path}: cannot be used ({reason}). Copy it again, or register again.") from error


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
