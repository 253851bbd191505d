# SPDX-License-Identifier: Apache-2.0
"""Training the feature net on packs: the update, which CUDA captures as one graph, the course of it, and checkpoints.

Needs torch and numpy alone. What is drawn depends on the seed and the number of the update, so that a training that
goes on from a checkpoint takes the course that it would have taken; where its end is given in minutes the learning rate
follows the clock.
"""

from __future__ import annotations

import dataclasses
import json
import math
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..geodesics.jacobian import smallest_determinant
from ..geodesics.similarities import LocalCorrelation
from ..learning.feature_net import Design, Domain, FeatureNet
from ..support.errors import InputError
from ..support.tensors import read_tensors, write_tensors
from .drawing import Drawing
from .examples import Maker, window
from .feature_loss import FeatureLoss
from .optimizer import FlatAdam

_WARM_UP = 100
_LEAST_RATE = 0.01  # of the learning rate, at the end
_LOOK_EVERY = 25  # updates between looks at what the device has reached
_SAVE_EVERY = 45.0  # seconds between checkpoints
_EAGER = 3  # updates before the capture: libraries choose their kernels in them


@dataclass(frozen=True)
class Course:
    """How long and how fast: ``minutes`` or ``updates`` end it; seed of all that is drawn."""

    minutes: float = 0.0
    updates: int = 0
    learning_rate: float = 1e-3
    seed: int = 0

    def __post_init__(self) -> None:
        if not (self.minutes > 0 or self.updates > 0):
            raise InputError("A training needs an end: give minutes or updates.")


