# SPDX-License-Identifier: Apache-2.0
"""Lengths follow the object unless they are stated, and CT is known by its values."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from DeepFLASHRegistrationLib.imaging.grid import Grid
from DeepFLASHRegistrationLib.imaging.volume import Volume
from DeepFLASHRegistrationLib.problem.parameters import Parameters
from DeepFLASHRegistrationLib.problem.problem import Problem, comparable, scaled
from DeepFLASHRegistrationLib.problem.subject import Subject
from imaging_shapes import centered_grid, sampled


def posed(factor: float, parameters: Parameters) -> Problem:
    """A problem of two heads of 104 mm on voxels of 4 mm, all lengths times a factor."""
    volume = sampled(centered_grid((26, 34, 28), (4, 4, 4)))
    matrix = volume.grid.affine.copy()
    matrix[:-1] *= factor
    side = Subject(replace(volume, grid=Grid(volume.grid.shape, matrix)))
    return Problem(*comparable(side, side, parameters), np.eye(4), parameters)


@pytest.mark.parametrize("preset", ["fast", "default", "fine", "paper"])
@pytest.mark.parametrize("factor", [0.001, 0.15, 10, 1000])
def test_the_problem_is_the_same_whatever_the_size_of_the_world(preset, factor) -> None:
    parameters = Parameters.from_preset(preset)
    usual, other = posed(1, parameters), posed(factor, parameters)
    assert other.grid.shape == usual.grid.shape
    assert other.lengths == pytest.approx(usual.lengths)
    assert other.margin_mm == pytest.approx(factor * usual.margin_mm)
    assert np.allclose(other.fixed, usual.fixed, atol=1e-4)
    for ours, theirs in zip(usual.levels(parameters), other.levels(parameters), strict=True):
        assert (ours.factors, ours.band.modes) == (theirs.factors, theirs.band.modes)
        assert theirs.radius == pytest.approx(ours.radius)
        assert theirs.map_step == pytest.approx(ours.map_step)


@pytest.mark.parametrize(
    ("spacing", "lengths"),
    [
        (2.0, (1.25, 7.0, 12.0)),
        # Of few voxels: the unit is 0.6 of them, and the others grow with it.
        (4.0, (2.4, 13.44, 23.04)),
    ],
)
def test_a_cube_as_large_as_a_brain_has_its_lengths(spacing, lengths) -> None:
    """Its points are 56 mm from their center (root mean square): edge / sqrt(12) along each of three axes."""
    n = round(112 / spacing)
    grid = centered_grid((n + 4,) * 3, (spacing,) * 3)
    data = np.zeros(grid.shape, np.float32)
    data[2:-2, 2:-2, 2:-2] = np.random.default_rng(0).uniform(0.2, 1, (n, n, n))
    side = Subject(Volume(grid, data, "brain"))
    problem = Problem(side, side, np.eye(4), Parameters())
    assert (problem.unit_mm, problem.window_mm, problem.margin_mm) == pytest.approx(lengths)


def test_windows_follow_the_size_also_within_a_voxel() -> None:
    """A brain a little larger is registered with windows a little wider, not with such of a voxel more on each side."""
    parameters = Parameters(window_mm=15.0, spacing_mm=2.0)
    narrow, wide = (posed(1, replace(parameters, window_mm=width)).levels(parameters) for width in (15.0, 15.2))
    assert narrow[-1].radius == pytest.approx((3.25,) * 3)
    assert wide[-1].radius == pytest.approx((3.3,) * 3)
    assert narrow[0].radius == wide[0].radius == (2.0,) * 3  # five voxels at least


def test_stated_lengths_stay() -> None:
    parameters = Parameters(margin_mm=9.0, window_mm=11.0, spacing_mm=5.0)
    for factor in (1, 2, 3):
        problem = posed(factor, parameters)
        assert (problem.margin_mm, problem.window_mm) == (9.0, 11.0)
        assert np.allclose(problem.grid.spacing, 5)


def ct(rng: np.random.Generator) -> np.ndarray:
    """A body with lungs in air, in Hounsfield units."""
    at = np.moveaxis(np.indices((20, 40, 40)), 0, -1) - np.array([10, 20, 20])
    data = np.where((at[..., 1:] ** 2).sum(-1) < 16**2, 40.0, -1000.0)
    for side in (-8, 8):
        data[((at - [0, 0, side]) ** 2).sum(-1) < 36] = -820
    data[((at[..., 1:] - [10, 0]) ** 2).sum(-1) < 9] = 600
    return (data + rng.normal(0, 15, data.shape)).astype(np.float32)


def test_ct_is_scaled_by_the_window_and_all_else_by_percentiles() -> None:
    rng = np.random.default_rng(0)
    grid = centered_grid((20, 40, 40), (5, 5, 5))
    body = ct(rng)
    window = np.clip((body + 160) / 400, 0, 1)
    padded = body.copy()
    padded[:, :6] = -3024
    for data in (body, padded, np.rint(body).astype(np.int16)):
        result = scaled(Subject(Volume(grid, data, "body")).checked("fixed"), Parameters()).image
        seen = data > -2000
        assert np.allclose(result.data[seen], window[seen], atol=0.01)
        assert any("values are those of CT" in note for note in result.notes)
    plain = scaled(Subject(Volume(grid, body, "body")).checked("fixed"), Parameters(normalization="percentiles")).image
    assert np.abs(plain.data - window).max() > 0.2


@pytest.mark.parametrize(
    "change",
    [
        lambda body: body + 1024,  # stored without its intercept: air at 24
        lambda body: np.abs(body),
        lambda body: np.maximum(body, -200),  # no air
        lambda body: 4 * body,
        lambda body: (body + 1000) / 1600,
        lambda body: np.random.default_rng(0).uniform(-1000, 1000, body.shape),
        lambda body: np.random.default_rng(0).normal(0, 500, body.shape),
    ],
)
def test_what_is_no_ct_is_scaled_by_percentiles(change) -> None:
    data = np.asarray(change(ct(np.random.default_rng(0))), np.float32)
    side = Subject(Volume(centered_grid((20, 40, 40), (5, 5, 5)), data, "body")).checked("fixed")
    auto, percentiles = (scaled(side, Parameters(normalization=n)).image.data for n in ("auto", "percentiles"))
    assert np.array_equal(auto, percentiles)


def test_ct_beside_another_contrast_is_scaled_by_percentiles_as_that_is() -> None:
    body = ct(np.random.default_rng(0))
    grid = centered_grid((20, 40, 40), (5, 5, 5))
    one, other = (
        Subject(Volume(grid, np.asarray(data, np.float32), name)).checked("fixed")
        for name, data in (("ct", body), ("mr", np.abs(body)))
    )
    plain = scaled(one, Parameters(normalization="percentiles")).image.data
    for pair in ((one, other), (other, one)):
        sides = comparable(*pair, Parameters())
        assert np.array_equal(sides[pair.index(one)].image.data, plain)
        assert not any("CT" in note for side in sides for note in side.notes)
    both = comparable(one, one, Parameters())
    assert all(any("values are those of CT" in note for note in side.notes) for side in both)
