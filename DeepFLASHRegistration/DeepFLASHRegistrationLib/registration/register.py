# SPDX-License-Identifier: Apache-2.0
"""register(): two images in, everything that follows from their geodesic out.

    imaging -> affine -> estimate of v0 -> geodesic -> maps -> warped image, Jacobian, labels -> metrics

Torch is imported by the function, not by the module.
"""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import hashlib
import platform
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ..imaging.grid import Grid
from ..imaging.volume import Volume, checked_image, checked_labels, checked_mask
from ..problem.deformation import Deformation, stored, upright
from ..problem.parameters import Parameters
from ..problem.problem import scaled_intensities
from ..support.errors import Cancelled, InputError
from ..version import __version__
from .verdict import SMALLEST_DETERMINANT, SMALLEST_LABEL_VOXELS, Verdict, verdict

# Attempts to mend folds of the sampled map by damping the velocity around them.
_UNFOLDING = 6
# The written fields reach this far beyond the fixed image.
_FIELD_MARGIN_MM = 10.0


@dataclass(eq=False)
class Result:
    """Everything a registration yields; NumPy only.

    Fields of displacements are float32 (*grid.shape, d) in LPS mm, affine included; determinants include it too.
    """

    parameters: Parameters
    fixed_grid: Grid
    moving_grid: Grid
    field_grid: Grid
    inverse_grid: Grid
    warped: Volume
    moving_affine: Volume
    affine: np.ndarray
    fixed_to_moving: np.ndarray
    moving_to_fixed: np.ndarray
    log_jacobian: Volume
    labels: Volume | None
    labels_before: Volume | None
    velocity: dict[str, Any]
    history: list[dict[str, Any]]
    metrics: dict[str, Any]
    timings: dict[str, float]
    provenance: dict[str, Any]
    verdict: Verdict
    cancelled: bool = False
    notes: list[str] = field(default_factory=list)

    @property
    def deformation(self) -> Deformation:
        """The geodesic itself, from which every map can be computed anew."""
        return deformation_from(self.velocity)


def deformation_from(values: Mapping[str, Any], device: str = "cpu") -> Deformation:
    """The Deformation of Result.velocity."""
    return Deformation(**{**values, "device": device})


class _Progress:
    """Turns the phases' own progress into one bar, and tells it."""

    def __init__(self, tell: Callable[[dict[str, Any]], None] | None, cancel: Callable[[], bool] | None):
        self._tell, self.cancel = tell, cancel or (lambda: False)
        self._started = time.perf_counter()
        self.timings: dict[str, float] = {}
        self._phase = ""
        self._phase_started = self._started

    def phase(self, name: str, progress: float, message: str) -> None:
        now = time.perf_counter()
        if self._phase:
            self.timings[self._phase] = self.timings.get(self._phase, 0.0) + now - self._phase_started
        self._phase, self._phase_started = name, now
        if name:
            self.tell(phase=name, progress=progress, message=message)

    def tell(self, **event: Any) -> None:
        if self._tell is not None:
            self._tell(event)

    def finished(self) -> dict[str, float]:
        self.phase("", 1.0, "")
        self.timings["total"] = time.perf_counter() - self._started
        return {k: round(v, 4) for k, v in self.timings.items()}

    def stop_if_cancelled(self) -> None:
        if self.cancel():
            raise Cancelled("The registration was cancelled before there was a result.")