class FeatureTraining:
    """A network, its pairs and where its training stands.

    Args:
        design: of the network.
        drawing: what pairs are made of.
        course: how long.
        device: where.
        capture: whether updates are captured as a CUDA graph (on CUDA only).
        mixed_precision: convolutions in bfloat16 (on CUDA only).
    """

    def __init__(
        self,
        design: Design,
        drawing: Drawing,
        course: Course,
        device: str = "cpu",
        capture: bool = True,
        mixed_precision: bool = True,
    ):
        torch.manual_seed(course.seed)
        self.design, self.drawing, self.course = design, drawing, course
        self.device = torch.device(device)
        self.network = FeatureNet(design).to(self.device)
        self.network.mixed_precision = mixed_precision
        self.optimizer = FlatAdam(self.network)
        self.domain = Domain(design, drawing.shape, device=self.device, window=window)
        self.maker = Maker(drawing, self.device)
        self.loss = FeatureLoss(self.network, self.domain, self.device)
        self.iteration, self.history = 0, []
        self._spent, self._started = 0.0, time.monotonic()
        self._parts = torch.zeros((len(design.heads), 3), device=self.device)
        self._inputs: dict[str, Tensor] = {}
        self._graph = None
        self._capture = capture and self.device.type == "cuda"
        # A stream of its own: what libraries prepare for a stream is ready when its work is captured.
        self._stream = torch.cuda.Stream(self.device) if self.device.type == "cuda" else None

    # -------------------------------------------------------------------------------------------------------- updates

    def seconds(self) -> float:
        """Spent on the training, interruptions not counted."""
        return self._spent + time.monotonic() - self._started

    def progress(self) -> float:
        """How much of the training is done, 0..1."""
        course = self.course
        done = self.iteration / course.updates if course.updates else 0.0
        if course.minutes:
            done = max(done, self.seconds() / (60 * course.minutes))
        return min(done, 1.0)

    def update(self) -> None:
        """One step; on CUDA it is only begun."""
        draw = self.drawing.draw((self.course.seed, self.iteration))
        self._place(draw)
        rate = max(_LEAST_RATE, 0.5 * (1 + math.cos(math.pi * self.progress())))
        rate *= self.course.learning_rate * min(1.0, (self.iteration + 1) / _WARM_UP)
        self.optimizer.rate.fill_(rate)
        torch.manual_seed((self.course.seed << 32) + self.iteration)
        if self._graph is not None:
            self._graph.replay()
        elif self._capture and self.iteration >= _EAGER:
            self._captured()
            torch.manual_seed((self.course.seed << 32) + self.iteration)
            self._graph.replay()
        elif self._stream is not None:
            self._stream.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(self._stream):
                self._work()
            torch.cuda.current_stream().wait_stream(self._stream)
        else:
            self._work()
        self.iteration += 1
        if self.iteration % _LOOK_EVERY == 0:
            self._look()

    def _place(self, draw: Mapping[str, np.ndarray]) -> None:
        """The draw where the graph expects it."""
        if self.device.type != "cuda":
            self._inputs = self.maker.tensors(draw)
            return
        if not self._inputs:
            self._inputs = self.maker.tensors(draw)
            return
        for key, value in draw.items():
            self._inputs[key].copy_(torch.from_numpy(value).pin_memory(), non_blocking=True)

    def _work(self) -> None:
        images = self.maker(self._inputs)
        self.optimizer.clear()
        loss, parts = self.loss(images)
        loss.backward()
        self.optimizer.step()
        self._parts += parts

    def _captured(self) -> None:
        torch.cuda.synchronize()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, stream=self._stream):
            self._work()
        self._graph = graph
        torch.cuda.synchronize()

    def _look(self) -> None:
        self.optimizer.look()
        parts = (self._parts / _LOOK_EVERY).cpu().numpy()
        self._parts.zero_()
        self.history.append(
            {
                "update": self.iteration,
                "seconds": round(self.seconds(), 1),
                "norm": float(self.optimizer.norm),
                "skipped": int(self.optimizer.skipped),
                "parts": [[round(float(x), 5) for x in row] for row in parts],
            }
        )

    # ----------------------------------------------------------------------------------------------------- validation

    @torch.no_grad()
    def validate(self, pairs: Sequence[tuple[str, int, int]], validator: Validator) -> dict[str, float]:
        """Means of the averaged weights over pairs of named packs."""
        means = validator(self.optimizer.average, pairs)
        self.history.append({"update": self.iteration, "seconds": round(self.seconds(), 1), **means})
        return means

    # ---------------------------------------------------------------------------------------------------- checkpoints

    def identity(self) -> dict[str, Any]:
        """What a checkpoint must agree with."""
        return {
            "design": self.design.to_dict(),
            "packs": [[pack.name, list(pack.names)] for pack in self.drawing.packs],
            "shares": self.drawing.shares.tolist(),
            "pairs": self.drawing.pairs,
            "variety": dataclasses.asdict(self.drawing.variety),
            "learning_rate": self.course.learning_rate,
            "seed": self.course.seed,
        }

    def save(self, path: Path) -> None:
        """Writes a checkpoint, whole or not at all."""
        state = {k: np.atleast_1d(v.detach().cpu().numpy()) for k, v in self.optimizer.state().items()}
        state["parts"] = self._parts.cpu().numpy()
        about = {
            "identity": json.dumps(self.identity()),
            "iteration": str(self.iteration),
            "seconds": repr(self.seconds()),
            "history": json.dumps(self.history),
        }
        new = path.with_name(path.name + ".new")
        write_tensors(new, state, about)
        os.replace(new, path)

    def resume(self, path: Path) -> None:
        """Goes on from a checkpoint.

        Raises:
            InputError: it is damaged, or of other settings.
        """
        arrays, about = read_tensors(path)
        mine = json.loads(json.dumps(self.identity()))
        theirs = json.loads(about.get("identity", "{}"))
        different = [key for key in mine if theirs.get(key) != mine[key]]
        if different:
            raise InputError(
                f"{path}: is a checkpoint of other settings ({', '.join(different)}). Give the same ones to go on from "
                "it, or another output folder to begin anew."
            )
        self._restore(path, arrays)
        self._parts.copy_(torch.from_numpy(arrays["parts"]))
        self.iteration, self.history = int(about["iteration"]), json.loads(about["history"])
        self._spent, self._started = float(about["seconds"]), time.monotonic()

    def begin_with(self, path: Path) -> None:
        """Starts from the averaged weights of another training's checkpoint, or from a model's weights."""
        arrays, _ = read_tensors(path)
        weights = torch.from_numpy(arrays.get("average", arrays.get("weights")).astype(np.float32))
        if weights.shape != self.optimizer.weights.shape:
            raise InputError(f"{path}: holds weights of another network. Give the same size and design.")
        self.optimizer.weights.copy_(weights)
        self.optimizer.average.copy_(weights)

    def _restore(self, path: Path, arrays: Mapping[str, np.ndarray]) -> None:
        state = {}
        for name, value in self.optimizer.state().items():
            if name not in arrays:
                raise InputError(f"{path}: is no checkpoint of a training, {name} is missing.")
            state[name] = (
                torch.from_numpy(arrays[name]).reshape(value.shape)
                if arrays[name].size == value.numel()
                else arrays[name]
            )
        try:
            self.optimizer.restore(state)
        except ValueError as error:
            raise InputError(f"{path}: is a checkpoint of another network ({error}). Begin anew.") from error


