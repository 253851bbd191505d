# SPDX-License-Identifier: Apache-2.0
"""One side of a registration: an image, and what belongs to it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TypedDict

import numpy as np

from ..imaging.grid import Grid
from ..imaging.landmarks import Landmarks, Pairs, paired
from ..imaging.resampling import mask_on_grid
from ..imaging.volume import Volume, checked_image, checked_labels, checked_mask, label_values
from ..support.errors import InputError
from .belonging import elsewhere, with_place_checked, with_sense_checked
from .parameters import STEERABLE, Parameters


@dataclass(frozen=True, eq=False)
class Subject:
    """An image with its labels, mask and landmarks; all in one space, each on a grid of its own.

    Attributes:
        images: the image, that is aligned, shown and measured, and any further ones (channels: another contrast, a
            dose) that are compared besides; a single Volume may be given.
        labels: label maps, none, one, or several that overlap; a single Volume or None may be given.
        mask: what lies outside does not count in the similarity.
        landmarks: points that correspond to those of the other side.
        name: what messages call the subject; the image's by default.
    """

    images: tuple[Volume, ...]
    labels: tuple[Volume, ...] = ()
    mask: Volume | None = None
    landmarks: Landmarks | None = None
    name: str = ""

    def __post_init__(self) -> None:
        for field in ("images", "labels"):
            given = getattr(self, field)
            volumes = () if given is None else (given,) if isinstance(given, Volume) else given
            if not isinstance(volumes, (tuple, list)):
                raise TypeError(f"{field} must be a Volume or several, not {type(given).__name__}. {_READING}")
            _check_types(volumes, Volume, field)
            object.__setattr__(self, field, tuple(volumes))
        _check_types([] if self.mask is None else [self.mask], Volume, "mask")
        _check_types([] if self.landmarks is None else [self.landmarks], Landmarks, "landmarks")
        if not self.images:
            raise TypeError("A subject needs an image.")
        if not self.name:
            object.__setattr__(self, "name", self.images[0].name)

    @property
    def image(self) -> Volume:
        """The first image."""
        return self.images[0]

    @property
    def channels(self) -> tuple[Subject, ...]:
        """The further images of a checked subject, each alone with the mask."""
        return tuple(Subject(image, mask=_mask_of(image, self.mask), name=self.name) for image in self.images[1:])

    @property
    def label_map(self) -> Volume | None:
        """The one label map, None without; InputError if there are several."""
        if len(self.labels) > 1:
            raise InputError(f"{self.name or 'The subject'} has {len(self.labels)} label maps. Pass one of them.")
        return self.labels[0] if self.labels else None

    @property
    def ndim(self) -> int:
        """Number of axes, 2 or 3."""
        return self.images[0].ndim

    @property
    def grid(self) -> Grid:
        """Where the image's voxels lie."""
        return self.images[0].grid

    @property
    def notes(self) -> tuple[str, ...]:
        """What was changed or noticed while all this was read."""
        volumes = [*self.images, *self.labels, *([] if self.mask is None else [self.mask])]
        return tuple(dict.fromkeys(note for volume in volumes for note in volume.notes))

    @property
    def inside(self) -> np.ndarray | None:
        """The mask of a checked subject, bool on the image's grid; None without."""
        return None if self.mask is None else self.mask.data != 0

    def with_image(self, image: Volume) -> Subject:
        """The same subject with another first image."""
        return replace(self, images=(image, *self.images[1:]))

    def posed(self, matrix: np.ndarray) -> Subject:
        """All of it moved: points x go to matrix @ x, (d+1, d+1) LPS mm."""

        def moved(volume: Volume) -> Volume:
            return replace(volume, grid=Grid(volume.grid.shape, matrix @ volume.grid.affine))

        d = self.ndim
        landmarks = self.landmarks
        if landmarks is not None:
            landmarks = replace(landmarks, positions=landmarks.positions @ matrix[:d, :d].T + matrix[:d, d])
        return replace(
            self,
            images=tuple(map(moved, self.images)),
            labels=tuple(map(moved, self.labels)),
            mask=None if self.mask is None else moved(self.mask),
            landmarks=landmarks,
        )

    def checked(self, side: str = "") -> Subject:
        """The subject with all parts fit for use: finite float32 images, int32 labels, a mask on the image's grid,
        landmarks inside the image and of its dimension.

        Args:
            side: "fixed" or "moving": what messages call a part that has no name.

        Raises:
            InputError: a part cannot be used, or belongs to another image.
        """
        images = tuple(map(checked_image, self.images))
        labels = tuple(map(checked_labels, self.labels))
        mask = None if self.mask is None else checked_mask(self.mask)
        check_dimensions(images[0], *images[1:], *labels, mask)
        grid = images[0].grid
        images = (images[0], *(_beside(_named(each, f"{side} channel"), images[0]) for each in images[1:]))
        labels = tuple(with_place_checked(_named(each, f"{side} labels"), images[0]) for each in labels)
        if mask is not None:
            mask = with_place_checked(_named(mask, f"{side} mask"), images[0])
            inside = mask_on_grid(mask, grid)
            mask = with_sense_checked(replace(mask, grid=grid, data=inside.astype(np.uint8)), images[0])
        landmarks = None if self.landmarks is None else _checked_landmarks(self.landmarks, images[0], side)
        return replace(self, images=images, labels=labels, mask=mask, landmarks=landmarks)


