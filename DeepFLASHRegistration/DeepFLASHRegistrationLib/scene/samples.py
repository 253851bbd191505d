# SPDX-License-Identifier: Apache-2.0
"""A made pair of heads as nodes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import slicer

from .added import addSegmentation, addVolume
from .transaction import Transaction

_NAME = "DeepFLASH head"
_LPS_RAS = (-1.0, -1.0, 1.0)


def addSample(scene: slicer.vtkMRMLScene, pair: Mapping[str, Any]) -> list[slicer.vtkMRMLNode]:
    """A fixed and a moving volume, each with a segmentation and landmarks; all or nothing.

    Args:
        pair: the attributes of phantom.PhantomPair that are shown, by name.

    Returns:
        The nodes: fixed volume, moving volume, their segmentations, their markups.
    """
    with Transaction(scene) as transaction:
        volumes, segmentations, markups = [], [], []
        for side in ("fixed", "moving"):
            name = f"{_NAME} {side}"
            volumes.append(addVolume(transaction, pair[side], name))
            names = {int(label): each for label, each in pair["label_names"].items()}
            segmentations.append(addSegmentation(transaction, pair[f"{side}_labels"], names, volumes[-1]))
            markups.append(_markups(transaction, pair[f"{side}_points"], pair["point_names"], f"{name} landmarks"))
    return [*volumes, *segmentations, *markups]


def _markups(
    transaction: Transaction, points: np.ndarray, names: tuple[str, ...], name: str
) -> slicer.vtkMRMLMarkupsFiducialNode:
    node = transaction.create("vtkMRMLMarkupsFiducialNode", name)
    node.CreateDefaultDisplayNodes()
    for point, label in zip(np.asarray(points) * _LPS_RAS, names, strict=True):
        node.AddControlPoint(*point, label)
    node.GetDisplayNode().SetVisibility(False)
    return node
