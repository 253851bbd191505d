# SPDX-License-Identifier: Apache-2.0
import json
import os

import numpy as np
import pytest
from DeepFLASHRegistrationLib.imaging.files import POINTS as POINT_FILES
from DeepFLASHRegistrationLib.imaging.landmarks import paired
from DeepFLASHRegistrationLib.imaging.points import read_landmarks, read_points, write_points
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


@pytest.mark.parametrize("source", POINT_FILES)
@pytest.mark.parametrize("target", POINT_FILES)
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
        ("a.dat", "1,2,3", "unknown kind"),
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


# ---- tables as people have them

TABLES = {
    "tab.tsv": "x\ty\tz\n{0}\t{1}\t{2}\n{3}\t{4}\t{5}\n",
    "bids.tsv": "name\tx\ty\tz\tsize\nA\t{0}\t{1}\t{2}\t5\nB\t{3}\t{4}\t{5}\tn/a\n",
    "space.txt": "{0} {1} {2}\n{3}   {4}  {5}\n",
    "labelled.txt": "# of the second reader\nA {0} {1} {2}\n'B' {3} {4} {5}\n".replace("'", '"'),
    "elastix.txt": "point\n2\n{0} {1} {2}\n{3} {4} {5}\n",
    "idav.pts": "Version 1.0\n2\nA {0} {1} {2}\nB {3} {4} {5}\n",
    "faces.pts": "version: 1\nn_points:  2\n{{\n{0} {1} {2}\n{3} {4} {5}\n}}\n",
    "plain.pts": "{0} {1} {2}\n{3} {4} {5}\n",
    "first.csv": "A,{0},{1},{2}\nB,{3},{4},{5}\n",
    "counted.csv": "0,{0},{1},{2}\n1,{3},{4},{5}\n",
    "numbered_last.csv": "{0},{1},{2},0\n{3},{4},{5},1\n",
    "from_17.csv": "17,{0},{1},{2}\n18,{3},{4},{5}\n",
    "float_labels.txt": "17.0 {0} {1} {2}\n18.0 {3} {4} {5}\n",
    "ids_last.csv": "{0},{1},{2},204\n{3},{4},{5},17\n",
    "time_last.csv": "{0},{1},{2},0\n{3},{4},{5},0\n",
    "ants.csv": "x,y,z,t,weight\n{0},{1},{2},0,0.5\n{3},{4},{5},0,0.25\n",
    "numpy.txt": "# label x y z\n204 {0} {1} {2}\n17 {3} {4} {5}\n",
    "numpy.csv": "# by hand\n# x,y,z,weight\n{0},{1},{2},0.5\n{3},{4},{5},0.25\n",
    "pandas.csv": ",x,y,z\n0,{0},{1},{2}\n1,{3},{4},{5}\n",
    "units.csv": "label,x (mm),y [mm],z_mm\nA,{0},{1},{2}\nB,{3},{4},{5}\n",
    "spaces.csv": "x, y, z, label\n{0}, {1}, {2}, A\n{3}, {4}, {5}, B\n",
    "semicolon.csv": "{0};{1};{2};A,B\n{3};{4};{5};C\n",
    "text.csv": "{0},{1},{2},a;b\n{3},{4},{5},C\n",
    "blank.csv": "x,y,z\n\n{0},{1},{2}\n\n{3},{4},{5}\n",
}


@pytest.mark.parametrize("name", TABLES)
def test_tables_of_every_layout_hold_the_same_points(tmp_path, name) -> None:
    text = TABLES[name].format(*POINTS.ravel())
    (tmp_path / name).write_text(text)
    points, labels = read_points(tmp_path / name)
    assert np.allclose(points, POINTS)
    known = [["17", "18"], ["17.0", "18.0"], ["204", "17"], ["0", "0"]]
    assert labels in (["A", "B"], ["", ""], ["0", "1"], ["A,B", "C"], ["a;b", "C"], *known)
    assert (labels == ["A", "B"]) == ("A" in text and ";" not in text)
    write_points(tmp_path / f"moved_{name}", points + 1, like=tmp_path / name)
    moved, kept = read_points(tmp_path / f"moved_{name}")
    assert np.allclose(moved, POINTS + 1)
    assert kept == labels
    assert len((tmp_path / f"moved_{name}").read_text().splitlines()) == len(text.splitlines())
    write_points(tmp_path / f"same_{name}", points, like=tmp_path / name)
    without = [str.maketrans("", "", character) for character in ' "']
    same = (tmp_path / f"same_{name}").read_text().translate(without[0]).translate(without[1])
    assert same.replace(".0", "") == text.translate(without[0]).translate(without[1]).replace(".0", "")


