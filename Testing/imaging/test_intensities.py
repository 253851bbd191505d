# SPDX-License-Identifier: Apache-2.0
from dataclasses import replace

import numpy as np
import pytest
from DeepFLASHRegistrationLib.imaging.intensities import foreground, match_histogram, n4, normalize
from DeepFLASHRegistrationLib.imaging.volume import Volume
from DeepFLASHRegistrationLib.support.errors import InputError
from imaging_shapes import centered_grid, sampled

GRID = centered_grid((40, 60, 50), (2, 2, 2))


def head() -> Volume:
    return sampled(GRID)


def noisy_head() -> Volume:
    rng = np.random.default_rng(0)
    return head().with_data(np.abs(head().data + rng.normal(0, 0.02, GRID.shape)).astype(np.float32))


def test_result_does_not_depend_on_the_units_of_the_image() -> None:
    volume = noisy_head()
    scaled = volume.with_data(volume.data * 3000 - 1000)
    assert np.allclose(normalize(volume).data, normalize(scaled).data, atol=1e-4)


def test_range_is_0_to_1_and_noted() -> None:
    result = normalize(noisy_head().with_data(noisy_head().data * 500))
    assert result.data.dtype == np.float32
    assert result.data.min() == 0
    assert result.data.max() == 1
    assert "0..1" in result.notes[-1]


def test_isolated_bright_voxels_change_nothing() -> None:
    volume = head()
    data = volume.data.copy()
    data[20, 30, ::10] = 1e6
    assert np.abs(normalize(volume.with_data(data)).data - normalize(volume).data)[:20].max() < 0.02


@pytest.mark.parametrize("offset", [0, -1024, 100])
def test_constant_background_becomes_0_and_dark_tissue_stays_apart(offset) -> None:
    volume = head()
    result = normalize(volume.with_data(volume.data + offset)).data
    inside = volume.data > 0
    assert not result[~inside].any()
    assert np.count_nonzero(result[inside]) > 0.999 * inside.sum()


def test_window_is_used_as_given() -> None:
    volume = head().with_data(head().data * 1000 - 500)
    result = normalize(volume, window=(-160, 240)).data
    assert np.allclose(result, np.clip((volume.data + 160) / 400, 0, 1), atol=1e-6)
    for window in ((5, 5), (3, 1), (np.nan, 1)):
        with pytest.raises(InputError, match="window"):
            normalize(volume, window=window)
    with pytest.raises(InputError, match="Widen"):
        normalize(volume, window=(5000, 6000))


def test_only_what_lies_inside_the_mask_counts() -> None:
    volume = noisy_head()
    artifact = volume.data.copy()
    artifact[:10] = 50
    mask = np.zeros(GRID.shape, np.uint8)
    mask[12:] = 1
    result = normalize(volume.with_data(artifact), mask).data
    assert np.allclose(result[12:], normalize(volume, mask).data[12:], atol=0.01)
    with pytest.raises(InputError, match="empty"):
        normalize(volume, mask * 0)
    with pytest.raises(InputError, match="shape"):
        normalize(volume, mask[1:])


def test_foreground_of_stripped_noisy_and_cropped_images() -> None:
    volume = head()
    truth = volume.data > 0
    assert np.array_equal(foreground(volume), truth)
    noisy = foreground(noisy_head())
    assert 2 * (noisy & truth).sum() / (noisy.sum() + truth.sum()) > 0.85
    crop = (slice(14, 26), slice(20, 40), slice(18, 32))
    inner = Volume(centered_grid((12, 20, 14), (2, 2, 2)), volume.data[crop])
    assert foreground(inner).all()


def test_few_bright_voxels_on_a_constant_are_an_image() -> None:
    data = np.zeros(GRID.shape, np.float32)
    data[20, 30, 20:23] = 5
    assert normalize(Volume(GRID, data)).data.max() == 1


def test_n4_removes_a_bias_field() -> None:
    volume = sampled(centered_grid((20, 30, 25), (4, 4, 4)))
    ramp = np.exp(np.linspace(-0.5, 0.5, 30))[None, :, None]
    biased = volume.with_data((volume.data * ramp).astype(np.float32))
    corrected = n4(biased)
    inside = volume.data > 0

    def spread(data: np.ndarray) -> float:
        ratio = np.log(data[inside] / volume.data[inside])
        return float(ratio.std())

    assert spread(corrected.data) < 0.7 * spread(biased.data)
    assert not corrected.data[~inside].any()
    assert "N4" in corrected.notes[-1]


def test_matched_histogram_brings_intensities_together() -> None:
    fixed = normalize(head())
    moving = fixed.with_data(fixed.data**2)
    matched = match_histogram(moving, fixed)
    inside = fixed.data > 0
    before, after = (np.abs(v.data - fixed.data)[inside].mean() for v in (moving, matched))
    assert after < 0.5 * before
    assert not matched.data[~inside].any()
    assert matched.data.max() <= 1


def test_normalizing_twice_gives_the_same_numbers() -> None:
    volume = replace(noisy_head())
    assert np.array_equal(normalize(volume).data, normalize(volume).data)
