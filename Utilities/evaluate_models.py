# SPDX-License-Identifier: Apache-2.0
"""Judges models for brains on unseen subjects with labels, beside FLASH; on the CPU.

    python Utilities/evaluate_models.py --data FOLDER [--models brain brain-t1] [--pairs 6] [--flash fast default]
        [--refine 3 5] [--contrast inverted] [--figures FILE]

FOLDER holds `oasis-brains`; the pairs are of the subjects in HELD_OUT of train_models.py. All start from the same
alignment and end in the same maps; Dice is that of the labels on the fixed image's own grid, folds are those of the
written field, and seconds are those of v0 alone. FILE takes all figures, as JSON.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "DeepFLASHRegistration"))

import torch
from DeepFLASHRegistrationLib.alignment.affine import align
from DeepFLASHRegistrationLib.imaging.io import read_labels, read_volume
from DeepFLASHRegistrationLib.imaging.volume import Volume
from DeepFLASHRegistrationLib.learning.feature_net import MULTIPLE
from DeepFLASHRegistrationLib.methods.flash import optimized
from DeepFLASHRegistrationLib.methods.prediction import Predictor, predictor_of
from DeepFLASHRegistrationLib.methods.trained_models import load_model
from DeepFLASHRegistrationLib.problem.parameters import Parameters
from DeepFLASHRegistrationLib.problem.problem import Problem, comparable
from DeepFLASHRegistrationLib.problem.subject import Subject
from DeepFLASHRegistrationLib.registration.maps import outputs, unfolded
from DeepFLASHRegistrationLib.registration.metrics import folded_voxels
from train_models import HELD_OUT

SPACING_MM = 1.25
NONE = 3  # labels of OASIS up to this one are no structures


class Silent:
    """Who watches a search: nobody."""

    @staticmethod
    def cancel() -> bool:
        return False

    def tell(self, **event: object) -> None: ...


def recolored(volume: Volume, how: str) -> Volume:
    """Another contrast; the background stays."""
    x = volume.data / np.percentile(volume.data[volume.data > 0], 99.5)
    curves = {
        "t1": x,
        "inverted": 1.1 - x,
        "bent": 0.2 + 0.8 * np.sin(np.pi * x.clip(0, 1)),
        "waved": 0.55 - 0.4 * np.cos(3 * np.pi * x.clip(0, 1)),
    }
    return volume.with_data(np.where(volume.data > 0, np.clip(curves[how], 0.02, None), 0).astype(np.float32))


def dice(one: np.ndarray, two: np.ndarray) -> float:
    """Mean over the structures that both have."""
    count = int(max(one.max(), two.max())) + 1
    a, b = (np.bincount(x.ravel(), minlength=count) for x in (one, two))
    both = np.bincount(one[one == two], minlength=count)
    used = (a > 0) & (b > 0)
    used[: NONE + 1] = False
    return float((2 * both[used] / (a + b)[used]).mean())


Found = tuple[torch.Tensor, object, float]
Finder = Callable[[Problem], Found]


def methods(options: argparse.Namespace) -> dict[str, Finder]:
    """By name, what finds v0, its metric, and the part of the energy that is left (of predictions)."""
    found: dict[str, Finder] = {}

    def flash(preset: str) -> Finder:
        parameters = Parameters.from_preset(preset, spacing_mm=SPACING_MM)
        return lambda problem: (*optimized(problem, parameters, "cpu", None, Silent())[:2], np.nan)

    def learned(model: Predictor, iterations: int) -> Finder:
        def find(problem: Problem) -> Found:
            energies: list[float] = []
            prediction = model.predict(problem, report=lambda *told: energies.append(told[-1]["energy"]))
            print(*prediction.unusual, sep="\n", end="\n" if prediction.unusual else "")
            v, metric = prediction.velocity, prediction.metric
            if iterations:
                parameters = dataclasses.replace(model.parameters, refinement=iterations)
                v, metric = optimized(problem, model.config.refining(parameters), "cpu", v, Silent())[:2]
            return v, metric, energies[-1] / energies[0]

        return find

    for name in options.models:
        model = predictor_of(load_model(name))
        for iterations in (0, *options.refine):
            found[model.config.name + (f"+{iterations}" if iterations else "")] = learned(model, iterations)
    return found | {preset: flash(preset) for preset in options.flash}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--models", nargs="*", default=[], help="names or folders")
    parser.add_argument("--pairs", type=int, default=6, help="at most 15 (default: 6)")
    parser.add_argument("--flash", nargs="*", default=[], help="presets beside")
    parser.add_argument("--refine", type=int, nargs="*", default=[], help="iterations of FLASH after the prediction")
    parser.add_argument(
        "--contrast", choices=("t1", "inverted", "bent", "waved"), default="t1", help="of the moving image"
    )
    parser.add_argument("--figures", type=Path)
    options = parser.parse_args()
    names = sorted(HELD_OUT["brain-t1"][0])
    pairs = [(a, b) for step in range(1, len(names)) for a, b in zip(names, names[step:])][: options.pairs]
    found, rows = methods(options), {}
    parameters = Parameters(resolutions=(1,), bands=(47,), iterations=(1,), spacing_mm=SPACING_MM)
    for one, two in pairs:
        folder = options.data / "oasis-brains"
        sides = [
            Subject(read_volume(folder / f"{n}_SS.nii.gz"), labels=read_labels(folder / f"{n}_glm.nii.gz")).checked()
            for n in (one, two)
        ]
        affine = align(sides[0].image, sides[1].image, "affine").matrix  # of the images as they are
        seen = [sides[0], sides[1].with_image(recolored(sides[1].image, options.contrast))]
        problem = Problem(*comparable(*seen, parameters), affine, parameters, unit_mm=SPACING_MM, multiple=MULTIPLE)
        for name, find in found.items():
            started = time.perf_counter()
            velocity, metric, left = find(problem)
            seconds = time.perf_counter() - started
            geodesic = problem.geodesic(velocity, metric, parameters)
            maps = unfolded(sides[0].grid, geodesic, problem.foreground, "cpu")
            parts = outputs(*sides, maps)
            fixed = sides[0].label_map.data
            field = parts["fixed_to_moving"]
            folds = int(np.count_nonzero(folded_voxels(field, parts["field_grid"])))
            row = (dice(fixed, parts["labels_before"].data), dice(fixed, parts["labels"].data), folds, seconds, left)
            rows.setdefault(name, []).append(row)
            print(
                f"{one} {two} {name:20s} before {row[0]:.4f} after {row[1]:.4f} folds {folds} {seconds:.1f} s",
                flush=True,
            )
    for name, values in rows.items():
        mean, spread = np.mean(values, 0), np.std(values, 0)
        print(f"{name:20s} before {mean[0]:.4f} after {mean[1]:.4f} folds {np.sum(values, 0)[2]:.0f} {mean[3]:.1f} s")
        print(f"    energy left {mean[4]:.3f} (sd {spread[4]:.3f})")
    if options.figures:
        options.figures.write_text(json.dumps({name: np.asarray(values).tolist() for name, values in rows.items()}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