_READING = "read_volume, read_labels and read_mask read files."


def _check_types(parts: Sequence[object], kind: type, what: str) -> None:
    for part in parts:
        if not isinstance(part, kind):
            raise TypeError(f"{what} must be {kind.__name__}, not {type(part).__name__}. {_READING}")


class Attached(TypedDict, total=False):
    """What `register` takes by keywords beside two volumes; each as in `Subject`, points as an array (N, d) LPS mm."""

    fixed_labels: Volume | None
    moving_labels: Volume | None
    fixed_mask: Volume | None
    moving_mask: Volume | None
    fixed_points: np.ndarray | None
    moving_points: np.ndarray | None


def subjects(fixed: Subject | Volume, moving: Subject | Volume, attached: Attached) -> tuple[Subject, Subject]:
    """Both sides as subjects; keywords belong to volumes, and none may be given for a side that is a subject.

    Raises:
        TypeError: an unknown keyword, or one for a side that is a subject already.
    """
    unknown = sorted(set(attached) - set(Attached.__annotations__))
    if unknown:
        raise TypeError(f"register() got an unexpected keyword argument {unknown[0]!r}")
    found = []
    for side, given in (("fixed", fixed), ("moving", moving)):
        parts = {what: attached.get(f"{side}_{what}") for what in ("labels", "mask", "points")}
        if isinstance(given, Subject):
            twice = [f"{side}_{what}" for what, part in parts.items() if part is not None]
            if twice:
                raise TypeError(f"The {side} side is a Subject: pass {', '.join(twice)} as part of it.")
            found.append(given)
        else:
            points = parts["points"]
            landmarks = None if points is None else _unnamed(points, side)
            found.append(Subject(given, parts["labels"], parts["mask"], landmarks))
    return found[0], found[1]


def check_dimensions(first: Volume, *others: Volume | None) -> None:
    """InputError unless all have the dimension of the first."""
    for other in others:
        if other is not None and other.ndim != first.ndim:
            raise InputError(
                f"{first.name or 'fixed'} has {first.ndim} dimensions and {other.name or 'another input'} "
                f"{other.ndim}. Pass images of the same dimension."
            )


def corresponding(fixed: Landmarks | None, moving: Landmarks | None) -> Pairs | None:
    """The landmarks that belong together (see `landmarks.paired`); None without any.

    Raises:
        InputError: only one side has landmarks, or which belong together cannot be told.
    """
    if fixed is None and moving is None:
        return None
    if fixed is None or moving is None:
        raise InputError("Landmarks are compared in pairs: give those of the fixed and of the moving image.")
    return paired(fixed, moving)


def unlike_labels(fixed: Subject, moving: Subject) -> tuple[str, ...]:
    """A note if the label maps of both have no label in common, so that nothing can be compared."""
    one, two = fixed.label_map, moving.label_map
    if one is None or two is None or np.intersect1d(label_values(one.data), label_values(two.data)).any():
        return ()
    return (
        f"{one.name or 'The fixed labels'} and {two.name or 'the moving labels'} have no label in common: they were "
        "not compared. Give the same structures the same numbers, in segmentations the same names.",
    )


