# SPDX-License-Identifier: Apache-2.0
import functools
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from DeepFLASHRegistrationLib.alignment.affine import AffineAlignment, align
from DeepFLASHRegistrationLib.imaging.grid import Grid
from DeepFLASHRegistrationLib.imaging.io import read_volume
from DeepFLASHRegistrationLib.imaging.volume import Volume
from DeepFLASHRegistrationLib.support.errors import InputError
from imaging_shapes import apart, centered_grid, rotation, sampled, storages
from scipy.ndimage import gaussian_filter

GRID = centered_grid((44, 64, 52), (2, 2, 2))


def affine(turn: np.ndarray, stretch: np.ndarray | None = None, shift: tuple[float, ...] = (0, 0, 0)) -> np.ndarray:
    d = len(turn)
    matrix = np.eye(d + 1)
    matrix[:d, :d] = turn if stretch is None else turn @ stretch
    matrix[:d, d] = shift
    return matrix


def recontrasted(volume: Volume) -> Volume:
    """Another modality: dark tissue bright, bright tissue dark, background still 0."""
    data = np.interp(volume.data, [0.05, 0.3, 0.6, 1.2], [1, 0.9, 0.4, 0.2])
    return volume.with_data(np.where(volume.data > 0, data, 0).astype(np.float32))


def around(turn: np.ndarray, shift: tuple[float, ...]) -> Grid:
    """A grid, itself oblique, that holds the head moved to `shift`."""
    return centered_grid((54, 62, 66), (1.9, 2.1, 2), turn[:, ::-1], shift)


def test_known_affine_is_recovered() -> None:
    stretch = np.array([[1.1, 0.05, 0], [0.02, 0.93, -0.06], [0, 0.04, 1.05]])
    truth = affine(rotation((1, 2, -1), 25), stretch, (40, -30, 20))
    moving = sampled(around(rotation((0, 1, 1), 35), (40, -30, 20)), truth)
    result = align(sampled(GRID), moving)
    assert apart(result.matrix, truth, GRID) < 0.5
    assert result.similarity > 0.99
    assert not result.notes
    assert result.seconds > 0


@pytest.mark.parametrize("axis", [(1, 0, 0), (0, 1, 0), (0, 0, 1), (1, -1, 1)])
@pytest.mark.parametrize("degrees", [-30, 30, 90, 180])
def test_turned_heads_are_found_rigidly(axis, degrees) -> None:
    truth = affine(rotation(axis, degrees), shift=(-35, 40, 20))
    moving = sampled(centered_grid((60, 62, 66), (2, 2, 2), center=(-35, 40, 20)), truth)
    result = align(sampled(GRID), moving, "rigid")
    assert apart(result.matrix, truth, GRID) < 0.5
    turn = result.matrix[:3, :3]
    assert np.allclose(turn @ turn.T, np.eye(3), atol=1e-9)
    assert np.linalg.det(turn) > 0


def scaled_header(volume: Volume, factor: float) -> Volume:
    matrix = volume.grid.affine.copy()
    matrix[:-1] *= factor
    return replace(volume, grid=Grid(volume.grid.shape, matrix))


@functools.cache
def heads_of_men(noise: float) -> tuple[list[Volume], AffineAlignment]:
    """A pair, and its alignment."""
    rng = np.random.default_rng(0)
    truth = affine(rotation((1, 2, -1), 15), np.diag([1.1, 0.95, 1]), (40, -30, 20))
    pair = sampled(GRID), sampled(around(np.eye(3), (40, -30, 20)), truth)
    pair = [v.with_data((v.data + noise * rng.normal(size=v.data.shape)).astype(np.float32)) for v in pair]
    return pair, align(*pair)


@pytest.mark.parametrize("noise", [0, 0.03])
@pytest.mark.parametrize("factor", [0.001, 0.01, 0.15, 10, 1000])
def test_the_size_of_the_world_does_not_matter(factor, noise) -> None:
    """Mice, men and whales: both headers times a number give the same map, times that number."""
    pair, usual = heads_of_men(noise)
    other = align(*(scaled_header(v, factor) for v in pair))
    back = other.matrix.copy()
    back[:3, 3] /= factor
    assert apart(back, usual.matrix, GRID) < 0.02  # a hundredth of a voxel, where a climb ends
    assert other.similarity == pytest.approx(usual.similarity, abs=1e-4)
    assert other.notes == usual.notes


