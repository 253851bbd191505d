# SPDX-License-Identifier: Apache-2.0
"""The unrolled predictor: its gradient, what moves with the images, batches; its training; a trained model in use."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from DeepFLASHRegistrationLib.geodesics.band import Band, Evaluator, Lattice, Metric
from DeepFLASHRegistrationLib.geodesics.objective import Level, Pair, Settings
from DeepFLASHRegistrationLib.geodesics.search.lbfgs import LBFGS
from DeepFLASHRegistrationLib.learning.unrolled import MULTIPLE, Stage, UnrolledPredictor, built
from DeepFLASHRegistrationLib.methods.prediction import predictor, predictor_of
from DeepFLASHRegistrationLib.methods.trained_models import load_model
from DeepFLASHRegistrationLib.problem.parameters import Parameters
from DeepFLASHRegistrationLib.problem.problem import settings as problem_settings
from DeepFLASHRegistrationLib.problem.subject import Subject
from DeepFLASHRegistrationLib.registration.register import register
from DeepFLASHRegistrationLib.support.errors import InputError
from DeepFLASHRegistrationLib.training import recipes
from DeepFLASHRegistrationLib.training.dataset import read_dataset, split
from DeepFLASHRegistrationLib.training.pairs import AlignedSubjects, Variation, swapped
from DeepFLASHRegistrationLib.training.recipes import Recipe
from DeepFLASHRegistrationLib.training.teaching import teach
from DeepFLASHRegistrationLib.training.train import About, TrainingOptions, train
from DeepFLASHRegistrationLib.training.trainer import Schedule, Trainer, _transferred
from training_images import subject, write_subjects

SHAPE = (32, 40)
TINY = Parameters.from_preset(
    "default",
    resolutions=(2, 1),
    bands=(7, 9),
    iterations=(5, 5),
    similarity="ssd",
    sigma=0.05,
    alpha=6.0,
    power=2.0,
    alpha_growth=3.0,
    search="lbfgs",
    integrator="multistep",
    margin_mm=8.0,
    initial_alignment="centers",
)
RECIPE = Recipe(TINY, ((2, 2, (8, 8)), (3, 2, (8, 8))), {"resolutions": [1], "bands": [9]}, unit_mm=4.0)


def blob(
    center: tuple[float, float], dtype: torch.dtype = torch.float32, shape: tuple[int, int] = SHAPE
) -> torch.Tensor:
    y, x = (torch.arange(n, dtype=dtype) for n in shape)
    return torch.exp(-((y[:, None] - center[0]) ** 2 + (x[None] - center[1]) ** 2) / 30)


def make_pair(dtype: torch.dtype = torch.float32) -> Pair:
    """A blob that lies a little beside itself."""
    everywhere = torch.ones(SHAPE, dtype=dtype)
    images = blob((13.5, 15.5), dtype), blob((15, 17), dtype)
    return Pair(*images, everywhere, everywhere, None, None, tuple(map(float, SHAPE)))


def make_levels(*factors: int) -> list[Level]:
    lengths = tuple(map(float, SHAPE))
    return [Level((f, f), Band((7, 9), lengths), Metric(2.0, 2.0), (2, 2), 5, float(f)) for f in factors]


def randomized(stages: list[Stage], dtype: torch.dtype = torch.float32, size: float = 0.002) -> UnrolledPredictor:
    torch.manual_seed(3)
    network = UnrolledPredictor(2, stages).to(dtype)
    with torch.no_grad():
        for step in network.networks.values():
            step.out.weight.normal_(0, size)
    return network


SETTINGS = Settings("ssd", sigma=0.1, steps=4)


@pytest.mark.parametrize(
    ("weight", "size"),
    # What a network sees is no path for gradients: its length factor counts alone where the network says nothing.
    [("networks.0.out.bias", 0.01), ("networks.0.images.weight", 0.01), ("networks.0.length", 0.0)],
)
def test_gradient_reaches_the_weights_as_finite_differences_say(weight: str, size: float) -> None:
    network = randomized([Stage(1, (4, 4))], torch.float64, size)
    pair, levels = make_pair(dtype=torch.float64), make_levels(1)

    def last():
        return list(network.unroll((pair,), levels, SETTINGS, None))[-1]

    state = last()
    state.attempts.changes.backward(state.attempts.evaluations[0].gradient[None])
    value = dict(network.named_parameters())[weight]
    place = (0,) * value.ndim
    found, h = float(value.grad[place]), 1e-5
    energies = []
    for sign in (1, -1):
        with torch.no_grad():
            value[place] += sign * h
        energies.append(last().attempts.evaluations[0].energy)
        with torch.no_grad():
            value[place] -= sign * h
    assert found == pytest.approx((energies[0] - energies[1]) / (2 * h), rel=1e-5, abs=1e-9)
    assert abs(found) > 1e-9


def test_an_untrained_network_takes_small_steps_downhill() -> None:
    states = list(UnrolledPredictor(2, [Stage(3, (4, 4))]).unroll((make_pair(),), make_levels(1), SETTINGS, None))
    energies = [state.evaluations[0].energy for state in states]
    assert len(energies) == 4
    assert sorted(energies, reverse=True) == energies
    assert energies[-1] < energies[0]


def test_a_stage_without_a_network_is_quasi_newton_descent() -> None:
    learned = randomized([Stage(2, (4, 4)), Stage(3, ())])
    assert learned.trained == 1
    assert all(name.startswith("networks.0.") for name in learned.state_dict())
    states = list(learned.unroll((make_pair(),), make_levels(2, 1), SETTINGS, None))
    assert [state.stage for state in states] == [0, 0, 0, 1, 1, 1, 1]
    # The same from where it starts, as FLASH does it, if its first steps are no longer than FLASH's.
    start = states[3]
    objective, velocity = start.objectives[0], start.velocities[0]
    search, now = LBFGS(2 * objective.metric_weight * objective.shooting.L, detail=True), start.evaluations[0]
    for state in states[4:]:
        direction = search.direction(now.gradient)
        longest = float(objective.flow.evaluate(direction).square().sum(0).max().sqrt())
        assert longest < 1, "the step was shortened: choose images that lie nearer"
        there = objective(velocity + direction)
        search.update(direction, there.gradient - now.gradient)
        velocity, now = velocity + direction, there
        torch.testing.assert_close(state.velocities[0], velocity, rtol=1e-4, atol=1e-6)
    assert now.energy < start.evaluations[0].energy


def test_a_step_leads_uphill_only_a_little() -> None:
    network = randomized([Stage(4, (4, 4))], size=0.3)
    states = list(network.unroll((make_pair(),), make_levels(1), SETTINGS, None))
    rest = states[0].objectives[0].at_rest()
    wanted = [s.attempts.evaluations[0].energy - b.evaluations[0].energy for s, b in zip(states[1:], states)]
    made = [s.evaluations[0].energy - b.evaluations[0].energy for s, b in zip(states[1:], states)]
    assert max(wanted) > 0.1 * rest, "nothing led uphill: make the network wilder"
    assert max(made) < 0.03 * rest


def test_training_leaves_stages_behind_the_last_network_alone() -> None:
    schedule = Schedule(iterations=5, joining=(0.0, 0.0), labels_at_once=3)
    torch.manual_seed(0)
    predictor = UnrolledPredictor(2, [Stage(1, (4, 4)), Stage(2, ())])
    trainer = Trainer(predictor, TINY, schedule, Variation())
    found = trainer.step(make_subjects())
    assert set(found) == {"energy 0", "overlap 0"}
    assert float(predictor.networks["0"].out.bias.detach().abs().max()) > 0


def test_prediction_moves_with_the_images() -> None:
    network = randomized([Stage(1, (4, 4))], size=0.01)
    shape, lengths = (96, 96), (96.0, 96.0)
    level = Level((1, 1), Band((15, 15), lengths), Metric(2.0, 2.0), (2, 2), 5, 1.0)
    everywhere = torch.ones(shape)
    fields = []
    # Halved twice, the network's grid repeats every four cells; its reach ends before the border.
    for shift in (0, 4):
        images = (blob((at + shift, at + shift), shape=shape) for at in (45.0, 46.5))
        pair = Pair(*images, everywhere, everywhere, None, None, lengths)
        # What the network says is taken as it is where it is not looked at once more.
        *_, last = network.unroll((pair,), [level], SETTINGS, None, last_evaluated=False)
        fields.append(Evaluator(level.band, Lattice.cells(shape, lengths))(last.velocities[0].detach()))
    moved = fields[1].roll((-4, -4), (1, 2))
    part = (slice(None), slice(30, 62), slice(30, 62))
    assert float((moved - fields[0])[part].abs().max()) < 0.1 * float(fields[0].abs().max())
    assert float((fields[1] - fields[0])[part].abs().max()) > 0.2 * float(fields[0].abs().max())


def test_mixed_precision_is_nearly_the_same_and_learns() -> None:
    network, levels = randomized([Stage(2, (8, 8))], size=0.01), make_levels(1)
    *_, exact = network.unroll((make_pair(),), levels, SETTINGS, None)
    network.mixed_precision = True
    *_, mixed = network.unroll((make_pair(),), levels, SETTINGS, None)
    assert mixed.velocities.dtype == torch.float32
    difference = float((mixed.velocities - exact.velocities).norm() / exact.velocities.norm())
    assert 0 < difference < 0.05
    mixed.attempts.changes.backward(mixed.attempts.evaluations[0].gradient[None])
    for weight in network.parameters():
        assert weight.grad.dtype == torch.float32
        assert bool(torch.isfinite(weight.grad).all())


def test_batch_is_its_pairs() -> None:
    network = randomized([Stage(2, (4, 4)), Stage(1, (4, 4))])
    pairs, levels = (make_pair(), swapped(make_pair())), make_levels(2, 1)
    together = list(network.unroll(pairs, levels, SETTINGS, None))[-1]
    for number, pair in enumerate(pairs):
        alone = list(network.unroll((pair,), levels, SETTINGS, None))[-1]
        torch.testing.assert_close(together.velocities[number], alone.velocities[0], rtol=1e-4, atol=1e-6)
    assert not torch.allclose(together.velocities[0], together.velocities[1], atol=1e-3)


def test_too_steep_a_velocity_gives_way() -> None:
    network = randomized([Stage(2, (4, 4))], size=500.0)
    states = list(network.unroll((make_pair(),), make_levels(1), dataclasses.replace(SETTINGS, steps=0), None))
    for state in states:
        assert math.isfinite(state.evaluations[0].energy)
        assert bool(torch.isfinite(state.velocities).all())


def test_odd_cells_are_refused() -> None:
    pair = make_pair()
    odd = Pair(
        *(x[:31] for x in (pair.fixed, pair.moving, pair.fixed_mask, pair.moving_mask)), None, None, (31.0, 40.0)
    )
    with pytest.raises(ValueError, match="multiple of 2"):
        list(randomized([Stage(1, (4, 4))]).unroll((odd,), make_levels(1), SETTINGS, None))


# ------------------------------------------------------------------------------------------------------- training


def make_subjects(count: int = 4, parameters: Parameters = TINY) -> AlignedSubjects:
    images, labels = zip(*(subject(k, (40, 36)) for k in range(count)), strict=True)
    images = [image.with_data(image.data / 100) for image in images]
    return AlignedSubjects(list(map(Subject, images, labels)), parameters, RECIPE.unit_mm, MULTIPLE)


def make_trainer(**more) -> Trainer:
    torch.manual_seed(0)
    schedule = Schedule(**{"iterations": 25, "joining": (0.0, 0.3), "labels_at_once": 3, "learning_rate": 3e-3, **more})
    return Trainer(built(2, RECIPE.architecture), TINY, schedule, Variation(mirror=True, deformation_mm=6.0))


def test_training_lowers_the_energy_of_unseen_pairs() -> None:
    single = dataclasses.replace(TINY, resolutions=(1,), bands=(9,), iterations=(5,))
    subjects, unseen = make_subjects(4, single), make_subjects(6, single)
    schedule = Schedule(iterations=60, joining=(0.0,), label_weight=0.0, learning_rate=1e-2)
    torch.manual_seed(0)
    trainer = Trainer(UnrolledPredictor(2, [Stage(1, (16, 16))]), single, schedule, Variation(deformation_mm=6.0))
    # Aligned, two ellipses differ by nothing: by random geodesics they do.
    examples = [unseen.example(4, 5, Variation(deformation_mm=6.0), (seed,)) for seed in range(4)]

    def left() -> float:
        found = []
        for example in examples:
            levels, window = example.problem.levels(single), example.problem.window()
            *_, last = trainer.predictor.unroll((example.pair,), levels, problem_settings(single), window)
            found.append(last.evaluations[0].energy / last.objectives[0].at_rest())
        return float(np.mean(found))

    before = left()
    while trainer.progress() < 1:
        trainer.step(subjects)
    assert left() < 0.96 * before


def test_training_is_reproducible_and_goes_on_to_the_same_numbers() -> None:
    subjects = make_subjects()
    whole, first, rest = make_trainer(), make_trainer(), make_trainer()
    for _ in range(6):
        whole.step(subjects)
    for _ in range(3):
        first.step(subjects)
    rest.restore(first.predictor.state_dict(), first.moments(), first.iteration, first.seconds())
    for _ in range(3):
        rest.step(subjects)
    for name, value in whole.predictor.state_dict().items():
        assert torch.equal(value, rest.predictor.state_dict()[name]), name


def test_pairs_look_the_same_for_the_same_seed_only() -> None:
    subjects, variation = make_subjects(), Variation(deformation_mm=2.0)
    one, two, other = (subjects.example(0, 1, variation, (s,)).pair.moving for s in (1, 1, 2))
    assert torch.equal(one, two)
    assert one.shape != other.shape or not torch.equal(one, other)


def test_a_velocity_keeps_its_field_on_another_grid() -> None:
    subjects = make_subjects()
    problem, other = subjects.example(0, 1).problem, subjects.example(1, 0).problem
    band = Band((7, 9), other.lengths)
    velocity = torch.zeros(2, 7, 9)
    velocity[:, 1:3, 1:3] = torch.tensor([[1.0, -0.5], [0.3, 0.2]])
    taught = problem.geodesic(velocity, Metric(2.0, 2.0), TINY)
    center = problem.grid.center
    wide = Band((15, 19), other.lengths)
    here = at(velocity.double(), Band((7, 9), problem.lengths), problem.grid.physical_to_index(center[None]), problem)
    there = at(_transferred(taught, other, wide), wide, other.grid.physical_to_index(center[None]), other)
    # The band of another box holds the field nearly, not exactly: it is cut off at its own border.
    np.testing.assert_allclose(there, here, atol=0.15 * float(velocity.abs().sum()) / 4)
    same = _transferred(taught, problem, Band((7, 9), problem.lengths))
    np.testing.assert_allclose(same, velocity, atol=1e-6)
    assert band.modes == (7, 9)


def at(velocity: torch.Tensor, band: Band, index: np.ndarray, problem) -> np.ndarray:
    position = (index[0] + 0.5) * np.array(problem.lengths) / problem.grid.shape
    lattice = Lattice((1,) * len(position), (1.0,) * len(position), tuple(position))
    return Evaluator(band, lattice, torch.float64)(velocity.double()).flatten().numpy()


# ------------------------------------------------------------------------------------------------ a model, at work


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small model, trained in seconds on images of 2-D ellipses."""
    folder = tmp_path_factory.mktemp("training")
    write_subjects(folder / "data", 6, shape=(40, 36))
    before = dict(recipes.RECIPES)
    recipes.RECIPES["tiny"] = RECIPE
    try:
        dataset = read_dataset(folder / "data")
        seen, unseen = split(dataset, "s4,s5")
        options = TrainingOptions(
            "tiny",
            device="cpu",
            validation_pairs=2,
            validate_every=10,
            schedule=Schedule(iterations=20, joining=(0.0, 0.3), learning_rate=3e-3),
            about=About(name="tiny", license="CC0"),
        )
        train(seen, unseen, folder / "tiny", options, tell=lambda text: None)
    finally:
        recipes.RECIPES.clear()
        recipes.RECIPES.update(before)
    return folder / "tiny"


