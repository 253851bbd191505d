# SPDX-License-Identifier: Apache-2.0
"""Training in a pose: the recipes of the dual nets, the domain that follows from a mean image, and the file of both."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ..imaging.files import atomic
from ..imaging.grid import Grid
from ..imaging.intensities import foreground
from ..methods.pose import MeanImage, Place
from ..methods.prediction_on_domain import domain_of, domain_values
from ..problem.parameters import Parameters
from ..problem.working import level_factors
from ..support.errors import InputError
from ..support.tensors import read_tensors, write_tensors
from .recipes import stated

PLACE = "place.safetensors"
_SPARED = 1.1  # times what is looked at, on one side of the center
_BEFORE = 0.025  # of the domain's edge, between the center and what is looked at


@dataclass(frozen=True)
class PosedRecipe:
    """What a dual net learns, and its size.

    Attributes:
        parameters: of FLASH, which teaches; one level, whose band is that of v0.
        network: "cnn", "unet" or "dense".
        width: see learning.dual_net.
        refinement: resolutions and bands of FLASH after the prediction.
        unit_mm: the geodesics' unit of length.
        ignored_labels: labels up to this number are no structures.
    """

    parameters: Parameters
    network: str = "dense"
    width: int = 16
    refinement: dict[str, Any] = field(default_factory=lambda: {"resolutions": [2], "bands": [23]})
    unit_mm: float = 1.25
    ignored_labels: int = 0


_CROP = stated(resolutions=(2,), bands=(15,), iterations=(30,), margin_mm=8.0)
_BRAIN = stated(resolutions=(4,), bands=(15,), iterations=(20,), spacing_mm=1.25)
POSED_RECIPES = {
    "crop-dual-net": PosedRecipe(_CROP),
    "crop-dual-net-cnn": PosedRecipe(_CROP, "cnn"),
    "crop-dual-net-unet": PosedRecipe(_CROP, "unet"),
    "brain-dual-net": PosedRecipe(_BRAIN, refinement={"resolutions": [2, 1], "bands": [31, 47]}, ignored_labels=3),
}


@dataclass(frozen=True, eq=False)
class Posed:
    """A mean image, the domain in its space, and how a dual net looks at it (learning.dual_net), as fractions."""

    mean: MeanImage
    domain: Grid
    center: tuple[float, ...]
    look: tuple[tuple[float, float], ...]

    @property
    def place(self) -> Place:
        return Place(self.mean, self.domain)


def posed(mean: MeanImage, parameters: Parameters, spacing_mm: float) -> Posed:
    """The domain of a mean image's object and a margin, twice as long as what is looked at along its shortest axis.

    Looked at is what lies one voxel of the mean image within its object, or within what is known of it.
    """
    d, voxel = mean.grid.ndim, float(mean.grid.spacing.max())
    inside = foreground(mean.image) if mean.seen is None else mean.gray > 0
    at = mean.grid.index_to_physical(np.argwhere(inside))[:, ::-1]  # slowest axis first, as the domain's
    low, high = at.min(0) - voxel / 2, at.max(0) + voxel / 2
    seen = 0.0 if mean.seen is None else voxel
    looked = np.stack([low + seen, high - seen], 1)
    edges = high - low + 2 * parameters.margin_mm
    short = int(np.argmin(looked[:, 1] - looked[:, 0]))
    edges[short] = max(edges[short], 2 * _SPARED * float(looked[short, 1] - looked[short, 0]))
    trial = Grid((64,) * d, _along_axes(np.zeros(d), spacing_mm))
    factors = np.max([level_factors(trial, parameters)], 1)[0]
    shape = (np.ceil(edges / spacing_mm / factors) * factors).astype(int)
    edges = shape * spacing_mm
    corner = (low + high) / 2 - edges / 2
    domain = Grid(tuple(int(n) for n in shape), _along_axes(corner + spacing_mm / 2, spacing_mm))
    fractions = (looked - corner[:, None]) / edges[:, None]
    center = np.full(d, 0.5)
    center[short] = fractions[short, 0] - _BEFORE
    return Posed(mean, domain, tuple(float(x) for x in center), tuple((float(a), float(b)) for a, b in fractions))


def _along_axes(first: np.ndarray, spacing: float) -> np.ndarray:
    """The affine of a grid along z, y, x whose first voxel lies there (slowest axis first)."""
    d = len(first)
    affine = np.eye(d + 1)
    affine[:d, :d] = spacing * np.eye(d)[::-1]
    affine[:d, d] = first[::-1]
    return affine


def write_posed(folder: Path, values: Posed) -> None:
    """Writes it beside the velocities that were found there."""
    text = {
        "mean_image": values.mean.to_dict(),
        "domain": domain_values(values.domain),
        "center": values.center,
        "look": values.look,
    }
    with atomic(folder / PLACE) as temporary:
        write_tensors(temporary, {"mean image": values.mean.gray}, {"place": json.dumps(text)})


def read_posed(folder: Path) -> Posed:
    """What `write_posed` wrote; InputError if there is none, or it is damaged."""
    path = Path(folder) / PLACE
    if not path.exists():
        raise InputError(f'{path}: is missing. Teach with "deepflash teach --recipe …" for a model in a pose.')
    arrays, metadata = read_tensors(path)
    try:
        values = json.loads(metadata["place"])
        mean = MeanImage.from_dict(values["mean_image"], arrays.get("mean image"))
        look = tuple((float(a), float(b)) for a, b in values["look"])
        return Posed(mean, domain_of(values), tuple(map(float, values["center"])), look)
    except (ValueError, TypeError, LookupError) as error:
        raise InputError(f"{path}: cannot be used ({error}). Teach into another folder.") from error
