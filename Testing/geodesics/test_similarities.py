# SPDX-License-Identifier: Apache-2.0
"""Similarities: against SimpleITK and plain loops, masks, gradients, invariances."""

from __future__ import annotations

import functools

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from DeepFLASHRegistrationLib.geodesics.similarities import (
    MAKERS,
    GlobalCorrelation,
    LocalCorrelation,
    MutualInformation,
    SquaredDifferences,
    box_sum,
    make_similarity,
)
from geodesic_fields import blobs

DOUBLE = torch.float64
SHAPES = {"2d": (13, 10), "3d": (9, 8, 7)}


def noise(shape, seed=0):
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed), dtype=DOUBLE)


def texture(shape, seed=0):
    return 0.5 * blobs(shape) + 0.4 * noise(shape, seed)


def make(name, fixed, mask=None, radius=None):
    return make_similarity(name, fixed, torch.ones_like(fixed) if mask is None else mask, radius or (2,) * fixed.ndim)


@pytest.fixture(params=SHAPES.values(), ids=SHAPES)
def shape(request):
    return request.param


@pytest.fixture(params=MAKERS)
def name(request):
    return request.param


def some_mask(shape):
    mask = torch.zeros(shape, dtype=DOUBLE)
    mask[tuple(slice(3, n - 2) for n in shape)] = 1
    mask[tuple(slice(3, 4) for _ in shape)] = 0.5
    return mask


# ------------------------------------------------------------------------------------- independent implementations


def sitk_metric(configure, fixed, moving, mask=None):
    """Value of an ITK metric at the identity, every voxel a sample."""
    method = sitk.ImageRegistrationMethod()
    configure(method)
    method.SetMetricSamplingStrategy(method.NONE)
    method.SetInterpolator(sitk.sitkLinear)
    method.SetInitialTransform(sitk.Transform(fixed.ndim, sitk.sitkIdentity))
    if mask is not None:
        method.SetMetricFixedMask(sitk.GetImageFromArray((mask.numpy() > 0).astype(np.uint8)))
    return method.MetricEvaluate(sitk.GetImageFromArray(fixed.numpy()), sitk.GetImageFromArray(moving.numpy()))


@pytest.mark.parametrize("masked", [False, True], ids=["everywhere", "masked"])
def test_squared_differences_agree_with_itk(shape, masked):
    fixed, moving = texture(shape, 1), texture(shape, 2)
    mask = (some_mask(shape) > 0).double() if masked else torch.ones(shape, dtype=DOUBLE)
    expected = sitk_metric(lambda m: m.SetMetricAsMeanSquares(), fixed, moving, mask if masked else None)
    assert float(SquaredDifferences(fixed, mask)(moving)) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("masked", [False, True], ids=["everywhere", "masked"])
def test_global_correlation_agrees_with_itk(shape, masked):
    fixed, moving = texture(shape, 1), texture(shape, 2)
    mask = (some_mask(shape) > 0).double() if masked else torch.ones(shape, dtype=DOUBLE)
    squared = -sitk_metric(lambda m: m.SetMetricAsCorrelation(), fixed, moving, mask if masked else None)
    assert float(GlobalCorrelation(fixed, mask)(moving)) == pytest.approx(1 - squared, rel=1e-6)


def part_inside(shape, at, radius):
    """Which part of every voxel lies inside a window of 2r + 1 voxels around one of them."""
    parts = [np.clip(r + 1 - np.abs(np.arange(n) - i), 0, 1) for n, i, r in zip(shape, at, radius, strict=True)]
    return functools.reduce(np.multiply, np.ix_(*parts))


@pytest.mark.parametrize("radius", [(2, 1, 1), (2.25, 1.5, 0.9)])
def test_local_correlation_agrees_with_a_loop(shape, radius):
    """Windows cut at the border of the image; fixed and moving weigh the same in every window."""
    fixed, moving, mask = texture(shape, 1), texture(shape, 2), some_mask(shape)
    radius, guard = radius[: len(shape)], 1e-2
    total = 0.0
    f, m, w = fixed.numpy(), moving.numpy(), mask.numpy()
    for at in np.ndindex(shape):
        inside = part_inside(shape, at, radius)
        a, b = (x - np.average(x, weights=inside) for x in (f, m))
        covariance, var_a, var_b = (np.average(x, weights=inside) for x in (a * b, a * a, b * b))
        total += w[at] * (1 - covariance**2 / ((var_a + guard) * (var_b + guard)))
    assert float(LocalCorrelation(fixed, mask, radius, guard)(moving)) == pytest.approx(total / w.sum(), rel=1e-10)


