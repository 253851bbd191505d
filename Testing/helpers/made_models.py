# SPDX-License-Identifier: Apache-2.0
"""Small models that anybody can tell from each other, and archives of them."""

from __future__ import annotations

import hashlib
import json
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from DeepFLASHRegistrationLib.imaging.volume import Volume
from DeepFLASHRegistrationLib.methods.trained_models import CONFIG, WEIGHTS, ModelConfig, load_model, save_model
from DeepFLASHRegistrationLib.problem.parameters import Parameters
from DeepFLASHRegistrationLib.problem.resampling import linear

SETTINGS: dict[str, Any] = {
    "name": "ellipsoids",
    "kind": "unrolled",
    "architecture": {
        "stages": [{"steps": 1, "trained": 0, "channels": []}],
        "refinement": {"resolutions": [1], "bands": [9]},
    },
    "parameters": Parameters(similarity="ncc", resolutions=(2,), bands=(9,), iterations=(3,)),
    "ndim": 3,
    "unit_mm": 1.25,
    "spacing_mm": 1.0,
    "extent_mm": (20.0, 60.0),
    "energy": (0.4, 0.05),
    "description": "ellipsoids of formulas",
    "training_data": "40 ellipsoids",
    "license": "CC0",
}


def make(folder: Path, seed: int = 0, **changes: Any) -> Path:
    """A model in a folder; of another seed its weights are others."""
    weights = {"w": np.random.default_rng(seed).normal(size=(4, 3)).astype(np.float32)}
    return save_model(folder, ModelConfig(**{**SETTINGS, **changes}), weights)


def like_training(name: str, seed: int, inverted: bool = False) -> Volume:
    """An image like those a model was trained on: their mean and something of its own; or in another contrast."""
    mean = load_model(name).mean_image.image
    grid = mean.grid.resampled(factor=[0.5] * mean.ndim)
    values = linear(mean, grid)
    if inverted:
        values = values.max() - values
    noise = np.random.default_rng(seed).normal(0, 0.05, grid.shape)
    return Volume(grid, (100 * (values + noise)).astype(np.float32), f"{name} {seed}")


def rewrite(model: Path, change: Callable[[dict[str, Any]], None]) -> None:
    """Changes model.json as somebody would who knows how its checksums are made."""
    values = json.loads((model / CONFIG).read_text())
    checksums = values.pop("checksums")
    change(values)
    checksums["config"] = hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()
    checksums["weights"] = hashlib.sha256((model / WEIGHTS).read_bytes()).hexdigest()
    (model / CONFIG).write_text(json.dumps({**values, "checksums": checksums}))


def pack(model: Path, archive: Path, inside: str = "") -> Path:
    """A .zip of a model's files, in a folder of the archive."""
    archive.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as file:
        for path in sorted(model.iterdir()):
            file.write(path, f"{inside}{path.name}")
    return archive
