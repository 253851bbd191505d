# SPDX-License-Identifier: Apache-2.0
"""New subjects on a template, volumes of structures, and templates that cannot be used."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from DeepFLASHRegistrationLib.cohorts.projection import percentile, project, save_projection
from DeepFLASHRegistrationLib.cohorts.saved_template import load_template
from DeepFLASHRegistrationLib.cohorts.template_files import VOLUMES
from DeepFLASHRegistrationLib.cohorts.volumes import (
    by_title,
    carried_volumes,
    read_volumes,
    structure_volumes,
    write_volumes,
)
from DeepFLASHRegistrationLib.imaging.grid import Grid
from DeepFLASHRegistrationLib.imaging.io import read_labels, read_volume, write_volume
from DeepFLASHRegistrationLib.imaging.volume import Volume
from DeepFLASHRegistrationLib.problem.deformation import Deformation
from DeepFLASHRegistrationLib.problem.reading import read_subject
from DeepFLASHRegistrationLib.results.velocity import load_result
from DeepFLASHRegistrationLib.support.errors import Cancelled, InputError
from made_templates import GRID

pytest.importorskip("torch")


def boundary(area: float) -> float:
    """What a quarter of a pixel (of 2 mm) around something of an area is, in mm²."""
    return 0.25 * 2 * 4 * float(np.sqrt(area))


@pytest.fixture
def template(made_template, tmp_path: Path) -> Path:
    """A copy of a template's folder."""
    return shutil.copytree(made_template[0].out, tmp_path / "T")


def test_a_subject_of_the_template_is_brought_to_where_it_is(made_template, template: Path, tmp_path: Path) -> None:
    saved = load_template(template)
    write_volumes(template / VOLUMES, structure_volumes(saved), saved.structures)
    subject = read_subject(made_template[1] / "s1.nii.gz", made_template[1] / "s1_labels.nii.gz", name="s1")
    events: list[dict] = []
    found = project(subject, saved, threads=1, progress=events.append)
    parts = [event["progress"] for event in events]
    assert parts == sorted(parts)
    assert parts[-1] <= 1
    # Searched anew from rest, where its own search went on for two rounds.
    own = load_result(saved.result("s1")).deformation
    maps = [each.displacement(saved.subject.grid, "fixed_to_moving") for each in (own, found.result.deformation)]
    apart = np.linalg.norm(maps[0] - maps[1], axis=-1)[saved.subject.labels[0].data > 0]
    moved = np.linalg.norm(maps[0] - maps[0].mean((0, 1)), axis=-1).max()
    assert apart.mean() < 0.1 * moved
    assert found.distance == pytest.approx(saved.subjects["s1"].distance, rel=0.15)
    assert not found.far
    assert found.result.velocity["domain"].same_as(saved.domain)
    assert found.result.metrics["mean_dice_after"] > 0.93
    # The template's labels in the subject are the subject's, and so are their volumes.
    true = read_labels(made_template[1] / "s1_labels.nii.gz").data
    for label in (1, 2, 3):
        here = found.labels.data == label
        assert 2 * np.count_nonzero(here & (true == label)) / (here.sum() + (true == label).sum()) > 0.93
        assert found.volumes[f"label_{label}"] == pytest.approx(4 * here.sum(), abs=boundary(4 * here.sum()))
        assert 0 <= found.percentiles[f"label_{label}"] <= 100
    save_projection(found, tmp_path / "new", saved, subject, outputs=["warped"])
    written = json.loads((tmp_path / "new" / "projection.json").read_text(encoding="utf-8"))
    assert written["distance"] == pytest.approx(found.distance)
    assert [each["name"] for each in written["structures"]] == ["label_1", "label_2", "label_3"]
    assert read_labels(tmp_path / "new" / "template_labels.nii.gz").data.tolist() == found.labels.data.tolist()
    assert read_volume(tmp_path / "new" / "warped.nii.gz").grid.same_as(saved.subject.grid)
    assert load_result(tmp_path / "new").deformation.length() == pytest.approx(found.distance)
    assert not list(tmp_path.glob(".*"))


def test_a_stranger_is_far_and_a_cancelled_one_gives_nothing(made_template, template: Path) -> None:
    saved = load_template(template)
    image = read_volume(made_template[1] / "s0.nii.gz")
    # Its round parts are torn far apart.
    y, x = np.indices(image.data.shape) * 2.0
    odd = 100.0 + 60 * (np.hypot(x - 40, y - 90) < 9) - 55 * (np.hypot(x - 105, y - 50) < 9)
    stranger = read_subject(made_template[1] / "s0.nii.gz").with_image(
        Volume(GRID, np.where(image.data > 0, odd, 0), "odd")
    )
    found = project(stranger, saved, threads=1)
    assert found.percentile == 100
    assert found.far
    with pytest.raises(Cancelled):
        project(stranger, saved, threads=1, cancel=lambda: True)


def test_volumes_through_maps_are_those_of_the_subjects(made_template, template: Path) -> None:
    saved = load_template(template)
    rows = {(row.name, row.source): row.volumes for row in structure_volumes(saved)}
    assert set(rows) == {("template", "template"), *((f"s{n}", kind) for n in range(4) for kind in ("labels", "map"))}
    for number in range(4):
        for label in (1, 2, 3):
            own, through = (rows[f"s{number}", kind][label] for kind in ("labels", "map"))
            assert through == pytest.approx(own, abs=boundary(own)), (number, label)
    # The template's sizes are theirs on average.
    for label in (1, 2, 3):
        mean = np.mean([rows[f"s{n}", "labels"][label] for n in range(4)])
        assert rows["template", "template"][label] == pytest.approx(mean, abs=boundary(mean))


