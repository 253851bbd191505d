# SPDX-License-Identifier: Apache-2.0
"""Which trained model fits two images: for every model the reasons why it does not, and of those without any the best.

A model fits if its dimension, its license and its voxels allow it, if the objects have the size of those it was trained
on, and if both images, laid on the mean image of its training set, agree with that as training images do. Of several
that fit, one that was trained for one contrast comes before one for any, and then the more accurate.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..imaging.resampling import mask_on_grid
from ..imaging.volume import Volume
from ..problem.parameters import METHODS, Parameters
from ..problem.subject import Subject, check_dimensions
from ..support.errors import InputError
from .consent import noncommercial_accepted
from .model_words import choice_note, figures_of_dice, nothing_fits
from .pose import FAR, MeanImage, Pose, pose, pose_nearby
from .trained_models import AUTO, Found, Model, ModelConfig, find_models, load_model

# Voxels per axis of the thinned-out images that are looked at: at least so many, if there are.
_LOOKED_AT = 64
# What lies further beyond the sizes of the training is another object (as prediction.Predictor.unusual has it).
_EXTENT_SLACK = 1.25
# Of an object's voxels, this part at either end of an axis does not count as its extent: stray voxels.
_STRAY = 0.002
# Voxels that are so many times as long as those of the training do not show what the model looks at.
_COARSE = 2.5
# An object turned by more against the mean image lies as no training image did.
_TURNED_DEGREES = 50.0
# Agreement in any contrast that lies so many standard deviations below that of training images: brains painted in
# contrasts that nobody has seen lie up to 4.4 below, hearts and wombs of the size of a brain from 7 on.
_FAR_IN_ANY_CONTRAST = 5.5
# Of the same contrast is what agrees over bright tissue at least so well as training images do, times this: T1 images
# of brains and hippocampi, which do to 0.84 and 0.72, reach 0.43 to 0.81, what is like T2 or FLAIR -0.8 to 0.
_SAME_TISSUE, _LEAST_SPREAD = 0.4, 0.05


@dataclass(frozen=True)
class Misfit:
    """A reason why a model does not fit: its name, and the figures of model_words.misfit_sentence."""

    finding: str
    figures: dict[str, Any] = dataclasses.field(default_factory=dict)


@dataclass(frozen=True)
class Candidate:
    """A model and why it does not fit; it fits if there is no reason."""

    found: Found
    misfits: tuple[Misfit, ...]

    @property
    def fits(self) -> bool:
        """Whether nothing speaks against it."""
        return not self.misfits

    @property
    def license_alone(self) -> bool:
        """Whether only a consent is missing."""
        return [each.finding for each in self.misfits] == ["license"]

    def seen(self, sides: Sequence[Look]) -> Candidate:
        """The same with what is seen of the images; see seen_misfits."""
        try:
            mean = load_model(self.found.folder).mean_image
            return Candidate(self.found, self.misfits + seen_misfits(self.found.config, mean, sides))
        except InputError as error:
            return Candidate(self.found, (*self.misfits, Misfit("damaged", {"problem": str(error)})))


@dataclass(frozen=True, eq=False)
class Look:
    """What of an image decides which model fits.

    Attributes:
        image: thinned out.
        mask: where it counts, on the image's grid; None for all of it.
        extent_mm: of the object along each axis.
        voxel_mm: the longest edge of the image's own voxels.
        ct: whether its values are Hounsfield units.
    """

    image: Volume
    mask: Volume | None
    extent_mm: tuple[float, ...]
    voxel_mm: float
    ct: bool

    @classmethod
    def at(cls, image: Volume, mask: Volume | None = None, voxel_mm: float | None = None) -> Look:
        """A look at a checked image, which may be thinned out already if the edge of its own voxels is given."""
        from ..imaging.intensities import foreground, is_ct

        small = image.thinned(_LOOKED_AT)
        inside = foreground(small)
        seen = None
        if mask is not None:
            limits = mask_on_grid(mask, small.grid)
            if (inside & limits).any():
                inside &= limits
                seen = Volume(small.grid, limits.astype(np.uint8), mask.name)
        voxel = float(image.grid.spacing.max()) if voxel_mm is None else voxel_mm
        return cls(small, seen, _extent(inside, small.grid.spacing), voxel, is_ct(small))

    @property
    def ndim(self) -> int:
        """Number of axes."""
        return self.image.ndim


def _extent(inside: np.ndarray, spacing: np.ndarray) -> tuple[float, ...]:
    lengths = []
    for axis, h in enumerate(spacing):
        others = tuple(a for a in range(inside.ndim) if a != axis)
        share = np.cumsum(inside.sum(axis=others, dtype=np.float64))
        share /= max(share[-1], 1.0)
        low, high = np.searchsorted(share, (_STRAY, 1 - _STRAY))
        lengths.append(float((high - low + 1) * h))
    return tuple(lengths)


# ------------------------------------------------------------------------------------------------- what speaks against


def stated_misfits(config: ModelConfig, sides: Sequence[Look], accepted: bool) -> tuple[Misfit, ...]:
    """What speaks against a model by what it states and what is seen at once; in no time.

    Args:
        config: the model's.
        sides: the fixed and the moving image, or one of them.
        accepted: whether the user has agreed to licenses that exclude commercial use.
    """
    found: list[Misfit] = []
    if config.noncommercial and not accepted:
        found.append(Misfit("license", {"license": config.license}))
    for side in sides:
        found += _stated_of_side(config, side)
    return tuple(found)


def _stated_of_side(config: ModelConfig, side: Look) -> list[Misfit]:
    name = side.image.name
    if side.ndim != config.ndim:
        return [Misfit("dimension", {"image": name, "has": side.ndim, "model": config.ndim})]
    found = []
    low, high = config.extent_mm
    if min(side.extent_mm) < low / _EXTENT_SLACK or max(side.extent_mm) > high * _EXTENT_SLACK:
        sizes = {"smallest_mm": min(side.extent_mm), "largest_mm": max(side.extent_mm)}
        found.append(Misfit("size", {"image": name, **sizes, "low_mm": float(low), "high_mm": float(high)}))
    if side.voxel_mm > _COARSE * config.spacing_mm:
        found.append(Misfit("coarse", {"image": name, "voxel_mm": side.voxel_mm, "model_mm": config.spacing_mm}))
    by_window = config.parameters.normalization == "window"
    if side.ct != by_window and config.parameters.normalization != "auto":
        found.append(Misfit("ct" if side.ct else "not-ct", {"image": name}))
    return found


def seen_misfits(config: ModelConfig, mean: MeanImage | None, sides: Sequence[Look]) -> tuple[Misfit, ...]:
    """What speaks against a model by how the images agree with the mean image of its training set, of the first that
    does not; in some 0.1 s for an image."""
    if mean is None:
        return (Misfit("no-mean-image"),)
    with ThreadPoolExecutor(len(sides)) as pool:
        poses = list(pool.map(lambda side: pose_nearby(side.image, mean, side.mask), sides))
    for side, at in zip(sides, poses, strict=True):
        if _unlike(at, mean) and config.posed:  # which takes images that lie anyhow
            at = pose(side.image, mean, side.mask)
        name = {"image": side.image.name}
        if _unlike(at, mean):
            return (Misfit("unlike", {**name, "agreement": at.any_contrast, "usual": mean.any_contrast[0]}),)
        if at.turned > _TURNED_DEGREES and not config.posed:
            return (Misfit("turned", {**name, "degrees": at.turned}),)
        if config.contrast == "alike" and (at.below(mean) > FAR or _of_other_tissue(at, mean)):
            return (Misfit("contrast", name),)
    return ()


def _of_other_tissue(at: Pose, mean: MeanImage) -> bool:
    usual, spread = mean.tissue
    return at.tissue < min(_SAME_TISSUE * usual, usual - FAR * max(spread, _LEAST_SPREAD))


def _unlike(at: Pose, mean: MeanImage) -> bool:
    return at.below(mean, any_contrast=True) > _FAR_IN_ANY_CONTRAST


# ----------------------------------------------------------------------------------------------------------- the choice


def candidates(
    sides: Sequence[Look], accepted: bool, all_reasons: bool = False, method: str = "deepflash"
) -> list[Candidate]:
    """All models of a method in the order in which they are preferred, each with what speaks against it.

    Args:
        sides: the fixed and the moving image.
        accepted: whether the user has agreed to licenses that exclude commercial use.
        all_reasons: look at the images for every model, not only until one fits.
        method: of which they are models.
    """
    found = [Candidate(entry, stated_misfits(entry.config, sides, accepted)) for entry in preferred(method)]
    for number, each in enumerate(found):
        if each.fits or (all_reasons and each.license_alone):
            found[number] = each.seen(sides)
            if found[number].fits and not all_reasons:
                return found
    if not any(each.fits for each in found):
        # Whether a consent would help.
        found = [each.seen(sides) if each.license_alone and not all_reasons else each for each in found]
    return found


def preferred(method: str) -> list[Found]:
    """The models of a method that can be used, the special and the more accurate ones first."""

    def order(entry: Found) -> tuple[Any, ...]:
        dice = figures_of_dice(entry.config)
        return entry.config.contrast != "alike", -dice[1] if dice else 0.0, entry.name

    usable = [each for each in find_models() if each.config is not None and not each.problem]
    return sorted((each for each in usable if each.config.method == method.removesuffix("+flash")), key=order)


def usable_models(method: str) -> list[Model]:
    """The models of `preferred` that are whole."""
    found = []
    for entry in preferred(method):
        with contextlib.suppress(InputError):
            found.append(load_model(entry.folder))
    return found


def likely(parameters: Parameters, sides: Sequence[Look]) -> Parameters:
    """The parameters with a model that may fit in the place of "auto", or with FLASH; to tell what a run needs, in no
    time."""
    if not is_open(parameters):
        return parameters
    accepted = noncommercial_accepted() is True
    for entry in preferred(parameters.method):
        if not stated_misfits(entry.config, sides, accepted):
            return dataclasses.replace(parameters, model=entry.name)
    return dataclasses.replace(parameters, method="flash")


def is_open(parameters: Parameters) -> bool:
    """Whether a model is still to be chosen."""
    return parameters.model == AUTO and METHODS[parameters.method].needs_model


def settled(parameters: Parameters, fixed: Subject, moving: Subject) -> tuple[Parameters, tuple[str, ...]]:
    """The parameters with the model that fits in the place of "auto", and why, as notes.

    Args:
        fixed, moving: as `register` takes them.

    Raises:
        InputError: they cannot be used, or none fits; says why each does not, and what to do.
    """
    if not is_open(parameters):
        return parameters, ()
    fixed, moving = fixed.checked("fixed"), moving.checked("moving")
    check_dimensions(fixed.image, moving.image)
    sides = [Look.at(each.image, each.mask) for each in (fixed, moving)]
    found = candidates(sides, noncommercial_accepted() is True, method=parameters.method)
    for number, each in enumerate(found):
        if each.fits:
            note = choice_note(each.found.config, [(other.found.name, other.misfits) for other in found[:number]])
            return dataclasses.replace(parameters, model=each.found.name), (note,)
    raise InputError(nothing_fits([(each.found.name, each.misfits) for each in found]))
