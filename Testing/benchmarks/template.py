# SPDX-License-Identifier: Apache-2.0
"""A template of many subjects beside single subjects as templates: how well labels that are carried to it agree
pairwise, how long it took, and by how much another first image changes it.

    python Testing/benchmarks/template.py FOLDER [--subjects 20] [--singles 5] [--preset fast] [--rounds 4]

FOLDER holds images/ and labels/, as `deepflash template` reads it.
"""

from __future__ import annotations

import argparse
import itertools
import tempfile
import time
from pathlib import Path

import numpy as np
from DeepFLASHRegistrationLib.cohorts.many import Settings
from DeepFLASHRegistrationLib.cohorts.template import TemplateRun
from DeepFLASHRegistrationLib.cohorts.template_how import How
from DeepFLASHRegistrationLib.imaging.grid import Grid
from DeepFLASHRegistrationLib.imaging.intensities import foreground
from DeepFLASHRegistrationLib.imaging.io import read_labels, read_mask, read_volume
from DeepFLASHRegistrationLib.problem.parameters import Parameters
from DeepFLASHRegistrationLib.problem.subject import Subject
from DeepFLASHRegistrationLib.registration.register import register
from DeepFLASHRegistrationLib.training.dataset import Dataset, read_dataset


def pairwise(maps: list[np.ndarray]) -> float:
    """Mean Dice over pairs of label maps and their labels."""
    found = []
    for one, other in itertools.combinations(maps, 2):
        for label in np.intersect1d(np.unique(one), np.unique(other)):
            if label:
                a, b = one == label, other == label
                found.append(2 * np.count_nonzero(a & b) / (np.count_nonzero(a) + np.count_nonzero(b)))
    return float(np.mean(found))


def made(dataset: Dataset, out: Path, parameters: Parameters, how: How, workers: int) -> tuple[TemplateRun, float]:
    """A template, and how many seconds it took."""
    begun = time.monotonic()
    run = TemplateRun(dataset, out, Settings(parameters, threads=workers, workers=workers), how)
    run.run(lambda end: None, say=lambda text: print(f"  {text} ({time.monotonic() - begun:.0f} s)", flush=True))
    return run, time.monotonic() - begun


def size(maps: list[np.ndarray], voxel_mm3: float, dataset: Dataset) -> float:
    """Volume of all structures as they were carried, by that of the subjects' own labels: larger ones have a higher
    Dice."""
    own = [read_labels(each.labels) for each in dataset.subjects]
    before = sum(np.count_nonzero(each.data) * each.grid.voxel_volume for each in own)
    return sum(np.count_nonzero(each) for each in maps) * voxel_mm3 / before


def single(dataset: Dataset, at: int, parameters: Parameters) -> tuple[float, float, float]:
    """The same figures with one of the subjects as the template; the first also without that subject, whose own labels
    are carried nowhere and so are free of errors."""
    subjects = [each.read() for each in dataset.subjects]
    maps = [np.asarray(register(subjects[at], each, parameters, threads=1).labels.data) for each in subjects]
    others = [each for number, each in enumerate(maps) if number != at]
    return pairwise(maps), size(maps, subjects[at].grid.voxel_volume, dataset), pairwise(others)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--subjects", type=int, default=20)
    parser.add_argument("--singles", type=int, default=5)
    parser.add_argument("--preset", default="fast")
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--voxel-mm", type=float, default=0.0)
    parser.add_argument("--workers", type=int, default=2)
    options = parser.parse_args()
    dataset = read_dataset(options.folder, voxels=False)
    dataset = Dataset(dataset.path, dataset.subjects[: options.subjects])
    parameters, how = Parameters.from_preset(options.preset), How(options.rounds, voxel_mm=options.voxel_mm)
    with tempfile.TemporaryDirectory() as folder:
        run, seconds = made(dataset, Path(folder) / "T", parameters, how, options.workers)
        for each in run.rounds:
            print(
                f"round {each.number}: mean deformation {each.mean_voxels:.3f} voxels, sharpness {each.sharpness:.4g}"
            )
        carried = [read_labels(run.last(name) / "labels.nii.gz") for name in run.left]
        maps = [each.data for each in carried]
        own = pairwise(maps)
        print(
            f"template of {len(maps)} subjects: pairwise Dice {own:.4f}, structures of "
            f"{size(maps, carried[0].grid.voxel_volume, dataset):.3f} of their size, mean deformation "
            f"{run.left_over['mean_voxels']:.4f} voxels, {seconds:.0f} s, {len(run.failed)} left out, far: {run.far()}",
            flush=True,
        )
        start = str(dataset.subjects[-1].image)
        print("from another first image:")
        other, _ = made(
            Dataset(dataset.path, dataset.subjects[::-1]),
            Path(folder) / "other",
            parameters,
            How(options.rounds, voxel_mm=options.voxel_mm, start=start),
            options.workers,
        )
        one, two = (_template(each) for each in (run, other))
        between = register(one, two, parameters)
        inside = foreground(one.image) & (one.mask is None or one.mask.data > 0)
        moved = np.linalg.norm(np.asarray(between.displacement), axis=-1)[inside] / _voxel(one.grid)
        print(
            f"the other template lies {moved.mean():.3f} voxels away on average, {moved.max():.2f} at most", flush=True
        )
    singles = {}
    for at in np.linspace(0, len(dataset) - 1, options.singles).round().astype(int):
        name = dataset.subjects[at].name
        singles[name], ratio, others = single(dataset, at, parameters)
        same = pairwise([each for other, each in zip(run.left, maps, strict=True) if other != name])
        print(
            f"{name} as template: pairwise Dice {singles[name]:.4f}, structures of {ratio:.3f} of their size; "
            f"of the others {others:.4f}, on the template {same:.4f}",
            flush=True,
        )
    best = max(singles.values())
    print(f"template {own:.4f}, best of {len(singles)} single subjects {best:.4f}: {own - best:+.4f}")


def _template(run: TemplateRun) -> Subject:
    """The template, with what is compared of it."""
    mask = read_mask(run.out / "mask.nii.gz") if run.cut else None
    return Subject(read_volume(run.out / "template.nii.gz"), mask=mask)


def _voxel(grid: Grid) -> float:
    return float(grid.spacing.min())


if __name__ == "__main__":
    main()
