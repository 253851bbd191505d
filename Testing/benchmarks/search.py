# SPDX-License-Identifier: Apache-2.0
"""How far two ways of searching get from the same start: the energy after ten steps of Gauss-Newton beside that after
forty of L-BFGS, and the processor's seconds of both, level by level.

Pairs: real brains and hippocampi (where their folder is given), the phantom's heads of one and two contrasts, and a
made abdomen in CT. A level starts from where ten steps of Gauss-Newton at the levels before have led. Gauss-Newton is
ahead where its energy is no higher and it took no longer. Also printed: after how many iterations and seconds L-BFGS
first came as low, if it did.

    python Testing/benchmarks/search.py [--data FOLDER] [--steps 10] [--iterations 40] [--only brain]
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import torch

_ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(_ROOT / "DeepFLASHRegistration"), str(_ROOT / "Testing" / "helpers")]

from DeepFLASHRegistrationLib import Parameters, Volume, read_volume
from DeepFLASHRegistrationLib.alignment.affine import align
from DeepFLASHRegistrationLib.geodesics.objective import Level
from DeepFLASHRegistrationLib.geodesics.search.flash import minimize
from DeepFLASHRegistrationLib.phantom.pairs import make_pair
from DeepFLASHRegistrationLib.problem.problem import Problem, comparable, settings
from DeepFLASHRegistrationLib.problem.subject import Subject
from made_bodies import made_pair

_BRAINS = (("1000", "1001"), ("1006", "1017"), ("1009", "1036"))
_HIPPOCAMPI = ((0, 1), (40, 100), (150, 60))  # by their place in the folder


def pairs(data: Path | None) -> Iterator[tuple[str, Callable[[], tuple[Volume, Volume]]]]:
    """The name of each pair, and what reads or makes it."""

    def read(*paths: Path) -> Callable[[], tuple[Volume, Volume]]:
        return lambda: tuple(read_volume(path) for path in paths)

    def phantom(seed: int, contrast: str) -> Callable[[], tuple[Volume, Volume]]:
        def make() -> tuple[Volume, Volume]:
            made = make_pair(seed, contrast=contrast)
            return made.fixed, made.moving

        return make

    def abdomen() -> tuple[Volume, Volume]:
        made = made_pair("abdomen", "CT", 1)
        return made.fixed, made.moving

    if data is not None:
        for names in _BRAINS:
            yield f"brain {':'.join(names)}", read(*(data / "oasis-brains" / f"{name}_SS.nii.gz" for name in names))
        crops = sorted((data / "hippocampus" / "images").iterdir())
        for places in _HIPPOCAMPI:
            yield f"hippocampus {places[0]}:{places[1]}", read(*(crops[i] for i in places))
    yield "phantom 0, T1 T1", phantom(0, "same")
    yield "phantom 1, T1 T1", phantom(1, "same")
    yield "phantom 2, T1 T2", phantom(2, "different")
    yield "abdomen, CT", abdomen


def problem_of(images: tuple[Volume, Volume], parameters: Parameters) -> Problem:
    fixed, moving = (Subject(image).checked(side) for image, side in zip(images, ("fixed", "moving"), strict=True))
    fixed, moving = comparable(fixed, moving, parameters)
    affine = align(fixed.image.upright(), moving.image.upright(), "affine", threads=1).matrix
    return Problem(fixed, moving, affine, parameters)


def searched(
    problem: Problem, level: Level, start: torch.Tensor | None, parameters: Parameters
) -> tuple[torch.Tensor, list[tuple[float, float]]]:
    """The velocity found at one level; of its start and each step the energy, and the seconds until then."""
    course: list[tuple[float, float]] = []
    pair, window = problem.pair(), problem.window()
    began = time.process_time()
    found = minimize(
        pair,
        [level],
        settings(parameters),
        start,
        window,
        lambda step: course.append((step.energy, time.process_time() - began)),
    )
    return found.velocity, course


def as_low(course: list[tuple[float, float]], energy: float) -> str:
    """When a search came as low, in words."""
    for number, (reached, seconds) in enumerate(course):
        if reached <= energy:
            return f"{number:3} in {seconds:6.2f} s"
    return "not at all"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="folder of real images: oasis-brains, hippocampus/images")
    parser.add_argument("--steps", type=int, default=10, help="of Gauss-Newton")
    parser.add_argument("--iterations", type=int, default=40, help="of L-BFGS")
    parser.add_argument("--preset", default="default")
    parser.add_argument("--only", default="", help="pairs whose names hold this")
    options = parser.parse_args()
    torch.set_num_threads(1)
    ours, theirs = (
        Parameters.from_preset(options.preset, search=name, tolerance=0.0) for name in ("gauss-newton", "lbfgs")
    )
    ahead: dict[int, list[bool]] = {}
    print(f"{'pair':20} {'voxels':>7} {'Gauss-Newton':>18} {'L-BFGS':>18} {'as low':>15}   ahead")
    for name, read in pairs(options.data):
        if options.only not in name:
            continue
        problem, velocity = problem_of(read(), ours), None
        for number, level in enumerate(problem.levels(ours)):
            few, many = (replace(level, iterations=n) for n in (options.steps, options.iterations))
            _, course = searched(problem, many, velocity, theirs)
            their_energy, their_seconds = course[-1]
            velocity, own = searched(problem, few, velocity, ours)
            energy, seconds = own[-1]
            won = energy <= their_energy and seconds <= their_seconds
            ahead.setdefault(number, []).append(won)
            figures = f"{energy:9.3f} {seconds:6.2f} s {their_energy:9.3f} {their_seconds:6.2f} s"
            when = as_low(course, energy)
            print(f"{name:20} 1/{max(level.factors):<5} {figures} {when:>15}   {'yes' if won else 'no'}", flush=True)
    for number, wins in ahead.items():
        print(f"Level {number + 1}: Gauss-Newton is ahead on {sum(wins)} of {len(wins)} pairs.")


if __name__ == "__main__":
    main()
