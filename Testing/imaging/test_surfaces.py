# SPDX-License-Identifier: Apache-2.0
import importlib.util
import os
import sys

import nibabel
import numpy as np
import pytest
from DeepFLASHRegistrationLib.imaging.surfaces import read_mesh, read_surface, write_surface
from DeepFLASHRegistrationLib.support.errors import InputError

KINDS = (".vtk", ".vtp", ".ply", ".stl")
needs_vtk = pytest.mark.skipif(importlib.util.find_spec("vtk") is None, reason="vtk is not installed")


def write_sphere(path, space: str | None) -> np.ndarray:
    """Writes a sphere with the given header, and returns the stored vertices."""
    import vtk
    from vtk.util.numpy_support import vtk_to_numpy

    source = vtk.vtkSphereSource()
    source.SetCenter(10, 20, 30)
    source.SetRadius(5)
    source.Update()
    mesh = source.GetOutput()
    suffix = path.suffix
    writer = {
        ".vtk": vtk.vtkPolyDataWriter,
        ".vtp": vtk.vtkXMLPolyDataWriter,
        ".ply": vtk.vtkPLYWriter,
        ".stl": vtk.vtkSTLWriter,
    }[suffix]()
    if space and suffix == ".vtp":
        tag = vtk.vtkStringArray()
        tag.SetName("SPACE")
        tag.InsertNextValue(space)
        mesh.GetFieldData().AddArray(tag)
    elif space and suffix == ".ply":
        writer.AddComment(f"3D Slicer output. SPACE={space}")
    elif space:
        writer.SetHeader(f"3D Slicer output. SPACE={space}")
    writer.SetFileName(str(path))
    writer.SetInputData(mesh)
    writer.Write()
    return vtk_to_numpy(mesh.GetPoints().GetData()).astype(np.float64)


@needs_vtk
@pytest.mark.parametrize("suffix", KINDS)
@pytest.mark.parametrize("space", [None, "LPS", "RAS"])
def test_vertices_are_read_and_written_in_the_files_own_space(tmp_path, suffix, space) -> None:
    path = tmp_path / f"a{suffix}"
    stored = write_sphere(path, space)
    sign = [-1, -1, 1] if space == "RAS" else [1, 1, 1]
    points = read_surface(path)
    apart = np.linalg.norm(points[:, None] - (stored * sign)[None], axis=-1)  # STL stores vertices in its own order
    assert max(apart.min(0).max(), apart.min(1).max()) < 1e-3
    moved = points + np.array([1, 2, 3])
    write_surface(tmp_path / f"b{suffix}", moved, path)
    assert np.allclose(read_surface(tmp_path / f"b{suffix}"), moved, atol=1e-3)
    assert sorted(os.listdir(tmp_path)) == [f"a{suffix}", f"b{suffix}"]


@needs_vtk
def test_other_kinds_and_wrong_files_are_refused(tmp_path) -> None:
    write_sphere(tmp_path / "a.vtp", "LPS")
    points = read_surface(tmp_path / "a.vtp")
    write_surface(tmp_path / "b.stl", points, tmp_path / "a.vtp")
    assert np.allclose(read_surface(tmp_path / "b.stl").mean(0), points.mean(0), atol=1)
    (tmp_path / "bad.vtk").write_text("hello")
    for name, message in (("a.off", "unknown kind"), ("none.stl", "no such file"), ("bad.vtk", "no surface")):
        with pytest.raises(InputError, match=message):
            read_surface(tmp_path / name)
    with pytest.raises(InputError, match="one point per vertex"):
        write_surface(tmp_path / "c.vtp", points[1:], tmp_path / "a.vtp")


def test_without_vtk_the_message_says_what_to_do(tmp_path, monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "vtk", None)
    (tmp_path / "a.stl").touch()
    with pytest.raises(InputError, match="pip install vtk"):
        read_surface(tmp_path / "a.stl")
    with pytest.raises(InputError, match="pip install vtk"):
        write_surface(tmp_path / "b.stl", np.zeros((1, 3)), tmp_path / "a.stl")


# ---- GIFTI

