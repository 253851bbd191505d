# SPDX-License-Identifier: Apache-2.0
"""Triangles and circles, as in the papers on ICON, GradICON and NePhi: python Utilities/synthetic_2d.py [-o FOLDER].

Images of 64 x 64 pixels show a triangle or a circle, hollow or filled, of random place, size and turn; both images of
a pair are hollow, or both are filled, and a triangle may meet a circle (after Greer et al., ICON, ICCV 2021, and Tian
et al., GradICON, CVPR 2023). Networks of both, of the same shape and from the same random weights, learn from pairs
that are drawn as they go, by their own losses and nothing else, each for some minutes. Then pairs that neither saw are
registered by register(): by both networks, by NePhi (Tian et al., ECCV 2024), which fits two fields of coordinates to
each pair, and by FLASH, whose map is one of voxels. None is given an alignment. FLASH compares differences, since local
correlations see no stroke that lies a window away; all others local correlations.

Every pair is registered in both directions. Printed, and written as synthetic-2d.json, are means over the pairs: Dice
of what the outlines enclose; pixels of the object that are folded (strictly: by any corner); the spread of log J; by
how many pixels points miss themselves by the map and then the map of the exchanged images; and the Frobenius norm of
the derivative of that, which GradICON makes small. synthetic-2d.png has a row for some of the pairs.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "DeepFLASHRegistration"))

import torch
import torch.nn.functional as F
from DeepFLASHRegistrationLib.imaging.grid import Grid
from DeepFLASHRegistrationLib.imaging.volume import Volume
from DeepFLASHRegistrationLib.learning.icon import SIZES, IconNet
from DeepFLASHRegistrationLib.learning.icon_loss import IconLoss
from DeepFLASHRegistrationLib.methods.trained_models import ModelConfig, save_model
from DeepFLASHRegistrationLib.problem.parameters import Parameters
from DeepFLASHRegistrationLib.problem.subject import Subject
from DeepFLASHRegistrationLib.registration.properties import inverse_errors, inverse_gradients
from DeepFLASHRegistrationLib.registration.register import register
from DeepFLASHRegistrationLib.registration.result import Result
from DeepFLASHRegistrationLib.report import pixels

PIXELS = 64
# Pixels of 1 mm, upright: the first axis of an array is y.
GRID = Grid((PIXELS, PIXELS), np.array([[0.0, 1, 0], [1, 0, 0], [0, 0, 1]]))
NETWORKS = ("icon", "gradicon")
FIRST_TEST_SEED = 1_000_000  # training pairs are drawn with 0, 1, 2 ...
BATCH = 8  # pairs
# Of the images; the fixed object and the margin around it hold the moving one.
RADIUS, OFF_CENTER, MARGIN = (9.0, 16.0), 4.0, 16.0
STROKE, SOFT = 2.0, 0.7  # half the width of hollow outlines, and of the edges, in pixels
SCALE, MESH, GAP = 3, 4.0, 6
FIGURES = ("Dice", "folded pixels", "spread of log J", "inverse error, px", "gradient of it", "seconds")


def distance(rng: np.random.Generator) -> np.ndarray:
    """Of pixels to the outline of a triangle or a circle, negative inside, (64, 64)."""
    center, radius = PIXELS / 2 + rng.uniform(-OFF_CENTER, OFF_CENTER, 2), rng.uniform(*RADIUS)
    y, x = np.indices((PIXELS, PIXELS)) - center[:, None, None] + 0.5
    if rng.random() < 0.5:
        return np.hypot(x, y) - 0.85 * radius
    turn = rng.uniform(0, 2 * math.pi)
    corners = [radius * np.array([math.sin(turn + a), math.cos(turn + a)]) for a in 2 * math.pi / 3 * np.arange(3)]
    nearest, inside = np.full(x.shape, np.inf), np.ones(x.shape, bool)
    for a, b in zip(corners, corners[1:] + corners[:1], strict=True):
        edge = b - a
        along = np.clip(((y - a[0]) * edge[0] + (x - a[1]) * edge[1]) / (edge @ edge), 0, 1)
        nearest = np.minimum(nearest, np.hypot(y - a[0] - along * edge[0], x - a[1] - along * edge[1]))
        inside &= (x - a[1]) * edge[0] - (y - a[0]) * edge[1] < 0
    return np.where(inside, -nearest, nearest)


def drawn(seed: int) -> tuple[Subject, Subject]:
    """A pair; labels are what the outlines enclose."""
    rng = np.random.default_rng(seed)
    hollow, found = rng.random() < 0.5, []
    for name in ("fixed", "moving"):
        far = distance(rng)
        depth = STROKE - np.abs(far) if hollow else -far
        image = 1 / (1 + np.exp(-depth / (SOFT / 2)))
        labels = Volume(GRID, (far < 0).astype(np.uint8), f"{name} labels")
        found.append(Subject(Volume(GRID, image.astype(np.float32), name), labels=labels))
    return found[0], found[1]


def trained(kind: str, minutes: float, folder: Path, design: Any = None) -> Path:
    """A network that learned for some minutes, as a model in a folder."""
    design = design or SIZES[kind]["small"]
    torch.manual_seed(0)
    network, loss = IconNet(2, design, GRID.shape, False), IconLoss(kind, GRID.shape, "cpu")
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-3)
    end, updates = time.monotonic() + 60 * minutes, 0
    while updates == 0 or time.monotonic() < end:
        pairs = [drawn(seed) for seed in range(BATCH * updates, BATCH * (updates + 1))]
        images = torch.from_numpy(np.stack([side.image.data for pair in pairs for side in pair]))
        terms = loss(network, images, images)
        optimizer.zero_grad()
        terms.total.backward()
        optimizer.step()
        if updates % 200 == 0:
            unlike, irregular = terms.dissimilarity.item(), terms.regularization.item()
            print(f"{kind}, update {updates}: dissimilarity {unlike:.3f}, regularization {irregular:.3f}", flush=True)
        updates += 1
    values = {**design.values(), "shape": list(GRID.shape), "refinement": {"resolutions": [1], "bands": [15]}}
    config = ModelConfig(
        name=f"{kind}-shapes",
        kind=kind,
        architecture=values,
        parameters=Parameters(spacing_mm=1.0, margin_mm=MARGIN, initial_alignment="none"),
        ndim=2,
        unit_mm=1.0,
        spacing_mm=1.0,
        extent_mm=(10.0, float(PIXELS)),
        energy=(0.5, 0.5),
        description="triangles and circles of 64 x 64 pixels",
        training_data=f"{BATCH * updates} pairs made by formulas",
        license="Apache-2.0",
    )
    weights = {name: value.detach().numpy() for name, value in network.state_dict().items()}
    return save_model(folder / f"{kind}-shapes", config, weights)


def entrants(models: dict[str, Path]) -> dict[str, Parameters]:
    """Settings by the method's title."""
    asked = {"initial_alignment": "none", "margin_mm": MARGIN, "spacing_mm": 1.0}
    networks = {"icon": "ICON", "gradicon": "GradICON"}
    return {
        **{networks[kind]: Parameters(method=kind, model=str(path), **asked) for kind, path in models.items()},
        "NePhi": Parameters(method="nephi", **asked),
        "FLASH": Parameters(similarity="ssd", **asked),
    }