def test_labels_that_grow_with_gaps_are_no_coordinate(tmp_path) -> None:
    rows = [(17, 10, -5, 3), (18, -20, 8, 4), (25, 30, 8, 2)]
    (tmp_path / "a.txt").write_text("".join(" ".join(map(str, row)) + "\n" for row in rows))
    points, labels = read_points(tmp_path / "a.txt")
    assert labels == ["17", "18", "25"]
    assert points.tolist() == [list(row[1:]) for row in rows]


def test_a_header_in_a_comment_tells_the_coordinate_system(tmp_path) -> None:
    (tmp_path / "a.txt").write_text("# R A S\n1 2 3\n4 5 6\n")
    assert read_points(tmp_path / "a.txt")[0].tolist() == [[-1, -2, 3], [-4, -5, 6]]


@pytest.mark.parametrize("delimiter", [";", "\t", " "])
@pytest.mark.parametrize("header", [True, False])
def test_decimal_commas_are_read_and_written(tmp_path, delimiter, header) -> None:
    rows = [delimiter.join(str(v).replace(".", ",") for v in point) for point in POINTS]
    (tmp_path / "a.csv").write_text("\n".join([delimiter.join("xyz")] * header + rows) + "\n")
    assert np.allclose(read_points(tmp_path / "a.csv")[0], POINTS)
    write_points(tmp_path / "b.csv", POINTS + 0.5, like=tmp_path / "a.csv")
    assert np.allclose(read_points(tmp_path / "b.csv")[0], POINTS + 0.5)
    assert "." not in (tmp_path / "b.csv").read_text()


def test_unicode_text_of_excel_is_read(tmp_path) -> None:
    (tmp_path / "a.txt").write_text("label\tx\ty\tz\nHüfte\t1,5\t-2,25\t3\n", encoding="utf-16")
    points, labels = read_points(tmp_path / "a.txt")
    assert np.allclose(points, POINTS[:1])
    assert labels == ["Hüfte"]


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.csv", "1,10,20,1\n2,11,21,2\n", "does not say which is x"),
        ("a.csv", "1,10,20,30\n", "does not say which is x"),
        ("a.csv", "17,1.5,2.5,3.5\n", "does not say which is x"),
        ("a.csv", "204,1.5,2.5,3.5\n17,1.5,2.5,4.5\n", "does not say which is x"),  # a label, or x with a weight
        ("a.csv", "10,1.5,2.5,3.5\n20,1.5,2.5,4.5\n", "does not say which is x"),
        ("a.csv", "1.5,2,3,0.5\n4,5,6,0.25\n", "does not say which is x"),  # x with a weight, or a time before x
        ("a.csv", "1.5,2,3,1\n4,5,6,1\n7,8,9,2\n", "does not say which is x"),
        ("a.txt", "# a b c d\n1.5 2 3 0.5\n4 5 6 0.25\n", "does not say which is x"),
        ("a.csv", "-20,3,5,0\n-10,8,1,0\n0,-4,9,0\n", "does not say which is x"),  # growing x, and a time
        ("a.csv", "-20,3,5,2\n-10,8,1,7\n0,-4,9,1\n", "does not say which is x"),  # no label is negative
        ("a.txt", "10 20 30 1\n20 -5 3 1\n30 8 4 1\n", "does not say which is x"),  # homogeneous
        ("a.csv", "# CoordinateSystem = IJK\nx,y,z\n1,2,3\n", "'IJK', which is unknown"),
        ("a.csv", "x,y,z,space\n1,2,3,MNI\n", "column 'space' holds 'MNI'"),
        ("a.csv", "x,y,z,space\n1,2,3,RAS\n1,2,3,LPS\n", "both RAS and LPS"),
        ("a.csv", "# CoordinateSystem = RAS\nx_lps,y_lps,z_lps\n1,2,3\n", "both RAS and LPS"),
        ("a.csv", "# RAS\nx,y,z,system\n1,2,3,LPS\n", "both RAS and LPS"),
        ("a.csv", "x,y,z,r,a,s\n1,2,3,-1,-2,3\n", "x, y, z as well as r, a, s"),
        ("a.mrk.json", '{"markups": [{"coordinateSystem": null, "controlPoints": []}]}', "coordinateSystem is null"),
        ("a.mrk.json", '{"markups": [{"coordinateSystem": 0, "controlPoints": []}]}', "coordinateSystem is 0"),
        ("a.txt", "index\n1\n1 2 3\n", "voxel indices"),
        ("a.pts", "Version 1.0\n3\nA 1 2 3\nB 4 5 6\n", "says that it holds 3"),
        ("a.csv", "x (cm),y (cm),z (cm)\n1,2,3\n", "names no columns"),
        ("a.csv", "i,j,k\n1,2,3\n", "names no columns"),
        ("a.csv", "x,y,z\n1,2,inf\n", "not finite"),
        ("a.csv", "x,y,z\n1,,3\n", "not finite"),
        ("a.csv", "x,y,z\n1,2\n", "no valid"),
        ("a.mrk.json", '{"markups": [{"coordinateUnits": "m", "controlPoints": []}]}', "unit"),
        ("a.mrk.json", '{"markups": [{"controlPoints": [{"position": [1, 2, 3, 4, 5, 6]}]}]}', "shape"),
        ("a.mrk.json", "[" * 100000, "nested too deeply"),
        ("a.mrk.json", '{"a":' * 100000, "nested too deeply"),
        ("a.mrk.json", '{"markups": [{"controlPoints": [{"position": [1, 2, 1' + "0" * 400 + "]}]}]}", "no valid"),
        ("a.csv", 'x,y,z,label\n1,2,3,"' + "a" * 200000 + '"\n', "no valid"),
    ],
)
def test_tables_that_do_not_say_what_they_mean_are_refused(tmp_path, name, text, message) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(InputError, match=message) as error:
        read_points(tmp_path / name)
    assert name in str(error.value)
    assert len(str(error.value)) < 500


