# SPDX-License-Identifier: Apache-2.0
"""deepflash register of transforms that other programs found: as they are, as geodesics, and refined."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import registration_pairs as pairs
import SimpleITK as sitk
from command_line import run
from DeepFLASHRegistrationLib.imaging.io import read_volume
from DeepFLASHRegistrationLib.imaging.points import read_points, write_points

pytest.importorskip("torch")

MATRIX = np.eye(4)
MATRIX[:3, :3] = pairs.turn(7) @ np.diag([1.03, 0.98, 1.05])
MATRIX[:3, 3] = (4, -3, 2)


def affine(x: np.ndarray) -> np.ndarray:
    return x @ MATRIX[:3, :3].T + MATRIX[:3, 3]


def write_field(path: Path, function: Any = pairs.bend, half: float = 80.0, dimension: int = 3) -> Path:
    """By SimpleITK: a displacement field on a cube of 4 mm voxels."""
    n = int(half / 2)
    grid = pairs.box((n,) * dimension, 4.0)
    u = (function(pairs.places(grid)) - pairs.places(grid)).astype(np.float64)
    image = sitk.GetImageFromArray(u, isVector=True)
    image.SetSpacing((4.0,) * dimension)
    image.SetOrigin(grid.affine[:dimension, dimension].tolist())
    sitk.WriteImage(image, str(path))
    return path


def write_affine(path: Path) -> Path:
    transform = sitk.AffineTransform(3)
    transform.SetMatrix(MATRIX[:3, :3].ravel().tolist())
    transform.SetTranslation(MATRIX[:3, 3].tolist())
    sitk.WriteTransform(transform, str(path))
    return path


@pytest.fixture
def pair(tmp_path: Path) -> tuple[str, str]:
    (tmp_path / "in").mkdir()
    return tuple(map(str, pairs.write_tiny_pair(tmp_path / "in")))


def register(pair: tuple[str, str], out: Path, *more: Any) -> int:
    return run("register", *pair, "-o", out, "-q", "--threads", 1, *more)


@pytest.mark.parametrize("geodesic", [False, True], ids=["dense", "geodesic"])
def test_a_field_becomes_a_result_that_carries_things_over(
    pair: tuple[str, str], tmp_path: Path, geodesic: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    field, out = write_field(tmp_path / "field.nii.gz"), tmp_path / "out"
    more = ["--as-geodesic"] if geodesic else []
    labels = ["--moving-labels", tmp_path / "in" / "moving_labels.nii.gz"]
    assert register(pair, out, "--method", "transform", "--init", field, *labels, *more) == 0
    assert "field.nii.gz: the result differs from it by" in capsys.readouterr().err
    assert (out / "velocity.safetensors").exists() == geodesic
    told = json.loads((out / "result.json").read_text())
    assert told["metrics"]["map_difference_mm"]["mean"] < (0.4 if geodesic else 0.1)
    # Points, and their way back.
    write_points(tmp_path / "x.csv", points := np.array([[3.0, -8, 5], [-12, 10, 8], [15, 2, -9]]))
    assert run("apply", out, tmp_path / "x.csv", "--to", "moving", "-o", tmp_path / "y.csv") == 0
    there = read_points(tmp_path / "y.csv")[0]
    assert np.abs(there - pairs.bend(points)).max() < (1.0 if geodesic else 0.15)
    assert run("apply", out, tmp_path / "y.csv", "-o", tmp_path / "z.csv") == 0
    assert np.abs(read_points(tmp_path / "z.csv")[0] - points).max() < 0.6
    # An image, as ITK resamples it by the file.
    assert run("apply", out, pair[1], "-o", tmp_path / "warped.nii.gz") == 0
    transform = sitk.DisplacementFieldTransform(sitk.ReadImage(str(field), sitk.sitkVectorFloat64))
    expected = sitk.Resample(sitk.ReadImage(pair[1]), sitk.ReadImage(pair[0]), transform, sitk.sitkLinear, 0.0)
    warped = read_volume(tmp_path / "warped.nii.gz").data
    difference = np.abs(warped - sitk.GetArrayFromImage(expected)).mean()
    assert difference < (8 if geodesic else 2.5)
    assert run("apply", out, pair[1], "-o", tmp_path / "half.nii.gz", "--time", 0.5) == (0 if geodesic else 2)
    if not geodesic:
        assert "no geodesic" in capsys.readouterr().err
    assert run("apply", out, pair[1], "-o", tmp_path / "rest.nii.gz", "--time", 0) == 0
    assert np.abs(read_volume(tmp_path / "rest.nii.gz").data - warped).max() > 20


def test_fields_stay_though_others_are_left_out(pair: tuple[str, str], tmp_path: Path) -> None:
    field = write_field(tmp_path / "field.nii.gz")
    assert register(pair, tmp_path / "out", "--method", "transform", "--init", field, "--outputs", "none") == 0
    assert sorted(os.listdir(tmp_path / "out")) == ["fixed_to_moving.nii.gz", "moving_to_fixed.nii.gz", "result.json"]
    (tmp_path / "out" / "moving_to_fixed.nii.gz").unlink()
    assert run("apply", tmp_path / "out", pair[1], "-o", tmp_path / "warped.nii.gz") == 2


def test_several_go_one_after_the_other_as_in_ants(pair: tuple[str, str], tmp_path: Path) -> None:
    """Points go through the field first, through the affine last; a composite of ITK says the same."""
    field, last = write_field(tmp_path / "1Warp.nii.gz"), write_affine(tmp_path / "0GenericAffine.tfm")
    composite = sitk.CompositeTransform(3)  # what was added last comes first
    composite.AddTransform(sitk.ReadTransform(str(last)))
    composite.AddTransform(sitk.DisplacementFieldTransform(sitk.ReadImage(str(field), sitk.sitkVectorFloat64)))
    points = np.array([[3.0, -8, 5], [-12, 10, 8], [15, 2, -9]])
    expected = np.array([composite.TransformPoint(p) for p in points.tolist()])
    np.testing.assert_allclose(expected, affine(pairs.bend(points)), atol=0.2)
    sitk.WriteTransform(composite, str(tmp_path / "Composite.h5"))
    write_points(tmp_path / "x.csv", points)
    for name, given in (("two", ["--init", field, "--init", last]), ("one", ["--init", tmp_path / "Composite.h5"])):
        assert register(pair, tmp_path / name, "--method", "transform", *given) == 0
        assert run("apply", tmp_path / name, tmp_path / "x.csv", "--to", "moving", "-o", tmp_path / f"{name}.csv") == 0
        np.testing.assert_allclose(read_points(tmp_path / f"{name}.csv")[0], expected, atol=0.15)
    found = json.loads((tmp_path / "two" / "result.json").read_text())
    np.testing.assert_allclose(found["affine_fixed_to_moving_lps_mm"], MATRIX, atol=1e-9)


def test_flash_goes_on_from_a_field(pair: tuple[str, str], tmp_path: Path) -> None:
    field = write_field(tmp_path / "field.nii.gz", lambda x: x + 0.6 * (pairs.bend(x) - x))
    out = tmp_path / "out"
    assert register(pair, out, "--method", "transform+flash", "--init", field, "--refinement", 3) == 0
    told = json.loads((out / "result.json").read_text())
    assert (out / "velocity.safetensors").exists()
    assert told["parameters"]["method"] == "transform+flash"
    assert [record["level"] for record in told["history"]][-1] == 3
    assert told["metrics"]["similarity_after"] > told["metrics"]["similarity_before"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--method", "transform"], "--method transform: needs the transform: --init FILE"),
        (["--method", "transform+flash"], "needs the transform: --init FILE"),
        (["--method", "transform", "--init", "affine"], "needs the transform: --init FILE"),
        (["--init", "FIELD"], "flash starts from one linear transform. The method transform takes"),
        (["--init", "AFFINE", "--init", "AFFINE"], "flash starts from one linear transform"),
        (["--as-geodesic"], "the method flash finds a geodesic anyway"),
        (["--method", "transform", "--init", "nothing.nii.gz"], "nothing.nii.gz"),
        (["--method", "transform", "--init", "PLANE"], "is a 2-D transform, but the images are 3-D"),
        (["--method", "transform", "--init", "SMALL"], "% of the fixed object"),
        (["--method", "transform", "--init", "MOVING"], "no displacement field"),
        (["--method", "transform", "--init", "a.txt.png"], "neither one of none, centers"),
        (
            [
                "--method",
                "transform+flash",
                "--init",
                "FIELD",
                "--resolutions",
                "3",
                "--bands",
                "9",
                "--iterations",
                "2",
            ],
            "at resolution 1, 2 or 4",
        ),
    ],
)
def test_what_does_not_fit_is_refused_before_anything_is_written(
    pair: tuple[str, str],
    tmp_path: Path,
    arguments: list[str],
    message: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    names = {
        "FIELD": lambda: write_field(tmp_path / "field.nii.gz"),
        "AFFINE": lambda: write_affine(tmp_path / "affine.tfm"),
        "PLANE": lambda: write_field(tmp_path / "plane.nii.gz", dimension=2),
        "SMALL": lambda: write_field(tmp_path / "small.nii.gz", half=20),
        "MOVING": lambda: pair[1],
    }
    given = [str(names[text]()) if text in names else text for text in arguments]
    before = sorted(os.listdir(tmp_path))
    assert register(pair, tmp_path / "out", *given) == 2
    assert message in capsys.readouterr().err
    assert sorted(os.listdir(tmp_path)) == before


def test_many_pairs_with_a_transform_each(
    pair: tuple[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    field, linear = write_field(tmp_path / "field.nii.gz"), write_affine(tmp_path / "affine.tfm")
    table, out = tmp_path / "table.csv", tmp_path / "out"
    table.write_text(f"fixed,moving,transform,output\n{pair[0]},{pair[1]},{field},a\n{pair[0]},{pair[1]},,b\n")
    more = ["-o", out, "-q", "--outputs", "none", "--workers", 1]
    assert run("register-many", table, *more, "--method", "transform") == 2
    assert "line 3, column transform: is empty" in capsys.readouterr().err
    table.write_text(f"fixed,moving,transform,output\n{pair[0]},{pair[1]},{field},a\n{pair[0]},{pair[1]},{linear},b\n")
    assert run("register-many", table, *more, "--method", "transform") == 0
    for name, function in (("a", pairs.bend), ("b", affine)):
        write_points(tmp_path / "x.csv", points := np.array([[3.0, -8, 5], [-12, 10, 8]]))
        assert run("apply", out / name, tmp_path / "x.csv", "--to", "moving", "-o", tmp_path / f"{name}.csv") == 0
        np.testing.assert_allclose(read_points(tmp_path / f"{name}.csv")[0], function(points), atol=0.15)
    # A linear one takes the place of the alignment; of a field FLASH says what it can do with it.
    quick = pairs.TINY_OPTIONS[:6]
    assert run("register-many", table, *more, *quick, "--force") == 3
    assert "flash starts from one linear transform" in capsys.readouterr().err
    found = json.loads((out / "b" / "result.json").read_text())
    np.testing.assert_allclose(found["affine_fixed_to_moving_lps_mm"], MATRIX, atol=1e-9)
