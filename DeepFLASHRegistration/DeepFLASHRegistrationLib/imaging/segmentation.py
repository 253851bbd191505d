# SPDX-License-Identifier: Apache-2.0
"""Segmentations of 3D Slicer (.seg.nrrd): segments with names, colors and terminology, in layers where they overlap.

The format is described at https://slicer.readthedocs.io/en/latest/developer_guide/modules/segmentations.html
"""

from __future__ import annotations

import gzip
import math
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from ..support.errors import InputError
from .dicom.elements import SEGMENTATIONS, storage_class
from .files import atomic, is_folder
from .grid import Grid
from .image_files.itk_isolated import ItkImage, read_isolated
from .volume import Volume, label_values

SUFFIX = ".seg.nrrd"
_OWN = ("ID", "Name", "Color", "Layer", "LabelValue", "Extent")
_OFFSET = "Segmentation_ReferenceImageExtentOffset"
_CONVERSION = "Segmentation_ConversionParameters"
_LONGEST_HEADER = 64 << 20
_MOST_SEGMENTS = 100_000


# Between the names of segments that overlap, in that of their combination.
OVERLAP = " + "


@dataclass(frozen=True)
class Segment:
    """One segment.

    Attributes:
        id: unique in its segmentation.
        name: what users see.
        color: red, green, blue, 0 to 1.
        layer: which layer holds it.
        label: its value there.
        other: the further keys of the header without the segment's prefix, such as Tags, where the terminology is.
    """

    id: str
    name: str
    color: tuple[float, float, float] = (0.5, 0.5, 0.5)
    layer: int = 0
    label: int = 1
    other: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class Segmentation:
    """Segments and the label maps that hold them.

    Attributes:
        layers: int32 label maps on one grid; segments of one layer do not overlap.
        segments: in the file's order.
        header: what else the header says of the whole.
    """

    layers: tuple[Volume, ...]
    segments: tuple[Segment, ...]
    header: dict[str, str] = field(default_factory=dict)

    @property
    def grid(self) -> Grid:
        """Where the layers lie; of one slice with its plane."""
        return self.layers[0].grid

    def with_layers(self, layers: Sequence[Volume]) -> Segmentation:
        """The same segments in other label maps, one for each layer, carried over to another grid for example."""
        if len(layers) != len(self.layers):
            raise ValueError(f"{len(layers)} layers for a segmentation of {len(self.layers)}. Pass one for each.")
        header = self.header
        if not layers[0].grid.same_as(self.grid):
            # Where the file's voxels lie in the image that was segmented; on another grid both would mislead Slicer.
            header = {key: value for key, value in header.items() if key != _OFFSET}
            kept = [p for p in header.get(_CONVERSION, "").split("&") if not p.startswith("Reference image geometry|")]
            header[_CONVERSION] = "&".join(kept)
        return replace(self, layers=tuple(layers), header=header)


def label_map(segmentation: Segmentation, numbers: dict[str, int] | None = None) -> Volume:
    """All segments in one label map.

    Where segments overlap, each combination has a number of its own, so that nothing is lost; a note says so, and which
    number stands for which segment.

    Args:
        segmentation: as it was read.
        numbers: by the name of a segment or combination, shared by segmentations that are compared; new names are
            added. By default a single layer keeps its own values.
    """
    name = segmentation.layers[0].name
    if numbers is None and len(segmentation.layers) == 1:
        return segmentation.layers[0]
    numbers = {} if numbers is None else numbers
    combined = np.zeros(segmentation.grid.shape, np.int32)
    held: dict[int, str] = {0: ""}  # a number of this map, and the names that it stands for
    for segment in segmentation.segments:
        inside = segmentation.layers[segment.layer].data == segment.label
        if not inside.any():
            continue
        before = combined[inside]
        after = np.empty_like(before)
        for number in label_values(before):
            names = f"{held[int(number)]}{OVERLAP}{segment.name}" if number else segment.name
            new = numbers.setdefault(names, max(numbers.values(), default=0) + 1)
            held[new] = names
            after[before == number] = new
        combined[inside] = after
    present = [int(number) for number in label_values(combined) if number]
    notes = [f"{name}: its segments are numbered {', '.join(f'{number} {held[number]}' for number in present)}"]
    if any(OVERLAP in held[number] for number in present):
        notes.append(f"{name}: segments overlap; each combination is carried as a label of its own")
    return Volume(segmentation.grid, combined, name, tuple(notes))


