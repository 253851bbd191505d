# SPDX-License-Identifier: Apache-2.0
"""Templates of subjects with further images."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from DeepFLASHRegistrationLib.cohorts.many import Settings
from DeepFLASHRegistrationLib.cohorts.projection import project
from DeepFLASHRegistrationLib.cohorts.saved_template import load_template
from DeepFLASHRegistrationLib.cohorts.template import TemplateRun
from DeepFLASHRegistrationLib.cohorts.template_how import How
from DeepFLASHRegistrationLib.cohorts.template_summary import write_template_summary
from DeepFLASHRegistrationLib.imaging.io import read_labels, read_volume, write_volume
from DeepFLASHRegistrationLib.problem.parameters import Parameters
from DeepFLASHRegistrationLib.problem.reading import read_subject
from DeepFLASHRegistrationLib.support.errors import InputError
from DeepFLASHRegistrationLib.training.dataset import read_dataset
from made_templates import draw, run

pytest.importorskip("torch")


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    """A table of two slices in whose first image one of the parts is not seen; the second shows that one alone."""
    folder = draw(tmp_path_factory.mktemp("channels") / "data", 2)
    for number in range(2):
        labels = read_labels(folder / f"s{number}_labels.nii.gz").data
        image = read_volume(folder / f"s{number}.nii.gz")
        first = np.where(labels == 3, 100, image.data).astype(np.float32)
        write_volume(folder / f"s{number}.nii.gz", image.with_data(first))
        second = np.where(labels > 0, 100 - 60.0 * (labels == 3), 0).astype(np.float32)
        write_volume(folder / f"s{number}_t2.nii.gz", image.with_data(second))
    rows = [f"data/s{n}.nii.gz,data/s{n}_labels.nii.gz,data/s{n}_t2.nii.gz" for n in range(2)]
    (folder.parent / "table.csv").write_text("\n".join(["image,labels,channels", *rows]), encoding="utf-8")
    return folder.parent / "table.csv"


def test_a_template_of_two_images_of_each_subject(data: Path, tmp_path: Path) -> None:
    made = run(data, tmp_path / "T", rounds=1)
    write_template_summary(made)
    one, two = (read_volume(made.out / name) for name in ("template.nii.gz", "template_2.nii.gz"))
    assert one.grid.same_as(two.grid)
    # Each shows what the subjects' images of its kind show: the third structure dark in the second one alone.
    labels = read_labels(made.out / "labels.nii.gz").data
    for image, dark in ((one, False), (two, True)):
        inside, around = image.data[labels == 3].mean(), image.data[labels == 1].mean()
        assert (inside < 0.75 * around) == dark
    # Which of the two moves what the first does not show: in it alone the third structures do not meet.
    agreement = read_volume(made.out / "labels_agreement.nii.gz").data
    alone = dataclasses.replace(
        read_dataset(data),
        subjects=tuple(dataclasses.replace(each, channels=()) for each in read_dataset(data).subjects),
    )
    parameters = Parameters.from_preset("fast", iterations=(8, 12), alpha=8.0)
    other = TemplateRun(alone, tmp_path / "alone", Settings(parameters, threads=1, workers=1), How(1))
    other.run(lambda end: None)
    third = [_overlap(each, 3) for each in (made, other)]
    assert third[0] > third[1] + 0.03, third
    assert agreement.min() >= 0.5
    # A new subject comes with as many.
    saved = load_template(made.out)
    folder = data.parent / "data"
    subject = read_subject(folder / "s1.nii.gz", channels=[folder / "s1_t2.nii.gz"], name="s1")
    assert project(subject, saved, threads=1).distance == pytest.approx(saved.subjects["s1"].distance, rel=0.25)
    with pytest.raises(InputError, match=r"0 further images, and the template has 1\. Name as many, .*--channel"):
        project(read_subject(folder / "s1.nii.gz"), saved, threads=1)


def _overlap(made: TemplateRun, label: int) -> float:
    """Dice of both subjects' labels on the template."""
    a, b = (read_labels(made.last(name) / "labels.nii.gz").data == label for name in made.left)
    return 2 * np.count_nonzero(a & b) / (np.count_nonzero(a) + np.count_nonzero(b))


def test_subjects_with_more_images_than_others_are_refused(data: Path, tmp_path: Path) -> None:
    dataset = read_dataset(data)
    odd = dataclasses.replace(dataset.subjects[1], channels=())
    some = dataclasses.replace(dataset, subjects=(dataset.subjects[0], odd))
    with pytest.raises(InputError, match="s1 has 0 further images, s0 1"):
        TemplateRun(some, tmp_path / "T", Settings(), How())
    parameters = dataclasses.replace(Parameters(), channel_weights=(1.0, 2.0))
    with pytest.raises(InputError, match="channel_weights: has 2 entries for 1 further image"):
        TemplateRun(dataset, tmp_path / "T", Settings(parameters), How())
    gone = data.with_name("gone.csv")
    gone.write_text(data.read_text(encoding="utf-8").replace("s1_t2", "s9_t2"), encoding="utf-8")
    with pytest.raises(InputError, match=r"s9_t2\.nii\.gz: there is no such file"):
        read_dataset(gone)