def register(
    fixed: Volume,
    moving: Volume,
    parameters: Parameters | None = None,
    *,
    moving_labels: Volume | None = None,
    fixed_labels: Volume | None = None,
    fixed_mask: Volume | None = None,
    moving_mask: Volume | None = None,
    fixed_points: np.ndarray | None = None,
    moving_points: np.ndarray | None = None,
    initial_affine: np.ndarray | None = None,
    initial_velocity: Mapping[str, Any] | None = None,
    device: str = "auto",
    threads: int | None = None,
    progress: Callable[[dict[str, Any]], None] | None = None,
    cancel: Callable[[], bool] | None = None,
) -> Result:
    """Register a moving image to a fixed one.

    Args:
        fixed, moving: images of the same dimension, on any grids, in any units.
        parameters: settings; the preset "default" if None.
        moving_labels: carried over to the fixed grid.
        fixed_labels: compared with them.
        fixed_mask, moving_mask: what lies outside does not count in the similarity.
        fixed_points, moving_points: (N, d) LPS mm, corresponding landmarks ((N, 3) also for a slice of 3-D space); the
            error is measured, nothing is fitted.
        initial_affine: (d+1, d+1) LPS mm, fixed -> moving; instead of the alignment in the parameters.
        initial_velocity: `Result.velocity` of an earlier run on the same fixed image, to start from.
        device: "auto" (a CUDA GPU if there is one), "cpu", "cuda", "cuda:1", "mps".
        threads: of the CPU; torch's own choice if None.
        progress: called with events, dicts with phase ("prepare", "affine", "level", "finish"), progress (0..1) and
            message; while optimizing also level, levels, iteration, energy, similarity, regularization and
            smallest_determinant.
        cancel: asked often; once true, the best so far becomes the result (`Result.cancelled`).

    Returns:
        Result.

    Raises:
        InputError: the images, labels, masks or points cannot be used; says what to do.
        Cancelled: cancelled before there was anything to return.
        RuntimeError: torch is missing, or the device cannot be used.
    """
    require_torch()
    import torch

    from ..methods import estimators

    plan = estimators.plan(parameters or Parameters(), fixed.ndim)
    parameters = plan.parameters
    watch = _Progress(progress, cancel)
    watch.phase("prepare", 0.0, "Checking the input")
    fixed, moving = checked_image(fixed), checked_image(moving)
    moving_labels, fixed_labels = (None if x is None else checked_labels(x) for x in (moving_labels, fixed_labels))
    fixed_mask, moving_mask = (None if x is None else checked_mask(x) for x in (fixed_mask, moving_mask))
    _check_dimensions(fixed, moving, moving_labels, fixed_labels, fixed_mask, moving_mask)
    points = _checked_points(fixed_points, moving_points, fixed, moving)
    used_device = resolve_device(device)
    notes = [*fixed.notes, *moving.notes]
    with torch_threads(threads):
        scaled_fixed, scaled_moving, more = scaled_intensities(fixed, moving, fixed_mask, moving_mask, parameters)
        notes += more
        watch.stop_if_cancelled()
        watch.phase("affine", 0.05, "Aligning")
        affine, more = _alignment(
            scaled_fixed, scaled_moving, fixed_mask, moving_mask, parameters, initial_affine, threads, watch
        )
        notes += more
        watch.stop_if_cancelled()
        watch.phase("level", 0.2, "Preparing the levels")
        problem = plan.problem(scaled_fixed, scaled_moving, fixed_mask, moving_mask, affine)
        try:
            found = estimators.estimate(problem, plan, used_device, initial_velocity, watch)
        except (torch.OutOfMemoryError, RuntimeError) as error:
            if used_device == "cpu" or not _out_of_memory(error):
                raise
            notes.append(f"The memory of {used_device} did not suffice; this was computed on the CPU.")
            watch.tell(phase="level", progress=0.2, message=notes[-1])
            used_device = "cpu"
            torch.cuda.empty_cache()
            found = estimators.estimate(problem, plan, used_device, initial_velocity, watch)
        watch.phase("finish", 0.85, "Computing the maps")
        maps = _unfolded(fixed.grid, found.velocity, problem.foreground, used_device)
        notes += maps.notes
        parts = _outputs(fixed, moving, maps, moving_labels)
        watch.tell(phase="finish", progress=0.95, message="Measuring")
        metrics = _measure(fixed, moving, affine, parts, maps, fixed_labels, moving_labels, points, problem.foreground)
        if found.unusual:
            metrics["unusual"] = list(found.unusual)
        if not found.cancelled and len(found.history) < 2 and sum(parameters.iterations):
            notes.append("The optimization could not lower the energy: the result is the affine alignment.")
    return Result(
        parameters=parameters,
        fixed_grid=fixed.grid,
        moving_grid=moving.grid,
        velocity=maps.velocity,
        history=found.history,
        affine=affine,
        metrics=metrics,
        timings=watch.finished(),
        provenance=_provenance(fixed, moving, used_device, threads),
        verdict=verdict(metrics, found.cancelled),
        cancelled=found.cancelled,
        notes=list(dict.fromkeys(notes)),
        **parts,
    )