def numbering(segmentation: Segmentation) -> dict[str, int]:
    """The numbers that `label_map` gives to segments, and to their combinations, by name."""
    if len(segmentation.layers) == 1:
        return {segment.name: segment.label for segment in segmentation.segments}
    numbers: dict[str, int] = {}
    label_map(segmentation, numbers)
    return numbers


def is_segmentation(path: str | os.PathLike) -> bool:
    """Whether the name is that of a segmentation, or the file one of DICOM."""
    return os.fspath(path).lower().endswith(SUFFIX) or is_dicom_segmentation(path)


def is_dicom_segmentation(path: str | os.PathLike) -> bool:
    """Whether a file holds a segmentation of DICOM."""
    return not Path(path).is_dir() and storage_class(Path(path)) in SEGMENTATIONS


def read_segmentation(path: str | os.PathLike) -> Segmentation:
    """Reads a segmentation, of Slicer or of DICOM.

    A file without Slicer's keys becomes one segment per value. Labels that no segment claims stay in their layers.

    Raises:
        InputError: unreadable, not of whole numbers, without any voxel, or with keys that contradict each other.
    """
    path = Path(path)
    if is_folder(path):
        raise InputError(f"{path}: is a folder. Pass the file of a segmentation.")
    if is_dicom_segmentation(path):
        from .dicom.segments import read_segments

        return read_segments(path)
    keys = _keys(path)
    image = read_isolated(path)
    try:
        layers = _layers(image, str(path))
        segments = _segments(keys, len(layers)) or _from_values(layers)
    except ValueError as error:
        raise InputError(f"{path}: {error}") from error
    header = {key: value for key, value in keys.items() if not re.match(r"Segment\d+_", key)}
    return Segmentation(layers, segments, header)


def segmentation_of(labels: Volume) -> Segmentation:
    """A label map with a segment for each of its values.

    Raises:
        InputError: it holds no labels, or too many.
    """
    name = labels.name or "The image"
    if labels.data.dtype.kind not in "iub":
        raise InputError(f"{name}: is no label map, and cannot be written as a segmentation. Name the output .nii.gz.")
    layer = labels.with_data(labels.data.astype(np.int32))
    try:
        return Segmentation((layer,), _from_values((layer,)))
    except ValueError as error:
        raise InputError(f"{name}: {error}") from error


def write_segmentation(path: str | os.PathLike, segmentation: Segmentation) -> None:
    """Writes a segmentation as Slicer does: NRRD, compressed, one component per layer.

    Raises:
        InputError: another suffix, or a folder that does not exist or may not be written.
        ValueError: layers on different grids, or a segment in a layer that does not exist.
    """
    path = Path(path)
    if not os.fspath(path).lower().endswith(SUFFIX):
        raise InputError(f"{path}: a segmentation is written as {SUFFIX} only. Name it so.")
    grid = segmentation.grid
    if any(layer.grid.shape != grid.shape for layer in segmentation.layers):
        raise ValueError("The layers of a segmentation lie on one grid.")
    grids = grid if grid.plane is None else grid.lifted()
    arrays = [layer.data.reshape(grids.shape) for layer in segmentation.layers]
    data = _smallest(arrays)
    keys = dict(segmentation.header)
    keys.setdefault("Segmentation_MasterRepresentation", "Binary labelmap")
    keys.setdefault("Segmentation_ContainedRepresentationNames", "Binary labelmap|")
    keys.setdefault(_CONVERSION, "")
    keys.setdefault(_OFFSET, "0 0 0")
    for number, segment in enumerate(segmentation.segments):
        if not 0 <= segment.layer < len(arrays):
            raise ValueError(f"Segment {segment.id} is in layer {segment.layer} of {len(arrays)}.")
        own = {
            "ID": segment.id,
            "Name": segment.name,
            "Color": " ".join(f"{c:.9g}" for c in segment.color),
            "Layer": str(segment.layer),
            "LabelValue": str(segment.label),
            "Extent": _extent(arrays[segment.layer] == segment.label),
        }
        keys.update({f"Segment{number}_{key}": value for key, value in (segment.other | own).items()})
    with atomic(path) as temporary, open(temporary, "wb") as file:
        file.write(_header(grids, data, keys))
        with gzip.GzipFile(fileobj=file, mode="wb", compresslevel=6, mtime=0, filename="") as packed:
            packed.write(np.ascontiguousarray(data).data)


