# SPDX-License-Identifier: Apache-2.0
"""The model that fits: a table of right answers, and why the others do not (model_choice.py has one of real images)."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import made_models
import numpy as np
import pytest
from DeepFLASHRegistrationLib.imaging.grid import Grid
from DeepFLASHRegistrationLib.imaging.volume import Volume
from DeepFLASHRegistrationLib.methods import choosing
from DeepFLASHRegistrationLib.methods.choosing import Look, candidates, settled
from DeepFLASHRegistrationLib.methods.consent import accept_noncommercial
from DeepFLASHRegistrationLib.methods.pose import MeanImage
from DeepFLASHRegistrationLib.methods.trained_models import BUNDLED, ModelConfig, load_model, model_config, save_model
from DeepFLASHRegistrationLib.phantom.anatomy import T1, T2, Anatomy
from DeepFLASHRegistrationLib.problem.parameters import Parameters
from DeepFLASHRegistrationLib.problem.subject import Subject
from DeepFLASHRegistrationLib.support.errors import InputError
from made_bodies import box, made_pair, turn_about
from made_models import like_training

AUTO = Parameters(method="deepflash", model="auto")


@pytest.fixture(autouse=True)
def user_models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("DEEPFLASH_MODELS", str(tmp_path / "user"))
    return tmp_path / "user"


@functools.cache
def head(seed: int, contrast: str = "T1", turn: tuple[float, float, float] | None = None) -> Volume:
    """A made head of 3 mm, as it is or turned by half about an axis, with the header of one that is not."""
    grid = box((-90, -111, -90), (90, 111, 90), (3, 3, 3))
    points = grid.index_to_physical(np.moveaxis(np.indices(grid.shape), 0, -1)).reshape(-1, 3)
    if turn is not None:
        points = points @ turn_about(turn, 180.0, np.zeros(3))[:3, :3].T
    table = {"T1": T1, "T2": T2}.get(contrast, T1)
    values = Anatomy(np.random.default_rng(seed)).render(points, table, 3.0)[1].reshape(grid.shape)
    noise = np.random.default_rng(seed).normal(0, 0.02, values.shape)
    inside = values > 0.02
    if contrast == "CT":
        data = np.where(inside, 60 * values, -1000) + 600 * noise
    else:
        data = np.where(inside, 900 * np.maximum(values + noise, 0), 0)
    return Volume(grid, data.astype(np.float32), f"head {seed}, {contrast}")


@functools.cache
def body(kind: str, modality: str) -> tuple[Volume, Volume]:
    pair = made_pair(kind, modality, 0)
    return pair.fixed, pair.moving


def small(volume: Volume) -> Volume:
    affine = volume.grid.affine.copy()
    affine[:3] *= 0.1
    return replace(volume, grid=Grid(volume.grid.shape, affine))


def thick(volume: Volume) -> Volume:
    n = volume.grid.shape[0] // 2 * 2
    data = volume.data[:n].reshape(-1, 2, *volume.grid.shape[1:]).mean(1)
    grid = replace(volume.grid, shape=(n, *volume.grid.shape[1:])).resampled(factor=(2, 1, 1))
    return Volume(grid, data, volume.name)


def half(volume: Volume) -> Volume:
    n = volume.grid.shape[2] // 2
    data = np.ascontiguousarray(volume.data[:, :, :n])
    return Volume(replace(volume.grid, shape=data.shape), data, volume.name)


def piece(volume: Volume, start: tuple[int, int, int]) -> Volume:
    size = (12, 16, 12)
    data = volume.data[tuple(slice(a, a + m) for a, m in zip(start, size, strict=True))]
    affine = volume.grid.affine.copy()
    affine[:3, 3] = volume.grid.index_to_physical(np.array(start, float))
    return Volume(Grid(size, affine), np.ascontiguousarray(data), volume.name)


def moved(volume: Volume) -> Volume:
    turned = turn_about((0.3, 1, 0.5), 20.0, np.array([30.0, -10.0, 5.0])) @ volume.grid.affine
    turned[:3, 3] += (80.0, -40.0, 10.0)
    return replace(volume, grid=Grid(volume.grid.shape, turned))


def plane(size: int) -> Volume:
    y, x = np.indices((size, size)) - size / 2
    data = (100.0 * (np.hypot(x, y) < size / 3) + 20 * np.cos(x / 5)).astype(np.float32)
    return Volume(Grid((size, size), np.eye(3)), data, "slice")


def upside_down(volume: Volume) -> Volume:
    """By its header."""
    affine = turn_about((1, 0, 0), 180.0, np.zeros(3)) @ volume.grid.affine
    return replace(volume, grid=Grid(volume.grid.shape, affine))


SPECIAL, ANY, NONE = ("brain-t1", "brain"), ("brain", "brain"), ("", "")
CROP, POSED = ("hippocampus", "hippocampus"), ("dual-net-hippocampus", "dual-net-hippocampus")
# What makes both images, the right answers with and without the agreement, and of "brain" why not.
TABLE: dict[str, tuple[Callable[[], tuple[Volume, Volume]], tuple[str, str], str]] = {
    "T1": (lambda: (head(0), head(1)), SPECIAL, ""),
    "T1 again": (lambda: (head(2), head(3)), SPECIAL, ""),
    "T1, far from each other and turned by 20 degrees": (lambda: (head(0), moved(head(1))), SPECIAL, ""),
    "T2": (lambda: (head(0, "T2"), head(1, "T2")), ANY, ""),
    "T1 and T2": (lambda: (head(0), head(1, "T2")), ANY, ""),
    "T2 and T1": (lambda: (head(2, "T2"), head(3)), ANY, ""),
    "upside-down": (lambda: (head(0, "T1", (1, 0, 0)), head(1, "T1", (1, 0, 0))), NONE, "turned"),
    "T2 upside-down": (lambda: (head(0, "T2", (1, 0, 0)), head(1, "T2", (1, 0, 0))), NONE, "turned"),
    "lying on the other side": (lambda: (head(0, "T1", (0, 1, 0)), head(1, "T1", (0, 1, 0))), NONE, "turned"),
    "front to back": (lambda: (head(0, "T1", (0, 0, 1)), head(1, "T1", (0, 0, 1))), NONE, "turned"),
    "one upside-down": (lambda: (head(0), head(1, "T1", (1, 0, 0))), NONE, "turned"),
    "CT": (lambda: (head(0, "CT"), head(1, "CT")), NONE, "ct"),
    "T1 and CT": (lambda: (head(0), head(1, "CT")), NONE, "ct"),
    "slices of 6 mm": (lambda: (thick(head(0)), thick(head(1))), NONE, "coarse"),
    "half a head": (lambda: (half(head(0)), half(head(1))), NONE, "size"),
    "a mouse's size": (lambda: (small(head(0)), small(head(1))), NONE, "size"),
    "pieces of a head": (lambda: (piece(head(0), (20, 25, 20)), piece(head(1), (20, 25, 20))), NONE, "size"),
    "hearts, CT": (lambda: body("heart", "CT"), NONE, "coarse"),
    "hearts, MR": (lambda: body("heart", "MR"), NONE, "coarse"),
    "abdomens, CT": (lambda: body("abdomen", "CT"), NONE, "size"),
    "abdomens, MR": (lambda: body("abdomen", "MR"), NONE, "size"),
    "heads of fetuses": (lambda: body("fetal-brain", "MR"), NONE, "size"),
    "a fetus within its mother": (lambda: body("uterus", "MR"), NONE, "unlike"),
    "brains of mice": (lambda: body("mouse", "MR"), NONE, "size"),
    "hippocampi": (lambda: (like_training("hippocampus", 0), like_training("hippocampus", 1)), CROP, "size"),
    "hippocampi, T2": (lambda: (like_training("hippocampus", 0), like_training("hippocampus", 1, True)), NONE, "size"),
    "hippocampi upside-down": (
        lambda: tuple(upside_down(like_training("hippocampus", seed)) for seed in (0, 1)),
        POSED,
        "size",
    ),
    "hippocampus and head": (lambda: (like_training("hippocampus", 0), head(0)), NONE, "size"),
    "slices": (lambda: (plane(128), plane(128)), NONE, "dimension"),
}


@pytest.mark.parametrize("name", TABLE)
def test_the_right_model_is_chosen_or_none(name: str) -> None:
    make, right, reason = TABLE[name]
    sides = [Look.at(each) for each in make()]
    every, first = candidates(sides, True, all_reasons=True), candidates(sides, False)
    assert tuple(next((each.found.name for each in some if each.fits), "") for some in (every, first)) == right
    (brain,) = (each for each in every if each.found.name == "brain")
    assert (brain.misfits[0].finding if brain.misfits else "") == reason


def test_masks_say_what_the_object_is() -> None:
    """Two heads in one image are no head; with a mask one of them is."""
    one = head(0)
    data = np.concatenate([one.data, one.data], axis=2)
    both = Volume(replace(one.grid, shape=data.shape), data, "two heads")
    mask = np.zeros(data.shape, np.uint8)
    mask[:, :, : one.grid.shape[2]] = 1
    assert not any(each.fits for each in candidates([Look.at(both), Look.at(head(1))], False))
    masked = Look.at(both, Volume(both.grid, mask, "mask"))
    assert [each.found.name for each in candidates([masked, Look.at(head(1))], False) if each.fits] == ["brain"]


def test_the_choice_and_its_reasons_are_told(user_models: Path) -> None:
    parameters, (note,) = settled(AUTO, Subject(head(0)), Subject(head(1)))
    assert parameters == replace(AUTO, model="brain")
    assert note.startswith("The model brain was chosen (auto)")
    assert "brain-t1 does not: its license (CC BY-NC 4.0) excludes commercial use" in note
    accept_noncommercial()
    parameters, (note,) = settled(AUTO, Subject(head(0)), Subject(head(1)))
    assert parameters.model == "brain-t1"
    parameters, (note,) = settled(AUTO, Subject(head(0)), Subject(head(1, "T2")))
    assert parameters.model == "brain"
    assert "brain-t1 does not: head 1, T2 has another contrast" in note


def test_where_none_fits_every_reason_and_the_remedy_are_told() -> None:
    with pytest.raises(InputError, match=r"^No trained model fits these images\..*Use --method flash") as error:
        settled(AUTO, Subject(head(0, "T1", (1, 0, 0))), Subject(head(1)))
    assert "brain: head 0, T1 is turned by 1" in str(error.value)
    assert "hippocampus: the object in head 0" in str(error.value)
    with pytest.raises(InputError, match="Pass images of the same dimension"):
        settled(AUTO, Subject(head(0)), Subject(plane(128)))


def test_if_only_a_consent_is_missing_that_is_told(user_models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    alone = [each for each in choosing.find_models() if each.name == "brain-t1"]
    monkeypatch.setattr(choosing, "find_models", lambda: alone)
    with pytest.raises(InputError, match=r"--accept-noncommercial \(brain-t1 fits\)"):
        settled(AUTO, Subject(head(0)), Subject(head(1)))
    with pytest.raises(InputError) as error:
        settled(AUTO, Subject(head(0)), Subject(head(1, "T2")))
    assert "--accept-noncommercial" not in str(error.value)


def test_what_is_no_choice_stays_as_it_is() -> None:
    for parameters in (Parameters(), Parameters(model="auto"), Parameters(method="deepflash", model="hippocampus")):
        assert settled(parameters, Subject(head(0)), Subject(head(1))) == (parameters, ())


def test_models_of_users_are_chosen_among_the_others(user_models: Path) -> None:
    """One for one contrast before those for any; of several, the more accurate; none without a mean image."""
    brain = load_model("brain")

    def add(name: str, dice: float, mean: MeanImage | None, **changes: object) -> None:
        config = ModelConfig(
            **{
                **{key: value for key, value in vars(brain.config).items() if key != "mean_image"},
                "name": name,
                "held_out": {"Dice, aligned": 0.3, "Dice, deepflash": dice},
                **changes,
            }
        )
        save_model(user_models / name, config, brain.arrays, mean)

    sides = [Look.at(head(0)), Look.at(head(1))]

    def fitting() -> list[str]:
        return [each.found.name for each in candidates(sides, False, all_reasons=True) if each.fits]

    assert fitting() == ["brain"]
    add("worse", 0.4, brain.mean_image)
    add("better", 0.9, brain.mean_image)
    add("blind", 0.99, None)
    assert fitting() == ["better", "brain", "worse"]
    add("special", 0.35, load_model("brain-t1").mean_image, contrast="alike")
    assert fitting()[0] == "special"
    add("noncommercial", 0.99, load_model("brain-t1").mean_image, contrast="alike", noncommercial=True)
    assert fitting()[0] == "special"
    (blind,) = (each for each in candidates(sides, False, all_reasons=True) if each.found.name == "blind")
    assert [each.finding for each in blind.misfits] == ["no-mean-image"]


def test_a_model_that_poses_its_images_takes_them_however_they_lie(user_models: Path) -> None:
    brain = load_model("brain")
    config = replace(brain.config, name="posed", posed=True)
    save_model(user_models / "posed", config, brain.arrays, brain.mean_image)
    upside_down = [Look.at(head(seed, "T1", (1, 0, 0))) for seed in (0, 1)]
    assert [each.found.name for each in candidates(upside_down, False) if each.fits] == ["posed"]


def test_a_model_of_slices_is_chosen_for_slices(user_models: Path) -> None:
    from DeepFLASHRegistrationLib.training.mean_image import mean_image

    y, x = (np.indices((96, 96)) - 47.5) / 40

    def slice_of(seed: int) -> Volume:
        rng = np.random.default_rng(seed)
        a, b = rng.uniform(0.8, 1.0, 2)
        values = (x / a) ** 2 + (y / b) ** 2 < 1
        inner = ((x - 0.3) / (0.3 * a)) ** 2 + (y / (0.4 * b)) ** 2 < 1
        lower = (x / 0.5) ** 2 + ((y - 0.55) / 0.2) ** 2 < 1
        data = 100.0 * values + 60 * inner - 50 * lower * values + rng.normal(0, 3, x.shape) * values
        return Volume(Grid(x.shape, np.eye(3)), data.astype(np.float32), f"slice {seed}")

    mean = mean_image([slice_of(seed) for seed in range(5)])
    changes = {"ndim": 2, "extent_mm": (55.0, 90.0), "contrast": "alike"}
    config = ModelConfig(**{**made_models.SETTINGS, "name": "slices", **changes})
    save_model(user_models / "slices", config, {"w": np.zeros(3, np.float32)}, mean)
    for sides, answer in (
        ((slice_of(7), slice_of(8)), ["slices"]),
        ((slice_of(7), replace(slice_of(8), data=np.where(slice_of(8).data > 0, 200 - slice_of(8).data, 0))), []),
        ((slice_of(7), plane(96)), []),
        ((head(0), head(1)), ["brain"]),
    ):
        found = candidates([Look.at(each) for each in sides], False)
        assert [each.found.name for each in found if each.fits] == answer


def test_a_model_that_is_damaged_is_passed_over(user_models: Path) -> None:
    made_models.make(user_models / "ellipsoids", extent_mm=(100.0, 300.0), noncommercial=False)
    brain = load_model("brain")
    save_model(
        user_models / "broken", replace(brain.config, name="broken", contrast="alike"), brain.arrays, brain.mean_image
    )
    weights = user_models / "broken" / "weights.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1])
    parameters, (note,) = settled(AUTO, Subject(head(0)), Subject(head(1)))
    assert parameters.model == "brain"
    assert "broken does not: it cannot be used." in note


def test_the_table_has_every_bundled_model() -> None:
    bundled = {folder.name for folder in BUNDLED.iterdir() if model_config(folder).method == "deepflash"}
    assert bundled <= {name for _, right, _ in TABLE.values() for name in right}
