# SPDX-License-Identifier: Apache-2.0
"""Models that were trained on packs: what their registrations are, and what their cards say."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..methods import registry
from ..methods.prediction import predictor_of
from ..methods.trained_models import ModelConfig, load_model, save_model
from ..problem.problem import comparable
from ..problem.subject import Subject
from .learned import Method
from .mean_image import mean_image
from .pack import FIRST_OUTSIDE, Pack, grid_of, image_of
from .train import About

_SHOWN = 12  # gray levels of a pack from which on something is there
_EXPECTED = (0.5, 0.1)  # part of the energy that a prediction leaves, and its spread, where nothing was measured
_LEAST_SPREAD = 0.02
_MEASURED_PAIRS = 6


def model_config(
    method: Method, packs: Sequence[Pack], about: About, course: str, figures: Mapping[str, Any], contrast: str = "any"
) -> ModelConfig:
    """What is known of a model.

    Args:
        method: that was trained.
        packs: that it was trained on.
        about: what its card says.
        course: how long it was trained, as a sentence.
        figures: on unseen subjects.
        contrast: of what it was trained to take, see ModelConfig.
    """
    architecture, parameters = method.described(packs)
    licenses = dict.fromkeys(pack.facts["license"] for pack in packs if pack.facts.get("license"))
    credit = dict.fromkeys(pack.facts["attribution"] for pack in packs if pack.facts.get("attribution"))
    restricted = [text for text in licenses if "NC" in text.replace("-", " ").split()]
    note = f"Not for commercial use: trained on data under {restricted[0]}." if restricted else ""
    return ModelConfig(
        name=about.name,
        kind=method.kind,
        architecture=architecture,
        parameters=parameters,
        ndim=len(packs[0].shape),
        unit_mm=packs[0].spacing_mm,
        spacing_mm=packs[0].spacing_mm,
        extent_mm=extent_mm(packs),
        energy=_EXPECTED,
        description=about.description,
        training_data=f"{about.training_data or _data(packs)}. {course}",
        trained=course,
        contrast=contrast,
        license=about.license,
        license_note=about.license_note or note,
        attribution=about.attribution or "; ".join(credit),
        limits=about.limits,
        held_out=dict(figures),
    )


def save_measured(folder: Path, config: ModelConfig, weights: Mapping[str, np.ndarray], packs: Sequence[Pack]) -> None:
    """Writes a model, its weights rounded to half precision, with the mean image of the packs that have images, and
    what its predictions leave of the energy of pairs of unseen subjects: by both it tells images unlike those it was
    trained on."""
    halves = {name: value.astype(np.float16) for name, value in weights.items()}
    seen = [image_of(pack, i) for pack in packs if pack.images is not None for i in pack.trained]
    mean = mean_image(seen) if seen else None
    save_model(folder, config, halves, mean)
    left = energies_left(folder, packs)
    if left:
        energy = (float(np.mean(left)), max(float(np.std(left)), _LEAST_SPREAD))
        held_out = {**config.held_out, "energy left": round(energy[0], 4)}
        save_model(folder, dataclasses.replace(config, energy=energy, held_out=held_out), halves, mean)


def energies_left(folder: Path, packs: Sequence[Pack]) -> list[float]:
    """Part of the energy that a model's predictions leave, by pair of unseen subjects with images."""
    predictor = predictor_of(load_model(folder))
    plan = registry.Plan(predictor.parameters, predictor)
    found: list[float] = []
    for pack in packs:
        if pack.images is None:
            continue
        grid = grid_of(pack)
        for a, b in list(zip(pack.unseen, (*pack.unseen[1:], *pack.unseen[:1])))[:_MEASURED_PAIRS]:
            if a == b:
                continue
            sides = [Subject(image_of(pack, i)).checked() for i in (a, b)]
            matrix = grid.affine @ pack.affines[b] @ np.linalg.inv(pack.affines[a]) @ grid.inverse_affine
            problem = plan.problem(*comparable(*sides, plan.parameters), matrix)
            energies: list[float] = []
            predictor.predict(problem, report=lambda *told, to=energies: to.append(told[-1]["energy"]))
            found.append(energies[-1] / energies[0])
    return [x for x in found if np.isfinite(x)]


def extent_mm(packs: Sequence[Pack]) -> tuple[float, float]:
    """Smallest and largest length along any axis of what the packs show."""
    lengths = []
    for pack in packs:
        for i in range(len(pack)):
            if pack.labels is not None:
                shown = (pack.labels[i] > 0) & (pack.labels[i] < FIRST_OUTSIDE)
            else:
                shown = pack.images[i] >= _SHOWN
            at = np.argwhere(shown)
            if len(at):
                lengths.append((at.max(0) - at.min(0) + 1) * pack.spacing_mm)
    return (float(np.min(lengths)), float(np.max(lengths))) if lengths else (1.0, 1e4)


def held_out(validation: Mapping[str, float], packs: Sequence[Pack]) -> dict[str, Any]:
    """What a card says of a validation (validation.Validator): Dice of each pack, and of the first alone by the names
    that are shown beside a model."""
    found: dict[str, Any] = {}
    for pack in packs:
        before, after = (validation.get(f"{pack.name} {key}") for key in ("dice_before", "dice"))
        if before is not None and after is not None:
            if not found:
                found = {"validation Dice before": before, "validation Dice after": after}
            found |= {f"{pack.name}, Dice before": before, f"{pack.name}, Dice after": after}
    return found


def _data(packs: Sequence[Pack]) -> str:
    parts = []
    for pack in packs:
        kind = "label maps, of which images were made" if pack.images is None else "images"
        if pack.images is not None and pack.labels is not None:
            kind += " with labels"
        license_ = f" ({pack.facts['license']})" if pack.facts.get("license") else ""
        parts.append(f"{pack.facts.get('description') or pack.name}{license_}: {len(pack.trained)} {kind}")
    return "; ".join(parts)
