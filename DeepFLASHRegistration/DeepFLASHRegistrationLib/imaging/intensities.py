# SPDX-License-Identifier: Apache-2.0
"""Intensities: foreground (and masks), robust scaling to [0, 1], bias field, histogram matching."""

from __future__ import annotations

import functools
from collections.abc import Sequence

import numpy as np

from ..support.errors import InputError
from .volume import Volume

# Fraction of voxels that must share the smallest value to call it background (skull-stripped, padded or masked images).
_BACKGROUND_FRACTION = 0.2
# Percentiles that become 0 and 1. Robust against isolated bright vessels or artifacts, yet hardly any tissue saturates.
_PERCENTILES = (0.5, 99.5)
# A single value is padding if at least this fraction of the border has it, and it lies so far from all else, in ranges
# of the rest: very far; or far, where what is beside it is dark (-2000 and the air of a CT image) and it is no 0, which
# may be the background of a stripped image whose rim is dark.
_PADDED_BORDER = 0.01
_PADDING_GAP_BESIDE_DARK, _PADDING_GAP = 0.5, 2.0
_DARK = 0.15
# CT in Hounsfield units: ranges of air and of soft tissue and fat, and which part of the image each has at least;
# little lies below air, and values between the two (lungs) are less dense than those of tissue.
_AIR_HU, _SOFT_HU, _AIR_PART, _SOFT_PART, _BELOW_AIR_PART = (-1050, -930), (-150, 120), 0.01, 0.05, 0.005
_SAMPLE = 400_000
_N4_VOXELS = 60_000


def without_padding(volume: Volume) -> tuple[Volume, list[float]]:
    """The image with padding replaced by the dark end of the rest, and the values that were padding.

    Scanners and resampling fill what they have not seen with one extreme value (-32768, -3024, -2000, 32767), which is
    no intensity: it would make all others look the same.
    """
    found = []
    for extreme in (np.min, np.max):
        value = extreme(volume.data)
        border = on_border(volume.data)
        if np.count_nonzero(border == value) < _PADDED_BORDER * border.size:
            continue
        sample = _sampled(volume.data)
        rest = sample[sample != value]
        if rest.size < 2:
            continue
        low, dark, bright, high = np.percentile(rest, (_PERCENTILES[0], 2, 98, _PERCENTILES[1])).astype(np.float64)
        gap = dark - value if extreme is np.min else value - bright
        if not high > low or gap <= _PADDING_GAP_BESIDE_DARK * (high - low):
            continue
        natural = extreme is np.min and value >= 0
        very_far = gap > _PADDING_GAP * (high - low)
        if very_far or (not natural and _beside(volume, value) <= low + _DARK * (high - low)):
            found.append(float(value))
            volume = volume.with_data(np.where(volume.data == value, volume.data.dtype.type(low), volume.data))
    return volume, found


def _beside(volume: Volume, value: float) -> float:
    """The median of what lies next to the voxels of one value."""
    there = volume.data == value
    beside = volume.data[dilated(there, (1,) * volume.ndim) & ~there]
    return float(np.median(beside)) if beside.size else np.inf


def on_border(data: np.ndarray) -> np.ndarray:
    """The values on the faces of an array."""
    return np.concatenate([np.take(data, end, axis=axis).ravel() for axis in range(data.ndim) for end in (0, -1)])


def background_value(volume: Volume) -> float | None:
    """The constant around the object (skull-stripped), or None if fewer than a fifth of the voxels have it."""
    volume, _ = without_padding(volume)
    return _background_value(volume)


def _background_value(volume: Volume) -> float | None:
    lowest = volume.data.min()
    count = np.count_nonzero(volume.data == lowest)
    return float(lowest) if count > _BACKGROUND_FRACTION * volume.data.size else None


def foreground(volume: Volume) -> np.ndarray:
    """Where the object is, as a boolean array of the volume's shape.

    What is not the constant background, if there is one; else, if the border of the field of view is dark, what is
    brighter than its noise or than Otsu's threshold (IEEE SMC 9, 1979), whichever is less; else everything (a crop
    inside tissue).
    """
    border = on_border(volume.data)
    volume, padding = without_padding(volume)
    constant = _background_value(volume)
    if constant is not None:
        return volume.data > constant
    sample = _sampled(volume.data)
    low, high = np.percentile(sample, _PERCENTILES)
    if padding and not np.isin(border, padding).all():
        border = border[~np.isin(border, padding)]
    dark = np.median(border)
    if high <= low or dark > low + 0.15 * (high - low):
        return np.ones(volume.data.shape, dtype=bool)
    # Four standard deviations, estimated so that tissue on less than half of the border (a neck) does not count.
    noise = dark + 4 * 1.4826 * np.median(np.abs(border - dark))
    return volume.data > min(_otsu(sample, low, high), max(noise, low + 0.02 * (high - low)))


