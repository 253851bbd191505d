# SPDX-License-Identifier: Apache-2.0
"""A sequence of the scene as a series in time: written for `deepflash register-series`, and its results beside it.

The warped items and the velocities become sequences that play along with it. No fields are kept: the transform of the
item shown is computed from that item's velocity, to which it refers, when it is asked for.
"""

from __future__ import annotations

import base64
import json
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import slicer
import vtk

from ..imaging.grid import Grid
from ..imaging.image_files.units import even_seconds
from ..imaging.volume import Volume, checked_image
from ..process.runner import Run
from ..registration.maps import field_grids
from ..results.starts import arguments_of
from ..results.velocity import VELOCITY
from ..support.errors import InputError
from .added import imageOf
from .conversion import viewOfNode
from .fields import INVERSE_ROLE, gridTransform
from .geometry import ijkToRasOfGrid, vtkMatrixFrom
from .hierarchy import parentOf, placeIn
from .transaction import Transaction
from .translation import tr as _
from .velocity import VELOCITY_ROLE, fingerprint, hasVelocity, savedResult

# Of the transform of a series; what its field was computed from.
_SERIES_ATTRIBUTE, _SHOWN_ATTRIBUTE = "DeepFLASH.series", "DeepFLASH.shown"


@dataclass(frozen=True)
class SeriesNodes:
    """A registered series in the scene: the browser that plays all of it, the sequences of warped volumes and of
    velocities (text), their nodes of the item shown, the transform that lays that item on the reference, and the
    motion: the transform that lays what belongs to the reference on that item."""

    browser: slicer.vtkMRMLSequenceBrowserNode
    warped: slicer.vtkMRMLSequenceNode
    velocities: slicer.vtkMRMLSequenceNode
    warpedVolume: slicer.vtkMRMLScalarVolumeNode
    transform: slicer.vtkMRMLTransformNode
    motion: slicer.vtkMRMLTransformNode


def writeSequence(sequence: slicer.vtkMRMLSequenceNode, path: str | os.PathLike) -> None:
    """Writes the volumes of a sequence as a 4-D file, with its time where the index is one.

    Raises:
        InputError: it holds fewer than two items, something else than scalar volumes, or volumes of several grids.
    """
    from ..imaging.image_files.series import write_series

    items = itemsOf(sequence)
    volumes = (_told(sequence, number, lambda volume=volume: checked_image(volume)) for number, volume in items)
    write_series(path, items[0][1].grid, (volume.data for volume in volumes), len(items), secondsOf(sequence))


def itemsOf(sequence: slicer.vtkMRMLSequenceNode) -> list[tuple[int, Volume]]:
    """The volumes of a sequence with their numbers, as views of the voxels, at which nobody has looked.

    Raises:
        InputError: it holds fewer than two items, something else than scalar volumes, or volumes of several grids.
    """
    count = sequence.GetNumberOfDataNodes()
    if count < 2:
        raise InputError(
            _("{name} holds {count} items, which is no series. Choose a sequence of volumes.").format(
                name=sequence.GetName(), count=count
            )
        )
    nodes = [sequence.GetNthDataNode(number) for number in range(count)]
    items = [(number, _told(sequence, number, lambda node=node: viewOfNode(node))) for number, node in enumerate(nodes)]
    for number, volume in items:
        if not volume.grid.same_as(items[0][1].grid):
            raise InputError(
                _("Item {number} of {name} lies on another grid than the first. Resample it onto that one.").format(
                    number=number, name=sequence.GetName()
                )
            )
    return items


def _told(sequence: slicer.vtkMRMLSequenceNode, number: int, read: Callable[[], Volume]) -> Volume:
    try:
        return read()
    except InputError as error:
        raise InputError(
            _("Item {number} of {name} cannot be registered: {error}").format(
                number=number, name=sequence.GetName(), error=error
            )
        ) from error


def secondsOf(sequence: slicer.vtkMRMLSequenceNode) -> float:
    """From one item to the next; 0 if that is unknown or not always the same."""
    index = [sequence.GetNthIndexValue(number) for number in range(sequence.GetNumberOfDataNodes())]
    return even_seconds(index, sequence.GetIndexUnit() or "")