def object_voxels(fixed: Subject) -> np.ndarray:
    """The foreground of the fixed image inside its mask."""
    from ..imaging.intensities import foreground

    inside = foreground(fixed.image)
    if fixed.mask is not None:
        inside = inside & fixed.inside
        if not inside.any():
            raise InputError(f"{fixed.mask.name}: covers only background. Draw it on the object.")
    return inside


def check_channels(fixed: Subject, moving: Subject, parameters: Parameters) -> None:
    """What of further images cannot be compared is refused before any work.

    Raises:
        InputError: the checked sides have not as many, something is set for more or fewer, or the method looks at one
            image of each.
    """
    counts = [len(side.images) - 1 for side in (fixed, moving)]
    if counts[0] != counts[1]:
        raise InputError(
            f"The fixed side has {_counted(counts[0])} and the moving side {_counted(counts[1])}. Images are compared "
            "in pairs: give both sides as many, in the same order."
        )
    check_channel_count(counts[0], parameters)


def check_channel_count(count: int, parameters: Parameters) -> None:
    """InputError if something is set for more or fewer further images than both sides have, or the method looks at
    none."""
    for name in ("channel_weights", "channel_similarities"):
        values = getattr(parameters, name)
        if values and len(values) != count:
            raise InputError(
                f"{name}: has {len(values)} entries for {_counted(count)}. Give one for each further image, or none."
            )
    if count and not parameters.steerable and any(parameters.channel_weights or (1.0,)):
        raise InputError(
            f"The method {parameters.method} looks at one image of each side. Use {', '.join(STEERABLE)}, let FLASH "
            f"refine its result ({parameters.method}+flash, where there is one), or set channel_weights to 0."
        )


def _counted(count: int) -> str:
    return f"{count or 'no'} further image{'' if count == 1 else 's'}"


def _beside(channel: Volume, image: Volume) -> Volume:
    """A further image of a subject, with a note if it lies otherwise than the first; InputError if elsewhere."""
    from ..imaging.intensities import foreground

    if channel.grid.same_as(image.grid):
        return channel
    text, wrong = elsewhere(
        image.grid, channel.with_data(foreground(channel).astype(np.uint8)), image.name or "the first image"
    )
    if wrong:
        raise InputError(text)
    other = f"{channel.name}: lies on another grid than {image.name or 'the first image'}; its header was followed"
    return channel.noted(text or other)


def _mask_of(image: Volume, mask: Volume | None) -> Volume | None:
    """A mask on an image's own grid."""
    if mask is None or mask.grid.same_as(image.grid):
        return mask
    return replace(mask, grid=image.grid, data=mask_on_grid(mask, image.grid).astype(np.uint8))


def _named(volume: Volume, name: str) -> Volume:
    return volume if volume.name else replace(volume, name=name.strip())


def _unnamed(points: np.ndarray, side: str) -> Landmarks:
    points = np.asarray(points, dtype=np.float64)
    if points.ndim != 2 or points.shape[1] not in (2, 3):
        raise InputError(f"The {side} landmarks must be an array (N, 2) or (N, 3), not {points.shape}.")
    return Landmarks(points, ("",) * len(points), f"the {side} landmarks")


def _checked_landmarks(landmarks: Landmarks, image: Volume, side: str) -> Landmarks:
    """Landmarks in the dimension of the image; those without a position stay, as rows of NaN."""
    points = landmarks.positions
    if len(points):
        points = image.grid.in_plane(points)
    if points.shape[1] != image.ndim or not len(points):
        raise InputError(
            f"The {side} landmarks must be an array (N, {image.ndim}) with N at least 1, not "
            f"{points.shape}. Give points of the images' own dimension."
        )
    if np.isinf(points).any():
        raise InputError(f"The {side} landmarks hold infinity. Place them all.")
    outside = landmarks.defined & ~image.grid.contains(points)
    if outside.any():
        number = int(np.flatnonzero(outside)[0])
        raise InputError(
            f"{int(outside.sum())} of {len(points)} {side} landmarks lie outside {image.name or 'the image'} (the "
            f"first is number {number + 1} at {np.round(points[number], 1).tolist()} mm LPS). Check that they "
            "belong to this image, and their coordinate system (RAS or LPS)."
        )
    return replace(landmarks, positions=points)
