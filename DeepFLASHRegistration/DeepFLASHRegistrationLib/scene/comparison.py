# SPDX-License-Identifier: Apache-2.0
"""The same pair of nodes by several methods, one after the other: every result in nodes of its own, and a table."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, replace
from typing import Any

import slicer

from ..problem.parameters import METHODS, Parameters
from .inputs import Inputs
from .outputs import NEW, OutputNodes
from .runs import RegistrationRun
from .tables import writeTable

# Names the method, in the nodes of a result that was made to be compared.
METHOD_ATTRIBUTE = "DeepFLASH.method"
WAITING, NO_RESULT = "waiting", "no result"


@dataclass
class Compared:
    """A method, and what has become of it.

    Attributes:
        name: what it is called in the table and in the names of its nodes.
        state: "waiting", "running", or as of a run that has ended.
        reason: why there is no result.
        nodes: of its result; None without one.
    """

    name: str
    parameters: Parameters
    state: str = WAITING
    reason: str = ""
    nodes: OutputNodes | None = None
    row: Mapping[str, Any] | None = None


class Comparison:
    """Methods that are run one after the other on one pair, all but transforms from the alignment of the first.

    Attributes:
        methods: in their order.
        table: the node with what has been reached so far; None before the first result.
    """

    def __init__(
        self,
        inputs: Inputs,
        methods: Mapping[str, Parameters],
        newRun: Callable[[Inputs, Parameters, OutputNodes], RegistrationRun],
    ) -> None:
        """``newRun`` makes a registration of nodes; see RegistrationRun."""
        self.inputs, self._newRun = inputs, newRun
        self.methods = [Compared(name, parameters) for name, parameters in methods.items()]
        self.table: slicer.vtkMRMLTableNode | None = None
        self._affine: Any = None

    def next(self) -> tuple[Compared, RegistrationRun] | None:
        """The next method and its run, to be started; None after the last."""
        for method in self.methods:
            if method.state == WAITING:
                method.state = "running"
                inputs = self.inputs
                if not METHODS[method.parameters.method].needs_transform and self._affine is not None:
                    inputs = replace(inputs, initialTransform=None)
                run = self._newRun(inputs, method.parameters, OutputNodes())
                if inputs is not self.inputs:
                    run.affine = self._affine
                return method, run
        return None

    def ended(self, method: Compared, run: RegistrationRun) -> None:
        """Takes in what has become of a run: its nodes get the method's name, and the table a row."""
        method.state = run.state
        if run.state == "done":
            method.nodes, method.row = run.nodes, _row(method.name, run)
            if self._affine is None and not METHODS[method.parameters.method].needs_transform:
                self._affine = run.result.affine
            _name(run.nodes, method.name)
        else:
            method.reason = str(run.error)
            method.row = {"Method": method.name, "Verdict": NO_RESULT}
        self._write()

    def failed(self, method: Compared, error: BaseException) -> None:
        """A method that could not even be started."""
        method.state, method.reason = "failed", str(error)
        method.row = {"Method": method.name, "Verdict": NO_RESULT}
        self._write()

    def stop(self) -> None:
        """Runs no more methods; what is finished stays."""
        for method in self.methods:
            if method.state == WAITING:
                method.state = "cancelled"

    def _write(self) -> None:
        scene, fixed, moving = self.inputs.fixedVolume.GetScene(), self.inputs.fixedVolume, self.inputs.movingVolume
        if scene is None:
            return
        if self.table is None or self.table.GetScene() is None:
            name = scene.GenerateUniqueName(f"{moving.GetName()} onto {fixed.GetName()} by methods")
            self.table = scene.AddNewNodeByClass("vtkMRMLTableNode", name)
        rows = [method.row for method in self.methods if method.row is not None]
        titles = [title for title in _TITLES if any(title in row for row in rows)]
        writeTable(self.table, [{title: row.get(title, math.nan) for title in titles} for row in rows])


_TITLES = ("Method", "Verdict", "Dice before", "Dice after", "Correlation", "Folds", "Inverse error (mm)", "Seconds")


def _row(name: str, run: RegistrationRun) -> dict[str, Any]:
    found = run.metrics
    values = {
        "Dice before": found.get("mean_dice_before"),
        "Dice after": found.get("mean_dice_after"),
        "Correlation": found.get("similarity_after"),
        "Folds": (found.get("folds_strict") or {}).get("count"),
        "Inverse error (mm)": (found.get("inverse_error_mm") or {}).get("p95"),
        "Seconds": run.result.timings["total"],
    }
    measured = {title: float(value) for title, value in values.items() if value is not None}
    return {"Method": name, "Verdict": run.verdict.level, **measured}


def _name(nodes: OutputNodes, method: str) -> None:
    for each in fields(nodes):
        node = getattr(nodes, each.name)
        if node is not None:
            node.SetName(f"{node.GetName()} ({method})")
            node.SetAttribute(METHOD_ATTRIBUTE, method)


def withoutCompared(outputs: OutputNodes) -> OutputNodes:
    """Outputs for another registration: results that were made to be compared stay as they are, new nodes take their
    place."""
    compared = [
        each.name
        for each in fields(outputs)
        if hasattr(node := getattr(outputs, each.name), "GetAttribute") and node.GetAttribute(METHOD_ATTRIBUTE)
    ]
    return replace(outputs, **dict.fromkeys(compared, NEW))