def addSeriesResult(sequence: slicer.vtkMRMLSequenceNode, folder: str | os.PathLike) -> SeriesNodes:
    """Puts the results of a sequence beside it, to be played with it in the browser that has it, or in a new one.

    Args:
        sequence: that was registered.
        folder: of `deepflash register-series`, in which all items are done.

    Returns:
        The nodes; all or none are made. Transform and motion are filled by an `ItemTransformRun`.

    Raises:
        InputError: the folder holds no such results, or those of a series of another length.
    """
    from ..imaging.time_series import read_series

    folder = Path(folder)
    velocities = _velocities(folder)
    warped = read_series([folder / "warped.nii.gz"])
    count = sequence.GetNumberOfDataNodes()
    if not len(velocities) == len(warped) == count:
        raise InputError(
            _("{folder}: holds {items} items, and {name} {count}. Choose the sequence that was registered.").format(
                folder=folder, items=len(velocities), name=sequence.GetName(), count=count
            )
        )
    images = {number: imageOf(volume) for number, volume in enumerate(warped.volumes())}
    return addSeries(sequence, warped.grid, images, dict(enumerate(velocities)))


def addSeries(
    sequence: slicer.vtkMRMLSequenceNode,
    grid: Grid,
    images: Mapping[int, vtk.vtkImageData],
    velocities: Mapping[int, str],
) -> SeriesNodes:
    """The same of voxels and velocities that were read, each by the number of its item; there may be fewer of them."""
    matrix = vtkMatrixFrom(ijkToRasOfGrid(grid))
    with Transaction(sequence.GetScene()) as transaction:
        browser = browserOf(sequence)
        if browser is None:
            browser = transaction.create("vtkMRMLSequenceBrowserNode", f"{sequence.GetName()} browser")
            browser.SetAndObserveMasterSequenceNodeID(sequence.GetID())
        made = []
        for what in ("registered", "velocities"):
            each = transaction.create("vtkMRMLSequenceNode", f"{sequence.GetName()} {what}")
            each.SetIndexName(sequence.GetIndexName())
            each.SetIndexUnit(sequence.GetIndexUnit())
            each.SetIndexType(sequence.GetIndexType())
            made.append(each)
            transaction.onFailure(lambda each=each: browser.RemoveSynchronizedSequenceNode(each.GetID() or ""))
        # A sequence copies deeply what it is given, so it gets empty nodes, and these what they hold.
        volume, text = slicer.vtkMRMLScalarVolumeNode(), slicer.vtkMRMLTextNode()
        volume.SetIJKToRASMatrix(matrix)
        for number in sorted(images):
            index = sequence.GetNthIndexValue(number)
            made[0].SetDataNodeAtValue(volume, index).SetAndObserveImageData(images[number])
            made[1].SetDataNodeAtValue(text, index).SetText(velocities[number])
        for each in made:
            browser.AddSynchronizedSequenceNode(each.GetID())
            # By default another item's result would be shown where there is none.
            browser.SetMissingItemMode(each, browser.MissingItemSetToDefault)
        proxies = [browser.GetProxyNode(each) for each in made]
        if None in proxies:
            raise RuntimeError(_("The Sequences module did not make nodes for the sequences."))
        transform, motion = (
            transaction.create("vtkMRMLTransformNode", f"{sequence.GetName()} {what}")
            for what in ("to reference", "motion")
        )
        transform.SetNodeReferenceID(INVERSE_ROLE, motion.GetID())
        transform.SetAttribute(_SERIES_ATTRIBUTE, "1")
        transform.SetNodeReferenceID(VELOCITY_ROLE, proxies[1].GetID())
        for node in (*made, *proxies, transform, motion):
            placeIn(node, parentOf(sequence))
    return SeriesNodes(browser, *made, proxies[0], transform, motion)


def _velocities(folder: Path) -> list[str]:
    """Of each item, as the scene keeps velocities."""
    try:
        last = json.loads((folder / "series.json").read_text(encoding="utf-8"))["results"]
        paths = sorted((folder / last).glob(f"*/{VELOCITY}"))
        found = [base64.b64encode(path.read_bytes()).decode("ascii") for path in paths]
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise InputError(
            _("{folder}: holds no results of a series ({error}). Register it again.").format(folder=folder, error=error)
        ) from error
    return found


