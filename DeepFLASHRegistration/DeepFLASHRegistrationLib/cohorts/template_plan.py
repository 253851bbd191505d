# SPDX-License-Identifier: Apache-2.0
"""What making a template takes, told before it begins."""

from __future__ import annotations

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
        found = sizes(grid, grid, whole(grid), stages(parameters))
        each = sum(value for name, value in seconds(found, stages(parameters)).items() if name != "start")
        self.count = count
        self.memory = memory.needed_bytes(found, "cpu")[0]
        self.seconds = {
            "align rigidly, and average": count * _ALIGNING,
            "align affinely, and average": count * _ALIGNING,
            **{f"round {number}: register, and average": count * each for number in range(1, how.rounds + 1)},
            "take the mean velocity from each, and average": count * each / 2,
        }

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


def _minutes(value: float) -> str:
    return f"{value / 60:.0f} min" if value >= 90 else f"{value:.0f} s"
