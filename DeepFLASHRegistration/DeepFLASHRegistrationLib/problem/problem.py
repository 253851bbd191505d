# SPDX-License-Identifier: Apache-2.0
"""What is solved: two images with comparable intensities on one working grid, and the box the geodesic lives on."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from ..imaging.grid import Grid
from ..imaging.volume import Volume
from ..support.errors import InputError
from .deformation import border_window
from .parameters import Parameters
from .resampling import blurred, linear
from .steering import SOFT, steering
from .subject import Subject, object_voxels
from .working import chosen_lengths, level_factors, level_modes, problem_grid

if TYPE_CHECKING:
    from collections.abc import Callable

    import torch

    from ..geodesics.band import Lattice, Metric
    from ..geodesics.objective import Compared, Level, Pair, Settings

# A voxel belongs to the object if this part of it does; no fraction that grids half a voxel apart give exactly, which
# rounding would decide.
_COVERED = 0.24
# Part of a face of the field of view that an object which is cut there covers at least; whole brains cover 0.001.
_CUT = 0.03
# Points of the map's lattice per shortest wavelength of the band, while optimizing.
_MAP_POINTS = 3.2


def scaled(subject: Subject, parameters: Parameters, ct: bool | None = None) -> Subject:
    """A checked subject with intensities of about 0..1, and nothing left of what its mask excludes.

    ``ct``: whether its values are scaled as those of CT; by default as they look, if the parameters leave it open.
    """
    from ..imaging.intensities import foreground, is_ct, n4, normalize, published_percentiles, published_window

    if ct is None:
        ct = parameters.normalization == "auto" and is_ct(subject.image)
    window = (parameters.window_low, parameters.window_high) if ct or parameters.normalization == "window" else None
    if parameters.normalization == "unigradicon":
        window = published_window(subject.image)
    elif parameters.normalization == "unicarl":
        window = published_percentiles(subject.image)
    inside = subject.inside
    result = normalize(subject.image, inside, window)
    if ct:
        note = "its values are those of CT, of which a fixed window is used; if it is none, choose percentiles"
        result = result.with_data(result.data, f"{subject.image.name or 'image'}: {note}")
    if parameters.bias_correction:
        result = normalize(n4(result, inside), inside)
    if inside is not None:
        if np.ptp(result.data[inside]) == 0:
            raise InputError(
                f"{subject.mask.name}: {subject.image.name or 'the image'} shows nothing inside this mask. "
                "Draw it on the object."
            )
        shown = Volume(result.grid, (foreground(result) & inside).astype(np.uint8))
        result = _filled(result, inside, chosen_lengths(result.grid, shown, parameters).window_mm / 2)
    return subject.with_image(result)


def comparable(fixed: Subject, moving: Subject, parameters: Parameters) -> tuple[Subject, Subject]:
    """Two checked subjects with intensities that can be compared, about 0..1, image by image; see `scaled`."""
    first = _comparable(fixed, moving, parameters)
    further = [_comparable(*each, parameters) for each in zip(fixed.channels, moving.channels, strict=True)]
    return tuple(
        replace(side, images=(side.image, *(each[number].image for each in further)))
        for number, side in enumerate(first)
    )


def _comparable(fixed: Subject, moving: Subject, parameters: Parameters) -> tuple[Subject, Subject]:
    """As `comparable`, of the first images."""
    from ..imaging.intensities import is_ct, match_histogram

    # The window is what two CT images share; beside another contrast it but makes more of the noise of soft tissue.
    ct = parameters.normalization == "auto" and is_ct(fixed.image) and is_ct(moving.image)
    fixed, moving = scaled(fixed, parameters, ct), scaled(moving, parameters, ct)
    if parameters.histogram_matching:
        moving = moving.with_image(match_histogram(moving.image, fixed.image))
    return fixed, moving


def _filled(volume: Volume, inside: np.ndarray, sigma_mm: float) -> Volume:
    """The volume with what lies outside the mask replaced by an average of what lies inside, nearby: windows and
    interpolation reach across the mask's border, and must find nothing there that the user has excluded."""
    grid = volume.grid
    sigma = [float(min(max(sigma_mm, h), h * n / 8)) / h for h, n in zip(grid.spacing, grid.shape, strict=True)]

    def smooth(values: np.ndarray) -> np.ndarray:
        return blurred(values.astype(np.float32), sigma)

    weight = smooth(inside)
    mean = float(volume.data[inside].mean())
    nearby = smooth(np.where(inside, volume.data - mean, 0)) / np.maximum(weight, 1e-3) + mean
    return volume.with_data(np.where(inside, volume.data, nearby).astype(np.float32))


