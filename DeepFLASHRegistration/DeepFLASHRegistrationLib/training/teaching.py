# SPDX-License-Identifier: Apache-2.0
"""Velocities found by FLASH for many pairs, one file each, to learn from. Can be interrupted and resumed at any time.

A file is what `deepflash register` writes as velocity.safetensors. The folder's manifest keeps what all of them were
computed with, so that none of another kind comes among them.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import multiprocessing
import multiprocessing.connection
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from ..imaging.files import atomic
from ..methods.registry import Plan
from ..problem.parameters import Parameters
from ..support.errors import InputError
from .dataset import Dataset, SubjectFiles, draw_pairs
from .mean_image import mean_image
from .posed import PLACE, PosedRecipe, posed, read_posed, write_posed

MANIFEST = "teach.json"
_FORMAT = 1


@dataclass(frozen=True)
class Taught:
    """What became of a pair: its file, or why there is none; ``seconds`` 0 if it was there before."""

    fixed: str
    moving: str
    file: Path
    problem: str = ""
    seconds: float = 0.0
    similarity: tuple[float, float] = (0.0, 0.0)


@dataclass(frozen=True)
class _Job:
    fixed: SubjectFiles
    moving: SubjectFiles
    file: Path
    plan: Plan
    device: str


def label_file(folder: Path, fixed: SubjectFiles, moving: SubjectFiles) -> Path:
    """Where the velocity of a pair is kept."""
    return folder / f"{fixed.name}__{moving.name}.safetensors"


def teach(
    dataset: Dataset,
    out: Path,
    parameters: Parameters | PosedRecipe,
    count: int,
    *,
    seed: int = 0,
    processes: int = 1,
    device: str = "cpu",
    tell: Callable[[Taught, int, int], None] | None = None,
) -> list[Taught]:
    """Registers pairs by FLASH and keeps their velocities.

    Args:
        dataset: images to draw pairs from.
        out: folder of the velocities; what is whole in it stays and is not computed again.
        parameters: of all registrations; or the recipe of a model that works in a pose: then the mean image of the data
            is made first and kept in the folder, and FLASH works on the domain that follows from it.
        count: pairs.
        seed: decides which pairs.
        processes: at a time, each on one thread.
        device: "cpu", or a GPU (then one process is enough).
        tell: called with each pair that is done, how many are, and of how many.

    Returns:
        All pairs, those without a file with the reason: a registration whose verdict is "failed" teaches nothing.

    Raises:
        InputError: the folder holds velocities found with other parameters or of other images, or may not be written.
        OSError: the disk is full; what is complete stays.
        RuntimeError: a process ended; what is complete stays.
    """
    out = Path(out)
    pairs = draw_pairs(dataset, count, seed)
    alone = isinstance(parameters, Parameters)
    images = {subject.name: _hash(subject) for subject in dataset.subjects}
    keep_manifest(out, str(dataset.path), images, parameters if alone else parameters.parameters)
    plan = Plan(parameters) if alone else _posed_plan(out, dataset, parameters)
    jobs, done = [], []
    for fixed, moving in pairs:
        job = _Job(fixed, moving, label_file(out, fixed, moving), plan, device)
        if _whole(job.file):
            done.append(Taught(fixed.name, moving.name, job.file))
            if tell is not None:
                tell(done[-1], len(done), len(pairs))
        else:
            jobs.append(job)
    with contextlib.closing(_spread(jobs, min(processes, len(jobs)))) as results:
        for taught in results:
            done.append(taught)
            if tell is not None:
                tell(taught, len(done), len(pairs))
    return done


def _posed_plan(out: Path, dataset: Dataset, recipe: PosedRecipe) -> Plan:
    """FLASH in the pose of the data's mean image, which is made the first time."""
    if not (out / PLACE).exists():
        images = [files.read().image for files in dataset.subjects]
        spacing = recipe.parameters.spacing_mm or float(np.median([image.grid.spacing.min() for image in images]))
        write_posed(out, posed(mean_image(images), recipe.parameters, spacing))
    return Plan(recipe.parameters, place=read_posed(out).place, unit_mm=recipe.unit_mm)


def _whole(file: Path) -> bool:
    from ..results.velocity import load_result

    try:
        load_result(file)
    except InputError:
        return False
    return True


# ---------------------------------------------------------------------------------------------------- the manifest


