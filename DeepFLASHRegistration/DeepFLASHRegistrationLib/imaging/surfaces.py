# SPDX-License-Identifier: Apache-2.0
"""Surface meshes (.vtk, .vtp, .ply, .stl), through VTK where it is installed."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

import numpy as np

from ..support.errors import InputError
from .files import SURFACES, atomic, unwritable
from .points import TO_LPS


def read_surface(path: str | os.PathLike) -> np.ndarray:
    """Reads the vertices of a surface.

    The coordinate system is what the file's header says in Slicer's way (SPACE=LPS or SPACE=RAS), else LPS.

    Returns:
        (n, 3) float64 in LPS mm.

    Raises:
        InputError: VTK is not installed, unknown kind, unreadable, or no vertices.
    """
    mesh, space = _read(Path(path))
    from vtk.util.numpy_support import vtk_to_numpy  # after _read, which says what to do if VTK is missing

    return vtk_to_numpy(mesh.GetPoints().GetData()).astype(np.float64) * TO_LPS[space]


def write_surface(path: str | os.PathLike, points: np.ndarray, like: str | os.PathLike) -> None:
    """Writes the surface `like` with its vertices moved.

    Connectivity, attributes and coordinate system are kept; normals are computed anew where there were some.

    Args:
        path: .vtk, .vtp, .ply or .stl; may be of another kind than `like`.
        points: (n, 3) LPS mm, one per vertex of `like` in the order of read_surface.
        like: the file the surface came from.

    Raises:
        InputError: as read_surface, and if the number of points differs.
        OSError: could not be written.
    """
    vtk = _vtk(Path(path))
    from vtk.util.numpy_support import numpy_to_vtk

    path = Path(path)
    mesh, space = _read(Path(like))
    points = np.asarray(points, dtype=np.float64)
    if points.shape != (mesh.GetNumberOfPoints(), 3):
        raise InputError(
            f"{path}: points of shape {points.shape}, but {like} has {mesh.GetNumberOfPoints()} vertices. "
            "Pass one point per vertex."
        )
    moved = vtk.vtkPoints()
    moved.SetData(numpy_to_vtk(points * TO_LPS[space], deep=True))
    mesh.SetPoints(moved)
    if mesh.GetPointData().GetNormals() is not None:
        normals = vtk.vtkPolyDataNormals()
        normals.SetInputData(mesh)
        normals.SplittingOff()
        normals.ConsistencyOff()
        normals.Update()
        mesh = normals.GetOutput()
    header = f"SPACE={space}"
    suffix = path.suffix.lower()
    if suffix == ".vtk":
        writer = vtk.vtkPolyDataWriter()
        writer.SetHeader(header)
        writer.SetFileTypeToBinary()
    elif suffix == ".vtp":
        writer = vtk.vtkXMLPolyDataWriter()
        tag = vtk.vtkStringArray()
        tag.SetName("SPACE")
        tag.InsertNextValue(space)
        mesh.GetFieldData().RemoveArray("SPACE")
        mesh.GetFieldData().AddArray(tag)
    elif suffix == ".ply":
        writer = vtk.vtkPLYWriter()
        writer.AddComment(header)
    else:
        writer = vtk.vtkSTLWriter()
        writer.SetHeader(header)
        writer.SetFileTypeToBinary()
    with atomic(path) as temporary:
        writer.SetFileName(str(temporary))
        writer.SetInputData(mesh)
        if not writer.Write() or not temporary.exists():
            raise unwritable(path)


def _vtk(path: Path) -> Any:
    if path.suffix.lower() not in SURFACES:
        raise InputError(f"{path}: unknown kind of surface file. Use {', '.join(SURFACES)}.")
    try:
        import vtk
    except ImportError as error:
        raise InputError(
            f"{path}: surfaces need VTK. Install it (pip install vtk), or run inside 3D Slicer."
        ) from error
    return vtk


def _read(path: Path) -> tuple[Any, str]:
    """The mesh as vtkPolyData, and "LPS" or "RAS"."""
    vtk = _vtk(path)
    if not path.is_file():
        raise InputError(f"{path}: there is no such file. Check the path.")
    suffix = path.suffix.lower()
    reader = {
        ".vtk": vtk.vtkPolyDataReader,
        ".vtp": vtk.vtkXMLPolyDataReader,
        ".ply": vtk.vtkPLYReader,
        ".stl": vtk.vtkSTLReader,
    }[suffix]()
    shown = vtk.vtkObject.GetGlobalWarningDisplay()
    vtk.vtkObject.SetGlobalWarningDisplay(False)
    try:
        reader.SetFileName(str(path))
        reader.Update()
    finally:
        vtk.vtkObject.SetGlobalWarningDisplay(shown)
    mesh = vtk.vtkPolyData()
    if reader.GetOutput() is not None:
        mesh.ShallowCopy(reader.GetOutput())
    if mesh.GetNumberOfPoints() == 0:
        raise InputError(f"{path}: holds no surface that can be read. Save it again as polygons.")
    if suffix == ".vtp":
        tag = mesh.GetFieldData().GetAbstractArray("SPACE")
        text = f"SPACE={tag.GetValue(0)}" if tag is not None and tag.GetNumberOfValues() else ""
    elif suffix == ".ply":
        comments = reader.GetComments()
        text = " ".join(comments.GetValue(i) for i in range(comments.GetNumberOfValues()))
    else:
        text = reader.GetHeader() or ""
    found = re.search(r"SPACE\s*=\s*(RAS|LPS)", text)
    return mesh, found.group(1) if found else "LPS"