@dataclass(frozen=True, eq=False)
class Images:
    """Two further images on the working grid, as the first of a Problem; how much they count, by what they are compared
    ("" for what the first are), and the name of the moving one."""

    fixed: np.ndarray
    moving: np.ndarray
    fixed_mask: np.ndarray
    moving_mask: np.ndarray
    fixed_view: np.ndarray | None
    moving_view: np.ndarray | None
    weight: float
    similarity: str
    name: str


class Problem:
    """The images on the working grid, and the box the geodesic lives on.

    Attributes:
        affine: (d+1, d+1) LPS mm, fixed -> moving.
        foreground: object voxels of the fixed image, over which metrics are taken; bool on its own grid.
        grid: the working grid; lengths are its edges in units of unit_mm.
        fixed, moving: float32 on the working grid.
        fixed_mask, moving_mask: where they are compared; bool.
        fixed_view, moving_view: what may be looked at, 0..1; None for all.
        channels: further images of both that are compared besides.
        steering: what steers besides the images.
    """

    def __init__(
        self,
        fixed: Subject,
        moving: Subject,
        affine: np.ndarray,
        parameters: Parameters,
        unit_mm: float | None = None,
        multiple: int = 1,
        device: str = "cpu",
        grid: Grid | None = None,
    ):
        """Subjects as `comparable` returns them; ``unit_mm``: the unit of length, chosen by default;
        ``multiple``: of what every level has a multiple of voxels along each axis; ``device``: where images are
        resampled; ``grid``: the working grid, whatever the axes of the images; chosen by default."""
        self.affine, self._device = affine, device
        self.foreground = object_voxels(fixed)
        inside = Volume(fixed.grid, self.foreground.astype(np.uint8))
        lengths = chosen_lengths(fixed.grid, inside, parameters)
        self.margin_mm, self.window_mm, self.unit_mm = lengths.margin_mm, lengths.window_mm, unit_mm or lengths.unit_mm
        self.grid = grid or problem_grid(fixed.grid, inside, parameters, multiple, fixed.image.name)
        self.lengths = tuple(float(x) for x in self.grid.extent / self.unit_mm)
        self.fixed = linear(fixed.image, self.grid, None, beyond(fixed.image), device)
        self.moving = linear(moving.image, self.grid, affine, beyond(moving.image), device)
        self._compare_fixed(fixed)
        self._compare_moving(moving, fixed.image.name)
        self.channels = self._compare_channels(fixed, moving, parameters)
        self.steering = steering(self, fixed, moving, parameters)

    def _compare_fixed(self, fixed: Subject) -> None:
        from ..imaging.intensities import dilated

        masked = fixed.inside
        # One voxel around the object belongs to it: its outline is information too.
        self.fixed_mask = dilated(self._covered(fixed.grid, self.foreground) > _COVERED, [1] * fixed.ndim)
        if masked is not None:
            self.fixed_mask &= self._covered(fixed.grid, masked) > _COVERED
        if not self.fixed_mask.any():
            raise InputError(
                f"A working voxel of {float(self.grid.spacing.min()):.3g} mm is larger than what "
                f"{fixed.image.name or 'the fixed image'} shows. Choose a smaller one, or 0 to let it be chosen."
            )
        self.fixed_view = None
        if masked is not None or _goes_on(fixed.image):
            whole = self.foreground if masked is not None else np.ones(fixed.grid.shape, dtype=bool)
            seen = self._covered(fixed.grid, whole)
            self.fixed_view = seen if float(seen.min()) < 0.999 else None

    def _compare_moving(self, moving: Subject, fixed_name: str) -> None:
        from ..imaging.intensities import dilated, foreground

        masked = moving.inside
        view = np.ones(moving.grid.shape, dtype=bool) if masked is None else masked
        seen = self._covered(moving.grid, view, self.affine)
        meets = np.count_nonzero(self.fixed_mask & (seen > 0.5)) / np.count_nonzero(self.fixed_mask)
        if meets < 0.02:
            raise InputError(
                f"{fixed_name or 'The fixed'} and {moving.image.name or 'moving image'} do not overlap after the "
                f"alignment ({100 * meets:.0f} % of the fixed object is seen in the moving image). Check that they "
                'show the same object; use the initial alignment "affine" or "centers", or give an initial transform.'
            )
        object_ = foreground(moving.image) & view
        self.moving_mask = dilated(self._covered(moving.grid, object_, self.affine) > _COVERED, [1] * moving.ndim)
        if masked is not None:
            self.moving_mask &= seen > _COVERED
        if not self.moving_mask.any():
            self.moving_mask = self.fixed_mask
        hidden = masked is not None or _goes_on(moving.image)
        self.moving_view = seen if hidden and float(seen.min()) < 0.999 else None

    def _compare_channels(self, fixed: Subject, moving: Subject, parameters: Parameters) -> tuple[Images, ...]:
        count = len(fixed.images) - 1
        weights = parameters.channel_weights or (1.0,) * count
        similarities = parameters.channel_similarities or ("",) * count
        found = []
        for each in zip(fixed.images[1:], moving.images[1:], weights, similarities, strict=True):
            *images, weight, similarity = each
            here, there = self._own_view(images[0]), self._own_view(images[1], self.affine)
            masks = [
                mask if view is None else mask & (view > 0.5)
                for mask, view in ((self.fixed_mask, here), (self.moving_mask, there))
            ]
            if not (masks[0] & (True if there is None else there > 0.5)).any() or not masks[1].any():
                names = " and ".join(image.name or "a further image" for image in images)
                raise InputError(
                    f"{names}: show nothing of what {fixed.image.name or 'the fixed image'} shows, once they are "
                    "aligned. Check that they belong to it, or leave them out."
                )
            resampled = [
                linear(image, self.grid, matrix, beyond(image), self._device)
                for image, matrix in zip(images, (None, self.affine), strict=True)
            ]
            views = _both(self.fixed_view, here), _both(self.moving_view, there)
            found.append(Images(*resampled, *masks, *views, weight, similarity, images[1].name))
        return tuple(found)

    def _own_view(self, image: Volume, affine: np.ndarray | None = None) -> np.ndarray | None:
        """What of the working grid an image shows, 0..1; None for all."""
        if not _goes_on(image):
            return None
        seen = self._covered(image.grid, np.ones(image.grid.shape, dtype=bool), affine)
        return seen if float(seen.min()) < 0.999 else None

    def _covered(self, grid: Grid, inside: np.ndarray, affine: np.ndarray | None = None) -> np.ndarray:
        """Which part of each voxel of the working grid is inside, 0..1."""
        return linear(Volume(grid, inside.astype(np.float32)), self.grid, affine, 0.0, self._device)

    def pair(self, device: str = "cpu") -> Pair:
        """The first images as tensors."""
        return self._tensors(self, device)

    def channel_pairs(self, device: str = "cpu") -> list[Pair]:
        """The further images as tensors."""
        return [self._tensors(each, device, each.similarity) for each in self.channels]

    def _tensors(self, images: Problem | Images, device: str, similarity: str = "") -> Pair:
        import torch

        from ..geodesics.objective import Pair

        def tensor(x: np.ndarray | None) -> torch.Tensor | None:
            return None if x is None else torch.from_numpy(np.ascontiguousarray(x, dtype=np.float32)).to(device)

        names = ("fixed", "moving", "fixed_mask", "moving_mask", "fixed_view", "moving_view")
        return Pair(*(tensor(getattr(images, name)) for name in names), self.lengths, similarity)

    def compared(self, device: str = "cpu", stiffness: float = 1.0) -> Compared:
        """The images, and what steers besides; what is to be kept times the stiffness. Of several images of a subject
        the dissimilarity is their weighted mean."""
        pair = self.pair(device)
        weights = [each.weight for each in self.channels]
        if not (self.steering or any(weights)):
            return pair
        from ..geodesics.objective import Part, Together

        total = 1.0 + sum(weights)
        further = zip(self.channel_pairs(device), weights, strict=True)
        images = [Part(each, weight / total) for each, weight in further if weight]
        return Together((Part(pair, 1 / total), *images, *self.steering.parts(self, device, stiffness)))

    def window(self, device: str = "cpu") -> Callable[[Lattice], torch.Tensor]:
        """Lattice -> weights that let the velocity fade out over the margin."""
        return lambda lattice: border_window(lattice, self.lengths, self.margin_mm / self.unit_mm, device)

    def geodesic(self, velocity: torch.Tensor, metric: Metric, parameters: Parameters) -> dict[str, Any]:
        """What determines the maps: the arguments of Deformation, as `Result.velocity` keeps them."""
        band_limited = parameters.map == "band-limited"
        return {
            "domain": self.grid,
            "unit_mm": self.unit_mm,
            "velocity": velocity.detach().cpu().numpy().astype(np.float32),
            "alpha": metric.alpha,
            "power": metric.power,
            "gamma": metric.gamma,
            "metric_step": metric.step,
            "affine": self.affine,
            "margin_mm": self.margin_mm,
            "band_limited": band_limited,
            "integrator": parameters.integrator if band_limited else "rk4",
            "steps": parameters.steps if band_limited else 0,
        }

    def levels(self, parameters: Parameters) -> list[Level]:
        """The levels of the optimizer; resolutions other than the problem's own must divide its grid as well."""
        from ..geodesics.band import Band, Metric
        from ..geodesics.objective import Level

        every = level_factors(self.grid, parameters)
        count = len(every)
        longest = int(np.argmax(self.lengths))
        edges = self.grid.spacing / self.unit_mm
        levels = []
        for i, (factors, modes) in enumerate(zip(every, level_modes(self.grid, parameters), strict=True)):
            voxel = edges * np.array(factors)
            alpha = parameters.alpha * parameters.alpha_growth ** (count - 1 - i)
            step = float(edges.min()) if parameters.map == "band-limited" else None
            window = self.window_mm / self.unit_mm
            radius = tuple(max(2.0, float(window / v - 1) / 2) for v in voxel)
            # Of what the band holds, which few voxels may leave narrower than was asked for.
            wavelength = 2 * self.lengths[longest] / max(modes[longest] - 1, 1)
            map_step = max(float(voxel.min()) * 0.999, wavelength / _MAP_POINTS)
            levels.append(
                Level(
                    factors,
                    Band(modes, self.lengths),
                    Metric(alpha, parameters.power, parameters.gamma, step),
                    radius,
                    parameters.iterations[i],
                    map_step,
                )
            )
        return levels


