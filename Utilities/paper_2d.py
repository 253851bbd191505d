# SPDX-License-Identifier: Apache-2.0
"""The 2-D experiment of DeepFLASH (Wang & Zhang, CVPR 2020, section 4): python Utilities/paper_2d.py [-o FOLDER].

Pairs of bull's eyes of 100 x 100 pixels, 1000 to train on and 500 to test; their initial velocities by FLASH (preset
"paper": band of 15 x 15, 10 Euler steps, alpha 3, c 6, the pixel as unit of length); the dual net trained on these, and
beside it its dense variant and the unrolled nets on FLASH's force; all kept as models, and compared on the test pairs
by the calls by which register() runs any model; and a picture like the paper's figure 3: source, target, source
deformed by FLASH in the full space (band 99, all that 100 pixels hold) and by DeepFLASH, both again with grids, and
both determinants.

The paper's band is 16. Frequencies of a real field come in pairs +k and -k, so a band is odd: the FLASH code makes 15
of it, the released DeepFLASH code 17, in which the labels' outer rim is always zero. Here it is 15.

What to know before believing the figures: all ellipses lie in one place, half a pixel from the middle of the domain.
Exactly in the middle the spectra of the images would be real, those of the velocities imaginary, and I_net blind; and
with both images moved by a few pixels, as the last test does, the dual net makes matters worse than no registration.
FLASH's own displacement, kept in the band, folds in the steepest of these pairs.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "DeepFLASHRegistration"))

import torch
from DeepFLASHRegistrationLib.geodesics.band import Band, Lattice, Metric, Upsampler
from DeepFLASHRegistrationLib.geodesics.jacobian import jacobian_determinant
from DeepFLASHRegistrationLib.geodesics.objective import Level, Objective, Pair
from DeepFLASHRegistrationLib.geodesics.sampling import NonFiniteField, Sampler
from DeepFLASHRegistrationLib.geodesics.search.flash import minimize
from DeepFLASHRegistrationLib.imaging.grid import Grid
from DeepFLASHRegistrationLib.imaging.volume import Volume
from DeepFLASHRegistrationLib.learning.dual_net import DualNet, fit
from DeepFLASHRegistrationLib.learning.force_net import ForceNet, fit_force
from DeepFLASHRegistrationLib.methods.prediction import Predictor, predictor_of
from DeepFLASHRegistrationLib.methods.prediction_on_domain import domain_values
from DeepFLASHRegistrationLib.methods.registry import Plan
from DeepFLASHRegistrationLib.methods.trained_models import ModelConfig, load_model, save_model
from DeepFLASHRegistrationLib.phantom.pairs import bullseye
from DeepFLASHRegistrationLib.problem.parameters import Parameters
from DeepFLASHRegistrationLib.problem.problem import Problem, settings
from DeepFLASHRegistrationLib.problem.subject import Subject
from DeepFLASHRegistrationLib.report import pixels
from DeepFLASHRegistrationLib.support.tensors import read_tensors, write_tensors
from torch import Tensor

PIXELS = 100
BAND, FULL_BAND = 15, 99
# Pixels of 1 mm, upright: the first axis of an array is y.
GRID = Grid((PIXELS, PIXELS), np.array([[0.0, 1, 0], [1, 0, 0], [0, 0, 1]]))
FIRST_TEST_SEED = 1_000_000  # training pairs are drawn with 0, 1, 2 ...
SAVE_EVERY = 50
SHIFT = (4, 4)  # pixels by which both images of a pair are moved, to see what a predictor makes of it
# The picture shows the middle 64 pixels, enlarged, with grid lines every few pixels of the source.
MARGIN, SCALE, MESH, GAP = 18, 3, 4.0, 6


def images(seeds: range) -> tuple[Tensor, Tensor]:
    """Fixed and moving images of the pairs drawn with these seeds, (n, 100, 100) each."""
    pairs = [bullseye(seed) for seed in seeds]
    return tuple(torch.from_numpy(np.stack([getattr(p, name).data for p in pairs])) for name in ("fixed", "moving"))


def band(modes: int) -> Band:
    return Band((modes, modes), (float(PIXELS), float(PIXELS)))


def metric() -> Metric:
    """The paper's, with its discrete Laplacian on the pixels."""
    parameters = Parameters.from_preset("paper")
    return Metric(parameters.alpha, parameters.power, parameters.gamma, 1.0)


