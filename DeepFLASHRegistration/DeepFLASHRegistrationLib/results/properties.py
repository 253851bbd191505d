# SPDX-License-Identifier: Apache-2.0
"""The properties of registration/properties.py, of results in folders."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ..imaging.volume import Volume
from ..problem.parameters import Parameters
from ..problem.reading import read_subject
from ..problem.subject import object_voxels
from ..problem.working import problem_grid
from ..registration.metrics import grid_points
from ..registration.properties import (
    carried,
    equivariance_errors,
    inverse_errors,
    inverse_gradients,
    summarized,
    there,
)
from .velocity import SUMMARY, SavedResult, load_result

NAME = "properties.json"
# Points of the object that are looked at; of derivatives, which take several each.
_POINTS, _GRADIENTS = 8_000, 2_000
# Of a working voxel, over which derivatives are taken.
_STEP = 0.5


def measure(
    rest: str | os.PathLike,
    exchanged: str | os.PathLike | None,
    moved: Mapping[str, Mapping[str, Any]],
    fixed: str,
    mask: str | None,
) -> dict[str, Any]:
    """Measures what results in folders say of each other, at points of the fixed object.

    Args:
        rest, exchanged: results of the images at rest, and of the same exchanged if there is one.
        moved: by any key, "folder" of a result of the images moved, and "fixed" and "moving", what moved them, (d+1,
            d+1) LPS mm.
        fixed, mask: files of the fixed image at rest, and of its mask.

    Returns:
        "voxel_mm", the working grid's; and "figures": by property mean, p95 and max: under the keys of ``moved``, in
        voxels, "inverse_own" and "inverse_exchanged" in voxels, "gradient_own" and "gradient_exchanged", "move" of the
        map after its affine in voxels, and "folds" in percent.

    Raises:
        InputError: a result or image cannot be read.
    """
    found = load_result(rest)
    subject = read_subject(fixed, mask=mask).checked("fixed")
    inside = object_voxels(subject)
    voxel = _voxel_mm(found, Volume(subject.grid, inside.astype(np.uint8)))
    points, fewer = (grid_points(subject.grid, inside, count) for count in (_POINTS, _GRADIENTS))
    own, other = found.deformation, None if exchanged is None else load_result(exchanged).deformation
    figures = {}
    for key, way in moved.items():
        there_is, matrices = load_result(way["folder"]).deformation, [np.array(way[n]) for n in ("fixed", "moving")]
        figures[key] = summarized(equivariance_errors(own, there_is, *matrices, points), voxel)
    for name, back in (("own", None), ("exchanged", other)):
        if back is not None or name == "own":
            figures[f"inverse_{name}"] = summarized(inverse_errors(own, back, points), voxel)
            figures[f"gradient_{name}"] = summarized(inverse_gradients(own, back, fewer, _STEP * voxel))
    moves = np.linalg.norm(there(own, points) - carried(own.affine, points), axis=-1)
    figures["move"] = summarized(moves, voxel)
    values = json.loads((Path(rest) / SUMMARY).read_text(encoding="utf-8"))
    folded = float(values["metrics"]["folds_strict"]["percent"])
    figures["folds"] = {"mean": folded, "p95": folded, "max": folded}
    return {"voxel_mm": voxel, "figures": figures}


def _voxel_mm(found: SavedResult, inside: Volume) -> float:
    """The edge of the working grid's voxels; the geometric mean."""
    domain = getattr(found.deformation, "domain", None)
    if domain is None:  # fields alone do not say on what they were found
        domain = problem_grid(found.fixed_grid, inside, Parameters.from_dict(found.parameters or {}))
    return float(domain.voxel_volume ** (1 / domain.ndim))
