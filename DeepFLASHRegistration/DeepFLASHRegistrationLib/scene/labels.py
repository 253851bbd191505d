# SPDX-License-Identifier: Apache-2.0
"""Label maps and segmentations as label Volumes, with what is needed to give labels their names back."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import slicer
import vtk

from ..imaging.volume import LARGEST_COUNTED_LABEL, Volume, checked_labels, checked_mask, label_values
from ..support.errors import InputError
from .arrays import arrayFromImage
from .geometry import gridFromIjkToRas, gridFromVolume, ijkToWorld, toWorld
from .reslice import Placement, placementOfImage, placementOfVolume, resliced
from .translation import tr as _


@dataclass(frozen=True)
class Labels:
    """Labels and their meaning.

    Attributes:
        volume: int32 labels, 0 outside.
        names: label -> name.
        segments: label -> ids of the segments that cover it. Where segments overlap, each combination that occurs
            has a label of its own, so that nothing is lost on the way. Empty for label maps.
    """

    volume: Volume
    names: dict[int, str]
    segments: dict[int, tuple[str, ...]]


def labelsFromNode(
    node: slicer.vtkMRMLNode, referenceVolume: slicer.vtkMRMLVolumeNode | None = None, like: Labels | None = None
) -> Labels:
    """A label map volume or a segmentation as labels.

    Args:
        node: vtkMRMLLabelMapVolumeNode or vtkMRMLSegmentationNode; not changed.
        referenceVolume: whose grid the labels shall have (nearest neighbor); default the node's own (reference)
            geometry.
        like: labels of the other image: a name that occurs there gets the label it has there. Two label maps keep
            their values.

    Raises:
        InputError: if the node has no labels, is of another class, or lies under a non-linear transform.
    """
    if node is not None and node.IsA("vtkMRMLSegmentationNode"):
        return _fromSegmentation(node, referenceVolume, like)
    if node is not None and node.IsA("vtkMRMLLabelMapVolumeNode"):
        return _fromLabelMap(node, referenceVolume, like)
    if node is None:
        raise InputError(_("Labels must be a segmentation or a label map volume. Choose one."))
    raise InputError(
        _("Labels must be a segmentation or a label map volume, {name} is a {kind}.").format(
            name=node.GetName(), kind=node.GetClassName()
        )
    )


def maskFromNode(node: slicer.vtkMRMLNode, referenceVolume: slicer.vtkMRMLVolumeNode) -> Volume:
    """A segmentation, label map or scalar volume as mask (uint8) on the grid of `referenceVolume`: 1 where not 0.

    Raises:
        InputError: if the mask is empty or the node cannot be used.
    """
    if node.IsA("vtkMRMLSegmentationNode"):
        volume = labelsFromNode(node, referenceVolume).volume
    else:
        gridFromVolume(node)  # refuses an empty node in words
        grid = gridFromVolume(referenceVolume)
        data = resliced(node.GetImageData(), ijkToWorld(node), placementOfVolume(referenceVolume))
        volume = Volume(grid, data.reshape(grid.shape), node.GetName())
    return checked_mask(volume)


def checkLabels(node: slicer.vtkMRMLNode) -> None:
    """InputError if a segmentation or label map cannot be used, as far as that is told in no time."""
    toWorld(node)
    if node.IsA("vtkMRMLSegmentationNode"):
        _segmentationOf(node)
    else:
        gridFromVolume(node)


def insideOf(mask: slicer.vtkMRMLNode) -> float | None:
    """mm^3 that a mask covers, told in no time; None if that is not known without computing. Parents do not count."""
    if mask.IsA("vtkMRMLSegmentationNode"):
        segmentation = mask.GetSegmentation()
        name = slicer.vtkSegmentationConverter.GetSegmentationBinaryLabelmapRepresentationName()
        found, total = False, 0.0
        for identifier in segmentation.GetSegmentIDs():
            segment = segmentation.GetSegment(identifier)
            image = segment.GetRepresentation(name)
            if image is not None:
                found = True
                total += _covered(image, segment.GetLabelValue())
        return total if found or segmentation.GetNumberOfSegments() == 0 else None
    image = mask.GetImageData()
    return 0.0 if image is None else _covered(image, None, mask.GetSpacing())


def _covered(image: vtk.vtkImageData, label: int | None, spacing: tuple[float, ...] | None = None) -> float:
    """What the voxels of this label, or all but 0, cover."""
    if image.GetNumberOfPoints() == 0 or image.GetPointData().GetScalars() is None:
        return 0.0
    data = arrayFromImage(image)
    return float(np.count_nonzero(data if label is None else data == label) * np.prod(spacing or image.GetSpacing()))


def _fromLabelMap(
    node: slicer.vtkMRMLLabelMapVolumeNode, referenceVolume: slicer.vtkMRMLVolumeNode | None, like: Labels | None
) -> Labels:
    grid = gridFromVolume(node)
    data = arrayFromImage(node.GetImageData())
    if referenceVolume is not None:
        grid = gridFromVolume(referenceVolume)
        data = resliced(node.GetImageData(), ijkToWorld(node), placementOfVolume(referenceVolume))
    volume = checked_labels(Volume(grid, data.reshape(grid.shape).copy(), node.GetName()))
    values = [int(value) for value in label_values(volume.data) if value]
    names = [nameOfLabel(node, value) for value in values]
    if like is not None and like.segments:
        renumbered = np.zeros_like(volume.data)
        labels = _labelsFor(names, like)
        for value, label in zip(values, labels, strict=True):
            renumbered[volume.data == value] = label
        volume, values = volume.with_data(renumbered), labels
    return Labels(volume, dict(zip(values, names, strict=True)), {})


def nameOfLabel(node: slicer.vtkMRMLLabelMapVolumeNode, value: int) -> str:
    """What a label map's colors call a label; its number where they call it nothing."""
    display = node.GetDisplayNode()
    colors = display.GetColorNode() if display is not None else None
    name = colors.GetColorName(value) if colors is not None and 0 <= value < colors.GetNumberOfColors() else ""
    return name if name and name != "(none)" else str(value)


