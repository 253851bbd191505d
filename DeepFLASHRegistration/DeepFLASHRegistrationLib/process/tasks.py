# SPDX-License-Identifier: Apache-2.0
"""What the child process can do: functions of a `child.Control` and the job's arguments, by name in TASKS."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from ..support import memory
from ..support.errors import Cancelled
from .ahead import Ahead

# Pairs of files, read while the one before is registered.
_AHEAD: Ahead[Any, Any] = Ahead(lambda files: files.read())


def register(control: Any, arguments: dict[str, Any]) -> Any:
    """`registration.register.register` with the arguments of its call; returns its Result.

    Args:
        arguments: "initial_map" as a problem.known_transform.SampledTransform; "peers", the Python that has other
            programs, where the method is one of theirs.
    """
    from ..methods.peers import PEERS
    from ..registration.register import register as run

    peers, known = (arguments.pop(name, None) for name in ("peers", "initial_map"))
    if peers is not None:
        os.environ[PEERS] = peers
    if known is not None:
        arguments["initial_map"] = known.known()
    return run(**arguments, progress=control.progress, cancel=control.cancelled)


def made(control: Any, arguments: dict[str, Any]) -> Any:
    """`registration.register.made_of` with the arguments of its call; returns its Result."""
    from ..registration.register import made_of

    return made_of(**arguments, progress=control.progress, cancel=control.cancelled)


def register_files(control: Any, arguments: dict[str, Any]) -> dict[str, Any]:
    """A pair of files registered, and its result written to a folder, as `deepflash register` does.

    Args:
        arguments: "pair" (a dict of problem.reading.PairFiles), "parameters" (of Parameters), "outputs" (as for
            results.folder.save_result), "device", "threads", "folder"; "disk", a folder on the disk that is written to,
            for messages; "next", the arguments of the next pair, which is read meanwhile, or None; and "start", the
            saved results to start from, as `results.starts.started` takes them, if there are any.

    Returns:
        The figures of a summary: verdict, dice (before and after, of those with labels on both sides), folds,
        folds_strict, seconds, notes, memory_bytes, the most that this process or one that it started has taken, and
        device_memory_bytes, the most that this process has taken of GPUs (0 without one).

    Raises:
        InputError: also if the disk does not suffice.
        MemoryError: the memory that is free does not suffice.
    """
    return _of_files(control, arguments)[0]


def register_item(control: Any, arguments: dict[str, Any]) -> dict[str, Any]:
    """As `register_files`, of an item of a series, with figures of its motion besides.

    Returns:
        similarity (before and after), of displacement_mm over the fixed object mean and max, and map_difference_mm,
        how far steps one after the other lie from the geodesic that was fitted to them, where it was.
    """
    from ..imaging.intensities import foreground

    figures, result, fixed = _of_files(control, arguments)
    found = [result.metrics.get(f"similarity_{when}") for when in ("before", "after")]
    moved = np.linalg.norm(np.asarray(result.displacement)[foreground(fixed)], axis=-1)
    return {
        **figures,
        "similarity": found,
        "displacement_mm": {"mean": float(moved.mean()), "max": float(moved.max())},
        "map_difference_mm": result.metrics.get("map_difference_mm"),
    }


def _of_files(control: Any, arguments: dict[str, Any]) -> tuple[dict[str, Any], Any, Any]:
    """What `register_files` returns, the Result, and the fixed image."""
    from ..methods.choosing import settled
    from ..problem.parameters import Parameters
    from ..problem.reading import PairFiles
    from ..results.before import TooLittleMemory, check_needs
    from ..results.folder import save_result
    from ..results.known_maps import with_transforms
    from ..results.outputs import chosen_files
    from ..results.plain import plain
    from ..results.starts import started
    from ..support.torch_device import largest_device_bytes

    free = memory.free_bytes()
    if free is not None:
        free += memory.resident_bytes()  # what earlier jobs left is used again
    files, following = PairFiles(**arguments["pair"]), arguments["next"]
    fixed, moving, segmentation = _AHEAD.take(files)
    if following is not None:
        _AHEAD.begin(PairFiles(**following["pair"]))
    parameters, why = settled(Parameters.from_dict(arguments["parameters"]), fixed, moving)
    fixed, outputs = fixed.with_image(fixed.image.noted(*why)), arguments["outputs"]
    transforms = [] if files.transform is None else [files.transform]
    start = started(arguments.get("start"), parameters)
    parameters, fixed = start.parameters, fixed.with_image(fixed.image.noted(*start.notes))
    if not start.given:
        fixed, given = with_transforms(transforms, fixed, moving, parameters)
    else:
        given = start.given
    names = chosen_files(
        outputs, files.moving_labels is not None, files.segmented, parameters.dense, parameters.samples > 0
    )
    device, disk = arguments["device"], arguments["disk"]
    try:
        need = check_needs(disk, names, (fixed, moving), parameters, given.get("initial_affine"), device, free)
    except TooLittleMemory as error:
        raise MemoryError(str(error)) from error
    if need.notes:
        control.progress({"phase": "prepare", "progress": 0.0, "message": need.message, "notes": list(need.notes)})
    result = start.run(
        fixed,
        moving,
        parameters,
        **given,
        device=device,
        threads=arguments["threads"],
        progress=control.progress,
    )
    control.progress({"phase": "finish", "progress": 0.97, "message": "Writing the files"})
    save_result(result, arguments["folder"], fixed, moving, outputs=outputs, segmentation=segmentation)
    figures = result.metrics
    dice = [figures.get(f"mean_dice_{when}") for when in ("before", "after")]
    told = {
        "verdict": result.verdict.to_dict(),
        "dice": None if dice[1] is None else dice,
        **{name: (figures.get(name) or {}).get("count") for name in ("folds", "folds_strict")},
        "seconds": result.timings["total"],
        "memory_bytes": memory.largest_bytes(),
        "device_memory_bytes": largest_device_bytes(),
        "notes": list(dict.fromkeys([*need.notes, *result.notes])),
    }
    return plain(told), result, fixed.image


def align_files(control: Any, arguments: dict[str, Any]) -> dict[str, Any]:
    """A pair of files aligned, and nothing more.

    Args:
        arguments: "pair" (a dict of problem.reading.PairFiles), "kind" ("rigid", "affine"), "parameters" (a dict of
            Parameters, whose scaling of intensities counts), "device", "threads", "folder", which is made, and "next",
            the arguments of the next pair, or None.

    Returns:
        matrix, fixed -> moving in LPS mm, and the similarity that was reached.
    """
    from ..alignment.affine import align
    from ..problem.parameters import Parameters
    from ..problem.problem import comparable
    from ..problem.reading import PairFiles

    following = arguments["next"]
    read = _AHEAD.take(PairFiles(**arguments["pair"]))
    if following is not None:
        _AHEAD.begin(PairFiles(**following["pair"]))
    parameters = Parameters.from_dict(arguments["parameters"])
    fixed, moving = comparable(read.fixed.checked("fixed"), read.moving.checked("moving"), parameters)
    found = align(
        fixed.image.upright(),
        moving.image.upright(),
        arguments["kind"],
        masks=(fixed.mask, moving.mask),
        progress=lambda part: control.progress({"phase": "affine", "progress": part, "message": "Aligning"}),
        cancelled=control.cancelled,
        threads=arguments["threads"],
        device=arguments["device"],
    )
    if control.cancelled():
        raise Cancelled("Cancelled before the alignment was found.")
    Path(arguments["folder"]).mkdir(parents=True)
    return {"matrix": found.matrix.tolist(), "similarity": found.similarity, "notes": list(found.notes)}


def write_maps(control: Any, arguments: dict[str, Any]) -> dict[str, Any]:
    """The map of a saved result as files, as `deepflash apply` without an input writes it.

    Args:
        arguments: "velocity", the file; "files", by their names whether images are carried to the "fixed" or the
            "moving" one; "device", "threads"; "folder", which is made and filled.

    Returns:
        bytes, of all files.

    Raises:
        InputError: the velocity is not there or damaged, or a file needs what is not installed.
        OSError: the disk is full.
    """
    from ..results.carrying import Carrying
    from ..results.map_files import write_map

    folder, count = Path(arguments["folder"]), 0
    folder.mkdir(parents=True)
    for name, to in arguments["files"].items():
        if control.cancelled():
            raise Cancelled("Cancelled before all maps were written.")
        machine = {"device": arguments["device"], "threads": arguments["threads"]}
        write_map(arguments["velocity"], folder / name, Carrying(to), **machine)
        count += (folder / name).stat().st_size
    return {"bytes": count}


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


def fits(control: Any, arguments: dict[str, Any]) -> dict[str, list[list[Any]]]:
    """Which models fit two images (methods.choosing), the preferred ones first.

    Args:
        arguments: "sides", of the fixed and the moving image the thinned-out image and the longest edge of its own
            voxels in mm; "accepted"; "method", of which they are models.

    Returns:
        By name of the model, finding and figures of what speaks against it.
    """
    from ..methods.choosing import Look, candidates

    sides = [Look.at(image, None, voxel_mm) for image, voxel_mm in arguments["sides"]]
    found = candidates(sides, arguments["accepted"], all_reasons=True, method=arguments["method"])
    return {each.found.name: [[misfit.finding, misfit.figures] for misfit in each.misfits] for each in found}


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
        arguments["velocity"],
        history["history"],
        history["cancelled"],
        *(tuple(history.get(name) or ()) for name in ("unusual", "levels_ended")),
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


def properties(control: Any, arguments: dict[str, Any]) -> dict[str, Any]:
    """What the results of a pair, at rest, exchanged and moved, say of their method; written to a folder.

    Args:
        arguments: those of `results.properties.measure`; "folder", which is made; and "next", which is not read ahead.

    Returns:
        What `measure` returns.
    """
    from ..results.properties import NAME, measure

    control.progress({"phase": "finish", "progress": 0.1, "message": "Comparing maps"})
    given = ("rest", "exchanged", "moved", "fixed", "mask")
    found = measure(**{name: arguments[name] for name in given})
    folder = Path(arguments["folder"])
    folder.mkdir(parents=True)
    (folder / NAME).write_text(json.dumps(found, indent=1, allow_nan=False) + "\n", encoding="utf-8")
    return found


TASKS: dict[str, Callable[[Any, dict[str, Any]], Any]] = {
    "align_files": align_files,
    "devices": devices,
    "fits": fits,
    "geodesic": geodesic,
    "made": made,
    "phantom": phantom,
    "properties": properties,
    "register": register,
    "register_files": register_files,
    "register_item": register_item,
    "save": save,
    "save_again": save_again,
    "write_maps": write_maps,
}
