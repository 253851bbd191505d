# SPDX-License-Identifier: Apache-2.0
"""Dice of structures, each of one label or several, from the labels that registrations carried over."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from ..imaging.io import read_labels
from ..imaging.resampling import nearest
from ..imaging.segmentation import is_segmentation
from ..imaging.volume import Volume
from ..problem.reading import PairFiles
from ..registration.metrics import mean_dice
from .comparison import Comparison, Measured

LABELS = "labels.nii.gz"


@dataclass(frozen=True)
class Structures:
    """What counts among the labels.

    Attributes:
        groups: the labels of each structure, by its name; if None each label is one, by its number.
        ignored: labels that do not count in the mean.
    """

    groups: Mapping[str, Collection[int]] | None = None
    ignored: Collection[int] = ()

    def of(self, measured: Measured, pair: PairFiles, out: Path) -> Measured:
        """What was measured, with the mean over the labels that count, and Dice of structures that both images have.

        Args:
            measured: of the pair, in `out`.

        Raises:
            InputError: labels cannot be read.
        """
        table = measured.metrics.get("dice")
        if measured.state != "done" or not table:
            return measured
        table = {label: row for label, row in table.items() if int(label) not in self.ignored}
        before, after = mean_dice(table)
        means = {"mean_dice_before": before, "mean_dice_after": after}
        metrics: dict[str, Any] = {**measured.metrics, "dice": table, **means}
        if self.groups is None:
            found = {label: row["after"] for label, row in table.items()}
        else:
            seen = {int(label) for label, row in measured.metrics["dice"].items() if row["volume_moving_mm3"]}
            found = self._joined(_fixed(pair), read_labels(out / measured.folder / LABELS), seen)
        found = {name: float(value) for name, value in found.items() if value is not None}
        return replace(measured, metrics=metrics, structures=found)

    def _joined(self, fixed: Volume, carried: Volume, seen: set[int]) -> dict[str, float | None]:
        """Dice of each structure as a whole: what one of its labels has where the other image has another of them is
        no error. None where the fixed image, or the moving one by the labels `seen` in it, lacks it."""
        one, rows = np.unique(nearest(fixed, carried.grid), return_inverse=True)
        two, columns = np.unique(carried.data, return_inverse=True)
        # Voxels by both labels.
        counts = np.bincount(rows.ravel() * len(two) + columns.ravel(), minlength=len(one) * len(two))
        counts = counts.reshape(len(one), len(two))
        found: dict[str, float | None] = {}
        for name, labels in (self.groups or {}).items():
            own, other = (np.isin(values, list(labels)) for values in (one, two))
            there = int(counts[own].sum())
            both = 2 * counts[own][:, other].sum() / max(1, there + counts[:, other].sum())
            found[name] = float(both) if there and not seen.isdisjoint(labels) else None
        return found


@lru_cache(maxsize=1)
def _fixed(pair: PairFiles) -> Volume:
    """The fixed labels; segments have the numbers by which both sides were compared."""
    named = is_segmentation(pair.fixed_labels) and pair.segmented
    return read_labels(pair.fixed_labels, {} if named else None)


def of_all(structures: Structures, comparison: Comparison) -> list[Measured]:
    """What a comparison has measured, by structures; InputError if labels cannot be read."""
    found = list(comparison.measured())
    files = {pair.name: pair.files for pair in comparison.pairs.rows}
    # One pair after the other, so that its own labels are read but once.
    order = sorted(range(len(found)), key=lambda i: found[i].pair)
    for i in order:
        found[i] = structures.of(found[i], files[found[i].pair], comparison.top)
    return found
