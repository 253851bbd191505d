# SPDX-License-Identifier: Apache-2.0
"""register() on arrays in memory needs NumPy and torch alone."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import DeepFLASHRegistrationLib
import numpy as np
import pytest

_SCRIPT = """
import json, sys

class Absent:
    def find_spec(self, name, *_):
        if name.partition(".")[0] in sys.argv[1].split():
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Absent())
import numpy as np
from DeepFLASHRegistrationLib.imaging.grid import Grid
from DeepFLASHRegistrationLib.imaging.volume import Volume
from DeepFLASHRegistrationLib.problem.parameters import Parameters
from DeepFLASHRegistrationLib.registration.register import register

grid = Grid((20, 22, 24), np.diag([2.0, 2.0, 2.0, 1.0]))
x = np.moveaxis(np.indices(grid.shape), 0, -1) - 10.0
fixed = np.exp(-np.square(x / (5, 5, 6)).sum(-1)).astype(np.float32)
bend = x + 1.5 * np.sin(x[..., ::-1] / 4)
moving = np.exp(-np.square(bend / (6, 5, 5)).sum(-1)).astype(np.float32)
sides = {
    f"{side}_{what}": Volume(grid, (image > least).astype(kind))
    for side, image in (("fixed", fixed), ("moving", moving))
    for what, least, kind in (("labels", 0.4, np.int32), ("mask", 0.02, np.uint8))
}
result = register(
    Volume(grid, fixed), Volume(grid, moving), Parameters.from_preset("fast", iterations=(3, 2)), device="cpu", **sides
)
print(json.dumps({
    "dice": [result.metrics["mean_dice_before"], result.metrics["mean_dice_after"]],
    "warped": np.asarray(result.warped.data, float).ravel()[::7].tolist(),
    "labels": int(result.labels.data.sum()),
}))
"""


def _registered(absent: str) -> dict:
    library = Path(DeepFLASHRegistrationLib.__file__).parents[1]
    done = subprocess.run(
        [sys.executable, "-c", _SCRIPT, absent], capture_output=True, text=True, cwd=library, timeout=300
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_arrays_with_masks_and_labels_are_registered_without_simpleitk() -> None:
    alone, usual = _registered("SimpleITK scipy vtk safetensors nibabel"), _registered("nothing")
    assert alone["dice"][1] > alone["dice"][0] + 0.02
    assert alone["dice"][1] > 0.9
    assert alone["labels"] == usual["labels"]
    assert alone["dice"] == pytest.approx(usual["dice"], abs=1e-12)
    assert np.array_equal(alone["warped"], usual["warped"])
