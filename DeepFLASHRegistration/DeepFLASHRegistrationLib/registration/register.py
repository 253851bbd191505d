# SPDX-License-Identifier: Apache-2.0
"""register(): two subjects in, everything that follows from their geodesic out.

    subjects -> affine -> estimate of v0 -> geodesic -> maps -> warped image, Jacobian, labels -> metrics, verdict

Torch is imported by the function, not by the module.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from ..alignment.affine import AffineAlignment, align
from ..imaging.grid import Grid
from ..imaging.volume import Volume
from ..problem.known_transform import KnownTransform
from ..problem.parameters import Parameters
from ..problem.problem import Problem, comparable, energy_at_rest
from ..problem.steering import alignments, check_steering
from ..problem.subject import (
    Attached,
    Subject,
    check_channels,
    check_dimensions,
    corresponding,
    object_voxels,
    subjects,
    unlike_labels,
)
from ..support.errors import InputError
from ..support.memory import give_back_memory
from ..support.torch_device import (
    chosen_device,
    device_failure,
    is_out_of_memory,
    release,
    require_torch,
    torch_threads,
)
from .carried import carried, parts
from .maps import Maps, unfolded
from .progress import Progress
from .result import Result, provenance
from .verdict import unlike_training, verdict

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from ..methods.registry import Estimated, Plan

_LARGE = 8_000_000  # voxels, of which each array takes 32 MB


def register(
    fixed: Subject | Volume,
    moving: Subject | Volume,
    parameters: Parameters | None = None,
    *,
    initial_affine: np.ndarray | None = None,
    initial_velocity: Mapping[str, Any] | None = None,
    initial_map: KnownTransform | None = None,
    domain: Grid | None = None,
    device: str = "auto",
    threads: int | None = None,
    progress: Callable[[dict[str, Any]], None] | None = None,
    cancel: Callable[[], bool] | None = None,
    **attached: Unpack[Attached],
) -> Result:
    """Register a moving image to a fixed one.

    Args:
        fixed, moving: subjects, or images alone; of the same dimension, on any grids, in any units. Labels of the
            moving subject are carried over to the fixed grid, and compared with the fixed ones; what lies outside a
            mask does not count in the similarity; of landmarks the error is measured, and they steer where the
            parameters say so.
        parameters: settings; the preset "default" if None. Of a model "auto" the one that fits both images is used.
        initial_affine: (d+1, d+1) LPS mm, fixed -> moving; instead of the alignment in the parameters.
        initial_velocity: `Result.velocity` of an earlier run on the same fixed image, to start from.
        initial_map: what the methods that begin with "transform" take or start from (results.known.read_map); it
            comes with its affine, so that nothing is aligned.
        domain: the working grid, where velocities are to live in the space of others; else it is chosen.
        device: "auto" (a CUDA GPU if there is one), "cpu", "cuda", "cuda:1", "mps".
        threads: of the CPU; torch's own choice if None.
        progress: called with events, dicts with phase ("prepare", "affine", "level", "finish"), progress (0..1) and
            message; while optimizing also level, levels, iteration, energy, similarity, regularization and
            smallest_determinant; where something was noticed or had to be guessed, notes, a list of sentences.
        cancel: asked often; once true, the best so far becomes the result (`Result.cancelled`).
        attached: what belongs to a side that is given as an image alone: fixed_labels, moving_labels, fixed_mask,
            moving_mask (Volume), fixed_points, moving_points ((N, d) LPS mm, corresponding landmarks; (N, 3) also for a
            slice of 3-D space).

    Returns:
        Result.

    Raises:
        InputError: the images, labels, masks or points cannot be used; says what to do.
        Cancelled: cancelled before there was anything to return.
        RuntimeError: torch is missing, or the device cannot be used.
    """
    require_torch()
    from ..methods import registry
    from ..methods.choosing import settled

    sides = subjects(fixed, moving, attached)
    parameters, chosen = settled(parameters or Parameters(), *sides)
    plan = registry.plan(parameters, sides[0].ndim)
    run = _begun(sides, plan, device, Progress(progress, cancel), chosen)
    run.known = initial_map
    with torch_threads(threads):
        problem = run.posed(initial_affine, threads, domain)
        return run.finished(problem, run.estimated(problem, initial_velocity), threads)


def register_by(plan: Plan, fixed: Subject, moving: Subject, device: str = "cpu", threads: int | None = None) -> Result:
    """As `register`, by a plan that was made otherwise than by name: for training."""
    require_torch()
    run = _begun((fixed, moving), plan, device, Progress(None, None))
    with torch_threads(threads):
        problem = run.posed(None, threads)
        return run.finished(problem, run.estimated(problem, None), threads)


def made_of(
    fixed: Subject,
    moving: Subject,
    parameters: Parameters,
    velocity: Mapping[str, Any],
    *,
    device: str = "auto",
    threads: int | None = None,
    progress: Callable[[dict[str, Any]], None] | None = None,
    cancel: Callable[[], bool] | None = None,
) -> Result:
    """What follows from a velocity that was not searched for these images, as `register` tells of one that was.

    Args:
        parameters: of the search for such velocities; the result's say that there were no iterations.
        velocity: as `Result.velocity` of an earlier run on the same fixed image.
        fixed, moving, device, threads, progress, cancel: as for `register`.
    """
    require_torch()
    from ..methods import registry

    plan = registry.plan(parameters, fixed.ndim)
    plan = replace(plan, parameters=replace(plan.parameters, iterations=[0] * len(plan.parameters.iterations)))
    run = _begun((fixed, moving), plan, device, Progress(progress, cancel))
    with torch_threads(threads):
        problem = run.posed(velocity["affine"], threads, velocity["domain"])
        return run.finished(problem, registry.Estimated(dict(velocity), [], False), threads)


def _begun(
    sides: tuple[Subject, Subject], plan: Plan, device: str, watch: Progress, chosen: tuple[str, ...] = ()
) -> _Run:
    """The run of two sides, once they are known to be such as can be registered; ``chosen``: notes on the plan."""
    watch.phase("prepare", "Checking the input")
    one, two = (side.checked(name) for side, name in zip(sides, ("fixed", "moving"), strict=True))
    # At most one label map of each, which is refused now rather than after the work.
    check_dimensions(one.image, two.image, one.label_map, two.label_map)
    pairs = corresponding(one.landmarks, two.landmarks)
    check_channels(one, two, plan.given or plan.parameters)
    check_steering(one, two, plan.steering)
    notes = [*one.notes, *two.notes, *(pairs.notes if pairs else ()), *unlike_labels(one, two), *chosen]
    device, why = chosen_device(device)
    run = _Run(one, two, plan, device, watch, list(dict.fromkeys([*notes, why] if why else notes)))
    watch.note(run.notes)
    return run


def made_again(
    fixed: Subject,
    moving: Subject,
    parameters: Parameters,
    found: Estimated,
    grids: tuple[Grid, Grid],
    history: Mapping[str, Any],
) -> Result:
    """The Result of a velocity that was found before: its maps, images and figures, computed anew on the CPU.

    Args:
        fixed, moving: the subjects that were registered.
        parameters: Result.parameters.
        found: the velocity, the history and whether it was cancelled.
        grids: Result.fixed_grid and moving_grid.
        history: notes, timings and provenance of the registration.

    Raises:
        InputError: they are not the images that were registered.
    """
    require_torch()
    from ..methods import registry

    plan = registry.plan(parameters, fixed.ndim)
    sides = [_placed(side, grid) for side, grid in zip((fixed, moving), grids, strict=True)]
    one, two = (side.checked(name) for side, name in zip(sides, ("fixed", "moving"), strict=True))
    run = _Run(one, two, plan, "cpu", Progress(None, None), [])
    result = run.finished(run.posed(found.velocity["affine"], None, found.velocity["domain"]), found, None)
    for name, side in (("fixed", fixed), ("moving", moving)):
        for key in (f"{name}_sha256", f"{name}_channels_sha256"):
            if result.provenance.get(key) != history["provenance"].get(key):
                raise _changed(side)
    return replace(result, **{name: history[name] for name in ("notes", "timings", "provenance")})


def _placed(side: Subject, grid: Grid) -> Subject:
    """The subject with its image on the very grid that it had: in a file that may have been rounded."""
    if not side.image.grid.same_as(grid):
        raise _changed(side)
    return replace(side, images=(replace(side.image, grid=grid), *side.images[1:]))


def _changed(side: Subject) -> InputError:
    return InputError(
        f"{side.image.name}: is not as it was when it was registered (its voxels, or where they lie). Register again."
    )


@dataclass
class _Run:
    """One registration on its way."""

    fixed: Subject
    moving: Subject
    plan: Plan
    device: str
    watch: Progress
    notes: list[str]
    known: KnownTransform | None = None
    unlike: tuple[dict[str, Any], ...] = ()

    def posed(self, initial_affine: np.ndarray | None, threads: int | None, grid: Grid | None = None) -> Problem:
        """The problem of both subjects, aligned: by an affine, or that of a map, if it is given; on that working grid,
        if it is known."""
        watch = self.watch
        fixed, moving = comparable(self.fixed, self.moving, self.plan.parameters)
        self.notes += [*fixed.notes, *moving.notes]
        watch.stop_if_cancelled()
        watch.phase("affine", "Aligning")
        if self.known is not None:
            affine = self.known.affine(fixed.grid, object_voxels(fixed))
        elif initial_affine is not None:
            affine = _checked_affine(initial_affine, fixed.ndim)
        else:
            affine = self._aligned(fixed, moving, threads)
        watch.stop_if_cancelled()
        pose = None
        if grid is None:
            pose = self.plan.pose(fixed, threads=threads, cancelled=watch.cancel)
            self.unlike = self.plan.unlike(pose, moving.image, affine)
            self._note(*map(str, unlike_training(self.unlike)))
            watch.stop_if_cancelled()
        watch.phase("level", "Preparing the levels")
        problem = self._computed(lambda device: self.plan.problem(fixed, moving, affine, device, pose, grid))
        self._note(*problem.steering.notes)
        return problem

    def _aligned(self, fixed: Subject, moving: Subject, threads: int | None) -> np.ndarray:
        found = self._of_images(fixed, moving, threads)
        maps = alignments(self.fixed, self.moving, self.plan.steering, threads)
        kind, weights = self.plan.parameters.initial_alignment, self.plan.parameters.channel_weights
        if kind in ("rigid", "affine"):
            for number, (one, two) in enumerate(zip(fixed.channels, moving.channels, strict=True)):
                if not weights or weights[number]:
                    name = f"{kind} map of {two.image.name or f'image {number + 2}'}"
                    maps[name] = self._of_images(one, two, threads).matrix
        if not maps:
            self._note(*found.notes)
            return found.matrix
        best = self._agreeing(fixed, moving, {"images": found.matrix, **maps})
        if best == "images":
            self._note(*found.notes)
            return found.matrix
        self._note(f"The alignment is the {best}: it fits all that is compared, and what steers, best.")
        return maps[best]

    def _of_images(self, fixed: Subject, moving: Subject, threads: int | None) -> AffineAlignment:
        """The alignment of the first images of both."""
        return self._computed(
            lambda device: align(
                fixed.image.upright(),
                moving.image.upright(),
                self.plan.parameters.initial_alignment,
                masks=(fixed.mask, moving.mask),
                progress=lambda p: self.watch.tell(phase="affine", progress=0.05 + 0.15 * p, message="Aligning"),
                cancelled=self.watch.cancel,
                threads=threads,
                device=device,
            )
        )

    def _agreeing(self, fixed: Subject, moving: Subject, maps: Mapping[str, np.ndarray]) -> str:
        """Of several alignments the one at which the energy, with all that steers, is least."""
        energies = {}
        for name, matrix in maps.items():
            self.watch.stop_if_cancelled()
            try:
                problem = self.plan.problem(fixed, moving, matrix)
            except InputError:  # nothing of the one image is seen in the other
                continue
            energies[name] = energy_at_rest(problem, self.plan.steering)
        return min(energies, key=energies.__getitem__) if energies else "images"

    def estimated(self, problem: Problem, initial_velocity: Mapping[str, Any] | None) -> Estimated:
        """The map by the plan's method."""
        from ..methods.registry import estimate

        start = self.known or initial_velocity
        found = self._computed(lambda device: estimate(problem, self.plan, device, start, self.watch))
        self._note(*found.notes)
        return found

    def _computed(self, work: Callable[[str], Any]) -> Any:
        """What ``work`` makes on the device; on the CPU where the device's memory does not suffice, or it fails."""
        try:
            return work(self.device)
        except RuntimeError as error:
            reason, full = device_failure(error), is_out_of_memory(error)
            if self.device == "cpu" or not reason:
                raise
        # Not before here, where nothing that the error came from is held any longer.
        if full:
            self._note(f"The memory of {self.device} did not suffice; this was computed on the CPU.")
        else:
            self._note(
                f"{self.device} failed ({reason}); this was computed on the CPU. Before you use that device again, "
                "start the program anew."
            )
        release(self.device)
        failed, self.device = self.device, "cpu"
        try:
            return work("cpu")
        except RuntimeError as error:
            if not device_failure(error):
                raise
            # What it held cannot be fetched from a device that is gone.
            raise RuntimeError(
                f"{failed} failed ({reason}). Start the program anew, and choose the device cpu if it fails again."
            ) from error

    def _note(self, *notes: str) -> None:
        self.notes += notes
        self.watch.note(notes)

    def _measured(self, problem: Problem, found: Estimated, device: str) -> tuple[Maps, dict[str, Any], dict[str, Any]]:
        """The maps, what they make of images and labels, and the figures; all of it on the host."""
        from .measuring import measured

        fixed, moving = self.fixed, self.moving
        self._made_room()
        maps = unfolded(fixed.grid, found.velocity, problem.foreground, device)
        self._made_room()
        there = carried(fixed, moving, maps)
        self._made_room()
        self.watch.tell(phase="finish", progress=0.95, message="Measuring")
        figures = measured(fixed, moving, there, maps, problem, self.plan.parameters)
        return maps, parts(there, maps, fixed.grid, moving), figures

    def _made_room(self) -> None:
        """Of large images, what was freed and kept for the next arrays is more than these will need."""
        if self.fixed.grid.size > _LARGE:
            give_back_memory()

    def finished(self, problem: Problem, found: Estimated, threads: int | None) -> Result:
        """Maps, images and figures of the geodesic."""
        from ..problem.resampling import linear
        from .measuring import difference, difference_note
        from .properties import summarized

        fixed, moving, parameters = self.fixed, self.moving, self.plan.parameters
        self.watch.phase("finish", "Computing the maps")
        maps, made, metrics = self._computed(lambda device: self._measured(problem, found, device))
        self.notes += maps.notes
        self._made_room()
        if found.endings:
            metrics["levels_ended"] = list(found.endings)
        if self.unlike or found.unusual:
            metrics["unusual"] = [*self.unlike, *found.unusual]
        uncertainty = None
        if found.uncertainty is not None:
            uncertainty = Volume(fixed.grid, linear(Volume(problem.grid, found.uncertainty), fixed.grid), "uncertainty")
            metrics["uncertainty_mm"] = summarized(found.uncertainty[problem.fixed_mask])
        if self.known is not None:
            metrics["map_difference_mm"] = difference(maps, self.known, fixed.grid, problem.foreground)
            self._note(difference_note(metrics["map_difference_mm"], self.known.name))
        elif not (found.cancelled or parameters.dense) and len(found.history) < 2 and sum(parameters.iterations):
            self.notes.append("The optimization could not lower the energy: the result is the affine alignment.")
        return Result(
            parameters=parameters,
            fixed_grid=fixed.grid,
            moving_grid=moving.grid,
            velocity=maps.velocity,
            history=found.history,
            affine=problem.affine,
            metrics=metrics,
            timings=self.watch.finished(),
            provenance=provenance(fixed, moving, self.device, threads),
            verdict=verdict(metrics, found.cancelled),
            cancelled=found.cancelled,
            notes=list(dict.fromkeys(self.notes)),
            uncertainty=uncertainty,
            **made,
        )


def _checked_affine(initial: np.ndarray, ndim: int) -> np.ndarray:
    matrix = np.array(initial, dtype=np.float64)
    shape = (ndim + 1, ndim + 1)
    if matrix.shape != shape or not np.isfinite(matrix).all() or abs(np.linalg.det(matrix)) < 1e-12:
        raise InputError(f"The initial transform must be an invertible {shape} matrix of finite numbers.")
    if np.linalg.det(matrix[:ndim, :ndim]) < 0:
        raise InputError(
            "The initial transform mirrors the image, which no deformation of a body does. Pass one "
            "without a reflection, or mirror the moving image itself first."
        )
    return matrix
