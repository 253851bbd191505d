# SPDX-License-Identifier: Apache-2.0
"""Surfaces in the formats that VTK reads and writes (.vtk, .vtp, .ply, .stl).

VTK's readers crash on damaged files: they run in a process of their own, which hands over a clean file. The errors
leave out the file's name.
"""

from __future__ import annotations

import re
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from ...support.errors import InputError
from ...support.isolation import Crashed, isolated, memory_to_read
from ..files import atomic, unwritable
from ..landmark_files.point_file import TO_LPS
from .mesh import Mesh


def read(path: Path) -> Mesh:
    """Reads a surface; its coordinate system is what the header says in Slicer's way (SPACE=LPS or SPACE=RAS), else
    LPS."""
    data, space, notes = _load(path)
    from vtkmodules.util.numpy_support import vtk_to_numpy
    from vtkmodules.vtkFiltersCore import vtkTriangleFilter

    if data.GetStrips().GetNumberOfCells():
        split = vtkTriangleFilter()
        split.SetInputData(data)
        split.Update()
        data = split.GetOutput()

    points = vtk_to_numpy(data.GetPoints().GetData()).astype(np.float64) * TO_LPS[space]
    polygons, attributes = data.GetPolys(), data.GetPointData()
    arrays = {}
    for i in range(attributes.GetNumberOfArrays()):
        array = attributes.GetArray(i)
        if array is not None and attributes.IsArrayAnAttribute(i) != 2:  # normals
            arrays[array.GetName() or f"array {i}"] = vtk_to_numpy(array)
    offsets, corners = (
        vtk_to_numpy(a).astype(np.int64) for a in (polygons.GetOffsetsArray(), polygons.GetConnectivityArray())
    )
    return Mesh(points, corners, offsets if len(offsets) else np.zeros(1, np.int64), arrays, notes)


def rewrite(source: Path, points: np.ndarray, path: Path) -> None:
    """Writes the surface in the file `source` with other vertices (n, 3), LPS mm, to a file of any of VTK's kinds.

    Connectivity, attributes and coordinate system are kept; normals are computed anew where there were some.
    """
    data, space, _ = _load(source)
    if points.shape != (data.GetNumberOfPoints(), 3):
        raise InputError(f"has {data.GetNumberOfPoints()} vertices, not {len(points)}. Pass one point per vertex.")
    _set_points(data, points * TO_LPS[space])
    if data.GetPointData().GetNormals() is not None:
        from vtkmodules.vtkFiltersCore import vtkPolyDataNormals

        normals = vtkPolyDataNormals()
        normals.SetInputData(data)
        normals.SplittingOff()
        normals.ConsistencyOff()
        normals.Update()
        data = normals.GetOutput()
    _write(data, space, path)


def create(mesh: Mesh, path: Path) -> None:
    """Writes a new file in LPS."""
    need_vtk()
    from vtkmodules.util.numpy_support import numpy_to_vtk
    from vtkmodules.vtkCommonDataModel import vtkCellArray, vtkPolyData

    data = vtkPolyData()
    _set_points(data, mesh.points)
    cells = vtkCellArray()
    cells.SetData(*(numpy_to_vtk(a.astype(np.int64), deep=True) for a in (mesh.offsets, mesh.corners)))
    data.SetPolys(cells)
    for name, values in mesh.arrays.items():
        array = numpy_to_vtk(np.ascontiguousarray(values), deep=True)
        array.SetName(name)
        data.GetPointData().AddArray(array)
    _write(data, "LPS", path)


def need_vtk() -> None:
    """InputError, with what to do, where VTK is not installed."""
    try:
        import vtk  # noqa: F401
    except ImportError as error:
        raise InputError("such surfaces need VTK. Install it (pip install vtk), or run inside 3D Slicer.") from error


def _set_points(data: Any, points: np.ndarray) -> None:
    from vtkmodules.util.numpy_support import numpy_to_vtk
    from vtkmodules.vtkCommonCore import vtkPoints

    moved = vtkPoints()
    moved.SetData(numpy_to_vtk(np.ascontiguousarray(points), deep=True))
    data.SetPoints(moved)


def _load(path: Path) -> tuple[Any, str, tuple[str, ...]]:
    """The surface as vtkPolyData, "LPS" or "RAS", and notes."""
    need_vtk()
    if not path.is_file():
        raise InputError("there is no such file. Check the path.")
    from vtkmodules.vtkIOXML import vtkXMLPolyDataReader

    with tempfile.TemporaryDirectory() as folder:
        clean = Path(folder) / "clean.vtp"
        try:
            space = isolated(
                "imaging.surface_files.vtk_surfaces:clean",
                str(path),
                str(clean),
                memory=memory_to_read(path),
            )
        except Crashed as error:
            raise InputError(f"is damaged, no surface can be read ({error}). Save it again.") from error
        reader = vtkXMLPolyDataReader()
        reader.SetFileName(str(clean))
        reader.Update()
    notes = () if space else ("names no coordinate system; LPS was assumed",)
    return reader.GetOutput(), space or "LPS", notes