def test_local_correlation_follows_itk_neighborhood_correlation():
    """ITK's own measure, up to its treatment of the border and its sign."""
    fixed = texture((24, 22), 1)
    ours, theirs = [], []
    for amount in (0.0, 0.1, 0.3, 0.8):
        moving = fixed + amount * (noise((24, 22), 5) - 0.5)
        ours.append(float(LocalCorrelation(fixed, torch.ones_like(fixed), (2, 2))(moving)))
        theirs.append(1 + sitk_metric(lambda m: m.SetMetricAsANTSNeighborhoodCorrelation(2), fixed, moving))
    np.testing.assert_allclose(ours, theirs, atol=0.03)
    assert ours == sorted(ours)


def test_mutual_information_has_its_optimum_where_itks_is():
    """Another contrast, turned upside down; the images coincide at shift 0."""
    fixed = blobs((40, 36))
    ours, theirs = [], []
    for shift in (-2.0, -1.0, 0.0, 1.0, 2.0):
        moving = 1 - blobs((40, 36), shift) ** 2
        ours.append(float(MutualInformation(fixed, torch.ones_like(fixed))(moving)))
        theirs.append(sitk_metric(lambda m: m.SetMetricAsMattesMutualInformation(32), fixed, moving))
    assert int(np.argmin(ours)) == int(np.argmin(theirs)) == 2
    assert np.corrcoef(ours, theirs)[0, 1] > 0.9


def test_mutual_information_agrees_with_a_loop():
    """Cubic B-spline window for the moving, nearest bin for the fixed image, normalized by the mean entropy."""
    fixed, moving, mask, bins = texture((9, 8), 1), texture((9, 8), 2), some_mask((9, 8)), 16
    joint = np.zeros((bins, bins + 4))

    def spline(x):
        x = abs(x)
        return (4 - 6 * x**2 + 3 * x**3) / 6 if x < 1 else (2 - x) ** 3 / 6 if x < 2 else 0.0

    for f, m, w in zip(fixed.flatten().tolist(), moving.flatten().tolist(), mask.flatten().tolist(), strict=True):
        for column in range(bins + 4):
            joint[round(f * (bins - 1)), column] += w * spline(m * (bins - 1) + 2 - column)
    joint /= joint.sum()

    def entropy(p):
        p = p[p > 0]
        return -(p * np.log(p)).sum()

    a, b, ab = entropy(joint.sum(1)), entropy(joint.sum(0)), entropy(joint)
    expected = 1 - 2 * (a + b - ab) / (a + b)
    assert float(MutualInformation(fixed, mask, bins)(moving)) == pytest.approx(expected, rel=1e-8)


def test_box_sums_agree_with_a_loop():
    x = noise((2, 5, 6, 4))
    for radius in ((1, 2, 0), (0, 0, 0), (7, 1, 9), (0.3, 2.5, 3.9), (1 + 1e-12, 2 - 1e-12, 0)):
        got = box_sum(x, radius)
        for at in np.ndindex(5, 6, 4):
            inside = torch.from_numpy(part_inside((5, 6, 4), at, radius))
            torch.testing.assert_close(got[(slice(None), *at)], (x * inside).sum((1, 2, 3)))


# ---------------------------------------------------------------------------------------------------- their meaning


def test_an_image_is_most_similar_to_itself(name, shape):
    fixed = texture(shape)
    similarity = make(name, fixed)
    best = float(similarity(fixed))
    worse = [float(similarity((fixed + amount * (noise(shape, 9) - 0.5)).clamp(0, 1))) for amount in (0.1, 0.4)]
    assert best < worse[0] < worse[1]
    assert best < {"ssd": 1e-12, "ncc": 1e-6, "lncc": 1e-3, "mi": 0.5}[name]
    assert 0 <= best < 1


