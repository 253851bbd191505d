# SPDX-License-Identifier: Apache-2.0
"""Subjects whose files are flipped left to right."""

from __future__ import annotations

import csv
import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
from DeepFLASHRegistrationLib.cohorts.many import Settings
from DeepFLASHRegistrationLib.cohorts.projection import project
from DeepFLASHRegistrationLib.cohorts.saved_template import load_template
from DeepFLASHRegistrationLib.cohorts.template import TemplateRun
from DeepFLASHRegistrationLib.cohorts.template_how import How
from DeepFLASHRegistrationLib.cohorts.template_sides import is_flipped, to_mirror
from DeepFLASHRegistrationLib.cohorts.template_summary import write_template_summary
from DeepFLASHRegistrationLib.imaging.grid import Grid
from DeepFLASHRegistrationLib.imaging.io import write_volume
from DeepFLASHRegistrationLib.imaging.volume import Volume
from DeepFLASHRegistrationLib.problem.parameters import Parameters
from DeepFLASHRegistrationLib.problem.reading import read_subject
from DeepFLASHRegistrationLib.training.dataset import read_dataset
from made_templates import known

pytest.importorskip("torch")

GRID = Grid((28, 32, 28), np.array([[0, 0, 5.0, -67.5], [0, 5.0, 0, -77.5], [5.0, 0, 0, -67.5], [0, 0, 0, 1]]))


def write_head(path: Path, number: int, side: float = 1.0) -> Path:
    """A body with a large part on one side and a small one on the other, each subject's a little elsewhere."""
    rng = np.random.default_rng(number)
    x, y, z = np.moveaxis(GRID.index_to_physical(np.stack(np.indices(GRID.shape), -1)), -1, 0)

    def part(center: tuple[float, float, float], radii: tuple[float, float, float]) -> np.ndarray:
        (cx, cy, cz), (a, b, c) = np.array(center) + rng.normal(size=3), np.array(radii) * np.exp(rng.normal() * 0.03)
        away = np.sqrt(((side * x - cx) / a) ** 2 + ((y - cy) / b) ** 2 + ((z - cz) / c) ** 2)
        return 1 / (1 + np.exp((away - 1) * min(a, b, c) / 2.5))

    # Front and back, above and below are told apart by its shape.
    body = np.maximum(part((0, 0, 0), (46, 62, 40)), part((0, 22, -34), (20, 20, 26)))
    image = 100 * body + 80 * part((22, -14, 6), (16, 24, 14)) + 80 * part((-22, -14, 6), (9, 14, 8))
    image = image + rng.normal(size=GRID.shape) * 2
    write_volume(path, Volume(GRID, np.where(body > 0.02, image, 0).astype(np.float32)))
    return path


def test_the_part_of_the_way_is_a_projection_in_the_metric() -> None:
    geodesic = known(1)
    begun = -geodesic.end_velocity()
    assert to_mirror(geodesic, begun) == pytest.approx(1)
    assert to_mirror(geodesic, -2 * begun) == pytest.approx(-0.5)
    # What other frequencies say is at right angles to it, in any metric that weighs them.
    other = np.zeros_like(begun)
    other[:, -2:, -2:] = 1
    low = np.where(other == 1, 0, begun)
    rest = dataclasses.replace(geodesic, velocity=np.zeros_like(begun))
    assert to_mirror(rest, other) == pytest.approx(0)
    assert to_mirror(geodesic, other + low) == pytest.approx(
        to_mirror(geodesic, low) * squared(low) / squared(other + low)
        + to_mirror(geodesic, other) * squared(other) / squared(other + low),
        rel=1e-4,
    )


def squared(velocity: np.ndarray) -> float:
    return dataclasses.replace(known(1), velocity=velocity.astype(np.float32)).length() ** 2


def test_who_is_flipped() -> None:
    others = {f"s{n}": value for n, value in enumerate((-0.05, -0.02, 0.0, 0.01, 0.03, 0.06))}
    assert is_flipped(0.4, others)
    assert not is_flipped(-0.4, others)
    assert not is_flipped(0.18, {name: 2 * value for name, value in others.items()})  # within 3.5 deviations
    assert not is_flipped(0.1, {name: value / 100 for name, value in others.items()})
    assert not is_flipped(0.9, {"a": 0.0, "b": 0.01})


def test_a_flipped_subject_is_named_and_so_is_a_new_one(tmp_path: Path) -> None:
    data = tmp_path / "heads"
    data.mkdir()
    for number in range(6):
        write_head(data / f"s{number}.nii.gz", number, -1.0 if number == 4 else 1.0)
    parameters = Parameters.from_preset("fast", resolutions=(1,), bands=(15,), iterations=(10,))
    out = tmp_path / "T"
    run = TemplateRun(read_dataset(data), out, Settings(parameters, threads=1, workers=1), How(rounds=1))
    run.run(lambda end: None)
    assert run.flipped() == ["s4"]
    assert set(run.sides) == set(run.subjects)
    assert run.done == run.count
    write_template_summary(run)
    with open(out / "subjects.tsv", encoding="utf-8", newline="") as file:
        assert [row["name"] for row in csv.DictReader(file, delimiter="\t") if row["flipped"] == "yes"] == ["s4"]
    assert "left and right exchanged?" in (out / "template.html").read_text(encoding="utf-8")
    saved = load_template(out)
    assert [name for name, each in saved.subjects.items() if each.flipped] == ["s4"]
    for side in (1.0, -1.0):
        found = project(read_subject(write_head(tmp_path / "new.nii.gz", 9, side)), saved, threads=1)
        assert found.flipped == (side < 0), found.to_mirror
    # What leads to the mirror image of another template is made again.
    record = out / "asymmetry" / "job.json"
    record.write_text(json.dumps({**json.loads(record.read_text(encoding="utf-8")), "key": "other"}), encoding="utf-8")
    sides = dict(run.sides)
    run.run(lambda end: None)
    assert run.sides == sides
    assert json.loads(record.read_text(encoding="utf-8"))["key"] != "other"
    write_template_summary(run)
    # Templates of which it was not known have none.
    values = json.loads((out / "template.json").read_text(encoding="utf-8"))
    for row in values["subjects"]:
        row["to_mirror"] = None
    (out / "template.json").write_text(json.dumps(values), encoding="utf-8")
    assert load_template(out).sides == {}
