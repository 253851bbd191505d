# SPDX-License-Identifier: Apache-2.0
"""Makes models of the weights that train_feature_models.py left.

    python Utilities/bundle_models.py --weights FOLDER --out FOLDER [--figures FILE]

FILE is a JSON table by model of what the cards say of unseen subjects: "held_out", "energy" and "limits". Weights are
rounded to half precision, which halves their files.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "DeepFLASHRegistration"))

from DeepFLASHRegistrationLib.methods.trained_models import ModelConfig, save_model
from DeepFLASHRegistrationLib.problem.parameters import Parameters
from DeepFLASHRegistrationLib.support.errors import InputError
from DeepFLASHRegistrationLib.support.tensors import read_tensors

SPACING_MM = 1.25
# Predictions are judged at half resolution, by the energy that they were trained to lower; FLASH goes on at the finest
# level only. All is stated that the defaults might change.
PARAMETERS = Parameters(
    resolutions=(2,),
    bands=(47,),
    iterations=(1,),
    spacing_mm=SPACING_MM,
    alpha=6.0,
    power=2.0,
    window_mm=8.75,
    margin_mm=12.0,
    normalization="percentiles",
)
REFINEMENT = {"resolutions": [1], "bands": [47], "alpha": 15.0, "power": 1.5, "window_mm": 7.0}
_FREE = (
    "56 T1 brains of ds002748 (CC0) and 18 label maps of SynthSeg (Apache-2.0), of which images of random contrasts "
    "were made, with and without what lies outside the brain; all multiplied by random geodesics"
)
_CREDIT = (
    "Images: Bezmaternykh et al., Neural Plasticity 2021, 8846097 (OpenNeuro ds002748, CC0). Label maps: SynthSeg, "
    "Billot et al., Medical Image Analysis 2023 (Apache-2.0)"
)
CARDS: dict[str, dict[str, Any]] = {
    "brain": {
        "description": "brains of adults in MR images of any contrast, at 1.25 mm",
        "training_data": _FREE + ". No label of a real image was used",
        "license": "Apache-2.0",
        "attribution": _CREDIT,
    },
    "brain-t1": {
        "description": "skull-stripped T1 brains of adults, at 1.25 mm",
        "training_data": "begun with the weights of brain (" + _FREE + "), then 9 brains of the MICCAI 2012 "
        "multi-atlas challenge (OASIS) with labels besides; 6 others (1000, 1001, 1006, 1009, 1017, 1036) were "
        "never trained on",
        "license": "CC BY-NC 4.0",
        "license_note": "Not for commercial use: trained on data under CC BY-NC.",
        "attribution": "MRI from the OASIS project; labels provided by Neuromorphometrics, Inc. "
        "(neuromorphometrics.com) under academic subscription. " + _CREDIT,
    },
}


def bundled(path: Path, out: Path, figures: dict[str, Any]) -> Path:
    """A model's folder, of its weights and figures."""
    name = path.stem
    if name not in CARDS:
        raise InputError(f"{path}: no card is known for {name}. Known are {', '.join(CARDS)}.")
    arrays, about = read_tensors(path)
    card = dict(CARDS[name])
    card["training_data"] += f". {about['updates']} updates of the weights in {about['seconds']} s on one H200."
    config = ModelConfig(
        name=name,
        kind="feature-net",
        architecture={"design": json.loads(about["design"]), "refinement": REFINEMENT},
        parameters=PARAMETERS,
        ndim=3,
        unit_mm=SPACING_MM,
        spacing_mm=SPACING_MM,
        extent_mm=(125.0, 200.0),
        energy=tuple(figures.get("energy", (0.5, 0.1))),
        limits=figures.get("limits", ""),
        held_out=figures.get("held_out", {}),
        **card,
    )
    return save_model(out / name, config, {key: value.astype(np.float16) for key, value in arrays.items()})


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--figures", type=Path)
    options = parser.parse_args()
    figures = json.loads(options.figures.read_text()) if options.figures else {}
    for name in CARDS:
        path = options.weights / f"{name}.safetensors"
        if path.is_file():
            print(bundled(path, options.out, figures.get(name, {})))
    return 0


if __name__ == "__main__":
    sys.exit(main())