@pytest.mark.parametrize("size", [0.45, 0.6, 1.6, 2.2])
def test_objects_of_other_size_are_found(size) -> None:
    """A child's head, or a larger kind: more than the rigid alignment can reach, and far from where the header says."""
    truth = affine(size * rotation((1, 0, 2), 15), np.diag([1.05, 0.95, 1]), (80, -60, 30))
    moving = sampled(centered_grid((60, 66, 64), tuple(2 * size for _ in range(3)), center=(80, -60, 30)), truth)
    result = align(sampled(GRID), moving)
    assert apart(result.matrix, truth, GRID) < 0.5 * max(size, 1)
    assert not result.notes


def test_headers_are_believed_where_the_images_do_not_tell() -> None:
    """Two objects of the same outline, symmetric, with nothing in common inside: no reason to turn one around."""
    index = np.moveaxis(np.indices(GRID.shape), 0, -1)
    inside = ((GRID.index_to_physical(index) / (40, 52, 34)) ** 2).sum(-1) < 1
    for seed in range(3):
        rng = np.random.default_rng(seed)
        sides = []
        for _ in range(2):
            blobs = [(rng.uniform(-30, 30, 3), rng.uniform(4, 9), rng.uniform(-0.3, 0.3)) for _ in range(30)]
            points = GRID.index_to_physical(index)
            data = 0.6 + sum(h * np.exp(-((points - c) ** 2).sum(-1) / (2 * s**2)) for c, s, h in blobs)
            sides.append(Volume(GRID, np.where(inside, np.clip(data, 0.1, 1.2), 0).astype(np.float32), "object"))
        turn = align(*sides, "rigid").matrix[:3, :3]
        assert np.trace(turn) > 1 + 2 * np.cos(np.deg2rad(45)), seed


def test_storage_does_not_matter() -> None:
    truth = affine(rotation((1, 1, 0), 15), np.diag([1.05, 0.95, 1]), (10, 0, -5))
    fixed = sampled(centered_grid((24, 36, 29), (3.6, 3.6, 3.6)))
    moving = sampled(centered_grid((33, 38, 40), (3.3, 3.5, 3.4), rotation((1, 0, 0), 10)[:, ::-1], (10, 0, -5)), truth)
    stored = storages(moving)
    assert len(stored) == 48
    for i, other in enumerate(stored):
        assert apart(align(fixed, other, threads=2).matrix, truth, GRID) < 0.5, i
    for other in storages(fixed)[5::12]:
        assert apart(align(other, moving).matrix, truth, GRID) < 0.5


def test_same_numbers_to_the_bit_whatever_the_threads() -> None:
    fixed = sampled(GRID)
    moving = sampled(GRID, affine(rotation((1, 2, 3), 10), shift=(3, 4, 5)))
    first = align(fixed, moving, threads=1).matrix
    for threads in (1, 2, 3):
        assert np.array_equal(align(fixed, moving, threads=threads).matrix, first)


@pytest.mark.parametrize("which", ["fixed", "moving"])
def test_other_contrasts_are_aligned_and_noted(which) -> None:
    truth = affine(rotation((1, 0, 1), 20), np.diag([1.05, 0.95, 1]), (30, 0, -15))
    fixed, moving = sampled(GRID), sampled(around(np.eye(3), (30, 0, -15)), truth)
    if which == "fixed":
        fixed = recontrasted(fixed)
    else:
        moving = recontrasted(moving)
    result = align(fixed, moving)
    assert apart(result.matrix, truth, GRID) < 1
    assert any("contrast" in note for note in result.notes)


def test_bias_and_gain_do_not_matter() -> None:
    truth = affine(rotation((1, 0, 0), 10), shift=(0, 10, 0))
    moving = sampled(GRID, truth)
    ramp = np.linspace(0.7, 1.3, GRID.shape[2], dtype=np.float32)
    result = align(sampled(GRID), moving.with_data(moving.data * ramp * 900))
    assert apart(result.matrix, truth, GRID) < 4