def test_an_affine_map_scales_volumes_by_its_determinant() -> None:
    matrix = np.array([[1.2, 0.1, 3.0], [0.0, 0.9, -1.0], [0.0, 0.0, 1.0]])
    labels = np.zeros((20, 30), np.int32)
    labels[4:9, 5:20], labels[12:15, 3:6] = 7, -2
    grid = Grid((20, 30), np.array([[0, 2.0, 5], [1.5, 0, 0], [0, 0, 1]]))
    geodesic = Deformation(
        domain=grid,
        unit_mm=1.0,
        velocity=np.zeros((2, 3, 3), np.float32),
        alpha=3.0,
        power=2.0,
        gamma=1.0,
        metric_step=None,
        affine=matrix,
        margin_mm=0.0,
    )
    expected = {-2: 9 * 3.0 * 1.08, 7: 75 * 3.0 * 1.08}
    assert carried_volumes(geodesic, labels, grid) == pytest.approx(expected, rel=1e-5)


def test_the_table_of_volumes_is_read_again(template: Path, tmp_path: Path) -> None:
    saved = load_template(template)
    path = tmp_path / VOLUMES
    write_volumes(path, structure_volumes(saved), {1: "body"})
    first = path.read_text(encoding="utf-8").splitlines()[0].split("\t")
    assert first == ["name", "source", "body", "label_2", "label_3"]
    assert [len(values) for values in read_volumes(path).values()] == [4, 4, 4]
    path.write_text("name\tsource\tbody\ns1\tmap\tmuch\n", encoding="utf-8")
    with pytest.raises(InputError, match='Write it again with "deepflash volumes"'):
        read_volumes(path)


def test_structures_that_overlap_have_their_own_volumes_and_columns_their_own_names() -> None:
    names = {1: "whole", 2: "right", 3: "whole + right", 4: "name"}
    found = by_title({1: 10.0, 2: 1.0, 3: 4.0, 4: 2.0, 9: 3.0}, names)
    assert found == {"whole": 14.0, "right": 5.0, "label_4": 2.0, "label_9": 3.0}


def test_labels_that_were_changed_or_removed_since_are_left_out_and_named(
    made_template, template: Path, tmp_path
) -> None:
    path = template / "template.json"
    values = json.loads(path.read_text(encoding="utf-8"))
    other = shutil.copyfile(made_template[1] / "s3_labels.nii.gz", tmp_path / "other.nii.gz")
    values["subjects"][1]["labels"] = str(other)
    values["subjects"][2]["labels"] = str(tmp_path / "gone.nii.gz")
    path.write_text(json.dumps(values), encoding="utf-8")
    notes: list[str] = []
    rows = structure_volumes(load_template(template), note=notes.append)
    assert [row.name for row in rows if row.source == "labels"] == ["s0", "s3"]
    assert "other.nii.gz is not what it was when the template was made" in notes[0]
    assert "gone.nii.gz is not there" in notes[1]


def test_percentiles() -> None:
    assert [percentile(value, [1.0, 2.0, 2.0, 5.0]) for value in (0.5, 1.0, 2.0, 3.0, 9.0)] == [0, 12.5, 50, 75, 100]


def _all_of(template: Path) -> None:
    """Reads whatever there is of a template."""
    saved = load_template(template)
    assert saved.mean.ndim == 3
    structure_volumes(saved)


@pytest.mark.parametrize(
    ("what", "message"),
    [
        ("gone", "holds no template that is done"),
        ("no json", r"template\.json: cannot be read"),
        ("a list", r"template\.json: cannot be used"),
        ("version", r"it has format 99, this version \d+\). Make the template again"),
        ("begun", "the template is not done. Run the command that makes it again"),
        ("half", r"posed\.nii\.gz and 1 more: missing. Copy the folder again"),
        ("damaged", r"mean_velocity\.npy: is damaged .*Copy the folder again"),
        ("no labels", "has no labels, so that there are no structures"),
    ],
)
def test_folders_that_are_no_template(template: Path, what: str, message: str) -> None:
    path = template / "template.json"
    values = json.loads(path.read_text(encoding="utf-8"))
    if what == "gone":
        path.unlink()
    elif what == "no json":
        path.write_text("{", encoding="utf-8")
    elif what == "half":
        (template / "space" / "posed.nii.gz").unlink()
        (template / "subjects" / "s2" / "velocity.safetensors").unlink()
    elif what == "damaged":
        mean = template / "space" / "mean_velocity.npy"
        mean.write_bytes(mean.read_bytes()[:60])
    else:
        changed = {"version": {"format": 99}, "begun": {"complete": False}, "no labels": {"labels": None}}
        text = "[]" if what == "a list" else json.dumps({**values, **changed[what]})
        path.write_text(text, encoding="utf-8")
    with pytest.raises(InputError, match=message):
        _all_of(template)


def test_a_subject_of_another_dimension_is_refused(template: Path, tmp_path: Path) -> None:
    write_volume(
        tmp_path / "3d.nii.gz", Volume(Grid((8, 8, 8), np.eye(4)), np.indices((8, 8, 8))[0].astype(np.float32))
    )
    with pytest.raises(InputError, match="has 3 dimensions, the template 2"):
        project(read_subject(tmp_path / "3d.nii.gz"), load_template(template))
