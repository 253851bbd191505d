# SPDX-License-Identifier: Apache-2.0
"""Training a model from a data set: recipe, checkpoints, validation, learning curves, the finished model.

Under torch's own launcher (torchrun --nproc-per-node N -m DeepFLASHRegistrationLib.cli train …) the processes share
each update; on a machine of several GPUs each takes one.
"""

from __future__ import annotations

import dataclasses
import json
import math
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist

from ..imaging.files import atomic
from ..imaging.intensities import foreground
from ..imaging.volume import Volume
from ..learning.unrolled import MULTIPLE, built
from ..methods.pose import MeanImage
from ..methods.prediction_on_domain import domain_values
from ..methods.trained_models import ModelConfig, check_name, load_model, save_model
from ..problem.parameters import Parameters
from ..problem.problem import scaled
from ..problem.subject import Subject
from ..support.errors import InputError
from ..support.tensors import read_tensors, write_tensors
from .dataset import Dataset, draw_pairs
from .mean_image import mean_image
from .pairs import AlignedSubjects, Variation
from .posed import POSED_RECIPES, Posed, PosedRecipe, read_posed
from .posed_training import PosedSubjects, PosedTrainer
from .recipes import RECIPES, Recipe
from .teaching import label_file, read_manifest
from .trainer import Schedule, Trainer

_STATE, _PROGRESS, _CURVES = "training.safetensors", "training.json", "learning_curves.svg"
_MARGIN = 4  # voxels kept around the foreground of an image
_EXPECTED_VALIDATION = 0.5  # part of the energy left where nothing was measured


@dataclass(frozen=True)
class About:
    """What a model's card says.

    Attributes:
        name: by which the model is chosen: letters, digits, - and _.
        description: in a line, what it is for.
        training_data: on what it was trained; described by default.
        license: of the weights.
        license_note: one sentence for users, such as "Not for commercial use.".
        attribution: whom to credit.
        limits: what the model cannot do.
    """

    name: str = "my-model"
    description: str = ""
    training_data: str = ""
    license: str = "not stated"
    license_note: str = ""
    attribution: str = ""
    limits: str = ""

    def __post_init__(self) -> None:
        try:
            check_name(self.name)
        except ValueError as error:  # now rather than after the training
            raise ValueError(f"--name: {error}.") from error


