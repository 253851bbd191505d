# SPDX-License-Identifier: Apache-2.0
"""A new subject brought to a template as the template's own were, and where it lies among them.

The pose comes from what they were aligned with, the velocity from what they were registered to in the last round, less
the mean of theirs: a registration to the finished template alone would be off by what all of them had in common.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from ..alignment.affine import align
from ..imaging.io import write_volume
from ..imaging.volume import Volume
from ..problem.deformation import Deformation
from ..problem.problem import comparable
from ..problem.subject import Subject
from ..registration.register import made_of, register
from ..registration.result import FORMAT, Result
from ..registration.warping import warp_labels
from ..report import FILES
from ..results.folder import save_result
from ..results.plain import plain
from ..results.starts import centered
from ..support.errors import Cancelled, InputError
from ..support.output_folder import whole_folder
from ..version import __version__
from .saved_template import SavedTemplate
from .template_files import VOLUMES
from .template_images import outlier_limit
from .template_sides import is_flipped, to_mirror
from .volumes import by_title, carried_volumes, read_volumes

PROJECTION, TEMPLATE_LABELS = "projection.json", "template_labels.nii.gz"
WRITTEN = (*FILES, PROJECTION, TEMPLATE_LABELS)
# Which part of all lies behind after the alignment, and after the registration.
_ALIGNED, _REGISTERED = 0.1, 0.8


@dataclass(frozen=True)
class Projection:
    """A subject on a template.

    Attributes:
        result: the registration, as those of the template's subjects.
        distance: length of the geodesic from the template, the affine pose apart.
        percentile: which part of the template's subjects lies nearer, 0 to 100.
        far: whether it lies far from the rest, as the template's report says it of its own.
        to_mirror: which part of the way to the template's mirror image lies on that to it; None if that is not known.
        flipped: whether its left and right seem exchanged.
        labels: the template's labels on the subject's own grid; None if it has none.
        volumes: of these in mm³ (mm² of a slice), by structure.
        percentiles: of these volumes among the subjects', where volumes.tsv lies beside the template.
    """

    result: Result
    distance: float
    percentile: float
    far: bool
    to_mirror: float | None = None
    flipped: bool = False
    labels: Volume | None = None
    volumes: Mapping[str, float] = field(default_factory=dict)
    percentiles: Mapping[str, float] = field(default_factory=dict)


def project(
    subject: Subject,
    template: SavedTemplate,
    *,
    device: str = "auto",
    threads: int | None = None,
    progress: Callable[[dict[str, Any]], None] | None = None,
    cancel: Callable[[], bool] = lambda: False,
) -> Projection:
    """Brings a subject to a template.

    Args:
        subject: with labels and mask where there are any.
        template: where to.
        device, threads, progress, cancel: as for `register`.

    Raises:
        InputError: the subject or the template cannot be used.
        Cancelled: cancelled before there was anything to return.
    """
    middle = template.subject
    if subject.ndim != middle.ndim:
        raise InputError(f"{subject.name}: has {subject.ndim} dimensions, the template {middle.ndim}.")
    parameters, told = template.parameters, progress or (lambda event: None)
    if len(subject.images) - 1 != template.channels:
        raise InputError(
            f"{subject.name}: comes with {len(subject.images) - 1} further images, and the template has "
            f"{template.channels}. Name as many, in the same order (--channel)."
        )
    told({"phase": "affine", "progress": 0.0, "message": "Aligning"})
    alone = replace(subject.checked("moving"), images=subject.images[:1])
    fixed, moving = comparable(template.posed, alone, parameters)
    found = align(
        fixed.image.upright(),
        moving.image.upright(),
        "affine",
        masks=(fixed.mask, moving.mask),
        progress=_part(told, 0.0, _ALIGNED, {"phase": "affine", "message": "Aligning"}),
        cancelled=cancel,
        threads=threads,
        device="cpu" if device == "auto" else device,
    )
    if cancel():
        raise Cancelled("Cancelled before the alignment was found.")
    first = register(
        template.registered,
        replace(subject, labels=()),
        parameters,
        initial_affine=found.matrix @ template.middle,
        domain=template.domain,
        device=device,
        threads=threads,
        progress=_events(told, _ALIGNED, _REGISTERED),
        cancel=cancel,
    )
    if first.cancelled:
        raise Cancelled("Cancelled before the subject was registered.")
    result = made_of(
        middle,
        subject,
        parameters,
        centered(_geodesic(first), template.mean),
        device=device,
        threads=threads,
        progress=_events(told, _REGISTERED, 1.0),
        cancel=cancel,
    )
    result = replace(result, notes=list(dict.fromkeys([*found.notes, *first.notes, *result.notes])))
    return _placed(result, template, subject, middle)


def _placed(result: Result, template: SavedTemplate, subject: Subject, middle: Subject) -> Projection:
    """Where it lies among the template's own."""
    geodesic = _geodesic(result)
    distance, others = geodesic.length(), template.distances
    far = distance > outlier_limit(others)
    sides = template.sides
    side = to_mirror(geodesic, template.asymmetry) if sides else None
    flipped = side is not None and is_flipped(side, sides)
    labels, volumes, percentiles = None, {}, {}
    if template.labelled:
        carried = middle.labels[0]
        grid = subject.grid
        labels = Volume(grid, warp_labels(carried, grid, geodesic.displacement(grid, "moving_to_fixed")))
        volumes = by_title(carried_volumes(geodesic, carried.data, carried.grid), template.structures)
        path = template.folder / VOLUMES
        known = read_volumes(path) if path.is_file() else {}
        percentiles = {name: percentile(volume, known[name]) for name, volume in volumes.items() if known.get(name)}
    return Projection(result, distance, percentile(distance, others), far, side, flipped, labels, volumes, percentiles)


