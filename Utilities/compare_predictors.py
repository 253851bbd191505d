# SPDX-License-Identifier: Apache-2.0
"""Predictors of v0 side by side on small real images.

    python Utilities/compare_predictors.py --data FOLDER [-o TABLE.md]

FOLDER holds `hippocampus` (images/, labels/: Medical Segmentation Decathlon, task 4). All images are centered in one
box, no affine alignment comes before, and all nets are trained here, on the same subjects, for some minutes each:

- the paper's dual net (convolutions, or dense) on the images' spectra, taught by FLASH; the dense one after more
  training on FLASH's energy, without a teacher;
- one step of the spatial net (a U-Net in the band) on FLASH's energy;
- the dual net on the spectrum of FLASH's force, unrolled, and its gains per frequency alone;
- the spatial net, unrolled over four steps: on FLASH's energy, and with labels besides;

and the model `hippocampus` that comes along, trained longer, if it is there. Measured on pairs of unseen subjects:
Dice of the labels; its gain as a share of FLASH's; the same share when both images lie 4 voxels further along every
axis, and after 5 iterations of FLASH at full resolution; folded voxels; milliseconds for v0.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import math
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "DeepFLASHRegistration"))

import torch
from DeepFLASHRegistrationLib.geodesics.band import Lattice, Upsampler
from DeepFLASHRegistrationLib.geodesics.jacobian import jacobian_determinant
from DeepFLASHRegistrationLib.geodesics.objective import Level, Objective, Pair
from DeepFLASHRegistrationLib.geodesics.sampling import NonFiniteField, Sampler
from DeepFLASHRegistrationLib.geodesics.search.flash import minimize
from DeepFLASHRegistrationLib.imaging.grid import Grid
from DeepFLASHRegistrationLib.imaging.intensities import foreground
from DeepFLASHRegistrationLib.imaging.io import read_labels, read_volume
from DeepFLASHRegistrationLib.imaging.resampling import nearest
from DeepFLASHRegistrationLib.imaging.volume import Volume
from DeepFLASHRegistrationLib.learning.dual_net import DualNet, fit
from DeepFLASHRegistrationLib.learning.force_net import ForceNet, fit_force
from DeepFLASHRegistrationLib.learning.spectra import real_coefficients
from DeepFLASHRegistrationLib.learning.unrolled import MULTIPLE, UnrolledPredictor, built
from DeepFLASHRegistrationLib.methods.prediction import predictor
from DeepFLASHRegistrationLib.problem.parameters import Parameters
from DeepFLASHRegistrationLib.problem.problem import Problem, scaled, settings
from DeepFLASHRegistrationLib.problem.resampling import linear
from DeepFLASHRegistrationLib.problem.subject import Subject
from DeepFLASHRegistrationLib.support.errors import InputError
from DeepFLASHRegistrationLib.training.pairs import Example, Variation
from DeepFLASHRegistrationLib.training.recipes import RECIPES
from DeepFLASHRegistrationLib.training.trainer import Schedule, Trainer, mean_dice
from torch import Tensor
from train_models import HELD_OUT

INNER = (48, 64, 48)  # voxels of 1 mm around the object; the margin comes on top
SHIFT = 4
RECIPE = RECIPES["crop"]
CHANNELS = RECIPE.stages[0][-1]
SIGMA = Parameters.from_preset("paper").sigma  # of the nets on forces, which know squared differences only


@dataclass(frozen=True)
class Centered:
    """An image, its labels, and where it is: (*shape) each, on the box."""

    image: Tensor
    labels: Tensor
    inside: Tensor


class Box:
    """One working grid for all pairs, in the place of a subject's own: what nets on whole spectra need."""

    def __init__(self) -> None:
        grid = Grid(INNER, np.eye(4))
        whole = Volume(grid, np.random.default_rng(0).random(INNER).astype(np.float32) + 0.5)
        everywhere = Volume(grid, np.ones(INNER, np.float32))
        self.parameters, unit = RECIPE.parameters, RECIPE.unit_mm
        self.problem = Problem(
            Subject(whole, mask=everywhere), Subject(whole), np.eye(4), self.parameters, unit_mm=unit, multiple=MULTIPLE
        )
        self.levels = self.problem.levels(self.parameters)
        self.settings, self.window = settings(self.parameters), self.problem.window()
        self.cells = Lattice.cells(self.problem.grid.shape, self.problem.lengths)
        self.middle = self.problem.grid.index_to_physical((np.array(self.problem.grid.shape) - 1) / 2)

    def centered(self, image: Path, labels: Path, shift: int = 0) -> Centered:
        volume = read_volume(image)
        volume = scaled(Subject(volume).checked(), self.parameters).image
        at = np.argwhere(foreground(volume))
        move = np.eye(4)  # points of the box -> points of the image
        move[:3, 3] = volume.grid.index_to_physical((at.min(0) + at.max(0)) / 2) - self.middle - shift
        grid = self.problem.grid
        ones = volume.with_data(np.ones(volume.grid.shape, np.float32))
        outline = nearest(read_labels(labels), grid, move).astype(np.int64)
        return Centered(
            torch.from_numpy(linear(volume, grid, move)),
            torch.from_numpy(outline),
            torch.from_numpy((linear(ones, grid, move) > 0.5).astype(np.float32)),
        )

    def pair(self, fixed: Centered, moving: Centered) -> Pair:
        return Pair(fixed.image, moving.image, fixed.inside, moving.inside, None, None, self.problem.lengths)

    def objective(self, pair: Pair, velocity: Tensor, level: Level | None = None) -> Objective:
        return Objective(pair, level or self.levels[0], self.settings, self.window, velocity)


