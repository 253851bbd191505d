# SPDX-License-Identifier: Apache-2.0
"""Sampling: values against SciPy and plain loops, labels, and fields that are not finite."""

from __future__ import annotations

import itertools
import math
import subprocess
import sys

import numpy as np
import pytest
import torch
from DeepFLASHRegistrationLib.geodesics import sampling
from DeepFLASHRegistrationLib.geodesics.band import Lattice, Upsampler
from DeepFLASHRegistrationLib.geodesics.sampling import (
    LabelSampler,
    NonFiniteField,
    Sampler,
    require_finite,
    sample_cubic,
    sample_linear,
    sample_nearest,
)
from geodesic_fields import points_of
from scipy.ndimage import map_coordinates

DOUBLE = torch.float64
SHAPES = [(6, 5), (5, 4, 7), (1, 6), (4, 1, 3)]


def sample_labels(labels, index):
    return LabelSampler(labels)(index)


def noise(shape, seed=0):
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed), dtype=DOUBLE)


def somewhere(shape, count=400, beyond=2.0, seed=1):
    """Points in and around an array, (count, d) voxels."""
    size = torch.tensor(shape, dtype=DOUBLE)
    return noise((count, len(shape)), seed) * (size - 1 + 2 * beyond) - beyond


# ---------------------------------------------------------------------------------------------------- on lattices


@pytest.mark.parametrize(("mode", "order"), [("bilinear", 1), ("nearest", 0)])
@pytest.mark.parametrize(("padding", "scipy_mode"), [("border", "nearest"), ("zeros", "grid-constant")])
@pytest.mark.parametrize("shape", [(6, 5), (5, 4, 7)])
def test_sampler_agrees_with_scipy(shape, mode, order, padding, scipy_mode):
    d = len(shape)
    source = Lattice(shape, (0.5, 2.0, 1.5)[:d], (1.0, -3.0, 0.2)[:d])
    lattice = Lattice((4, 6, 3)[:d], (0.7, 1.1, 2.0)[:d], (0.8, -2.0, 0.0)[:d])
    array = noise((2, *shape))
    u = 2 * noise((d, *lattice.shape), 1) - 1
    got = Sampler(lattice, source, DOUBLE)(array, u, mode, padding)
    at = (points_of(lattice).movedim(-1, 0) + u).numpy()
    index = np.stack([(x - o) / s for x, o, s in zip(at, source.origin, source.step, strict=True)])
    for channel in range(2):
        expected = map_coordinates(array[channel].numpy(), index, order=order, mode=scipy_mode)
        np.testing.assert_allclose(got[channel].numpy(), expected, atol=1e-12)


def test_sampling_where_one_stands_changes_nothing():
    lattice = Lattice.cells((5, 6, 4), (10.0, 3.0, 4.0))
    array = noise((2, 5, 6, 4))
    torch.testing.assert_close(Sampler(lattice, lattice, DOUBLE)(array, torch.zeros(3, 5, 6, 4, dtype=DOUBLE)), array)


def test_a_whole_step_moves_by_a_voxel_along_its_own_axis():
    lattice = Lattice.cells((5, 6, 4), (10.0, 3.0, 4.0))
    array = noise((1, 5, 6, 4))
    for axis in range(3):
        u = torch.zeros(3, 5, 6, 4, dtype=DOUBLE)
        u[axis] = lattice.step[axis]
        n = lattice.shape[axis]
        moved = Sampler(lattice, lattice, DOUBLE)(array, u)
        torch.testing.assert_close(moved.narrow(axis + 1, 0, n - 1), array.narrow(axis + 1, 1, n - 1))


def test_sampling_differentiates_in_array_and_displacement():
    source, lattice = Lattice.cells((4, 5), (4.0, 5.0)), Lattice((3, 2), (0.9, 1.3), (1.0, 1.1))
    sample = Sampler(lattice, source, DOUBLE)
    array, u = noise((1, 4, 5)).requires_grad_(), (0.3 * noise((2, 3, 2), 1) + 0.05).requires_grad_()
    assert torch.autograd.gradcheck(sample, (array, u))


