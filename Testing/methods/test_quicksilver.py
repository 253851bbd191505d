# SPDX-License-Identifier: Apache-2.0
"""Quicksilver at work: what it predicts is shot, corrected by what it then sees, and scatters if made at random."""

from __future__ import annotations

import json
import re
from pathlib import Path

import map_models
import numpy as np
import pytest
import torch
from DeepFLASHRegistrationLib.geodesics.band import Lattice
from DeepFLASHRegistrationLib.imaging.io import read_volume
from DeepFLASHRegistrationLib.learning import quicksilver
from DeepFLASHRegistrationLib.methods.prediction_quicksilver import Kind, corrected_maps, shot_momentum
from DeepFLASHRegistrationLib.methods.trained_models import load_model
from DeepFLASHRegistrationLib.problem.parameters import Parameters
from DeepFLASHRegistrationLib.registration.register import register
from DeepFLASHRegistrationLib.results.folder import save_result
from DeepFLASHRegistrationLib.support.errors import Cancelled, InputError
from map_models import SHAPE, SPACING
from scipy.ndimage import map_coordinates
from training_images import subject

PARAMETERS = Parameters(
    resolutions=(4, 2, 1), bands=(7, 9, 9), iterations=(2, 2, 1), spacing_mm=SPACING, margin_mm=SPACING
)


def saved(folder: Path, network: quicksilver.QuicksilverNet, dropout: float = 0.0, corrections: int = 0) -> Path:
    features, block = quicksilver.SIZES["small"]
    architecture = {"features": list(features), "block": block, "scale": network.scale, "dropout": dropout}
    return map_models.saved(
        folder, "quicksilver", architecture | {"corrections": corrections}, network, parameters=PARAMETERS
    )


def random_network(seed: int, scale: float, dropout: float = 0.0) -> quicksilver.QuicksilverNet:
    torch.manual_seed(seed)
    return quicksilver.QuicksilverNet(3, *quicksilver.SIZES["small"], scale, dropout)


def leading(values: tuple[float, ...]) -> quicksilver.QuicksilverNet:
    """One whose last layers hold a bias alone: it answers with the slope of the moving image times that."""
    network = random_network(0, 3.0)
    for decoder, value in zip(network.decoders, values, strict=True):
        torch.nn.init.zeros_(decoder.fine[-1].weight)
        torch.nn.init.constant_(decoder.fine[-1].bias, value)
    return network


def pair():
    return subject(4, SHAPE, SPACING), subject(5, SHAPE, SPACING)


def registered(model: Path, **more: object):
    (fixed, _), (moving, _) = pair()
    parameters = Parameters(method="quicksilver", model=str(model), initial_alignment="none", **more)
    return register(fixed, moving, parameters, threads=1)


def test_the_moving_image_is_carried_where_the_momentum_points(tmp_path: Path) -> None:
    """Everywhere along the slope of the moving image is inwards: the moving image shrinks onto the fixed one, and what
    is looked up lies further out. The slope is that of the last axis alone, the image's left and right."""
    found = {}
    for value in (1.0, -1.0):
        network = leading((0.0, 0.0, value))
        fixed, moving = (torch.from_numpy(image.data).float() for image, _ in pair())
        fixed, moving = fixed / fixed.max(), moving / moving.max()
        cells = Lattice.cells(SHAPE, tuple(map(float, SHAPE)))
        ((forth, back),) = corrected_maps(network, (fixed, moving), cells, PARAMETERS, torch.ones(SHAPE), 0)
        at = torch.arange(SHAPE[-1]) - (SHAPE[-1] - 1) / 2
        found[value] = [float((u[2] * at).sum() / at.square().sum() / (SHAPE[0] * SHAPE[1])) for u in (forth, back)]
        assert float(forth[:2].abs().mean()) < 0.5 * float(forth[2].abs().mean())
    assert found[1.0][0] > 0.003 > -0.003 > found[1.0][1]
    assert found[-1.0][0] < -0.003 < 0.003 < found[-1.0][1]


class Scripted:
    """Answers with given momenta, one after the other, and remembers the moving images that it was shown."""

    def __init__(self, momenta: list[torch.Tensor]):
        self.momenta, self.shown = momenta, []

    def momentum(self, fixed: torch.Tensor, moving: torch.Tensor):
        self.shown.append(moving)
        yield None
        yield self.momenta[len(self.shown) - 1]


