# SPDX-License-Identifier: Apache-2.0
"""The verdict, kept with the metrics table as codes and figures: so it is there after a scene was loaded, too, and in
the language of whoever loads it."""

from __future__ import annotations

import json
from collections.abc import Mapping

import slicer

from ..registration.verdict import Verdict
from ..results.plain import plain

VERDICT_ATTRIBUTE = "DeepFLASH.Verdict"


def keepVerdict(metricsTable: slicer.vtkMRMLTableNode, verdict: Verdict, names: Mapping[int, str]) -> None:
    """Keeps a verdict with the table; `names` are those of the labels that it may speak of."""
    metricsTable.SetAttribute(VERDICT_ATTRIBUTE, json.dumps(plain(verdict.named(names).to_dict())))


def verdictOf(metricsTable: slicer.vtkMRMLTableNode | None) -> Verdict | None:
    """The verdict of a table that writeResult made; None if it holds none."""
    text = metricsTable.GetAttribute(VERDICT_ATTRIBUTE) if metricsTable is not None else None
    return Verdict.from_dict(json.loads(text)) if text else None
