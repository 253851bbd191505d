# SPDX-License-Identifier: Apache-2.0
"""What steers a registration besides what its images show: landmarks, structures that are drawn on both sides, and
structures that are to stay as they are.

Each becomes a term of the energy (`geodesics.objective.Part`) in the same currency: what is missed by as many mm as it
is trusted to counts as a dissimilarity of COUNTS. That is a tenth of what two unaligned brains differ by in local
correlation.

    landmarks     kriging makes of them a map and how surely it is known; the map's squared distance, over that variance
    structures    squared differences of their distance from the surface, within a reach of it
    kept          how far the map takes them out of shape, or changes their volume
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from ..alignment.affine import align_upright
from ..alignment.landmarks import from_landmarks, mirrored
from ..imaging.landmarks import Pairs
from ..imaging.size import BRAIN_RADIUS_MM, radius_mm
from ..imaging.volume import Volume, label_values
from ..support.errors import InputError
from .kriging import Kriging, krige
from .parameters import Parameters
from .resampling import linear
from .subject import Subject, corresponding, object_voxels
from .surfaces import Surfaces, drawn, surfaces

if TYPE_CHECKING:
    from ..geodesics.objective import Part
    from .problem import Problem

COUNTS = 0.04
# Of an adult's brain, in mm; they follow the object's size.
_LANDMARK_MM, _CONTOUR_MM = 2.0, 1.0
# Relative changes of lengths and of volumes that a structure which is to be kept is trusted to stay within.
_RIGID, _VOLUME = 0.0005, 0.002
_NODES = 5  # of the lattice on which landmarks' map is tabulated, per reach
_MOST_LANDMARKS = 500
_MOST_SHOWN = 6
# Of COUNTS: the map that kriging makes is smoother than anatomy.
_OF_KRIGING = 0.25
_FINEST = 1e-3  # of the object's radius: trust below it counts as it
# Of the weight of what is to be kept, while all else is still on its way.
SOFT = 2e-4
# Structures from which on their surfaces tell a stretch.
_TELL_STRETCH = 4


@dataclass(frozen=True, eq=False)
class Guide:
    """The map that landmarks tell: displacement (d, *shape) along the domain's axes in units of length, how much each
    cell of it counts (*shape), and all of it."""

    displacement: np.ndarray
    weight: np.ndarray
    share: float


@dataclass(frozen=True, eq=False)
class Kept:
    """A structure of the fixed image that is to stay as it is, "rigid" or of constant "volume"."""

    weight: np.ndarray
    kind: str
    share: float


@dataclass(frozen=True, eq=False)
class Steering:
    """All that steers a problem; what a user should know of it; and of each landmark whether it was set aside."""

    guide: Guide | None = None
    surfaces: tuple[Surfaces, ...] = ()
    kept: tuple[Kept, ...] = ()
    notes: tuple[str, ...] = ()
    wrong: tuple[bool, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.guide or self.surfaces or self.kept)

    def parts(self, problem: Problem, device: str, stiffness: float = 1.0) -> list[Part]:
        """The terms of the energy; of what is to be kept times the stiffness."""
        import torch

        from ..geodesics.bodies import Body
        from ..geodesics.known_map import KnownMap
        from ..geodesics.objective import Pair, Part

        def tensor(x: np.ndarray) -> torch.Tensor:
            return torch.from_numpy(np.ascontiguousarray(x, dtype=np.float32)).to(device)

        found = []
        if self.guide is not None:
            known = KnownMap(tensor(self.guide.displacement), tensor(self.guide.weight), problem.lengths)
            found.append(Part(known, self.guide.share, True))
        for each in self.surfaces:
            fixed, moving, weight = map(tensor, (each.fixed, each.moving, each.weight))
            pair = Pair(fixed, moving, weight, weight, None, None, problem.lengths, "ssd")
            found.append(Part(pair, each.share, True))
        d = problem.grid.ndim
        linear_part = problem.affine[:d, :d] @ problem.grid.direction * problem.unit_mm
        for each in self.kept:
            body = Body(tensor(each.weight), tensor(linear_part), problem.unit_mm, each.kind, problem.lengths)
            found.append(Part(body, stiffness * each.share, True))
        return found


def check_steering(fixed: Subject, moving: Subject, parameters: Parameters) -> None:
    """What cannot steer is refused before any work.

    Raises:
        InputError: something is to steer that is not there, on one side only, or contradicts itself.
    """
    if parameters.landmark_weight:
        pairs = corresponding(fixed.landmarks, moving.landmarks)
        if pairs is None:
            raise InputError(
                "landmark_weight: there are no landmarks to steer by. Give those of the fixed and of the moving image, "
                "or set it to 0."
            )
        if len(pairs.fixed) > _MOST_LANDMARKS:
            raise InputError(
                f"landmark_weight: {len(pairs.fixed)} landmarks are more than can steer ({_MOST_LANDMARKS}). Give "
                "fewer."
            )
        if not pairs.steers.any():
            raise InputError(
                "landmark_weight: all landmarks have an infinite trust, which is that of those that are only measured. "
                "Give some a trust in mm, or set the weight to 0."
            )
    if parameters.label_weight:
        _common(fixed, moving, parameters)
    for name in ("rigid_labels", "volume_labels"):
        _named(fixed, getattr(parameters, name), name)
    both = set(parameters.rigid_labels) & set(parameters.volume_labels)
    if both:
        raise InputError(
            f"rigid_labels and volume_labels both name {_listed(sorted(both))}: what is rigid keeps its volume. Name "
            "each structure in one of them."
        )


def steering(problem: Problem, fixed: Subject, moving: Subject, parameters: Parameters) -> Steering:
    """What steers a problem of two comparable subjects, by its parameters.

    Raises:
        InputError: see `check_steering`; or nothing of a structure lies where the images are compared.
    """
    check_steering(fixed, moving, parameters)
    times = radius_mm(fixed.grid, problem.foreground) / BRAIN_RADIUS_MM
    guide, found_surfaces, notes, wrong = None, (), [], ()
    if parameters.landmark_weight:
        pairs = corresponding(fixed.landmarks, moving.landmarks)
        steers, trust = pairs.steers, _trusted(pairs, parameters, times)
        found = _kriged(problem, pairs, trust, steers, times)
        guide = _guide(problem, found, parameters.landmark_weight)
        apart = np.zeros(len(steers), dtype=bool)
        apart[steers] = found.wrong
        wrong, notes = tuple(map(bool, apart)), _of_wrong(pairs, steers, found)
        if mirrored(pairs.fixed[steers], pairs.moving[steers]):
            notes.append(
                "The landmarks lie as in a mirror image: are left and right exchanged in one of the lists, or is one "
                "of them in another coordinate system?"
            )
    if parameters.label_weight:
        labels = _common(fixed, moving, parameters)
        trust = parameters.label_trust_mm or _CONTOUR_MM * times
        counts = parameters.label_weight * COUNTS / trust**2
        found_surfaces = surfaces(problem, fixed, moving, labels, parameters, counts)
    kept = tuple(
        _kept(problem, fixed, label, kind)
        for kind, labels in (("rigid", parameters.rigid_labels), ("volume", parameters.volume_labels))
        for label in labels
    )
    return Steering(guide, found_surfaces, kept, tuple(notes), wrong)


def alignments(fixed: Subject, moving: Subject, parameters: Parameters, threads: int | None) -> dict[str, np.ndarray]:
    """Affine maps (d+1, d+1) LPS mm, fixed -> moving, that what steers tells of its own, by where they come from."""
    found = {}
    if parameters.initial_alignment not in ("rigid", "affine"):
        return found
    if parameters.landmark_weight:
        pairs = corresponding(fixed.landmarks, moving.landmarks)
        steers = pairs.steers
        trust = _trusted(pairs, parameters, radius_mm(fixed.grid, object_voxels(fixed)) / BRAIN_RADIUS_MM)[steers]
        matrix, kind = from_landmarks(pairs.fixed[steers], pairs.moving[steers], trust, parameters.initial_alignment)
        found["shift of the landmarks" if kind == "shift" else f"{kind} map of the landmarks"] = matrix
    if parameters.label_weight:
        labels = _common(fixed, moving, parameters)
        # The surface of one or two structures hardly tells a stretch.
        kind = parameters.initial_alignment if len(labels) >= _TELL_STRETCH else "rigid"
        images = [drawn(each, labels) for each in (fixed, moving)]
        found[f"{kind} map of the structures"] = align_upright(*images, kind, threads)
    return found


def _trusted(pairs: Pairs, parameters: Parameters, times: float) -> np.ndarray:
    trust = np.where(np.isnan(pairs.trust), parameters.landmark_trust_mm or _LANDMARK_MM * times, pairs.trust)
    # Nothing is known better than to a part of what the object measures, nor worse than as it.
    return np.clip(trust, _FINEST * times * BRAIN_RADIUS_MM, times * BRAIN_RADIUS_MM)


# ---------------------------------------------------------------- landmarks


def _kriged(problem: Problem, pairs: Pairs, trust: np.ndarray, steers: np.ndarray, times: float) -> Kriging:
    back, d = np.linalg.inv(problem.affine), problem.grid.ndim
    displacement = pairs.moving @ back[:d, :d].T + back[:d, d] - pairs.fixed
    return krige(pairs.fixed[steers], displacement[steers], trust[steers], times * BRAIN_RADIUS_MM)


def _guide(problem: Problem, found: Kriging, weight: float) -> Guide:
    import torch

    from ..geodesics.band import Lattice, Upsampler

    grid, d = problem.grid, problem.grid.ndim
    step = [max(1.0, found.covariance.reach_mm / _NODES / h) for h in grid.spacing]  # in voxels
    shape = tuple(int(np.ceil((n - 1) / s)) + 3 for n, s in zip(grid.shape, step, strict=True))
    index = np.stack(
        np.meshgrid(*[(np.arange(n) - 1) * s for n, s in zip(shape, step, strict=True)], indexing="ij"), -1
    )
    values, variance = found(grid.index_to_physical(index.reshape(-1, d)))
    # What no landmark tells anything of weighs nothing: there the covariance's own variance is left.
    before = found.covariance.variance(grid.index_to_physical(index.reshape(-1, d)))
    surely = np.maximum(1 / np.maximum(variance, 1e-12) - 1 / before, 0)
    table = np.concatenate([(values @ grid.direction).T / problem.unit_mm, surely[None]])
    coarse = Lattice(shape, tuple(step), tuple(-s for s in step))
    fine = Lattice(grid.shape, (1.0,) * d, (0.0,) * d)
    fields = Upsampler(coarse, fine)(torch.from_numpy(table.reshape(-1, *shape).astype(np.float32))).numpy()
    counted = np.maximum(fields[-1], 0)
    share = weight * _OF_KRIGING * COUNTS * float(counted.sum(dtype=np.float64)) * problem.unit_mm**2
    return Guide(fields[:-1], counted, share / np.count_nonzero(problem.fixed_mask))


def _of_wrong(pairs: Pairs, steers: np.ndarray, found: Kriging) -> list[str]:
    if found.contradictory:
        return [
            "More than a third of the landmarks contradict each other, so that what they tell is little. Check that "
            "they are paired rightly."
        ]
    if not found.wrong.any():
        return []
    at = np.flatnonzero(steers)[found.wrong]
    named = [
        f"{pairs.names[i] or f'number {i + 1}'} ({off:.0f} mm)"
        for i, off in zip(at, found.expected_mm[found.wrong], strict=True)
    ]
    return [
        "Landmarks that lie far from where the others expect them did not steer: "
        f"{_listed(named)}. Check their places, or give them more mm of trust."
    ]


# ---------------------------------------------------------------- structures


def _common(fixed: Subject, moving: Subject, parameters: Parameters) -> tuple[int, ...]:
    """The labels that both sides have and that are to steer."""
    for side, subject in (("fixed", fixed), ("moving", moving)):
        if subject.label_map is None:
            raise InputError(
                f"label_weight: structures steer if they are drawn on both sides, and the {side} image has no labels. "
                "Give its labels, or set it to 0."
            )
    sides = [set(label_values(each.label_map.data).tolist()) - {0} for each in (fixed, moving)]
    asked = parameters.steering_labels
    for side, there in zip(("fixed", "moving"), sides, strict=True):
        missing = [label for label in asked if label not in there]
        if missing:
            raise InputError(
                f"steering_labels: the {side} labels have no {_listed(missing)}. Name labels that both sides have: "
                f"{_listed(sorted(sides[0] & sides[1])) or 'there are none'}."
            )
    common = asked or tuple(sorted(sides[0] & sides[1]))
    if not common:
        raise InputError(
            "label_weight: the label maps have no label in common. Give the same structures the same numbers, in "
            "segmentations the same names."
        )
    return common


# ---------------------------------------------------------------- structures that are to be kept


def _named(fixed: Subject, labels: tuple[int, ...], name: str) -> None:
    if not labels:
        return
    if fixed.label_map is None:
        raise InputError(
            f"{name}: names structures of the fixed labels, and there are none. Give them, or leave it out."
        )
    there = set(label_values(fixed.label_map.data).tolist()) - {0}
    missing = [label for label in labels if label not in there]
    if missing:
        raise InputError(f"{name}: the fixed labels have no {_listed(missing)}. There are: {_listed(sorted(there))}.")


def _kept(problem: Problem, fixed: Subject, label: int, kind: str) -> Kept:
    inside = (fixed.label_map.data == label).astype(np.float32)
    weight = linear(Volume(fixed.label_map.grid, inside), problem.grid, None, 0.0)
    if float(weight.sum()) < 8:
        raise InputError(
            f"{kind}_labels: label {label} is smaller than a few working voxels of "
            f"{float(problem.grid.spacing.min()):.3g} mm. Leave it out, or choose a smaller working voxel."
        )
    return Kept(weight, kind, COUNTS / (_RIGID if kind == "rigid" else _VOLUME) ** 2)


def _listed(names: Sequence[Any]) -> str:
    more = f" and {len(names) - _MOST_SHOWN} more" if len(names) > _MOST_SHOWN else ""
    return ", ".join(str(name) for name in names[:_MOST_SHOWN]) + more
