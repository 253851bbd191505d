# SPDX-License-Identifier: Apache-2.0
"""Which model `--model auto` chooses, against a table of right answers: pairs of real and made images of many kinds.

A right answer is the most special model that was trained on images like both; none where an image is of another organ,
dimension or kind, too coarse, or lies as no training image does. It is given twice: for those who agreed to licenses
that exclude commercial use, and for those who did not.

    python Testing/benchmarks/model_choice.py --data FOLDER [--only WORDS]

FOLDER is that of real images (DEEPFLASH_DATA of the tests). Exits with 1 if an answer is wrong.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "DeepFLASHRegistration"), str(ROOT / "Testing" / "helpers")]

from DeepFLASHRegistrationLib.imaging.grid import Grid
from DeepFLASHRegistrationLib.imaging.io import read_labels, read_volume
from DeepFLASHRegistrationLib.imaging.volume import Volume
from DeepFLASHRegistrationLib.methods.choosing import Look, candidates
from DeepFLASHRegistrationLib.methods.model_words import misfit_sentence
from DeepFLASHRegistrationLib.phantom.pairs import make_pair
from made_bodies import made_heads, made_pair, turn_about

SPECIAL, ANY, NONE = ("brain-t1", "brain"), ("brain", "brain"), ("", "")
# Upside-down, the unrolled model loses up to 0.12 of the Dice, and the dual net in its pose nothing.
CROP, POSED = ("hippocampus", "hippocampus"), ("dual-net-hippocampus", "dual-net-hippocampus")


@dataclass
class Case:
    """Two images, as what makes them, and the right answers with and without the agreement."""

    name: str
    fixed: Callable[[], Volume]
    moving: Callable[[], Volume]
    right: tuple[str, str]


def curved(volume: Volume, values: list[float], background: float = 0.0) -> Volume:
    """Intensities through a curve with these values at equal distances; what is 0 becomes the background."""
    inside = volume.data > 0
    low, high = np.percentile(volume.data[inside], (1, 99))
    data = np.interp(volume.data, np.linspace(low, high, len(values)), values)
    return volume.with_data(np.where(inside, data, background).astype(np.float32))


def like_t2(volume: Volume) -> Volume:
    return curved(volume, [1.0, 0.6, 0.3])


def like_flair(volume: Volume) -> Volume:
    """Fluid dark, gray matter brighter than white."""
    return curved(volume, [0.1, 0.6, 1.0, 0.75, 0.5])


def like_ct(volume: Volume) -> Volume:
    """A brain in Hounsfield units, in air: fluid, gray and white matter."""
    made = curved(volume, [5.0, 40.0, 28.0], -1000.0)
    noise = np.random.default_rng(0).normal(0, 6, made.data.shape)
    return made.with_data((made.data + noise).astype(np.float32))


def turned(volume: Volume, axis: tuple[float, float, float], degrees: float = 180.0) -> Volume:
    """The same voxels by a header that is turned, about the middle of the image."""
    middle = volume.grid.index_to_physical((np.array(volume.grid.shape) - 1) / 2)
    return replace(volume, grid=Grid(volume.grid.shape, turn_about(axis, degrees, middle) @ volume.grid.affine))


def moved(volume: Volume, shift: tuple[float, float, float]) -> Volume:
    affine = volume.grid.affine.copy()
    affine[:3, 3] += shift
    return replace(volume, grid=Grid(volume.grid.shape, affine))


def scaled(volume: Volume, factor: float) -> Volume:
    affine = volume.grid.affine.copy()
    affine[:3] *= factor
    return replace(volume, grid=Grid(volume.grid.shape, affine))


def thick(volume: Volume, count: int) -> Volume:
    """Slices along the body of so many voxels each."""
    axis = int(np.argmax(np.abs(volume.grid.direction[2])))
    n = volume.grid.shape[axis] // count * count
    data = np.moveaxis(volume.data, axis, 0)[:n]
    data = data.reshape(-1, count, *data.shape[1:]).mean(1)
    factor = [count if a == axis else 1 for a in range(3)]
    grid = replace(volume.grid, shape=tuple(n if a == axis else m for a, m in enumerate(volume.grid.shape)))
    return Volume(grid.resampled(factor=factor), np.ascontiguousarray(np.moveaxis(data, 0, axis)), volume.name)


def half(volume: Volume) -> Volume:
    """The right or left half of it."""
    axis = int(np.argmax(np.abs(volume.grid.direction[0])))
    n = volume.grid.shape[axis] // 2
    grid = volume.grid.padded([0] * 3, [n - m if a == axis else 0 for a, m in enumerate(volume.grid.shape)])
    return Volume(grid, np.ascontiguousarray(np.take(volume.data, range(n), axis)), volume.name)


# FreeSurfer's numbers of what looks the same left and right.
_SIDES = (
    (2, 41),
    (3, 42),
    (4, 43),
    (5, 44),
    (7, 46),
    (8, 47),
    (10, 49),
    (11, 50),
    (12, 51),
    (13, 52),
    (17, 53),
    (18, 54),
)
_FLUID, _GRAY, _WHITE = 4, 3, 2
_OUTSIDE = 500  # labels above it lie outside the brain


def painted(path: Path, seed: int, fluid: float, gray: float, white: float, stripped: bool = True) -> Volume:
    """A head of a label map: these values of fluid, gray and white matter, any others of all else."""
    labels, rng = read_labels(path), np.random.default_rng(seed)
    shown = np.where(labels.data > _OUTSIDE, 0, labels.data) if stripped else labels.data
    table = rng.uniform(min(gray, white), max(gray, white), int(labels.data.max()) + 1)
    table[[_FLUID, 5, 14, 15, 24]] = fluid
    table[[_GRAY, 8, 10, 11, 12, 13, 17, 18]] = gray
    table[[_WHITE, 7, 16]] = white
    for left, right in _SIDES:
        table[right] = table[left]
    table[0] = 0
    image = table[shown] + np.where(shown > 0, rng.normal(0, 8, shown.shape), 0)
    return Volume(labels.grid, np.clip(image, 0, None).astype(np.float32), path.name)


def crop(volume: Volume, part: tuple[float, float, float]) -> Volume:
    """36 x 48 x 36 voxels of it, at this part of the way along each axis."""
    size = (36, 48, 36)
    at = [int(p * (n - m)) for p, n, m in zip(part, volume.grid.shape, size, strict=True)]
    data = volume.data[tuple(slice(a, a + m) for a, m in zip(at, size, strict=True))]
    grid = volume.grid.padded(
        [-a for a in at], [a + m - n for a, m, n in zip(at, size, volume.grid.shape, strict=True)]
    )
    return Volume(grid, np.ascontiguousarray(data), volume.name)


def cases(data: Path) -> Iterator[Case]:
    """All of them, the names of those alike beginning alike."""

    def oasis(name: str) -> Callable[[], Volume]:
        return lambda: read_volume(data / "oasis-brains" / f"{name}_SS.nii.gz")

    def adult(name: int) -> Callable[[], Volume]:
        return lambda: read_volume(data / "adults-t1" / f"sub-{name:02d}.nii.gz")

    def of(make: Callable[[], Volume], *ways: Callable[[Volume], Volume]) -> Callable[[], Volume]:
        def made() -> Volume:
            volume = make()
            for way in ways:
                volume = way(volume)
            return volume

        return made

    for one, two in (("1000", "1001"), ("1006", "1017"), ("1009", "1036"), ("1002", "1007"), ("1012", "1014")):
        yield Case(f"OASIS {one}, {two}", oasis(one), oasis(two), SPECIAL)
    for one, two in ((57, 58), (59, 60), (1, 30), (12, 44)):
        yield Case(f"adults {one}, {two}", adult(one), adult(two), SPECIAL)
    yield Case("adult, OASIS", adult(55), oasis("1008"), SPECIAL)
    icbm = lambda: read_volume(next((data / "icbm152").glob("*.nii.gz")))  # noqa: E731
    yield Case("ICBM152, OASIS", icbm, oasis("1010"), SPECIAL)
    yield Case("adult, moved and turned by 20 degrees", adult(56), of(adult(20), _tilted), SPECIAL)

    for name, way in (("T2", like_t2), ("FLAIR", like_flair)):
        yield Case(f"OASIS like {name}, both", of(oasis("1000"), way), of(oasis("1001"), way), ANY)
        yield Case(f"OASIS, the moving like {name}", oasis("1006"), of(oasis("1017"), way), ANY)
        yield Case(f"adults like {name}, both", of(adult(57), way), of(adult(58), way), ANY)
        yield Case(f"adults, the fixed like {name}", of(adult(59), way), adult(60), ANY)
    heads = sorted((data / "head-labels").glob("*.nii.gz"))
    contrasts = {"T1": (20, 110, 170), "T2": (220, 130, 90), "FLAIR": (30, 170, 120), "PD": (200, 180, 140)}
    for k, (name, values) in enumerate(contrasts.items()):
        one, two = (lambda k=k, s=s, v=values: painted(heads[k + 9 * s], 2 * k + s, *v) for s in (0, 1))
        yield Case(f"brains of head labels painted like {name}", one, two, SPECIAL if name == "T1" else ANY)
    one, two = (lambda k=k, v=v: painted(heads[k], k, *v) for k, v in ((5, contrasts["T1"]), (15, contrasts["T2"])))
    yield Case("brains of head labels painted like T1, T2", one, two, ANY)
    # The mean images of the models show brains alone: of whole heads nothing tells whether they fit.
    for k, name in ((6, "T1"), (7, "T2")):
        one, two = (lambda k=k, v=contrasts[name]: painted(heads[k], k, *v, stripped=False) for k in (k, k + 9))
        yield Case(f"whole heads painted like {name}", one, two, NONE)

    crops = sorted((data / "hippocampus" / "images").glob("*.nii.gz"))
    for i, j in ((0, 7), (20, 33), (50, 91), (120, 155), (180, 203)):
        one, two = ((lambda k=k: read_volume(crops[k])) for k in (i, j))
        yield Case(f"hippocampi {i}, {j}", one, two, CROP)
    third, other = (lambda: read_volume(crops[3])), (lambda: read_volume(crops[60]))
    yield Case("hippocampi, moved and turned by 20 degrees", of(third, _tilted), of(other, _tilted), CROP)
    yield Case("hippocampi like T2, both", of(third, like_t2), of(other, like_t2), NONE)
    yield Case("hippocampi upside-down", *(of(each, lambda v: turned(v, (1, 0, 0))) for each in (third, other)), POSED)
    yield Case("hippocampus, brain", third, oasis("1000"), NONE)
    for part in ((0.5, 0.5, 0.6), (0.4, 0.3, 0.3)):
        yield Case(
            f"parts of brains at {part}", *(of(oasis(n), lambda v, p=part: crop(v, p)) for n in ("1000", "1001")), NONE
        )

    for axis, name in (((1, 0, 0), "upside-down"), ((0, 1, 0), "about the long axis"), ((0, 0, 1), "front to back")):
        way = lambda v, axis=axis: turned(v, axis)  # noqa: E731
        yield Case(f"OASIS {name}, both", of(oasis("1000"), way), of(oasis("1001"), way), NONE)
    yield Case("adults, the moving upside-down", adult(57), of(adult(58), lambda v: turned(v, (1, 0, 0))), NONE)

    yield Case("brains like CT", of(oasis("1000"), like_ct), of(oasis("1001"), like_ct), NONE)
    yield Case("brain, brain like CT", oasis("1000"), of(oasis("1001"), like_ct), NONE)
    yield Case("brains in slices of 6 mm", of(oasis("1000"), _thick), of(oasis("1001"), _thick), NONE)
    yield Case("halves of brains", of(oasis("1000"), half), of(oasis("1001"), half), NONE)
    yield Case("brains, a tenth as large", *(of(oasis(n), lambda v: scaled(v, 0.1)) for n in ("1000", "1001")), NONE)
    yield from _made()
    slices = sorted((data / "oasis-2d").glob("*.nrrd"))
    for i, j in ((0, 1), (30, 60)):
        one, two = ((lambda k=k: read_volume(slices[k])) for k in (i, j))
        yield Case(f"2-D slices {i}, {j}", one, two, NONE)


def _tilted(volume: Volume) -> Volume:
    return moved(turned(volume, (0.3, 1, 0.5), 20.0), (10, -10, 10))


def _thick(volume: Volume) -> Volume:
    return thick(volume, 6)


def _made() -> Iterator[Case]:
    """Made bodies, none of which any model was trained on."""

    def both(name: str, make: Callable[[], object]) -> Case:
        made: list[object] = []

        def side(which: str) -> Volume:
            if not made:
                made.append(make())
            return getattr(made[0], which)

        return Case(name, lambda: side("fixed"), lambda: side("moving"), NONE)

    for kind, modality in (
        *(("heart", "CT"), ("heart", "MR"), ("abdomen", "CT"), ("abdomen", "MR"), ("lungs", "CT")),
        *(("fetal-brain", "MR"), ("uterus", "MR"), ("mouse", "MR")),
    ):
        yield both(f"made {kind}, {modality}", lambda k=kind, m=modality: made_pair(k, m, 0))
    for kind in ("infant's-head", "thick-slices"):
        yield both(f"made {kind}", lambda k=kind: made_heads(k, 0))
    # Made, but like brains: the true error of 3.0 mm becomes 1.2 (brain) and 1.1 mm (brain-t1).
    for contrast, right in (("same", SPECIAL), ("different", ANY)):
        yield replace(
            both(f"phantom heads, {contrast} contrast", lambda c=contrast: make_pair(1, contrast=c)), right=right
        )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--only", default="", help="cases whose names hold this")
    parser.add_argument("--reasons", action="store_true", help="why each model fits or does not")
    options = parser.parse_args()
    wrong = count = 0
    for case in cases(options.data):
        if options.only not in case.name:
            continue
        images = case.fixed(), case.moving()
        answers, took = [], []
        for accepted in (True, False):
            began = time.process_time()
            found = candidates([Look.at(each) for each in images], accepted)
            took.append(time.process_time() - began)
            answers.append(next((each.found.name for each in found if each.fits), ""))
            if options.reasons and accepted:
                for each in found:
                    for misfit in each.misfits:
                        print(f"    {each.found.name}: {misfit_sentence(misfit)}")
        right = tuple(answers) == case.right
        wrong, count = wrong + (not right), count + 1
        told = " / ".join(each or "none" for each in answers)
        expected = "" if right else f"   WRONG: {' / '.join(each or 'none' for each in case.right)}"
        print(f"{case.name:48} {told:26} {max(took):5.2f} s of a processor{expected}", flush=True)
    print(f"{count - wrong} of {count} right")
    return 1 if wrong else 0


if __name__ == "__main__":
    raise SystemExit(main())