def read_manifest(folder: Path) -> dict[str, Any]:
    """What the velocities in a folder were computed with: parameters (Parameters), images {name: SHA-256}.

    Raises:
        InputError: there is no manifest, or it is damaged.
    """
    path = Path(folder) / MANIFEST
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        if values["format"] != _FORMAT:
            raise ValueError("another version wrote it")
        if not all(isinstance(x, str) for x in (*values["images"], *values["images"].values())):
            raise TypeError("its images are none")
        return {"parameters": Parameters.from_dict(values["parameters"]), "images": values["images"]}
    except FileNotFoundError as error:
        raise InputError(f'{path}: is missing. Pass the folder that "deepflash teach" wrote.') from error
    except (OSError, LookupError, TypeError, AttributeError, ValueError, RecursionError) as error:
        raise InputError(f"{path}: cannot be used ({error}). Teach into another folder.") from error


def keep_manifest(out: Path, data: str, images: dict[str, str], parameters: Parameters) -> None:
    """Makes the folder with its manifest, or checks that this is the same work and adds its images.

    Args:
        data: what messages call where the images are from.
        images: SHA-256 by name.
    """
    if (out / MANIFEST).exists():
        before = read_manifest(out)
        if before["parameters"] != parameters:
            old, new = before["parameters"].to_dict(), parameters.to_dict()
            changes = ", ".join(f"{key} {old[key]} -> {new[key]}" for key in old if old[key] != new[key])
            raise InputError(
                f"{out}: its velocities were found with other parameters ({changes}). Use the same ones to go on, or "
                "another folder."
            )
        for name, value in images.items():
            if before["images"].get(name, value) != value:
                raise InputError(
                    f"{out}: its velocities belong to another image {name!r} than {data} has now. Use another folder."
                )
        images = before["images"] | images
    elif out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise InputError(f"{out}: exists and holds no velocities to go on with. Choose another folder.")
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{out}: cannot be made ({error.strerror}). Choose another folder.") from error
    values = {"format": _FORMAT, "data": data, "parameters": parameters.to_dict(), "images": images}
    with atomic(out / MANIFEST) as temporary:
        temporary.write_text(json.dumps(values, indent=1) + "\n", encoding="utf-8")


def _hash(subject: SubjectFiles) -> str:
    """SHA-256 of the files that decide a velocity; of a DICOM folder that of its files' names and sizes."""
    digest = hashlib.sha256()
    for file in (subject.image, subject.mask):
        if file is not None and file.is_dir():
            digest.update(repr(sorted((p.name, p.stat().st_size) for p in file.iterdir())).encode())
        elif file is not None:
            with open(file, "rb") as opened:
                while block := opened.read(1 << 20):
                    digest.update(block)
    return digest.hexdigest()


# --------------------------------------------------------------------------------------------------- the processes


def _taught(job: _Job) -> Taught:
    """Registers a pair and writes its velocity."""
    from ..registration.register import register_by
    from ..results.velocity import write_velocity

    started = time.perf_counter()
    names = (job.fixed.name, job.moving.name, job.file)
    try:
        # A velocity depends on images and masks alone, and so shall its verdict.
        fixed, moving = (replace(files.read(), labels=()) for files in (job.fixed, job.moving))
        result = register_by(job.plan, fixed, moving, job.device, threads=1)
        if result.verdict.level == "failed":
            return Taught(*names, " ".join(map(str, result.verdict.reasons)), time.perf_counter() - started)
        with atomic(job.file) as temporary:
            write_velocity(temporary, result)
    except InputError as error:
        return Taught(*names, str(error), time.perf_counter() - started)
    before, after = (float(result.metrics[f"similarity_{when}"]) for when in ("before", "after"))
    return Taught(*names, "", time.perf_counter() - started, (before, after))


def _taught_apart(job: _Job) -> Taught:
    """The same in a process of its own, which ends when it is told to, with nothing half-written."""
    try:
        return _taught(job)
    except SystemExit:
        os._exit(1)  # the pool would catch it and go on with the next pair


def _start() -> None:
    """Makes a process one of many: one thread, no interrupts of its own, ended with its parent."""
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS"):
        os.environ[name] = "1"
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    parent = multiprocessing.parent_process()

    def watch() -> None:
        multiprocessing.connection.wait([parent.sentinel])
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _spread(jobs: Sequence[_Job], processes: int) -> Iterator[Taught]:
    """Results as they come; closing it ends the work."""
    if processes < 2:
        yield from map(_taught, jobs)
        return
    others = set(multiprocessing.active_children())
    pool = ProcessPoolExecutor(processes, multiprocessing.get_context("spawn"), _start)
    try:
        for future in as_completed([pool.submit(_taught_apart, job) for job in jobs]):
            yield future.result()
        pool.shutdown()
    except BrokenProcessPool as error:
        raise RuntimeError(
            "A process ended unexpectedly, perhaps for want of memory. What is complete is kept: run the same command "
            "again, with fewer --processes."
        ) from error
    finally:
        own = set(multiprocessing.active_children()) - others
        for process in own:
            process.terminate()
        pool.shutdown(wait=False, cancel_futures=True)
        for process in own:
            process.join(10)
            process.kill()
