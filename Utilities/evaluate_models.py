# SPDX-License-Identifier: Apache-2.0
"""Judges models for brains on unseen subjects with labels, beside FLASH.

    python Utilities/evaluate_models.py --data FOLDER [--models brain brain-t1] [--pairs 1000:1001 1006:1017]
        [--flash fast default] [--refine 3 5] [--contrast inverted] [--figures FILE]

FOLDER holds `oasis-brains`. All start from the same alignment and end in the same maps; Dice is that of the labels on
the fixed image's own grid, and folds are those of the written field. Seconds are those of the method alone, from images
to v0, and with the maps; of one thread and of its processor's time, which others' work does not prolong, by default.
FILE takes all figures, as JSON.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "DeepFLASHRegistration"))

import torch
from DeepFLASHRegistrationLib.alignment.affine import align
from DeepFLASHRegistrationLib.imaging.io import read_labels, read_volume
from DeepFLASHRegistrationLib.imaging.volume import Volume
from DeepFLASHRegistrationLib.methods import registry
from DeepFLASHRegistrationLib.methods.trained_models import load_model
from DeepFLASHRegistrationLib.problem.parameters import Parameters
from DeepFLASHRegistrationLib.problem.problem import comparable
from DeepFLASHRegistrationLib.problem.subject import Subject
from DeepFLASHRegistrationLib.registration.carried import carried
from DeepFLASHRegistrationLib.registration.maps import unfolded
from DeepFLASHRegistrationLib.registration.metrics import folded_voxels

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


def methods(options: argparse.Namespace) -> dict[str, Parameters]:
    """The parameters of what is judged, by name."""
    found: dict[str, Parameters] = {}
    for model in options.models:
        load_model(model)  # or a sentence that says why not
        name = Path(model).name
        found[name] = Parameters(method="deepflash", model=model)
        for n in options.refine:
            found[f"{name}+{n}"] = Parameters(method="deepflash+flash", model=model, refinement=n)
    for text in options.flash:
        preset, _, similarity = text.partition(":")
        more = {"similarity": similarity} if similarity else {}
        found[text] = Parameters.from_preset(preset, spacing_mm=SPACING_MM, **more)
    return found


def registered(sides: list[Subject], seen: list[Subject], affine: np.ndarray, parameters: Parameters) -> dict:
    """One registration of images as they are seen, and its figures."""
    plan = registry.plan(parameters, 3)
    started = time.process_time()
    problem = plan.problem(*comparable(*seen, plan.parameters), affine)
    estimated = registry.estimate(problem, plan, "cpu", None, Silent())
    seconds = time.process_time() - started
    maps = unfolded(sides[0].grid, estimated.velocity, problem.foreground, "cpu")
    found = carried(*sides, maps)
    field = maps.fixed_to_moving
    whole = time.process_time() - started
    fixed, energies = sides[0].label_map.data, [record["energy"] for record in estimated.history]
    predicted = plan.predictor is not None and parameters.method == "deepflash"
    return {
        "before": dice(fixed, found.labels_before.numpy()),
        "after": dice(fixed, found.labels.numpy()),
        "folds": int(np.count_nonzero(folded_voxels(np.asarray(field), field.grid))),
        "seconds": seconds,
        "with maps": whole,
        "left": energies[-1] / energies[0] if predicted else np.nan,
        "findings": [f["finding"] for f in estimated.unusual],
        "notes": maps.notes,
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--models", nargs="*", default=[], help="names or folders")
    parser.add_argument("--pairs", nargs="+", default=["1000:1001", "1006:1017", "1009:1036"], help="fixed:moving")
    parser.add_argument("--flash", nargs="*", default=[], help="presets beside, also PRESET:SIMILARITY")
    parser.add_argument("--refine", type=int, nargs="*", default=[], help="iterations of FLASH after the prediction")
    parser.add_argument(
        "--contrast", choices=("t1", "inverted", "bent", "waved"), default="t1", help="of the moving image"
    )
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--figures", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    rows: dict[str, list[dict]] = {}
    for pair in options.pairs:
        folder = options.data / "oasis-brains"
        sides = [
            Subject(read_volume(folder / f"{n}_SS.nii.gz"), labels=read_labels(folder / f"{n}_glm.nii.gz")).checked()
            for n in pair.split(":")
        ]
        affine = align(sides[0].image, sides[1].image, "affine").matrix  # of the images as they are
        seen = [sides[0], sides[1].with_image(recolored(sides[1].image, options.contrast))]
        for name, parameters in methods(options).items():
            row = registered(sides, seen, affine, parameters) | {"pair": pair, "contrast": options.contrast}
            rows.setdefault(name, []).append(row)
            figures = {k: round(v, 4) if isinstance(v, float) else v for k, v in row.items()}
            print(name, *(f"{k} {v}" for k, v in figures.items()), sep="  ", flush=True)
            if options.figures:
                options.figures.write_text(json.dumps(rows, indent=1))
    print("\nmeans")
    for name, values in rows.items():
        mean = {k: np.mean([v[k] for v in values]) for k in ("before", "after", "seconds", "with maps", "left")}
        spread, folds = np.std([v["left"] for v in values]), sum(v["folds"] for v in values)
        text = f"{name:16s} before {mean['before']:.4f}  after {mean['after']:.4f}  folds {folds}"
        text += f"  {mean['seconds']:.1f} s, with maps {mean['with maps']:.1f} s"
        print(f"{text}  energy left {mean['left']:.3f} (sd {spread:.3f})")
    return 0


if __name__ == "__main__":
    sys.exit(main())