# ----------------------------------------------------------------------------------------------- fields gone wild


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, 1e30, -3e38])
def test_one_wild_value_is_refused(value):
    field = torch.zeros(2, 5, 5)
    require_finite(field)
    field[1, 2, 3] = value
    with pytest.raises(NonFiniteField):
        require_finite(field)
    index = torch.zeros(7, 2)
    index[3, 1] = value
    for sampler, dtype in (
        (sample_linear, torch.float32),
        (sample_cubic, torch.float32),
        (sample_nearest, torch.float32),
        (sample_labels, torch.int32),
    ):
        with pytest.raises(NonFiniteField):
            sampler(torch.ones(4, 4, dtype=dtype), index)


NASTY = """
import itertools, torch
from DeepFLASHRegistrationLib.geodesics.band import Lattice
from DeepFLASHRegistrationLib.geodesics.sampling import NonFiniteField, Sampler
refused = 0
for shape, padding, mode, value in itertools.product(
        ((9, 8), (6, 5, 7), (1, 4), (1, 1, 1)), ("border", "zeros", "reflection"), ("bilinear", "nearest"),
        (float("nan"), float("inf"), float("-inf"), 1e38, -1e25, 1e15, 1e11, -1e9)):
    lattice = Lattice.cells(shape, tuple(1e-3 * n for n in shape))
    array = torch.rand(1, *shape, requires_grad=True)
    u = torch.zeros(len(shape), *shape)
    u.view(-1)[::3] = value
    u.requires_grad_()
    try:
        out = Sampler(lattice, lattice)(array, u, mode, padding)
    except NonFiniteField:
        refused += 1
        continue
    assert torch.isfinite(out).all(), (shape, padding, mode, value)
    out.sum().backward()
assert refused == 4 * 3 * 2 * 6, refused
print("alive")
"""


def test_no_field_ends_the_process():
    """Torch's own sampler crashes in the backward pass for some of these: hence a process apart."""
    code = f"import sys; sys.path[:0] = {sys.path!r}\n" + NASTY
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, f"exit {done.returncode}: {done.stderr[-2000:]}"
    assert done.stdout.strip() == "alive"


# ------------------------------------------------------------------------------------------------- at any points


@pytest.mark.parametrize("shape", SHAPES)
def test_linear_agrees_with_scipy_inside_and_is_constant_outside(shape):
    image, index = noise(shape), somewhere(shape)
    got = sample_linear(image, index, outside=-7.0)
    last = torch.tensor(shape) - 1
    inside = ((index >= 0) & (index <= last)).all(1)
    far = ((index < -0.51) | (index > last + 0.51)).any(1)
    expected = map_coordinates(image.numpy(), index.T.numpy(), order=1, mode="nearest")
    np.testing.assert_allclose(got[inside].numpy(), expected[inside.numpy()], atol=1e-12)
    assert bool((got[far] == -7).all())
    assert bool(far.any())


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("dtype", [torch.uint8, torch.int16, torch.int32, torch.float32])
def test_nearest_takes_the_nearest_voxel_and_keeps_its_type(shape, dtype):
    image, index = (noise(shape) * 250).to(dtype), somewhere(shape)
    got = sample_nearest(image, index, outside=3)
    assert got.dtype == dtype
    for point, value in zip(index.tolist(), got.tolist(), strict=True):
        near = [math.floor(x + 0.5) for x in point]
        inside = all(0 <= i < n for i, n in zip(near, shape, strict=True))
        assert value == (image[tuple(near)].item() if inside else 3)


@pytest.mark.parametrize("shape", [(6, 5), (5, 4, 7)])
def test_cubic_agrees_with_cubic_upsampling(shape):
    """The same kernel written as matrices along the axes."""
    d = len(shape)
    source = Lattice(shape, (1.0,) * d, (0.0,) * d)
    target = Lattice((7, 6, 5)[:d], tuple((n - 1) / k for n, k in zip(shape, (6, 5, 4), strict=False)), (0.0,) * d)
    image = noise(shape)
    got = sample_cubic(image, points_of(target).reshape(-1, d)).reshape(target.shape)
    torch.testing.assert_close(got, Upsampler(source, target, DOUBLE)(image[None])[0], atol=1e-12, rtol=0)


