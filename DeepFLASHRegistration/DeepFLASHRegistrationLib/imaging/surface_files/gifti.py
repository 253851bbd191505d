# SPDX-License-Identifier: Apache-2.0
"""Surfaces in GIFTI (.gii; https://www.nitrc.org/projects/gifti): XML with arrays, RAS mm."""

from __future__ import annotations

import base64
import math
import zlib
from pathlib import Path
from xml.etree import ElementTree

import numpy as np

from ...support.errors import InputError
from .mesh import Mesh, summed_normals, triangle_mesh

_POINTS, _TRIANGLES = "NIFTI_INTENT_POINTSET", "NIFTI_INTENT_TRIANGLE"
_SCANNER = "NIFTI_XFORM_SCANNER_ANAT"
_TYPES = {
    "NIFTI_TYPE_UINT8": "u1",
    "NIFTI_TYPE_INT8": "i1",
    "NIFTI_TYPE_INT16": "i2",
    "NIFTI_TYPE_UINT16": "u2",
    "NIFTI_TYPE_INT32": "i4",
    "NIFTI_TYPE_UINT32": "u4",
    "NIFTI_TYPE_INT64": "i8",
    "NIFTI_TYPE_UINT64": "u8",
    "NIFTI_TYPE_FLOAT32": "f4",
    "NIFTI_TYPE_FLOAT64": "f8",
}
_RAS_TO_LPS = np.diag([-1.0, -1.0, 1.0, 1.0])
_DEEPEST = 20
_MOST_PACKED = 200  # times smaller than its values is no real array
_HEAD = '<?xml version="1.0" encoding="UTF-8"?>\n<!DOCTYPE GIFTI SYSTEM "http://www.nitrc.org/frs/download.php/115/gifti.dtd">\n'


def read(content: bytes, path: Path) -> Mesh:
    """Parses a surface; its coordinates are scanner RAS, or are taken there by the matrix that the file has for it."""
    root = _parsed(content)
    array, to_lps, notes = _vertices(root)
    points = _values(array, path, len(content))
    if points.ndim != 2 or points.shape[1] != 3:
        raise InputError(f"has vertices of shape {points.shape}, not (n, 3). Save it again.")
    points = points.astype(np.float64) @ to_lps[:3, :3].T + to_lps[:3, 3]
    triangles = np.zeros((0, 3), dtype=np.int64)
    arrays = {}
    for number, other in enumerate(root.iter("DataArray")):
        intent = other.get("Intent", "")
        if other is array:
            continue
        values = _values(other, path, len(content))
        if intent == _TRIANGLES:
            if values.ndim != 2 or values.shape[1] != 3 or values.dtype.kind not in "iu":
                raise InputError(f"has triangles of shape {values.shape}, not (t, 3) integers. Save it again.")
            triangles = np.concatenate([triangles, values.astype(np.int64)])
        elif values.ndim in (1, 2) and len(values) == len(points):
            arrays[_meta(other).get("Name") or f"{intent.removeprefix('NIFTI_INTENT_').lower()} {number}"] = values
    return Mesh(points, *triangle_mesh(triangles), arrays, notes)


def rewrite(content: bytes, path: Path, points: np.ndarray) -> bytes:
    """The file at `path` with other vertices (n, 3), LPS mm; all else is kept, but normals, which are computed anew."""
    root = _parsed(content)
    mesh = read(content, path)
    array, to_lps, _ = _vertices(root)
    back = np.linalg.inv(to_lps)
    stored = points @ back[:3, :3].T + back[:3, 3]
    for other in root.iter("DataArray"):
        if other is array:
            _store(other, stored)
        elif other.get("Intent") == "NIFTI_INTENT_VECTOR" and "normal" in _meta(other).get("Name", "").lower():
            triangles = mesh.triangles()
            _store(other, summed_normals(stored, triangles, triangles, len(stored)))
        elif other.get("Encoding") == "ExternalFileBinary":
            _store(other, _values(other, path, len(content)))  # the other file may stay behind
    return _text(root)


