# SPDX-License-Identifier: Apache-2.0
import importlib.util
import os
import sys

import numpy as np
import pytest
from DeepFLASHRegistrationLib.imaging.surfaces import read_surface, write_surface
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
    for name, message in (("a.obj", "unknown kind"), ("none.stl", "no such file"), ("bad.vtk", "no surface")):
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