# ---- points without a position


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.mrk.json", json.dumps(markup("LPS", POINTS))),
        (
            "a.fcsv",
            "# CoordinateSystem = LPS\n# columns = id,x,y,z,ow,ox,oy,oz,vis,sel,lock,label,desc,associatedNodeID\n"
            "1,1.5,-2.25,3,0,0,0,1,1,1,0,P-0,,,2,0\n9,7,8,9,0,0,0,1,1,1,0,to be placed,,,0,0\n"
            "2,-40.125,50,60.0625,0,0,0,1,1,1,0,P-1,,,2,0\n",
        ),
        ("a.csv", "x,y,z,label\n1.5,-2.25,3,P-0\nnan,NaN,nan,to be placed\n-40.125,50,60.0625,P-1\n"),
        (
            "b.csv",
            '"label","l","p","s","defined"\n"P-0",1.5,-2.25,3,1\n"to be placed",7,8,9,0\n"P-1",-40.125,50,60.0625,1\n',
        ),
        ("a.tsv", "label\tr\ta\ts\nP-0\t-1.5\t2.25\t3\nto be placed\tn/a\tn/a\tn/a\nP-1\t40.125\t-50\t60.0625\n"),
        ("a.txt", "1.5 -2.25 3 P-0\nNaN NaN NaN 'to be placed'\n-40.125 50 60.0625 P-1\n".replace("'", '"')),
    ],
)
def test_points_without_a_position_stay_known(tmp_path, name, text) -> None:
    (tmp_path / name).write_text(text)
    landmarks = read_landmarks(tmp_path / name)
    assert landmarks.names == ("P-0", "to be placed", "P-1")
    assert landmarks.defined.tolist() == [True, False, True]
    assert np.allclose(landmarks.positions[[0, 2]], POINTS)
    points, labels = read_points(tmp_path / name)
    assert np.allclose(points, POINTS)
    assert labels == ["P-0", "P-1"]
    write_points(tmp_path / f"moved_{name}", points + 1, labels, like=tmp_path / name)
    moved = read_landmarks(tmp_path / f"moved_{name}")
    assert moved.names == landmarks.names
    assert moved.defined.tolist() == [True, False, True]
    assert np.allclose(moved.positions[[0, 2]], POINTS + 1)
    with pytest.raises(InputError, match="same number"):
        write_points(tmp_path / f"moved_{name}", np.zeros((3, 3)), like=tmp_path / name)
    write_points(tmp_path / "other.csv" if name != "other.csv" else "o.csv", points, like=tmp_path / name)


def test_files_without_any_position_are_refused(tmp_path) -> None:
    (tmp_path / "a.csv").write_text("x,y,z,label\n,,,A\n")
    assert not read_landmarks(tmp_path / "a.csv").defined.any()
    with pytest.raises(InputError, match="no points"):
        read_points(tmp_path / "a.csv")


# ---- what a table states, and what is only guessed of it

STATED = {
    "comment.csv": "# CoordinateSystem = {space}\nlabel,x,y,z\nA,{p}\n",
    "colon.txt": "# coordinate system: {space}\nlabel,x,y,z\nA,{p}\n",
    "percent.tsv": "% by hand\n% space: {space}\nA,{p}\n",
    "alone.csv": "# all points are in {space} (mm)\nA,{p}\n",
    "column.csv": "label,x,y,z,Coordinate System\nA,{p},{space}\n",
    "space.csv": "label,x,y,z,space\nA,{p},{space}\n",
    "named.csv": "name,x_{space},y_{space},z_{space}\nA,{p}\n",
    "brackets.csv": "name,X ({space}),Y ({space}),Z ({space})\nA,{p}\n",
    "before.csv": "name,{space}_x_mm,{space}_y_mm,{space}_z_mm\nA,{p}\n",
    "twice.csv": "# {space}\nname,x_{space},y_{space},z_{space},system\nA,{p},{space}\n",
}


