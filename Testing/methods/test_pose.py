# SPDX-License-Identifier: Apache-2.0
"""Mean images: how an image lies to one, what is like it and what is not, and how models keep them."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from DeepFLASHRegistrationLib.imaging.grid import Grid
from DeepFLASHRegistrationLib.imaging.volume import Volume
from DeepFLASHRegistrationLib.methods.pose import FAR, MeanImage, pose
from DeepFLASHRegistrationLib.methods.trained_models import (
    CONFIG,
    WEIGHTS,
    ModelConfig,
    find_models,
    load_model,
    save_model,
)
from DeepFLASHRegistrationLib.problem.parameters import Parameters
from DeepFLASHRegistrationLib.support.errors import InputError
from DeepFLASHRegistrationLib.support.tensors import read_tensors, write_tensors
from DeepFLASHRegistrationLib.training.mean_image import mean_image
from helpers import made_anatomies as made


def scan(kind: str, seed: int, contrast: str = "t1", voxels: int = 40, motion: np.ndarray | None = None) -> Volume:
    """A made person of a kind; ``motion``: LPS mm, by which the person lies elsewhere, field of view and all."""
    body = made.KINDS[kind]
    grid = made.grid_of(body.view, body.unit_mm, voxels)
    values = made.person(kind, seed, 0.08).intensities(made.places(grid) / body.unit_mm, contrast)
    volume = made.scanned(values, grid, np.random.default_rng(seed), 0.02, f"{kind} {seed}")
    return volume if motion is None else moved(volume, motion)


def moved(volume: Volume, motion: np.ndarray) -> Volume:
    return dataclasses.replace(volume, grid=dataclasses.replace(volume.grid, affine=motion @ volume.grid.affine))


def rigid(degrees: float, axis: tuple[float, float, float], shift: tuple[float, float, float]) -> np.ndarray:
    x, y, z = np.array(axis) / np.linalg.norm(axis)
    cross = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    angle = np.radians(degrees)
    matrix = np.eye(4)
    matrix[:3, :3] += np.sin(angle) * cross + (1 - np.cos(angle)) * cross @ cross
    matrix[:3, 3] = shift
    return matrix


@pytest.fixture(scope="module")
def heads() -> MeanImage:
    return mean_image([scan("fetal", seed) for seed in range(5)])


def test_a_mean_image_is_small_and_its_own_images_agree_with_it(heads: MeanImage) -> None:
    assert 8 <= min(heads.gray.shape) <= max(heads.gray.shape) <= 40
    assert heads.agreement[0] > 0.85
    unseen = pose(scan("fetal", 9), heads)
    assert unseen.below(heads) < FAR
    assert unseen.turned < 5
    assert np.linalg.det(unseen.matrix[:3, :3]) == pytest.approx(1, abs=1e-9)


@pytest.mark.parametrize(
    "motion", [rigid(25, (1, 2, -1), (30, -12, 55)), rigid(180, (0, 1, 0), (-80, 0, 15))], ids=["turned", "upside down"]
)
def test_a_body_that_lies_elsewhere_is_laid_on_the_mean_image_all_the_same(
    heads: MeanImage, motion: np.ndarray
) -> None:
    image = scan("fetal", 9)
    here, there = pose(image, heads), pose(moved(image, motion), heads)
    # What was moved is moved back: the two poses differ by the motion alone.
    points = image.grid.corners()
    ends = [points @ m[:3, :3].T + m[:3, 3] for m in (here.matrix, there.matrix @ motion)]
    assert np.abs(ends[0] - ends[1]).max() < 0.3 * heads.grid.spacing.min()
    assert there.agreement == pytest.approx(here.agreement, abs=0.05)
    turn = np.degrees(np.arccos((np.trace(motion[:3, :3]) - 1) / 2))
    assert there.turned == pytest.approx(turn, abs=8)


@pytest.mark.parametrize("kind", ["knee", "prostate", "abdomen", "heart", "hippocampus"])
def test_another_organ_is_told_from_it_in_any_contrast(heads: MeanImage, kind: str) -> None:
    for contrast in ("t1", "ct"):
        found = pose(scan(kind, 1, contrast), heads)
        assert found.below(heads) > FAR
        assert found.below(heads, any_contrast=True) > FAR


def test_the_same_organ_of_another_size_is_another(heads: MeanImage) -> None:
    half = np.diag([0.5, 0.5, 0.5, 1])
    found = pose(moved(scan("fetal", 9), half), heads)
    assert found.size == pytest.approx(2, rel=0.1)
    assert found.below(heads) > FAR


def test_another_contrast_agrees_in_any_contrast_alone(heads: MeanImage) -> None:
    image = scan("fetal", 9)
    found = pose(image.with_data(image.data.max() - image.data), heads)
    assert found.agreement < 0
    assert found.below(heads) > FAR > found.below(heads, any_contrast=True)


def test_what_few_images_show_is_not_known(heads: MeanImage) -> None:
    whole = [scan("hippocampus", seed, voxels=32) for seed in range(4)]
    # Crops of tissue, each of which ends elsewhere.
    crops = [
        Volume(v.grid.padded((-k, 0, 0), (-6 + k, 0, 0)), np.ascontiguousarray(v.data[k : k - 6 or None]), v.name)
        for k, v in zip((0, 2, 4, 5), whole, strict=True)
    ]
    found = mean_image(crops)
    assert found.seen is not None or found.grid.extent[0] < whole[0].grid.extent[0]
    assert pose(crops[1], found).below(found) < FAR < pose(scan("fetal", 0), found).below(found)


def test_slices_have_a_mean_image_too() -> None:
    slices = []
    for seed in range(4):
        volume = scan("fetal", seed)
        affine = np.eye(3)
        affine[:2, :2] = volume.grid.affine[:2, 1:3]
        slices.append(Volume(Grid(volume.grid.shape[1:], affine), volume.data[volume.grid.shape[0] // 2], "slice"))
    mean = mean_image(slices[:3])
    assert mean.grid.ndim == 2
    turn = rigid(20, (0, 0, 1), (5, -9, 0))[np.ix_([0, 1, 3], [0, 1, 3])]
    found = pose(moved(slices[3], turn), mean)
    assert found.below(mean) < FAR
    assert found.turned == pytest.approx(20, abs=6)


# ----------------------------------------------------------------------------------------------- kept with a model

ARRAYS = {"weight": np.arange(6, dtype=np.float16)}


def config(**more: Any) -> ModelConfig:
    settings: dict[str, Any] = {
        **{"name": "heads", "kind": "dual-net", "architecture": {}, "parameters": Parameters(), "ndim": 3},
        **{"unit_mm": 1.25, "spacing_mm": 1.25, "extent_mm": (50.0, 100.0), "energy": (0.5, 0.1)},
        **{"description": "", "training_data": "made heads", "license": "CC0"},
    }
    return ModelConfig(**{**settings, **more})


def test_a_model_keeps_its_mean_image_beside_its_weights(heads: MeanImage, tmp_path: Path) -> None:
    posed = config(contrast="alike", posed=True, mean_image=heads.to_dict())
    found = load_model(save_model(tmp_path / "model", posed, ARRAYS, heads))
    assert (found.mean_image.gray == heads.gray).all()
    assert found.mean_image.grid.same_as(heads.grid, 1e-9)
    assert found.mean_image.agreement == heads.agreement
    assert found.config.contrast == "alike"
    assert found.config.posed
    assert set(found.arrays) == {"weight"}
    assert "6 weights" in (tmp_path / "model" / "MODEL_CARD.md").read_text()


def test_models_of_before_have_none_and_load_as_they_did(tmp_path: Path) -> None:
    folder = save_model(tmp_path / "model", config(), ARRAYS)

    def without(values: dict[str, Any]) -> None:
        for name in ("mean_image", "contrast", "posed", "trained"):
            del values[name]

    rewrite(folder, without)
    found = load_model(folder)
    assert found.mean_image is None
    assert (found.config.contrast, found.config.posed) == ("any", False)
    rewrite(folder, lambda values: values.pop("license_note"))
    with pytest.raises(InputError, match="'license_note' is missing"):
        load_model(folder)


def rewrite(model: Path, change: Any) -> None:
    """Changes model.json as somebody would who knows how its checksums are made."""
    values = json.loads((model / CONFIG).read_text())
    checksums = values.pop("checksums")
    change(values)
    checksums["config"] = hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()
    checksums["weights"] = hashlib.sha256((model / WEIGHTS).read_bytes()).hexdigest()
    arrays, _ = read_tensors(model / WEIGHTS)
    shapes = {name: [array.dtype.str, *array.shape] for name, array in arrays.items()}
    checksums["shapes"] = hashlib.sha256(json.dumps(shapes, sort_keys=True).encode()).hexdigest()
    (model / CONFIG).write_text(json.dumps({**values, "checksums": checksums}))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda m: m["mean_image"].pop("affine"), "other entries"),
        (lambda m: m["mean_image"].update(agreement=["a", 1]), "could not convert"),
        (lambda m: m["mean_image"].update(any_contrast=[1]), "statistics are none"),
        (lambda m: m["mean_image"].update(affine=[[0] * 4] * 4), "last row"),
        (lambda m: m.update(ndim=2), "3 dimensions"),
        (lambda m: m.update(contrast="blue"), "'blue' is unknown"),
        (lambda m: m.update(posed=1), "posed is of the wrong kind"),
        (lambda m: m.update(mean_image={}), "wants a pose and has no mean image"),
    ],
)
def test_a_mean_image_that_is_none_is_refused(heads: MeanImage, tmp_path: Path, change: Any, message: str) -> None:
    posed = config(posed=True, mean_image=heads.to_dict())
    folder = save_model(tmp_path / "model", posed, ARRAYS, heads)
    rewrite(folder, change)
    with pytest.raises(InputError, match=message):
        load_model(folder)


@pytest.mark.parametrize("gray", [None, np.ones((16, 16, 16), np.uint8), np.ones((1, 9, 9), np.uint8), np.eye(9)])
def test_grays_that_are_missing_or_of_another_kind_are_refused(heads: MeanImage, tmp_path: Path, gray: Any) -> None:
    folder = save_model(tmp_path / "model", config(posed=True, mean_image=heads.to_dict()), ARRAYS, heads)
    write_tensors(folder / WEIGHTS, ARRAYS if gray is None else {**ARRAYS, "mean image": gray}, {})
    rewrite(folder, lambda values: None)
    with pytest.raises(InputError, match=r"its mean image is (missing|empty)"):
        load_model(folder)


def test_every_bundled_model_has_one() -> None:
    bundled = [found for found in find_models() if found.bundled]
    assert bundled
    for found in bundled:
        model = load_model(found.name)
        assert model.mean_image is not None
        assert model.mean_image.gray.nbytes < 50_000
