# SPDX-License-Identifier: Apache-2.0
"""Slicer's markups (.mrk.json)."""

from __future__ import annotations

import copy
import json

import numpy as np

from ...support.errors import InputError
from ..landmarks import told_trust
from .point_file import PointFile, known_space

_SCHEMA = (
    "https://raw.githubusercontent.com/slicer/slicer/master/Modules/Loadable/Markups/Resources/Schema/"
    "markups-schema-v1.0.3.json#"
)


def read(text: str) -> PointFile:
    """Parses a file; points whose status is not "defined" have no position."""
    content = json.loads(text)
    points, labels, spaces, trust = [], [], [], []
    for markup in content["markups"]:
        space = markup.get("coordinateSystem", "LPS")
        if not isinstance(space, str):
            raise InputError(f'its coordinateSystem is {json.dumps(space)[:40]}, no text. Write "RAS" or "LPS" there.')
        spaces.append(known_space(space.upper()))
        if markup.get("coordinateUnits", "mm") != "mm":
            raise InputError(f"its unit is {str(markup['coordinateUnits'])[:40]}. Save it in mm.")
        for point in markup.get("controlPoints", []):
            points.append(_position(point))
            labels.append(str(point.get("label", "")))
            trust.append(told_trust(str(point.get("description", ""))))
    if len(set(spaces)) > 1:
        raise InputError("its markups are in different coordinate systems. Save them in one.")
    return PointFile(np.array(points).reshape(-1, 3), labels, spaces[0] if spaces else "LPS", content, (), trust)


def _position(point: dict) -> np.ndarray:
    if point.get("positionStatus", "defined") != "defined":
        return np.full(3, np.nan)
    position = np.array(point["position"], dtype=np.float64)
    if position.shape != (3,):
        raise InputError(f"a position has the shape {position.shape}, not 3 numbers. Save it again.")
    return position


def write(file: PointFile, points: np.ndarray, labels: list[str] | None) -> str:
    """The text with other points (n, 3), as stored; those of NaN are left as they are."""
    content = copy.deepcopy(file.content)
    controls = [point for markup in content["markups"] for point in markup.get("controlPoints", [])]
    for i, point in enumerate(controls):
        if not np.isnan(points[i]).all():
            point["position"] = [float(v) for v in points[i]]
        if labels is not None:
            point["label"] = labels[i]
    return json.dumps(content, indent=4) + "\n"


def empty(points: np.ndarray, labels: list[str]) -> PointFile:
    """A new file for points (n, 3); those of NaN are not placed."""
    controls = [
        {"id": str(i + 1), "label": label, "positionStatus": "undefined"}
        if np.isnan(points[i]).all()
        else {"id": str(i + 1), "label": label, "position": [], "positionStatus": "defined"}
        for i, label in enumerate(labels)
    ]
    markup = {"type": "Fiducial", "coordinateSystem": "LPS", "coordinateUnits": "mm", "controlPoints": controls}
    return PointFile(points, labels, "LPS", {"@schema": _SCHEMA, "markups": [markup]})
