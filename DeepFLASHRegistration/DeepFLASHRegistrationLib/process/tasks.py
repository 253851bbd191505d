# SPDX-License-Identifier: Apache-2.0
"""What the child process can do for the module besides registering: see process.child for how it is called."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from ..support.errors import Cancelled


def geodesic(control: Any, arguments: dict[str, Any]) -> list[np.ndarray]:
    """The maps on the way, from `velocity` (Result.velocity): one field (*grid.shape, d) LPS mm for each of `times`."""
    from ..problem.deformation import deformation_from

    deformation, grid = deformation_from(arguments["velocity"]), arguments["grid"]
    fields = []
    for index, time in enumerate(arguments["times"]):
        if control.cancelled():
            raise Cancelled("Cancelled before all of the geodesic was there.")
        fields.append(deformation.displacement(grid, "fixed_to_moving", time))
        control.progress(
            {
                "phase": "geodesic",
                "progress": (index + 1) / len(arguments["times"]),
                "message": f"Geodesic at t = {time:.2f}",
            }
        )
    return fields


def save(control: Any, arguments: dict[str, Any]) -> str:
    """Writes a result folder (results.save_result, the report among it); returns the report's path."""
    from ..results.folder import save_result

    control.progress({"phase": "save", "progress": 0.1, "message": "Writing the files and the report"})
    folder = Path(arguments["folder"])
    save_result(
        arguments["result"],
        folder,
        arguments["fixed"],
        arguments["moving"],
        force=arguments.get("force", False),
    )
    return str(folder / "report.html")


def phantom(control: Any, arguments: dict[str, Any]) -> dict[str, Any]:
    """A made pair (phantom.make_pair) with labels and landmarks, as plain values; `arguments` are make_pair's."""
    from ..phantom.pairs import make_pair

    control.progress({"phase": "phantom", "progress": 0.05, "message": "Making two heads"})
    pair = make_pair(**arguments)
    return {
        name: getattr(pair, name)
        for name in (
            "fixed",
            "moving",
            "fixed_labels",
            "moving_labels",
            "fixed_points",
            "moving_points",
            "point_names",
            "label_names",
        )
    }


TASKS: dict[str, Callable[[Any, dict[str, Any]], Any]] = {"geodesic": geodesic, "phantom": phantom, "save": save}
