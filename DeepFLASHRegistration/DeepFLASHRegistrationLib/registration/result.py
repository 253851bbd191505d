# SPDX-License-Identifier: Apache-2.0
"""What a registration yields, and how it was made."""

from __future__ import annotations

import datetime
import hashlib
import importlib.metadata
import platform
import sys
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ..imaging.grid import Grid
from ..imaging.volume import Volume
from ..problem.deformation import Deformation, deformation_from
from ..problem.dense_map import DenseMap
from ..problem.field import Field
from ..problem.parameters import Parameters
from ..problem.subject import Subject
from ..version import __version__
from .verdict import Verdict

# Of result.json and of the events of --json-progress, as docs/result.schema.json describes them: raised when something
# that the schema promises changes or goes.
FORMAT = 1


@dataclass(eq=False)
class Result:
    """Everything a registration yields; NumPy only.

    Fields of displacements are float32 (*grid.shape, d) in LPS mm, affine included; determinants include it too. They
    are arrays, or computed when asked (problem.field.Field): ``result.fixed_to_moving[a:b]`` are some slices of one,
    ``np.asarray(result.fixed_to_moving)`` is the whole, which of large images fills gigabytes. labels_before are in the
    smallest integers that hold them. velocity holds what determines the maps: the arguments of a Deformation, v0 among
    them, or of a DenseMap. uncertainty: by how many mm the predicted fixed_to_moving scatters, if random answers were
    wanted.
    """

    parameters: Parameters
    fixed_grid: Grid
    moving_grid: Grid
    field_grid: Grid
    inverse_grid: Grid
    warped: Volume
    moving_affine: Volume
    affine: np.ndarray
    fixed_to_moving: np.ndarray | Field
    moving_to_fixed: np.ndarray | Field
    log_jacobian: Volume
    labels: Volume | None
    labels_before: Volume | None
    velocity: dict[str, Any]
    history: list[dict[str, Any]]
    metrics: dict[str, Any]
    timings: dict[str, float]
    provenance: dict[str, Any]
    verdict: Verdict
    cancelled: bool = False
    notes: list[str] = field(default_factory=list)
    uncertainty: Volume | None = None

    @property
    def displacement(self) -> np.ndarray | Field:
        """fixed_to_moving on the fixed image's own grid, without the margin of its field's."""
        if isinstance(self.fixed_to_moving, Field):
            return self.fixed_to_moving.inner(self.fixed_grid)
        margin = [(n - m) // 2 for n, m in zip(self.field_grid.shape, self.fixed_grid.shape, strict=True)]
        inner = tuple(slice(a, a + m) for a, m in zip(margin, self.fixed_grid.shape, strict=True))
        return self.fixed_to_moving[inner]

    @property
    def deformation(self) -> Deformation | DenseMap:
        """The geodesic itself, or the dense map, from which every map can be computed anew."""
        return deformation_from(self.velocity)


def provenance(fixed: Subject, moving: Subject, device: str, threads: int | None) -> dict[str, Any]:
    """Versions, device, date and hashes of the images."""
    import torch

    title = (
        torch.cuda.get_device_name(device) if device.startswith("cuda") else platform.processor() or platform.machine()
    )
    return {
        "program": f"deepflash-registration {__version__}",
        "date": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        "device": f"{device} ({title})",
        "threads": torch.get_num_threads() if threads is None else threads,
        "python": platform.python_version(),
        "numpy": np.__version__,
        "torch": str(torch.__version__),
        "SimpleITK": _version("SimpleITK"),
        "platform": platform.platform(),
        "fixed_sha256": digest(fixed.image),
        "moving_sha256": digest(moving.image),
        **{
            f"{name}_channels_sha256": [digest(image) for image in side.images[1:]]
            for name, side in (("fixed", fixed), ("moving", moving))
            if side.images[1:]
        },
    }


def _version(package: str) -> str | None:
    """Of a package that is installed, whether it had a part in this or not; None without it."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:  # some programs come with packages that are not told of
        return getattr(sys.modules.get(package), "__version__", None)


def digest(volume: Volume) -> str:
    """SHA-256 of a checked image's voxels and their place in space."""
    digest = hashlib.sha256(np.ascontiguousarray(volume.data))
    digest.update(volume.grid.affine.tobytes())
    return digest.hexdigest()