def pair_of(*numbers: int):
    return [subject(k, (40, 36)) for k in numbers]


def test_model_registers(model: Path) -> None:
    (fixed, fixed_labels), (moving, moving_labels) = pair_of(4, 5)
    events = []
    parameters = Parameters(method="deepflash", model=str(model), initial_alignment="centers")
    result = register(
        fixed, moving, parameters, fixed_labels=fixed_labels, moving_labels=moving_labels, progress=events.append
    )
    assert result.parameters.method == "deepflash"
    assert result.parameters.bands == TINY.bands
    assert result.metrics["mean_dice_after"] > result.metrics["mean_dice_before"]
    assert result.metrics["folds"]["count"] == 0
    assert result.history[-1]["energy"] < result.history[0]["energy"]
    assert [e["iteration"] for e in events if "energy" in e] == [0, 1, 2, 1, 2, 3]
    refined = register(fixed, moving, dataclasses.replace(parameters, method="deepflash+flash", refinement=3))
    assert refined.history[-1]["energy"] < result.history[-1]["energy"]
    assert len(refined.history) > len(result.history)


def test_maps_in_memory_are_those_of_the_registration(model: Path) -> None:
    (fixed, _), (moving, _) = pair_of(4, 5)
    found = predictor(str(model))
    images = [image.with_data(image.data / 100) for image in (fixed, moving)]
    from DeepFLASHRegistrationLib.problem.problem import Problem

    problem = Problem(
        *map(Subject, images), np.eye(3), found.parameters, unit_mm=found.unit_mm, multiple=found.multiple
    )
    pair = problem.pair()
    maps, back = found.maps(problem, (pair, swapped(pair)))
    torch.testing.assert_close(found.maps(problem, (pair,))[0].warped, maps.warped, rtol=1e-4, atol=1e-5)
    assert float((back.warped - pair.moving).square().mean()) < float((maps.warped - pair.moving).square().mean())
    assert maps.warped.shape == pair.fixed.shape
    before, after = (float(((x - pair.fixed) ** 2).mean()) for x in (pair.moving, maps.warped))
    assert after < 0.7 * before
    # There and back again, in cells.
    there = maps.fixed_to_moving
    from DeepFLASHRegistrationLib.geodesics.sampling import Sampler

    cells = Lattice.cells(tuple(pair.fixed.shape), pair.lengths)
    round_trip = there + Sampler(cells, cells)(maps.moving_to_fixed, there)
    assert float(round_trip[:, 8:-8, 8:-8].abs().max()) < 0.1 * float(there.abs().max()) + 0.05