@dataclass(frozen=True)
class Crops:
    """Subjects to train on, as `Trainer` wants them."""

    box: Box
    subjects: Sequence[Centered]

    def __len__(self) -> int:
        return len(self.subjects)

    def example(self, fixed: int, moving: int, *_: object) -> Example:
        return Example(
            self.box.problem, self.pair(fixed, moving), self.subjects[fixed].labels, self.subjects[moving].labels
        )

    def pair(self, fixed: int, moving: int) -> Pair:
        return self.box.pair(self.subjects[fixed], self.subjects[moving])

    def halves(self, pairs: Sequence[tuple[int, int]]) -> tuple[Tensor, Tensor]:
        """Fixed and moving images (n, *cells) at half the resolution."""
        reduced = [self.pair(a, b).reduced(self.box.levels[0].factors) for a, b in pairs]
        return torch.stack([p.fixed for p in reduced]), torch.stack([p.moving for p in reduced])


def drawn(count: int, subjects: int, seed: int) -> list[tuple[int, int]]:
    rng = np.random.default_rng(seed)
    return [tuple(int(i) for i in rng.choice(subjects, 2, replace=False)) for _ in range(count)]


@contextlib.contextmanager
def timed() -> Iterator[Callable[[], float]]:
    """Yields a function that, after the block, knows its minutes."""
    start, took = time.monotonic(), []
    yield lambda: took[0]
    took.append((time.monotonic() - start) / 60)


def fine_tuned(net: DualNet, crops: Crops, minutes: float) -> None:
    """More training of a dual net, on FLASH's energy of pairs of the training subjects."""
    optimizer, number, end = torch.optim.AdamW(net.parameters(), lr=1e-4), 0, time.monotonic() + 60 * minutes
    net.eval()  # the units of its normalization stay what the teacher made of them
    while time.monotonic() < end:
        pairs = drawn(4, len(crops), 10_000 + number)
        number += 1
        velocities = real_coefficients(net(net.spectra(*crops.halves(pairs))), 3)
        gradients = []
        for (a, b), v in zip(pairs, velocities.detach(), strict=True):
            objective = crops.box.objective(crops.pair(a, b), v)
            gradient = objective.evaluate_safely(v).gradient
            gradients.append(torch.zeros_like(v) if gradient is None else gradient / objective.at_rest())
        optimizer.zero_grad(set_to_none=True)
        velocities.backward(torch.stack(gradients) / len(pairs))
        torch.nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        optimizer.step()


def spatial(crops: Crops, steps: int, labels: float, minutes: float) -> UnrolledPredictor:
    """The spatial net on the first level, trained for some minutes."""
    torch.manual_seed(0)
    net = built(3, {"stages": [{"steps": steps, "channels": CHANNELS}, {"steps": 0, "channels": []}]})
    schedule = Schedule(iterations=10**9, minutes=minutes, joining=(0.0,), label_weight=labels)
    trainer = Trainer(net, crops.box.parameters, schedule, Variation())
    while trainer.progress() < 1:
        trainer.step(crops)
    return net.eval().requires_grad_(False)


