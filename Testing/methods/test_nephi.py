# SPDX-License-Identifier: Apache-2.0
"""NePhi: fields of coordinates fitted to a pair; its parts against what else computes them, and the whole on disks."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import registration_pairs as pairs
import torch
from DeepFLASHRegistrationLib.geodesics.band import Band, Metric
from DeepFLASHRegistrationLib.geodesics.objective import Level, Pair
from DeepFLASHRegistrationLib.geodesics.similarities import LocalCorrelation, make_similarity
from DeepFLASHRegistrationLib.imaging.volume import Volume
from DeepFLASHRegistrationLib.learning.neural_field import FieldSize
from DeepFLASHRegistrationLib.methods.neural_pair import NeuralPair, Sampling, simplex
from DeepFLASHRegistrationLib.problem.parameters import Parameters
from DeepFLASHRegistrationLib.registration.register import register
from DeepFLASHRegistrationLib.registration.result import Result
from DeepFLASHRegistrationLib.support.errors import InputError

QUICK: dict[str, Any] = {"resolutions": (2, 1), "bands": (7, 11)}


def small(shape: tuple[int, ...] = (14, 12, 10), similarity: str = "lncc", views: bool = False) -> NeuralPair:
    """Random images on odd boxes, at one level."""
    drawn = torch.Generator().manual_seed(3)
    fixed, moving = (torch.rand(shape, generator=drawn) for _ in range(2))
    mask, d = torch.zeros(shape), len(shape)
    mask[(slice(3, -3),) * d] = 1.0
    view = None
    if views:
        view = torch.ones(shape)
        view[shape[0] // 2 :] = 0
    lengths = tuple(1.5 * n for n in shape)
    level = Level((1,) * d, Band((3,) * d, lengths), Metric(1.0, 1.0, 1.0, None), (2.0,) * d, 1, 1.5)
    pair = Pair(fixed, moving, mask, mask, view, None, lengths)
    return NeuralPair(pair, [level], [10], 3.0, similarity, FieldSize(8, 1.0, 8, 1), Sampling(40, 30, 0.3))


@pytest.mark.parametrize("d", [2, 3])
def test_a_simplex_is_regular(d: int) -> None:
    corners = simplex(d)
    expected = torch.full((d + 1, d + 1), -1 / d, dtype=torch.float64).fill_diagonal_(1.0)
    torch.testing.assert_close(corners @ corners.T, expected)
    torch.testing.assert_close(corners.sum(0), torch.zeros(d, dtype=torch.float64))


@pytest.mark.parametrize("shape", [(14, 12, 10), (17, 15)])
def test_affine_maps_go_through_windows_and_slopes_as_they_are(shape: tuple[int, ...]) -> None:
    stage, d = small(shape).stages[0], len(shape)
    matrix = torch.randn(d, d, generator=torch.Generator().manual_seed(0))
    values = stage.corners @ matrix.T + 3.0
    torch.testing.assert_close(stage.slopes.T @ values, matrix.T, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(stage.shares @ values, (stage.window * stage.voxel) @ matrix.T + 3, atol=1e-4, rtol=1e-5)


def test_at_rest_windows_say_what_the_local_correlation_of_whole_images_does() -> None:
    pair = small()
    stage, (centers, _) = pair.stages[0], pair._looked_at[0]
    for side in (0, 1):
        still, warped = (stage.images[k][0] for k in (side, 1 - side))
        mask = torch.zeros(still.shape)
        mask.index_put_(tuple(centers.T), torch.ones(len(centers)), accumulate=True)
        expected = LocalCorrelation(still, mask, (2.0,) * 3)(warped)
        found = stage.dissimilarity(pair.fields[side], centers, side).detach()
        assert float(found) == pytest.approx(float(expected), rel=1e-4)
        assert 0.5 < float(found) < 1


def test_other_similarities_are_those_of_all_voxels_in_the_windows() -> None:
    for name in ("ncc", "ssd", "mi"):
        pair = small(similarity=name)
        stage, (centers, _) = pair.stages[0], pair._looked_at[0]
        at = tuple((centers[:, None] + stage.window).unbind(-1))
        fixed, moving = (image[0][at].flatten() for image in stage.images)
        expected = make_similarity(name, fixed, torch.ones_like(fixed), ())(moving)
        assert float(stage.dissimilarity(pair.fields[0], centers, 0).detach()) == pytest.approx(
            float(expected), rel=1e-4
        )


def test_what_may_not_be_looked_at_decides_nothing() -> None:
    pair = small(views=True)
    stage, (centers, _) = pair.stages[0], pair._looked_at[0]
    before = float(stage.dissimilarity(pair.fields[0], centers, 0).detach())
    stage.images[0][0, 7:] = torch.rand(7, 12, 10)
    assert float(stage.dissimilarity(pair.fields[0], centers, 0).detach()) == pytest.approx(before, rel=1e-6)
    stage.images[0][0, :7] = torch.rand(7, 12, 10)
    assert float(stage.dissimilarity(pair.fields[0], centers, 0).detach()) != pytest.approx(before, rel=1e-3)


class Linear(torch.nn.Module):
    """The displacement of x ↦ Mx."""

    def __init__(self, matrix: torch.Tensor):
        super().__init__()
        self.matrix = matrix

    def forward(self, points: torch.Tensor) -> torch.Tensor:
        return points @ self.matrix.T - points


def test_regularity_is_that_of_the_maps_one_after_the_other() -> None:
    """φ = diag(2, 1, ½), ψ its inverse, and then one that stretches 1.2 times too much."""
    pair = small()
    anywhere = pair._looked_at[0][1]
    forth = torch.diag(torch.tensor([2.0, 1.0, 0.5]))
    pair.fields = torch.nn.ModuleList([Linear(forth), Linear(torch.linalg.inv(forth))])
    for side in (0, 1):
        found, determinant = pair._regularity(pair.stages[0], anywhere, side)
        assert float(found) < 1e-8
        torch.testing.assert_close(determinant, torch.ones(90), atol=1e-4, rtol=0)
    pair.fields[1] = Linear(1.2 * torch.linalg.inv(forth))
    found, determinant = pair._regularity(pair.stages[0], anywhere, 1)
    assert float(found) == pytest.approx(3 * 0.2**2, rel=1e-3)
    torch.testing.assert_close(determinant, torch.full((90,), 1.2**3), atol=1e-4, rtol=1e-4)


def test_fields_are_read_where_the_cells_are() -> None:
    pair = small((9, 7))
    matrix = torch.tensor([[1.0, 0.5], [0.0, 2.0]])
    pair.fields = torch.nn.ModuleList([Linear(matrix), Linear(matrix.T)])
    forth = pair.displacement((9, 7))
    at = torch.tensor([2, 5])
    place = (at + 0.5) * 1.5
    np.testing.assert_allclose(forth[:, 2, 5], matrix @ place - place, rtol=1e-5)
    np.testing.assert_array_equal(pair.displacement((9, 7), 0.5), 0.5 * forth)


def found(fixed: Volume, moving: Volume, method: str = "nephi", iterations: tuple = (5, 3), **more: Any) -> Result:
    parameters = Parameters(method=method, initial_alignment="none", iterations=iterations, **QUICK)
    return register(fixed, moving, parameters, device="cpu", threads=1, **more)


def shifted(shape: tuple[int, ...], shift: tuple[float, ...]) -> tuple[Volume, Volume]:
    """The object, and the same moved by a shift, on odd numbers of voxels."""
    grid = pairs.box(shape, 4.0)
    images = [pairs.intensities(pairs.places(grid) - move).astype(np.float32) for move in (np.zeros(len(shape)), shift)]
    return Volume(grid, images[0], "fixed"), Volume(grid, images[1], "moving")


def test_a_shift_is_found_in_its_direction_and_back_again_twice_the_same() -> None:
    shift = np.array([5.0, -3.0])
    fixed, moving = shifted((31, 33), tuple(shift))
    result = found(fixed, moving)
    inside = np.argwhere(pairs.parts(pairs.places(fixed.grid)) > 1)
    points = fixed.grid.index_to_physical(inside)
    there = result.deformation.points(points, "fixed_to_moving")
    np.testing.assert_allclose((there - points).mean(0), shift, atol=0.6)
    back = result.deformation.points(there, "moving_to_fixed")
    assert np.linalg.norm(back - points, axis=1).max() < 0.2  # of 5.8 mm
    assert result.metrics["folds_strict"]["count"] == 0
    assert result.history[-1]["energy"] < 0.5 * result.history[0]["energy"]
    again = found(fixed, moving)
    np.testing.assert_array_equal(result.velocity["forth"], again.velocity["forth"])
    np.testing.assert_array_equal(result.velocity["back"], again.velocity["back"])


def test_volumes_become_more_alike() -> None:
    fixed, moving = shifted((17, 19, 15), (4.0, 2.0, -3.0))
    result = found(fixed, moving, iterations=(3, 1))
    assert result.metrics["similarity_after"] > 0.5 + 0.5 * result.metrics["similarity_before"]


@pytest.mark.parametrize("after", [0, 30])
def test_cancelled_it_leaves_the_best_map_so_far(after: int) -> None:
    fixed, moving = shifted((31, 33), (5.0, -3.0))
    steps: list[int] = []

    def progress(event: dict[str, Any]) -> None:
        if "NePhi, step" in event.get("message", ""):
            steps.append(event["iteration"])

    result = found(fixed, moving, progress=progress, cancel=lambda: len(steps) > after)
    assert result.cancelled
    assert result.metrics["levels_ended"] == ["cancelled"]
    assert len(steps) == after + 1
    assert bool(result.velocity["forth"].any()) == bool(after)


def test_after_it_flash_goes_on_from_the_geodesic_nearest_to_it() -> None:
    fixed, moving = shifted((31, 33), (5.0, -3.0))
    result = found(fixed, moving, "nephi+flash")
    assert result.metrics["similarity_after"] > 0.95
    assert result.deformation.timed


def test_it_starts_from_nothing_but_the_images() -> None:
    fixed, moving = shifted((31, 33), (5.0, -3.0))
    start = found(fixed, moving, "flash").velocity
    with pytest.raises(InputError, match="NePhi starts from the images alone"):
        found(fixed, moving, initial_velocity=start)
