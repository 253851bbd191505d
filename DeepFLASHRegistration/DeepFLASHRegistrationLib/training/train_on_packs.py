# SPDX-License-Identifier: Apache-2.0
"""Training a method on packs from the first update to the finished model: needs torch and numpy alone."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from ..imaging.files import atomic
from ..methods.trained_models import load_model
from ..support.errors import InputError
from ..support.torch_device import resolve_device
from .drawing import Drawing, Variety
from .learned_methods import NAMES, learned_method
from .momenta import TaughtDrawing, read_momenta
from .pack import Pack
from .pack_model import held_out, model_config, save_measured
from .pack_training import Course, PackTraining, run
from .train import About
from .validation import unseen_pairs

_SIZES, _SIMILARITIES = ("small", "large"), ("lncc", "mse")
CHECKPOINT, _CURVE, _CURVES = "training.checkpoint", "training.json", "learning_curves.svg"


@dataclass(frozen=True)
class PackOptions:
    """How a predictor is trained on packs.

    Attributes:
        method: what is trained: deepflash (in one pass), voxelmorph, quicksilver, icon, gradicon,
            constricon, carl or nephi-codes.
        size: of the network: small, or large, which wants a GPU.
        minutes: most minutes; the learning rate follows them. 0: no limit.
        updates: of the weights, after which it ends; 0: no limit.
        pairs_at_once: pairs per update, each seen in both directions; fewer where memory does not hold them.
        learning_rate: at the start; it falls along half a cosine.
        label_weight: of 1 - mean overlap (soft Dice) of labels, beside the dissimilarity; 0: images alone.
        dropout: of Quicksilver: share of the features that is left out; then its answers can be sampled.
        similarity: of VoxelMorph: lncc (local correlation) or mse (squared differences).
        mixed_precision: whether the network computes in bfloat16 on a GPU.
        initial_model: name or folder of a model of the same size to begin with instead of random weights.
        device: auto, cpu or cuda.
        validate_every: seconds between validations on the unseen subjects.
        seed: of everything random.
    """

    method: str = field(default=NAMES[0], metadata={"choices": NAMES})
    size: str = field(default="small", metadata={"choices": _SIZES})
    minutes: float = 8.0
    updates: int = 0
    pairs_at_once: int = 1
    learning_rate: float = 1e-3
    label_weight: float = 3.0
    similarity: str = field(default="lncc", metadata={"choices": _SIMILARITIES})
    dropout: float = 0.0
    mixed_precision: bool = True
    initial_model: str = ""
    device: str = "auto"
    validate_every: float = 60.0
    seed: int = 0
    variety: Variety = field(default_factory=Variety)
    about: About = field(default_factory=About)

    def __post_init__(self) -> None:
        for name, known in (("method", NAMES), ("size", _SIZES), ("similarity", _SIMILARITIES)):
            if getattr(self, name) not in known:
                raise ValueError(f"{name} must be one of {', '.join(known)}, not {getattr(self, name)!r}.")
        if self.pairs_at_once < 1 or not self.learning_rate > 0 or not self.validate_every > 0:
            raise ValueError("pairs_at_once, learning_rate and validate_every must be positive.")
        if self.label_weight < 0 or self.minutes < 0 or self.updates < 0:
            raise ValueError("label_weight, minutes and updates must not be negative.")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout must lie between 0 and 1, not {self.dropout}.")


def train_on_packs(
    packs: Sequence[Pack],
    mix: Mapping[str, float],
    out: Path,
    options: PackOptions,
    resume: Path | None = None,
    labels: Path | None = None,
    tell: Callable[[str], None] = print,
) -> Path:
    """Trains a predictor and writes it as a model.

    Args:
        packs: on one grid.
        mix: by name, how often pairs come from each pack; empty: equally often.
        out: folder of the model. A training that was interrupted there goes on.
        options: all that the result depends on besides.
        resume: checkpoint of the same settings to go on from; that in the folder by default.
        labels: folder of momenta of the first pack, for quicksilver.
        tell: called with lines of text.

    Raises:
        InputError: the packs, or an earlier training, do not fit; says what to do.
        RuntimeError: the device's memory does not hold a single pair; what was reached is kept.
    """
    momenta = None if labels is None else read_momenta(labels, packs[0])
    method = learned_method(options, momenta)
    drawn = packs, mix or {pack.name: 1.0 for pack in packs}, options.variety, options.pairs_at_once
    drawing = Drawing(*drawn) if momenta is None else TaughtDrawing(*drawn, momenta)
    course = Course(options.minutes, options.updates, options.learning_rate, options.seed)
    device = resolve_device(options.device)
    _choose_kernels(device)
    training = PackTraining(method, drawing, course, device, tell=tell)
    checkpoint = Path(out) / CHECKPOINT
    begin = resume or (checkpoint if checkpoint.exists() else None)
    if begin is not None:
        training.resume(begin)
        tell(f"Going on after {training.iteration} updates.")
    elif options.initial_model:
        model = load_model(options.initial_model)
        training.begin_with(model.arrays, str(model.folder))
    _make(out)
    pairs = unseen_pairs(drawing.packs)
    tell(f"{', '.join(f'{p.name}: {len(p.trained)} to train on, {len(p.unseen)} aside' for p in drawing.packs)}")

    def curves() -> None:
        with atomic(Path(out) / _CURVE) as temporary:
            temporary.write_text(json.dumps(training.history), encoding="utf-8")
        with atomic(Path(out) / _CURVES) as temporary:
            temporary.write_text(_drawn(training.history), encoding="utf-8")

    run(training, pairs, checkpoint, saved_too=curves, validate_every=options.validate_every, say=tell)
    means = training.history[-1] if pairs else {}
    took = f"{training.iteration} updates of the weights in {training.seconds():.0f} s on {_device_name(device)}."
    # Images of one kind, in their own contrast, are all that a model met which was shown no other.
    alike = not options.variety.contrasts and not options.variety.painted and all(p.images is not None for p in packs)
    figures = held_out(means, drawing.packs)
    config = model_config(method, drawing.packs, options.about, took, figures, "alike" if alike else "any")
    save_measured(Path(out), config, training.weights(), drawing.packs)
    tell(f"{took} The model is in {out}")
    return Path(out)


def read_mix(text: str) -> dict[str, float]:
    """Shares of packs from "name=share,name=share"; InputError if it is none."""
    mix = {}
    for part in filter(None, (x.strip() for x in text.split(","))):
        name, _, share = part.rpartition("=")
        try:
            value = float(share)
        except ValueError:
            value = math.nan
        if not name or not 0 <= value < math.inf:
            raise InputError(f"--mix {text}: give shares such as adults=0.5,heads=0.5.")
        mix[name] = value
    return mix


def _choose_kernels(device: str) -> None:
    """Lets cuDNN try which of its kernels is the fastest: shapes never change."""
    import torch

    if device.startswith("cuda"):
        torch.backends.cudnn.benchmark, torch.backends.cudnn.benchmark_limit = True, 5


def _make(out: Path) -> None:
    try:
        Path(out).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{out}: cannot be made ({error.strerror}). Choose another folder.") from error


def _device_name(device: str) -> str:
    import torch

    return f"one {torch.cuda.get_device_name(device)}" if device.startswith("cuda") else "processors"


def _drawn(history: Sequence[Mapping[str, object]]) -> str:
    """Learning curves of the last step's dissimilarity, in training and on unseen subjects."""
    from ..report.charts import Series, line_chart, standalone

    training = [float(row["parts"][-1][0]) if "parts" in row else math.nan for row in history]
    unseen = []
    for row in history:
        found = [float(v) for k, v in row.items() if k.endswith(" dissimilarity")]
        unseen.append(float(np.mean(found)) if found else math.nan)
    series = [Series("training", "s1", np.array(training)), Series("unseen subjects", "s2", np.array(unseen))]
    if not any(np.isfinite(s.values).any() for s in series):
        return "<svg xmlns='http://www.w3.org/2000/svg'/>"
    return standalone(line_chart(series, [0], "time", "dissimilarity"))