class Validator:
    """Judges weights on pairs as they are: Dice of labels by the nearest voxel, dissimilarity, smallest determinant."""

    def __init__(self, training: FeatureTraining, drawing: Drawing | None = None):
        """``drawing``: of the packs that pairs are named of; the training's own by default."""
        self.training = training
        self.drawing, self.maker = training.drawing, training.maker
        if drawing is not None:
            self.drawing, self.maker = drawing, Maker(drawing, training.device)
        self.network = FeatureNet(training.design).to(training.device).eval()
        self.network.mixed_precision = training.network.mixed_precision
        self.optimizer = FlatAdam(self.network)  # for its flat view of the weights

    @torch.no_grad()
    def __call__(self, weights: Tensor, pairs: Sequence[tuple[str, int, int]]) -> dict[str, float]:
        self.optimizer.weights.copy_(weights)
        rows: dict[str, list[list[float]]] = {}
        for name, fixed, moving in pairs:
            rows.setdefault(name, []).append(self._judged(name, fixed, moving))
        found = {}
        for name, values in rows.items():
            mean = np.mean(values, 0)
            keys = ("dissimilarity_before", "dissimilarity", "dice_before", "dice", "smallest_determinant")
            found |= {f"{name} {key}": round(float(x), 4) for key, x in zip(keys, mean) if np.isfinite(x)}
            found[f"{name} smallest_determinant"] = round(float(np.min(values, 0)[-1]), 4)
        return found

    def _judged(self, name: str, fixed: int, moving: int) -> list[float]:
        domain = self.training.domain
        torch.manual_seed(fixed * 1000 + moving)
        images = self.maker(self.maker.tensors(self.drawing.plain(name, fixed, moving, (fixed, moving))))
        _, forth, _, _ = self.network.answer(images.seen[:1], images.seen[1:], domain)
        pool = torch.nn.functional.avg_pool3d
        mask = (pool(images.clean[:1, None], 2)[:, 0] > 0.02).float()
        term = LocalCorrelation(pool(images.clean[:1, None], 2)[:, 0], mask, (2, 2, 2))
        warped = domain.sample(images.clean[1:, None], forth)
        before, after = (float(term(pool(x, 2)[:, 0])) for x in (images.clean[1:, None], warped))
        dice = [math.nan, math.nan]
        if bool((images.weights > 0).any()):
            there = domain.sample(images.labels[1:, None], forth, mode="nearest")[0, 0]
            dice = [_dice(images.labels[0], x) for x in (images.labels[1], there)]
        return [before, after, *dice, smallest_determinant(forth[0], domain.cells)]


def _dice(one: Tensor, two: Tensor) -> float:
    """Mean over the structures that both have."""
    from .drawing import FIRST_OUTSIDE

    one, two = one.long(), two.long()
    a, b, both = (torch.bincount(x.flatten(), minlength=256).double() for x in (one, two, one[one == two]))
    used = (a > 0) & (b > 0)
    used[0], used[FIRST_OUTSIDE:] = False, False
    return float((2 * both[used] / (a + b)[used]).mean())


def run(
    training: FeatureTraining,
    pairs: Sequence[tuple[str, int, int]],
    checkpoint: Path,
    *,
    validator: Validator | None = None,
    saved_too: Callable[[], None] = lambda: None,
    validate_every: float = 60.0,
    stop_at: float = math.inf,
    say: Callable[[str], None] = print,
) -> None:
    """Trains to the end, or to ``stop_at`` (of time.monotonic), and leaves a checkpoint either way; ``saved_too`` is
    called after each of them."""
    validator = validator or Validator(training)
    validated, saved = training.seconds() - validate_every + min(20.0, validate_every), training.seconds()
    while training.progress() < 1 and time.monotonic() < stop_at:
        training.update()
        if training.iteration % (4 * _LOOK_EVERY) == 0:
            say(line(training.history[-1]))
        if training.seconds() - validated > validate_every:
            validated = training.seconds()
            say(line(training.validate(pairs, validator) | {"update": training.iteration}))
        if training.seconds() - saved > _SAVE_EVERY:
            saved = training.seconds()
            training.save(checkpoint)
            saved_too()
    say(line(training.validate(pairs, validator) | {"update": training.iteration}))
    training.save(checkpoint)
    saved_too()


def line(record: Mapping[str, Any]) -> str:
    """A record of the history in a line."""
    record = dict(record)
    parts = record.pop("parts", None)
    texts = [f"{key} {value:.4g}" if isinstance(value, float) else f"{key} {value}" for key, value in record.items()]
    if parts is not None:
        texts += [f"head {k}: " + " ".join(f"{x:.3f}" for x in row) for k, row in enumerate(parts)]
    return ", ".join(texts)


def model_arrays(training: FeatureTraining) -> dict[str, np.ndarray]:
    """The averaged weights by the network's names, float32."""
    network = FeatureNet(training.design)
    flat = FlatAdam(network)
    flat.weights.copy_(training.optimizer.average.cpu())
    return {name: value.detach().numpy().copy() for name, value in network.state_dict().items()}