def _labelsFor(names: Iterable[str], like: Labels | None) -> list[int]:
    """A label per name: the one it has in `like`, else one that is new."""
    known = {name: label for label, name in like.names.items()} if like is not None else {}
    following = max(known.values(), default=0) + 1
    labels = []
    for name in names:
        label = known.pop(name, following)
        following += label == following
        labels.append(label)
    return labels


def _fromSegmentation(
    node: slicer.vtkMRMLSegmentationNode, referenceVolume: slicer.vtkMRMLVolumeNode | None, like: Labels | None
) -> Labels:
    world = toWorld(node)
    segmentation = _withLabelMaps(node)
    reference = (
        placementOfVolume(referenceVolume) if referenceVolume is not None else _ownPlacement(segmentation, world)
    )
    grid = gridFromIjkToRas(reference.ijkToWorld, reference.dimensions, node.GetName())

    segments = {identifier: segmentation.GetSegment(identifier) for identifier in segmentation.GetSegmentIDs()}
    names = {identifier: segment.GetName() for identifier, segment in segments.items()}
    labelOf = {(identifier,): label for identifier, label in zip(names, _labelsFor(names.values(), like), strict=True)}
    data = _ofOneLabelMap(segments, labelOf, world, reference)
    if data is None:
        data = np.zeros(reference.dimensions[::-1], np.int32)
        cache: dict[str, np.ndarray] = {}
        for identifier, segment in segments.items():
            mask = _maskOfSegment(segment, world, reference, cache)
            if mask is not None:
                _paint(data, mask, identifier, labelOf, names, like)

    overlaps = [" + ".join(names[identifier] for identifier in ids) for ids in labelOf if len(ids) > 1]
    notes = ()
    if overlaps:
        note = _(
            "{name} has overlapping segments ({overlaps}): each overlap is carried as a label of its own, then given "
            "to all its segments"
        )
        notes = (note.format(name=node.GetName(), overlaps="; ".join(overlaps)),)
    volume = checked_labels(Volume(grid, data.reshape(grid.shape), node.GetName(), notes))
    return Labels(
        volume,
        {label: _combinedName(ids, names) for ids, label in labelOf.items()},
        {label: ids for ids, label in labelOf.items()},
    )


def _combinedName(ids: tuple[str, ...], names: dict[str, str]) -> str:
    return " + ".join(names[identifier] for identifier in ids)


def _paint(
    data: np.ndarray,
    mask: np.ndarray,
    identifier: str,
    labelOf: dict[tuple[str, ...], int],
    names: dict[str, str],
    like: Labels | None,
) -> None:
    """Adds a segment to the labels; where it meets others, the combination gets a label of its own."""
    idsOf = {label: ids for ids, label in labelOf.items()}
    present = data[mask]
    result = np.full_like(present, labelOf[(identifier,)])
    for label in label_values(present[present != 0]):
        combination = (*idsOf[int(label)], identifier)
        if combination not in labelOf:
            name = _combinedName(combination, names)
            taken = {*labelOf.values(), *(like.names if like is not None else ())}
            known = {name: label for label, name in like.names.items()} if like is not None else {}
            labelOf[combination] = known.get(name, max(taken) + 1)
        result[present == label] = labelOf[combination]
    data[mask] = result