def create(mesh: Mesh) -> bytes:
    """A new file in scanner RAS, its polygons as triangles."""
    root = ElementTree.Element("GIFTI", Version="1.0")
    ElementTree.SubElement(root, "MetaData")
    ElementTree.SubElement(root, "LabelTable")
    ras = mesh.points * (-1, -1, 1)
    arrays = [(_POINTS, "", ras.astype(np.float32)), (_TRIANGLES, "", mesh.triangles().astype(np.int32))]
    for name, values in mesh.arrays.items():
        kind = np.uint8 if values.dtype == np.uint8 else np.int32 if values.dtype.kind in "iub" else np.float32
        arrays.append(("NIFTI_INTENT_NONE", name, values.astype(kind)))
    for intent, name, values in arrays:
        kind = next(key for key, code in _TYPES.items() if np.dtype(code) == values.dtype)
        array = ElementTree.SubElement(
            root, "DataArray", Intent=intent, DataType=kind, ArrayIndexingOrder="RowMajorOrder",
            Dimensionality=str(values.ndim), Encoding="GZipBase64Binary", Endian="LittleEndian",
            ExternalFileName="", ExternalFileOffset="",
        )  # fmt: skip
        meta = ElementTree.SubElement(array, "MetaData")
        if name:
            entry = ElementTree.SubElement(meta, "MD")
            ElementTree.SubElement(entry, "Name").text = "Name"
            ElementTree.SubElement(entry, "Value").text = name
        if intent == _POINTS:
            system = ElementTree.SubElement(array, "CoordinateSystemTransformMatrix")
            ElementTree.SubElement(system, "DataSpace").text = _SCANNER
            ElementTree.SubElement(system, "TransformedSpace").text = _SCANNER
            ElementTree.SubElement(system, "MatrixData").text = " ".join(f"{v:g}" for v in np.eye(4).ravel())
        ElementTree.SubElement(array, "Data")
        _store(array, values)
    root.set("NumberOfDataArrays", str(len(arrays)))
    return _text(root)


class _Builder(ElementTree.TreeBuilder):
    """Stops at a depth that no GIFTI has, and that recursion would not survive."""

    depth = 0

    def start(self, tag: str, attrs: dict[str, str]) -> ElementTree.Element:
        self.depth += 1
        if self.depth > _DEEPEST:
            raise InputError("is no GIFTI file (nested too deeply). Save it again.")
        return super().start(tag, attrs)

    def end(self, tag: str) -> ElementTree.Element:
        self.depth -= 1
        return super().end(tag)


def _parsed(content: bytes) -> ElementTree.Element:
    if b"<!ENTITY" in content.replace(b"\0", b""):  # also in UTF-16
        raise InputError("declares entities, which no GIFTI file does. Save it again.")
    try:
        root = ElementTree.fromstring(content, ElementTree.XMLParser(target=_Builder()))
    except (ElementTree.ParseError, LookupError, ValueError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"is no GIFTI file, or damaged ({error}). Copy it again.") from error
    if root.tag != "GIFTI":
        raise InputError("is no GIFTI file. Pass a surface.")
    return root


def _vertices(root: ElementTree.Element) -> tuple[ElementTree.Element, np.ndarray, tuple[str, ...]]:
    """The array of vertices, the matrix from its numbers to LPS mm, and notes on what was assumed."""
    found = [array for array in root.iter("DataArray") if array.get("Intent") == _POINTS]
    if len(found) != 1:
        what = "no vertices, only values at them" if not found else f"{len(found)} sets of vertices"
        raise InputError(f"holds {what}. Pass a file of one surface (.surf.gii).")
    systems = [
        {child.tag: (child.text or "").strip() for child in system}
        for system in found[0].iter("CoordinateSystemTransformMatrix")
    ]
    if any(system.get("DataSpace") == _SCANNER for system in systems):
        return found[0], _RAS_TO_LPS, ()
    for system in systems:
        if system.get("TransformedSpace") == _SCANNER:
            return found[0], _RAS_TO_LPS @ _matrix(system.get("MatrixData", "")), ()
    note = "does not say that its coordinates are the scanner's; RAS mm of the image was assumed"
    meta = _meta(found[0])
    if any(_is_not_zero(meta.get(f"VolGeomC_{axis}", "0")) for axis in "RAS"):
        note += (
            ". FreeSurfer's own coordinates lie elsewhere by its c_ras, "
            + ", ".join(meta.get(f"VolGeomC_{axis}", "0")[:20] for axis in "RAS")
            + " mm: if these are such, convert the surface with mris_convert --to-scanner"
        )
    return found[0], _RAS_TO_LPS, (note,)


def _is_not_zero(text: str) -> bool:
    try:
        return abs(float(text)) > 1e-3
    except ValueError:
        return False


