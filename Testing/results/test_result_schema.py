# SPDX-License-Identifier: Apache-2.0
"""docs/result.schema.json describes what result.json and the events of --json-progress really are, of every kind."""

import copy
import json
from pathlib import Path

import jsonschema
import numpy as np
import pytest
import registration_pairs as pairs
import SimpleITK as sitk
from command_line import pair, register, run  # noqa: F401
from DeepFLASHRegistrationLib.imaging.volume import Volume
from DeepFLASHRegistrationLib.registration.register import register as registered_by
from DeepFLASHRegistrationLib.registration.result import FORMAT
from DeepFLASHRegistrationLib.registration.verdict import FINDINGS, UNMEASURED
from DeepFLASHRegistrationLib.results.folder import summary

SCHEMA = json.loads((Path(__file__).resolve().parents[2] / "docs" / "result.schema.json").read_text(encoding="utf-8"))


def refuse(token):
    raise AssertionError(f"{token} is no JSON")


def check(values, kind):
    """ValidationError unless a `kind` of thing is as the schema says."""
    jsonschema.Draft202012Validator({**SCHEMA, "anyOf": [{"$ref": f"#/$defs/{kind}"}]}).validate(values)


def as_json(result):
    """What would be written of a result."""
    return json.loads(json.dumps(summary(result, ["report.html"], {}), allow_nan=False), parse_constant=refuse)


@pytest.fixture
def everything(pair, tmp_path, capsys):  # noqa: F811
    """The events and the result.json of a registration with all that can be given."""
    folder = tmp_path / "in"
    given = [f"--{side}-{what}" for side in ("fixed", "moving") for what in ("labels", "mask", "points")]
    names = [f"{side}_labels.nii.gz" if what != "points" else f"{side}.csv"
             for side in ("fixed", "moving") for what in ("labels", "mask", "points")]  # fmt: skip
    options = [each for name, file in zip(given, names) for each in (name, folder / file)]
    assert register(pair, tmp_path / "out", "--json-progress", *options) == 0
    events = [json.loads(line, parse_constant=refuse) for line in capsys.readouterr().out.splitlines()]
    return events, json.loads((tmp_path / "out" / "result.json").read_text(encoding="utf-8"), parse_constant=refuse)


def test_a_registration_with_labels_masks_and_landmarks(everything):
    events, values = everything
    check(values, "result")
    assert {"dice", "volume_change", "landmarks"} <= set(values["metrics"])
    assert {"landmarks", "mean-dice", "label-dice"} <= {c["code"] for c in values["verdict"]["criteria"]}
    for event in events:
        check(event, "event")
        assert ("verdict" in event) == (event is events[-1])
    assert events[-1]["verdict"] == values["verdict"]


def test_a_saved_result(saved):
    check(json.loads((saved.folder / "result.json").read_text(encoding="utf-8")), "result")


def test_a_single_slice_in_space(tmp_path, capsys):
    files = []
    for name, volume in zip(("fixed", "moving"), pairs.disks((40, 44))):
        image = sitk.GetImageFromArray(np.asarray(volume.data, np.float32)[None])
        image.SetSpacing((2.0, 2.0, 5.0))
        files.append(tmp_path / f"{name}.nii.gz")
        sitk.WriteImage(image, str(files[-1]))
    assert run("register", *files, "-o", tmp_path / "out", "--outputs", "none", *pairs.TINY_OPTIONS) == 0
    values = json.loads((tmp_path / "out" / "result.json").read_text(encoding="utf-8"))
    check(values, "result")
    assert values["metrics"]["ndim"] == 2
    assert "plane" in values["fixed_grid"]


@pytest.mark.parametrize("level", ["good", "check", "failed"])
def test_results_of_every_level(level):
    fixed, moving = pairs.disks()
    if level == "failed":
        moving = Volume(moving.grid, np.ascontiguousarray(moving.data[::-1, ::-1]), "turned.nii.gz")
    tries = []
    result = registered_by(
        fixed,
        moving,
        pairs.quick(initial_alignment="none"),
        threads=1,
        progress=lambda event: tries.append(event),
        cancel=lambda: level == "check" and any("energy" in event for event in tries),
    )
    assert result.verdict.level == level
    values = as_json(result)
    check(values, "result")
    assert values["cancelled"] == (level == "check")
    assert values["verdict"]["level"] == level


def test_the_schema_names_every_criterion_and_finding():
    named = {}
    for rule in SCHEMA["$defs"]["criterion"]["allOf"]:
        code = rule["if"]["properties"]["code"]["const"]
        named[code] = tuple(rule["then"]["properties"]["finding"]["enum"])
    assert named == {code: (*findings, *UNMEASURED) for code, findings in FINDINGS.items()}
    assert SCHEMA["$defs"]["criterion"]["properties"]["code"]["enum"] == list(FINDINGS)
    assert SCHEMA["$defs"]["result"]["properties"]["format"]["const"] == FORMAT


@pytest.mark.parametrize(
    ("place", "value"),
    [
        (("format",), 2),
        (("verdict", "level"), "fine"),
        (("verdict", "criteria", 0, "code"), "beauty"),
        (("verdict", "criteria", 0, "finding"), "lovely"),
        (("verdict", "criteria", 0, "text"), "A sentence."),
        (("metrics", "overlap"), "0.9"),
        (("metrics", "folds"), 0),
        (("fixed_grid", "shape"), [10]),
    ],
)
def test_what_is_otherwise_is_told(saved, place, value):
    values = copy.deepcopy(json.loads((saved.folder / "result.json").read_text(encoding="utf-8")))
    inner = values
    for key in place[:-1]:
        inner = inner[key]
    inner[place[-1]] = value
    with pytest.raises(jsonschema.ValidationError):
        check(values, "result")