def is_ct(volume: Volume) -> bool:
    """Whether the values are those of CT in Hounsfield units: much near -1000 (air) and near 0 (water, tissue, fat)."""
    volume, _ = without_padding(volume)
    values = _sampled(volume.data)

    def part(low: float, high: float) -> float:
        return np.count_nonzero((values >= low) & (values <= high)) / values.size

    air, soft, between = part(*_AIR_HU), part(*_SOFT_HU), part(_AIR_HU[1], _SOFT_HU[0])
    density = soft / (_SOFT_HU[1] - _SOFT_HU[0])
    return (
        air >= _AIR_PART
        and soft >= _SOFT_PART
        and part(-np.inf, _AIR_HU[0] - 50) <= _BELOW_AIR_PART
        and density > 1.5 * between / (_SOFT_HU[0] - _AIR_HU[1])
    )


def dilated(mask: np.ndarray, radii: Sequence[int]) -> np.ndarray:
    """The mask grown by a box of the given radii in voxels."""
    for axis, radius in enumerate(radii):
        reach = min(radius, mask.shape[axis] - 1)
        grown = mask.copy()
        for shift in range(1, reach + 1):
            ahead = (slice(None),) * axis + (slice(shift, None),)
            behind = (slice(None),) * axis + (slice(None, -shift),)
            grown[ahead] |= mask[behind]
            grown[behind] |= mask[ahead]
        mask = grown
    return mask


def published_window(volume: Volume) -> tuple[float, float]:
    """The window in which uniGradICON was trained to see an image: of CT -1000 to 1000, of others from the least value
    to the 99th percentile of all."""
    if is_ct(volume):
        return -1000.0, 1000.0
    padded, _ = without_padding(volume)
    low, high = float(padded.data.min()), float(np.percentile(_sampled(padded.data), 99))
    return low, high if low < high else float(padded.data.max())


def published_percentiles(volume: Volume) -> tuple[float, float]:
    """The window in which uniCARL was trained to see an image: from the 1st to the 99th percentile of all voxels of the
    smallest box outside of which faces are each of one value."""
    data = without_padding(volume)[0].data
    for axis in range(data.ndim):
        faces = np.moveaxis(data, axis, 0).reshape(data.shape[axis], -1)
        (varied,) = np.nonzero(faces.min(1) < faces.max(1))
        if varied.size:
            data = np.take(data, range(varied[0], varied[-1] + 1), axis)
    low, high = (float(p) for p in np.percentile(_sampled(data), (1, 99)))
    return (low, high) if low < high else (float(data.min()), float(data.max()))


def normalize(volume: Volume, mask: np.ndarray | None = None, window: tuple[float, float] | None = None) -> Volume:
    """Scales intensities to [0, 1], clipped, as float32.

    By the window if given (CT: e.g. -160 to 240 HU); else from the 0.5th to the 99.5th percentile inside the mask, or
    to the 99.5th percentile of the foreground. A constant background becomes 0 and stays apart from dark tissue.
    Padding (without_padding) does not count, and becomes as dark as the dark end of the rest.

    Args:
        volume: the image.
        mask: array of the volume's shape, nonzero where intensities count.
        window: (low, high) in the image's own units.

    Returns:
        The scaled volume, with a note of the limits used.

    Raises:
        InputError: the window is empty, the mask has another shape or is empty, or the image is constant.
    """
    name = volume.name or "image"
    padded, padding = without_padding(volume)
    data = padded.data
    if mask is not None:
        if mask.shape != data.shape:
            raise InputError(
                f"{name}: its mask has shape {mask.shape}, the image {data.shape}. "
                "Resample the mask on the image's grid."
            )
        if not mask.any():
            raise InputError(f"{name}: its mask is empty. Draw it, or leave it out.")
    if window is not None:
        low, high = map(float, window)
        if not (np.isfinite([low, high]).all() and low < high):
            raise InputError(f"{name}: the intensity window {low:g} to {high:g} is empty. Give low < high.")
        source = "window"
    else:
        constant = _background_value(padded)
        inside = data[mask != 0] if mask is not None else data[foreground(volume)]
        sample = _sampled(inside)
        low, high = (float(p) for p in np.percentile(sample, _PERCENTILES))
        if constant is not None:
            low = constant
        elif mask is None:
            low = float(np.percentile(_sampled(data), _PERCENTILES[0]))
        if not low < high:  # a few bright voxels on a constant: percentiles see only the constant
            low, high = float(inside.min()), float(inside.max())
        if not low < high:
            low, high = float(data.min()), float(data.max())
        source = "percentiles"
    if not low < high:
        raise InputError(f"{name}: every voxel is {low:g}. Check that the right file was exported.")
    scaled = np.subtract(data, np.float32(low), dtype=np.float32)
    scaled *= np.float32(1 / (high - low))
    np.clip(scaled, 0, 1, out=scaled)
    if scaled.min() == scaled.max():
        raise InputError(f"{name}: no voxel lies inside the intensity window {low:g} to {high:g}. Widen it.")
    notes = [f"{name}: {value:g} fills (a part of) the border, and was taken for padding" for value in padding]
    return volume.with_data(scaled, *notes, f"{name}: intensities {low:g} to {high:g} ({source}) scaled to 0..1")