# ---------------------------------------------------------------------------------------------------- preparation


def require_torch() -> None:
    try:
        import torch  # noqa: F401
    except ImportError as error:
        raise RuntimeError(
            "PyTorch is needed to register images. In Slicer, install the PyTorch extension and its PyTorch; elsewhere "
            "run: pip install torch"
        ) from error


def resolve_device(name: str) -> str:
    """A torch device that works: "auto" is a CUDA GPU if there is one; RuntimeError for one that cannot be used."""
    import torch

    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        torch.zeros(1, device=name)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).split("\n")[0]
        raise RuntimeError(f"The device {name!r} cannot be used ({reason}). Choose auto or cpu.") from error
    return name


def _out_of_memory(error: BaseException) -> bool:
    return "out of memory" in str(error).lower() or type(error).__name__ == "OutOfMemoryError"


@contextlib.contextmanager
def torch_threads(count: int | None) -> Any:
    """Limits torch's CPU threads within the block; None leaves them."""
    import torch

    if count is None:
        yield
        return
    if count < 1:
        raise InputError(f"threads must be at least 1, not {count}.")
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _check_dimensions(fixed: Volume, *others: Volume | None) -> None:
    for other in others:
        if other is not None and other.ndim != fixed.ndim:
            raise InputError(
                f"{fixed.name or 'fixed'} has {fixed.ndim} dimensions and {other.name or 'another input'} "
                f"{other.ndim}. Pass images of the same dimension."
            )


def _checked_points(
    fixed_points: Any, moving_points: Any, fixed: Volume, moving: Volume
) -> tuple[np.ndarray, np.ndarray] | None:
    if fixed_points is None and moving_points is None:
        return None
    if fixed_points is None or moving_points is None:
        raise InputError("Landmarks are compared in pairs: give those of the fixed and of the moving image.")
    found = []
    for name, points, image in (("fixed", fixed_points, fixed), ("moving", moving_points, moving)):
        points = np.asarray(points, dtype=np.float64)
        if points.ndim == 2 and len(points):
            points = in_plane(points, image.grid)
        if points.ndim != 2 or points.shape[1] != fixed.ndim or not len(points):
            raise InputError(
                f"The {name} landmarks must be an array (N, {fixed.ndim}) with N at least 1, not "
                f"{points.shape}. Give points of the images' own dimension."
            )
        if not np.isfinite(points).all():
            raise InputError(f"The {name} landmarks hold NaN or infinity. Place them all.")
        index = image.grid.physical_to_index(points)
        outside = ((index < -0.5) | (index > np.array(image.grid.shape) - 0.5)).any(1)
        if outside.any():
            number = int(np.flatnonzero(outside)[0])
            raise InputError(
                f"{int(outside.sum())} of {len(points)} {name} landmarks lie outside {image.name or 'the image'} (the "
                f"first is number {number + 1} at {np.round(points[number], 1).tolist()} mm LPS). Check that they "
                "belong to this image, and their coordinate system (RAS or LPS)."
            )
        found.append(points)
    if len(found[0]) != len(found[1]):
        raise InputError(f"There are {len(found[0])} fixed and {len(found[1])} moving landmarks. Give one for one.")
    return found[0], found[1]


def in_plane(points: np.ndarray, grid: Grid) -> np.ndarray:
    """Landmarks of 3-D space (N, 3) as the points (N, 2) of a 2-D grid: seen along its slice's normal, or in the plane
    z = 0, where ITK and Slicer put a 2-D image. All others as they are."""
    if grid.ndim == 2 and points.shape[1] == 3:
        if grid.plane is not None:
            return grid.project(points)
        if not points[:, 2].any():
            return points[:, :2]
    return points


def _upright(volume: Volume) -> Volume:
    """The same voxels in the one storage in which all computing is done."""
    order, backwards = upright(volume.grid)
    data = np.flip(volume.data.transpose(order), np.flatnonzero(backwards))
    return dataclasses.replace(volume, grid=stored(volume.grid, order, backwards), data=np.ascontiguousarray(data))


