# SPDX-License-Identifier: Apache-2.0
"""What making a template takes, told before it begins."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from ..imaging.grid import Grid
from ..imaging.io import read_grid
from ..methods.stages import stages
from ..problem.parameters import Parameters
from ..registration.needs import seconds, sizes
from ..support import memory
from ..support.processors import cores
from ..training.dataset import Dataset
from .many import Settings, whole
from .template_how import How

_ALIGNING = 2.0  # seconds of one alignment, with its reading


class Plan:
    """What making a template takes, by the largest subject as the template.

    Attributes:
        seconds: of each step on one processor of a computer of reference.
        memory: bytes that each registration takes at most.
    """

    def __init__(self, dataset: Dataset, settings: Settings, how: How) -> None:
        self._settings, count = settings, len(dataset)
        parameters = Parameters.from_dict({**settings.parameters.to_dict(), "initial_alignment": "none"})
        grid = max((read_grid(each.image) for each in dataset.subjects), key=lambda each: each.size)
        template = _template_grid(grid, how)
        found = sizes(template, grid, whole(template), stages(parameters))
        each = sum(value for name, value in seconds(found, stages(parameters)).items() if name != "start")
        self.count = count
        self.memory = memory.needed_bytes(found, "cpu")[0]
        self.seconds = {
            "align rigidly, and average": count * _ALIGNING,
            "align affinely, and average": count * _ALIGNING,
            **{f"round {number}: register, and average": count * each for number in range(1, how.rounds + 1)},
            "take the mean velocity from each, and average": count * each / 2,
        }
        if how.standard:
            self.seconds["register to the standard space"] = each

    def text(self) -> str:
        """The steps, with about how long they take and what memory."""
        workers = self._settings.workers or (self._settings.threads or cores())
        free = memory.free_bytes()
        if self._settings.workers is None and free is not None and self.memory:
            workers = max(1, min(workers, int(memory.USABLE_FRACTION * free / self.memory)))
        each = self.memory / 2**30
        total = _minutes(sum(self.seconds.values()) / workers)
        return "\n".join(
            [
                f"{self.count} subjects, {workers} at once, about {each:.1f} GB of memory each at most:",
                *(f"{name:48} {_minutes(time / workers)}" for name, time in self.seconds.items()),
                f"{'in all, about':48} {total}",
            ]
        )


def _template_grid(largest: Grid, how: How) -> Grid:
    """About the grid of the template, if its largest subject is so large."""
    if how.like:
        return read_grid(how.like)
    if not how.voxel_mm:
        return largest
    shape = tuple(int(np.ceil(length / how.voxel_mm)) for length in largest.extent)
    steps = [*(how.voxel_mm / largest.spacing), 1.0]
    return replace(largest, shape=shape, affine=largest.affine @ np.diag(steps))


def _minutes(value: float) -> str:
    return f"{value / 60:.0f} min" if value >= 90 else f"{value:.0f} s"