def browserOf(sequence: slicer.vtkMRMLSequenceNode) -> slicer.vtkMRMLSequenceBrowserNode | None:
    """The first browser that plays a sequence; None without one."""
    scene = sequence.GetScene()
    for number in range(scene.GetNumberOfNodesByClass("vtkMRMLSequenceBrowserNode")):
        browser = scene.GetNthNodeByClass(number, "vtkMRMLSequenceBrowserNode")
        if browser.IsSynchronizedSequenceNode(sequence, True):
            return browser
    return None


def sequenceOf(volume: slicer.vtkMRMLNode | None) -> slicer.vtkMRMLSequenceNode | None:
    """The sequence of which a volume is the item that a browser shows; None for any other volume."""
    scene = volume.GetScene() if volume is not None else None
    for number in range(scene.GetNumberOfNodesByClass("vtkMRMLSequenceBrowserNode") if scene is not None else 0):
        sequence = scene.GetNthNodeByClass(number, "vtkMRMLSequenceBrowserNode").GetSequenceNode(volume)
        if sequence is not None:
            return sequence
    return None


def shownItem(sequence: slicer.vtkMRMLSequenceNode) -> int:
    """The number of the item that is shown; the first one where none is."""
    browser = browserOf(sequence)
    return max(0, browser.GetSelectedItemNumber()) if browser is not None else 0


def seriesTransforms(scene: slicer.vtkMRMLScene) -> list[slicer.vtkMRMLTransformNode]:
    """Those that follow the item which is shown."""
    count = scene.GetNumberOfNodesByClass("vtkMRMLTransformNode")
    nodes = [scene.GetNthNodeByClass(number, "vtkMRMLTransformNode") for number in range(count)]
    return [node for node in nodes if node.GetAttribute(_SERIES_ATTRIBUTE) and hasVelocity(node)]


def behind(scene: slicer.vtkMRMLScene) -> slicer.vtkMRMLTransformNode | None:
    """A transform of a series that is not that of the item shown; None if there is none. Where an item has no result,
    there is no map either."""
    for transform in seriesTransforms(scene):
        if isOfShownItem(transform):
            continue
        if transform.GetNodeReference(VELOCITY_ROLE).GetText():
            return transform
        _setMap(transform, vtk.vtkTransform(), fingerprint(transform))
    return None


def _setMap(transform: slicer.vtkMRMLTransformNode, data: vtk.vtkAbstractTransform, shown: str) -> None:
    """Gives a map from the reference to the item shown to a series' transform and its motion."""
    transform.SetAndObserveTransformFromParent(data)
    motion = transform.GetNodeReference(INVERSE_ROLE)
    if motion is not None:
        motion.SetAndObserveTransformToParent(data)
    transform.SetAttribute(_SHOWN_ATTRIBUTE, shown)


def isOfShownItem(transform: slicer.vtkMRMLTransformNode) -> bool:
    """Whether a series' transform is that of the item that its browser shows."""
    return transform.GetAttribute(_SHOWN_ATTRIBUTE) == fingerprint(transform)


class ItemTransformRun(Run):
    """The transform of the item that a series' browser shows, and the motion, from its velocity.

    If another item is shown when it ends, both stay what they were: then the next run is for that item.
    """

    task = "geodesic"
    brief = True

    def __init__(self, transform: slicer.vtkMRMLTransformNode) -> None:
        """`transform`: SeriesNodes.transform."""
        super().__init__()
        self.transform = transform
        self._grid: Grid | None = None
        self._of = ""

    def arguments(self) -> dict[str, Any]:
        """The velocity, and where its map is wanted; InputError if the scene does not hold it."""
        saved = savedResult(self.transform)
        self._of = fingerprint(self.transform)
        self._grid = field_grids(saved.fixed_grid, saved.deformation.affine)[0]
        return {"velocity": arguments_of(saved.deformation), "times": [1.0], "grid": self._grid}

    def finish(self) -> None:
        """Gives the field to the transform, and to the motion."""
        if self.transform.GetScene() is None or fingerprint(self.transform) != self._of:
            return
        _setMap(self.transform, gridTransform(self.value[0], self._grid), self._of)