def test_a_correction_follows_what_was_found_before() -> None:
    generator = torch.Generator().manual_seed(0)
    shape = (32, 28, 30)
    cells, window = Lattice.cells(shape, tuple(map(float, shape))), torch.ones(shape)
    bumps = torch.randn(2, 3, 6, 6, 6, generator=generator)
    momenta = list(60 * torch.nn.functional.interpolate(bumps, shape, mode="trilinear"))
    moving = torch.nn.functional.interpolate(torch.rand(1, 1, 8, 8, 8, generator=generator), shape, mode="trilinear")
    network = Scripted(momenta)
    alone, (forth, back) = corrected_maps(network, (moving[0, 0], moving[0, 0]), cells, PARAMETERS, window, 1)
    first, second = (shot_momentum(m, cells, PARAMETERS, window) for m in momenta)
    assert min(float(u.abs().max()) for u in (*first, *second)) > 0.5
    assert all(torch.equal(one, other) for one, other in zip(alone, first, strict=True))
    points = np.indices(shape).astype(float)

    def at(values: torch.Tensor, places: np.ndarray) -> np.ndarray:
        return np.stack([map_coordinates(v.numpy(), places, order=1, mode="nearest") for v in values])

    inner = (slice(None), *[slice(4, -4)] * 3)
    by_hand = points + second[0].numpy()
    by_hand = by_hand + at(first[0], by_hand)
    np.testing.assert_allclose((points + forth.numpy())[inner], by_hand[inner], atol=2e-3)
    home = points + first[1].numpy()
    home = home + at(second[1], home)
    np.testing.assert_allclose((points + back.numpy())[inner], home[inner], atol=2e-3)
    warped = at(moving[0], points + first[0].numpy())[0]
    assert torch.equal(network.shown[0], moving[0, 0])
    np.testing.assert_allclose(network.shown[1].numpy()[4:-4, 4:-4, 4:-4], warped[4:-4, 4:-4, 4:-4], atol=2e-3)