@pytest.mark.parametrize("name", STATED)
@pytest.mark.parametrize(("space", "lps"), [("RAS", [-1.5, 2.0, 3.0]), ("LPS", [1.5, -2.0, 3.0])])
def test_a_table_is_read_and_written_in_the_coordinate_system_that_it_states(tmp_path, name, space, lps) -> None:
    (tmp_path / name).write_text(STATED[name].format(space=space, p="1.5,-2,3"), encoding="utf-8")
    points, labels = read_points(tmp_path / name)
    assert (points.tolist(), labels) == ([lps], ["A"])
    write_points(tmp_path / f"moved_{name}", points + np.array([1, 10, 100]), like=tmp_path / name)
    moved = "0.5,-12.0,103.0" if space == "RAS" else "2.5,8.0,103.0"
    assert (tmp_path / f"moved_{name}").read_text() == STATED[name].format(space=space, p=moved)


def test_labels_that_were_guessed_are_noted(tmp_path) -> None:
    (tmp_path / "a.csv").write_text("1,10,-5,3\n2,-20,8,4\n3,30,8,2\n")
    (tmp_path / "b.csv").write_text("A,10,-5,3\nB,-20,8,4\nC,30,8,2\n")
    (tmp_path / "c.csv").write_text("label,x,y,z\n1,10,-5,3\n2,-20,8,4\n3,30,8,2\n")
    guessed, texts, named = (read_landmarks(tmp_path / f"{name}.csv") for name in "abc")
    assert len(guessed.notes) == 1
    assert "a.csv: has no header; the first number" in guessed.notes[0]
    assert texts.notes == named.notes == ()
    assert guessed.notes[0] in paired(guessed, named).notes
    assert write_points(tmp_path / "o.csv", guessed.positions, like=tmp_path / "a.csv") == list(guessed.notes)


@pytest.mark.parametrize("source", POINT_FILES)
@pytest.mark.parametrize("target", POINT_FILES)
def test_points_without_a_position_go_from_kind_to_kind(tmp_path, source, target) -> None:
    (tmp_path / "a.csv").write_text("x,y,z,label\n1.5,-2.25,3,A\n,,,B\n4,5,6,C\n")
    points = np.array([[1.5, -2.25, 3], [4, 5, 6]])
    write_points(tmp_path / f"b{source}", points, like=tmp_path / "a.csv")
    write_points(tmp_path / f"c{target}", points + 1, like=tmp_path / f"b{source}")
    found = read_landmarks(tmp_path / f"c{target}")
    assert found.names == ("A", "B", "C")
    assert found.defined.tolist() == [True, False, True]
    assert np.allclose(found.positions[[0, 2]], points + 1)
    if target == ".mrk.json":
        controls = json.loads((tmp_path / f"c{target}").read_text())["markups"][0]["controlPoints"]
        assert [point["positionStatus"] for point in controls] == ["defined", "undefined", "defined"]


@pytest.mark.parametrize("suffix", [".mrk.json", ".fcsv", ".csv"])
def test_a_file_may_tell_how_far_each_landmark_is_trusted(tmp_path, suffix):
    path = tmp_path / f"points{suffix}"
    if suffix == ".csv":
        path.write_text("x,y,z,label,trust_mm\n1,2,3,a,2.5\n4,5,6,b,\n7,8,9,c,inf\n")
    else:
        write_points(path, np.arange(9.0).reshape(3, 3), ["a", "b", "c"])
        text = path.read_text()
        if suffix == ".fcsv":
            rows = text.splitlines()
            for row, told in ((3, "trust 2.5 mm"), (5, "a bad one, Trust = inf")):
                cells = rows[row].split(",")
                cells[12] = f'"{told}"'
                rows[row] = ",".join(cells)
            path.write_text("\n".join(rows) + "\n")
        else:
            content = json.loads(text)
            points = content["markups"][0]["controlPoints"]
            points[0]["description"], points[2]["description"] = "trust 2.5 mm", "a bad one, Trust = inf"
            path.write_text(json.dumps(content))
    trust = read_landmarks(path).trust
    assert trust[0] == 2.5
    assert np.isnan(trust[1])
    assert np.isinf(trust[2])


def test_a_trust_of_nothing_is_refused(tmp_path):
    path = tmp_path / "points.csv"
    path.write_text("x,y,z,trust\n1,2,3,0\n")
    with pytest.raises(InputError, match="above 0"):
        read_landmarks(path)
