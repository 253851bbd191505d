# SPDX-License-Identifier: Apache-2.0
"""Maps of several steps in files, as ITK and nitransforms apply them."""

from __future__ import annotations

import sys
from pathlib import Path

import nitransforms
import numpy as np
import pytest
import registration_pairs as pairs
import SimpleITK as sitk
from DeepFLASHRegistrationLib.imaging.transform_files.composite import write_composite
from DeepFLASHRegistrationLib.support.errors import InputError

# Oblique, anisotropic and stored in another order than x, y, z.
GRID = pairs.box((9, 11, 10), (3.0, 2.0, 4.0), pairs.turn(30)[:, [1, 2, 0]], (40, -10, 70))


def _case() -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """A field that is linear in space; an affine; points within; where these go when the field is first."""
    slope = np.array([[0.05, 0.02, -0.03], [0.01, -0.04, 0.02], [0.0, 0.03, 0.06]])
    affine = np.eye(4)
    affine[:3, :3], affine[:3, 3] = pairs.turn(20) * 1.1, (5, -7, 11)
    # Voxels, at which the splines of nitransforms change nothing.
    points = pairs.places(GRID)[2:7, 2:9, 2:8].reshape(-1, 3)[::7]

    def u(x: np.ndarray) -> np.ndarray:
        return (x - GRID.center) @ slope.T + (1.0, -2.0, 0.5)

    moved = points + u(points)
    return u(pairs.places(GRID)), affine, points, moved @ affine[:3, :3].T + affine[:3, 3]


def test_itk_goes_through_the_steps_in_their_order(tmp_path: Path) -> None:
    field, affine, points, there = _case()
    write_composite(tmp_path / "map.h5", [(GRID, field), affine])
    found = sitk.ReadTransform(str(tmp_path / "map.h5"))
    np.testing.assert_allclose([found.TransformPoint(p) for p in points.tolist()], there, atol=1e-9)
    far = np.array([400.0, -300, 200])  # beyond the field the affine goes on
    np.testing.assert_allclose(found.TransformPoint(far.tolist()), affine[:3, :3] @ far + affine[:3, 3])
    # The other way round: first the affine.
    back = np.linalg.inv(affine)
    write_composite(tmp_path / "back.h5", [back, (GRID, field)])
    found = sitk.ReadTransform(str(tmp_path / "back.h5"))
    start = points @ affine[:3, :3].T + affine[:3, 3]
    moved = (there - affine[:3, 3]) @ back[:3, :3].T
    np.testing.assert_allclose([found.TransformPoint(p) for p in start.tolist()], moved, atol=1e-9)


@pytest.mark.parametrize(("suffix", "form"), [(".h5", None), (".x5", "X5")])
def test_nitransforms_reads_the_same_map(tmp_path: Path, suffix: str, form: str | None) -> None:
    field, affine, points, there = _case()
    path = tmp_path / f"map{suffix}"
    write_composite(path, [(GRID, field), affine])
    chain = nitransforms.manip.TransformChain.from_filename(path, fmt=form)
    turned = np.array([-1.0, -1.0, 1.0])
    np.testing.assert_allclose(chain.map(points * turned) * turned, there, atol=1e-4)


def test_what_no_composite_can_be_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, steps, message in (
        ("map.tfm", [np.eye(4)], "is written as .h5 or .x5"),
        ("map.x5", [np.eye(3)], "X5 holds 3-D maps only"),
        ("nowhere/map.h5", [np.eye(4)], "does not exist"),
    ):
        with pytest.raises(InputError, match=message):
            write_composite(tmp_path / name, steps)
    monkeypatch.setitem(sys.modules, "nitransforms", None)
    with pytest.raises(InputError, match=r"pip install 'nitransforms>=25'"):
        write_composite(tmp_path / "map.x5", [np.eye(4)])
    assert not list(tmp_path.iterdir())
