# SPDX-License-Identifier: Apache-2.0
"""Phantoms: the truth is true, the images show what the labels say, and the files hold both."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from DeepFLASHRegistrationLib.imaging.grid import Grid
from DeepFLASHRegistrationLib.imaging.io import read_labels, read_volume
from DeepFLASHRegistrationLib.imaging.points import read_points
from DeepFLASHRegistrationLib.imaging.transforms import read_affine, read_displacement_field
from DeepFLASHRegistrationLib.phantom.anatomy import LABELS, T1, Anatomy
from DeepFLASHRegistrationLib.phantom.pairs import Bullseye, bullseye, make_pair, write_pair
from DeepFLASHRegistrationLib.registration.metrics import grid_points, inverse_error, map_points, sample
from DeepFLASHRegistrationLib.support.errors import InputError

SMALL = {"shape": (56, 64, 56), "spacing_mm": 3.0}
DEEP = (4, 43, 10, 49, 11, 50, 12, 51, 16)


def overlap(a: np.ndarray, b: np.ndarray) -> float:
    """Dice of two masks."""
    return 2.0 * np.count_nonzero(a & b) / (np.count_nonzero(a) + np.count_nonzero(b))


@pytest.fixture(scope="module")
def pair():
    return make_pair(0)


@pytest.fixture(scope="module")
def small():
    return make_pair(3, **SMALL)


@pytest.fixture(scope="module")
def another():
    """Of another person."""
    return make_pair(4, **SMALL)


@pytest.fixture(scope="module")
def written(pair, tmp_path_factory):
    return write_pair(tmp_path_factory.mktemp("phantom") / "pair", pair)


def brain_points(pair):
    return grid_points(pair.fixed.grid, pair.fixed_labels.data > 0)


# The true map ------------------------------------------------------------------------------------------------


def test_the_true_map_is_a_diffeomorphism(pair):
    grid = pair.fixed.grid
    end = grid_points(grid, limit=None).reshape(*grid.shape, 3) + pair.fixed_to_moving
    columns = np.stack(np.gradient(end, axis=(0, 1, 2)), axis=-1)  # d(LPS) / d(index)
    determinant = np.linalg.det(columns) / np.linalg.det(grid.affine[:3, :3])
    assert determinant.min() > 0.2
    assert determinant[pair.fixed_labels.data > 0].std() > 0.05  # and not merely an affine map


def test_the_two_directions_are_inverse(pair):
    points = brain_points(pair)
    there = map_points(points, pair.fixed_to_moving, pair.fixed.grid)
    error = inverse_error(points, there, pair.moving_to_fixed, pair.moving.grid)
    # What linear interpolation between voxels costs, and no more.
    assert error["mean"] < 0.03
    assert error["max"] < 0.2
    assert error["outside"] == 0


@pytest.mark.parametrize("largest", [0.0, 12.0])
def test_the_deformation_is_as_large_as_asked(largest):
    pair = make_pair(1, **SMALL, largest_displacement_mm=largest)
    points = brain_points(pair)
    moved = map_points(points, pair.fixed_to_moving, pair.fixed.grid)
    undone = (moved - pair.affine[:3, 3]) @ np.linalg.inv(pair.affine[:3, :3]).T
    assert np.linalg.norm(undone - points, axis=1).max() == pytest.approx(largest, rel=0.1, abs=1e-3)


def test_the_affine_is_a_small_turn_scale_and_shift(pair):
    u, scales, vt = np.linalg.svd(pair.affine[:3, :3])
    degrees = np.degrees(np.arccos((np.trace(u @ vt) - 1) / 2))
    assert 4 < degrees < 12
    assert 0.94 < scales.min() <= scales.max() < 1.06


def test_moved_labels_meet_the_fixed_ones(pair):
    """Both heads show the same anatomy: what the nearest voxel costs is left."""
    points = brain_points(pair)
    moved = map_points(points, pair.fixed_to_moving, pair.fixed.grid)
    index = np.rint(pair.moving.grid.physical_to_index(moved)).astype(int)
    found = pair.moving_labels.data[tuple(index.T)]
    true = pair.fixed_labels.data[tuple(np.rint(pair.fixed.grid.physical_to_index(points)).astype(int).T)]
    assert (found > 0).mean() > 0.985
    for label in DEEP:
        assert overlap(found == label, true == label) > 0.88, LABELS[label]
    # Gray matter is two voxels thick.
    for label in (2, 41, 3, 42):
        assert overlap(found == label, true == label) > 0.83, LABELS[label]


def test_the_anatomy_itself_is_carried_exactly():
    """On a fine grid, where voxels count little, every label survives the map and its nearest voxel."""
    pair = make_pair(2, shape=(24, 280, 24), spacing_mm=0.5)
    points = brain_points(pair)
    moved = map_points(points, pair.fixed_to_moving, pair.fixed.grid)
    index = np.rint(pair.moving.grid.physical_to_index(moved)).astype(int)
    inside = np.all((index >= 0) & (index < pair.moving.grid.shape), axis=1)
    found = pair.moving_labels.data[tuple(index[inside].T)]
    true = pair.fixed_labels.data[tuple(np.rint(pair.fixed.grid.physical_to_index(points[inside])).astype(int).T)]
    assert inside.sum() > 1000
    assert (found == true).mean() > 0.95


def test_landmarks_correspond(pair):
    there = map_points(pair.fixed_points, pair.fixed_to_moving, pair.fixed.grid)
    np.testing.assert_allclose(there, pair.moving_points, atol=0.1)
    assert len(set(pair.point_names)) == len(pair.point_names) == len(pair.fixed_points)


@pytest.mark.parametrize(
    ("name", "labels"),
    [
        ("left thalamus", {10}),
        ("right putamen", {51}),
        ("4th ventricle", {15}),
        ("left frontal horn", {4}),
        ("pons", {16}),
    ],
)
def test_landmarks_lie_where_their_names_say(pair, name, labels):
    place = pair.point_names.index(name)
    for points, volume in ((pair.fixed_points, pair.fixed_labels), (pair.moving_points, pair.moving_labels)):
        index = np.rint(volume.grid.physical_to_index(points[place])).astype(int)
        around = volume.data[tuple(slice(i - 1, i + 2) for i in index)]
        assert labels & set(np.unique(around).tolist())


# The images --------------------------------------------------------------------------------------------------


def test_the_same_seed_makes_the_same_pair_and_another_does_not(small, another):
    again = make_pair(3, **SMALL)
    for name in ("fixed", "moving", "fixed_labels", "moving_labels"):
        np.testing.assert_array_equal(getattr(small, name).data, getattr(again, name).data)
        assert (getattr(small, name).data != getattr(another, name).data).any()
    np.testing.assert_array_equal(small.fixed_to_moving, again.fixed_to_moving)


def test_volumes_of_structures_are_those_of_a_head(pair):
    milliliters = {
        label: np.count_nonzero(pair.fixed_labels.data == label) * pair.fixed.grid.voxel_volume / 1000
        for label in LABELS
    }
    assert set(np.unique(pair.fixed_labels.data)) == set(np.unique(pair.moving_labels.data)) == {0, *LABELS}
    assert pair.label_names[10] == "Left-Thalamus"
    for left, right, low, high in (
        (2, 41, 180, 330),
        (3, 42, 180, 320),
        (4, 43, 4, 20),
        (8, 47, 30, 70),
        (10, 49, 3, 9),
        (11, 50, 2, 6),
        (12, 51, 3, 7),
    ):
        assert low < milliliters[left] < high
        assert 0.8 < milliliters[left] / milliliters[right] < 1.25
    assert 15 < milliliters[16] < 40
    assert 1100 < sum(milliliters.values()) < 1800


def test_left_is_left(pair):
    for volume in (pair.fixed_labels, pair.moving_labels):
        left, right = (grid_points(volume.grid, volume.data == label)[:, 0].mean() for label in (12, 51))
        assert left > right + 30  # LPS: x grows to the left


def test_background_is_zero_and_the_brain_is_not(pair):
    for name in ("fixed", "moving"):
        image, labels = getattr(pair, name).data, getattr(pair, f"{name}_labels").data
        assert image.dtype == np.float32
        np.testing.assert_array_equal(image > 0, labels > 0)
        # Nothing of the brain but the end of the brain stem may touch the border.
        border = np.ones(labels.shape, dtype=bool)
        border[1:-1, 1:-1, 1:-1] = False
        assert not np.isin(labels[border], [2, 3, 41, 42, 8, 47]).any()


def test_intensities_are_those_of_the_tissues(pair):
    def means(volume, labels):
        return [float(volume.data[np.isin(labels.data, group)].mean()) for group in ((2, 41), (3, 42), (4, 43))]

    white, gray, fluid = means(pair.fixed, pair.fixed_labels)
    assert white > 1.2 * gray > 1.8 * fluid
    white, gray, fluid = means(pair.moving, pair.moving_labels)
    assert fluid > 1.2 * gray > 1.3 * white


def test_same_contrast_makes_two_t1_images(small):
    pair = make_pair(3, **SMALL, contrast="same")
    np.testing.assert_array_equal(pair.fixed.data, small.fixed.data)
    np.testing.assert_array_equal(pair.moving_labels.data, small.moving_labels.data)
    ratio = [
        v.data[np.isin(lab.data, (2, 41))].mean() / v.data[np.isin(lab.data, (4, 43))].mean()
        for v, lab in ((pair.fixed, pair.fixed_labels), (pair.moving, pair.moving_labels))
    ]
    assert ratio[0] == pytest.approx(ratio[1], rel=0.15)


def test_bias_field_and_noise_are_there(pair):
    """White matter deep inside, which has one intensity but for texture, bias and noise."""
    deep = (
        sitk.GetArrayFromImage(
            sitk.BinaryErode(
                sitk.GetImageFromArray(np.isin(pair.fixed_labels.data, (2, 41)).astype(np.uint8)), (2, 2, 2)
            )
        )
        > 0
    )
    where = grid_points(pair.fixed.grid, deep, limit=None)
    values = pair.fixed.data[deep]
    linear = np.column_stack([where - where.mean(0), np.ones(len(where))])
    fit = linear @ np.linalg.lstsq(linear, values, rcond=None)[0]
    assert np.ptp(fit) > 0.03 * values.mean()
    neighbors = (np.diff(pair.fixed.data, axis=2)[deep[..., 1:] & deep[..., :-1]]) / np.sqrt(2)
    assert 0.7 < neighbors.std() / pair.parameters["noise"] < 1.3


def test_grids_are_oblique_and_differ(pair):
    fixed, moving = pair.fixed.grid, pair.moving.grid
    assert fixed.shape == (112, 128, 112)
    assert moving.shape == (112, 112, 128)  # sagittal
    for grid in (fixed, moving):
        assert np.abs(grid.direction - np.rint(grid.direction)).max() > 0.03
        assert np.linalg.det(grid.direction[:, ::-1]) == pytest.approx(1)
    assert np.linalg.norm(fixed.center - moving.center) > 5
    assert np.abs(fixed.direction - moving.direction).max() > 0.5


def test_resolution_does_not_change_the_person(small):
    """Labels of a coarser scan are those of a finer one at the same places."""
    person = np.random.default_rng(np.random.SeedSequence(3).spawn(5)[0])
    head = small.fixed_points[0] - next(iter(Anatomy(person).landmarks().values()))
    person = np.random.default_rng(np.random.SeedSequence(3).spawn(5)[0])
    labels, _ = Anatomy(person).render(grid_points(small.fixed.grid, limit=None) - head, T1, 1.0)
    assert (labels.reshape(small.fixed.grid.shape) == small.fixed_labels.data).mean() > 0.999


@pytest.mark.parametrize(
    "wrong",
    [
        {"shape": (8, 64, 64)},
        {"shape": (64, 64)},
        {"spacing_mm": 0.0},
        {"contrast": "CT"},
        {"largest_displacement_mm": 40.0},
        {"largest_displacement_mm": -1.0},
    ],
)
def test_wrong_arguments_are_refused_by_name(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        make_pair(0, **wrong)


def test_without_torch_the_remedy_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    assert bullseye(0).fixed.data.max() == 1  # needs none
    with pytest.raises(RuntimeError, match="pip install torch"):
        make_pair(0, **SMALL)


# Files -------------------------------------------------------------------------------------------------------


def test_the_files_hold_the_pair(pair, written):
    assert set(written) == {
        "fixed",
        "moving",
        "fixed_labels",
        "moving_labels",
        "fixed_points",
        "moving_points",
        "truth_fixed_to_moving",
        "truth_moving_to_fixed",
        "truth_affine",
        "labels",
        "phantom",
    }
    for name in ("fixed", "moving"):
        image = read_volume(written[name])
        np.testing.assert_array_equal(image.data, getattr(pair, name).data)
        assert image.grid.same_as(getattr(pair, name).grid)
        np.testing.assert_array_equal(read_labels(written[f"{name}_labels"]).data, getattr(pair, f"{name}_labels").data)
        points, names = read_points(written[f"{name}_points"])
        np.testing.assert_allclose(points, getattr(pair, f"{name}_points"), atol=1e-5)
        assert tuple(names) == pair.point_names
    for name, like in (("fixed_to_moving", pair.fixed), ("moving_to_fixed", pair.moving)):
        grid, field = read_displacement_field(written[f"truth_{name}"])
        assert grid.same_as(like.grid)
        np.testing.assert_allclose(field, getattr(pair, name), atol=1e-5)
    np.testing.assert_allclose(read_affine(written["truth_affine"], 3), pair.affine, atol=1e-9)


def test_the_json_tells_how_the_pair_was_made(pair, written):
    content = json.loads(written["phantom"].read_text())
    assert content["seed"] == 0
    assert content["contrast"] == "different"
    assert content["smallest_determinant"] > 0.2
    assert content["label_names"]["49"] == "Right-Thalamus"
    np.testing.assert_allclose(content["affine"], pair.affine)


def test_the_color_table_names_every_label(written):
    rows = [line.split() for line in written["labels"].read_text().splitlines() if not line.startswith("#")]
    assert {int(row[0]): row[1] for row in rows if row[0] != "0"} == {k: name for k, (name, _) in LABELS.items()}
    assert all(len(row) == 6 for row in rows)


def test_itk_applies_the_written_truth(pair, written):
    field = sitk.ReadImage(str(written["truth_fixed_to_moving"]), sitk.sitkVectorFloat64)
    moved = sitk.GetArrayFromImage(
        sitk.Resample(
            sitk.ReadImage(str(written["moving_labels"])),
            sitk.ReadImage(str(written["fixed"])),
            sitk.DisplacementFieldTransform(field),
            sitk.sitkNearestNeighbor,
        )
    )
    points = grid_points(pair.fixed.grid, limit=None)
    there = map_points(points, pair.fixed_to_moving, pair.fixed.grid)
    index = np.rint(pair.moving.grid.physical_to_index(there)).astype(int)
    inside = np.all((index >= 0) & (index < pair.moving.grid.shape), axis=1)
    own = np.zeros(len(points), dtype=np.uint8)
    own[inside] = pair.moving_labels.data[tuple(index[inside].T)]
    assert (moved.ravel() == own).mean() > 0.9999
    for label in DEEP:
        assert overlap(moved == label, pair.fixed_labels.data == label) > 0.88, LABELS[label]


def test_images_agree_where_the_truth_leads():
    """Without contrast change, the moving image at the mapped points is the fixed one, but for bias and noise."""
    pair = make_pair(5, shape=(75, 86, 75), spacing_mm=2.2, contrast="same")
    points = brain_points(pair)
    there = map_points(points, pair.fixed_to_moving, pair.fixed.grid)
    values = sample(pair.moving.data, pair.moving.grid, there)
    expected = sample(pair.fixed.data, pair.fixed.grid, points)
    known = np.isfinite(values)
    assert np.corrcoef(values[known], expected[known])[0, 1] > 0.85
    before = sample(pair.moving.data, pair.moving.grid, points)
    known = np.isfinite(before)
    assert np.corrcoef(before[known], expected[known])[0, 1] < 0.5


def test_a_full_folder_is_left_alone_unless_forced(small, tmp_path):
    folder = tmp_path / "here"
    folder.mkdir()
    (folder / "mine.txt").write_text("mine")
    with pytest.raises(InputError, match="force"):
        write_pair(folder, small)
    assert [p.name for p in folder.iterdir()] == ["mine.txt"]
    paths = write_pair(folder, small, force=True)
    assert (folder / "mine.txt").read_text() == "mine"
    assert all(p.is_file() for p in paths.values())
    assert [p.name for p in tmp_path.iterdir()] == ["here"]


def test_a_failure_leaves_nothing(small, tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("DeepFLASHRegistrationLib.phantom.pairs.write_points", full)
    with pytest.raises(OSError, match="space"):
        write_pair(tmp_path / "new" / "pair", small)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("moment", [1, 4, 9])
def test_a_failure_while_replacing_leaves_the_earlier_pair(small, another, tmp_path, monkeypatch, moment):
    write_pair(tmp_path / "pair", small)
    before = {p.name: p.read_bytes() for p in (tmp_path / "pair").iterdir()}
    real, renamed = os.replace, []

    def replace(a, b):
        if Path(b).parent == tmp_path / "pair":
            renamed.append(b)
            if len(renamed) == moment:
                raise OSError(5, "Input/output error")
        real(a, b)

    monkeypatch.setattr("DeepFLASHRegistrationLib.support.output_folder.os.replace", replace)
    with pytest.raises(OSError, match="pair: could not be written"):
        write_pair(tmp_path / "pair", another, force=True)
    assert {p.name: p.read_bytes() for p in (tmp_path / "pair").iterdir()} == before


def test_no_truth_of_an_earlier_pair_stays_beside_another(small, tmp_path):
    write_pair(tmp_path, small)
    paths = write_pair(tmp_path, bullseye(0), force=True)
    assert sorted(tmp_path.iterdir()) == sorted(paths.values())


# The bull's eye ----------------------------------------------------------------------------------------------


def test_bullseyes_are_concentric_ellipses():
    for seed in range(50):
        pair = bullseye(seed)
        for name in ("fixed", "moving"):
            a, b, outer_a, outer_b = pair.half_axes[name]
            assert 0 < a < outer_a < 50
            assert 0 < b < outer_b < 50
            labels, image = getattr(pair, f"{name}_labels"), getattr(pair, name)
            assert image.data.shape == (100, 100)
            assert image.data.dtype == np.float32
            assert image.data.min() == 0
            assert image.data.max() <= 1
            assert (image.data[50, 50], labels.data[50, 50]) == (1, 2)
            # Areas of the ellipses.
            assert np.count_nonzero(labels.data == 2) == pytest.approx(np.pi * a * b, rel=0.2, abs=6)
            assert np.count_nonzero(labels.data) == pytest.approx(np.pi * outer_a * outer_b, rel=0.05)
            y, x = np.nonzero(labels.data)
            assert (y.min() + y.max(), x.min() + x.max()) == (100, 100)


def test_half_axes_follow_the_paper():
    draws = np.array([[bullseye(seed).half_axes[name] for name in ("fixed", "moving")] for seed in range(200)])
    inner, outer = draws[..., :2], draws[..., 2:]
    assert inner.mean() == pytest.approx(4, abs=0.4)
    assert inner.std() == pytest.approx(2, abs=0.5)
    assert outer.mean() == pytest.approx(13, abs=0.8)
    assert outer.std() == pytest.approx(4, abs=0.6)


def test_bullseyes_are_written_as_2d_images(tmp_path):
    pair = bullseye(7)
    assert isinstance(pair, Bullseye)
    paths = write_pair(tmp_path / "bullseye", pair)
    assert set(paths) == {"fixed", "moving", "fixed_labels", "moving_labels", "phantom"}
    image = sitk.ReadImage(str(paths["moving"]))
    assert image.GetDimension() == 2
    assert image.GetNumberOfComponentsPerPixel() == 1
    volume = read_volume(paths["fixed"])
    np.testing.assert_array_equal(volume.data, pair.fixed.data)
    assert volume.grid.same_as(Grid((100, 100), np.eye(3)))
    assert json.loads(paths["phantom"].read_text())["half_axes"]["fixed"] == pytest.approx(pair.half_axes["fixed"])