def test_cancelled_prediction_keeps_what_it_has(model: Path) -> None:
    (fixed, _), (moving, _) = pair_of(4, 5)
    seen = []
    result = register(
        fixed,
        moving,
        Parameters(method="deepflash", model=str(model), initial_alignment="none"),
        progress=seen.append,
        cancel=lambda: any(e.get("iteration", 0) >= 1 for e in seen),
    )
    assert result.cancelled
    assert len(result.history) < 6


def test_images_unlike_the_training_data_are_reported(model: Path) -> None:
    (fixed, _), (moving, _) = (subject(k, (80, 72)) for k in (4, 5))
    result = register(fixed, moving, Parameters(method="deepflash", model=str(model), initial_alignment="none"))
    assert result.verdict.level != "good"
    assert any("trained on objects" in str(reason) for reason in result.verdict.reasons)


def test_wrong_models_are_refused_before_any_work(model: Path) -> None:
    volumes = [subject(k, (20, 22, 18))[0] for k in (0, 1)]
    with pytest.raises(InputError, match="2 dimensions"):
        register(*volumes, Parameters(method="deepflash", model=str(model)))
    with pytest.raises(InputError, match="no-such-model"):
        register(*volumes, Parameters(method="deepflash", model="no-such-model"))
    with pytest.raises(ValueError, match="needs a model"):
        Parameters(method="deepflash")
    loaded = load_model(model)
    del loaded.arrays[next(iter(loaded.arrays))]
    with pytest.raises(InputError, match="do not fit"):
        predictor_of(loaded)


