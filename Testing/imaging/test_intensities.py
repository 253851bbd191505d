# SPDX-License-Identifier: Apache-2.0
from dataclasses import replace

import numpy as np
import pytest
from DeepFLASHRegistrationLib.imaging.intensities import (
    background_value,
    foreground,
    match_histogram,
    n4,
    normalize,
    published_percentiles,
    published_window,
    without_padding,
)
from DeepFLASHRegistrationLib.imaging.volume import Volume
from DeepFLASHRegistrationLib.problem.parameters import Parameters
from DeepFLASHRegistrationLib.problem.problem import scaled
from DeepFLASHRegistrationLib.problem.subject import Subject
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


# ---- padding


def ct() -> Volume:
    """The head in air, in Hounsfield units, with noise."""
    air = np.random.default_rng(0).normal(-1000, 10, GRID.shape)
    return head().with_data(np.where(head().data > 0, head().data * 1000 - 200, air).astype(np.float32))


def outside_the_tube() -> np.ndarray:
    """What a scanner does not see: the corners of every slice."""
    y, x = np.mgrid[: GRID.shape[1], : GRID.shape[2]]
    seen = ((y - 29.5) / 30) ** 2 + ((x - 24.5) / 25) ** 2 <= 1
    return np.broadcast_to(~seen, GRID.shape)


@pytest.mark.parametrize("value", [-32768, -3024, -2048, -2000, 32767, 4095])
def test_padding_is_no_part_of_the_intensities(value) -> None:
    padded = ct().data.copy()
    outside = outside_the_tube()
    padded[outside] = value
    volume = ct().with_data(padded)
    result, expected = normalize(volume), normalize(ct())
    assert np.abs(result.data - expected.data)[~outside].max() < 0.02
    assert result.data[outside].max() < 0.02
    assert f"{value} fills" in "".join(result.notes)
    inside, truth = foreground(volume), foreground(ct())
    assert 2 * (inside & truth).sum() / (inside.sum() + truth.sum()) > 0.99
    assert background_value(volume) is None
    window = normalize(volume, window=(-160, 240))
    assert np.array_equal(window.data[~outside], normalize(ct(), window=(-160, 240)).data[~outside])
    assert not window.data[outside].any()


def test_padding_in_a_few_corners_and_inside_a_mask_does_not_count_either() -> None:
    padded = ct().data.copy()
    padded[:4, :6, :5] = -32768
    mask = np.ones(GRID.shape, np.uint8)
    for found, expected in (
        (normalize(ct().with_data(padded)), normalize(ct())),
        (normalize(ct().with_data(padded), mask), normalize(ct(), mask)),
    ):
        assert np.abs(found.data - expected.data)[5:].max() < 0.02


def test_paddings_at_both_ends_are_found() -> None:
    padded = ct().data.copy()
    padded[:, :3], padded[:, -3:] = -32768, 32767
    assert without_padding(ct().with_data(padded))[1] == [-32768, 32767]


def test_in_the_plane_padding_is_found_too() -> None:
    padded = np.where(outside_the_tube()[0], -3024, ct().data[20]).astype(np.float32)
    assert without_padding(Volume(centered_grid(padded.shape, (2, 2)), padded))[1] == [-3024]


@pytest.mark.parametrize("case", ["stripped", "inverted", "bright", "noisy", "air", "two values"])
def test_background_is_no_padding(case) -> None:
    """A constant background stays apart from the tissue that begins beside it."""
    volume = head()
    inside = volume.data > 0
    data = {
        "stripped": volume.data,
        "inverted": np.where(inside, 1.3 - volume.data, 0),
        "bright": np.where(inside, volume.data + 0.8, 0),
        "noisy": noisy_head().data,
        "air": ct().data,
        "two values": inside,
    }[case].astype(np.float32)
    same, found = without_padding(volume.with_data(data))
    assert found == []
    assert np.array_equal(same.data, data)


def test_a_stripped_ct_keeps_the_range_of_its_tissue() -> None:
    """-1024 around a brain of 0 to 80 would leave nothing of its contrast."""
    inside = head().data > 0
    tissue = (head().data * 80).astype(np.float32)
    result = normalize(head().with_data(np.where(inside, tissue, np.float32(-1024)))).data
    low, high = np.percentile(tissue[inside], (2, 98))
    assert np.ptp(result[inside & (tissue > low) & (tissue < high)]) > 0.8
    assert result[~inside].max() < 0.05


def test_the_published_window_is_that_of_each_kind_of_image() -> None:
    """uniGradICON: CT from -1000 to 1000, others from the least value to the 99th percentile."""
    rng = np.random.default_rng(0)
    grid = centered_grid((20, 20, 20), (2, 2, 2))
    ct = rng.normal(-1000, 8, (20, 20, 20)).astype(np.float32)
    ct[4:16, 4:16, 4:16] = rng.normal(40, 20, (12, 12, 12))
    assert published_window(Volume(grid, ct)) == (-1000.0, 1000.0)
    mr = rng.uniform(7, 107, (20, 20, 20)).astype(np.float32)
    mr[0, 0, 0] = 5000
    low, high = published_window(Volume(grid, mr))
    assert low == pytest.approx(mr.min())
    assert high == pytest.approx(106, abs=0.3)
    # A few bright voxels in the dark are seen.
    mr[:] = 0
    mr[0, 0, :5] = 3
    assert published_window(Volume(grid, mr)) == (0.0, 3.0)
    seen = scaled(Subject(Volume(grid, ct)).checked(), Parameters(normalization="unigradicon"))
    np.testing.assert_allclose(seen.image.data, ((ct + 1000) / 2000).clip(0, 1), atol=1e-6)


def test_percentiles_as_published_leave_out_faces_of_one_value() -> None:
    """uniCARL: the 1st to the 99th percentile of what lies within them."""
    rng = np.random.default_rng(0)
    grid = centered_grid((24, 24, 24), (2, 2, 2))
    image = np.zeros((24, 24, 24), np.float32)
    image[4:20, 4:22, 3:20] = rng.uniform(100, 200, (16, 18, 17))
    low, high = published_percentiles(Volume(grid, image))
    assert low == pytest.approx(101, abs=0.5)
    assert high == pytest.approx(199, abs=0.5)
    seen = scaled(Subject(Volume(grid, image)).checked(), Parameters(normalization="unicarl"))
    np.testing.assert_allclose(seen.image.data, ((image - low) / (high - low)).clip(0, 1), atol=1e-5)