def energy_at_rest(problem: Problem, parameters: Parameters) -> float:
    """The energy of the affine alone, at the first of the levels; what of the fixed object is not seen in the moving
    image counts as wholly unlike."""
    import torch

    from ..geodesics.objective import Objective

    level = problem.levels(parameters)[0]
    zero = torch.zeros(problem.grid.ndim, *level.band.modes)
    found = Objective(problem.compared(stiffness=SOFT), level, settings(parameters), problem.window(), zero)
    unseen = 1 - found.sides[0].covered / float(problem.fixed_mask.mean())
    return found.at_rest() + found.data_weight * max(unseen, 0.0)


def beyond(image: Volume) -> float:
    """What a scaled image is thought to be beyond its grid: background, or of one without as dark as it is anywhere."""
    from ..imaging.intensities import background_value

    if background_value(image) is not None:
        return 0.0
    return float(np.percentile(image.data[(slice(None, None, 4),) * image.ndim], 5))


def settings(parameters: Parameters) -> Settings:
    """What all levels of the optimizer share."""
    from ..geodesics.objective import Settings

    return Settings(
        parameters.similarity,
        parameters.symmetric,
        parameters.sigma,
        parameters.integrator,
        parameters.steps,
        parameters.map == "band-limited",
        parameters.tolerance,
        parameters.search,
    )


def _both(one: np.ndarray | None, other: np.ndarray | None) -> np.ndarray | None:
    """What two views show; None for all."""
    return one if other is None else other if one is None else np.minimum(one, other)


def _goes_on(image: Volume) -> bool:
    """Whether there may be anatomy where an image ends: not if it is stripped, or in air, all around, where beyond is
    background as inside; but if its object is cut by a face of the field of view."""
    from ..imaging.intensities import background_value, foreground

    if background_value(image) is None:
        return True
    object_ = foreground(image)
    return any(np.take(object_, end, axis=axis).mean() > _CUT for axis in range(image.ndim) for end in (0, -1))
