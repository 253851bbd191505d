# SPDX-License-Identifier: Apache-2.0
"""Packs of two dimensions: made, trained on by each method that has them, and the models at work."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from DeepFLASHRegistrationLib.imaging.grid import Grid
from DeepFLASHRegistrationLib.imaging.volume import Volume
from DeepFLASHRegistrationLib.methods.prediction import predictor_of
from DeepFLASHRegistrationLib.methods.registry import Plan
from DeepFLASHRegistrationLib.methods.trained_models import load_model
from DeepFLASHRegistrationLib.problem.subject import Subject
from DeepFLASHRegistrationLib.support.errors import InputError
from DeepFLASHRegistrationLib.training.drawing import Variety
from DeepFLASHRegistrationLib.training.learned import registrations
from DeepFLASHRegistrationLib.training.momenta import teach_momenta
from DeepFLASHRegistrationLib.training.pack import Pack, packed, read_pack
from DeepFLASHRegistrationLib.training.packing import Frame, Source, pack_subjects
from DeepFLASHRegistrationLib.training.train_on_packs import PackOptions, train_on_packs
from icon_package import icon_or_skip

pytest.importorskip("monai")
icon_or_skip()

FRAME = Frame((48, 32), 1.25)


def disks(number: int, ndim: int = 2) -> Subject:
    """A disk with a smaller one inside, elsewhere in each subject."""
    rng = np.random.default_rng(number)
    shape = (44, 36, 40)[:ndim]
    at = np.stack(np.meshgrid(*[np.arange(n) for n in shape], indexing="ij"), -1) - (np.array(shape) - 1) / 2
    axes = rng.uniform(0.85, 1.15, ndim)
    inner = np.linalg.norm(at - rng.uniform(-4, 4, ndim), axis=-1)
    outer = np.linalg.norm(at / axes, axis=-1)
    labels = np.where(inner < 5, 2, np.where(outer < 12, 1, 0)).astype(np.uint8)
    grid = Grid(shape, np.diag([1.25] * ndim + [1.0]))
    data = np.array([0, 90, 200])[labels] + rng.normal(0, 3, shape) * (labels > 0)
    return Subject(Volume(grid, data.astype(np.float32), f"s{number}"), Volume(grid, labels))


@pytest.fixture(scope="module")
def flat() -> Pack:
    sources = [Source(f"s{n}", lambda n=n: disks(n)) for n in range(5)]
    return pack_subjects("flat", sources, FRAME, unseen=("s3", "s4"))


def test_a_flat_pack_is_made_and_read_again(flat: Pack, tmp_path: Path) -> None:
    assert flat.shape == (48, 32)
    assert flat.affines.shape == (5, 3, 3)
    (tmp_path / "flat.npz").write_bytes(packed(flat))
    np.testing.assert_array_equal(read_pack(tmp_path / "flat.npz").images, flat.images)
    # Aligned by the packed affines, labels lie upon each other.
    assert np.count_nonzero(flat.labels[0] == 2) > 50


def test_what_does_not_go_together_is_refused(flat: Pack) -> None:
    mixed = [Source("s0", lambda: disks(0)), Source("s1", lambda: disks(1, 3))]
    with pytest.raises(InputError, match=r"s1 has 3 dimensions, s0 2\. Pack them apart"):
        pack_subjects("mixed", mixed)
    solid = [Source(f"s{n}", lambda n=n: disks(n, 3)) for n in range(2)]
    with pytest.raises(InputError, match="the images have 3 dimensions, the grid 2"):
        pack_subjects("solid", solid, FRAME)
    with pytest.raises(InputError, match=r"flat: is a pack of two dimensions.*--method voxelmorph"):
        train_on_packs([flat], {}, Path("never"), PackOptions(updates=1, device="cpu"))


@pytest.mark.usefixtures("mean_once")
@pytest.mark.parametrize("method", ["voxelmorph", "quicksilver", "icon", "gradicon", "constricon"])
def test_each_other_method_learns_on_it_and_registers(flat: Pack, tmp_path: Path, method: str) -> None:
    momenta = None
    if method == "quicksilver":
        quick = {"resolutions": (2, 1), "bands": (7, 9), "iterations": (3, 1), "alpha": 6.0, "integrator": "multistep"}
        momenta = tmp_path / "momenta"
        teach_momenta(flat, momenta, registrations([flat], **quick), 2)
    still = Variety(2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0)
    options = PackOptions(method, minutes=0.0, updates=30, learning_rate=5e-3, device="cpu", variety=still)
    out = train_on_packs([flat], {}, tmp_path / "model", options, labels=momenta, tell=lambda text: None)
    model = load_model(out)
    assert model.config.ndim == 2
    assert "validation Dice after" in model.config.held_out
    assert model.config.held_out["energy left"] < 0.995
    predictor = predictor_of(model)
    problem = Plan(predictor.parameters, predictor).problem(disks(5), disks(6), np.eye(3))
    answer = predictor.predict(problem)
    assert answer.forth.shape == (2, *problem.grid.shape)
    assert np.isfinite(answer.forth).all()