CUBE = np.array([[x, y, z] for x in (0, 10) for y in (0, 20) for z in (0, 30)], dtype=np.float32) + 5
TRIANGLES = np.array([[0, 1, 3], [0, 3, 2], [4, 6, 7], [4, 7, 5], [0, 4, 5], [0, 5, 1], [2, 3, 7], [2, 7, 6]], np.int32)
TO_LPS = np.array([-1, -1, 1])


def write_gifti(path, matrix=None, spaces=("NIFTI_XFORM_SCANNER_ANAT",) * 2, **options) -> None:
    """A cube and measures at its corners, by nibabel."""
    system = nibabel.gifti.GiftiCoordSystem(*spaces, np.eye(4) if matrix is None else matrix)
    arrays = [
        nibabel.gifti.GiftiDataArray(CUBE, "NIFTI_INTENT_POINTSET", "NIFTI_TYPE_FLOAT32", coordsys=system, **options),
        nibabel.gifti.GiftiDataArray(TRIANGLES, "NIFTI_INTENT_TRIANGLE", "NIFTI_TYPE_INT32", **options),
        nibabel.gifti.GiftiDataArray(
            np.arange(8, dtype=np.float32) / 3, "NIFTI_INTENT_SHAPE", "NIFTI_TYPE_FLOAT32", meta={"Name": "thickness"}
        ),
    ]
    image = nibabel.gifti.GiftiImage(darrays=arrays, meta=nibabel.gifti.GiftiMetaData({"Kept": "a <note> & more ä"}))
    nibabel.save(image, path)


@pytest.mark.parametrize("endian", ["little", "big"])
@pytest.mark.parametrize(  # text is written by rows by nibabel, whatever the order
    ("encoding", "order"), [("ASCII", "C"), ("B64BIN", "C"), ("B64BIN", "F"), ("B64GZ", "C"), ("B64GZ", "F")]
)
def test_gifti_by_nibabel_is_read_and_what_is_written_nibabel_reads(tmp_path, encoding, order, endian) -> None:
    write_gifti(tmp_path / "a.surf.gii", encoding=encoding, ordering=order, endian=endian)
    mesh = read_mesh(tmp_path / "a.surf.gii")
    assert np.allclose(mesh.points, CUBE * TO_LPS)
    assert np.array_equal(mesh.triangles(), TRIANGLES)
    assert mesh.notes == ()
    write_surface(tmp_path / "b.surf.gii", mesh.points + np.array([1, 2, 3]), tmp_path / "a.surf.gii")
    theirs = nibabel.load(tmp_path / "b.surf.gii")
    assert np.allclose(theirs.darrays[0].data, CUBE + np.array([-1, -2, 3]))
    assert np.array_equal(theirs.darrays[1].data, TRIANGLES)
    assert np.allclose(theirs.darrays[2].data, np.arange(8) / 3)
    assert theirs.darrays[2].meta["Name"] == "thickness"
    assert theirs.meta["Kept"] == "a <note> & more ä"


@pytest.mark.parametrize("name", ["ascii.gii", "external.gii"])
def test_surfaces_that_other_programs_wrote_to_gifti(tmp_path, name) -> None:
    path = os.path.join(os.path.dirname(nibabel.gifti.__file__), "tests", "data", name)
    if not os.path.exists(path):
        pytest.skip("nibabel came without its examples")
    theirs = nibabel.load(path)
    stored = theirs.agg_data("pointset")
    mesh = read_mesh(path)
    assert np.allclose(mesh.points, stored * TO_LPS)
    assert np.array_equal(mesh.triangles(), theirs.agg_data("triangle"))
    write_surface(tmp_path / "b.gii", mesh.points + 1, path)  # what lay in another file comes along
    again = nibabel.load(tmp_path / "b.gii")
    assert np.allclose(again.agg_data("pointset"), stored + np.array([-1, -1, 1]), atol=1e-4)
    assert np.array_equal(again.agg_data("triangle"), theirs.agg_data("triangle"))


