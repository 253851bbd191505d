# SPDX-License-Identifier: Apache-2.0
"""Pictures of a comparison: decoded again, they show the slice that they say, and nothing where nothing differs."""

from __future__ import annotations

import base64
import re
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import SimpleITK as sitk
from DeepFLASHRegistrationLib.cohorts.comparison import Measured
from DeepFLASHRegistrationLib.cohorts.comparison_pictures import pictures
from DeepFLASHRegistrationLib.cohorts.pairs import NamedPair
from DeepFLASHRegistrationLib.imaging.grid import Grid
from DeepFLASHRegistrationLib.imaging.io import write_volume
from DeepFLASHRegistrationLib.imaging.volume import Volume
from DeepFLASHRegistrationLib.problem.reading import PairFiles


def decoded(text: str, folder: Path) -> list[np.ndarray]:
    found = []
    for code in re.findall(r"data:image/png;base64,([A-Za-z0-9+/=]+)", text):
        (folder / "one.png").write_bytes(base64.b64decode(code))
        found.append(sitk.GetArrayFromImage(sitk.ReadImage(str(folder / "one.png"))))
    return found


@pytest.fixture
def comparison(tmp_path: Path) -> SimpleNamespace:
    """An image of 6 axial slices of 8 rows of 10 columns, 2 mm apart along columns and 1 mm along rows; `same` is the
    image, `brighter` has twice its range in one voxel of each slice."""
    affine = np.diag([1.0, 2.0, 1.0, 1.0])[:, [2, 1, 0, 3]]
    data = np.random.default_rng(0).uniform(50, 100, (6, 8, 10)).astype(np.float32)
    other = data.copy()
    other[:, 2, 3] = 200
    for name, values in (("fixed", data), ("same", data), ("brighter", other)):
        (tmp_path / name / "a").mkdir(parents=True)
        write_volume(tmp_path / name / "a" / "warped.nii.gz", Volume(Grid((6, 8, 10), affine), values))
    files = PairFiles(str(tmp_path / "fixed" / "a" / "warped.nii.gz"), "")
    return SimpleNamespace(title="", top=tmp_path, pairs=SimpleNamespace(rows=(NamedPair(2, "a", files),)))


def measured(*methods: str, state: str = "done") -> list[Measured]:
    return [Measured("a", name, "", f"{name}/a", state) for name in methods]


def test_pictures_show_a_slice_and_what_differs(comparison: SimpleNamespace, tmp_path: Path) -> None:
    text = pictures(comparison, measured("same", "brighter"))
    fixed, _, nothing, brighter, orange = decoded(text, tmp_path)
    assert fixed.shape == brighter.shape == (8, 10)
    assert brighter[2, 3] == 255
    assert nothing.shape == orange.shape == (8, 10, 3)
    red, _, blue = orange[2, 3]
    assert red > 100 > blue
    # 8 rows of 2 mm and 10 columns of 1 mm.
    assert "height: 240.0px" in text
    assert text.count("height: 240.0px") == 5


def test_a_pair_that_a_method_lacks_is_not_shown(comparison: SimpleNamespace) -> None:
    assert pictures(comparison, [*measured("same"), *measured("brighter", state="failed")]) == ""


def test_results_that_are_gone_leave_the_page_without_pictures(comparison: SimpleNamespace, tmp_path: Path) -> None:
    (tmp_path / "same" / "a" / "warped.nii.gz").unlink()
    assert pictures(comparison, measured("same")) == ""
