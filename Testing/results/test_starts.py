# SPDX-License-Identifier: Apache-2.0
"""Registrations that start from saved results: warm starts, composed steps, means of velocities."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import made_series
import numpy as np
import pytest
import registration_pairs as pairs
from DeepFLASHRegistrationLib.imaging.grid import Grid
from DeepFLASHRegistrationLib.imaging.volume import Volume
from DeepFLASHRegistrationLib.problem.deformation import deformation_from
from DeepFLASHRegistrationLib.problem.parameters import Parameters
from DeepFLASHRegistrationLib.problem.subject import Subject
from DeepFLASHRegistrationLib.registration.register import register
from DeepFLASHRegistrationLib.registration.result import Result
from DeepFLASHRegistrationLib.results.folder import save_result
from DeepFLASHRegistrationLib.results.starts import Start, mean_velocity, refined, started
from DeepFLASHRegistrationLib.results.velocity import load_result
from DeepFLASHRegistrationLib.support.errors import InputError

pytest.importorskip("torch")
pytestmark = pytest.mark.usefixtures("fits_once")

QUICK = pairs.quick(resolutions=(2, 1), bands=(7, 9), iterations=(4, 4), initial_alignment="none")
BEAT = (0.0, 0.5, 0.8)
OBJECT = pairs.parts(pairs.places(made_series.GRID)) > 0


def run(start: Start, fixed: Volume, moving: Volume) -> Result:
    return start.run(Subject(fixed), Subject(moving), start.parameters, **start.given, device="cpu", threads=1)


@pytest.fixture(scope="module")
def items() -> list[Volume]:
    return [Volume(made_series.GRID, data, f"item {n}") for n, data in enumerate(made_series.frames(BEAT))]


@pytest.fixture(scope="module")
def folders(items: list[Volume], tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Results of the items 1 and 2 onto item 0."""
    folder = tmp_path_factory.mktemp("items")
    for number in (1, 2):
        result = register(items[0], items[number], QUICK, device="cpu", threads=1)
        save_result(result, folder / str(number), items[0], items[number], outputs=())
    return [str(folder / "1"), str(folder / "2")]


def test_a_search_goes_on_from_its_neighbour_and_passes_the_coarsest_level_over(
    items: list[Volume], folders: list[str]
) -> None:
    start = started({"neighbour": folders[0]}, QUICK)
    assert start.parameters.iterations == (0, 4)
    assert start.notes == (f"The search started from {folders[0]}.",)
    warm = run(start, items[0], items[2])
    cold = load_result(folders[1])
    assert {record["level"] for record in warm.history} == {1}
    # Its first energy is that of the neighbour's map, far below that at rest.
    rest = register(items[0], items[2], replace(QUICK, iterations=(0, 0)), device="cpu", threads=1)
    assert warm.history[0]["energy"] < 0.8 * rest.history[0]["energy"]
    # Both searches end at about the same map.
    one, other = (
        d.displacement(made_series.GRID, "fixed_to_moving")[OBJECT] for d in (warm.deformation, cold.deformation)
    )
    apart, size = (np.linalg.norm(x, axis=-1).mean() for x in (one - other, other))
    assert apart < 0.15 * size


def test_without_a_result_beside_it_a_search_starts_from_rest(tmp_path: Path) -> None:
    start = started({"neighbour": str(tmp_path / "3")}, QUICK)
    assert (start.parameters, start.given) == (QUICK, {})
    assert "has no result to start from" in start.notes[0]


def test_a_search_of_one_level_keeps_its_iterations(folders: list[str]) -> None:
    single = Parameters(resolutions=(1,), bands=(9,), iterations=(3,))
    assert started({"neighbour": folders[0]}, single).parameters == single


def test_steps_lead_where_points_go_through_all_of_them(
    items: list[Volume], folders: list[str], tmp_path: Path
) -> None:
    """The geodesic nearest to two maps one after the other against following points through both."""
    composed = replace(QUICK, method="transform", as_geodesic=True)
    result = run(started({"steps": folders}, composed), items[0], items[2])
    points = pairs.places(made_series.GRID)[OBJECT]
    expected = points
    for folder in folders:
        expected = load_result(folder).deformation.points(expected, "fixed_to_moving")
    found = result.deformation.points(points, "fixed_to_moving")
    moved = np.linalg.norm(expected - points, axis=-1).mean()
    assert moved > 2
    assert np.linalg.norm(found - expected, axis=-1).mean() < 0.1 * moved
    assert result.metrics["folds_strict"]["count"] == 0
    np.testing.assert_array_equal(result.affine, np.eye(4))


