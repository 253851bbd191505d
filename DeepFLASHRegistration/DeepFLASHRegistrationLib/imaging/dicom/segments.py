# SPDX-License-Identifier: Apache-2.0
"""DICOM segmentations (SEG; PS3.3, A.51), by highdicom: read as Slicer's, and written on the voxels of a series."""

from __future__ import annotations

import re
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ...support.errors import InputError
from ...support.memory import check_free
from ...version import __version__
from ..grid import Grid
from ..segmentation import Segment, Segmentation
from ..volume import Volume, label_values
from .objects import package, read_object
from .registrations import MANUFACTURER, MODEL
from .series import Series

if TYPE_CHECKING:
    from pydicom import Dataset

_TERMINOLOGY = "TerminologyEntry"
_LISTS = "Segmentation category and type - DICOM master list", "Anatomic codes - DICOM master list"
# What Slicer calls a segment of which nothing is known.
_TISSUE = ("SCT", "85756007", "Tissue")
# What carried the labels, among the families of algorithms in PS3.16, CID 7162.
_ALGORITHM = ("123111", "DCM", "Deformable Models")


def read_segments(path: Path) -> Segmentation:
    """Reads a segmentation: names, colors and terminology in Slicer's form; in layers, where segments overlap.

    Raises:
        InputError: damaged, fractional, not on the voxels of a volume, without a segment, or a package is missing.
    """
    library = package("highdicom.seg", path)
    found = read_object(path)
    try:
        if str(found.get("SegmentationType")) == "FRACTIONAL":
            raise InputError(f"{path}: holds fractions of segments, no labels. Export it as a binary segmentation.")
        found = library.Segmentation.from_dataset(found, copy=False)
        numbers = [int(n) for n in found.segment_numbers if n]
        layers, places, grid = _layers(found, numbers)
        segments = tuple(_segment(found.get_segment_description(n), *places[n]) for n in numbers if n in places)
    except InputError:
        raise
    except Exception as error:  # whatever highdicom finds wrong, or comes upon
        raise InputError(
            f"{path}: cannot be read as a segmentation of a volume ({error}). Export it as .seg.nrrd or NIfTI."
        ) from error
    if not segments:
        raise InputError(f"{path}: holds no segment with a voxel. Check that the right file was exported.")
    return Segmentation(tuple(Volume(grid, layer, str(path)) for layer in layers), segments)


def _layers(found: Any, numbers: Sequence[int]) -> tuple[list[np.ndarray], dict[int, tuple[int, int]], Grid]:
    """Label maps as few as overlaps allow, by segment its layer and its label there, and the grid."""
    layers: list[np.ndarray] = []
    places: dict[int, tuple[int, int]] = {}
    affine = np.eye(4)
    for number in numbers:
        volume = found.get_volume(segment_numbers=[number], dtype=np.uint8)
        affine, inside = volume.affine, volume.array[..., 0] != 0
        if not inside.any():
            continue
        free = next((k for k, layer in enumerate(layers) if not layer[inside].any()), len(layers))
        if free == len(layers):
            layers.append(np.zeros(inside.shape, np.int32))
        layers[free][inside] = number
        places[number] = free, number
    grid = Grid(
        layers[0].shape if layers else (1, 1, 1), affine, frame_of_reference=str(found.get("FrameOfReferenceUID") or "")
    )
    if grid.shape[0] == 1:  # one slice of a volume, and no image of two dimensions
        grid = grid.padded((1, 0, 0))
        layers = [np.pad(layer, ((1, 1), (0, 0), (0, 0))) for layer in layers]
    return layers, places, grid


def _segment(item: Dataset, layer: int, label: int) -> Segment:
    category, kind = item.SegmentedPropertyCategoryCodeSequence[0], item.SegmentedPropertyTypeCodeSequence[0]
    region = (item.get("AnatomicRegionSequence") or [None])[0]
    entry = "~".join(
        (
            _LISTS[0], _written(category), _written(kind), _written(kind, "SegmentedPropertyTypeModifierCodeSequence"),
            _LISTS[1], _written(region), _written(region, "AnatomicRegionModifierSequence"),
        )
    )  # fmt: skip
    color = (0.5, 0.5, 0.5)
    if item.get("RecommendedDisplayCIELabValue"):
        lab = package("highdicom.color", "A color").CIELabColor.from_dicom_value(item.RecommendedDisplayCIELabValue)
        color = tuple(component / 255 for component in lab.to_rgb(clip=True))
    name = str(item.SegmentLabel)
    return Segment(f"Segment_{label}", name, color, layer, label, {"Tags": f"{_TERMINOLOGY}:{entry}|"})


def _written(code: Dataset | None, modifier: str = "") -> str:
    """A code as Slicer writes it, or that of its modifier."""
    if modifier and code is not None:
        code = (code.get(modifier) or [None])[0]
    if code is None:
        return "^^"
    value = code.get("CodeValue") or code.get("LongCodeValue") or ""
    return f"{code.get('CodingSchemeDesignator') or ''}^{value}^{code.get('CodeMeaning') or ''}"


