# SPDX-License-Identifier: Apache-2.0
"""Training a method on packs: the update, which CUDA captures as one graph, the course of it, and checkpoints.

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
from torch import Tensor, nn

from ..support.errors import InputError
from ..support.tensors import read_tensors, write_tensors
from ..support.torch_device import is_memory_gone
from .drawing import Drawing
from .examples import Maker
from .learned import Method
from .optimizer import FlatAdam
from .validation import Validator

_WARM_UP = 100
_LEAST_RATE = 0.01  # of the learning rate, at the end
_LOOK_EVERY = 25  # updates between looks at what the device has reached
_SAVE_EVERY = 45.0  # seconds between checkpoints
_CONSTANT = "constant "  # before the names, in checkpoints
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


class PackTraining:
    """A network, its pairs and where its training stands.

    Args:
        method: what is trained.
        drawing: what pairs are made of.
        course: how long.
        device: where.
        capture: whether updates are captured as a CUDA graph (on CUDA only).
        tell: called with lines of text on what could not be as it was asked.

    Raises:
        InputError: the packs lack what the method needs.
    """

    def __init__(
        self,
        method: Method,
        drawing: Drawing,
        course: Course,
        device: str = "cpu",
        capture: bool = True,
        tell: Callable[[str], None] = lambda text: None,
    ):
        method.check(drawing.packs)
        torch.manual_seed(course.seed)
        self.method, self.drawing, self.course, self.tell = method, drawing, course, tell
        self.device = torch.device(device)
        self.learner = method.learner(drawing.shape, self.device)
        self.optimizer = FlatAdam(self.learner.network)
        self.maker = Maker(drawing, self.device)
        self.iteration, self.history = 0, []
        self._asked = drawing.pairs
        self._spent, self._started = 0.0, time.monotonic()
        self._parts: Tensor | None = None
        self._inputs: dict[str, Tensor] = {}
        self._graph, self._launched = None, 0
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
        """One step; on CUDA it is only begun. Where the memory does not hold the pairs of a step, from then on half of
        them are taken at once.

        Raises:
            RuntimeError: it does not hold a single pair.
        """
        while True:
            try:
                self._update()
                break
            except (RuntimeError, MemoryError) as error:
                if not is_memory_gone(error):
                    raise
                if self.drawing.pairs < 2:
                    shape = " x ".join(map(str, self.drawing.shape))
                    raise RuntimeError(
                        f"Out of memory: {self.device} does not hold one pair of {shape} voxels with this network. "
                        "Take the size small, packs of larger voxels, or another device."
                    ) from error
            self._halve()
        self.iteration += 1
        if self.iteration % _LOOK_EVERY == 0:
            self._look()

    def _halve(self) -> None:
        self.drawing.pairs //= 2
        self._graph, self._inputs = None, {}
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
        self.tell(f"The memory of {self.device} does not hold more: {self.drawing.pairs} pairs at once from now on.")

    def _update(self) -> None:
        self._place(self.drawing.draw((self.course.seed, self.iteration)))
        rate = max(_LEAST_RATE, 0.5 * (1 + math.cos(math.pi * self.progress())))
        rate *= self.course.learning_rate * min(1.0, (self.iteration + 1) / _WARM_UP)
        self.optimizer.rate.fill_(rate)
        self._seed()
        if self._graph is None and self._capture and self._launched >= _EAGER:
            self._captured()
            self._seed()
        if self._graph is not None:
            self._graph.replay()
        elif self._stream is not None:
            self._stream.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(self._stream):
                self._work()
            torch.cuda.current_stream().wait_stream(self._stream)
        else:
            self._work()
        self._launched += 1

    def _seed(self) -> None:
        torch.manual_seed((self.course.seed << 32) + self.iteration)

    def _place(self, draw: Mapping[str, np.ndarray]) -> None:
        """The draw where the graph expects it."""
        if self.device.type != "cuda" or not self._inputs:
            self._inputs = self.maker.tensors(draw)
            return
        for key, value in draw.items():
            self._inputs[key].copy_(torch.from_numpy(value).pin_memory(), non_blocking=True)

    def _work(self) -> None:
        images = self.maker(self._inputs)
        self.optimizer.clear()
        loss, parts = self.learner.loss(images)
        loss.backward()
        self.optimizer.step()
        if self._parts is None:
            self._parts = torch.zeros_like(parts)
        self._parts += parts

    def _captured(self) -> None:
        """The update as a graph, or, where the driver or a library cannot, launched one by one from now on."""
        torch.cuda.synchronize()
        graph = torch.cuda.CUDAGraph()
        try:
            with torch.cuda.graph(graph, stream=self._stream):
                self._work()
        except RuntimeError as error:
            if is_memory_gone(error):
                raise
            self._capture = False
            self.tell(f"Updates cannot be captured as one graph here ({str(error).splitlines()[0]}): they take longer.")
            return
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

    @torch.no_grad()
    def validate(self, pairs: Sequence[tuple[str, int, int]], validator: Validator) -> dict[str, float]:
        """Means of the averaged weights over pairs of named packs."""
        means = validator(self.optimizer.average, pairs)
        self.history.append({"update": self.iteration, "seconds": round(self.seconds(), 1), **means})
        return means

    def weights(self) -> dict[str, np.ndarray]:
        """The averaged weights by the network's names, float32."""
        learner = self.method.learner(self.drawing.shape, "cpu")
        self.hand_constants(learner.network)
        FlatAdam(learner.network).weights.copy_(self.optimizer.average.cpu())
        return {name: value.detach().numpy().copy() for name, value in learner.network.state_dict().items()}

    def constants(self) -> dict[str, Tensor]:
        """What a network has besides its weights, such as statistics that came with a model, by its names."""
        network = self.learner.network
        trained = {name for name, _ in network.named_parameters()}
        return {name: value for name, value in network.state_dict().items() if name not in trained}

    def hand_constants(self, network: nn.Module) -> None:
        """Gives them to another network of this method."""
        network.load_state_dict(self.constants(), strict=False)

    # ---------------------------------------------------------------------------------------------------- checkpoints

    def identity(self) -> dict[str, Any]:
        """What a checkpoint must agree with."""
        return {
            "method": self.method.identity(),
            "packs": [[pack.name, list(pack.names)] for pack in self.drawing.packs],
            "shares": self.drawing.shares.tolist(),
            "pairs": self._asked,
            "variety": dataclasses.asdict(self.drawing.variety),
            "learning_rate": self.course.learning_rate,
            "seed": self.course.seed,
        }

    def save(self, path: Path) -> None:
        """Writes a checkpoint, whole or not at all."""
        state = {k: np.atleast_1d(v.detach().cpu().numpy()) for k, v in self.optimizer.state().items()}
        state |= {f"{_CONSTANT}{k}": v.cpu().numpy() for k, v in self.constants().items()}
        if self._parts is not None:
            state["parts"] = self._parts.cpu().numpy()
        about = {
            "identity": json.dumps(self.identity()),
            "iteration": str(self.iteration),
            "pairs": str(self.drawing.pairs),
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
        try:
            theirs = json.loads(about["identity"])
            iteration, pairs, seconds = int(about["iteration"]), int(about["pairs"]), float(about["seconds"])
            history = json.loads(about["history"])
        except (KeyError, ValueError) as error:
            raise InputError(f"{path}: is no checkpoint of a training on packs ({error}). Begin anew.") from error
        different = [key for key in mine if theirs.get(key) != mine[key]]
        if different:
            raise InputError(
                f"{path}: is a checkpoint of other settings ({', '.join(different)}). Give the same ones to go on from "
                "it, or another output folder to begin anew."
            )
        self._restore(path, arrays)
        self._parts = torch.from_numpy(arrays["parts"]).to(self.device) if "parts" in arrays else None
        self.iteration, self.history, self.drawing.pairs = iteration, history, pairs
        self._spent, self._started = seconds, time.monotonic()

    def begin_with(self, weights: Mapping[str, np.ndarray], where: str) -> None:
        """Starts from the weights of a model, by the network's names; InputError if it is another network's."""
        own = self.learner.network.state_dict()
        if {k: tuple(v.shape) for k, v in own.items()} != {k: v.shape for k, v in weights.items()}:
            raise InputError(f"{where}: holds weights of another network. Give a model of the same size.")
        with torch.no_grad():
            for name, value in own.items():
                value.copy_(torch.from_numpy(weights[name].astype(np.float32)))
        self.optimizer.average.copy_(self.optimizer.weights)

    def _restore(self, path: Path, arrays: Mapping[str, np.ndarray]) -> None:
        state = {}
        for name, value in self.optimizer.state().items():
            if name not in arrays:
                raise InputError(f"{path}: is no checkpoint of a training, {name} is missing. Begin anew.")
            state[name] = torch.from_numpy(arrays[name])
            if state[name].numel() == value.numel():
                state[name] = state[name].reshape(value.shape)
        constants = {
            k.removeprefix(_CONSTANT): torch.from_numpy(v) for k, v in arrays.items() if k.startswith(_CONSTANT)
        }
        try:
            self.optimizer.restore(state)
            self.learner.network.load_state_dict(constants, strict=False)
        except (ValueError, RuntimeError) as error:
            raise InputError(f"{path}: is a checkpoint of another network ({error}). Begin anew.") from error


def run(
    training: PackTraining,
    pairs: Sequence[tuple[str, int, int]],
    checkpoint: Path,
    *,
    saved_too: Callable[[], None] = lambda: None,
    validate_every: float = 60.0,
    say: Callable[[str], None] = print,
) -> None:
    """Trains to the end and leaves a checkpoint, also where memory does not suffice; ``saved_too`` is called after each
    of them."""

    def save() -> None:
        training.save(checkpoint)
        saved_too()

    validator = Validator(training) if pairs else None
    validated, saved = training.seconds() - validate_every + min(20.0, validate_every), training.seconds()
    while training.progress() < 1:
        try:
            training.update()
        except RuntimeError as error:
            if is_memory_gone(error):
                save()
                raise RuntimeError(f"{error} What was reached is in {checkpoint}.") from error
            raise
        if training.iteration % (4 * _LOOK_EVERY) == 0:
            say(line(training.history[-1], training.learner.parts))
        if validator is not None and training.seconds() - validated > validate_every:
            validated = training.seconds()
            say(line(training.validate(pairs, validator) | {"update": training.iteration}))
        if training.seconds() - saved > _SAVE_EVERY:
            saved = training.seconds()
            save()
    if validator is not None:
        say(line(training.validate(pairs, validator) | {"update": training.iteration}))
    save()


def line(record: Mapping[str, Any], parts: Sequence[str] = ()) -> str:
    """A record of the history in a line."""
    record = dict(record)
    rows = record.pop("parts", None)
    texts = [f"{key} {value:.4g}" if isinstance(value, float) else f"{key} {value}" for key, value in record.items()]
    for row in [] if rows is None else rows:
        texts.append(" ".join(f"{name} {x:.3f}" for name, x in zip(parts, row)))
    return ", ".join(texts)