def _matrix(text: str) -> np.ndarray:
    try:
        matrix = np.array(text.split(), dtype=np.float64).reshape(4, 4)
    except ValueError as error:
        raise InputError("has a coordinate system of other than 16 numbers. Save it again.") from error
    regular = np.isfinite(matrix).all() and np.abs(matrix[3] - (0, 0, 0, 1)).max() < 1e-6
    if not regular or not 1e-9 < abs(np.linalg.det(matrix)) < 1e9:
        raise InputError("has a coordinate system that is no affine. Save it again.")
    return matrix


def _meta(array: ElementTree.Element) -> dict[str, str]:
    entries = ((md.findtext("Name") or "", md.findtext("Value") or "") for md in array.iterfind("MetaData/MD"))
    return {name.strip(): value.strip() for name, value in entries}


def _values(array: ElementTree.Element, path: Path, size: int) -> np.ndarray:
    """The array's values in the machine's byte order; size is that of the file."""
    try:
        kind = np.dtype(_TYPES[array.get("DataType", "")])
        shape = tuple(int(array.get(f"Dim{i}", "")) for i in range(int(array.get("Dimensionality", ""))))
    except (KeyError, ValueError) as error:
        raise InputError(f"has an array without a known type and shape ({error}). Save it again.") from error
    count, encoding = math.prod(shape), array.get("Encoding", "")
    if not 0 < len(shape) < 7 or min(shape) < 0 or count * kind.itemsize > _MOST_PACKED * size + (1 << 20):
        raise InputError(f"has an array of shape {shape}, more than the file can hold. Copy it again.")
    data = (array.findtext("Data") or "").strip()
    order = ">" if array.get("Endian") == "BigEndian" else "<"
    try:
        if encoding == "ASCII":
            values = np.array(data.split(), dtype=kind)
        else:
            raw = (
                _external(array, path, count * kind.itemsize)
                if encoding == "ExternalFileBinary"
                else _raw(data, encoding, count * kind.itemsize)
            )
            values = np.frombuffer(raw, dtype=kind.newbyteorder(order)).astype(kind)
        return values.reshape(shape, order="F" if array.get("ArrayIndexingOrder") == "ColumnMajorOrder" else "C")
    except (ValueError, OverflowError, zlib.error) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"has a damaged array ({str(error)[:100]}). Copy it again.") from error


def _raw(data: str, encoding: str, length: int) -> bytes:
    raw = base64.b64decode(data)
    if encoding == "GZipBase64Binary":
        return zlib.decompressobj(zlib.MAX_WBITS | 32).decompress(raw, length + 1)
    if encoding != "Base64Binary":
        raise InputError(f"has an array in the encoding {encoding[:30]!r}. Save it as Base64.")
    return raw


def _external(array: ElementTree.Element, path: Path, length: int) -> bytes:
    name = array.get("ExternalFileName", "")
    if not name or Path(name).name != name:
        raise InputError(f"keeps its values in the file {name[:80]!r}, which must lie beside it. Save it in one file.")
    try:
        with open(path.with_name(name), "rb") as file:
            file.seek(int(array.get("ExternalFileOffset") or 0))
            return file.read(length)
    except OSError as error:
        raise InputError(f"keeps its values in {name!r}, which cannot be read ({error.strerror}).") from error


def _store(array: ElementTree.Element, values: np.ndarray) -> None:
    """Puts values into an array, in its own type and encoding."""
    kind = np.dtype(_TYPES[array.get("DataType", "")])
    values = values.astype(kind)
    if array.get("Encoding") == "ExternalFileBinary":
        array.set("Encoding", "GZipBase64Binary")
        array.set("ExternalFileName", "")
        array.set("ExternalFileOffset", "")
    for i, n in enumerate(values.shape):
        array.set(f"Dim{i}", str(n))
    flat = values.ravel("F" if array.get("ArrayIndexingOrder") == "ColumnMajorOrder" else "C")
    if array.get("Encoding") == "ASCII":
        text = " ".join(f"{v:.9g}" if kind.kind == "f" else str(v) for v in flat)
    else:
        raw = flat.astype(kind.newbyteorder(">" if array.get("Endian") == "BigEndian" else "<")).tobytes()
        packed = zlib.compress(raw) if array.get("Encoding") == "GZipBase64Binary" else raw
        text = base64.b64encode(packed).decode("ascii")
    data = array.find("Data")
    (ElementTree.SubElement(array, "Data") if data is None else data).text = text


def _text(root: ElementTree.Element) -> bytes:
    return (_HEAD + ElementTree.tostring(root, encoding="unicode") + "\n").encode("utf-8")