def test_training_is_kept_and_other_options_are_refused(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(recipes.RECIPES, "tiny", RECIPE)
    write_subjects(tmp_path / "data", 4, shape=(40, 36))
    dataset = read_dataset(tmp_path / "data")
    seen, unseen = split(dataset, "s2,s3")
    options = TrainingOptions(
        "tiny",
        device="cpu",
        validation_pairs=2,
        validate_every=2,
        schedule=Schedule(iterations=4, joining=(0.0, 0.0)),
        about=About(name="x"),
    )
    lines: list[str] = []

    def stop(text: str) -> None:
        lines.append(text)
        if text.startswith("[2,"):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(seen, unseen, tmp_path / "stopped", options, tell=stop)
    assert not (tmp_path / "stopped" / "model.json").exists()
    other = dataclasses.replace(options, validate_every=1)
    with pytest.raises(InputError, match="other options"):
        train(seen, unseen, tmp_path / "stopped", other, tell=lines.append)
    train(seen, unseen, tmp_path / "stopped", options, tell=lines.append)
    assert "Going on after iteration 2." in lines
    train(seen, unseen, tmp_path / "whole", options, tell=lines.append)
    one, two = (load_model(tmp_path / name).arrays for name in ("stopped", "whole"))
    for name in two:
        np.testing.assert_array_equal(one[name], two[name])
    assert (tmp_path / "whole" / "learning_curves.svg").read_text().startswith("<svg")
    assert not (tmp_path / "whole" / "training.safetensors").exists()


def test_velocities_of_flash_teach(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(recipes.RECIPES, "tiny", RECIPE)
    write_subjects(tmp_path / "data", 5, shape=(40, 36))
    seen, unseen = split(read_dataset(tmp_path / "data"), "s3,s4")
    taught = teach(seen, tmp_path / "velocities", dataclasses.replace(TINY, initial_alignment="centers"), 3)
    assert all(row.file.exists() for row in taught)
    schedule = Schedule(iterations=6, joining=(0.0, 0.0), teacher_weight=5.0)
    options = TrainingOptions("tiny", device="cpu", validate_every=6, schedule=schedule, about=About(name="x"))
    train(seen, unseen, tmp_path / "alone", options, tell=lambda text: None)
    train(seen, unseen, tmp_path / "taught", options, tmp_path / "velocities", tell=lambda text: None)
    alone, with_teacher = (load_model(tmp_path / name).arrays for name in ("alone", "taught"))
    assert any(not np.array_equal(alone[name], with_teacher[name]) for name in alone)
    unlike = [tmp_path / "none", options, tmp_path / "velocities"]
    with pytest.raises(InputError, match="holds no velocity of two of the training images"):
        train(unseen, seen, *unlike, tell=lambda text: None)
