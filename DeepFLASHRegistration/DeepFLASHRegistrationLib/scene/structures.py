# SPDX-License-Identifier: Apache-2.0
"""Structures that parameters call by the names of segments."""

from __future__ import annotations

from dataclasses import replace

from ..problem.parameters import Parameters
from ..support.errors import InputError
from .labels import Labels
from .translation import tr as _


def numbered(parameters: Parameters, fixed: Labels | None, moving: Labels | None) -> Parameters:
    """The parameters with the numbers that the labels of both sides give to names; case does not count.

    Raises:
        InputError: no segment has such a name.
    """
    there = _byName(fixed)
    both = _byName(moving)
    for name, labels in there.items():
        both.setdefault(name, set()).update(labels)
    changes = {}
    for setting, known in (("steering_labels", both), ("rigid_labels", there), ("volume_labels", there)):
        asked = getattr(parameters, setting)
        if any(isinstance(each, str) for each in asked):
            found = [_labelsOf(each, known) if isinstance(each, str) else [each] for each in asked]
            changes[setting] = tuple(dict.fromkeys(label for labels in found for label in labels))
    return replace(parameters, **changes) if changes else parameters


def _byName(labels: Labels | None) -> dict[str, set[int]]:
    """Labels by the names of what they cover: where segments overlap, by each of these."""
    if labels is None:
        return {}
    alone = {ids[0]: labels.names[label] for label, ids in labels.segments.items() if len(ids) == 1}
    found: dict[str, set[int]] = {}
    for label, name in labels.names.items():
        ids = labels.segments.get(label, ())
        for each in [alone[identifier] for identifier in ids] or [name]:
            found.setdefault(each, set()).add(label)
    return found


def _labelsOf(name: str, known: dict[str, set[int]]) -> list[int]:
    labels = {label for each, covered in known.items() if each.lower() == name.lower() for label in covered}
    if not labels:
        raise InputError(
            _("There is no segment {name} to steer or to be kept. There are: {names}.").format(
                name=name, names=", ".join(known) or _("none")
            )
        )
    return sorted(labels)