def test_cubic_reproduces_quadratics_inside_and_voxels_everywhere():
    shape = (8, 7, 9)
    z, y, x = torch.meshgrid(*[torch.arange(n, dtype=DOUBLE) for n in shape], indexing="ij")

    def parabola(z, y, x):
        return 1 + x - 2 * y + 0.5 * z + 0.3 * x * x - 0.2 * y * z + 0.1 * z * z

    image = parabola(z, y, x)
    index = 1 + noise((200, 3)) * (torch.tensor(shape, dtype=DOUBLE) - 3)
    torch.testing.assert_close(sample_cubic(image, index), parabola(*index.T))
    nodes = torch.stack([z, y, x], -1).reshape(-1, 3)
    torch.testing.assert_close(sample_cubic(image, nodes), image.flatten())


@pytest.mark.parametrize("shape", SHAPES)
def test_cubic_is_constant_outside(shape):
    index = somewhere(shape)
    far = ((index < -0.51) | (index > torch.tensor(shape) - 0.49)).any(1)
    got = sample_cubic(torch.full(shape, 2.5, dtype=DOUBLE), index, outside=-1.0)
    assert bool((got[far] == -1).all())
    inside = ((index >= 0) & (index <= torch.tensor(shape) - 1)).all(1)
    torch.testing.assert_close(got[inside], torch.full_like(got[inside], 2.5))


def test_points_far_out_are_outside():
    index = torch.tensor([[1e11, 0.0], [0.0, -1e11], [1e9, 1e9]])
    for sampler in (sample_linear, sample_nearest, sample_cubic):
        assert sampler(torch.ones(4, 5), index, 0.5).tolist() == [0.5] * 3
    assert sample_labels(torch.ones(4, 5, dtype=torch.int32), index).tolist() == [0] * 3


# ---------------------------------------------------------------------------------------------------------- labels


def label_by_loop(labels: np.ndarray, point: list[float]) -> tuple[int, float]:
    """The winner and how far it is ahead, from the definition."""
    support: dict[int, float] = {}
    base = [math.floor(x) for x in point]
    for corner in itertools.product((0, 1), repeat=len(point)):
        at = [b + c for b, c in zip(base, corner, strict=True)]
        inside = all(0 <= i < n for i, n in zip(at, labels.shape, strict=True))
        weight = math.prod(x - b if c else 1 - (x - b) for x, b, c in zip(point, base, corner, strict=True))
        label = int(labels[tuple(at)]) if inside else 0
        support[label] = support.get(label, 0.0) + weight
    ranked = sorted(support.items(), key=lambda item: (-item[1], item[0]))
    return ranked[0][0], ranked[0][1] - (ranked[1][1] if len(ranked) > 1 else 0)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(("count", "lowest"), [(2, 0), (5, -2), (140, 0)])
def test_labels_win_by_their_summed_weights(shape, count, lowest):
    labels = (noise(shape) * count).floor().to(torch.int32) + lowest
    index = somewhere(shape)
    for point, label in zip(index.tolist(), sample_labels(labels, index).tolist(), strict=True):
        expected, lead = label_by_loop(labels.numpy(), point)
        assert label == expected or lead < 1e-5


def test_of_equal_weights_the_smaller_label_wins():
    labels = torch.tensor([[7, 3], [3, 7]], dtype=torch.int32)
    index = torch.tensor([[0.5, 0.5], [0.0, 0.5], [0.5, 0.0], [0.5, 1.0], [0.25, 0.5]])
    assert sample_labels(labels, index).tolist() == [3] * 5
    assert sample_labels(-labels, index).tolist() == [-7] * 5


def test_two_corners_of_one_label_outweigh_a_heavier_corner_of_another():
    labels = torch.tensor([[1, 2], [2, 3]], dtype=torch.int32)
    # The corners weigh 0.36 (label 1), 0.24 twice (label 2) and 0.16 (label 3).
    assert sample_labels(labels, torch.tensor([[0.4, 0.4]])).tolist() == [2]