def test_a_mean_is_that_of_the_coefficients_and_what_follows_from_it_is_a_geodesic(
    items: list[Volume], folders: list[str]
) -> None:
    one, two = (load_result(folder).deformation for folder in folders)
    result = run(started({"mean": folders, "weights": [0.25, 0.75]}, QUICK), items[0], items[2])
    mean = 0.25 * one.velocity.astype(np.float64) + 0.75 * two.velocity
    np.testing.assert_allclose(result.velocity["velocity"], mean, atol=1e-6)
    assert result.history == []
    assert result.parameters.iterations == (0, 0)
    assert result.metrics["folds_strict"]["count"] == 0
    assert result.metrics["inverse_error_mm"]["p95"] < 0.5
    assert not any("could not lower the energy" in note for note in result.notes)
    direct = deformation_from({**result.velocity, "velocity": mean.astype(np.float32)})
    np.testing.assert_allclose(
        np.asarray(result.displacement), direct.displacement(made_series.GRID, "fixed_to_moving"), atol=1e-4
    )


def test_with_a_weight_of_zero_nothing_moves(items: list[Volume], folders: list[str]) -> None:
    result = run(started({"mean": folders[:1], "weights": [0.0]}, QUICK), items[0], items[0])
    assert not np.asarray(result.displacement).any()
    assert result.verdict.level == "good"
    assert result.velocity["velocity"].shape == load_result(folders[0]).deformation.velocity.shape


def test_velocities_of_other_spaces_have_no_mean(items: list[Volume], folders: list[str], tmp_path: Path) -> None:
    wider = replace(QUICK, bands=(7, 11))
    other = register(items[0], items[1], wider, device="cpu", threads=1)
    save_result(other, tmp_path / "wider", items[0], items[1], outputs=())
    with pytest.raises(InputError, match=r"does not live in the space of .* Register the series again"):
        mean_velocity([folders[0], str(tmp_path / "wider")], [0.5, 0.5])


def test_a_result_that_is_missing_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="there is no such file"):
        mean_velocity([str(tmp_path / "7")], [1.0])


def test_a_result_is_gone_on_from_in_its_alignment(tmp_path):
    """A landmark that lies elsewhere pulls the map there; without it, going on changes little."""
    shape = (24, 26, 28)
    grid = Grid(shape, np.diag([2.0, 2.0, 2.0, 1.0])[[2, 1, 0, 3]])
    index = np.moveaxis(np.indices(shape), 0, -1)
    middle = (np.array(shape) - 1) / 2
    images = []
    for name, factor in (("fixed", 1.0), ("moving", 1.1)):
        radius = np.linalg.norm((index - middle) / factor, axis=-1)
        values = np.clip(9 - radius, 0, 1) + np.clip(4 - radius, 0, 1)
        images.append(Volume(grid, values.astype(np.float32), name))
    chosen = Parameters.from_preset("fast", iterations=(4, 2))
    first = register(*images, chosen)
    save_result(first, tmp_path / "first", *(Subject(image) for image in images))
    start = refined(str(tmp_path / "first"), chosen)
    assert start.parameters.iterations == (0, 2)
    again = start.run(*images, start.parameters, **start.given)
    assert np.array_equal(again.affine, first.affine)
    assert float(np.abs(np.asarray(again.displacement) - np.asarray(first.displacement)).max()) < 1.0
    points = grid.index_to_physical(np.add(middle, [[5, 0, 0]]))
    pulled = refined(str(tmp_path / "first"), replace(chosen, landmark_weight=10.0, landmark_trust_mm=0.5))
    there = np.add(points, [4.0, 0.0, 0.0])
    steered = pulled.run(*images, pulled.parameters, **pulled.given, fixed_points=points, moving_points=there).metrics[
        "landmarks"
    ]
    plain = register(*images, chosen, fixed_points=points, moving_points=there).metrics["landmarks"]
    assert steered["after_mm"][0] < 0.6 * plain["after_mm"][0]
    with pytest.raises(InputError, match="Only FLASH goes on"):
        refined(str(tmp_path / "first"), Parameters(method="lddmm"))
