# SPDX-License-Identifier: Apache-2.0
"""Labels on the fixed grid as segments that are what they were: ids, names, colors, terminology and other tags."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import slicer

from ..imaging.volume import Volume
from .arrays import imageFromArray
from .geometry import ijkToRasOfGrid, inSpace, vtkMatrixFrom
from .labels import Labels

_REPRESENTATION = slicer.vtkSegmentationConverter.GetSegmentationBinaryLabelmapRepresentationName()


def propagatedSegmentation(volume: Volume, labels: Labels, source: slicer.vtkSegmentation) -> slicer.vtkSegmentation:
    """A new segmentation of binary label maps.

    Args:
        volume: propagated labels, on the fixed grid.
        labels: what the labels mean.
        source: the segmentation they came from; not changed. All its segments occur in the result, empty or not.
    """
    coveredBy: dict[str, list[int]] = {}
    for label, identifiers in labels.segments.items():
        for identifier in identifiers:
            coveredBy.setdefault(identifier, []).append(label)
    segmentation = _emptySegmentation()
    segmentation.CopyConversionParameters(source)
    overlap = any(len(present) > 1 for present in coveredBy.values())
    # Segments that do not overlap share one label map, as the Segment Editor does it.
    shared = None if overlap else _placed(volume, volume.data)
    for identifier in source.GetSegmentIDs():
        present = coveredBy[identifier]
        segment = slicer.vtkSegment()
        segment.DeepCopyMetadata(source.GetSegment(identifier))
        if overlap:
            segment.SetLabelValue(1)
            segment.AddRepresentation(_REPRESENTATION, _placed(volume, np.isin(volume.data, present)))
        else:
            segment.SetLabelValue(present[0])
            segment.AddRepresentation(_REPRESENTATION, shared)
        segmentation.AddSegment(segment, identifier)
    return segmentation


def segmentationOfLabels(
    labels: Labels, colors: slicer.vtkMRMLColorNode | None, shade: Callable[[Sequence[float]], Sequence[float]] = tuple
) -> slicer.vtkSegmentation:
    """A new segmentation of a label map: a segment per label, colored as `shade` makes of what `colors` says."""
    segmentation = _emptySegmentation()
    shared = _placed(labels.volume, labels.volume.data)
    for label, name in labels.names.items():
        segment = slicer.vtkSegment()
        segment.SetName(name)
        rgba = [0.5, 0.5, 0.5, 1.0]
        if colors is not None:
            colors.GetColor(label, rgba)
        segment.SetColor(*shade(rgba[:3]))
        segment.SetLabelValue(label)
        segment.AddRepresentation(_REPRESENTATION, shared)
        segmentation.AddSegment(segment, str(label))
    return segmentation


def _emptySegmentation() -> slicer.vtkSegmentation:
    segmentation = slicer.vtkSegmentation()
    segmentation.SetSourceRepresentationName(_REPRESENTATION)
    return segmentation


def _placed(volume: Volume, data: np.ndarray) -> slicer.vtkOrientedImageData:
    """Labels as an oriented image, in the smallest type that holds them."""
    largest = max(int(data.max(initial=0)), 1)
    image = imageFromArray(
        data.reshape(inSpace(volume.grid).shape).astype(np.min_scalar_type(largest)),
        image=slicer.vtkOrientedImageData(),
    )
    image.SetGeometryFromImageToWorldMatrix(vtkMatrixFrom(ijkToRasOfGrid(volume.grid)))
    return image