def test_global_correlation_ignores_linear_changes_of_intensity(shape):
    fixed, moving = texture(shape, 1), texture(shape, 2)
    similarity = make("ncc", fixed)
    value = float(similarity(moving))
    for slope, offset in ((0.3, 0.2), (-0.7, 0.9)):
        assert float(similarity(slope * moving + offset)) == pytest.approx(value, rel=1e-6)


def test_local_correlation_ignores_inverted_contrast_and_a_bias_field():
    fixed, moving = texture((24, 20), 1), texture((24, 20), 2)
    similarity = make("lncc", fixed)
    value = float(similarity(moving))
    assert float(similarity(1 - 0.5 * moving)) == pytest.approx(value, rel=1e-4)
    half = torch.where(torch.arange(24)[:, None] < 12, moving, 1 - moving)
    assert float(similarity(half)) == pytest.approx(value, rel=0.2)
    bias = 1 + 0.2 * torch.linspace(-1, 1, 20, dtype=DOUBLE)
    assert float(similarity(moving * bias)) == pytest.approx(value, abs=0.01)
    assert float(make("ncc", fixed)(half)) > float(make("ncc", fixed)(moving)) + 0.05


def test_mutual_information_hardly_notices_a_monotone_change_of_contrast():
    fixed = blobs((40, 36))
    similarity = make("mi", fixed)
    same, changed, inverted = (float(similarity(x)) for x in (fixed, fixed**1.3, 1 - fixed))
    shifted = float(similarity(blobs((40, 36), 1.5)))
    assert inverted == pytest.approx(same, abs=1e-6)
    assert abs(changed - same) < 0.3 * (shifted - same)


@pytest.mark.parametrize("constant", [0.0, 0.3, 1.0])
def test_images_without_contrast_give_finite_values_and_no_pull(name, shape, constant):
    flat = torch.full(shape, constant, dtype=DOUBLE)
    for fixed, moving in ((flat, texture(shape)), (texture(shape), flat), (flat, flat)):
        moving = moving.clone().requires_grad_()
        value = make(name, fixed)(moving)
        value.backward()
        assert bool(torch.isfinite(value))
        assert bool(torch.isfinite(moving.grad).all())
        if name in ("ncc", "lncc"):
            assert float(value.detach()) == pytest.approx(1, abs=1e-3)
        if name != "ssd" and fixed is flat:
            assert float(moving.grad.abs().max()) < 1e-6


