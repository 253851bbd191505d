# SPDX-License-Identifier: Apache-2.0
"""LDDMM's momenta of pairs of a pack, one file each, to learn from. Can be interrupted and resumed at any time.

Each pair lies on the pack's grid, fixed in its own pose and moving aligned by way of the packed affines; m₀ lives on
the same voxels.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from ..imaging.files import atomic
from ..methods.registry import Plan
from ..methods.stages import without_band
from ..problem.parameters import Parameters
from ..problem.problem import Problem, comparable, settings
from ..problem.subject import Subject
from ..support.errors import InputError
from ..support.tensors import read_tensors, write_tensors
from .drawing import Drawing, Variety, as_scanned, mirror
from .pack import Pack, grid_of, image_of
from .teaching import keep_manifest, read_manifest

_MOMENTUM = "momentum"


@dataclass(frozen=True, eq=False)
class Momenta:
    """Momenta of pairs of a pack.

    Attributes:
        pairs: fixed and moving subject of each, as the pack counts them.
        values: float16 (pairs, d, *shape), in the metric's units.
        parameters: of LDDMM.
    """

    pairs: tuple[tuple[int, int], ...]
    values: np.ndarray
    parameters: Parameters

    @property
    def scale(self) -> float:
        """Their spread."""
        return float(np.sqrt(np.mean([np.square(m, dtype=np.float32).mean() for m in self.values])))


def teach_momenta(
    pack: Pack,
    out: Path,
    parameters: Parameters,
    count: int,
    *,
    seed: int = 0,
    device: str = "cpu",
    tell: Callable[[str], None] = lambda text: None,
) -> None:
    """Finds momenta of pairs of the subjects that may be trained on, by LDDMM.

    Args:
        pack: with images.
        out: folder of the momenta; what is whole in it stays and is not computed again.
        parameters: of FLASH, of which LDDMM's follow.
        count: pairs.
        seed: decides which.
        device: where.
        tell: called with a line of text for each pair.

    Raises:
        InputError: the pack has no images, or the folder holds something else.
    """
    if pack.images is None:
        raise InputError(f"{pack.name}: holds label maps alone; momenta are found of images. Take a pack of images.")
    parameters = without_band(replace(parameters, method="lddmm"))
    out = Path(out)
    keep_manifest(out, pack.name, _hashes(pack), parameters)
    trained, rng = pack.trained, np.random.default_rng(seed)
    every = [(a, b) for a in trained for b in trained if a != b]
    chosen = [every[i] for i in rng.permutation(len(every))[:count]]
    for number, (a, b) in enumerate(chosen, 1):
        file, what = _file(out, pack, a, b), f"{number} of {len(chosen)}: {pack.names[b]} onto {pack.names[a]}"
        if _whole(file):
            tell(f"{what}: was there")
            continue
        started = time.perf_counter()
        momentum, before, after = found_momentum(pair_problem(pack, a, b, parameters), parameters, device)
        with atomic(file) as temporary:
            write_tensors(temporary, {_MOMENTUM: momentum.astype(np.float16)}, {})
        tell(f"{what}: energy {before:.4g} -> {after:.4g}, {time.perf_counter() - started:.1f} s")


def pair_problem(pack: Pack, fixed: int, moving: int, parameters: Parameters) -> Problem:
    """Two subjects on the pack's grid, aligned by way of its affines."""
    grid = grid_of(pack)
    sides = [Subject(image_of(pack, i)).checked() for i in (fixed, moving)]
    way = pack.affines[moving] @ np.linalg.inv(pack.affines[fixed])
    plan = Plan(parameters, unit_mm=pack.spacing_mm)
    return plan.problem(*comparable(*sides, parameters), grid.affine @ way @ grid.inverse_affine, grid=grid)


