# SPDX-License-Identifier: Apache-2.0
"""What the child process can do: functions of a `child.Control` and the job's arguments, by name in TASKS."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from ..support import memory
from ..support.errors import Cancelled


def register(control: Any, arguments: dict[str, Any]) -> Any:
    """`registration.register.register` with the arguments of its call; returns its Result."""
    from ..registration.register import register as run

    return run(**arguments, progress=control.progress, cancel=control.cancelled)


def devices(control: Any, arguments: dict[str, Any]) -> dict[str, Any]:
    """What torch can compute on.

    Returns:
        {"torch": version or None if it cannot be imported, "reason": why not or "",
         "devices": [{"name": "cpu" | "cuda" | "cuda:1" | "mps", "title": str, "free": bytes}, ...]}
        with the CPU first; free memory is None where it is unknown.
    """
    found = [{"name": "cpu", "title": f"CPU ({os.cpu_count()} threads)", "free": memory.free_bytes()}]
    try:
        import torch
    except Exception as error:  # a half-installed torch fails in many ways
        return {"torch": None, "reason": f"{type(error).__name__}: {error}", "devices": found}
    for index in range(torch.cuda.device_count()):
        name = f"cuda:{index}" if index else "cuda"
        found.append(
            {"name": name, "title": torch.cuda.get_device_name(index), "free": torch.cuda.mem_get_info(index)[0]}
        )
    if torch.backends.mps.is_available():
        found.append({"name": "mps", "title": "Apple GPU", "free": memory.free_bytes()})
    return {"torch": torch.__version__, "reason": "", "devices": found}


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
    """Writes a result folder (results.folder.save_result, the report among it); returns the report's path."""
    from ..results.folder import save_result

    control.progress({"phase": "save", "progress": 0.5, "message": "Writing the files and the report"})
    folder = Path(arguments["folder"])
    save_result(
        arguments["result"],
        folder,
        arguments["fixed"],
        arguments["moving"],
        force=arguments.get("force", False),
    )
    return str(folder / "report.html")


def save_again(control: Any, arguments: dict[str, Any]) -> str:
    """As `save`, of a result of which only its velocity and history are left (registration.register.made_again)."""
    from ..methods.registry import Estimated
    from ..problem.parameters import Parameters
    from ..registration.register import made_again

    control.progress({"phase": "finish", "progress": 0.05, "message": "Computing the result again"})
    history, sides = arguments["history"], (arguments["fixed"], arguments["moving"])
    found = Estimated(
        arguments["velocity"], history["history"], history["cancelled"], tuple(history.get("unusual") or ())
    )
    result = made_again(*sides, Parameters.from_dict(arguments["parameters"]), found, arguments["grids"], history)
    return save(control, {**arguments, "result": result})


def phantom(control: Any, arguments: dict[str, Any]) -> dict[str, Any]:
    """A made pair (phantom.pairs.make_pair) with labels and landmarks, as plain values; `arguments` are make_pair's."""
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


TASKS: dict[str, Callable[[Any, dict[str, Any]], Any]] = {
    "devices": devices,
    "geodesic": geodesic,
    "phantom": phantom,
    "register": register,
    "save": save,
    "save_again": save_again,
}
