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


def plan_text(dataset: Dataset, settings: Settings, how: How) -> str:
    """The steps, with about how long they take and what memory; by the largest subject as the template."""
    parameters = Parameters.from_dict({**settings.parameters.to_dict(), "initial_alignment": "none"})
    grid = max((read_grid(each.image) for each in dataset.subjects), key=lambda each: each.size)
    found = sizes(grid, grid, whole(grid), stages(parameters))
    each = sum(value for name, value in seconds(found, stages(parameters)).items() if name != "start")
    need = memory.needed_bytes(found, "cpu")[0]
    workers = settings.workers or (settings.threads or cores())
    free = memory.free_bytes()
    if settings.workers is None and free is not None and need:
        workers = max(1, min(workers, int(memory.USABLE_FRACTION * free / need)))
    count = len(dataset)
    rows = [("align rigidly, and average", count * _ALIGNING), ("align affinely, and average", count * _ALIGNING)]
    rows += [(f"round {number}: register, and average", count * each) for number in range(1, how.rounds + 1)]
    rows.append(("take the mean velocity from each, and average", count * each / 2))
    lines = [f"{name:48} {_minutes(time / workers)}" for name, time in rows]
    total = _minutes(sum(time for _, time in rows) / workers)
    return "\n".join(
        [
            f"{count} subjects, {workers} at once, about {need / 2**30:.1f} GB of memory each at most:",
            *lines,
            f"{'in all, about':48} {total}",
        ]
    )


def _minutes(value: float) -> str:
    return f"{value / 60:.0f} min" if value >= 90 else f"{value:.0f} s"
