# SPDX-License-Identifier: Apache-2.0
"""Methods through the shared trainer, and the momenta that Quicksilver learns from."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from DeepFLASHRegistrationLib.geodesics.full_space import minimize
from DeepFLASHRegistrationLib.learning import coded_field, icon, quicksilver
from DeepFLASHRegistrationLib.learning.coded_field import CodedDesign
from DeepFLASHRegistrationLib.learning.icon import FAMILY
from DeepFLASHRegistrationLib.methods.prediction import predictor_of
from DeepFLASHRegistrationLib.methods.prediction_quicksilver import shot_momentum
from DeepFLASHRegistrationLib.methods.stages import without_band
from DeepFLASHRegistrationLib.methods.trained_models import load_model
from DeepFLASHRegistrationLib.problem.problem import settings
from DeepFLASHRegistrationLib.support.errors import InputError
from DeepFLASHRegistrationLib.support.tensors import write_tensors
from DeepFLASHRegistrationLib.training.drawing import Drawing, Variety
from DeepFLASHRegistrationLib.training.examples import Maker
from DeepFLASHRegistrationLib.training.icon_method import IconMethod
from DeepFLASHRegistrationLib.training.learned import registrations
from DeepFLASHRegistrationLib.training.learned_methods import learned_method
from DeepFLASHRegistrationLib.training.momenta import (
    TaughtDrawing,
    found_momentum,
    pair_problem,
    read_momenta,
    teach_momenta,
)
from DeepFLASHRegistrationLib.training.pack import Pack, packed
from DeepFLASHRegistrationLib.training.pack_training import Course, PackTraining
from DeepFLASHRegistrationLib.training.quicksilver_method import QuicksilverMethod
from DeepFLASHRegistrationLib.training.train_on_packs import PackOptions, train_on_packs
from DeepFLASHRegistrationLib.training.validation import Validator
from DeepFLASHRegistrationLib.training.voxelmorph_method import VoxelMorphMethod
from icon_package import icon_or_skip
from training_packs import pack

pytest.importorskip("monai")
icon_or_skip()

STILL = Variety(3, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0)
QUICK = {"resolutions": (2, 1), "bands": (7, 9), "iterations": (3, 1), "alpha": 6.0, "integrator": "multistep"}


@pytest.fixture(autouse=True)
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def narrow(monkeypatch: pytest.MonkeyPatch) -> None:
    """Few features, and one step at half of the resolution."""
    for kind in FAMILY:
        monkeypatch.setitem(icon.SIZES[kind], "small", icon.Design((2, 8, 8), (8, 8), (2,)))
    carl = icon.Design((2, 8, 8), (8, 8), (4, 4), attention=6, padding=1)
    monkeypatch.setitem(icon.SIZES["carl"], "small", carl)
    monkeypatch.setitem(coded_field.SIZES, "small", CodedDesign((4, 8, 8, 8), 4, 4, 8, 1.0, 8))


@pytest.fixture(scope="module")
def both() -> Pack:
    return pack("both")


@pytest.fixture(scope="module")
def taught(both: Pack, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Momenta of three of the six pairs."""
    out = tmp_path_factory.mktemp("taught") / "momenta"
    teach_momenta(both, out, registrations([both], **QUICK), 3)
    return out


# ------------------------------------------------------------------------------------------------------------- momenta


def test_a_momentum_leads_where_lddmm_led(both: Pack) -> None:
    parameters = without_band(registrations([both], **QUICK))
    problem = pair_problem(both, 0, 2, parameters)
    momentum, before, after = found_momentum(problem, parameters)
    assert after < 0.8 * before
    found = minimize(problem.pair(), problem.levels(parameters), settings(parameters), problem.window())
    window = problem.window()(found.lattice)
    maps = shot_momentum(torch.from_numpy(momentum.astype(np.float16)).float(), found.lattice, parameters, window)
    for mine, theirs in zip(maps, found.maps, strict=True):
        assert float(theirs.abs().max()) > 0.5
        # Other time steps, and half precision of the momentum.
        left = (mine - theirs).norm(dim=0).flatten()
        assert float(left.mean()) < 0.005
        assert float(left.quantile(0.99)) < 0.03


def test_a_momentum_lies_where_the_edges_are(both: Pack, taught: Path) -> None:
    momenta = read_momenta(taught, both)
    fixed = both.images[momenta.pairs[0][0]].astype(float)
    edges = np.linalg.norm(np.gradient(fixed), axis=0)
    size = np.linalg.norm(momenta.values[0].astype(float), axis=0)
    assert size[edges > 10].mean() > 3 * size[edges == 0].mean()


