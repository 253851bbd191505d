# SPDX-License-Identifier: Apache-2.0
"""Templates of drawn slices whose middle is known."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path

import numpy as np
import pytest
from DeepFLASHRegistrationLib.cohorts import template_averages
from DeepFLASHRegistrationLib.cohorts.many import Settings
from DeepFLASHRegistrationLib.cohorts.saved_template import load_template
from DeepFLASHRegistrationLib.cohorts.template import TemplateRun
from DeepFLASHRegistrationLib.cohorts.template_how import How
from DeepFLASHRegistrationLib.cohorts.template_images import (
    common_grid,
    far_away,
    mean_geodesic,
    moved_along,
    voted_labels,
)
from DeepFLASHRegistrationLib.cohorts.template_summary import write_template_summary
from DeepFLASHRegistrationLib.imaging.grid import Grid
from DeepFLASHRegistrationLib.imaging.io import read_labels, read_volume, write_volume
from DeepFLASHRegistrationLib.imaging.segmentation import Segment, Segmentation, write_segmentation
from DeepFLASHRegistrationLib.imaging.volume import Volume
from DeepFLASHRegistrationLib.jobs.job import key_of
from DeepFLASHRegistrationLib.jobs.ledger import Run
from DeepFLASHRegistrationLib.problem.parameters import Parameters
from DeepFLASHRegistrationLib.support.errors import InputError
from DeepFLASHRegistrationLib.training.dataset import read_dataset
from made_templates import GRID, anatomy, known, run

pytest.importorskip("torch")


def stamps(folder: Path) -> dict[str, int]:
    """When each file was written, but for what is remembered of inputs."""
    files = (p for p in folder.rglob("*") if p.is_file() and ".jobs" not in p.parts)
    return {str(p.relative_to(folder)): p.stat().st_mtime_ns for p in files}


def test_the_anatomy_in_the_middle_comes_back(made_template) -> None:
    template = made_template[0]
    labels = read_labels(template.out / "labels.nii.gz")
    points = labels.grid.index_to_physical(np.stack(np.indices(labels.grid.shape), -1))
    truth, overlaps = anatomy(points)[1], []
    for label in (1, 2, 3):
        overlap = 2 * np.count_nonzero((truth == label) & (labels.data == label))
        overlap /= np.count_nonzero(truth == label) + np.count_nonzero(labels.data == label)
        overlaps.append(overlap)
        assert overlap > 0.9, label  # the small parts have 90 pixels, and 35 on their border
        assert np.count_nonzero(labels.data == label) == pytest.approx(np.count_nonzero(truth == label), rel=0.05)
        # The middles of the parts to within half a voxel.
        middles = [points[data == label].mean(0) for data in (truth, labels.data)]
        assert np.linalg.norm(middles[0] - middles[1]) < 1.0
    assert np.mean(overlaps) > 0.94
    # Whereas no subject is it.
    for number in range(4):
        own = read_labels(made_template[1] / f"s{number}_labels.nii.gz").data
        there = anatomy(GRID.index_to_physical(np.stack(np.indices(GRID.shape), -1)))[1]
        both = 2 * np.count_nonzero((there == 3) & (own == 3))
        parts = both / (np.count_nonzero(there == 3) + np.count_nonzero(own == 3))
        assert parts < 0.9


def test_the_mean_deformation_is_none_and_the_template_is_sharper_by_rounds(made_template) -> None:
    template = made_template[0]
    assert template.left_over["mean_voxels"] < 0.01
    assert template.rounds[0].mean_voxels > 0.01
    image, first = (read_volume(template.out / name) for name in ("template.nii.gz", "averages/affine/template.nii.gz"))
    assert np.square(np.gradient(image.data)).sum() > 1.05 * np.square(np.gradient(first.data)).sum()
    agreement = read_volume(template.out / "labels_agreement.nii.gz").data
    assert 0.25 <= agreement.min() < agreement.max() == 1


def test_velocities_begin_at_the_template(made_template) -> None:
    """With −v1 from the template each geodesic leads to its subject, as in the other order of the images."""
    template = made_template[0]
    folders = [template.last(name) for name in template.left]
    mean, lengths = mean_geodesic(folders)
    assert set(lengths) == {"s0", "s1", "s2", "s3"}
    assert np.abs(mean.velocity).max() < 1e-3
    # Velocities that were planted in pairs of opposite ones are found so.
    from DeepFLASHRegistrationLib.results.velocity import load_result

    begun = [-load_result(folder).deformation.end_velocity().ravel() for folder in folders]
    for one, other in ((0, 1), (2, 3)):
        cosine = begun[one] @ begun[other] / np.linalg.norm(begun[one]) / np.linalg.norm(begun[other])
        assert cosine < -0.6


def test_run_again_nothing_is_done_and_what_is_lost_comes_back_to_the_byte(
    made_template, monkeypatch: pytest.MonkeyPatch
) -> None:
    template, data = made_template
    before = stamps(template.out)
    again = run(data, template.out)
    assert stamps(template.out) == before
    assert again.left_over == template.left_over
    assert [vars(each) for each in again.rounds] == [vars(each) for each in template.rounds]
    image = (template.out / "template.nii.gz").read_bytes()
    shutil.rmtree(template.out / "rounds" / "2" / "subjects" / "s1")
    shutil.rmtree(template.out / "subjects" / "s3")
    (template.out / "template.nii.gz").unlink()
    # Averages that are there are not taken again: on another kind of processor they would have other bits.
    with monkeypatch.context() as patch:
        patch.setattr(template_averages, "warped_mean", lambda *_: pytest.fail("averaged again"))
        again = run(data, template.out)
    assert (template.out / "template.nii.gz").read_bytes() == image
    assert again.left_over == template.left_over
    shutil.rmtree(template.out / "averages")
    (template.out / "template.nii.gz").unlink()
    again = run(data, template.out)
    assert (template.out / "template.nii.gz").read_bytes() == image
    # Nobody takes it for one that is done meanwhile.
    assert not (template.out / "template.json").exists()
    write_template_summary(again)


@pytest.mark.parametrize("alike", [False, True])
def test_averages_that_are_not_whole_or_of_other_settings_are_taken_again(
    made_template, tmp_path: Path, alike: bool
) -> None:
    template, data = made_template
    out = shutil.copytree(template.out, tmp_path / "T")
    image = (out / "template.nii.gz").read_bytes()
    averages = out / "averages"
    if alike:  # as a task of an array, which believes what others of its run have done
        settings = dataclasses.replace(template.settings, run=Run(alike=True))
        other = TemplateRun(read_dataset(data), out, settings, How(rounds=2, average="median"))
        with pytest.raises(InputError, match="poses/affine/s0: holds the result of other inputs"):
            other.run(lambda end: None)
    else:
        (averages / "affine" / "template.nii.gz").unlink()
        (averages / "1" / "mean_velocity.npy").unlink()
        (averages / "settled" / "job.json").write_text("")
    # What an earlier template of other subjects had, this one has not.
    strangers = [out / "mask.nii.gz", out / "template_2.nii.gz", out / "space" / "posed_mask.nii.gz"]
    for stranger in strangers:
        shutil.copy(out / "template.nii.gz", stranger)
    again = run(data, out)
    assert (out / "template.nii.gz").read_bytes() == image
    assert again.left_over == template.left_over
    assert not any(stranger.exists() for stranger in strangers)
    write_template_summary(again)
    load_template(out)


def test_what_intensities_are_prepared_by_decides_alignments_and_averages(made_template) -> None:
    template = made_template[0]
    image = template.out / "averages" / "rigid" / "template.nii.gz"
    keys = set()
    for change in ({}, {"bias_correction": True}, {"normalization": "window", "window_high": 120.0}):
        settings = Settings(dataclasses.replace(template.settings.parameters, **change))
        jobs = TemplateRun(template.dataset, template.out, settings, template.how)._jobs
        keys.add((jobs.alignment("affine", image, "s0").key, key_of(jobs.prepared)))
    assert len({key for key, _ in keys}) == len({key for _, key in keys}) == 3


def test_other_settings_are_refused_and_a_subject_that_cannot_be_used_is_left_out(
    made_template, tmp_path: Path
) -> None:
    template, data = made_template
    parameters = Parameters.from_preset("default")
    other = TemplateRun(read_dataset(data), template.out, Settings(parameters), How(rounds=2))
    with pytest.raises(InputError, match="holds the result of other inputs or parameters"):
        other.run(lambda end: None)
    broken = shutil.copytree(data, tmp_path / "broken")
    for number in (2, 3):
        (broken / f"s{number}.nii.gz").unlink()
        (broken / f"s{number}_labels.nii.gz").unlink()
    dataset = read_dataset(broken)
    write_volume(broken / "s1.nii.gz", Volume(GRID, np.ones(GRID.shape, np.float32)))
    with pytest.raises(InputError, match=r"1 of 2 subjects can be used \(s1: .*A template needs two"):
        TemplateRun(dataset, tmp_path / "T", Settings(), How()).run(lambda end: None)


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (("head", "body"), r"segment head has the number 2, but in .*s0.seg.nrrd 2 stands for body"),
        (("body", "body"), r"s0.seg.nrrd: has 2 segments body. Rename all but one"),
    ],
)
def test_segments_whose_names_and_numbers_are_not_those_of_all_are_refused(
    made_template, tmp_path: Path, names: tuple[str, str], message: str
) -> None:
    """Labels are voted for by number."""
    subjects = []
    for number, values in enumerate(((1, 2), (2, 1))):
        data = np.zeros((3, 6, 6), np.uint8)
        data[:, 1:3, 1:3], data[:, 3:5, 3:5] = values
        layer = Volume(Grid((3, 6, 6), np.eye(4)), data.astype(np.int32), f"s{number}.seg.nrrd")
        segments = tuple(Segment(f"s{n}", name, label=n) for name, n in zip(names, values, strict=True))
        path = tmp_path / f"s{number}.seg.nrrd"
        write_segmentation(path, Segmentation((layer,), segments))
        subjects.append(dataclasses.replace(read_dataset(made_template[1]).subjects[number], labels=path))
    dataset = dataclasses.replace(read_dataset(made_template[1]), subjects=tuple(subjects))
    run = TemplateRun(dataset, tmp_path / "T", Settings(), How())
    with pytest.raises(InputError, match=message):
        run.run(lambda end: None)


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ({"rounds": 0}, "--rounds 0: must lie between 1 and 50"),
        ({"average": "mode"}, "--average mode: must be one of mean, median"),
        ({"voxel_mm": -1.0}, "--voxel-mm -1: must lie between"),
    ],
)
def test_what_no_template_can_be_made_by(how: dict, message: str) -> None:
    with pytest.raises(InputError, match=message):
        How(**how).check(Parameters())


@pytest.mark.parametrize("method", ["lddmm", "transform"])
def test_methods_without_a_velocity_are_refused(method: str) -> None:
    with pytest.raises(InputError, match=f"--method {method}"):
        How().check(dataclasses.replace(Parameters(), method=method))


def test_an_image_goes_along_a_geodesic_as_points_do() -> None:
    points = GRID.index_to_physical(np.stack(np.indices(GRID.shape), -1))
    geodesic = known(0)
    moved = moved_along(Volume(GRID, anatomy(points)[0].astype(np.float32)), geodesic)
    expected = anatomy(points + geodesic.displacement(GRID, "fixed_to_moving"))[0]
    assert np.abs(moved.data - expected).max() < 3  # of 160
    assert np.abs(moved.data - expected).mean() < 0.1


def test_labels_are_voted_for(tmp_path: Path) -> None:
    votes = np.array([[[1, 2], [0, 5]], [[1, 3], [0, 4]], [[2, 3], [7, 4]], [[1, 3], [7, 9]]])
    labels, agreement = _voted(votes, tmp_path)
    assert labels.data.tolist() == [[1, 3], [0, 4]]  # of as many votes, with neighbours alike, the smallest label
    assert agreement.data.tolist() == [[0.75, 0.75], [0.5, 0.5]]


def test_what_is_split_evenly_makes_structures_neither_smaller_nor_larger(tmp_path: Path) -> None:
    """Discs whose border half of the subjects see one voxel farther out."""
    y, x = np.indices((60, 60)) - 29.5
    votes = np.stack([(np.hypot(x, y) < radius) * 70000 for radius in (15.0, 15.0, 17.0, 17.0)])
    labels, agreement = _voted(votes, tmp_path)
    areas = [np.count_nonzero(each) for each in votes]
    assert np.count_nonzero(labels.data) == pytest.approx(np.mean(areas), rel=0.06)
    assert set(np.unique(labels.data)) == {0, 70000}
    assert agreement.data.min() == 0.5


def _voted(votes: np.ndarray, folder: Path) -> tuple[Volume, Volume]:
    grid, files = Grid(votes.shape[1:], np.eye(3)), []
    for number, data in enumerate(votes):
        files.append(folder / f"{number}.nii.gz")
        write_volume(files[-1], Volume(grid, data.astype(np.int32)))
    return voted_labels(files, grid)


def test_who_lies_far_away() -> None:
    near = {f"s{i}": 1.0 + 0.01 * i for i in range(9)}
    assert far_away(near) == []
    assert far_away({**near, "odd": 2.0}) == ["odd"]
    assert far_away({**near, "close": 0.0}) == []  # the template is no outlier


def test_the_grid_holds_whole_objects_and_what_half_of_the_crops_show() -> None:
    like = Grid((4, 4, 4), np.eye(4))
    boxes = [np.array([[shift, 0, 0], [10 + shift, 20, 30]]) for shift in (-5.0, 0.0, 1.0)]
    whole = common_grid(boxes, [True] * 3, 2.0, like)
    assert whole.corners().min(0).tolist() == pytest.approx([-13, -8, -8], abs=1.01)
    assert whole.corners().max(0).tolist() == pytest.approx([19, 28, 38], abs=1.01)
    # Voxels of the same size meet those of the images.
    same = common_grid(boxes, [True] * 3, 1.0, like)
    np.testing.assert_allclose(same.affine[:3, 3], np.round(same.affine[:3, 3]))
    crops = common_grid(boxes, [False] * 3, 2.0, like)
    assert crops.corners().min(0).tolist() == pytest.approx([0, 0, 0], abs=1.01)
    assert crops.corners().max(0).tolist() == pytest.approx([10, 20, 30], abs=1.01)