def _alignment(
    fixed: Volume,
    moving: Volume,
    fixed_mask: Volume | None,
    moving_mask: Volume | None,
    parameters: Parameters,
    initial: np.ndarray | None,
    threads: int | None,
    watch: _Progress,
) -> tuple[np.ndarray, list[str]]:
    from ..alignment.affine import align

    d = fixed.ndim
    notes: list[str] = []
    if initial is not None:
        matrix = np.array(initial, dtype=np.float64)
        if matrix.shape != (d + 1, d + 1) or not np.isfinite(matrix).all() or abs(np.linalg.det(matrix)) < 1e-12:
            raise InputError(f"The initial transform must be an invertible {(d + 1, d + 1)} matrix of finite numbers.")
        if np.linalg.det(matrix[:d, :d]) < 0:
            raise InputError(
                "The initial transform mirrors the image, which no deformation of a body does. Pass one "
                "without a reflection, or mirror the moving image itself first."
            )
    else:
        found = align(
            _upright(fixed),
            _upright(moving),
            parameters.initial_alignment,
            fixed_mask=fixed_mask,
            moving_mask=moving_mask,
            progress=lambda p: watch.tell(phase="affine", progress=0.05 + 0.15 * p, message="Aligning"),
            cancelled=watch.cancel,
            threads=threads,
        )
        matrix, notes = found.matrix, list(found.notes)
    return matrix, notes


# --------------------------------------------------------------------------------------------------------- results


