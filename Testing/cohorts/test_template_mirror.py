# SPDX-License-Identifier: Apache-2.0
"""Templates that are their own mirror image."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from DeepFLASHRegistrationLib.cohorts.template_mirror import mirror, mirrored, symmetric, upright
from DeepFLASHRegistrationLib.imaging.grid import Grid
from DeepFLASHRegistrationLib.imaging.io import read_labels, read_volume
from DeepFLASHRegistrationLib.imaging.volume import Volume
from DeepFLASHRegistrationLib.support.errors import InputError
from made_templates import draw, known, run
from scipy.spatial.transform import Rotation

pytest.importorskip("torch")


def test_the_plane_between_left_and_right_is_found_whatever_the_pose() -> None:
    pose = np.eye(4)
    pose[:3, :3] = Rotation.from_rotvec([0.1, -0.3, 0.25]).as_matrix()
    pose[:3, 3] = 12, -7, 30
    # What is alike on both sides of x = 0 is seen in this pose, and in the mirror.
    found = mirror(3) @ pose @ mirror(3) @ np.linalg.inv(pose)
    back = upright(found, np.array([9.0, 4.0, 28.0]))
    assert np.linalg.det(back) == pytest.approx(1)
    np.testing.assert_allclose(back @ mirror(3), (pose @ mirror(3) @ np.linalg.inv(pose)) @ back, atol=1e-12)
    # The smallest way there: nothing is turned around the axis that both share, and an upright one is not moved.
    axis = Rotation.from_matrix(back[:3, :3]).as_rotvec()
    assert axis[0] == pytest.approx(0, abs=1e-12)
    np.testing.assert_allclose(upright(np.eye(4), np.array([0.0, 5.0, 6.0])), np.eye(4), atol=1e-12)


def test_a_mirrored_image_shows_what_lies_on_the_other_side() -> None:
    rng = np.random.default_rng(1)
    grid = Grid((3, 4, 5), np.array([[0, 0.6, 1.6, 5], [0, 0.8, -1.2, -4], [1.5, 0, 0, 7], [0, 0, 0, 1]]))
    volume = Volume(grid, rng.normal(size=(3, 4, 5)).astype(np.float32))
    found = mirrored(volume)
    at = volume.grid.index_to_physical(np.array([[1, 2, 3]])) * (-1, 1, 1)
    np.testing.assert_allclose(found.grid.physical_to_index(at), [[1, 2, 3]], atol=1e-9)


@pytest.mark.parametrize("shift", [0.0, 3.3])
def test_the_mean_with_the_mirror_image_moves_both_sides_alike(shift: float) -> None:
    """Also in a domain that lies more on one side."""
    geodesic = known(0)
    affine = geodesic.domain.affine.copy()
    affine[0, 2] = -71.0 + shift
    geodesic = dataclasses.replace(geodesic, domain=dataclasses.replace(geodesic.domain, affine=affine), margin_mm=0.0)
    found = symmetric(geodesic)
    points = np.random.default_rng(2).uniform([-60, 10], [60, 130], size=(50, 2))
    forth = found.points(points, "fixed_to_moving")
    other = found.points(points * (-1, 1), "fixed_to_moving") * (-1, 1)
    np.testing.assert_allclose(forth, other, atol=2e-2)
    assert np.abs(forth - points).max() > 1
    np.testing.assert_allclose(symmetric(found).velocity, found.velocity, atol=1e-6)
    turn = np.array([[0.8, -0.6, 0], [0.6, 0.8, 0], [0, 0, 1]])
    turned = dataclasses.replace(geodesic.domain, affine=turn @ affine)
    with pytest.raises(InputError, match="is turned against left and right"):
        symmetric(dataclasses.replace(geodesic, domain=turned))


def test_a_symmetric_template_is_its_own_mirror_image(tmp_path: Path) -> None:
    made = run(draw(tmp_path / "data", 2), tmp_path / "T", rounds=1, mirrored=True)
    image = read_volume(made.out / "template.nii.gz")
    ends = image.grid.index_to_physical(np.array([[0, 0], [0, image.grid.shape[1] - 1]]))[:, 0]
    assert ends[0] == pytest.approx(-ends[1], abs=1e-4)
    np.testing.assert_allclose(image.data, image.data[:, ::-1], atol=1e-5)
    assert made.left_over["mean_voxels"] < 0.01
    # The body of the anatomy is alike on both sides, whose labels nobody mirrors: it lies around x = 0.
    labels = read_labels(made.out / "labels.nii.gz")
    points = labels.grid.index_to_physical(np.stack(np.indices(labels.grid.shape), -1))
    body = points[labels.data > 0]
    assert abs(body[:, 0].mean()) < 1.0  # half a voxel
    assert abs(body[:, 0].min() + body[:, 0].max()) < 4.0
