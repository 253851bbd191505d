# SPDX-License-Identifier: Apache-2.0
"""Training on packs: what is drawn and made, what is learned, and going on from checkpoints."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

import numpy as np
import pytest
import torch
from DeepFLASHRegistrationLib.support.errors import InputError
from DeepFLASHRegistrationLib.support.tensors import read_tensors, write_tensors
from DeepFLASHRegistrationLib.training.drawing import Drawing, Variety
from DeepFLASHRegistrationLib.training.examples import Maker
from DeepFLASHRegistrationLib.training.feature_method import FeatureMethod
from DeepFLASHRegistrationLib.training.optimizer import FlatAdam
from DeepFLASHRegistrationLib.training.pack import FIRST_OUTSIDE
from DeepFLASHRegistrationLib.training.pack_training import Course, PackTraining, run
from DeepFLASHRegistrationLib.training.validation import Validator, unseen_pairs
from training_packs import TINY, pack

STILL = Variety(3, 0.5, 0.5, 0.5, 0, 0, 0, 0, 0, 0, 0, 0)
VARIED = Variety(labels_at_once=3)
METHOD = FeatureMethod(TINY)


@pytest.fixture(scope="module")
def sets():
    return [pack("both"), pack("maps", seed=1, images=False), pack("images", seed=2, labels=False)]


@pytest.fixture(autouse=True)
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def drawing(sets, variety=VARIED, **mix):
    return Drawing(sets, mix or {"both": 1, "maps": 1, "images": 1}, variety)


def test_draws_follow_from_their_seed_and_have_one_shape(sets):
    draws = drawing(sets)
    first = draws.draw((0, 5))
    again = draws.draw((0, 5))
    for key, value in first.items():
        assert np.array_equal(value, again[key]), key
    for number in range(12):
        other = draws.draw((1, number))
        assert {k: (v.shape, v.dtype) for k, v in other.items()} == {k: (v.shape, v.dtype) for k, v in first.items()}
        assert all(np.isfinite(v).all() for v in other.values())


def test_subjects_kept_aside_are_never_drawn(sets):
    draws, seen = drawing(sets), set()
    for number in range(200):
        seen |= set(draws.draw((2, number))["codes"].tolist())
    # Volumes: an empty one, 4 images and 4 label maps of "both", 4 label maps, 4 images; the last of each is aside.
    assert seen <= {1, 2, 3, 5, 6, 7, 9, 10, 11, 13, 14, 15}
    assert len(seen) == 12


def test_a_plain_pair_is_what_the_pack_holds(sets):
    draws = drawing(sets, STILL)
    maker = Maker(draws, "cpu")
    images = maker(maker.tensors(draws.plain("both", 0, 3)))
    for k, subject in enumerate((0, 3)):
        torch.testing.assert_close(
            images.clean[k], torch.from_numpy(sets[0].images[subject] / 255).float(), atol=2e-4, rtol=0
        )
        assert torch.equal(images.labels[k].byte(), torch.from_numpy(sets[0].labels[subject]))
    torch.testing.assert_close(images.seen, images.clean, atol=2e-4, rtol=0)
    assert sorted(images.chosen[0].tolist()) == [1, 2, 3]


def test_affines_lay_the_moving_subject_upon_the_fixed_one(sets):
    shifted = np.eye(4)
    shifted[:3, 3] = 2, -1, 3  # voxels of the reference lie there in subject 1
    moved = np.roll(sets[0].images[0], (2, -1, 3), (0, 1, 2))
    images, affines = sets[0].images.copy(), sets[0].affines.copy()
    images[1], affines[1] = moved, shifted
    draws = Drawing([dataclasses.replace(sets[0], images=images, affines=affines)], {"both": 1}, STILL)
    maker = Maker(draws, "cpu")
    pair = maker(maker.tensors(draws.plain("both", 0, 1)))
    inner = (slice(4, -4),) * 3  # beyond it the roll came round
    torch.testing.assert_close(pair.clean[0][inner], pair.clean[1][inner], atol=3e-4, rtol=0)


def test_both_sides_of_a_made_head_are_painted_alike_and_stripped_ones_show_no_outside(sets):
    draws = drawing(sets, dataclasses.replace(VARIED, stripped=1.0), maps=1)
    for number in range(20):
        draw = draws.draw((3, number))
        assert np.array_equal(draw["mean"][0][2:3], draw["mean"][0][3:4])  # code 3 looks like code 2
        assert np.all(draw["mean"][:, FIRST_OUTSIDE:] == draw["mean"][:, :1])
        assert np.ptp(draw["clean"][0][1:3]) > 0


def test_labels_of_one_pair_move_with_its_images(sets):
    draws = drawing(sets, dataclasses.replace(VARIED, painted=0, contrasts=0), both=1)
    maker = Maker(draws, "cpu")
    torch.manual_seed(0)
    images = maker(maker.tensors(draws.draw((4, 0))))
    inside = (images.labels > 0) & (images.labels < FIRST_OUTSIDE)
    assert float(((images.clean > 0.1) == inside).float().mean()) > 0.9


def test_packs_that_do_not_fit_are_refused(sets):
    with pytest.raises(InputError, match="no pack 'other'"):
        Drawing(sets, {"other": 1}, VARIED)
    with pytest.raises(InputError, match="leaves no pack"):
        Drawing(sets, {"both": 0}, VARIED)
    with pytest.raises(InputError, match="different grids"):
        Drawing([sets[0], dataclasses.replace(sets[1], spacing_mm=2.0)], {"both": 1, "maps": 1}, VARIED)
    odd = dataclasses.replace(sets[2], images=sets[2].images[:, 1:])
    with pytest.raises(InputError, match=r"\(31, 32, 32\) voxels; multiples of 16"):
        Drawing([odd], {"images": 1}, VARIED)
    with pytest.raises(InputError, match=r"pairs need two\. Pack more subjects"):
        Drawing([dataclasses.replace(sets[0], unseen=(1, 2, 3))], {"both": 1}, VARIED)


def test_the_loss_falls_on_a_pair_seen_again_and_again(sets, monkeypatch):
    draws = drawing(sets, dataclasses.replace(VARIED, contrasts=0, degraded=0, cropped=0), both=1)
    draw = draws.draw((0, 1))
    monkeypatch.setattr(draws, "draw", lambda seed: draw)
    training = PackTraining(METHOD, draws, Course(updates=1000, learning_rate=3e-3))
    inputs = training.maker.tensors(draw)

    def loss() -> float:
        torch.manual_seed(1)
        with torch.no_grad():
            return float(training.learner.loss(training.maker(inputs))[0])

    before = loss()
    seeds = torch.manual_seed
    monkeypatch.setattr(torch, "manual_seed", lambda seed: seeds(1))
    for _ in range(30):
        training.update()
    assert loss() < 0.8 * before
    assert float(training.optimizer.skipped) == 0


def test_going_on_from_a_checkpoint_takes_the_same_course(sets, tmp_path):
    def training() -> PackTraining:
        return PackTraining(METHOD, drawing(sets), Course(updates=8, learning_rate=1e-2))

    whole, first, second = training(), training(), training()
    for _ in range(6):
        whole.update()
    for _ in range(3):
        first.update()
    first.save(tmp_path / "checkpoint")
    second.resume(tmp_path / "checkpoint")
    assert second.iteration == 3
    for _ in range(3):
        second.update()
    for name, value in whole.optimizer.state().items():
        assert torch.equal(value, second.optimizer.state()[name]), name


def test_checkpoints_of_other_settings_or_damaged_are_refused(sets, tmp_path):
    training = PackTraining(METHOD, drawing(sets), Course(updates=8))
    training.save(tmp_path / "checkpoint")
    other = PackTraining(METHOD, drawing(sets, both=1), Course(updates=8))
    with pytest.raises(InputError, match="packs, shares"):
        other.resume(tmp_path / "checkpoint")
    arrays, about = read_tensors(tmp_path / "checkpoint")
    del arrays["mean"]
    write_tensors(tmp_path / "less", arrays, about)
    with pytest.raises(InputError, match="mean"):
        training.resume(tmp_path / "less")
    arrays, _ = read_tensors(tmp_path / "checkpoint")
    arrays["weights"] = arrays["weights"][:-1]
    write_tensors(tmp_path / "short", arrays, about)
    with pytest.raises(InputError, match="another network"):
        training.resume(tmp_path / "short")
    write_tensors(tmp_path / "model", arrays, {})
    with pytest.raises(InputError, match="no checkpoint"):
        training.resume(tmp_path / "model")
    with pytest.raises(InputError, match="another network"):
        training.begin_with(arrays, "some model")
    with pytest.raises(InputError, match="minutes or updates"):
        Course()


def test_a_run_saves_validates_and_ends(sets, tmp_path):
    training = PackTraining(METHOD, drawing(sets), Course(updates=2))
    said, saved = [], []
    run(
        training,
        [("both", 0, 3), ("images", 0, 3)],
        tmp_path / "checkpoint",
        say=said.append,
        saved_too=lambda: saved.append(1),
    )
    assert training.iteration == 2
    assert saved == [1]
    figures = training.history[-1]
    assert 0 < figures["both dice_before"] <= 1
    assert "images dice" not in figures
    assert figures["both smallest_determinant"] > 0


def test_validation_of_untrained_weights_changes_nothing(sets):
    training = PackTraining(METHOD, drawing(sets), Course(updates=2))
    weights = training.optimizer.average.clone()
    start = 0
    for name, p in training.learner.network.named_parameters():
        if ".answer." in name:
            weights[start : start + p.numel()] = 0
        start += p.numel()
    figures = Validator(training)(weights, [("both", 0, 1)])
    assert figures["both dice"] == figures["both dice_before"]
    assert figures["both smallest_determinant"] == 1


# ------------------------------------------------------------------------------------------------------- the optimizer


def test_steps_are_those_of_adamw():
    torch.manual_seed(0)
    one, two = torch.nn.Linear(3, 2), torch.nn.Linear(3, 2)
    two.load_state_dict(one.state_dict())
    flat = FlatAdam(one)
    flat.rate.fill_(1e-2)
    reference = torch.optim.AdamW(two.parameters(), 1e-2, betas=(0.9, 0.99), weight_decay=1e-4)
    for k in range(5):
        x = torch.randn(4, 3, generator=torch.Generator().manual_seed(k))
        flat.clear()
        reference.zero_grad()
        for net in (one, two):
            (0.1 * net(x).square().mean()).backward()
        flat.step()
        torch.nn.utils.clip_grad_norm_(two.parameters(), 1.0)
        reference.step()
    for a, b in zip(one.parameters(), two.parameters()):
        torch.testing.assert_close(a, b, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), 1e4])
def test_a_gradient_that_is_not_finite_or_far_too_large_leaves_no_trace(bad):
    net = torch.nn.Linear(3, 2)
    flat = FlatAdam(net)
    flat.rate.fill_(1e-2)
    for _ in range(25):
        flat.gradient.fill_(0.1)
        flat.step()
    flat.look()
    before = {name: value.clone() for name, value in flat.state().items()}
    flat.gradient.fill_(0.1)
    flat.gradient[2] = bad
    flat.step()
    assert int(flat.skipped) == 1
    for name, value in flat.state().items():
        if name == "limit":
            torch.testing.assert_close(value, before[name] * (1.25 if math.isfinite(bad) else 1.0))
        else:
            assert name == "skipped" or torch.equal(value, before[name]), name
    flat.gradient.fill_(0.1)
    flat.step()
    assert not torch.equal(flat.weights, before["weights"])


def test_where_all_gradients_have_become_large_the_training_does_not_stand_still():
    """As where weights were led to a steep place by one step: every gradient there is too large by those of before."""
    flat = FlatAdam(torch.nn.Linear(3, 2))
    flat.rate.fill_(1e-2)
    for large, steps in ((0.1, 25), (100.0, 25)):
        before = flat.weights.clone()
        for _ in range(steps):
            flat.gradient.fill_(large)
            flat.step()
        flat.look()
    assert not torch.equal(flat.weights, before)
    assert 10 < int(flat.skipped) < 20


# ---------------------------------------------------------------------------------------------------- memory that ends


class Hungry:
    """A learner that needs memory for so many pairs more than there is."""

    parts = ("work",)

    def __init__(self, most: int):
        self.network, self.most = torch.nn.Linear(1, 1, bias=False), most

    def loss(self, images):
        if len(images.seen) > 2 * self.most:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 9 GiB.")
        value = self.network.weight.square().sum()
        return value, value.detach().view(1, 1)

    def displacement(self, fixed, moving):
        return torch.zeros(len(fixed), 3, *fixed.shape[1:])


class HungryMethod:
    def __init__(self, most: int):
        self.most = most

    def identity(self) -> dict:
        return {"most": self.most}

    def check(self, packs: Sequence) -> None: ...

    def learner(self, shape, device) -> Hungry:
        return Hungry(self.most)


def test_where_memory_ends_fewer_pairs_are_taken_at_once_and_the_course_goes_on(sets, tmp_path):
    said = []
    draws = Drawing(sets, {"both": 1}, VARIED, 8)
    training = PackTraining(HungryMethod(3), draws, Course(updates=3), tell=said.append)
    run(training, [], tmp_path / "checkpoint", say=said.append)
    assert training.iteration == 3
    assert draws.pairs == 2  # 8 and 4 are too many
    assert [text for text in said if "pairs at once" in text] == [
        "The memory of cpu does not hold more: 4 pairs at once from now on.",
        "The memory of cpu does not hold more: 2 pairs at once from now on.",
    ]
    # Whoever goes on with the same command goes on with as many.
    again = PackTraining(HungryMethod(3), Drawing(sets, {"both": 1}, VARIED, 8), Course(updates=5))
    again.resume(tmp_path / "checkpoint")
    assert again.drawing.pairs == 2
    assert again.iteration == 3


def test_where_memory_does_not_hold_one_pair_the_end_is_clear_and_what_was_reached_is_kept(sets, tmp_path):
    method = HungryMethod(1)
    training = PackTraining(method, Drawing(sets, {"both": 1}, VARIED), Course(updates=9))
    reached = []

    def later(text: str) -> None:
        training.learner.most = 0

    training.update()
    reached.append(training.optimizer.weights.clone())
    later("")
    with pytest.raises(RuntimeError, match=r"does not hold one pair of 32 x 32 x 32 .* the size small.*checkpoint"):
        run(training, [], tmp_path / "checkpoint", say=later)
    fresh = PackTraining(method, Drawing(sets, {"both": 1}, VARIED), Course(updates=9))
    fresh.resume(tmp_path / "checkpoint")
    assert fresh.iteration == 1
    assert torch.equal(fresh.optimizer.weights, reached[0])


# -------------------------------------------------------------------------------------------------------- other methods


class Shift:
    """A toy: one shift of all images, learned from the distance of what it makes to the partner."""

    parts = ("difference",)

    def __init__(self, shape):
        self.network = torch.nn.Linear(1, 3, bias=False)
        torch.nn.init.zeros_(self.network.weight)
        self.shape = shape

    def displacement(self, fixed, moving):
        return self.network.weight.view(1, 3, 1, 1, 1).expand(len(fixed), 3, *self.shape)

    def loss(self, images):
        from DeepFLASHRegistrationLib.geodesics.band import Lattice
        from DeepFLASHRegistrationLib.geodesics.batched import BatchedSampler

        cells = Lattice.cells(self.shape, tuple(map(float, self.shape)))
        fixed, moving = images.clean[::2], images.clean[1::2]
        warped = BatchedSampler(cells, cells)(moving[:, None], self.displacement(fixed, moving))[:, 0]
        value = (warped - fixed).square().mean()
        return value, value.detach().view(1, 1)


class ShiftMethod:
    def identity(self) -> dict:
        return {"kind": "shift"}

    def check(self, packs: Sequence) -> None:
        if any(pack.images is None for pack in packs):
            raise InputError("The shift is learned of images. Leave out packs without.")

    def learner(self, shape, device) -> Shift:
        return Shift(shape)


def test_the_trainer_serves_other_methods(sets, tmp_path):
    """Subjects 1 and 2 are subject 0 as it lies two voxels further; a pair's shift is known."""
    images = sets[0].images.copy()
    images[0], images[1] = sets[0].images[0], np.roll(sets[0].images[0], 2, axis=0)
    moved = dataclasses.replace(
        sets[0], images=images[:2], labels=None, names=("a", "b"), affines=np.stack([np.eye(4)] * 2)
    )
    draws = Drawing(
        [dataclasses.replace(moved, unseen=())], {"both": 1}, dataclasses.replace(STILL, painted=0, contrasts=0)
    )
    draws.draw = lambda seed: draws.plain("both", 0, 1)
    training = PackTraining(ShiftMethod(), draws, Course(updates=200, learning_rate=0.1))
    run(training, [("both", 0, 1)], tmp_path / "checkpoint", say=lambda text: None)
    np.testing.assert_allclose(training.optimizer.weights, [2, 0, 0], atol=0.1)
    figures = training.history[-1]
    assert figures["both dissimilarity"] < 0.1 * figures["both dissimilarity_before"]
    assert [row["parts"] for row in training.history if "parts" in row][-1][0][0] < 1e-3
    with pytest.raises(InputError, match="Leave out packs without"):
        PackTraining(ShiftMethod(), drawing(sets, maps=1), Course(updates=1))


def test_packs_without_labels_are_refused_where_labels_are_to_be_learned_from(sets):
    draws = drawing(sets, images=1)
    with pytest.raises(InputError, match=r"None of images has labels.*--label-weight 0"):
        PackTraining(METHOD, draws, Course(updates=1))
    PackTraining(dataclasses.replace(METHOD, label_weight=0.0), draws, Course(updates=1)).update()


def test_pairs_to_validate_with_are_of_subjects_kept_aside(sets):
    two = [dataclasses.replace(sets[0], unseen=(1, 3)), dataclasses.replace(sets[1], unseen=())]
    assert unseen_pairs(two) == [("both", 1, 3), ("both", 3, 1)]
    assert unseen_pairs(sets) == []  # one alone is no pair