def test_teaching_goes_on_where_it_was(both: Pack, taught: Path, tmp_path: Path) -> None:
    out, said = tmp_path / "momenta", []
    shutil.copytree(taught, out)
    files = sorted(out.glob("*.safetensors"))
    assert len(files) == 3
    kept = files[1].read_bytes()
    files[1].write_bytes(kept[:50])
    teach_momenta(both, out, registrations([both], **QUICK), 3, tell=said.append)
    assert [text.endswith("was there") for text in said].count(True) == 2
    assert files[1].read_bytes() == kept
    with pytest.raises(InputError, match=r"other parameters.*alpha"):
        teach_momenta(both, out, registrations([both], **{**QUICK, "alpha": 7.0}), 3)
    with pytest.raises(InputError, match="momenta are found of images"):
        teach_momenta(pack("maps", images=False), tmp_path / "other", registrations([both]), 3)


def test_momenta_that_do_not_belong_to_the_pack_are_refused(both: Pack, taught: Path, tmp_path: Path) -> None:
    changed = both.images.copy()
    changed[0, 16, 16, 16] ^= 8
    with pytest.raises(InputError, match="belong to another image 'both-0'"):
        read_momenta(taught, dataclasses.replace(both, images=changed))
    with pytest.raises(InputError, match="deepflash teach"):
        read_momenta(tmp_path, both)
    out = tmp_path / "momenta"
    shutil.copytree(taught, out)
    file = sorted(out.glob("*.safetensors"))[0]
    write_tensors(file, {"momentum": np.zeros((3, 4, 4, 4), np.float16)}, {})
    with pytest.raises(InputError, match="holds no momentum of this pack"):
        read_momenta(out, both)
    for each in out.glob("*.safetensors"):
        each.unlink()
    with pytest.raises(InputError, match="holds no momenta of both"):
        read_momenta(out, both)


def test_a_taught_pair_is_drawn_as_it_lies_or_turned_round_with_its_momentum(both: Pack, taught: Path) -> None:
    momenta = read_momenta(taught, both)
    draws = TaughtDrawing([both], {"both": 1}, dataclasses.replace(STILL, turn=9.0, pose_shift=4.0), 6, momenta)
    maker = Maker(draws, "cpu")
    drawn = draws.draw((0, 4))
    images = maker(maker.tensors(drawn))
    assert all(set(column) == {False, True} for column in drawn["mirrored"].T)
    for k, (which, mirrored) in enumerate(zip(drawn["taught"], drawn["mirrored"], strict=True)):
        axes = [axis - 3 for axis in np.flatnonzero(mirrored)]
        for side, subject in enumerate(momenta.pairs[which]):
            clean = torch.from_numpy(both.images[subject] / 255).float().flip(axes)
            torch.testing.assert_close(images.clean[2 * k + side], clean, atol=2e-4, rtol=0)
            torch.testing.assert_close(images.seen[2 * k + side], clean, atol=2e-4, rtol=0)
        sign = torch.from_numpy(1.0 - 2.0 * mirrored).view(-1, 1, 1, 1)
        right = sign * torch.from_numpy(momenta.values[which]).float().flip(axes)
        torch.testing.assert_close(images.momenta[k].float(), right.float())


@pytest.mark.parametrize("axis", range(3))
def test_the_momentum_of_a_mirrored_pair_is_the_mirrored_one(both: Pack, axis: int) -> None:
    """What the drawing takes for known, by LDDMM itself."""
    parameters = without_band(registrations([both], **QUICK))
    mirrored = dataclasses.replace(both, images=np.flip(both.images, 1 + axis).copy())
    one, other = (found_momentum(pair_problem(p, 0, 2, parameters), parameters)[0] for p in (both, mirrored))
    other = np.flip(other, 1 + axis).copy()
    other[axis] *= -1
    assert np.linalg.norm(other - one) < 0.02 * np.linalg.norm(one)


def test_momenta_of_two_packs_are_refused(both: Pack, taught: Path) -> None:
    momenta = read_momenta(taught, both)
    with pytest.raises(InputError, match="train on that alone"):
        TaughtDrawing([both, pack("more", seed=4)], {"both": 1, "more": 1}, STILL, 1, momenta)


# ------------------------------------------------------------------------------------------------------------ training


def first_and_last(training: PackTraining, updates: int) -> tuple[float, float]:
    """The loss's first part in the first and the last 25 updates."""
    for _ in range(updates):
        training.update()
    rows = [row["parts"][0][0] for row in training.history]
    return rows[0], rows[-1]