def _ofOneLabelMap(
    segments: dict[str, slicer.vtkSegment],
    labelOf: dict[tuple[str, ...], int],
    world: np.ndarray,
    reference: Placement,
) -> np.ndarray | None:
    """All labels at once, if all segments share a label map, and so cannot overlap; else None."""
    images = [_labelMapOf(segment) for segment in segments.values()]
    if images[0] is None or any(image is not images[0] for image in images):
        return None
    values = _onReference(images[0], world, reference)
    labels = {segment.GetLabelValue(): labelOf[(identifier,)] for identifier, segment in segments.items()}
    highest = max(*labels, int(values.max()))
    counted = values.dtype.kind in "iu" and min(*labels, int(values.min()) + 1) > 0 and highest <= LARGEST_COUNTED_LABEL
    if not counted or len(labels) < len(segments):  # segments of one value are the same voxels: they do overlap
        return None
    table = np.zeros(highest + 1, np.int32)
    table[list(labels)] = list(labels.values())
    return table[values]


def _labelMapOf(segment: slicer.vtkSegment) -> slicer.vtkOrientedImageData | None:
    """The label map that a segment is in, None if there is none or an empty one."""
    image = segment.GetRepresentation(slicer.vtkSegmentationConverter.GetSegmentationBinaryLabelmapRepresentationName())
    empty = image is None or image.GetNumberOfPoints() == 0 or image.GetPointData().GetScalars() is None
    return None if empty else image


def _onReference(image: slicer.vtkOrientedImageData, world: np.ndarray, reference: Placement) -> np.ndarray:
    """The values of a label map of a segmentation at the reference's voxels."""
    return resliced(image, placementOfImage(image, world, shifted=False).ijkToWorld, reference)


def _maskOfSegment(
    segment: slicer.vtkSegment, world: np.ndarray, reference: Placement, cache: dict[str, np.ndarray]
) -> np.ndarray | None:
    """Where a segment is; `cache` keeps the label maps that segments share, so that each is resliced once."""
    image = _labelMapOf(segment)
    if image is None:
        return None
    key = image.GetAddressAsString("")
    if key not in cache:
        cache[key] = _onReference(image, world, reference)
    return cache[key] == segment.GetLabelValue()


def _segmentationOf(node: slicer.vtkMRMLSegmentationNode) -> slicer.vtkSegmentation:
    segmentation = node.GetSegmentation()
    if segmentation is None or segmentation.GetNumberOfSegments() == 0:
        raise InputError(
            _("{name} has no segment. Add one, or choose another segmentation.").format(name=node.GetName())
        )
    return segmentation


def _withLabelMaps(node: slicer.vtkMRMLSegmentationNode) -> slicer.vtkSegmentation:
    """The node's segmentation, or, if it holds no label maps, a copy that does: the node keeps its representations."""
    segmentation = _segmentationOf(node)
    name = slicer.vtkSegmentationConverter.GetSegmentationBinaryLabelmapRepresentationName()
    if segmentation.ContainsRepresentation(name):
        return segmentation
    copy = slicer.vtkSegmentation()
    copy.DeepCopy(segmentation)
    if not copy.CreateRepresentation(name):
        raise InputError(
            _(
                "{name} cannot be turned into label maps. Create its binary labelmap representation in the "
                "Segmentations module."
            ).format(name=node.GetName())
        )
    return copy


def _ownPlacement(segmentation: slicer.vtkSegmentation, world: np.ndarray) -> Placement:
    """The reference geometry of a segmentation, or, if it has none, what all its segments fit in."""
    parameter = slicer.vtkSegmentationConverter.GetReferenceImageGeometryParameterName()
    geometry = segmentation.GetConversionParameter(parameter) or segmentation.DetermineCommonLabelmapGeometry(
        slicer.vtkSegmentation.EXTENT_UNION_OF_SEGMENTS, vtk.vtkStringArray()
    )  # none: all segments
    image = slicer.vtkOrientedImageData()
    slicer.vtkSegmentationConverter.DeserializeImageGeometry(geometry, image, False)
    return placementOfImage(image, world)
