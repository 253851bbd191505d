# SPDX-License-Identifier: Apache-2.0
"""Templates of images that end within their object."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from DeepFLASHRegistrationLib.cohorts.projection import project
from DeepFLASHRegistrationLib.cohorts.saved_template import load_template
from DeepFLASHRegistrationLib.cohorts.template_summary import write_template_summary
from DeepFLASHRegistrationLib.imaging.grid import Grid
from DeepFLASHRegistrationLib.imaging.io import read_labels, read_mask, read_volume, write_volume
from DeepFLASHRegistrationLib.imaging.volume import Volume
from DeepFLASHRegistrationLib.problem.reading import read_subject
from DeepFLASHRegistrationLib.results.velocity import load_result
from made_templates import GRID, draw, run

pytest.importorskip("torch")


def cropped(folder: Path) -> Path:
    """Windows of the drawn slices, each elsewhere, with texture inside the body and no voxel of background."""
    for number in range(3):
        window = slice(20 + 2 * number, 52), slice(16, 54 - 3 * number)
        for name in (f"s{number}", f"s{number}_labels"):
            read = read_labels if name.endswith("labels") else read_volume
            volume = read(folder / f"{name}.nii.gz")
            affine = GRID.affine.copy()
            affine[:2, 2] = GRID.index_to_physical(np.array([[window[0].start, window[1].start]]))[0]
            part = volume.data[window]
            write_volume(folder / f"{name}.nii.gz", Volume(Grid(part.shape, affine), part.astype(volume.data.dtype)))
    return folder


def test_what_few_subjects_show_of_a_template_is_not_compared(tmp_path: Path) -> None:
    data = cropped(draw(tmp_path / "data", 3))
    made = run(data, tmp_path / "T", rounds=1)
    write_template_summary(made)
    image, mask = read_volume(made.out / "template.nii.gz"), read_mask(made.out / "mask.nii.gz")
    assert mask.grid.same_as(image.grid)
    assert 0.3 < mask.data.mean() < 0.95
    assert image.data[mask.data > 0].min() > 0
    # All of what is compared comes from the windows of all subjects.
    points = image.grid.index_to_physical(np.argwhere(mask.data).astype(float))
    shares = []
    for name in made.left:
        found = load_result(made.last(name))
        shares.append(found.moving_grid.contains(found.deformation.points(points, "fixed_to_moving")).mean())
    assert min(shares) > 0.9
    saved = load_template(made.out)
    assert saved.cut
    subject = read_subject(data / "s1.nii.gz", data / "s1_labels.nii.gz", name="s1")
    found = project(subject, saved, threads=1)
    assert found.distance == pytest.approx(saved.subjects["s1"].distance, rel=0.3)
    assert found.result.metrics["mean_dice_after"] > 0.85