def found_momentum(problem: Problem, parameters: Parameters, device: str = "cpu") -> tuple[np.ndarray, float, float]:
    """m₀ (d, *shape) of a problem by LDDMM, and the energies at the first step and at the last."""
    import torch

    from ..geodesics.band import Lattice
    from ..geodesics.full_space import FullShooting, continued, minimize

    levels, energies = problem.levels(parameters), []
    found = minimize(
        problem.pair(device),
        levels,
        settings(parameters),
        problem.window(device),
        lambda number, state, objective: energies.append(state.evaluation.energy),
    )
    cells = Lattice.cells(problem.grid.shape, problem.lengths)
    shooting = FullShooting(cells, levels[-1].metric, torch.float32, device)
    return shooting.momentum(continued(found.p, cells.shape)).cpu().numpy(), energies[0], energies[-1]


def read_momenta(folder: Path, pack: Pack) -> Momenta:
    """What was found of a pack.

    Raises:
        InputError: there is nothing, it is damaged, or of other images.
    """
    folder = Path(folder)
    manifest = read_manifest(folder)
    mine, theirs = _hashes(pack), manifest["images"]
    different = [name for name in theirs if mine.get(name) != theirs[name]]
    if different:
        raise InputError(
            f"{folder}: its momenta belong to another image {different[0]!r} than {pack.name} has. Give the pack that "
            'they were found of, or run "deepflash teach" again.'
        )
    pairs, values = [], []
    for a in pack.trained:
        for b in pack.trained:
            file = _file(folder, pack, a, b)
            if file.exists():
                arrays, _ = read_tensors(file)
                found = arrays.get(_MOMENTUM)
                if found is None or found.shape != (len(pack.shape), *pack.shape) or not np.isfinite(found).all():
                    raise InputError(f'{file}: holds no momentum of this pack. Delete it; "deepflash teach" goes on.')
                pairs.append((a, b))
                values.append(found)
    if not pairs:
        raise InputError(f'{folder}: holds no momenta of {pack.name}. Run "deepflash teach" first.')
    return Momenta(tuple(pairs), np.stack(values), manifest["parameters"])


class TaughtDrawing(Drawing):
    """Draws pairs whose momenta are known, as they are or turned round along any of their axes: LDDMM knows no sides,
    and patches are too small to.

    Args:
        momenta: of the one pack that is drawn from.

    Raises:
        InputError: it is not one pack.
    """

    def __init__(
        self, packs: Sequence[Pack], mix: Mapping[str, float], variety: Variety, pairs: int, momenta: Momenta
    ) -> None:
        super().__init__(packs, mix, variety, pairs)
        if len(self.packs) != 1:
            raise InputError("Momenta belong to one pack: train on that alone.")
        self.taught = momenta
        lying = {"deformation": 0, "turn": 0, "scale": 0, "shift": 0, "pose_turn": 0, "pose_shift": 0}
        self._still = replace(variety, **lying, degraded=0, cropped=0)

    def momenta(self) -> np.ndarray:
        return self.taught.values

    def _pair(self, rng: np.random.Generator) -> dict[str, np.ndarray]:
        k = int(rng.integers(len(self.taught.pairs)))
        found = self._placed(rng, 0, self.taught.pairs[k], False, self._still)
        found |= self._looks(rng, self.packs[0], False, False, False, self._still)
        axes = rng.random((1, len(self.shape))) < 0.5
        found["matrices"] = (found["matrices"] @ mirror(self.shape, axes[0])).astype(np.float32)
        return as_scanned(found) | {"taught": np.array([k], np.int64), "mirrored": axes}


def _file(folder: Path, pack: Pack, fixed: int, moving: int) -> Path:
    return folder / f"{pack.names[fixed]}__{pack.names[moving]}.safetensors"


def _whole(file: Path) -> bool:
    try:
        read_tensors(file)
    except InputError:
        return False
    return True


def _hashes(pack: Pack) -> dict[str, str]:
    """SHA-256 of each subject that may be trained on: its voxels and where they lie."""
    found = {}
    for i in pack.trained:
        data = pack.images[i].tobytes() + np.ascontiguousarray(pack.affines[i], np.float64).tobytes()
        found[pack.names[i]] = hashlib.sha256(data).hexdigest()
    return found