def test_gifti_is_taken_to_the_scanner_by_its_matrix_and_back(tmp_path) -> None:
    """FreeSurfer stores its own coordinates, and the matrix to the scanner's."""
    matrix = np.array([[0, 0, 1, 4], [1, 0, 0, -5], [0, 1, 0, 6], [0, 0, 0, 1.0]])
    write_gifti(tmp_path / "a.gii", matrix, ("NIFTI_XFORM_UNKNOWN", "NIFTI_XFORM_SCANNER_ANAT"))
    mesh = read_mesh(tmp_path / "a.gii")
    assert np.allclose(mesh.points, (CUBE @ matrix[:3, :3].T + matrix[:3, 3]) * TO_LPS)
    assert mesh.notes == ()
    write_surface(tmp_path / "b.gii", mesh.points, tmp_path / "a.gii")
    assert np.allclose(nibabel.load(tmp_path / "b.gii").darrays[0].data, CUBE, atol=1e-4)
    # The other way round it says where FreeSurfer's are: nothing to be done.
    write_gifti(tmp_path / "c.gii", matrix, ("NIFTI_XFORM_SCANNER_ANAT", "NIFTI_XFORM_UNKNOWN"))
    assert np.allclose(read_surface(tmp_path / "c.gii"), CUBE * TO_LPS)


def test_gifti_without_a_known_space_is_noted(tmp_path) -> None:
    write_gifti(tmp_path / "a.gii", None, ("NIFTI_XFORM_UNKNOWN", "NIFTI_XFORM_TALAIRACH"))
    mesh = read_mesh(tmp_path / "a.gii")
    assert np.allclose(mesh.points, CUBE * TO_LPS)
    assert "RAS mm of the image was assumed" in mesh.notes[0]
    assert "c_ras" not in mesh.notes[0]
    image = nibabel.load(tmp_path / "a.gii")
    image.darrays[0].meta["VolGeomC_R"] = "-1.5"
    nibabel.save(image, tmp_path / "b.gii")
    assert "--to-scanner" in read_mesh(tmp_path / "b.gii").notes[0]


def test_normals_in_gifti_follow_the_surface(tmp_path) -> None:
    write_gifti(tmp_path / "a.gii")
    image = nibabel.load(tmp_path / "a.gii")
    image.add_gifti_data_array(
        nibabel.gifti.GiftiDataArray(
            np.zeros((8, 3), np.float32), "NIFTI_INTENT_VECTOR", "NIFTI_TYPE_FLOAT32", meta={"Name": "Normals"}
        )
    )
    nibabel.save(image, tmp_path / "a.gii")
    write_surface(tmp_path / "b.gii", read_surface(tmp_path / "a.gii") * (2, 1, 1), tmp_path / "a.gii")
    data = [array.data for array in nibabel.load(tmp_path / "b.gii").darrays]
    a, b, c = (data[0][TRIANGLES[:, i]] for i in range(3))
    wanted = np.zeros((8, 3))
    for corner in range(3):
        np.add.at(wanted, TRIANGLES[:, corner], np.cross(b - a, c - a))
    assert np.allclose(data[3], wanted / np.linalg.norm(wanted, axis=1, keepdims=True), atol=1e-6)