def test_noise_and_no_constant_background() -> None:
    rng = np.random.default_rng(0)
    truth = affine(rotation((1, 1, 1), 20), shift=(12, -8, 6))
    fixed, moving = sampled(GRID), sampled(around(np.eye(3), (12, -8, 6)), truth)
    fixed, moving = (
        v.with_data((v.data + rng.normal(0, 0.05, v.data.shape)).astype(np.float32)) for v in (fixed, moving)
    )
    assert apart(align(fixed, moving).matrix, truth, GRID) < 1.5


@pytest.mark.parametrize("noise", [0, 0.03])
@pytest.mark.parametrize("axis", [0, 1, 2])
def test_partial_field_of_view(axis, noise) -> None:
    """The moving image is cut through the head: what lies beyond counts neither for nor against."""
    rng = np.random.default_rng(0)
    truth = affine(rotation((1, 1, 0), 8), shift=(4, -3, 5))
    moving = sampled(GRID, truth)
    keep = [slice(None)] * 3
    keep[axis] = slice(GRID.shape[axis] * 2 // 5, None)
    lower = [0, 0, 0]
    lower[axis] = -keep[axis].start
    cut = Volume(GRID.padded(lower, 0), np.ascontiguousarray(moving.data[tuple(keep)]))
    fixed, cut = (
        v.with_data((v.data + noise * rng.normal(size=v.data.shape)).astype(np.float32)) for v in (sampled(GRID), cut)
    )
    assert apart(align(fixed, cut).matrix, truth, GRID) < 2.5


def test_masked_artifacts_do_not_count() -> None:
    truth = affine(rotation((1, 0, 0), 10), shift=(0, 6, 0))
    fixed, moving = sampled(GRID), sampled(GRID, truth)
    bright = moving.data.copy()
    bright[:, :, :14] = 4
    inside = np.ones(GRID.shape, np.uint8)
    inside[:, :, :15] = 0
    result = align(fixed, moving.with_data(bright), masks=(None, Volume(GRID, inside)))
    assert apart(result.matrix, truth, GRID) < 1
    other = centered_grid((30, 40, 30), (4, 4, 4), center=(38, 0, 0))  # begins beyond the artifact, at -22 mm
    result = align(moving.with_data(bright), fixed, masks=(Volume(other, np.ones(other.shape, np.uint8)), None))
    assert apart(result.matrix, np.linalg.inv(truth), GRID) < 1
    far = centered_grid((5, 5, 5), (1, 1, 1), center=(900, 0, 0))
    with pytest.raises(InputError, match="does not meet"):
        align(fixed, moving, masks=(None, Volume(far, np.ones(far.shape, np.uint8))))


@pytest.mark.parametrize("degrees", [0, 40])
def test_2d(degrees) -> None:
    grid = centered_grid((120, 100), (1, 1))
    truth = affine(rotation((), degrees), np.array([[1.05, 0.05], [0, 0.95]]), (60, -20))
    moving = sampled(centered_grid((130, 140), (1.1, 0.9), center=(60, -20)), truth)
    result = align(sampled(grid), moving)
    assert result.matrix.shape == (3, 3)
    assert apart(result.matrix, truth, grid) < 0.5


def test_thick_slices() -> None:
    truth = affine(rotation((0, 0, 1), 12), shift=(3, 5, -7))
    moving = sampled(centered_grid((20, 120, 96), (5, 1, 1), center=(0, 0, -5)), truth)
    assert apart(align(sampled(GRID), moving).matrix, truth, GRID) < 1


def test_small_images() -> None:
    fixed = sampled(centered_grid((12, 14, 13), (8, 8, 8)))
    moving = sampled(centered_grid((12, 14, 13), (8, 8, 8)), affine(np.eye(3), shift=(6, -5, 4)))
    assert apart(align(fixed, moving, "rigid").matrix, affine(np.eye(3), shift=(6, -5, 4)), fixed.grid) < 3


def test_none_and_centers() -> None:
    truth = affine(np.eye(3), shift=(25, -10, 8))
    fixed, moving = sampled(GRID), sampled(centered_grid(GRID.shape, (2, 2, 2), center=(25, -10, 8)), truth)
    none, centers = align(fixed, moving, "none"), align(fixed, moving, "centers")
    assert np.array_equal(none.matrix, np.eye(4))
    assert apart(centers.matrix, truth, GRID) < 0.2
    assert centers.similarity > 0.99 > 0.8 > none.similarity


def test_little_overlap_is_noted() -> None:
    rng = np.random.default_rng(0)
    fixed = sampled(GRID)
    far = centered_grid(GRID.shape, (2, 2, 2), center=(70, 0, 0))
    moving = Volume(far, (sampled(far).data + rng.uniform(0.01, 0.05, far.shape)).astype(np.float32))
    assert any("lies inside" in note for note in align(fixed, moving, "none").notes)
    # Whereas of a fixed image with all of its background little lies inside a small mask, wherever that is.
    mask = fixed.with_data((np.indices(fixed.data.shape) < 12).all(0).astype(np.uint8))
    assert not any("lies inside" in note for note in align(fixed, fixed, "none", masks=(None, mask)).notes)


def test_progress_rises_to_1_and_cancelling_returns_early() -> None:
    fixed, moving = sampled(GRID), sampled(GRID, affine(rotation((1, 0, 0), 10)))
    seen: list[float] = []
    align(fixed, moving, progress=seen.append)
    assert seen == sorted(seen)
    assert seen[-1] == pytest.approx(1)
    result = align(fixed, moving, cancelled=lambda: True)
    assert np.isfinite(result.matrix).all()
    assert any("cancelled" in note for note in result.notes)


def test_wrong_calls_are_refused() -> None:
    with pytest.raises(ValueError, match="Choose one of"):
        align(sampled(GRID), sampled(GRID), "elastic")
    with pytest.raises(InputError, match="same dimension"):
        align(sampled(GRID), sampled(centered_grid((50, 50), (2, 2))))


def test_turned_brains_land_where_the_unturned_do(brains: list[Path]) -> None:
    """Three of the cases of Testing/benchmarks/affine.py."""
    files = brains
    fixed, moving = read_volume(files[0]), read_volume(files[1])
    unturned = align(fixed, moving)
    assert unturned.similarity > 0.85
    rng = np.random.default_rng(3)
    for degrees in (30, 20):
        turn = affine(rotation(tuple(rng.normal(size=3)), degrees), shift=tuple(rng.uniform(-35, 35, 3)))
        turn[:3, 3] += moving.grid.center - turn[:3, :3] @ moving.grid.center
        turned = replace(moving, grid=Grid(moving.grid.shape, turn @ moving.grid.affine))
        found = np.linalg.inv(turn) @ align(fixed, turned).matrix
        assert apart(found, unturned.matrix, fixed.grid) < 2


@pytest.mark.parametrize("thickness", [1, 2])
@pytest.mark.parametrize("axis", [0, 1, 2])
def test_fixed_masks_of_a_slice_or_two_are_enough(thickness, axis) -> None:
    head, other = sampled(GRID), sampled(GRID, affine(np.eye(3), shift=(3, -2, 1)))
    sheet = np.zeros(GRID.shape, np.uint8)
    middle = GRID.shape[axis] // 2
    sheet[(slice(None),) * axis + (slice(middle, middle + thickness),)] = 1
    result = align(head, other, "rigid", masks=(Volume(GRID, sheet, "mask"), None))
    assert result.similarity > 0.9
    assert apart(result.matrix, affine(np.eye(3), shift=(3, -2, 1)), GRID) < 4


@pytest.mark.parametrize(("depth", "seed"), [(14, 0), (10, 4), (20, 3)])
def test_stretching_does_not_end_in_a_mirror_image(depth: int, seed: int) -> None:
    """Of a cut image that was flipped, the way to the map that mirrors it leads through ever flatter ones."""
    rng = np.random.default_rng(seed)
    data = gaussian_filter(rng.normal(size=(24, 30, depth)), 3.0)
    data = data + 2 * data.std() * np.linspace(-1, 1, depth)
    data = (data - data.min() + 1).astype(np.float32)
    grid = Grid(data.shape, np.eye(4)[[2, 1, 0, 3]])
    found = align(Volume(grid, data, "a"), Volume(grid, data[..., ::-1].copy(), "b"), "affine", threads=1)
    assert np.linalg.det(found.matrix) > 0
    assert any("mirror" in note for note in found.notes), found.notes