def test_quicksilver_learns_the_momenta(both: Pack, taught: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(quicksilver.SIZES, "small", ((8, 12), 2))
    momenta = read_momenta(taught, both)
    draws = TaughtDrawing([both], {"both": 1}, STILL, 1, momenta)
    training = PackTraining(QuicksilverMethod(momenta), draws, Course(updates=50, learning_rate=1.2e-2))
    first, last = first_and_last(training, 50)
    assert last < 0.8 * first
    # Its map of a pair that it has seen goes towards LDDMM's.
    a, b = momenta.pairs[0]
    images = training.maker(training.maker.tensors(draws.plain("both", a, b)))
    cells, window = training.learner.cells, training.learner.window
    right = shot_momentum(torch.from_numpy(momenta.values[0]).float(), cells, momenta.parameters, window)[0]
    found = training.learner.displacement(images.seen[:1], images.seen[1:])[0].detach()
    assert float((found - right).square().mean()) < 0.97 * float(right.square().mean())


@pytest.mark.parametrize("similarity", ["lncc", "mse"])
def test_voxelmorph_learns_to_make_images_alike(both: Pack, similarity: str) -> None:
    draws = Drawing([both], {"both": 1}, dataclasses.replace(STILL, labels_at_once=3))
    draws.draw = lambda seed: draws.plain("both", 0, 2)
    course = Course(updates=50, learning_rate=6e-3)
    training = PackTraining(VoxelMorphMethod("small", similarity, 1.0), draws, course)
    first, last = first_and_last(training, 50)
    assert last < 0.9 * first
    overlap = [row["parts"][0][2] for row in training.history]
    assert overlap[-1] < 0.9 * overlap[0]


@pytest.mark.parametrize("kind", FAMILY)
def test_the_icon_family_learns_to_make_images_alike(both: Pack, kind: str, narrow: None) -> None:
    draws = Drawing([both], {"both": 1}, dataclasses.replace(STILL, labels_at_once=3))
    draws.draw = lambda seed: draws.plain("both", 0, 2)
    training = PackTraining(IconMethod(kind, "small", 1.0), draws, Course(updates=50, learning_rate=3e-2))
    for _ in range(50):
        training.update()
    dissimilarity, regularization, overlap = np.array([row["parts"][0] for row in training.history]).T
    assert dissimilarity[-1] < 0.9 * dissimilarity[0]
    assert overlap[-1] < 0.9 * overlap[0]
    # What holds the maps back is felt, and by far not all.
    assert 1e-4 < regularization[-1] < dissimilarity[-1]
    images = training.maker(training.maker.tensors(draws.plain("both", 0, 2)))
    with torch.no_grad():
        forth, back = training.learner.network.displacements(images.seen[:1], images.seen[1:])
        left = forth + training.learner.icon_loss.sample(back, forth)
    if kind == "constricon":
        assert float(left.square().mean()) < 0.01 * float(forth.square().mean())


def test_a_field_by_codes_learns_to_make_images_alike(both: Pack, narrow: None) -> None:
    draws = Drawing([both], {"both": 1}, dataclasses.replace(STILL, labels_at_once=3))
    draws.draw = lambda seed: draws.plain("both", 0, 2)
    training = PackTraining(IconMethod("nephi-codes", "small", 1.0), draws, Course(updates=75, learning_rate=1e-2))
    for _ in range(75):
        training.update()
    dissimilarity, regularization, overlap = np.array([row["parts"][0] for row in training.history]).T
    assert dissimilarity[-1] < 0.9 * dissimilarity[0]
    assert overlap[-1] < 0.9 * overlap[0]
    assert 1e-4 < regularization[-1] < dissimilarity[-1]


def test_carl_learns_where_images_lie_and_to_make_them_alike(both: Pack, narrow: None) -> None:
    draws = Drawing([both], {"both": 1}, dataclasses.replace(STILL, labels_at_once=3))
    draws.draw = lambda seed: draws.plain("both", 0, 2)
    training = PackTraining(IconMethod("carl", "small", 1.0), draws, Course(updates=50, learning_rate=1e-2))
    for _ in range(50):
        training.update()
    dissimilarity, regularization, overlap = np.array([row["parts"][0] for row in training.history]).T
    assert dissimilarity[-1] < 0.9 * dissimilarity[0]
    assert overlap[-1] < 0.9 * overlap[0]
    assert regularization[-1] < 0.5 * regularization[0]
    images, themselves = training.maker(training.maker.tensors(draws.plain("both", 0, 2))), []
    with torch.no_grad():
        training.learner.network.transforms(images.seen[:1], images.seen[1:], themselves)
    (left,) = themselves
    assert left.shape == (2, 3, 8, 8, 8)
    # Without a map of its own, all of an image would be sent to its middle, 4 voxels away on average.
    assert float(left.norm(dim=1).mean()) < 2


def test_statistics_that_came_with_a_model_stay_through_training_checkpoints_and_validation(
    both: Pack, narrow: None, tmp_path: Path
) -> None:
    def fresh() -> PackTraining:
        draws = Drawing([both], {"both": 1}, dataclasses.replace(STILL, labels_at_once=3))
        return PackTraining(IconMethod("gradicon", "small", 1.0), draws, Course(updates=4))

    rng, training = np.random.default_rng(0), fresh()
    given = {
        k: rng.uniform(0.5, 2, v.shape).astype(np.float32) if "running" in k else v
        for k, v in training.weights().items()
    }
    training.begin_with(given, "there")
    training.update()
    training.save(tmp_path / "checkpoint")
    resumed = fresh()
    resumed.resume(tmp_path / "checkpoint")
    for weights in (training.weights(), resumed.weights()):
        changed = {k for k in given if not np.array_equal(weights[k], given[k])}
        assert changed
        assert not any("running" in k for k in changed)
    theirs = Validator(resumed).learner.network.state_dict()
    assert all(np.array_equal(theirs[k], given[k]) for k in given if "running" in k)


def test_a_pack_too_small_for_a_network_is_refused_before_the_training(both: Pack) -> None:
    with pytest.raises(InputError, match=r"needs more than 64 along each axis\..* or train the size small"):
        IconMethod("gradicon", "large").check([both])
    IconMethod("gradicon", "small").check([both])


@pytest.mark.usefixtures("mean_once")
@pytest.mark.parametrize("method", ["voxelmorph", "quicksilver", "gradicon", "constricon", "carl", "nephi-codes"])
def test_a_trained_model_is_one_of_its_method_and_goes_on_to_the_same(
    both: Pack, taught: Path, tmp_path: Path, method: str, narrow: None
) -> None:
    still = dataclasses.asdict(STILL) | {"labels_at_once": 3}
    labels = taught if method == "quicksilver" else None

    def trained(out: Path, updates: int) -> dict[str, np.ndarray]:
        options = PackOptions(method, minutes=0.0, updates=updates, variety=Variety(**still), device="cpu")
        train_on_packs([both], {}, out, options, labels=labels, tell=lambda text: None)
        return load_model(out).arrays

    whole = trained(tmp_path / "whole", 4)
    model = load_model(tmp_path / "whole")
    assert model.config.kind == model.config.method == method
    assert model.config.parameters.spacing_mm == 1.25
    assert predictor_of(model).network is not None
    assert model.mean_image.grid.ndim == 3
    assert model.config.contrast == "alike"
    assert all(value.dtype == np.float16 for value in whole.values())
    # The learning rate follows the number of updates: a shorter course is another one.
    shorter = trained(tmp_path / "shorter", 3)
    assert any(not np.array_equal(whole[name], shorter[name]) for name in whole)
    again = trained(tmp_path / "whole", 4)
    assert all(np.array_equal(whole[name], again[name]) for name in whole)


def test_what_a_method_does_not_learn_from_is_refused_with_the_remedy(both: Pack, taught: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="deepflash teach PACK -o MOMENTA --method lddmm"):
        learned_method(PackOptions("quicksilver"))
    with pytest.raises(InputError, match="momenta teach quicksilver, not voxelmorph"):
        learned_method(PackOptions("voxelmorph"), read_momenta(taught, both))
    with pytest.raises(InputError, match="--label-weight 0"):
        VoxelMorphMethod().check([pack("images", labels=False)])
    with pytest.raises(ValueError, match="method must be one of deepflash, voxelmorph, quicksilver, icon"):
        PackOptions("other")
    with pytest.raises(ValueError, match="dropout"):
        PackOptions(dropout=1.0)


def test_the_command_teaches_momenta_of_packs_only_by_lddmm(both: Pack, tmp_path: Path, capsys) -> None:
    from DeepFLASHRegistrationLib.commands.main import main

    file = tmp_path / "both.npz"
    file.write_bytes(packed(both))
    assert main(["teach", str(file), "-o", str(tmp_path / "out")]) == 2
    assert "Give --method lddmm with a pack" in capsys.readouterr().err
    quick = ["--resolutions", "2", "--bands", "7", "--iterations", "1", "--pairs", "1"]
    assert main(["teach", str(file), "-o", str(tmp_path / "out"), "--method", "lddmm", *quick]) == 0
    assert "1 of 1: both-" in capsys.readouterr().out
    assert main(["teach", str(file), "-o", str(tmp_path / "b"), "--method", "lddmm", "--processes", "2"]) == 2
