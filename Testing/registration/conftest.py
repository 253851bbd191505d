# SPDX-License-Identifier: Apache-2.0
"""One registration, and its folder, for all tests that only look at them."""

from __future__ import annotations

import contextlib

import numpy as np
import pytest
import registration_pairs as pairs
from DeepFLASHRegistrationLib.imaging.volume import Volume
from DeepFLASHRegistrationLib.registration import register
from registration_pairs import Registered, Saved


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> None:
    """Small arrays gain nothing from more threads, and lose much where other programs run."""
    with contextlib.suppress(ImportError):
        import torch

        torch.set_num_threads(1)


@pytest.fixture(scope="session")
def registered() -> Registered:
    """The object, turned and moved far away on an oblique anisotropic grid, registered to its bent version."""
    pytest.importorskip("torch")
    affine = np.eye(4)
    affine[:3, :3] = pairs.turn(14) @ np.diag([1.05, 0.97, 1.02])
    affine[:3, 3] = (40, -25, 130)
    grid = pairs.box((26, 34, 36), (4.1, 3.0, 3.2), pairs.turn(-25, (0, 1, 1))[:, [2, 0, 1]], affine[:3, 3])
    back = np.linalg.inv(affine)
    own = pairs.places(grid) @ back[:3, :3].T + back[:3, 3]
    moving = Volume(grid, (1000 * pairs.intensities(own)).astype(np.float32), "moving.nii.gz")
    labels = Volume(grid, pairs.parts(own), "labels.nii.gz")
    fixed, fixed_labels = pairs.fixed_image(), pairs.fixed_labels()
    result = register(
        fixed, moving, pairs.quick(), moving_labels=labels, fixed_labels=fixed_labels, initial_affine=affine, threads=1
    )
    return Registered(result, fixed, moving, labels, fixed_labels)


@pytest.fixture(scope="session")
def saved(registered: Registered, tmp_path_factory: pytest.TempPathFactory) -> Saved:
    """The same as files."""
    from DeepFLASHRegistrationLib.results import save_result

    folder = tmp_path_factory.mktemp("saved") / "result"
    save_result(registered.result, folder, registered.fixed, registered.moving, registered.fixed_labels)
    return Saved(registered.result, folder, registered.fixed, registered.moving)