@pytest.mark.parametrize("name", ["uint8", "int8", "int16", "uint16", "int32", "uint32", "int64"])
def test_labels_keep_type_and_extreme_values(name):
    dtype = getattr(torch, name, None)
    if dtype is None:
        pytest.skip(f"this torch has no {name}")
    info = torch.iinfo(dtype)
    largest, smallest = min(info.max, 2**31 - 1), max(info.min, -(2**31) + 1)
    labels = torch.tensor([[largest, largest, smallest], [largest, 1, smallest]], dtype=dtype)
    got = sample_labels(labels, torch.tensor([[0.0, 0.3], [0.9, 1.0], [0.5, 1.9]]))
    assert got.dtype == dtype
    assert got.tolist() == [largest, 1, smallest]


def test_labels_fade_into_the_outside_halfway():
    labels = torch.full((3, 4, 5), 9, dtype=torch.int16)
    index = torch.tensor(
        [[-0.4, 1, 1], [-0.6, 1, 1], [2.4, 1, 1], [2.6, 1, 1], [1, 1, 4.45], [1, 1, 4.55], [-0.3, -0.3, 2]]
    )
    assert sample_labels(labels, index).tolist() == [9, 0, 9, 0, 9, 0, 0]


def test_labels_that_are_not_integers_are_refused():
    with pytest.raises(TypeError, match="integers"):
        sample_labels(torch.ones(3, 3), torch.zeros(1, 2))


def test_many_points_give_what_each_gives(monkeypatch):
    """Work is done in chunks of points; their ends must not show."""
    shape = (5, 6, 4)
    labels, image, index = (noise(shape) * 4).int(), noise(shape), somewhere(shape, 103)
    whole = sample_labels(labels, index), sample_cubic(image, index)
    monkeypatch.setattr(sampling, "_CHUNK", 10)
    assert torch.equal(sample_labels(labels, index), whole[0])
    assert torch.equal(sample_cubic(image, index), whole[1])
    assert sample_labels(labels, index[:1]).shape == (1,)


# ------------------------------------------------------------------------------------------------ slopes and parts


def displaced(shape, channels=1, dtype=DOUBLE):
    lattice = Lattice.cells(shape, tuple(1.5 * n for n in shape))
    array = noise((channels, *shape)).to(dtype).requires_grad_()
    u = (3 * noise((len(shape), *shape), 2) - 1.5).to(dtype).requires_grad_()
    return Sampler(lattice, lattice, dtype), array, u


@pytest.mark.parametrize("shape", [(6, 5), (5, 4, 7), (1, 6)])
def test_a_slope_is_the_derivative_by_the_displacement(shape):
    sample, array, u = displaced(shape)
    values, slope = sample.with_slope(array.detach(), u)
    expected = sample(array.detach(), u)
    torch.testing.assert_close(values, expected)
    torch.testing.assert_close(slope, torch.autograd.grad(expected.sum(), u)[0])
    upstream = noise(values.shape, 7)
    there = torch.autograd.grad((sample(array.detach(), u) * upstream).sum(), u)[0]
    torch.testing.assert_close(torch.autograd.grad((values * upstream).sum(), u)[0], there)


@pytest.mark.parametrize("padding", ["border", "zeros"])
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("shape", [(13, 9), (7, 6, 5), (4, 3, 6), (9, 4, 3)])
def test_sampling_in_parts_is_sampling(shape, channels, padding, monkeypatch):
    sample, array, u = displaced(shape, channels)
    upstream = noise((channels, *shape), 9)
    found = []
    for least in (1 << 60, 1):
        monkeypatch.setattr(sampling, "_WORTHWHILE", least)
        values = sample(array, u, padding=padding)
        found.append((values, *torch.autograd.grad((values * upstream).sum(), (array, u))))
        found[-1] += (sample(array.detach(), u.detach(), padding=padding),)
    for whole, parts in zip(*found, strict=True):
        torch.testing.assert_close(parts, whole)


def test_points_in_any_arrangement_are_sampled_in_parts(monkeypatch):
    monkeypatch.setattr(sampling, "_WORTHWHILE", 1)
    lattice = Lattice.cells((6, 5, 4), (6.0, 5.0, 4.0))
    sample, array = Sampler(lattice, lattice, DOUBLE), noise((2, 6, 5, 4))
    points = 1.8 * noise((1, 11, 1, 1, 3)) - 0.9
    one_by_one = torch.cat([sample.at(array, points[:, i : i + 1]) for i in range(11)], 1)
    torch.testing.assert_close(sample.at(array, points), one_by_one)