def kept(folder: Path, name: str, kind: str, net: torch.nn.Module, architecture: dict[str, Any]) -> Predictor:
    """A net as a model in a folder, and that as it is read again."""
    refinement = {"resolutions": [1], "bands": [BAND]}
    config = ModelConfig(
        name=name,
        kind=kind,
        architecture={**architecture, "domain": domain_values(GRID), "refinement": refinement},
        parameters=Parameters.from_preset("paper"),
        ndim=2,
        unit_mm=1.0,
        spacing_mm=1.0,
        extent_mm=(20.0, float(PIXELS)),
        energy=(0.2, 0.1),
        description="bull's eyes of 100 x 100 pixels, as in section 4 of the paper on DeepFLASH",
        training_data="pairs of ellipses made by formulas",
        license="Apache-2.0",
        limits="All ellipses lie in the middle.",
    )
    weights = {name: value.numpy() for name, value in net.state_dict().items()}
    return predictor_of(load_model(save_model(folder / name, config, weights)))


def problems(found: Predictor, fixed: Tensor, moving: Tensor) -> list[Problem]:
    """What register() makes of pairs (n, 100, 100) that need no alignment."""
    plan = Plan(found.parameters, found)
    return [
        plan.problem(*(Subject(Volume(GRID, image.numpy())) for image in pair), np.eye(3))
        for pair in zip(fixed, moving, strict=True)
    ]


class Registration:
    """FLASH with the paper's settings on one pair, in a band of the given width."""

    def __init__(self, fixed: Tensor, moving: Tensor, modes: int):
        parameters = Parameters.from_preset("paper")
        everywhere = torch.ones_like(fixed)
        self.settings = settings(parameters)
        space = band(modes)
        self.pair = Pair(fixed, moving, everywhere, everywhere, None, None, space.lengths)
        self.level = Level((1, 1), space, metric(), (2, 2), parameters.iterations[0], 1.0)

    def velocity(self) -> Tensor:
        """v0 of FLASH, (2, *modes)."""
        return minimize(self.pair, [self.level], self.settings).velocity

    def outcome(self, velocity: Tensor) -> Outcome:
        """What a velocity does.

        Raises:
            NonFiniteField: 10 Euler steps do not integrate it.
        """
        objective = Objective(self.pair, self.level, self.settings, None, velocity)
        with torch.no_grad():
            u = objective.map(velocity, "fixed_to_moving")
            difference, warped = objective.sides[0](u)
        return Outcome(float(difference), warped, u, jacobian_determinant(u, objective.flow.lattice))


@dataclass(frozen=True)
class Outcome:
    """Mean squared difference after registration; warped image (100, 100); displacement (2, 100, 100) in pixels; its
    Jacobian determinant (100, 100)."""

    difference: float
    warped: Tensor
    displacement: Tensor
    determinant: Tensor


def labels(path: Path, name: str, seeds: range, modes: int) -> Tensor:
    """FLASH's velocities of the pairs drawn with these seeds, (n, 2, *modes); kept in a file, and continued there."""
    parameters = Parameters.from_preset("paper").to_dict()
    used = ("similarity", "sigma", "alpha", "power", "gamma", "iterations", "tolerance", "integrator", "steps", "map")
    wanted = {"modes": modes, "first seed": seeds.start, **{name: parameters[name] for name in used}}
    kept: list[np.ndarray] = []
    if path.exists():
        arrays, metadata = read_tensors(path)
        if json.loads(metadata["made with"]) == wanted:
            kept = list(arrays["velocities"])
        else:
            old = path.with_suffix(".old")
            os.replace(path, old)
            print(f"{path} was made with other settings and is now {old.name}; starting anew.")
    started, had = time.perf_counter(), len(kept)
    for seed in seeds[had:]:
        (fixed,), (moving,) = images(range(seed, seed + 1))
        kept.append(Registration(fixed, moving, modes).velocity().numpy())
        done = len(kept)
        if done % SAVE_EVERY == 0 or done == len(seeds):
            partial = path.with_suffix(".partial")
            write_tensors(partial, {"velocities": np.stack(kept)}, {"made with": json.dumps(wanted)})
            os.replace(partial, path)
            each = (time.perf_counter() - started) / (done - had)
            print(f"FLASH, {name} pairs: {done} of {len(seeds)}, {each:.2f} s each", flush=True)
    return torch.from_numpy(np.stack(kept[: len(seeds)]))


@dataclass(frozen=True)
class Scores:
    """Of one predictor on the test pairs: mean relative error of v0 against FLASH's (None: it is FLASH's); mean squared
    difference of the images; extreme determinants; folded pixels, and pairs that have any; pairs whose geodesic could
    not be integrated (counted with the difference before)."""

    error: float | None
    difference: float
    lowest: float
    highest: float
    folded: int
    folded_pairs: int
    failed: int