def percentile(value: float, others: Sequence[float]) -> float:
    """Which part of others lies below, those that are equal by half, 0 to 100."""
    values = np.asarray(others, dtype=np.float64)
    return float(100 * (np.mean(values < value) + np.mean(values == value) / 2))


def save_projection(
    found: Projection,
    folder: Path,
    template: SavedTemplate,
    subject: Subject,
    force: bool = False,
    outputs: Collection[str] | None = None,
) -> None:
    """Writes the result as `save_result` does, the template's labels in the subject and what is known of it.

    Raises:
        InputError, OSError: as `save_result`.
    """
    structures = [
        {"name": name, "volume": volume, "percentile": found.percentiles.get(name)}
        for name, volume in found.volumes.items()
    ]
    values = {
        "format": FORMAT,
        "program": f"deepflash-registration {__version__}",
        "template": str(template.folder.absolute()),
        "subject": subject.name,
        "distance": found.distance,
        "distance_percentile": found.percentile,
        "far": found.far,
        "to_mirror": found.to_mirror,
        "flipped": found.flipped,
        "subjects": len(template.subjects),
        "structures": structures,
    }
    with whole_folder(folder, WRITTEN, force) as temporary:
        inner = save_result(found.result, temporary / "result", template.subject, subject, outputs=outputs)
        for file in inner.iterdir():
            file.replace(temporary / file.name)
        inner.rmdir()
        if found.labels is not None:
            write_volume(temporary / TEMPLATE_LABELS, found.labels)
        text = json.dumps(plain(values), indent=1, allow_nan=False) + "\n"
        (temporary / PROJECTION).write_text(text, encoding="utf-8")


def _geodesic(result: Result) -> Deformation:
    found = result.deformation
    if not isinstance(found, Deformation):
        raise InputError("The template's method finds maps that are no geodesics.")
    return found


def _part(
    told: Callable[[dict[str, Any]], None], start: float, end: float, event: Mapping[str, Any]
) -> Callable[[float], None]:
    return lambda part: told({**event, "progress": start + (end - start) * part})


def _events(told: Callable[[dict[str, Any]], None], start: float, end: float) -> Callable[[dict[str, Any]], None]:
    """Tells a registration's events as those of a part of all."""
    return lambda event: told({**event, "progress": start + (end - start) * float(event.get("progress", 0.0))})