@dataclass(frozen=True)
class Row:
    """A line of the table; Dice of every test pair, where the images are centered and where they are moved."""

    name: str
    weights: int
    minutes: float
    dice: list[float]
    moved: list[float]
    refined: list[float]
    folds: int
    milliseconds: float


def measured(box: Box, fixed: Centered, moving: Centered, velocity: Tensor, level: Level) -> tuple[float, int]:
    """Dice and folded cells of the map's lattice. No change of the images where the geodesic cannot be integrated."""
    objective = box.objective(box.pair(fixed, moving), velocity, level)
    try:
        u = objective.map(velocity, "fixed_to_moving")
        fine = Upsampler(objective.flow.lattice, box.cells)(u)
        warped = Sampler(box.cells, box.cells)(moving.labels[None].float(), fine, mode="nearest")[0].long()
    except NonFiniteField:
        return mean_dice(fixed.labels, moving.labels), 0
    return mean_dice(fixed.labels, warped), int((jacobian_determinant(u, objective.flow.lattice) <= 0).sum())


def row(
    name: str,
    weights: int,
    minutes: float,
    predict: Callable[[Pair], tuple[Tensor, Level]],
    box: Box,
    pairs: Sequence[tuple[Centered, Centered]],
    moved: Sequence[tuple[Centered, Centered]],
) -> Row:
    """Measures one predictor: pair -> (v0, the level it belongs to)."""
    refinement = dataclasses.replace(box.levels[-1], iterations=5)
    found, after, folds, seconds = [], [], 0, 0.0
    predict(box.pair(*pairs[0]))  # the first use warms up
    for fixed, moving in pairs:
        pair = box.pair(fixed, moving)
        start = time.perf_counter()
        velocity, level = predict(pair)
        seconds += time.perf_counter() - start
        value, folded = measured(box, fixed, moving, velocity, level)
        found.append(value)
        folds += folded
        refined = minimize(pair, [refinement], box.settings, velocity, box.window).velocity
        after.append(measured(box, fixed, moving, refined, refinement)[0])
    there = [measured(box, fixed, moving, *predict(box.pair(fixed, moving)))[0] for fixed, moving in moved]
    print(f"{name}: Dice {np.mean(found):.4f}, moved {np.mean(there):.4f}, refined {np.mean(after):.4f}", flush=True)
    return Row(name, weights, minutes, found, there, after, folds, 1000 * seconds / len(pairs))