def segmentation_object(series: Series, segmentation: Segmentation) -> tuple[Dataset, list[str]]:
    """A binary segmentation on the slices of a series, a segment for each that has a voxel there, and notes.

    Args:
        series: whose slices it refers to.
        segmentation: on the grid of the series.

    Raises:
        InputError: the slices of the series are no regular volume, nothing lies on them, or highdicom is missing.
    """
    slices = series.sampling.stack.slices
    if series.sampling.interpolated or any(part.tile is not None for part in slices):
        raise InputError(
            f"{series.path}: its slices are tilted, unequally spaced or tiles of a mosaic, and were resampled for the "
            "registration, so that no segmentation lies on them. Leave the labels out, and use the result's NIfTI."
        )
    library, notes = package("highdicom", series.path), []
    order = np.argsort([part.frame for part in slices]) if len(series.instances) == 1 else np.arange(len(slices))
    there = [set(label_values(layer.data).tolist()) for layer in segmentation.layers]
    kept = [segment for segment in segmentation.segments if segment.label in there[segment.layer]]
    if len(kept) < len(segmentation.segments):
        gone = [segment.name for segment in segmentation.segments if segment not in kept]
        notes.append(f"segments without a voxel in the fixed image were left out: {', '.join(gone)}")
    if not kept:
        raise InputError(f"{series.path}: none of the labels reaches it. Check that they belong to the moving image.")
    voxels = _as_array(kept, segmentation.layers, series)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # names of patients are what they are
        found = library.seg.Segmentation(
            source_images=list(series.instances),
            pixel_array=voxels[order],
            segmentation_type="BINARY",
            segment_descriptions=[_description(library, n + 1, segment) for n, segment in enumerate(kept)],
            series_instance_uid=library.UID(),
            series_number=1,
            sop_instance_uid=library.UID(),
            instance_number=1,
            manufacturer=MANUFACTURER,
            manufacturer_model_name=MODEL,
            software_versions=__version__,
            device_serial_number="none",
            content_label="SEGMENTATION",
            content_description="Labels carried over by a registration",
        )
    found.SeriesDescription = "DeepFLASH: segmentation"
    if not all(segment.name.isascii() for segment in kept):
        found.SpecificCharacterSet = "ISO_IR 192"
    return found, notes


def _as_array(kept: Sequence[Segment], layers: Sequence[Volume], series: Series) -> np.ndarray:
    """Segments as one map of their numbers from 1 on, or of each its own where they overlap."""
    shape, numbers = layers[0].data.shape, np.zeros(layers[0].data.shape, np.uint16)
    for number, segment in enumerate(kept):
        mask = layers[segment.layer].data == segment.label
        if numbers[mask].any():
            check_free(series.path, 2 * len(kept) * numbers.size)
            apart = np.zeros((*shape, len(kept)), bool)
            for k, each in enumerate(kept):
                apart[..., k] = layers[each.layer].data == each.label
            return apart
        numbers[mask] = number + 1
    return numbers


def _description(library: Any, number: int, segment: Segment) -> Dataset:
    category, kind, modifier, region, region_modifier = _codes(segment.other.get("Tags", ""))
    code = library.sr.CodedConcept
    found = library.seg.SegmentDescription(
        segment_number=number,
        segment_label=_plain(segment.name) or f"Segment {number}",
        segmented_property_category=code(*_ordered(category or _TISSUE)),
        segmented_property_type=code(*_ordered(kind or _TISSUE)),
        algorithm_type="SEMIAUTOMATIC",
        algorithm_identification=library.AlgorithmIdentificationSequence(
            MANUFACTURER, code(*_ALGORITHM), __version__
        ),
        anatomic_regions=[code(*_ordered(region))] if region else None,
        display_color=library.color.CIELabColor.from_rgb(*(round(255 * c) for c in segment.color)),
    )  # fmt: skip
    if modifier:
        kind = found.SegmentedPropertyTypeCodeSequence[0]
        kind.SegmentedPropertyTypeModifierCodeSequence = [code(*_ordered(modifier))]
    if region and region_modifier:
        found.AnatomicRegionSequence[0].AnatomicRegionModifierSequence = [code(*_ordered(region_modifier))]
    return found


def _ordered(code: tuple[str, str, str]) -> tuple[str, str, str]:
    """Scheme, value and meaning, as Slicer has them, in the order of highdicom."""
    scheme, value, meaning = code
    return value, scheme, meaning


def _codes(tags: str) -> list[tuple[str, str, str] | None]:
    """Category, type, its modifier, region and its modifier of a segment's tags; None for each that they lack."""
    entry = re.search(rf"(?:^|\|){_TERMINOLOGY}:([^|]*)", tags)
    parts = entry[1].split("~") if entry else []
    found: list[tuple[str, str, str] | None] = []
    for place in (1, 2, 3, 5, 6):
        code = tuple(parts[place].split("^")) if len(parts) > place else ()
        good = len(code) == 3 and all(code) and len(code[0]) <= 16 and len(code[1]) <= 16
        found.append((code[0], code[1], _plain(code[2])) if good else None)
    return found


def _plain(text: str) -> str:
    """A text as DICOM's LO takes it: at most 64 characters on one line, and no backslash."""
    return "".join(c if c.isprintable() and c != "\\" else " " for c in text)[:64].strip()