def measured(forth: Result, back: Result, fixed: Subject) -> list[float]:
    """The FIGURES of a pair that was registered in both directions."""
    points = GRID.index_to_physical(np.argwhere(fixed.label_map.data > 0))
    maps = forth.deformation, back.deformation
    figures = forth.metrics
    return [
        figures["mean_dice_after"],
        figures["folds_strict"]["count"],
        figures["sd_log_determinant"],
        float(inverse_errors(*maps, points).mean()),
        float(inverse_gradients(*maps, points, 0.5).mean()),
        forth.timings["total"],
    ]


def picture(rows: list[tuple[Subject, Subject, list[Result]]]) -> bytes:
    """PNG: for each pair a row of fixed, moving, and of each method the warped image with the grid of the moving image,
    and log J (white 1, orange above, blue below, full color at 4 and 1/4, yellow where folded)."""
    lines = []
    for fixed, moving, results in rows:
        panels = [enlarged(side.image.data)[..., None].repeat(3, -1) for side in (fixed, moving)]
        for result in results:
            # LPS x, y of the displacement are the second and the first axis of the array.
            u = np.ascontiguousarray(np.asarray(result.displacement)[..., ::-1])
            grid = mesh(np.moveaxis(u, -1, 0))[..., None]
            gray = 0.85 * enlarged(result.warped.data)[..., None].repeat(3, -1)
            panels.append(gray * (1 - 0.8 * grid) + 0.8 * grid * np.float32((1.0, 0.75, 0.25)))
            log = enlarged(result.log_jacobian.data, "nearest")
            color = pixels.diverging(np.nan_to_num(log, nan=-9.0, neginf=-9.0) / math.log(4))
            color[~np.isfinite(log)] = pixels.FOLD_COLOR / 255
            panels.append(color)
        frame = ((GAP // 2, GAP // 2), (GAP // 2, GAP // 2), (0, 0))
        lines.append(np.concatenate([np.pad(pixels.to_bytes(p), frame, constant_values=255) for p in panels], 1))
    return pixels.png(np.concatenate(lines, 0))


def enlarged(image: np.ndarray, mode: str = "bicubic") -> np.ndarray:
    """(64, 64), or several (n, 64, 64), SCALE times as fine."""
    smooth = {} if mode == "nearest" else {"align_corners": False}
    found = F.interpolate(
        torch.from_numpy(image.reshape(1, -1, PIXELS, PIXELS)), scale_factor=SCALE, mode=mode, **smooth
    )
    return found[0].numpy().reshape(*image.shape[:-2], PIXELS * SCALE, PIXELS * SCALE)


def mesh(displacement: np.ndarray) -> np.ndarray:
    """How much of each enlarged pixel a grid line of the source covers, 0..1; displacement (2, 64, 64) in pixels."""
    place = (np.indices((PIXELS * SCALE, PIXELS * SCALE)) + 0.5) / SCALE - 0.5
    source, covered = enlarged(displacement) + place, np.zeros((PIXELS * SCALE, PIXELS * SCALE))
    for axis in range(2):
        off = np.abs((source[axis] / MESH + 0.5) % 1 - 0.5) * MESH
        slope = np.maximum(np.hypot(*np.gradient(source[axis])), 1e-3)  # per enlarged pixel
        covered = np.maximum(covered, np.clip(1 - off / slope, 0, 1))
    return covered.astype(np.float32)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument(
        "-o", "--output", type=Path, default=ROOT / "demo" / "synthetic-2d", help="folder of the results"
    )
    parser.add_argument("--minutes", type=float, default=5.0, help="of training, for each network")
    parser.add_argument("--pairs", type=int, default=8, help="to register, each in both directions")
    parser.add_argument("--rows", type=int, default=4, help="pairs in the picture")
    parser.add_argument("--threads", type=int, default=2, help="CPU threads")
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    options.output.mkdir(parents=True, exist_ok=True)
    models = {kind: trained(kind, options.minutes, options.output) for kind in NETWORKS}
    methods, rows = entrants(models), []
    figures: dict[str, list[list[float]]] = {name: [] for name in methods}
    before = []
    for seed in range(FIRST_TEST_SEED, FIRST_TEST_SEED + options.pairs):
        fixed, moving = drawn(seed)
        found = []
        for name, parameters in methods.items():
            ways = ((fixed, moving), (moving, fixed))
            forth, back = (register(*way, parameters, device="cpu", threads=options.threads) for way in ways)
            figures[name].append(measured(forth, back, fixed))
            found.append(forth)
        before.append(found[0].metrics["mean_dice_before"])
        rows.append((fixed, moving, found))
        print(f"pair {len(rows)} of {options.pairs}", flush=True)
    table = {name: dict(zip(FIGURES, map(float, np.mean(each, 0)), strict=True)) for name, each in figures.items()}
    print(f"Means over {options.pairs} pairs; Dice before: {np.mean(before):.3f}")
    print(f"{'':10}" + "".join(f"{name:>20}" for name in FIGURES))
    for name, means in table.items():
        print(f"{name:10}" + "".join(f"{value:20.3f}" for value in means.values()))
    told = {"pairs": options.pairs, "minutes": options.minutes, "Dice before": float(np.mean(before)), "methods": table}
    (options.output / "synthetic-2d.json").write_text(json.dumps(told, indent=1) + "\n", encoding="utf-8")
    path = options.output / "synthetic-2d.png"
    path.write_bytes(picture(rows[: options.rows]))
    print(f"picture: {path}")


if __name__ == "__main__":
    main()