def scores(fixed: Tensor, moving: Tensor, velocities: Tensor, flash: Tensor | None) -> Scores:
    """What velocities (n, 2, *modes) do to pairs (n, 100, 100)."""
    differences, lowest, highest, folded, failed = [], math.inf, -math.inf, [], 0
    for f, m, v in zip(fixed, moving, velocities, strict=True):
        try:
            outcome = Registration(f, m, v.shape[-1]).outcome(v)
        except NonFiniteField:
            failed += 1
            differences.append(float((f - m).square().mean()))
            continue
        differences.append(outcome.difference)
        lowest, highest = min(lowest, float(outcome.determinant.min())), max(highest, float(outcome.determinant.max()))
        folded.append(int((outcome.determinant <= 0).sum()))
    error = None
    if flash is not None:
        error = float(((velocities - flash).flatten(1).norm(dim=1) / flash.flatten(1).norm(dim=1)).mean())
    pairs = sum(n > 0 for n in folded)
    return Scores(error, float(np.mean(differences)), lowest, highest, sum(folded), pairs, failed)


def fine(outcome: Outcome, moving: Tensor) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Warped image, how much of each pixel a grid line of the source covers, and determinant: enlarged, and cut."""
    cells = Lattice.cells((PIXELS, PIXELS), band(BAND).lengths)
    lattice = Lattice.cells((PIXELS * SCALE, PIXELS * SCALE), band(BAND).lengths)
    enlarge = Upsampler(cells, lattice)
    u = enlarge(outcome.displacement)
    image = Sampler(lattice, cells)(moving[None], u)[0]
    step = lattice.step[0]
    lines = torch.zeros(lattice.shape)
    for axis in range(2):
        shape = [1, 1]
        shape[axis] = -1
        source = u[axis] + lattice.positions(axis, torch.float32).view(shape)
        distance = (torch.remainder(source / MESH + 0.5, 1) - 0.5).abs() * MESH
        slope = torch.stack(torch.gradient(source, spacing=step)).norm(dim=0).clamp(min=1e-3)
        lines = torch.maximum(lines, (1 - distance / slope / step).clamp(0, 1))
    inner = (slice(MARGIN * SCALE, -MARGIN * SCALE),) * 2
    return tuple(x[inner].numpy() for x in (image, lines, enlarge(outcome.determinant[None])[0]))


def picture(rows: list[tuple[Tensor, Tensor, Outcome, Outcome]]) -> bytes:
    """PNG: for each (fixed, moving, FLASH, DeepFLASH) a row of source, target, both deformed sources, the same with
    grids, both determinants (white 1, orange above, blue below, full color at 4 and 1/4, yellow where folded)."""
    drawn = []
    for fixed, moving, *outcomes in rows:
        inner = (slice(MARGIN, -MARGIN),) * 2
        panels = [
            pixels.to_bytes(np.kron(x[inner].numpy(), np.ones((SCALE, SCALE), np.float32))[..., None].repeat(3, -1))
            for x in (moving, fixed)
        ]
        deformed, grids, determinants = [], [], []
        for outcome in outcomes:
            image, lines, determinant = fine(outcome, moving)
            gray = image[..., None].repeat(3, -1)
            deformed.append(pixels.to_bytes(gray))
            strength = 0.85 * lines[..., None]
            grids.append(pixels.to_bytes(gray * (1 - strength) + strength * np.float32((1.0, 0.75, 0.25))))
            color = pixels.diverging(np.log(np.maximum(determinant, 1e-6)) / math.log(4))
            color[determinant <= 0] = pixels.FOLD_COLOR / 255
            determinants.append(pixels.to_bytes(color))
        panels += deformed + grids + determinants
        frame = ((GAP // 2, GAP // 2), (GAP // 2, GAP // 2), (0, 0))
        drawn.append(np.concatenate([np.pad(p, frame, constant_values=255) for p in panels], 1))
    return pixels.png(np.concatenate(drawn, 0))


class Stopwatch:
    """Says what took how long."""

    def __init__(self) -> None:
        self.start = time.perf_counter()

    def say(self, what: str) -> None:
        now = time.perf_counter()
        print(f"[{now - self.start:6.1f} s] {what}", flush=True)
        self.start = now


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("-o", "--output", type=Path, default=ROOT / "demo" / "paper-2d", help="folder of the results")
    parser.add_argument("--training", type=int, default=1000, help="pairs to train on")
    parser.add_argument("--test", type=int, default=500, help="pairs to test with")
    parser.add_argument("--epochs", type=int, default=100, help="of the dual nets")
    parser.add_argument("--iterations", type=int, default=200, help="of the nets on forces")
    parser.add_argument("--rows", type=int, default=4, help="test pairs in the picture")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads; such small arrays need but one")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    options.output.mkdir(parents=True, exist_ok=True)
    watch = Stopwatch()

    training = range(options.training)
    test = range(FIRST_TEST_SEED, FIRST_TEST_SEED + options.test)
    flash = labels(options.output / "training.safetensors", "training", training, BAND)
    flash_test = labels(options.output / "test.safetensors", "test", test, BAND)
    watch.say(f"FLASH on {len(training)} + {len(test)} pairs (what was done before is kept)")
    fixed, moving = images(training)
    fixed_test, moving_test = images(test)

    space, sigma = band(BAND), Parameters.from_preset("paper").sigma
    nets: dict[str, Predictor] = {}
    for title, network in (("dual net, CNN (the paper's)", "cnn"), ("dual net, dense", "dense")):
        torch.manual_seed(0)
        net = DualNet(space, network)
        spectra = net.spectra(fixed, moving)
        known = net.spectra(fixed_test, moving_test), flash_test
        every = max(1, options.epochs // 5)

        def say(epoch, every: int = every) -> None:
            if epoch.number % every == 0:
                print(f"epoch {epoch.number}: error {epoch.training:.3f}, test {epoch.validation:.3f}", flush=True)

        fit(net, (spectra, flash), epochs=options.epochs, learning_rate=1e-3, validation=known, report=say)
        architecture = {"network": network, "width": net.width, "center": [], "look": []}
        nets[title] = kept(options.output, f"dual-net-{network}", "dual-net", net, architecture)
        watch.say(f"training of the {title}, {sum(p.numel() for p in net.parameters())} weights")
    for title, hidden in (("force, gain per frequency", 0), ("force, dual net", 128)):
        torch.manual_seed(0)
        net = ForceNet(space, metric(), sigma, hidden=hidden)
        rate = 1e-3 if hidden else 2e-2
        fit_force(net, fixed, moving, iterations=options.iterations, learning_rate=rate)
        architecture = {"steps": len(net.real), "hidden": hidden, "time_steps": net.time_steps}
        nets[title] = kept(options.output, f"force-net-{hidden}", "force-net", net, architecture)
        watch.say(f"training of the {title}, {sum(p.numel() for p in net.parameters())} weights")

    moved = tuple(torch.roll(x, SHIFT, (1, 2)) for x in (fixed_test, moving_test))
    before = float((fixed_test - moving_test).square().mean())
    table = {"FLASH": (scores(fixed_test, moving_test, flash_test, None), None)}
    predicted = {}
    for name, found in nets.items():
        posed = [(problem, problem.pair()) for problem in problems(found, fixed_test, moving_test)]
        started = time.perf_counter()
        velocities = predicted[name] = torch.cat([found.velocities(problem, [pair]) for problem, pair in posed])
        milliseconds = 1000 * (time.perf_counter() - started) / len(test)
        away = problems(found, *moved)
        there = scores(*moved, found.velocities(away[0], [problem.pair() for problem in away]), None)
        table[name] = scores(fixed_test, moving_test, velocities, flash_test), there
        print(f"{name}: {milliseconds:.1f} ms per prediction")
    watch.say("test")
    gain = before - table["FLASH"][0].difference
    print(f"Mean squared difference before: {before:.5f}; share: of FLASH's decrease; moved: both images by {SHIFT} px")
    print(f"{'':28} error of v0  difference  share  moved  determinants    folded pixels (pairs)  failed")
    for name, (here, there) in table.items():
        print(
            f"{name:28} {'-' if here.error is None else f'{here.error:.3f}':>11} {here.difference:11.5f} "
            f"{(before - here.difference) / gain:6.1%} "
            f"{'' if there is None else f'{(before - there.difference) / gain:.1%}':>6} "
            f"{here.lowest:6.2f} ... {here.highest:5.2f} {here.folded:14} ({here.folded_pairs}) {here.failed:12}"
        )

    rows = []
    for i in range(min(options.rows, len(test))):
        full = Registration(fixed_test[i], moving_test[i], FULL_BAND)
        deep = Registration(fixed_test[i], moving_test[i], BAND)
        outcomes = full.outcome(full.velocity()), deep.outcome(predicted["dual net, CNN (the paper's)"][i])
        rows.append((fixed_test[i], moving_test[i], *outcomes))
        print(
            f"row {i + 1}: difference FLASH in full space {outcomes[0].difference:.5f}, DeepFLASH "
            f"{outcomes[1].difference:.5f}; determinants from {float(outcomes[0].determinant.min()):.2f} and "
            f"{float(outcomes[1].determinant.min()):.2f}"
        )
    path = options.output / "paper-2d.png"
    path.write_bytes(picture(rows))
    watch.say(f"picture: {path}")


if __name__ == "__main__":
    main()