@pytest.mark.parametrize("good", [0, 1])
def test_of_what_it_answers_the_best_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, good: int) -> None:
    """A correction that makes the images less alike than they were is left out."""
    (fixed, _), _ = pair()
    moving = fixed.with_data(np.roll(fixed.data, 2, axis=-1))
    model = saved(tmp_path / "model", random_network(1, 4.0), corrections=1)
    parameters = Parameters(method="quicksilver", model=str(model), initial_alignment="none")

    def answers(self, problem, images, cancelled):
        u = torch.zeros(3, *problem.grid.shape)
        u[2] = 2.0
        for k in range(2):
            yield (u, -u) if k == good else (-u, u)

    monkeypatch.setattr(Kind, "answers", answers)
    result = register(fixed, moving, parameters, threads=1)
    shift = result.displacement[:][tuple(n // 2 for n in SHAPE)]
    assert np.abs(shift).max() == pytest.approx(2 * SPACING, rel=0.05)
    energies = [record["energy"] for record in result.history]
    assert len(energies) == 2
    assert energies[1] < 0.5 * energies[0]


def test_random_answers_scatter_about_the_prediction(tmp_path: Path) -> None:
    """The standard deviation of the maps that the network finds with dropout, seed by seed, in mm on the fixed grid."""
    model = saved(tmp_path / "model", random_network(1, 60.0, 0.3), 0.3)
    plain, sampled, again = registered(model), registered(model, samples=5), registered(model, samples=5)
    assert plain.uncertainty is None
    assert np.array_equal(plain.displacement[:], sampled.displacement[:])
    found = sampled.uncertainty
    assert found.grid.same_as(sampled.fixed_grid)
    assert np.array_equal(found.data, again.uncertainty.data)
    assert found.data.max() > 0.01
    from DeepFLASHRegistrationLib.methods.prediction import predictor_of
    from DeepFLASHRegistrationLib.methods.registry import Plan
    from DeepFLASHRegistrationLib.problem.problem import comparable
    from DeepFLASHRegistrationLib.problem.subject import Subject

    predictor = predictor_of(load_model(model))
    parameters = predictor.config.effective(Parameters(method="quicksilver", model=str(model)))
    plan = Plan(parameters, predictor)
    sides = comparable(*(Subject(image).checked() for image, _ in pair()), parameters)
    problem = plan.problem(*sides, np.eye(4), "cpu")
    maps = []
    predictor.network.train()
    for seed in range(5):
        torch.manual_seed(seed)
        with torch.no_grad():
            maps.append(predictor.displacements(problem, problem.pair("cpu"), lambda: False)[0].double().numpy())
    right = SPACING * np.sqrt(np.var(maps, axis=0, ddof=1).sum(0))
    inside = problem.fixed_mask
    figures = sampled.metrics["uncertainty_mm"]
    assert figures["mean"] == pytest.approx(right[inside].mean(), rel=1e-3)
    assert figures["max"] == pytest.approx(right[inside].max(), rel=1e-3)
    # The same where it is looked up on the image's own grid.
    index = np.argwhere(inside)[::37]
    there = np.rint(found.grid.physical_to_index(problem.grid.index_to_physical(index))).astype(int)
    aligned = np.abs(found.grid.index_to_physical(there) - problem.grid.index_to_physical(index)).max(-1) < 1e-6
    aligned &= ((there >= 0) & (there < SHAPE)).all(-1)
    assert aligned.any()
    np.testing.assert_allclose(
        found.data[tuple(there[aligned].T)], right[tuple(index[aligned].T)], rtol=1e-3, atol=1e-5
    )


def test_the_uncertainty_is_written_and_shown(tmp_path: Path) -> None:
    model = saved(tmp_path / "model", random_network(1, 60.0, 0.3), 0.3)
    (fixed, _), (moving, _) = pair()
    result = registered(model, samples=2)
    for outputs, there in ((None, True), (["warped"], False)):
        folder = save_result(result, tmp_path / str(there), fixed, moving, outputs=outputs)
        assert (folder / "uncertainty.nii.gz").exists() == there
        told = json.loads((folder / "result.json").read_text(encoding="utf-8"))
        assert told["parameters"]["samples"] == 2
        assert told["metrics"]["uncertainty_mm"]["max"] > 0
    written = read_volume(tmp_path / "True" / "uncertainty.nii.gz")
    np.testing.assert_allclose(written.data, result.uncertainty.data, rtol=1e-5)
    report = (tmp_path / "True" / "report.html").read_text(encoding="utf-8")
    assert "Uncertainty of the prediction" in report
    without = save_result(registered(model), tmp_path / "without", fixed, moving)
    assert not (without / "uncertainty.nii.gz").exists()
    assert "Uncertainty of the prediction" not in (without / "report.html").read_text(encoding="utf-8")


def test_random_answers_are_refused_where_there_are_none(tmp_path: Path) -> None:
    model = saved(tmp_path / "model", random_network(1, 4.0))
    with pytest.raises(InputError, match=r"trained without dropout.*--dropout"):
        registered(model, samples=3)
    (fixed, _), (moving, _) = pair()
    with pytest.raises(InputError, match="the method flash has no random answers"):
        register(fixed, moving, Parameters(samples=3), threads=1)


def test_cancelled_while_answers_are_drawn_the_prediction_stays(tmp_path: Path) -> None:
    model = saved(tmp_path / "model", random_network(1, 60.0, 0.3), 0.3)
    (fixed, _), (moving, _) = pair()
    parameters = Parameters(method="quicksilver", model=str(model), initial_alignment="none", samples=50)
    said: list[str] = []
    result = register(
        fixed,
        moving,
        parameters,
        threads=1,
        progress=lambda event: said.append(event["message"]),
        cancel=lambda: any("answer 2 of 50" in text for text in said),
    )
    assert result.uncertainty is None
    assert not any("answer 4 of 50" in text for text in said)
    assert np.array_equal(result.displacement[:], registered(model).displacement[:])


def test_cancelled_between_patches(tmp_path: Path) -> None:
    model = saved(tmp_path / "model", random_network(2, 1.0))
    (fixed, _), (moving, _) = pair()
    stop = []
    parameters = Parameters(method="quicksilver", model=str(model), initial_alignment="none")

    def told(event: dict) -> None:
        stop.append(event["phase"] == "level")

    with pytest.raises(Cancelled):
        register(fixed, moving, parameters, threads=1, progress=told, cancel=lambda: any(stop))


def test_a_model_that_corrects_itself_without_end_is_refused(tmp_path: Path) -> None:
    model = saved(tmp_path / "model", random_network(2, 1.0), corrections=1000)
    with pytest.raises(InputError, match="corrects itself 1000 times"):
        registered(model)


def test_the_report_lays_out_as_many_columns_as_there_are(tmp_path: Path) -> None:
    from DeepFLASHRegistrationLib.report.style import STYLE

    model = saved(tmp_path / "model", random_network(1, 60.0, 0.3), 0.3)
    (fixed, labels), (moving, others) = pair()
    parameters = Parameters(method="quicksilver", model=str(model), initial_alignment="none", samples=2)
    result = register(fixed, moving, parameters, threads=1, fixed_labels=labels, moving_labels=others)
    folder = save_result(result, tmp_path / "out", fixed, moving, fixed_labels=labels, outputs=["report"])
    columns = set(re.findall(r'class="panels (c\d)"', (folder / "report.html").read_text(encoding="utf-8")))
    assert "c4" in columns
    for each in columns:
        assert f".panels.{each} " in STYLE