def field_grids(fixed: Grid, affine: np.ndarray) -> tuple[Grid, Grid]:
    """Grids of the written fields: the fixed grid with a margin, and a grid of the same axes and spacing over the box
    to which the affine takes it (the same grid where the affine is the identity)."""
    margin = np.ceil(_FIELD_MARGIN_MM / fixed.spacing).astype(int)
    # The margin stays moderate where voxels are coarse or the object is small.
    margin = np.clip(margin, 2, np.maximum(2, np.array(fixed.shape) // 8))
    grid = fixed.padded(margin)
    d = fixed.ndim
    corners = grid.corners() @ affine[:d, :d].T + affine[:d, d]
    index = grid.physical_to_index(corners)
    lower = np.floor(index.min(0) + 1e-6).astype(int)
    upper = np.ceil(index.max(0) - 1e-6).astype(int)
    return grid, grid.padded(-lower, upper - (np.array(grid.shape) - 1))


def _inner(grid: Grid, field_grid: Grid, ring: int = 0) -> tuple[slice, ...]:
    """Where a grid lies in the field grid around it, with ``ring`` more voxels on each side."""
    return tuple(
        slice((n - m) // 2 - ring, (n - m) // 2 + m + ring) for n, m in zip(field_grid.shape, grid.shape, strict=True)
    )


@dataclass(frozen=True)
class _Maps:
    """The final geodesic: its arguments, what computes its maps, and on the fixed grid where it folds and by how much
    it scales volumes."""

    velocity: dict[str, Any]
    deformation: Deformation
    field_grid: Grid
    inverse_grid: Grid
    fixed_to_moving: np.ndarray
    folded: np.ndarray
    determinant: np.ndarray
    notes: list[str]


def _unfolded(fixed: Grid, velocity: Mapping[str, Any], inside: np.ndarray, device: str) -> _Maps:
    """The maps of a velocity, which is weakened where they fold until they do not.

    The geodesic's map is one to one; its samples on the fixed grid need not be where it is steeper than voxels can
    show (or nearly so: a determinant below the verdict's limit). There, and only there, the velocity's detail is
    damped: a few millimeters around a few voxels.
    """
    from .metrics import folded_voxels, jacobian_determinant

    field_grid, inverse_grid = field_grids(fixed, velocity["affine"])
    # One voxel of the margin makes the differences central everywhere on the fixed grid.
    ring, crop = _inner(fixed, field_grid, 1), (slice(1, -1),) * fixed.ndim
    damped = 0
    for attempt in range(_UNFOLDING + 1):
        deformation = deformation_from(velocity, device)
        forward = deformation.displacement(field_grid, "fixed_to_moving")
        folded = folded_voxels(forward[ring], fixed.padded(1))[crop] & inside
        determinant = jacobian_determinant(forward[ring], fixed.padded(1))[crop]
        count = int(np.count_nonzero(folded | (inside & (determinant < SMALLEST_DETERMINANT.check))))
        # FLASH's own map folds by truncation, which damping cannot mend; a field that folds widely is no slip.
        if not count or attempt == _UNFOLDING or velocity["band_limited"] or count > 0.01 * np.count_nonzero(inside):
            break
        damped += count
        steep = folded | (inside & (determinant < 1.6 * SMALLEST_DETERMINANT.check))
        at = fixed.index_to_physical(np.argwhere(steep))
        velocity = _damped(velocity, deformation, at + forward[_inner(fixed, field_grid)][steep])
    notes = []
    if damped:
        notes.append(
            f"The velocity was damped around {damped} voxels, where the map was steeper than the fixed image's "
            "voxels can show."
        )
    return _Maps(dict(velocity), deformation, field_grid, inverse_grid, forward, folded, determinant, notes)


def _damped(velocity: Mapping[str, Any], deformation: Deformation, at: np.ndarray) -> dict[str, Any]:
    """The velocity with less detail around points (N, d) of the moving image, LPS mm."""
    import torch

    from ..geodesics.band import Band, attenuated

    # v0 lives in the moving image before the affine: where the points came from.
    back = np.linalg.inv(velocity["affine"])
    came = at @ back[:-1, :-1].T + back[:-1, -1]
    centers = (deformation.domain.physical_to_index(came) + 0.5) * deformation.cell
    band, wavelength = Band(velocity["velocity"].shape[1:], deformation.lengths), deformation.shortest_wavelength
    v0 = torch.as_tensor(velocity["velocity"], device=deformation.device)
    centers = torch.as_tensor(_thinned(centers, wavelength / 3))
    weaker = attenuated(v0, band, centers, 0.7 * wavelength, 0.5).cpu().numpy()
    return {**velocity, "velocity": weaker}


def _thinned(points: np.ndarray, distance: float) -> np.ndarray:
    """Points of a set such that every other lies within about ``distance`` of one kept."""
    _, first = np.unique(np.round(points / distance).astype(int), axis=0, return_index=True)
    return points[np.sort(first)]


def _outputs(fixed: Volume, moving: Volume, maps: _Maps, moving_labels: Volume | None) -> dict[str, Any]:
    """The images and fields of a Result."""
    from ..imaging.resampling import resample
    from . import warping

    affine = maps.deformation.affine
    on_fixed = maps.fixed_to_moving[_inner(fixed.grid, maps.field_grid)]
    background = float(moving.data.min())
    warped = warping.warp(moving, fixed.grid, on_fixed, outside=background)
    before = resample(moving, fixed.grid, affine, outside=background)
    labels = labels_before = None
    if moving_labels is not None:
        labels = Volume(fixed.grid, warping.warp_labels(moving_labels, fixed.grid, on_fixed), moving_labels.name)
        labels_before = Volume(
            fixed.grid, resample(moving_labels, fixed.grid, affine, nearest=True), moving_labels.name
        )
    with np.errstate(divide="ignore", invalid="ignore"):
        logarithm = np.where(maps.determinant > 0, np.log(maps.determinant), -np.inf).astype(np.float32)
    return {
        "field_grid": maps.field_grid,
        "inverse_grid": maps.inverse_grid,
        "fixed_to_moving": maps.fixed_to_moving,
        "moving_to_fixed": maps.deformation.displacement(maps.inverse_grid, "moving_to_fixed"),
        "warped": Volume(fixed.grid, warped, moving.name),
        "moving_affine": Volume(fixed.grid, before, moving.name),
        "log_jacobian": Volume(fixed.grid, logarithm, "log Jacobian determinant"),
        "labels": labels,
        "labels_before": labels_before,
    }


def _measure(
    fixed: Volume,
    moving: Volume,
    affine: np.ndarray,
    parts: Mapping[str, Any],
    maps: _Maps,
    fixed_labels: Volume | None,
    moving_labels: Volume | None,
    points: tuple[np.ndarray, np.ndarray] | None,
    inside: np.ndarray,
) -> dict[str, Any]:
    from ..imaging.intensities import foreground
    from ..imaging.resampling import resample
    from . import metrics as m

    field_, grid = parts["fixed_to_moving"], parts["field_grid"]
    found: dict[str, Any] = {
        "similarity_before": m.ncc(fixed.data, parts["moving_affine"].data, inside),
        "similarity_after": m.ncc(fixed.data, parts["warped"].data, inside),
        "voxel_mm": float(fixed.grid.voxel_volume ** (1 / fixed.ndim)),
        "ndim": fixed.ndim,
    }
    found.update(m.determinant_statistics(maps.determinant, inside))
    count = int(np.count_nonzero(maps.folded))
    found["folds_strict"] = {"count": count, "percent": 100.0 * count / max(int(np.count_nonzero(inside)), 1)}
    probes = m.grid_points(fixed.grid, inside)
    mapped = m.map_points(probes, field_, grid)
    found["inverse_error_mm"] = m.inverse_error(probes, mapped, parts["moving_to_fixed"], parts["inverse_grid"])
    found["border_hits"] = m.border_hits(mapped, moving.grid)
    found["largest_displacement_mm"] = float(np.sqrt(np.square(mapped - probes).sum(-1).max()))
    found["overlap"] = m.overlap(foreground(fixed), _foreground_of(parts["warped"], moving))
    if moving_labels is not None:
        volumes = m.label_volumes(moving_labels.data, moving_labels.grid.voxel_volume)
        warped_volumes = m.label_volumes(parts["labels"].data, fixed.grid.voxel_volume)
        found["volume_change"] = m.volume_change(
            volumes, warped_volumes, SMALLEST_LABEL_VOXELS * moving_labels.grid.voxel_volume
        )
        if fixed_labels is not None:
            own = resample(fixed_labels, fixed.grid, nearest=True)
            found["dice"] = m.label_table(
                own, parts["labels_before"].data, parts["labels"].data, fixed.grid.voxel_volume, volumes
            )
            found["mean_dice_before"], found["mean_dice_after"] = m.mean_dice(found["dice"])
    if points is not None:
        at_fixed, at_moving = points
        d = fixed.ndim
        before = at_fixed @ affine[:d, :d].T + affine[:d, d]
        after = m.landmark_errors(m.map_points(at_fixed, field_, grid), at_moving)
        first = m.landmark_errors(before, at_moving)
        found["landmarks"] = {
            "before_mm": first.tolist(),
            "after_mm": after.tolist(),
            "mean_before_mm": float(first.mean()),
            "mean_after_mm": float(after.mean()),
        }
    return found


def _foreground_of(warped: Volume, moving: Volume) -> np.ndarray:
    """Foreground of the warped image by the moving image's own criterion."""
    from ..imaging.intensities import background_value, foreground

    background = background_value(moving)
    return warped.data > background if background is not None else foreground(warped)


def _provenance(fixed: Volume, moving: Volume, device: str, threads: int | None) -> dict[str, Any]:
    import SimpleITK as sitk
    import torch

    title = (
        torch.cuda.get_device_name(device) if device.startswith("cuda") else platform.processor() or platform.machine()
    )
    return {
        "program": f"deepflash-registration {__version__}",
        "date": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        "device": f"{device} ({title})",
        "threads": torch.get_num_threads() if threads is None else threads,
        "python": platform.python_version(),
        "numpy": np.__version__,
        "torch": str(torch.__version__),
        "SimpleITK": sitk.Version.VersionString(),
        "platform": platform.platform(),
        "fixed_sha256": _hash(fixed),
        "moving_sha256": _hash(moving),
    }


def _hash(volume: Volume) -> str:
    """SHA-256 of the voxels and their place in space."""
    digest = hashlib.sha256(np.ascontiguousarray(volume.data))
    digest.update(volume.grid.affine.tobytes())
    return digest.hexdigest()