def test_unusable_gifti_files_are_refused(tmp_path) -> None:
    write_gifti(tmp_path / "a.gii", encoding="ASCII")
    text = (tmp_path / "a.gii").read_text(encoding="utf-8")
    bomb = '<!DOCTYPE GIFTI [<!ENTITY a "aaaaaaaaaa"><!ENTITY b "&a;&a;&a;">]><GIFTI>&b;</GIFTI>'
    cases = {
        "entities": bomb,
        "nested too deeply": "<GIFTI>" * 100000,
        "damaged": text[: len(text) // 2],
        "no vertices": text.replace("INTENT_POINTSET", "INTENT_SHAPE"),
        "sets of vertices": text.replace("INTENT_TRIANGLE", "INTENT_POINTSET"),
        "more than the file": text.replace('Dim0="8"', 'Dim0="99999999999"'),
        "do not exist": text.replace("0 1 3", "0 1 99"),
        "known type": text.replace("NIFTI_TYPE_FLOAT32", "NIFTI_TYPE_RGB24"),
        "encoding": text.replace('"ASCII"', '"Other"'),
        "beside it": text.replace('"ASCII"', '"ExternalFileBinary"').replace(
            'ExternalFileName=""', 'ExternalFileName="/etc/passwd"'
        ),
        "no GIFTI": "<html></html>",
    }
    for message, content in cases.items():
        assert content != text, message
        (tmp_path / "b.gii").write_text(content, encoding="utf-8")
        with pytest.raises(InputError, match=message) as error:
            read_surface(tmp_path / "b.gii")
        assert str(error.value).startswith(str(tmp_path / "b.gii")), message


def test_a_packed_array_larger_than_it_says_takes_no_memory(tmp_path) -> None:
    import base64
    import tracemalloc
    import zlib

    write_gifti(tmp_path / "a.gii", encoding="B64GZ")
    text = (tmp_path / "a.gii").read_text(encoding="utf-8")
    packed = base64.b64encode(zlib.compress(CUBE.tobytes())).decode()
    assert packed in text
    bomb = base64.b64encode(zlib.compress(bytes(200 << 20))).decode()
    (tmp_path / "b.gii").write_text(text.replace(packed, bomb), encoding="utf-8")
    tracemalloc.start()
    with pytest.raises(InputError, match="damaged array"):
        read_surface(tmp_path / "b.gii")
    assert tracemalloc.get_traced_memory()[1] < 20 << 20
    tracemalloc.stop()


# ---- OBJ

OBJ = """# SPACE={space}
mtllib a.mtl
o cube
v 0 0 0 1 0.5 0
v 10 0 0 1 0.5 0
v 10 20 0 1 0.5 0
v 0 20 0 1 0.5 0
v 5 10 30 1 0.5 0
vt 0 0
vt 1 1
vn 0 0 1
vn 1 0 0
usemtl skin
f 4/1/1 3/2/1 2/2/1 1/1/1
f 1/1/2 2/1/2 5/2/2
f 2//2 3//2 -1//2
"""
APEX = np.array([[0, 0, 0], [10, 0, 0], [10, 20, 0], [0, 20, 0], [5, 10, 30.0]])


@pytest.mark.parametrize(("space", "sign"), [("LPS", (1, 1, 1)), ("RAS", (-1, -1, 1))])
def test_obj_keeps_all_but_vertices_and_normals(tmp_path, space, sign) -> None:
    text = OBJ.format(space=space)
    (tmp_path / "a.obj").write_text(text)
    mesh = read_mesh(tmp_path / "a.obj")
    assert np.allclose(mesh.points, APEX * sign)
    assert np.diff(mesh.offsets).tolist() == [4, 3, 3]
    assert mesh.corners.tolist() == [3, 2, 1, 0, 0, 1, 4, 1, 2, 4]
    assert mesh.notes == ()
    write_surface(tmp_path / "b.obj", mesh.points * (1, 2, 1), tmp_path / "a.obj")
    assert np.allclose(read_surface(tmp_path / "b.obj"), APEX * sign * (1, 2, 1))
    before, after = text.splitlines(), (tmp_path / "b.obj").read_text().splitlines()
    assert [line for line in before if line[:2] not in ("v ", "vn")] == [
        line for line in after if line[:2] not in ("v ", "vn")
    ]
    assert after[3] == "v 0 0 0 1 0.5 0"
    assert "v 10 40 0 1 0.5 0" in after
    assert "vn 0 0 -1" in after  # of the first polygon, by the order of its corners
    side = sum(np.cross((b - a) * (1, 2, 1), (c - a) * (1, 2, 1)) for a, b, c in (APEX[[0, 1, 4]], APEX[[1, 2, 4]]))
    found = np.array(next(line for line in reversed(after) if line.startswith("vn")).split()[1:], float)
    assert np.allclose(found, side / np.linalg.norm(side), atol=1e-5)


@needs_vtk
def test_obj_by_vtk_is_read_and_vtk_reads_ours(tmp_path) -> None:
    import vtk
    from vtk.util.numpy_support import vtk_to_numpy

    stored = write_sphere(tmp_path / "a.vtp", "LPS")
    reader = vtk.vtkXMLPolyDataReader()
    reader.SetFileName(str(tmp_path / "a.vtp"))
    writer = vtk.vtkOBJWriter()
    writer.SetInputConnection(reader.GetOutputPort())
    writer.SetFileName(str(tmp_path / "a.obj"))
    writer.Write()
    mesh = read_mesh(tmp_path / "a.obj")
    assert np.allclose(mesh.points, stored, atol=1e-4)
    assert "LPS was assumed" in mesh.notes[0]
    write_surface(tmp_path / "b.obj", mesh.points + 7, tmp_path / "a.obj")
    check = vtk.vtkOBJReader()
    check.SetFileName(str(tmp_path / "b.obj"))
    check.Update()
    assert np.allclose(vtk_to_numpy(check.GetOutput().GetPoints().GetData()), stored + 7, atol=1e-4)
    assert check.GetOutput().GetNumberOfPolys() == reader.GetOutput().GetNumberOfPolys()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("v 1 2\nf 1 1 1\n", "three numbers"),
        ("v 1 2 x\n", "three numbers"),
        ("v 1 2 nan\n", "not finite"),
        ("v 1 2 3\nf 1 2 3\n", "'2' that does not exist"),
        ("v 1 2 3\nf 0 0 0\n", "'0' that does not exist"),
        ("v 1 2 3\nf 1.5 1 1\n", "does not exist"),
        ("v 1 2 3\nf 1//1 1//1 1//1\n", "'1' that does not exist"),
        ("hello", "no surface"),
    ],
)
def test_unusable_obj_files_are_refused(tmp_path, text, message) -> None:
    (tmp_path / "a.obj").write_text(text)
    with pytest.raises(InputError, match=message) as error:
        read_surface(tmp_path / "a.obj")
    assert str(error.value).startswith(str(tmp_path / "a.obj"))


