# SPDX-License-Identifier: Apache-2.0
import json
import os

import numpy as np
import pytest
from DeepFLASHRegistrationLib.imaging.points import read_points, write_points
from DeepFLASHRegistrationLib.support.errors import InputError

POINTS = np.array([[1.5, -2.25, 3.0], [-40.125, 50, 60.0625]])
FCSV = """# Markups fiducial file version = 4.11
# CoordinateSystem = {space}
# columns = id,x,y,z,ow,ox,oy,oz,vis,sel,lock,label,desc,associatedNodeID
vtkMRMLMarkupsFiducialNode_0,{a},0,0,0,1,1,1,0,"left, front",a note,vtkMRMLScalarVolumeNode1
vtkMRMLMarkupsFiducialNode_1,{b},0,0,0,1,1,0,0,B,,
"""


def numbers(point: np.ndarray) -> str:
    return ",".join(map(str, point))


def markup(space: str, points: np.ndarray) -> dict:
    controls = [
        {"id": str(i), "label": f"P-{i}", "description": "kept", "position": list(p), "positionStatus": "defined"}
        for i, p in enumerate(points)
    ]
    controls.insert(1, {"id": "9", "label": "to be placed", "positionStatus": "undefined"})
    return {
        "markups": [
            {"type": "Fiducial", "coordinateSystem": space, "controlPoints": controls, "display": {"color": [1, 0, 0]}}
        ]
    }


@pytest.mark.parametrize(("space", "sign"), [("LPS", 1), ("1", 1), ("RAS", -1), ("0", -1)])
def test_fcsv_in_its_own_coordinate_system(tmp_path, space, sign) -> None:
    stored = POINTS * [sign, sign, 1]
    text = FCSV.format(space=space, a=numbers(stored[0]), b=numbers(stored[1]))
    (tmp_path / "a.fcsv").write_text(text)
    points, labels = read_points(tmp_path / "a.fcsv")
    assert np.allclose(points, POINTS)
    assert labels == ["left, front", "B"]
    write_points(tmp_path / "b.fcsv", POINTS + 1, like=tmp_path / "a.fcsv")
    moved, labels = read_points(tmp_path / "b.fcsv")
    assert np.allclose(moved, POINTS + 1)
    assert labels == ["left, front", "B"]
    again = (tmp_path / "b.fcsv").read_text()
    assert f"CoordinateSystem = {space}" in again
    assert "vtkMRMLScalarVolumeNode1" in again
    assert "a note" in again


@pytest.mark.parametrize(("space", "sign"), [("LPS", 1), ("RAS", -1)])
def test_mrk_json_in_its_own_coordinate_system(tmp_path, space, sign) -> None:
    (tmp_path / "a.mrk.json").write_text(json.dumps(markup(space, POINTS * [sign, sign, 1])))
    points, labels = read_points(tmp_path / "a.mrk.json")
    assert np.allclose(points, POINTS)
    assert labels == ["P-0", "P-1"]
    write_points(tmp_path / "b.mrk.json", POINTS + 1, like=tmp_path / "a.mrk.json")
    assert np.allclose(read_points(tmp_path / "b.mrk.json")[0], POINTS + 1)
    content = json.loads((tmp_path / "b.mrk.json").read_text())["markups"][0]
    assert content["coordinateSystem"] == space
    assert content["display"] == {"color": [1, 0, 0]}
    assert content["controlPoints"][0]["description"] == "kept"
    assert content["controlPoints"][1]["positionStatus"] == "undefined"


@pytest.mark.parametrize(
    "text",
    [
        "1.5,-2.25,3.0\n-40.125,50,60.0625\n",
        "1.5,-2.25,3.0,A\n-40.125,50,60.0625,B\n",
        "x,y,z,t,label,comment\n1.5,-2.25,3.0,0,A,c\n-40.125,50,60.0625,0,B,d\n",
        "label;X;Y;Z\nA;1.5;-2.25;3.0\nB;-40.125;50;60.0625\n",
    ],
)
def test_csv_with_and_without_header(tmp_path, text) -> None:
    (tmp_path / "a.csv").write_text(text)
    points, labels = read_points(tmp_path / "a.csv")
    assert np.allclose(points, POINTS)
    assert labels == (["A", "B"] if "A" in text else ["", ""])
    write_points(tmp_path / "b.csv", points + 1, like=tmp_path / "a.csv")
    again, kept = read_points(tmp_path / "b.csv")
    assert np.allclose(again, POINTS + 1)
    assert kept == labels
    first, changed = text.splitlines()[0], (tmp_path / "b.csv").read_text().splitlines()[0]
    assert len(first.split(",")) == len(changed.split(","))
    assert "x" not in first or first == changed


def test_2d_points_live_in_csv(tmp_path) -> None:
    write_points(tmp_path / "a.csv", POINTS[:, :2])
    points, labels = read_points(tmp_path / "a.csv")
    assert np.allclose(points, POINTS[:, :2])
    assert labels == ["1", "2"]
    with pytest.raises(InputError, match="shape"):
        write_points(tmp_path / "a.fcsv", POINTS[:, :2])


@pytest.mark.parametrize("source", [".fcsv", ".mrk.json", ".csv"])
@pytest.mark.parametrize("target", [".fcsv", ".mrk.json", ".csv"])
def test_points_and_labels_go_from_kind_to_kind(tmp_path, source, target) -> None:
    write_points(tmp_path / f"a{source}", POINTS, ["left, front", "B"])
    write_points(tmp_path / f"b{target}", POINTS * 2, like=tmp_path / f"a{source}")
    points, labels = read_points(tmp_path / f"b{target}")
    assert np.allclose(points, POINTS * 2)
    assert labels == ["left, front", "B"]
    write_points(tmp_path / f"b{target}", POINTS, ["C", "D"], like=tmp_path / f"a{source}")
    assert read_points(tmp_path / f"b{target}")[1] == ["C", "D"]


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.txt", "1,2,3", "unknown kind"),
        ("none.csv", None, "cannot be read"),
        ("a.csv", "", "no points"),
        ("a.csv", "1,2,3\n3,4,z\n", "no valid"),
        ("a.csv", "a,b,c\n1,2,3\n", "names no columns"),
        ("a.csv", "1,2,nan\n", "not finite"),
        ("a.fcsv", "# CoordinateSystem = XYZ\n1,2,3,4\n", "XYZ"),
        ("a.fcsv", "1,2\n", "no valid"),
        ("a.mrk.json", "{", "no valid"),
        ("a.mrk.json", "[]", "no valid"),
        ("a.mrk.json", '{"markups": []}', "no points"),
    ],
)
def test_unusable_files_are_refused_by_name(tmp_path, name, text, message) -> None:
    if text is not None:
        (tmp_path / name).write_text(text)
    with pytest.raises(InputError, match=message) as error:
        read_points(tmp_path / name)
    assert name in str(error.value)


def test_another_number_of_points_is_refused_and_nothing_written(tmp_path) -> None:
    write_points(tmp_path / "a.csv", POINTS)
    with pytest.raises(InputError, match="same number"):
        write_points(tmp_path / "b.csv", POINTS[:1], like=tmp_path / "a.csv")
    assert os.listdir(tmp_path) == ["a.csv"]