@dataclass(frozen=True)
class TrainingOptions:
    """How a predictor is trained.

    Attributes:
        recipe: what is trained.
        spacing_mm: voxel size of the registrations; 0 takes the recipe's.
        initial_model: name or folder of a model of the same widths to begin with instead of random weights.
        device: auto, cpu or cuda.
        validation_pairs: pairs of unseen subjects that decide which weights are kept.
        validate_every: iterations between validations, each of which is a checkpoint.
        patience: validations without a better one after which training ends.
    """

    recipe: str = field(default="brain", metadata={"choices": (*RECIPES, *POSED_RECIPES)})
    spacing_mm: float = 0.0
    initial_model: str = ""
    device: str = "auto"
    validation_pairs: int = 12
    validate_every: int = 200
    patience: int = 10
    schedule: Schedule = field(default_factory=Schedule)
    variation: Variation = field(default_factory=Variation)
    about: About = field(default_factory=About)

    def __post_init__(self) -> None:
        if self.recipe not in RECIPES and self.recipe not in POSED_RECIPES:
            raise ValueError(f"recipe must be one of {', '.join((*RECIPES, *POSED_RECIPES))}, not {self.recipe!r}.")
        for name in ("validation_pairs", "validate_every", "patience"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, not {getattr(self, name)}.")
        schedule = self.schedule
        if schedule.iterations < 1 or schedule.batch < 1 or not schedule.learning_rate > 0:
            raise ValueError("iterations, batch and learning_rate must be positive.")
        if self.recipe in RECIPES and len(schedule.joining) != len(RECIPES[self.recipe].stages):
            raise ValueError(f"joining needs {len(RECIPES[self.recipe].stages)} numbers, one per stage of the recipe.")


def train(
    training: Dataset,
    validation: Dataset,
    out: Path,
    options: TrainingOptions,
    labels: Path | None = None,
    tell: Callable[[str], None] = print,
) -> Path:
    """Trains a predictor and writes it as a model.

    Args:
        training, validation: images of different subjects; the second may be empty.
        out: folder of the model. A training that was interrupted there goes on.
        options: all that the result depends on besides the images.
        labels: velocities that `teaching.teach` found for pairs of the training images.
        tell: called with lines of text.

    Raises:
        InputError: the images, the velocities or an earlier training in the folder do not fit; says what to do.
    """
    if len(training) < 2:
        raise InputError(f"{training.path}: one image makes no pair. Give at least two.")
    device = _device(options.device)
    recipe, place = RECIPES.get(options.recipe), None
    if recipe is None:
        recipe, place = POSED_RECIPES[options.recipe], _posed(options, labels)
    alone = _join(device)
    try:
        leader = alone or dist.get_rank() == 0
        say = tell if leader else (lambda text: None)
        parameters = recipe.parameters
        if options.spacing_mm:
            parameters = dataclasses.replace(parameters, spacing_mm=options.spacing_mm)
        _check_memory(training, validation, say)
        subjects = _prepared(training, parameters, recipe, place, say)
        unseen = _prepared(validation, parameters, recipe, place, say) if len(validation) else None
        torch.manual_seed(options.schedule.seed)
        how = (options.schedule, options.variation, device, _teachers(training, labels))
        if place is None:
            trainer = Trainer(built(subjects.ndim, recipe.architecture), parameters, *how)
        else:
            trainer = PosedTrainer(recipe, place, *how)
        if options.initial_model:
            _begin_with(trainer.predictor, options.initial_model)
        run = _Run(Path(out), trainer, options, [s.name for s in training.subjects], leader)
        run.resume(say)
        _loop(run, subjects, unseen, validation, say)
        if leader:
            mean = place.mean if place else mean_image(subjects.images)
            config = _config(run, subjects, training, recipe, parameters, mean)
            weights = {name: value.numpy() for name, value in run.best_weights.items()}
            if place is not None:
                weights = {name: value.astype(np.float16) for name, value in weights.items()}
            save_model(out, config, weights, mean)
            run.clean()
            say(f"The model is in {out}")
    finally:
        if not alone:
            dist.destroy_process_group()
    return Path(out)


def _posed(options: TrainingOptions, labels: Path | None) -> Posed:
    """Where a dual net is to work: where FLASH found the velocities that teach it."""
    if labels is None:
        raise InputError(
            f'A dual net learns from velocities of FLASH. Find them by "deepflash teach --recipe {options.recipe}", '
            "and name their folder (--labels)."
        )
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise InputError("A dual net is trained by one process. Start it without torchrun.")
    return read_posed(labels)


def _loop(
    run: _Run,
    subjects: AlignedSubjects | PosedSubjects,
    unseen: AlignedSubjects | PosedSubjects | None,
    validation: Dataset,
    say: Callable,
) -> None:
    trainer, options = run.trainer, run.options
    pairs = []
    if unseen is not None:
        place = {subject.name: number for number, subject in enumerate(validation.subjects)}
        drawn = draw_pairs(validation, options.validation_pairs, options.schedule.seed)
        pairs = [(place[fixed.name], place[moving.name]) for fixed, moving in drawn]
    found: list[dict[str, float]] = []
    while not run.finished():
        found.append(trainer.step(subjects))
        ending = run.ending()
        if trainer.iteration % options.validate_every and not ending:
            continue
        keys = sorted({key for row in found for key in row})
        means = {key: float(np.mean([row[key] for row in found if key in row])) for key in keys}
        if pairs:
            means |= {f"validation {k}": v for k, v in trainer.validate(unseen, pairs).items()}
        found = []
        better = run.record(means)
        text = ", ".join(f"{key} {value:.4f}" for key, value in means.items())
        say(f"[{trainer.iteration}, {run.seconds() / 60:.1f} min] {text}{' (best)' if better else ''}")


class _Run:
    """What is on disk of a training, and the best weights so far."""

    def __init__(
        self, out: Path, trainer: Trainer | PosedTrainer, options: TrainingOptions, names: list[str], leader: bool
    ):
        self.out, self.trainer, self.options, self.leader = out, trainer, options, leader
        self.identity = {"options": dataclasses.asdict(options), "images": names}
        self.history: list[dict[str, float]] = []
        self.best = math.inf
        self.since_best = 0
        self.best_weights = _weights(trainer)

    def seconds(self) -> float:
        return self.trainer.seconds()

    def ending(self) -> bool:
        """Whether the schedule is at its end; the first process's clock decides."""
        done = torch.tensor(float(self.trainer.progress() >= 1))
        if self.trainer.processes > 1:
            dist.broadcast(done, 0)
        return bool(done)

    def finished(self) -> bool:
        return self.since_best >= self.options.patience or self.ending()

    def score(self, means: Mapping[str, float]) -> float:
        """Smaller is better; energy and Dice count alike. Without validation, later is better."""
        return means.get("validation energy", -math.inf) - means.get("validation dice", 0.0)

    def record(self, means: dict[str, float]) -> bool:
        """Keeps a validation, and the weights if they are the best; writes a checkpoint."""
        self.history.append({"iteration": self.trainer.iteration, "seconds": self.seconds(), **means})
        # Stages that have not joined yet change what is measured: until they have, later is better.
        joined = self.trainer.progress() >= max(self.options.schedule.joining)
        score = self.score(means)
        better = score < self.best or not joined
        if better:
            self.best, self.since_best, self.best_weights = score if joined else math.inf, 0, _weights(self.trainer)
        else:
            self.since_best += 1
        if self.leader:
            self._write()
        return better

    def _write(self) -> None:
        self.out.mkdir(parents=True, exist_ok=True)
        state = {f"best.{k}": v.numpy() for k, v in self.best_weights.items()}
        state |= {f"last.{k}": v.numpy() for k, v in _weights(self.trainer).items()}
        for name, moments in self.trainer.moments().items():
            state[f"optimizer.{name}"] = moments.cpu().numpy()
        progress = {
            "iteration": self.trainer.iteration,
            "seconds": self.seconds(),
            "best": self.best if math.isfinite(self.best) else None,
            "since_best": self.since_best,
            "history": self.history,
            **json.loads(json.dumps(self.identity)),
        }
        with atomic(self.out / _STATE) as temporary:
            write_tensors(temporary, state, {"iteration": str(self.trainer.iteration)})
        with atomic(self.out / _PROGRESS) as temporary:
            temporary.write_text(json.dumps(progress, indent=1), encoding="utf-8")
        with atomic(self.out / _CURVES) as temporary:
            temporary.write_text(_curves(self.history), encoding="utf-8")

    def resume(self, say: Callable[[str], None]) -> None:
        """Goes on where an interrupted training of the same kind stopped."""
        if not (self.out / _PROGRESS).exists():
            return
        try:
            progress = json.loads((self.out / _PROGRESS).read_text(encoding="utf-8"))
            state, metadata = read_tensors(self.out / _STATE)
            if metadata["iteration"] != str(progress["iteration"]):
                raise ValueError("its files are of different times")
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise InputError(
                f"{self.out}: the training in it cannot be read ({error}). Choose another folder."
            ) from error
        wanted = json.loads(json.dumps(self.identity))
        for what in ("options", "images"):
            if progress.get(what) != wanted[what]:
                raise InputError(
                    f"{self.out}: holds a training with other {what}. Use the same to go on, or another folder."
                )
        parts = {
            part: {k[len(part) + 1 :]: torch.from_numpy(v) for k, v in state.items() if k.startswith(f"{part}.")}
            for part in ("best", "last", "optimizer")
        }
        self.trainer.restore(parts["last"], parts["optimizer"], progress["iteration"], progress["seconds"])
        self.best_weights, self.history = parts["best"], progress["history"]
        self.best = math.inf if progress["best"] is None else progress["best"]
        self.since_best = progress["since_best"]
        say(f"Going on after iteration {self.trainer.iteration}.")

    def clean(self) -> None:
        """Removes the optimizer's state, of no use any more; curves and history stay."""
        (self.out / _STATE).unlink(missing_ok=True)


def _weights(trainer: Trainer | PosedTrainer) -> dict[str, torch.Tensor]:
    return {name: value.detach().cpu().clone() for name, value in trainer.predictor.state_dict().items()}


def _begin_with(predictor: torch.nn.Module, name: str) -> None:
    """Copies the weights of a model; of steps that it does not have, those of its last are as good as any."""
    model = load_model(name)
    weights = {}
    for key, value in predictor.state_dict().items():
        given = torch.from_numpy(model.arrays[key]) if key in model.arrays else torch.zeros(0)
        if key.endswith((".number", ".length")) and len(given):
            given = torch.cat([given, given[-1:].expand(max(0, len(value) - len(given)), *given.shape[1:])])[
                : len(value)
            ]
        if given.shape != value.shape:
            raise InputError(f"{model.folder}: its networks are not those of this recipe ({key}). Start without it.")
        weights[key] = given
    predictor.load_state_dict(weights)


def _device(name: str) -> str:
    from ..support.torch_device import resolve_device

    local = os.environ.get("LOCAL_RANK")
    found = resolve_device(name)
    return f"cuda:{local}" if found == "cuda" and local is not None else found


def _join(device: str) -> bool:
    """Joins the processes that torch's launcher started; True if there is but this one."""
    if int(os.environ.get("WORLD_SIZE", "1")) < 2:
        return True
    if not dist.is_initialized():
        dist.init_process_group("nccl" if device.startswith("cuda") else "gloo")
    return False


def _check_memory(training: Dataset, validation: Dataset, say: Callable[[str], None]) -> None:
    """An estimate before the work: float32 images and int32 labels stay in memory, cropped to what they show."""
    from ..imaging.io import read_grid
    from ..support.memory import free_bytes

    needed = sum(8 * read_grid(s.image).size for data in (training, validation) for s in data.subjects)
    free = free_bytes()
    say(f"At most {needed / 1e9:.1f} GB for the images, besides 1 to 3 GB for the work.")
    if free is not None and needed > free:
        raise InputError(
            f"The images would take up to {needed / 1e9:.1f} GB of memory, {free / 1e9:.1f} GB are free. Use fewer, or "
            "resample them to the spacing of the registrations first."
        )


def _prepared(
    dataset: Dataset,
    parameters: Parameters,
    recipe: Recipe | PosedRecipe,
    place: Posed | None,
    say: Callable[[str], None],
) -> AlignedSubjects | PosedSubjects:
    found = []
    for number, files in enumerate(dataset.subjects, 1):
        found.append(_cropped(scaled(files.read(), parameters), recipe.ignored_labels))
        if number % 20 == 0 or number == len(dataset):
            say(f"{number} of {len(dataset)} images read")
    if place is not None:
        return PosedSubjects(found, place, parameters, recipe.unit_mm)
    return AlignedSubjects(found, parameters, recipe.unit_mm, MULTIPLE)


def _cropped(subject: Subject, ignored: int) -> Subject:
    """Without what shows nothing, and without a mask, of which nothing is left to hide; labels on their own grid, those
    up to ``ignored`` left out."""
    image = subject.image
    at = np.argwhere(foreground(image))
    lower = np.maximum(at.min(0) - _MARGIN, 0)
    upper = np.minimum(at.max(0) + 1 + _MARGIN, image.grid.shape)
    part = tuple(slice(a, b) for a, b in zip(lower, upper, strict=True))
    grid = image.grid.padded(-lower, upper - np.array(image.grid.shape))
    labels = tuple(
        each.with_data(np.where(each.data > ignored, each.data, 0).astype(np.int32)) for each in subject.labels
    )
    return Subject(Volume(grid, np.ascontiguousarray(image.data[part]), image.name), labels)


def _teachers(training: Dataset, labels: Path | None) -> list[tuple[tuple[int, int], Mapping[str, Any]]]:
    from ..results.velocity import load_result

    if labels is None:
        return []
    read_manifest(labels)
    found = []
    for i, fixed in enumerate(training.subjects):
        for j, moving in enumerate(training.subjects):
            file = label_file(Path(labels), fixed, moving)
            if file.exists():
                found.append(((i, j), vars(load_result(file).deformation)))
    if not found:
        raise InputError(
            f"{labels}: holds no velocity of two of the training images. Teach pairs of the same data first."
        )
    return found


def _config(
    run: _Run,
    subjects: AlignedSubjects | PosedSubjects,
    training: Dataset,
    recipe: Recipe | PosedRecipe,
    parameters: Parameters,
    mean: MeanImage,
) -> ModelConfig:
    about = run.options.about
    best = min((row for row in run.history if "validation energy" in row), key=run.score, default={})
    energy = (best.get("validation energy", _EXPECTED_VALIDATION), max(best.get("validation energy_sd", 0.1), 0.02))
    data = about.training_data or f"{len(training)} images of {len(training.persons)} subjects in {training.path.name}"
    held_out = {
        name: round(best[key], 4)
        for name, key in (
            ("validation Dice before", "validation dice_before"),
            ("validation Dice after", "validation dice"),
            ("energy left", "validation energy"),
        )
        if best.get(key)
    }
    return ModelConfig(
        name=about.name,
        kind="unrolled" if isinstance(recipe, Recipe) else "dual-net",
        architecture=recipe.architecture if isinstance(recipe, Recipe) else _dual_net(recipe, subjects.place),
        parameters=parameters,
        ndim=subjects.ndim,
        unit_mm=recipe.unit_mm,
        spacing_mm=parameters.spacing_mm or subjects.spacing_mm,
        extent_mm=subjects.extent_mm,
        energy=energy,
        description=about.description,
        training_data=data,
        license=about.license,
        license_note=about.license_note,
        attribution=about.attribution,
        limits=about.limits,
        held_out=held_out,
        versions={"torch": str(torch.__version__)},
        mean_image=mean.to_dict(),
        contrast="alike",
        posed=isinstance(recipe, PosedRecipe),
    )


def _dual_net(recipe: PosedRecipe, place: Posed) -> dict[str, Any]:
    """What the predictor of the kind "dual-net" is built from."""
    return {
        "network": recipe.network,
        "width": recipe.width,
        "center": list(place.center),
        "look": [list(ends) for ends in place.look],
        "domain": domain_values(place.domain),
        "refinement": recipe.refinement,
    }


def _curves(history: Sequence[Mapping[str, float]]) -> str:
    """Learning curves: what is left of the energy, and the overlap, in training and on unseen subjects."""
    from ..report.charts import Series, line_chart, standalone

    last = max((int(key.split()[1]) for row in history for key in row if key.startswith("energy ")), default=0)
    wanted = (("training", "s1", f"energy {last}"), ("unseen subjects", "s2", "validation energy"))
    series = [Series(name, style, np.array([row.get(key, math.nan) for row in history])) for name, style, key in wanted]
    if not any(np.isfinite(s.values).any() for s in series):
        return "<svg xmlns='http://www.w3.org/2000/svg'/>"
    return standalone(line_chart(series, [0], "validation", "part of the energy left"))
