# SPDX-License-Identifier: Apache-2.0
"""What a GPU compares images by is what the CPU does: the same sums to rounding, and the same alignments."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from DeepFLASHRegistrationLib.alignment import affine
from DeepFLASHRegistrationLib.alignment.affine import align
from DeepFLASHRegistrationLib.alignment.comparison import Comparison, Points
from DeepFLASHRegistrationLib.alignment.pyramid import LEVELS_MM, Pyramid
from DeepFLASHRegistrationLib.imaging.volume import Volume
from imaging_shapes import apart, centered_grid, rotation, sampled
from test_affine import GRID, around, recontrasted
from test_affine import affine as matrix_of

torch = pytest.importorskip("torch")

from DeepFLASHRegistrationLib.alignment.device_comparison import DeviceComparison  # noqa: E402
from DeepFLASHRegistrationLib.geodesics import captured  # noqa: E402
from recordings import Again, OneDevice, Traced  # noqa: E402

TRUTH = matrix_of(rotation((1, 2, -1), 12), np.diag([1.06, 0.96, 1.02]), (12, -9, 6))


def pair(kind: str) -> tuple[Pyramid, Pyramid]:
    """Fixed and moving image: whole heads, heads that end at a face, flat ones, or one with a mask."""
    fixed, moving = sampled(GRID), sampled(around(rotation((0, 1, 1), 20), (12, -9, 6)), TRUTH)
    mask = None
    if kind == "cut":
        fixed, moving = sampled(centered_grid((20, 30, 52), (2, 2, 2))), sampled(centered_grid((30, 25, 30), (2,) * 3))
    elif kind == "masked":
        inside = np.zeros(moving.grid.shape, np.uint8)
        inside[6:40, 9:50, 4:44] = 1
        mask = Volume(moving.grid, inside)
    elif kind == "plane":
        rng = np.random.default_rng(0)
        smooth = np.outer(np.hanning(60), np.hanning(50)) * (1 + 0.3 * rng.random((60, 50)))
        fixed = Volume(centered_grid((60, 50), (2, 2)), np.where(smooth > 0.1, smooth, 0).astype(np.float32))
        moving = Volume(centered_grid((50, 60), (2.2, 2)), fixed.data.T.copy())
    return Pyramid(fixed, None), Pyramid(moving, mask)


@pytest.mark.parametrize("level", range(len(LEVELS_MM)))
@pytest.mark.parametrize("kind", ["whole", "cut", "masked", "plane"])
def test_the_sums_are_those_of_the_cpu(kind, level):
    fixed, moving = pair(kind)
    points = Points.of(fixed, level)
    d = len(points.places)
    ours = DeviceComparison(points, moving, level, "cpu")
    maps = [np.eye(d, d + 1), np.eye(d, d + 1) * 1.1 + 0.03]
    with ThreadPoolExecutor(1) as pool:
        theirs = Comparison(fixed, moving, level, pool)
        for found in maps:
            for measure, derivatives in (("correlation", True), ("correlation", False), ("ratio", True)):
                gram, sums = ours.products(found, measure, derivatives)
                gram_there, sums_there = theirs.products(found, measure, derivatives)
                # A point at the rim counts here or there by rounding, a few in a hundred thousand.
                size = np.sqrt(np.outer(np.diag(gram_there), np.diag(gram_there)))
                assert (np.abs(gram - gram_there) / size).max() < 2e-4
                assert (sums is None) == (sums_there is None) == (measure == "correlation")
                if sums is not None:
                    assert (np.abs(sums - sums_there).max(0) / np.abs(sums_there).sum(0)).max() < 2e-4
            (gram, sums), (gram_there, sums_there) = ours.many(maps)[1], theirs.many(maps)[1]
            assert np.allclose(gram, gram_there, rtol=0, atol=2e-4 * len(points.values))
            assert np.allclose(sums, sums_there, rtol=0, atol=2e-4 * len(points.values))
            (values, valid), (values_there, valid_there) = ours.sampled(found), theirs.sampled(found)
            both = valid & valid_there
            assert np.count_nonzero(valid != valid_there) <= 1e-4 * len(valid)
            assert np.abs(values - values_there)[both].max() < 1e-4


@pytest.mark.parametrize(("degrees", "contrast"), [(0, "same"), (25, "other"), (100, "same")])
def test_alignments_are_those_of_the_cpu(degrees, contrast, monkeypatch):
    truth = matrix_of(rotation((1, 2, -1), degrees), np.diag([1.05, 0.96, 1.02]), (30, -20, 15))
    fixed, moving = sampled(GRID), sampled(around(rotation((0, 1, 1), 35), (30, -20, 15)), truth)
    if contrast == "other":
        moving = recontrasted(moving)
    there = align(fixed, moving)
    monkeypatch.setattr(affine, "is_cuda", lambda device: True)
    here = align(fixed, moving, device="cpu")
    # Both end where steps move no point by more than a hundredth of a voxel of 2 mm.
    assert apart(here.matrix, there.matrix, GRID) < 0.05
    assert here.similarity == pytest.approx(there.similarity, abs=1e-4)
    assert here.notes == there.notes


def test_a_recorded_alignment_is_the_same_to_the_bit(monkeypatch):
    moving = sampled(around(np.eye(3), (12, -9, 6)), TRUTH)
    monkeypatch.setattr(affine, "is_cuda", lambda device: True)
    there = align(sampled(GRID), moving, device="cpu")
    monkeypatch.setitem(captured.RECORDINGS, "cpu", Again)
    monkeypatch.setattr(Again, "replayed", 0)
    here = align(sampled(GRID), moving, device="cpu")
    assert np.array_equal(here.matrix, there.matrix)
    assert Again.replayed > 100


def test_recorded_sums_follow_the_map(monkeypatch):
    fixed, moving = pair("whole")
    points = Points.of(fixed, 0)
    plain = DeviceComparison(points, moving, 0, "cpu")
    maps = [np.eye(3, 4) + np.eye(1, 4, 3) * shift for shift in range(4)]
    expected = [plain.products(found, "ratio", True) for found in maps]
    monkeypatch.setitem(captured.RECORDINGS, "cpu", Traced)
    monkeypatch.setattr(Traced, "replayed", 0)
    recorded = DeviceComparison(points, moving, 0, "cpu")
    for found, wanted in zip(maps, expected, strict=True):
        for ours, theirs in zip(recorded.products(found, "ratio", True), wanted, strict=True):
            assert np.array_equal(ours, theirs)
    assert Traced.replayed == 3


def test_a_map_that_is_no_number_reads_nowhere():
    """On a GPU a read beside the array would end all that runs on it."""
    fixed, moving = pair("masked")
    compared = DeviceComparison(Points.of(fixed, 0), moving, 0, "cpu")
    for value in (np.nan, np.inf, -np.inf, 1e30):
        gram, _ = compared.products(np.full((3, 4), value), "ratio", False)
        assert gram.shape == (3, 3)


@pytest.mark.parametrize("kind", ["whole", "masked", "plane"])
def test_all_that_is_summed_on_a_device_lies_on_it(kind):
    """The device "meta" has no numbers, and cannot be read."""
    fixed, moving = pair(kind)
    points = Points.of(fixed, 0)
    d = len(points.places)
    compared = DeviceComparison(points, moving, 0, "meta")
    compared._prepare(True)
    maps = torch.zeros(5, d, d + 1, device="meta")
    with OneDevice("meta"):
        for derivatives in (False, True):
            sums = compared._summed(maps, True, derivatives)
            rows = 3 + derivatives * d * (d + 1)
            assert tuple(sums.shape) == (5, rows + 32, rows)
        compared._sampled(compared._mapped(maps[:1]), False)
    with pytest.raises(RuntimeError, match="device cpu"), OneDevice("meta"):
        compared._summed(torch.zeros(5, d, d + 1), True, False)