def test_resolution_does_not_change_the_scale_of_the_value(name):
    """One weight serves all levels: twice the voxels, the same number, nearly."""

    def value(shape):
        return float(
            make(name, blobs(shape), radius=tuple(n // 8 for n in shape))(blobs(shape, tuple(n / 16 for n in shape)))
        )

    assert value((32, 32)) == pytest.approx(value((64, 64)), rel=0.25)


# ----------------------------------------------------------------------------------------------------------- masks


def test_values_out_of_reach_of_the_mask_change_nothing(name, shape):
    fixed, moving, mask = texture(shape, 1), texture(shape, 2), some_mask(shape)
    radius = (1,) * len(shape)
    reach = box_sum(mask, radius if name == "lncc" else (0,) * len(shape)) > 0
    other = torch.where(reach, moving, noise(shape, 7))
    other_fixed = torch.where(reach, fixed, noise(shape, 8))
    value = make(name, fixed, mask, radius)(moving)
    torch.testing.assert_close(make(name, other_fixed, mask, radius)(other), value, rtol=1e-12, atol=1e-14)
    probe = moving.clone().requires_grad_()
    make(name, fixed, mask, radius)(probe).backward()
    assert not probe.grad[~reach].any()
    assert probe.grad[mask > 0].any()


def test_a_mask_is_a_mean_over_what_it_covers(name):
    """A mask of a part gives what that part gives alone."""
    fixed, moving = texture((14, 12), 1), texture((14, 12), 2)
    mask = torch.zeros(14, 12, dtype=DOUBLE)
    mask[:, :7] = 1
    if name == "lncc":
        return  # its windows reach over the border of the mask
    alone = float(make(name, fixed[:, :7].contiguous())(moving[:, :7].contiguous()))
    assert float(make(name, fixed, mask)(moving)) == pytest.approx(alone, rel=1e-10)
    assert float(make(name, fixed, 0.3 * mask)(moving)) == pytest.approx(alone, rel=1e-10)


# ------------------------------------------------------------------------------------------------------- gradients


@pytest.mark.parametrize("small", [(5, 4), (4, 3, 3)], ids=["2d", "3d"])
def test_gradients_agree_with_finite_differences(name, small):
    fixed, mask = texture(small, 1), noise(small, 4)
    mask.view(-1)[::3] = 0
    moving = (0.1 + 0.8 * texture(small, 2)).requires_grad_()
    similarity = make(name, fixed, mask, (1, 2, 1)[: len(small)])
    assert torch.autograd.gradcheck(similarity, (moving,), eps=1e-6, atol=1e-6, rtol=1e-4)


def test_local_correlation_hands_its_gradient_on_times_what_comes_in():
    fixed, moving = texture((8, 7), 1), texture((8, 7), 2).requires_grad_()
    similarity = make("lncc", fixed)
    (single,) = torch.autograd.grad(similarity(moving), moving)
    (scaled,) = torch.autograd.grad(-2.5 * similarity(moving), moving)
    torch.testing.assert_close(scaled, -2.5 * single)


def test_single_precision_gradients_are_good_enough_next_to_flat_regions(name):
    """Where one image is flat, rounding must not look like structure."""
    fixed, moving = texture((24, 20), 1), texture((24, 20), 2)
    moving[:, :9] = 0.3
    fixed[15:] = 0.7
    gradients = []
    for dtype in (torch.float64, torch.float32):
        x = moving.to(dtype, copy=True).requires_grad_()
        make(name, fixed.to(dtype))(x).backward()
        gradients.append(x.grad.double())
    error = (gradients[1] - gradients[0]).norm() / gradients[0].norm()
    assert float(error) < 0.02


def test_an_unknown_similarity_is_refused():
    with pytest.raises(ValueError, match="nmi"):
        make("nmi", texture((5, 5)))


# ------------------------------------------------------------------------------------------------------- curvature


def second_derivative(similarity, warped, change):
    """Along a change of the warped image, by differences of the gradient."""
    slopes = []
    for sign in (1, -1):
        at = (warped + sign * 1e-5 * change).requires_grad_()
        slopes.append(float((torch.autograd.grad(similarity(at), at)[0] * change).sum()))
    return (slopes[0] - slopes[1]) / 2e-5


@pytest.mark.parametrize("masked", [False, True])
def test_curvature_is_that_of_noise_where_images_agree(name, shape, masked):
    """The second derivative along noise, which agrees with nothing: for squared differences exactly, for correlations
    to what windows of few voxels take away and what is added, for information as to its order."""
    fixed = texture(shape)
    similarity = make(name, fixed, some_mask(shape) if masked else None)
    warped = fixed + (0.05 * noise(shape, 3) if name == "mi" else 0)
    curvature = similarity.curvature(warped)
    assert curvature.shape == warped.shape
    assert float(curvature.min()) >= 0
    low, high = {"ssd": (1 - 1e-6, 1 + 1e-6), "ncc": (1.0, 1.4), "lncc": (1.0, 1.5), "mi": (0.2, 5.0)}[name]
    ratios = []
    for seed in (11, 12, 13, 14):
        change = noise(shape, seed) - 0.5
        ratios.append(float((curvature * change**2).sum()) / second_derivative(similarity, warped, change))
    assert low <= sum(ratios) / 4 <= high


def test_curvature_is_finite_and_not_negative_whatever_the_images(name, shape):
    generator = torch.Generator().manual_seed(5)
    for fixed, warped in (
        (torch.zeros(shape), torch.ones(shape)),
        (torch.full(shape, 0.5), torch.rand(shape, generator=generator)),
        (torch.rand(shape, generator=generator), torch.full(shape, 0.5)),
        (torch.rand(shape, generator=generator), 1 - torch.rand(shape, generator=generator)),
    ):
        curvature = make(name, fixed).curvature(warped)
        assert bool(torch.isfinite(curvature).all())
        assert float(curvature.min()) >= 0
