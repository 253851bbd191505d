# SPDX-License-Identifier: Apache-2.0
"""A whole sequence registered in the child process, with the results beside it."""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import slicer
import vtk

from ..cohorts.series_how import How
from ..problem.parameters import Parameters
from ..process.runner import Run
from ..support.errors import InputError
from .added import imageOf
from .labels import maskFromNode
from .series import SeriesNodes, addSeries, itemsOf, secondsOf
from .translation import tr as _


class SequenceRun(Run):
    """The items of a sequence registered onto one of them, their mean, or each onto the one before.

    Attributes:
        nodes: of the results; None until it is done, or what was done when it was cancelled is kept.
        folder: of the files on the way; with a folder of its own, the same run goes on there where it was.
    """

    task = "register_series"

    def __init__(
        self,
        sequence: slicer.vtkMRMLSequenceNode,
        how: How | None = None,
        parameters: Parameters | None = None,
        mask: slicer.vtkMRMLNode | None = None,
        folder: str | None = None,
        machine: tuple[str, int | None] = ("auto", None),
    ) -> None:
        """`mask`: drawn on the reference; `folder`: by default a temporary one; `machine`: device and threads."""
        super().__init__()
        self.sequence, self.how = sequence, How() if how is None else how
        self.parameters = Parameters() if parameters is None else parameters
        self.nodes: SeriesNodes | None = None
        self._mask, self._machine = mask, machine
        self._temporary = None if folder is not None else tempfile.TemporaryDirectory(prefix="deepflash-series-")
        self.folder = Path(folder if folder is not None else self._temporary.name)
        self._images: dict[int, vtk.vtkImageData] = {}
        self._grid: Any = None

    def arguments(self) -> dict[str, Any]:
        """The voxels of all items, and how they are registered.

        Raises:
            InputError: it is no series of volumes, or cannot be registered so.
        """
        images = [volume for _number, volume in itemsOf(self.sequence)]
        self.how.check(len(images), self.parameters)
        mask = None
        if self._mask is not None:
            number = self.how.reference if isinstance(self.how.reference, int) else 0
            mask = maskFromNode(self._mask, self.sequence.GetNthDataNode(number))
        device, threads = self._machine
        self._grid = images[0].grid
        return {
            "images": images,
            "seconds": secondsOf(self.sequence),
            "how": asdict(self.how),
            "mask": mask,
            "parameters": self.parameters,
            "device": device,
            "threads": threads or None,
            "folder": str(self.folder.absolute()),
        }

    @property
    def _done(self) -> dict[int, dict[str, Any]]:
        items = self.value["items"] if self.value is not None else []
        return {number: item for number, item in enumerate(items) if item is not None}

    def prepare(self) -> Iterator[None]:
        """Converts what the nodes will hold, item by item."""
        for number, item in self._done.items():
            if number not in self._images:
                self._images[number] = imageOf(item["warped"])
                yield

    def finish(self) -> None:
        """Puts the results beside the sequence."""
        if self.sequence.GetScene() is None:
            raise InputError(
                _("{name} was removed from the scene during the registration.").format(name=self.sequence.GetName())
            )
        done = self._done
        self.nodes = addSeries(
            self.sequence, self._grid, self._images, {number: item["velocity"] for number, item in done.items()}
        )
        self._images = {}  # the sequence holds them now
        for item in done.values():
            item["warped"] = None
        if self._temporary is not None:
            self._temporary.cleanup()
        levels = Counter(item["level"] for item in done.values())
        words = ", ".join(f"{count} {level}" for level, count in levels.most_common() if level)
        count = self.sequence.GetNumberOfDataNodes()
        self.notes.append(_("{done} of {count} items: {levels}").format(done=len(done), count=count, levels=words))
        for number, message in self.value["failed"].items():
            self.notes.append(_("Item {number}: {reason}").format(number=number, reason=message))

    @property
    def canBeKept(self) -> bool:
        """Whether it was cancelled when items were done, which are not in the scene yet."""
        return self.state == "cancelled" and bool(self._done) and self.nodes is None

    def keep(self) -> SeriesNodes:
        """Puts what was done of a cancelled run into the scene.

        Raises:
            InputError: no item was done.
        """
        if not self._done:
            raise InputError(_("The registration was cancelled before the first item was done."))
        for _step in self.prepare():
            pass
        self.finish()
        return self.nodes