def clean(source: str, target: str) -> str:
    """Reads a surface, checks it and writes it as .vtp; in a process of its own.

    Returns:
        The coordinate system that the file names, "" if it names none.

    Raises:
        InputError: nothing that can be read.
    """
    from vtkmodules import vtkIOGeometry, vtkIOLegacy, vtkIOPLY, vtkIOXML
    from vtkmodules.vtkCommonCore import vtkObject
    from vtkmodules.vtkCommonDataModel import vtkPolyData

    vtkObject.SetGlobalWarningDisplay(False)
    suffix = Path(source).suffix.lower()
    reader = {
        ".vtk": vtkIOLegacy.vtkPolyDataReader,
        ".vtp": vtkIOXML.vtkXMLPolyDataReader,
        ".ply": vtkIOPLY.vtkPLYReader,
        ".stl": vtkIOGeometry.vtkSTLReader,
    }[suffix]()
    reader.SetFileName(source)
    reader.Update()
    data = vtkPolyData()
    if reader.GetOutput() is not None:
        data.ShallowCopy(reader.GetOutput())
    if data.GetNumberOfPoints() == 0:
        raise InputError("holds no surface that can be read. Save it again as polygons.")
    _check(data)
    if suffix == ".vtp":
        tag = data.GetFieldData().GetAbstractArray("SPACE")
        texts = [f"SPACE={tag.GetValue(0)}"] if tag is not None and tag.GetNumberOfValues() else []
    elif suffix == ".ply":
        comments = reader.GetComments()
        texts = [comments.GetValue(i) for i in range(comments.GetNumberOfValues())]
    else:
        texts = [reader.GetHeader() or ""]
    # What is no UTF-8 comes as bytes.
    text = " ".join(t.decode("latin-1") if isinstance(t, bytes) else t for t in texts)
    found = re.search(r"SPACE\s*=\s*(RAS|LPS)", text)
    writer = vtkIOXML.vtkXMLPolyDataWriter()
    writer.SetFileName(target)
    writer.SetInputData(data)
    writer.SetDataModeToAppended()
    writer.EncodeAppendedDataOff()
    if not writer.Write():
        raise InputError("cannot be read as a surface. Save it again.")
    return found.group(1) if found else ""


def _check(data: Any) -> None:
    from vtkmodules.util.numpy_support import vtk_to_numpy

    points = vtk_to_numpy(data.GetPoints().GetData())
    if not np.isfinite(points).all():
        raise InputError("has vertices that are not finite numbers. Save it again.")
    for cells in (data.GetVerts(), data.GetLines(), data.GetPolys(), data.GetStrips()):
        corners = vtk_to_numpy(cells.GetConnectivityArray())
        offsets = vtk_to_numpy(cells.GetOffsetsArray())
        if len(corners) and not (corners.min() >= 0 and corners.max() < len(points)):
            raise InputError("has polygons with vertices that do not exist. Save it again.")
        if len(offsets) and ((np.diff(offsets) < 0).any() or offsets[0] != 0 or offsets[-1] != len(corners)):
            raise InputError("has polygons that overlap in the file. Save it again.")
    for attributes, count in ((data.GetPointData(), len(points)), (data.GetCellData(), data.GetNumberOfCells())):
        for i in range(attributes.GetNumberOfArrays()):
            if attributes.GetAbstractArray(i).GetNumberOfTuples() != count:
                raise InputError("has values for other than its vertices and polygons. Save it again.")


def _write(data: Any, space: str, path: Path) -> None:
    from vtkmodules import vtkIOGeometry, vtkIOLegacy, vtkIOPLY, vtkIOXML
    from vtkmodules.vtkCommonCore import vtkStringArray

    header = f"SPACE={space}"
    suffix = path.suffix.lower()
    if suffix == ".vtk":
        writer = vtkIOLegacy.vtkPolyDataWriter()
        writer.SetHeader(header)
        writer.SetFileTypeToBinary()
    elif suffix == ".vtp":
        writer = vtkIOXML.vtkXMLPolyDataWriter()
        tag = vtkStringArray()
        tag.SetName("SPACE")
        tag.InsertNextValue(space)
        data.GetFieldData().RemoveArray("SPACE")
        data.GetFieldData().AddArray(tag)
    elif suffix == ".ply":
        writer = vtkIOPLY.vtkPLYWriter()
        writer.AddComment(header)
    else:
        writer = vtkIOGeometry.vtkSTLWriter()
        writer.SetHeader(header)
        writer.SetFileTypeToBinary()
    with atomic(path) as temporary:
        writer.SetFileName(str(temporary))
        writer.SetInputData(data)
        if not writer.Write() or not temporary.exists():
            raise unwritable(path)