# ---- from kind to kind


@needs_vtk
@pytest.mark.parametrize("target", [".gii", ".obj", *KINDS])
@pytest.mark.parametrize("source", [".gii", ".obj", ".vtp"])
def test_surfaces_go_from_kind_to_kind(tmp_path, source, target) -> None:
    write_gifti(tmp_path / "a.gii")
    points = read_surface(tmp_path / "a.gii")
    if source != ".gii":
        write_surface(tmp_path / f"a{source}", points, tmp_path / "a.gii")
    assert np.allclose(read_surface(tmp_path / f"a{source}"), points, atol=1e-4)
    write_surface(tmp_path / f"b{target}", points * 2, tmp_path / f"a{source}")
    mesh = read_mesh(tmp_path / f"b{target}")
    # Corner by corner, because STL stores vertices in its own order.
    ours, wanted = mesh.points[mesh.triangles()], points[TRIANGLES] * 2
    assert np.allclose(ours, wanted, atol=1e-4)
    if ".obj" not in (source, target) and target in (".gii", ".vtp", ".vtk"):
        assert np.allclose(mesh.arrays["thickness"], np.arange(8) / 3)


@needs_vtk
def test_what_crashes_vtk_is_only_a_message(tmp_path) -> None:
    """VTK ends the process on these: a list longer than the file, and polygons of vertices that are not there."""
    write_sphere(tmp_path / "a.ply", "LPS")
    content = (tmp_path / "a.ply").read_bytes()
    for old, new in ((b"element face ", b"element face 9999"), (b"element vertex ", b"element vertex 99999999")):
        (tmp_path / "b.ply").write_bytes(content.replace(old, new))
        with pytest.raises(InputError, match=r"b\.ply: "):
            read_surface(tmp_path / "b.ply")
    legacy = (
        "# vtk DataFile Version 3.0\nx\nASCII\nDATASET POLYDATA\nPOINTS 3 float\n0 0 0 1 0 0 0 1 0\n"
        "POLYGONS 1 4\n3 0 1 {}\n"
    )
    (tmp_path / "c.vtk").write_text(legacy.format(2))
    assert len(read_surface(tmp_path / "c.vtk")) == 3
    (tmp_path / "c.vtk").write_text(legacy.format(2000000000))
    with pytest.raises(InputError, match="do not exist"):
        read_surface(tmp_path / "c.vtk")
