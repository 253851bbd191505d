# SPDX-License-Identifier: Apache-2.0
"""Properties of results in folders, whose maps are given by formulas: dense maps, read from their fields."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from DeepFLASHRegistrationLib.imaging.io import write_volume
from DeepFLASHRegistrationLib.problem.known_transform import KnownTransform
from DeepFLASHRegistrationLib.problem.parameters import Parameters
from DeepFLASHRegistrationLib.registration.register import register
from DeepFLASHRegistrationLib.results.folder import save_result
from DeepFLASHRegistrationLib.results.properties import measure
from registration_pairs import box, disks

pytest.importorskip("torch")
SHIFT, BIAS = np.array([6.0, -3.0]), np.array([0.0, 1.5])


def bent(points: np.ndarray) -> np.ndarray:
    return points + 2 * np.sin(points[:, ::-1] / 15)


def saved(folder: Path, moved) -> str:
    """The folder of a result whose map is this one."""
    fixed, moving = (volume.with_data(volume.data) for volume in disks((56, 60), 2.0))
    known = KnownTransform("formula", lambda points: (moved(points), np.ones(len(points), bool)), np.eye(3))
    parameters = Parameters(method="transform", spacing_mm=1.5)
    result = register(fixed, moving, parameters, initial_map=known, device="cpu", threads=1)
    save_result(result, folder, fixed, moving, outputs=())
    return str(folder)


def test_what_results_say_of_each_other_is_what_was_planted(tmp_path: Path) -> None:
    shift = np.eye(3)
    shift[:2, 2] = SHIFT
    moves = {"fixed": shift.tolist(), "moving": shift.tolist()}
    write_volume(tmp_path / "fixed.nii.gz", disks((56, 60), 2.0)[0])
    rest = saved(tmp_path / "rest", bent)
    moved = {
        "exact": {"folder": saved(tmp_path / "exact", lambda x: bent(x - SHIFT) + SHIFT), **moves},
        "biased": {"folder": saved(tmp_path / "biased", lambda x: bent(x - SHIFT) + SHIFT + BIAS), **moves},
    }
    other = saved(tmp_path / "other", lambda x: x)
    found = measure(rest, other, moved, str(tmp_path / "fixed.nii.gz"), None)
    # Voxels of the working grid, not of the image.
    assert found["voxel_mm"] == pytest.approx(1.5)
    figures = found["figures"]
    assert figures["exact"]["p95"] < 0.03
    assert figures["biased"]["mean"] == pytest.approx(1.5 / 1.5, abs=0.03)
    assert figures["inverse_own"]["p95"] < 0.05
    # The exchanged images were said to lie on each other: what does not come back is the whole map.
    moves_mm = np.linalg.norm(bent(grid_of_object()) - grid_of_object(), axis=1)
    assert figures["move"]["mean"] == pytest.approx(moves_mm.mean() / 1.5, rel=0.02)
    assert figures["inverse_exchanged"]["mean"] == pytest.approx(figures["move"]["mean"], rel=1e-6)
    assert figures["gradient_exchanged"]["max"] == pytest.approx(2 / 15 * np.sqrt(2), rel=0.05)
    assert figures["folds"]["mean"] == 0


def grid_of_object() -> np.ndarray:
    fixed = disks((56, 60), 2.0)[0]
    return box((56, 60), 2.0).index_to_physical(np.argwhere(fixed.data > 0.05))
