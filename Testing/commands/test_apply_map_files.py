# SPDX-License-Identifier: Apache-2.0
"""deepflash apply without an input: the map of a result as a file of its own, applied by other programs."""

from __future__ import annotations

from pathlib import Path

import nibabel
import nitransforms
import numpy as np
import pytest
import registration_pairs as pairs
import SimpleITK as sitk
from command_line import run
from DeepFLASHRegistrationLib.imaging.io import read_volume, write_volume
from registration_pairs import Saved

pytest.importorskip("torch")
# The pair of this result lies turned by 14 degrees and 140 mm apart, on an oblique grid.


def _points(saved: Saved, to: str) -> np.ndarray:
    """Points of the space onto which the map resamples."""
    points = pairs.places(pairs.box((4, 4, 4), 11.0)).reshape(-1, 3) + 1.7
    return points if to == "fixed" else saved.result.deformation.points(points, "fixed_to_moving")


@pytest.mark.parametrize("to", ["fixed", "moving"])
def test_a_composite_moves_points_as_the_geodesic_does(saved: Saved, tmp_path: Path, to: str) -> None:
    assert run("apply", saved.folder, "-o", tmp_path / "map.h5", "--to", to) == 0
    assert run("apply", saved.folder / "velocity.safetensors", "-o", tmp_path / "field.nii.gz", "--to", to) == 0
    points = _points(saved, to)
    there = saved.result.deformation.points(points, f"{'fixed_to_moving' if to == 'fixed' else 'moving_to_fixed'}")
    composite = sitk.ReadTransform(str(tmp_path / "map.h5"))
    field = sitk.DisplacementFieldTransform(
        sitk.Cast(sitk.ReadImage(str(tmp_path / "field.nii.gz")), sitk.sitkVectorFloat64)
    )
    for transform in (composite, field):
        # A field of voxels of 3 mm bends between them.
        found = np.array([transform.TransformPoint(p) for p in points.tolist()])
        assert np.abs(found - there).max() < 0.12
        assert np.abs(found - there).mean() < 0.02


def test_nitransforms_resamples_the_moving_image_as_register_did(saved: Saved, tmp_path: Path) -> None:
    moving = tmp_path / "moving.nii.gz"
    write_volume(moving, saved.moving)
    for suffix, form in ((".h5", None), (".x5", "X5")):
        path = tmp_path / f"map{suffix}"
        assert run("apply", saved.folder, "-o", path) == 0
        chain = nitransforms.manip.TransformChain.from_filename(path, fmt=form)
        chain.reference = str(saved.folder / "warped.nii.gz")
        image = nibabel.Nifti1Image(np.asanyarray(nibabel.load(moving).dataobj), nibabel.load(moving).affine)
        theirs = nitransforms.resampling.apply(chain, image, order=1, mode="constant").get_fdata()
        ours = nibabel.load(saved.folder / "warped.nii.gz").get_fdata()
        inside = ours > 100
        assert inside.sum() > 3000
        assert np.abs(theirs - ours)[inside].max() < 2  # of 1000
        assert pairs.correlation(theirs, ours) > 0.9999


def test_time_and_another_grid(saved: Saved, tmp_path: Path) -> None:
    grid = pairs.box((20, 18, 22), 5.0)
    write_volume(tmp_path / "grid.nii.gz", pairs.fixed_image(grid))
    options = ("--reference", tmp_path / "grid.nii.gz", "--time", 0)
    assert run("apply", saved.folder, "-o", tmp_path / "start.nii.gz", *options) == 0
    found = read_field(tmp_path / "start.nii.gz")
    assert found.GetSize() == (22, 18, 20)
    affine, point = saved.result.affine, np.array([3.0, -8, 12])
    there = np.add(point, found.EvaluateAtPhysicalPoint(point.tolist()))
    np.testing.assert_allclose(there, affine[:3, :3] @ point + affine[:3, 3], atol=0.01)


def read_field(path: Path) -> sitk.Image:
    return sitk.ReadImage(str(path))


def test_what_is_refused(saved: Saved, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for arguments, message in (
        ((saved.folder / "affine.tfm", "-o", tmp_path / "a.h5"), "is a transform, not a result with a velocity"),
        ((saved.folder, "-o", tmp_path / "a.h5", "--labels"), "Leave out --labels"),
        ((saved.folder, "-o", tmp_path / "a.tfm"), "Name it .nii.gz, .nrrd"),
    ):
        assert run("apply", *arguments) == 2
        assert message in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
    assert read_volume(saved.folder / "warped.nii.gz").ndim == 3
