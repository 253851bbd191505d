# SPDX-License-Identifier: Apache-2.0
"""Whether the affine alignment holds for any anatomy: right or wrong, and seconds, of pairs of many kinds.

Real brains with labels (OASIS), whose voxels are made ten times smaller and larger, of one side only a half is seen,
the intensities of one side pass through curves that rise and fall, or one header is a quarter or half turn wrong; and
made bodies (Testing/helpers/made_bodies.py): abdomens, hearts and lungs in CT and MR, fetal brains, mice, small heads,
thick slices. An alignment is right if the mean Dice of the labels reaches four fifths of what an affine map that knows
the answer gives: the true one of made bodies, the one fitted to the centers of the labels of real ones.

ANTs' and Greedy's affines stand beside it where the packages antspyx and picsl-greedy are installed in the same
environment (best one made for the purpose, into which both are installed beside this library). Every program first
finds a map that is known; one that does not is not measured: its transforms would be read the wrong way round.

    python Testing/benchmarks/any_anatomy.py --data FOLDER [--only abdomen] [--library DeepFLASHRegistration]
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from importlib.util import find_spec
from itertools import chain
from pathlib import Path

import numpy as np
import SimpleITK as sitk

_ROOT = Path(__file__).resolve().parents[2]
_RIGHT = 0.8
_PAIRS = (("1000", "1001"), ("1014", "1036"), ("1008", "1017"), ("1010", "1002"))
_LOWEST = 3  # labels up to this are no structures
_KNOWN_MM = 5.0  # a known map is found up to this


@dataclass
class Case:
    """A pair, its labels, and the affine map (fixed to moving, LPS mm) that its alignment is compared with."""

    kind: str
    name: str
    fixed: Volume
    moving: Volume
    fixed_labels: Volume
    moving_labels: Volume
    best: np.ndarray


def scaled_header(volume: Volume, factor: float) -> Volume:
    affine = volume.grid.affine.copy()
    affine[:-1] *= factor
    return replace(volume, grid=Grid(volume.grid.shape, affine))


def moved_header(volume: Volume, motion: np.ndarray) -> Volume:
    return replace(volume, grid=Grid(volume.grid.shape, motion @ volume.grid.affine))


def half(volume: Volume, axis: int, end: int) -> Volume:
    n = volume.grid.shape[axis]
    keep = slice(n // 2, None) if end else slice(0, n // 2)
    lower, upper = [0] * volume.ndim, [0] * volume.ndim
    (lower if end else upper)[axis] = -(n // 2) if end else n // 2 - n
    data = volume.data[(slice(None),) * axis + (keep,)]
    return replace(volume, grid=volume.grid.padded(lower, upper), data=np.ascontiguousarray(data))


def curved(volume: Volume, values: list[float]) -> Volume:
    """Intensities through a curve with these values at equal distances, dark and bright end last; 0 stays."""
    inside = volume.data > 0
    low, high = np.percentile(volume.data[inside], (1, 99))
    data = np.interp(volume.data, np.linspace(low, high, len(values)), values)
    return volume.with_data(np.where(inside, data, 0).astype(np.float32))


def label_centers(labels: Volume) -> dict[int, tuple[np.ndarray, int]]:
    """Center (LPS mm) and voxels of each label."""
    data = labels.data.astype(np.int64).ravel()
    counts = np.bincount(data)
    index = np.indices(labels.grid.shape).reshape(labels.ndim, -1)
    sums = np.stack([np.bincount(data, i) for i in index], 1)
    present = [v for v in np.flatnonzero(counts) if v > _LOWEST]
    return {int(v): (labels.grid.index_to_physical(sums[v] / counts[v]), int(counts[v])) for v in present}


def fitted_to_labels(fixed: Volume, moving: Volume) -> np.ndarray:
    """The affine map that takes the centers of the fixed labels nearest to those of the moving ones."""
    ours, theirs = label_centers(fixed), label_centers(moving)
    common = sorted(ours.keys() & theirs.keys())
    points = np.array([[*ours[v][0], 1.0] for v in common])
    targets = np.array([theirs[v][0] for v in common])
    weights = np.sqrt([float(ours[v][1]) for v in common])[:, None]
    matrix = np.eye(4)
    matrix[:3] = np.linalg.lstsq(points * weights, targets * weights, rcond=None)[0].T
    return matrix


def mean_dice(case: Case, matrix: np.ndarray) -> float:
    """Mean Dice of the labels where the moving image sees at all, as the best map says."""
    factor = [max(1, round(n / 90)) for n in case.fixed_labels.grid.shape]
    grid = case.fixed_labels.grid.resampled(factor=factor)
    fixed = nearest(case.fixed_labels, grid)
    moving = nearest(case.moving_labels, grid, matrix)
    seen = nearest(case.moving_labels.with_data(np.ones(case.moving_labels.grid.shape, np.uint8)), grid, case.best)
    found = []
    for label in np.unique(fixed):
        a, b = (fixed == label) & (seen > 0.5), moving == label
        if label > _LOWEST and a.any():
            found.append(2 * np.count_nonzero(a & b) / (np.count_nonzero(a) + np.count_nonzero(b)))
    return float(np.mean(found))


def brain_cases(folder: Path, pairs: int) -> Iterator[Case]:
    files = {path.name[:4]: path for path in sorted(folder.glob("*_SS.nii.gz"))}
    if not files:
        print(f"No brains: {folder} holds no *_SS.nii.gz. Give their folder with --data.")
    for a, b in _PAIRS[:pairs]:
        if a not in files or b not in files:
            continue
        fixed, moving = read_volume(files[a]), read_volume(files[b])
        labels = [read_volume(str(files[x]).replace("_SS", "_glm")) for x in (a, b)]
        labels = [v.with_data(np.rint(v.data).astype(np.int16)) for v in labels]
        yield from of_one_pair(Case("brain", f"{a}:{b}", fixed, moving, *labels, fitted_to_labels(*labels)))


def of_one_pair(case: Case) -> Iterator[Case]:
    name, best = case.name, case.best
    yield case
    for factor in (0.1, 10.0):
        both = [scaled_header(v, factor) for v in (case.fixed, case.moving, case.fixed_labels, case.moving_labels)]
        larger = best.copy()
        larger[:3, 3] *= factor
        yield Case(f"brain x{factor:g}", name, *both, larger)
    for axis, way in enumerate(("IS", "PA", "LR")):
        for end in (0, 1):
            cut = {"moving": half(case.moving, axis, end), "moving_labels": half(case.moving_labels, axis, end)}
            yield replace(case, kind="brain half", name=f"{name} axis {axis} {way[end]}", **cut)
    for curve in ([0.2, 1.0, 0.1, 0.8], [1.0, 0.3, 0.9, 0.1]):
        yield replace(case, kind="brain curve", name=f"{name} {curve}", moving=curved(case.moving, curve))
    for axis in ((1, 0, 0), (0, 1, 0), (0, 0, 1)):
        for degrees in (90, 180, -90):
            turn = turn_about(axis, degrees, case.moving.grid.center)
            moved = {"moving": moved_header(case.moving, turn), "moving_labels": moved_header(case.moving_labels, turn)}
            yield replace(case, kind="brain header", name=f"{name} {degrees} about {axis}", best=turn @ best, **moved)


def made_cases(seeds: int) -> Iterator[Case]:
    for kind, of in KINDS.items():
        for modality in of.modalities:
            for seed in range(seeds):
                yield of_made(f"{kind} {modality}", seed, made_pair(kind, modality, seed))
    for kind in HEADS:
        for seed in range(seeds):
            yield of_made(kind, seed, made_heads(kind, seed))


def of_made(kind: str, seed: int, pair: Pair) -> Case:
    return Case(kind, str(seed), pair.fixed, pair.moving, pair.fixed_labels, pair.moving_labels, pair.truth)


# ---------------------------------------------------------------- who aligns


def ours(case: Case, threads: int) -> np.ndarray:
    """As a registration with its default settings does."""
    sides = [scaled(Subject(v).checked("image"), Parameters()).image.upright() for v in (case.fixed, case.moving)]
    return align(*sides, threads=threads).matrix


def ants_affine(case: Case, threads: int) -> np.ndarray:
    os.environ["ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS"] = str(threads)  # read when ANTs is loaded
    import ants

    with tempfile.TemporaryDirectory() as folder:
        images = [ants.image_read(file) for file in _written(case, Path(folder))]
        found = ants.registration(*images, type_of_transform="Affine", outprefix=f"{folder}/a", random_seed=1)
        transform = sitk.AffineTransform(sitk.ReadTransform(found["fwdtransforms"][0]))
    matrix = np.eye(4)
    matrix[:3, :3] = np.array(transform.GetMatrix()).reshape(3, 3)
    matrix[:3, 3] = np.array(transform.TransformPoint((0.0, 0.0, 0.0)))
    return matrix


def greedy_affine(case: Case, threads: int) -> np.ndarray:
    from picsl_greedy import Greedy3D

    with tempfile.TemporaryDirectory() as folder:
        fixed, moving = _written(case, Path(folder))
        found = Path(folder) / "affine.mat"
        start = f"-i {fixed} {moving} -m NCC 4x4x4 -n 100x50x10 -threads {threads} -V 0"
        Greedy3D().execute(f"{start} -a -dof 12 -ia-image-centers -o {found}")
        ras = np.loadtxt(found)
    flip = np.diag([-1.0, -1.0, 1.0, 1.0])
    return flip @ ras @ flip


def _written(case: Case, folder: Path) -> list[str]:
    files = []
    for name, volume in (("fixed", case.fixed), ("moving", case.moving)):
        files.append(str(folder / f"{name}.nii.gz"))
        image = volume.grid.apply_to(sitk.GetImageFromArray(volume.data.astype(np.float32)))
        sitk.WriteImage(image, files[-1])
    return files


PEERS: dict[str, tuple[str, Callable[[Case, int], np.ndarray]]] = {
    "ANTs": ("ants", ants_affine),
    "Greedy": ("picsl_greedy", greedy_affine),
}


def error_of_known_map(run: Callable[[Case, int], np.ndarray], threads: int) -> float:
    """How far (mm) a program is from the answer where it is known, at the corners of the fixed image: an image whose
    header alone was moved. The answer read the wrong way round would be 50 mm off."""
    pair = made_pair("heart", "MR", 0)
    motion = turn_about((1, 2, -1), 12, pair.fixed.grid.center)
    motion[:3, :3] *= 1.1
    motion[:3, 3] += (6.0, -9.0, 4.0)
    both = [pair.fixed, moved_header(pair.fixed, motion), pair.fixed_labels, moved_header(pair.fixed_labels, motion)]
    found = run(Case("known", "", *both, motion), threads)
    corners = np.concatenate([pair.fixed.grid.corners(), np.ones((8, 1))], 1)
    return float(np.linalg.norm(corners @ (found - motion).T, axis=1).max())


@dataclass
class Score:
    """Dice as parts of what the best map gives, and seconds, of one program for one kind."""

    parts: list[float]
    seconds: list[float]

    def __str__(self) -> str:
        right = sum(part >= _RIGHT for part in self.parts)
        return f"{right:3} of {len(self.parts):3} (mean {np.mean(self.parts):.3f}, {np.median(self.seconds):.1f} s)"


def main() -> None:
    folder = Path(os.environ.get("DEEPFLASH_DATA", "data")) / "oasis-brains"
    parser.add_argument("--data", type=Path, default=folder, help="default: oasis-brains in the folder DEEPFLASH_DATA")
    parser.add_argument("--only", default="", help="cases whose kind and name hold this")
    parser.add_argument("--pairs", type=int, default=len(_PAIRS), help="of real brains")
    parser.add_argument("--seeds", type=int, default=4, help="made bodies of each kind")
    parser.add_argument("--programs", default="", help="those named here, by commas; all by default")
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    programs = {"ours": ours, **{name: run for name, (module, run) in PEERS.items() if find_spec(module)}}
    if arguments.programs:
        programs = {name: programs[name] for name in arguments.programs.split(",")}
    for name in list(programs):
        error = error_of_known_map(programs[name], arguments.threads)
        print(f"{name}: {error:.2f} mm from a known map", flush=True)
        if error > _KNOWN_MM:
            print(f"{name} is left out.")
            del programs[name]
    scores: dict[str, dict[str, Score]] = {}
    for case in chain(brain_cases(arguments.data, arguments.pairs), made_cases(arguments.seeds)):
        if arguments.only not in f"{case.kind} {case.name}":
            continue
        best = mean_dice(case, case.best)
        line = f"{case.kind:18} {case.name:28} best {best:.3f}"
        for name, run in programs.items():
            start = time.perf_counter()
            matrix = run(case, arguments.threads)
            took, dice = time.perf_counter() - start, mean_dice(case, matrix)
            score = scores.setdefault(case.kind, {}).setdefault(name, Score([], []))
            score.parts.append(dice / best)
            score.seconds.append(took)
            line += f"  {name} {dice:.3f} {'right' if dice >= _RIGHT * best else 'WRONG'} {took:5.2f} s"
        print(line, flush=True)
    print(f"\nRight (at least {_RIGHT:g} of the best map's Dice), mean part of it, median seconds")
    for kind, found in scores.items():
        print(f"{kind:18} " + "  ".join(f"{name} {score}" for name, score in found.items()))
    for name in programs:
        every = [part for found in scores.values() for part in found[name].parts]
        print(f"{name}: right {sum(part >= _RIGHT for part in every)} of {len(every)}")


parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument(
    "--library", type=Path, default=_ROOT / "DeepFLASHRegistration", help="folder of the library, to compare versions"
)
sys.path[:0] = [str(parser.parse_known_args()[0].library), str(_ROOT / "Testing" / "helpers")]

from DeepFLASHRegistrationLib.alignment.affine import align
from DeepFLASHRegistrationLib.imaging.grid import Grid
from DeepFLASHRegistrationLib.imaging.io import read_volume
from DeepFLASHRegistrationLib.imaging.resampling import nearest
from DeepFLASHRegistrationLib.imaging.volume import Volume
from DeepFLASHRegistrationLib.problem.parameters import Parameters
from DeepFLASHRegistrationLib.problem.problem import scaled
from DeepFLASHRegistrationLib.problem.subject import Subject
from made_bodies import HEADS, KINDS, Pair, made_heads, made_pair, turn_about

if __name__ == "__main__":
    main()