def _keys(path: Path) -> dict[str, str]:
    """The header's pairs of key and value; bytes that are no UTF-8 are kept as surrogates."""
    with open(path, "rb") as file:
        head, found, _ = file.read(_LONGEST_HEADER).replace(b"\r\n", b"\n").partition(b"\n\n")
    if not head.startswith(b"NRRD000") or not found:
        raise InputError(f"{path}: is no NRRD file, or its header is damaged. Copy or export it again.")
    keys = {}
    for line in head.decode("utf-8", "surrogateescape").split("\n"):
        key, assigned, value = line.partition(":=")
        if assigned and not line.startswith("#"):
            keys[key] = re.sub(r"\\([\\n])", lambda m: "\n" if m.group(1) == "n" else "\\", value)
    return keys


def _layers(image: ItkImage, name: str) -> tuple[Volume, ...]:
    array = image.array
    if array.dtype.kind not in "iuf" or len(image.size) not in (3, 4):
        raise ValueError(f"is no segmentation ({len(image.size)}-D). Pass a file of 3-D layers.")
    if math.prod(image.size) == 1:
        raise ValueError("holds no segment with a voxel. Save it with one.")
    grid = Grid.from_image(image)  # of the first three axes
    if grid.shape.count(1) > 1:
        raise ValueError("is a line of voxels. Pass a segmentation of an image.")
    if image.components == 1:
        array = array.reshape(-1, *grid.shape)  # a fourth axis, as the first versions of Slicer wrote it
    elif len(image.size) == 3:
        array = np.moveaxis(array, -1, 0)
    else:
        raise ValueError("has vectors in four dimensions. Save it again in Slicer.")
    if array.dtype.kind == "f" and not (np.isfinite(array).all() and np.array_equal(array, np.rint(array))):
        raise ValueError("holds values that are no integers, a fractional segmentation perhaps. Make it binary.")
    if array.min() < -(2**31) or array.max() >= 2**31:
        raise ValueError("labels must fit in 32 bits. Renumber them.")
    flat = grid.flattened() if 1 in grid.shape else grid
    return tuple(Volume(flat, np.ascontiguousarray(layer, dtype=np.int32).reshape(flat.shape), name) for layer in array)


def _segments(keys: dict[str, str], layers: int) -> tuple[Segment, ...]:
    """The segments that the header names: numbered from 0 without a gap, as Slicer counts them."""
    by_number: dict[int, dict[str, str]] = {}
    for key, value in keys.items():
        found = re.fullmatch(r"Segment(\d{1,6})_(\w+)", key)
        if found:
            by_number.setdefault(int(found.group(1)), {})[found.group(2)] = value
    numbers = [n for n in sorted(by_number) if "ID" in by_number[n]]
    if numbers != list(range(len(numbers))):
        raise ValueError(f"the segments in its header are not numbered from 0 on, but {numbers[:8]}. Save it again.")
    result = []
    for number in numbers:
        own = by_number[number]
        # Without the key every segment has its own layer, as in the first versions of Slicer.
        layer = _integer(own.get("Layer", str(number)), "layer", number)
        if not 0 <= layer < layers:
            raise ValueError(f"segment {number} is in layer {layer}, but there are {layers}. Save it again.")
        label = _integer(own.get("LabelValue", "1"), "label value", number)
        color = _color(own.get("Color") or own.get("DefaultColor") or "0.5 0.5 0.5", number)
        other = {key: value for key, value in own.items() if key not in _OWN}
        result.append(Segment(own["ID"], own.get("Name", own["ID"]), color, layer, label, other))
    for values, what in (
        ([s.id for s in result], "the same ID"),
        ([(s.layer, s.label) for s in result], "the same value in one layer"),
    ):
        if len(set(values)) < len(values):
            raise ValueError(f"two of its segments have {what}. Save it again.")
    return tuple(result)