def n4(volume: Volume, mask: np.ndarray | None = None) -> Volume:
    """Removes a smooth multiplicative bias field (N4, Tustison et al., IEEE TMI 29(6), 2010).

    The field is estimated on a shrunken image (it is smooth) and divided out at full resolution.

    Args:
        volume: an image without negative values, e.g. after normalize.
        mask: array of the volume's shape, nonzero where to look (default: the foreground).
    """
    import SimpleITK as sitk

    inside = foreground(volume) if mask is None else mask != 0
    if not inside.any():
        raise InputError(f"{volume.name or 'image'}: the mask is empty. Draw it, or leave it out.")
    lowest = float(volume.data.min())
    image = volume.grid.apply_to(sitk.GetImageFromArray(volume.data.astype(np.float32, copy=False) - min(lowest, 0)))
    region = volume.grid.apply_to(sitk.GetImageFromArray(inside.astype(np.uint8)))
    factor = max(1, round((volume.data.size / _N4_VOXELS) ** (1 / volume.ndim)))
    factors = [max(1, min(factor, n // 8)) for n in image.GetSize()]
    small = sitk.Shrink(image, factors)
    small_region = sitk.Shrink(region, factors)
    if not sitk.GetArrayViewFromImage(small_region).any():
        small, small_region = image, region
    corrector = sitk.N4BiasFieldCorrectionImageFilter()
    corrector.SetMaximumNumberOfIterations([40, 30, 20])
    corrector.Execute(small, small_region)
    bias = sitk.GetArrayFromImage(corrector.GetLogBiasFieldAsImage(image))
    # Far outside the mask the spline is extrapolated; what it says there must not blow up noise.
    limits = np.percentile(_sampled(bias[inside]), (0.1, 99.9))
    data = (volume.data - min(lowest, 0)) / np.exp(np.clip(bias, *limits)) + min(lowest, 0)
    low, high = np.exp(limits)
    return volume.with_data(
        data.astype(np.float32), f"{volume.name or 'image'}: bias field of {100 * (high / low - 1):.0f} % removed (N4)"
    )


def match_histogram(moving: Volume, fixed: Volume) -> Volume:
    """Gives the moving image the histogram of the fixed one, for similarities that compare intensities themselves.

    Both must be normalized; the result lies in [0, 1] and background (0) stays 0.
    """
    import SimpleITK as sitk

    matched = sitk.GetArrayFromImage(
        sitk.HistogramMatching(
            sitk.GetImageFromArray(moving.data),
            sitk.GetImageFromArray(fixed.data),
            numberOfHistogramLevels=256,
            numberOfMatchPoints=15,
            thresholdAtMeanIntensity=True,
        )
    )
    matched = np.clip(matched, 0, 1)
    matched[moving.data <= 0] = 0
    return moving.with_data(matched, f"{moving.name or 'moving'}: histogram matched to {fixed.name or 'fixed'}")


def _sampled(values: np.ndarray) -> np.ndarray:
    """At most _SAMPLE of the values, always the same ones, spread at random so as not to beat with the image's axes."""
    values = values.reshape(-1)
    return values if values.size <= _SAMPLE else values[_places(values.size)]


@functools.lru_cache(maxsize=4)
def _places(size: int) -> np.ndarray:
    """_SAMPLE places of so many, in ascending order: then they are read ten times as fast."""
    return np.sort(np.random.default_rng(0).integers(size, size=_SAMPLE))


def _otsu(sample: np.ndarray, low: float, high: float) -> float:
    counts, edges = np.histogram(np.clip(sample, low, high), bins=256)
    middles = (edges[:-1] + edges[1:]) / 2
    below = np.cumsum(counts)[:-1].astype(np.float64)
    above = counts.sum() - below
    mass = np.cumsum(counts * middles)
    with np.errstate(divide="ignore", invalid="ignore"):
        between = below * above * (mass[:-1] / below - (mass[-1] - mass[:-1]) / above) ** 2
    return float(edges[1 + int(np.nanargmax(between))])