def table(rows: Sequence[Row], flash: Row, before: Sequence[float]) -> str:
    """Markdown."""
    gain = np.mean(flash.dice) - np.mean(before)

    def share(values: Sequence[float]) -> str:
        return f"{100 * (np.mean(values) - np.mean(before)) / gain:.0f} %"

    lines = [
        "| predictor | weights | training, min | Dice | of FLASH's gain | moved by 4 | + 5 of FLASH | folds | ms |",
        "|---|---|---|---|---|---|---|---|---|",
        f"| centered, no registration | | | {np.mean(before):.3f} | 0 % | | | | |",
    ]
    for r in rows:
        minutes = "" if math.isnan(r.minutes) else f"{r.minutes:.1f}"
        lines.append(
            f"| {r.name} | {r.weights / 1e6:.2f} M | {minutes} | {np.mean(r.dice):.3f} | {share(r.dice)} "
            f"| {share(r.moved)} | {share(r.refined)} | {r.folds} | {r.milliseconds:.0f} |"
        )
    lines.append(
        f"| FLASH, converged | | | {np.mean(flash.dice):.3f} | 100 % | {share(flash.moved)} | "
        f"| {flash.folds} | {flash.milliseconds:.0f} |"
    )
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("-o", "--output", type=Path, help="file for the table (default: standard output)")
    parser.add_argument("--pairs", type=int, default=32, help="of unseen subjects")
    parser.add_argument("--taught", type=int, default=300, help="pairs that FLASH registers for the dual nets")
    parser.add_argument("--epochs", type=int, default=60, help="of the dual nets on the images' spectra")
    parser.add_argument("--iterations", type=int, default=300, help="of the nets on forces")
    parser.add_argument("--minutes", type=float, default=4.0, help="of every training on FLASH's energy or labels")
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    box, minutes = Box(), options.minutes
    images = sorted((options.data / "hippocampus" / "images").glob("*.nii.gz"))
    if len(images) < 16:
        raise SystemExit(f"{options.data}: holds no folder hippocampus with images.")
    labels = [p.parent.parent / "labels" / p.name for p in images]
    unseen = [k for k in range(len(images)) if HELD_OUT["hippocampus"][0](k)]
    crops = Crops(box, [box.centered(images[k], labels[k]) for k in range(len(images)) if k not in unseen])
    here, there = ([box.centered(images[k], labels[k], shift) for k in unseen] for shift in (0, SHIFT))
    chosen = drawn(options.pairs, len(unseen), 1)
    pairs, moved = ([(group[a], group[b]) for a, b in chosen] for group in (here, there))
    before = [mean_dice(a.labels, b.labels) for a, b in pairs]
    print(f"{len(crops)} subjects to train on, {len(pairs)} pairs of {len(unseen)} others: Dice {np.mean(before):.4f}")

    def measure(name: str, net: object, trained: float, predict: Callable[[Pair], tuple[Tensor, Level]]) -> Row:
        weights = 0 if net is None else sum(p.numel() for p in net.parameters())
        return row(name, weights, trained, predict, box, pairs, moved)

    coarse = box.levels[0]

    def on_images(net: DualNet | ForceNet) -> Callable[[Pair], tuple[Tensor, Level]]:
        def predict(pair: Pair) -> tuple[Tensor, Level]:
            small = pair.reduced(coarse.factors)
            try:
                return net.predict(small.fixed[None], small.moving[None])[0], coarse
            except NonFiniteField:
                return torch.zeros(len(coarse.factors), *coarse.band.modes), coarse

        return predict

    def unrolled(net: UnrolledPredictor) -> Callable[[Pair], tuple[Tensor, Level]]:
        used = [k for k, stage in enumerate(net.stages) if stage.steps][-1]

        def predict(pair: Pair) -> tuple[Tensor, Level]:
            *_, state = net.unroll((pair,), box.levels, box.settings, box.window, stages=used + 1)
            return state.velocities[0], box.levels[used]

        return predict

    def flash(pair: Pair) -> tuple[Tensor, Level]:
        return minimize(pair, box.levels, box.settings, None, box.window).velocity, box.levels[-1]

    reference, rows = measure("FLASH", None, 0, flash), []
    taught = drawn(options.taught, len(crops), 2)
    with timed() as teaching:
        velocities = torch.stack(
            [minimize(crops.pair(a, b), [coarse], box.settings, None, box.window).velocity for a, b in taught]
        )
    halves = crops.halves(taught)
    for kind, title in (("cnn", "the paper's dual net, convolutions"), ("dense", "the paper's dual net, dense")):
        torch.manual_seed(0)
        net = DualNet(coarse.band, kind)
        with timed() as training:
            fit(net, (net.spectra(*halves), velocities), epochs=options.epochs, learning_rate=1e-3)
        rows.append(measure(title, net, teaching() + training(), on_images(net)))
    fine_tuned(net, crops, minutes)
    rows.append(measure("the same, then on FLASH's energy", net, teaching() + training() + minutes, on_images(net)))
    net = spatial(crops, 1, 0.0, minutes)
    rows.append(measure("spatial net, 1 step, on FLASH's energy", net, minutes, unrolled(net)))
    for hidden, title in ((0, "gains on FLASH's force, 3 steps"), (256, "dual net on FLASH's force, 3 steps")):
        torch.manual_seed(0)
        net = ForceNet(coarse.band, coarse.metric, SIGMA, hidden=hidden)
        rate = 1e-3 if hidden else 2e-2
        with timed() as training:
            fit_force(net, *halves, iterations=options.iterations, learning_rate=rate)
        rows.append(measure(title, net, training(), on_images(net)))
    for weight, title in ((0.0, "on FLASH's energy"), (Schedule().label_weight, "and with labels")):
        net = spatial(crops, 4, weight, minutes)
        rows.append(measure(f"spatial net, 4 steps, {title}", net, minutes, unrolled(net)))
    try:
        model = predictor("hippocampus")
    except InputError as error:
        print(error)
    else:
        rows.append(measure("the model that comes along", model.network, math.nan, unrolled(model.network)))
    text = table(rows, reference, before)
    if options.output is None:
        print(text)
    else:
        options.output.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