def _from_values(layers: tuple[Volume, ...]) -> tuple[Segment, ...]:
    found = [(n, int(label)) for n, layer in enumerate(layers) for label in label_values(layer.data) if label]
    if len(found) > _MOST_SEGMENTS:
        raise ValueError(f"holds {len(found)} different values, an image rather than a segmentation. Check the file.")
    return tuple(
        Segment(f"Segment_{i + 1}", f"Segment_{i + 1}", layer=layer, label=label)
        for i, (layer, label) in enumerate(found)
    )


def _integer(text: str, what: str, number: int) -> int:
    if not re.fullmatch(r"\s*[+-]?\d{1,10}\s*", text) or not -(2**31) <= int(text) < 2**31:
        raise ValueError(f"the {what} of segment {number} is {text[:20]!r}. Save it again.")
    return int(text)


def _color(text: str, number: int) -> tuple[float, float, float]:
    try:
        red, green, blue = (float(cell) for cell in text.split())
    except ValueError as error:
        raise ValueError(f"the color of segment {number} is {text[:40]!r}. Save it again.") from error
    if not all(0 <= c <= 1 for c in (red, green, blue)):
        raise ValueError(f"the color of segment {number} is {text[:40]!r}, not between 0 and 1. Save it again.")
    return red, green, blue


def _smallest(arrays: list[np.ndarray]) -> np.ndarray:
    """One array, the layers last where there are several, in the smallest type that Slicer would choose."""
    low, high = min(int(a.min()) for a in arrays), max(int(a.max()) for a in arrays)
    kinds = (np.uint8, np.int16, np.uint16, np.int32)
    kind = next(k for k in kinds if np.iinfo(k).min <= low and high <= np.iinfo(k).max)
    return arrays[0].astype(kind) if len(arrays) == 1 else np.stack(arrays, -1).astype(kind)


def _extent(inside: np.ndarray) -> str:
    """First and last voxel along i, j, k; the last before the first where there is none."""
    ends = []
    for axis in (2, 1, 0):
        found = np.flatnonzero(inside.any(tuple(a for a in range(3) if a != axis)))
        ends += [found[0], found[-1]] if len(found) else [0, -1]
    return " ".join(map(str, ends))


def _header(grid: Grid, data: np.ndarray, keys: dict[str, str]) -> bytes:
    def vector(values: np.ndarray) -> str:
        return "(" + ",".join(f"{v:.17g}" for v in values) + ")"

    listed = data.ndim == 4
    sizes = data.shape[2::-1] if not listed else (data.shape[3], *data.shape[2::-1])
    lines = [
        "NRRD0004",
        "# Complete NRRD file format specification at:",
        "# http://teem.sourceforge.net/nrrd/format.html",
        "type: "
        + {"uint8": "unsigned char", "int16": "short", "uint16": "unsigned short", "int32": "int"}[data.dtype.name],
        f"dimension: {data.ndim}",
        "space: left-posterior-superior",
        "sizes: " + " ".join(map(str, sizes)),
        "space directions: " + "none " * listed + " ".join(vector(grid.affine[:3, axis]) for axis in (2, 1, 0)),
        "kinds: " + "list " * listed + "domain domain domain",
        *(["endian: little"] if data.dtype.itemsize > 1 else []),
        "encoding: gzip",
        f"space origin: {vector(grid.origin)}",
    ]
    for key in sorted(keys):
        value = keys[key].replace("\\", "\\\\").replace("\r\n", "\n").replace("\n", "\\n").replace("\r", "\\n")
        lines.append(f"{key}:={value}")
    # SimpleITK hands over bytes that are no UTF-8 as surrogates: they are kept.
    return ("\n".join(lines) + "\n\n").encode("utf-8", "surrogateescape")
