# SPDX-License-Identifier: Apache-2.0
"""Trained models as folders: model.json, weights.safetensors and MODEL_CARD.md. Reading one executes nothing.

Bundled models lie in the package, in `models/`; a user's own in the platform's folder for data, or in the folder that
the environment variable DEEPFLASH_MODELS names.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import os
import platform
import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ..problem.parameters import STEERING, Parameters
from ..support.errors import InputError
from ..support.output_folder import whole_folder
from ..support.tensors import read_tensors, write_tensors
from ..version import __version__
from .model_card import model_card
from .pose import MeanImage

FORMAT = 1
# Families of networks, each with the method that they are models of.
KINDS = {
    "unrolled": "deepflash",
    "feature-net": "deepflash",
    "dual-net": "deepflash",
    "force-net": "deepflash",
    "voxelmorph": "voxelmorph",
    "quicksilver": "quicksilver",
    "icon": "icon",
    "gradicon": "gradicon",
    "constricon": "constricon",
    "unigradicon": "unigradicon",
    "multigradicon": "unigradicon",
    "carl": "carl",
    "unicarl": "unicarl",
    "nephi-codes": "nephi-codes",
}
CONFIG, WEIGHTS, CARD = "model.json", "weights.safetensors", "MODEL_CARD.md"
AUTO = "auto"  # in the place of a model: the one that fits
BUNDLED = Path(__file__).resolve().parent / "models"
_MOST_TEXT = 1 << 20
# What stands for something else where a name may stand, or is no name of a folder on Windows.
_RESERVED = re.compile(r"auto|install|remove|convert|con|prn|aux|nul|(com|lpt)\d", re.IGNORECASE)
# Control characters but tabulators and line ends, and those that turn the direction of writing.
_UNSEEN = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")
# Entries that models of earlier versions lack.
_LATER = ("mean_image", "contrast", "posed", "noncommercial", "trained")
# How licenses, and notes on them, say that commercial use is excluded.
_NONCOMMERCIAL = re.compile(r"\bNC\b|\bnon-?\s?commercial|\bnot for commercial|\bno commercial", re.IGNORECASE)
CONTRASTS = ("any", "alike")
# Settings of a registration that no model states.
LEFT_OPEN = ("refinement", "bias_correction", "instance_steps", "network_voxels", *STEERING)
_MEAN_IMAGE = "mean image"  # its grays, among the weights


@dataclass(frozen=True)
class ModelConfig:
    """What is known of a model besides its weights.

    Attributes:
        name: by which it is chosen: letters, digits, - and _.
        kind: family of predictors, one of KINDS.
        architecture: plain values from which the predictor is built.
        parameters: of the registrations it was trained for.
        ndim: 2 or 3.
        unit_mm: the geodesics' unit of length.
        spacing_mm: voxel size it was trained at.
        extent_mm: smallest and largest length, along any axis, of the objects it was trained on.
        energy: mean and standard deviation, over pairs of unseen subjects, of the part of E that a prediction leaves.
        description: in a line, what it is for.
        training_data: on what it was trained.
        license: of the weights.
        license_note: one sentence for users ("Not for commercial use."); may be empty.
        attribution: whom to credit.
        limits: what it cannot do; may be empty.
        held_out: figures on unseen subjects, {name: number or text}.
        versions: of the programs that trained it.
        noncommercial: whether commercial use is excluded; true as well if its license or the note says so.
        mean_image: what describes the mean image of the training set (`pose.MeanImage.to_dict`); {} if there is none.
        contrast: of the images it takes: "any", or "alike": both as those of the training set.
        posed: whether it works on a grid that lies as the mean image does, on which the fixed image is laid first.
        trained: how long, and on what ("35 minutes on two processor cores"); empty if nobody knows.
    """

    name: str
    kind: str
    architecture: dict[str, Any]
    parameters: Parameters
    ndim: int
    unit_mm: float
    spacing_mm: float
    extent_mm: tuple[float, float]
    energy: tuple[float, float]
    description: str
    training_data: str
    license: str
    license_note: str = ""
    attribution: str = ""
    limits: str = ""
    held_out: dict[str, Any] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)
    noncommercial: bool = False
    mean_image: dict[str, Any] = field(default_factory=dict)
    contrast: str = "any"
    posed: bool = False
    trained: str = ""

    def __post_init__(self) -> None:
        for f in dataclasses.fields(self):
            _check_type(f.name, f.type, getattr(self, f.name))
            _check_texts(f.name, getattr(self, f.name))
        check_name(self.name)
        if self.kind not in KINDS:
            raise ValueError(f"its kind {self.kind[:80]!r} is unknown; known are {', '.join(KINDS)}")
        if self.ndim not in (2, 3):
            raise ValueError(f"it is for {self.ndim} dimensions")
        if not 1e-9 <= self.unit_mm <= 1e6 or not 1e-9 <= self.spacing_mm <= 1e6:
            raise ValueError("its lengths are out of range")
        if not 0 < self.extent_mm[0] <= self.extent_mm[1] or self.energy[1] < 0:
            raise ValueError("its statistics are out of range")
        if not self.license:
            raise ValueError("its license is missing")
        if _NONCOMMERCIAL.search(f"{self.license} {self.license_note}"):
            object.__setattr__(self, "noncommercial", True)
        if self.contrast not in CONTRASTS:
            raise ValueError(f"its contrast {self.contrast[:40]!r} is unknown")
        if self.posed and not self.mean_image:
            raise ValueError("it wants a pose and has no mean image")

    @property
    def method(self) -> str:
        """The method that it is a model of."""
        return KINDS[self.kind]

    def effective(self, parameters: Parameters) -> Parameters:
        """The parameters of a registration with this model: the model's, but for what the user chooses beside it."""
        kept = ("method", "model", *LEFT_OPEN, "as_geodesic", "samples", "initial_alignment")
        return dataclasses.replace(self.parameters, **{name: getattr(parameters, name) for name in kept})

    def refining(self, parameters: Parameters) -> Parameters:
        """The parameters of FLASH after the prediction."""
        levels = self.architecture["refinement"]
        iterations = (parameters.refinement,) * len(levels["resolutions"])
        return dataclasses.replace(parameters, **levels, iterations=iterations, tolerance=0.0)


@dataclass(frozen=True, eq=False)
class Model:
    """A model that was read and found whole; ``checksum`` is the SHA-256 of its weights, mean image included."""

    config: ModelConfig
    arrays: dict[str, np.ndarray]
    folder: Path
    checksum: str
    mean_image: MeanImage | None = None

    def check_shapes(self, expected: Mapping[str, tuple[int, ...]]) -> None:
        """InputError unless the weights are just the arrays that the architecture asks for."""
        found = {name: array.shape for name, array in self.arrays.items()}
        wrong = [
            f"{name} is {found.get(name, 'missing')}, not {tuple(expected[name]) if name in expected else 'known'}"
            for name in sorted({*found, *expected})
            if found.get(name) != (tuple(expected[name]) if name in expected else None)
        ]
        if wrong:
            more = f" (and {len(wrong) - 1} more)" if len(wrong) > 1 else ""
            raise _refused(self.folder, f"the weights do not fit its architecture: {wrong[0]}{more}")


@dataclass(frozen=True)
class Found:
    """A model in one of the folders searched: its config, or what is wrong with it."""

    name: str
    folder: Path
    bundled: bool
    config: ModelConfig | None
    problem: str = ""


def save_model(
    folder: str | os.PathLike,
    config: ModelConfig,
    arrays: Mapping[str, np.ndarray],
    mean_image: MeanImage | None = None,
) -> Path:
    """Writes a model; an earlier one in the folder is replaced, other files there stay.

    Args:
        folder: made if needed.
        config: its versions are completed.
        arrays: of the weights, finite; float64, float32, float16, int64, int32 or uint8.
        mean_image: of the training set; the config's description of it follows.

    Raises:
        InputError: the folder cannot be written.
        OSError: the disk is full or fails. Whatever happens, an earlier model is as it was.
    """
    for name, array in arrays.items():
        if not np.isfinite(array).all():
            raise ValueError(f"The weights {name} are not finite: the training has diverged.")
    versions = {"deepflash-registration": __version__, "python": platform.python_version(), "numpy": np.__version__}
    described = {} if mean_image is None else mean_image.to_dict()
    config = dataclasses.replace(config, versions=versions | config.versions, mean_image=described)
    weights = sum(a.size for a in arrays.values())
    if mean_image is not None:
        arrays = {**arrays, _MEAN_IMAGE: mean_image.gray}
    with whole_folder(folder, (CONFIG, WEIGHTS, CARD), force=True) as temporary:
        write_tensors(temporary / WEIGHTS, arrays, {"model": config.name})
        values = _values(config)
        values["checksums"] = {
            "weights": file_hash(temporary / WEIGHTS),
            "shapes": _shapes_hash(arrays),
            "config": _text_hash(values),
        }
        _write_text(temporary / CONFIG, json.dumps(values, indent=1, allow_nan=False) + "\n")
        _write_text(temporary / CARD, model_card(config, weights))
    return Path(folder)


def load_model(name: str | os.PathLike, ndim: int | None = None) -> Model:
    """Reads a model and checks it.

    Args:
        name: of a bundled or of a user's model, or a folder.
        ndim: of the images it is wanted for; None for any.

    Raises:
        InputError: there is none, a file is missing or damaged, it does not fit its checksums, it is of a format or
            kind unknown here, or of another dimension. Nothing in it is executed, and no more memory is taken than its
            files are long.
    """
    folder = find_model(name)
    config, checksums = _read_config(folder)
    if ndim is not None and config.ndim != ndim:
        raise InputError(f"The model {config.name} is for {config.ndim}-D images, not {ndim}-D ones. Choose another.")
    path = folder / WEIGHTS
    try:
        checksum = file_hash(path)
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}). Copy the model again.") from error
    if checksum != checksums["weights"]:
        raise _refused(folder, "the checksum of its weights is wrong")
    arrays, _ = read_tensors(path)
    if _shapes_hash(arrays) != checksums["shapes"]:
        raise _refused(folder, "its weights do not have the shapes that it names")
    for key, array in arrays.items():
        if not np.isfinite(array).all():
            raise _refused(folder, f"its weights {key} are not finite")
    mean_image = None
    if config.mean_image:
        try:
            mean_image = MeanImage.from_dict(config.mean_image, arrays.pop(_MEAN_IMAGE, None))
            if mean_image.grid.ndim != config.ndim:
                raise ValueError(f"its mean image has {mean_image.grid.ndim} dimensions")
        except (ValueError, TypeError, LookupError, ArithmeticError) as error:
            raise _refused(folder, str(error)) from error
    return Model(config, arrays, folder, checksum, mean_image)


def find_model(name: str | os.PathLike) -> Path:
    """The folder of a model, given by name or folder; InputError with the names there are if it is neither."""
    text = os.fspath(name)
    if _is_name(text):
        for found in find_models():
            if found.name == text:
                return found.folder
    folder = Path(text)
    if text and folder.is_dir():
        if not (folder / CONFIG).is_file():
            raise InputError(f"{folder}: holds no model ({CONFIG} is missing). Pass the folder that was trained into.")
        return folder
    names = ", ".join(found.name for found in find_models()) or "none"
    if text == AUTO:
        raise InputError(f"{AUTO}: stands for the model that fits two images. Name one here: {names}.")
    raise InputError(f"There is no model {text!r}. Known are: {names}. Pass one of them, or the folder of a model.")


def find_models() -> list[Found]:
    """Bundled models and the user's, in the order in which a name is looked for; weights are not read."""
    result: list[Found] = []
    for place, bundled in ((BUNDLED, True), (user_folder(), False)):
        try:
            folders = sorted(p for p in place.iterdir() if (p / CONFIG).is_file() and not p.name.startswith("."))
        except OSError:
            continue
        for folder in folders:
            try:
                config, problem = _read_config(folder)[0], ""
            except InputError as error:
                config, problem = None, str(error)
            if folder.name in {found.name for found in result}:
                problem = f"{folder}: has the name of a bundled model. Rename the folder, or pass it by its path."
                result.append(Found(str(folder), folder, bundled, config, problem))
                continue
            result.append(Found(folder.name, folder, bundled, config, problem))
    return result


def user_folder() -> Path:
    """Where the user's own models are looked for; it need not exist."""
    named = os.environ.get("DEEPFLASH_MODELS")
    if named:
        return Path(named)
    home = Path.home()
    if sys.platform == "win32":
        base = Path(os.environ.get("LOCALAPPDATA") or home / "AppData" / "Local")
    elif sys.platform == "darwin":
        base = home / "Library" / "Application Support"
    else:
        base = Path(os.environ.get("XDG_DATA_HOME") or home / ".local" / "share")
    return base / "deepflash" / "models"


def check_method(config: ModelConfig, parameters: Parameters) -> None:
    """InputError if a model is not of the method that is to use it."""
    wanted = parameters.method.removesuffix("+flash")
    if config.method != wanted:
        raise InputError(
            f"The model {config.name} is one of {config.method}, not of {wanted}. Choose the method {config.method}, "
            "or another model."
        )


def model_config(name: str | os.PathLike) -> ModelConfig:
    """What is known of a model, given by name or folder; InputError if it cannot be used. Weights are not read."""
    return _read_config(find_model(name))[0]


def read_card(name: str | os.PathLike) -> str:
    """The model card as text (Markdown)."""
    path = find_model(name) / CARD
    try:
        with open(path, encoding="utf-8") as file:
            return file.read(_MOST_TEXT)
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: cannot be read ({error}). Copy the model again.") from error


# ------------------------------------------------------------------------------------------------------ the config

_FIELDS = {f.name: f.type for f in dataclasses.fields(ModelConfig)}
_PLAIN = {
    "str": str,
    "int": int,
    "bool": bool,
    "dict[str, Any]": dict,
    "dict[str, str]": dict,
    "Parameters": Parameters,
}


def _check_type(name: str, kind: str, value: Any) -> None:
    def number(x: Any) -> bool:
        return type(x) in (int, float) and math.isfinite(x)

    if kind == "float":
        right = number(value)
    elif kind == "tuple[float, float]":
        right = isinstance(value, tuple) and len(value) == 2 and all(map(number, value))
    else:
        right = isinstance(value, _PLAIN[kind]) and isinstance(value, bool) == (kind == "bool")
    if not right or (kind == "dict[str, str]" and not all(isinstance(x, str) for x in value.values())):
        raise ValueError(f"its {name} is of the wrong kind")


def _check_texts(name: str, value: Any) -> None:
    """ValueError for characters that are not shown but change how others are: terminals obey them."""
    if isinstance(value, str) and _UNSEEN.search(value):
        raise ValueError(f"its {name} holds control characters")
    if isinstance(value, Mapping):
        for each in (*value.keys(), *value.values()):
            _check_texts(name, each)


def _values(config: ModelConfig) -> dict[str, Any]:
    """Plain values of a config, for JSON."""
    values = {name: getattr(config, name) for name in _FIELDS} | {"parameters": config.parameters.to_dict()}
    # Through JSON once, so that a checksum sees what will be read again.
    return {"format": FORMAT, **json.loads(json.dumps(values, allow_nan=False))}


def _read_config(folder: Path) -> tuple[ModelConfig, dict[str, str]]:
    """The config of a model and its checksums; InputError for what cannot be used."""
    path = folder / CONFIG
    for name in (CONFIG, WEIGHTS):
        if not (folder / name).is_file():
            raise InputError(f"{folder / name}: is missing. Copy the model again.")
    try:
        with open(path, "rb") as file:
            text = file.read(_MOST_TEXT + 1)
        if len(text) > _MOST_TEXT:
            raise ValueError(f"{CONFIG} is too large")
        values = json.loads(text, parse_constant=_not_finite)
        if not isinstance(values, dict):
            raise ValueError(f"{CONFIG} holds no table")
        if values.get("format") != FORMAT:
            raise _Newer(f"its format is {str(values.get('format'))[:20]}, not {FORMAT}: another version wrote it")
        checksums = values.pop("checksums", None)
        if not isinstance(checksums, dict) or set(checksums) != {"weights", "shapes", "config"}:
            raise ValueError("its checksums are missing")
        if checksums["config"] != _text_hash(values):
            raise ValueError(f"the checksum of {CONFIG} is wrong")
        del values["format"]
        other = sorted((set(values) ^ set(_FIELDS)) - set(_LATER))
        if other:
            kind = _Newer if other[0] in values else ValueError
            raise kind(f"its entry {other[0][:40]!r} is missing or unknown")
        for name in ("extent_mm", "energy"):
            values[name] = tuple(values[name])
        # The figures of models that name no search were measured when there was but one.
        settings = {"search": "lbfgs", **values["parameters"]}
        # Here the names that there are would be no remedy, and longer than all the rest.
        unknown = sorted(set(settings) - {each.name for each in dataclasses.fields(Parameters)})
        if unknown:
            raise ValueError(f"Unknown parameter {unknown[0][:40]!r}")
        values["parameters"] = Parameters.from_dict(settings)
        return ModelConfig(**values), checksums
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}). Copy the model again.") from error
    except (ValueError, TypeError, AttributeError, LookupError, ArithmeticError, RecursionError) as error:
        raise _refused(folder, str(error), isinstance(error, _Newer)) from error


def _not_finite(text: str) -> Any:
    raise ValueError(f"{CONFIG} holds {text}")


class _Newer(ValueError):
    """Something that a newer version may have written."""


def _refused(folder: Path, reason: str, newer: bool = False) -> InputError:
    remedy = "If it is of a newer version of DeepFLASH, update this one; else copy it" if newer else "Copy it"
    return InputError(f"{folder}: this model cannot be used ({reason}). {remedy} again, or choose another model.")


def check_name(name: str) -> None:
    """ValueError for what cannot be the name of a model."""
    if not _is_name(name):
        raise ValueError(f"its name {name[:80]!r} is not made of letters, digits, - and _")
    if _RESERVED.fullmatch(name):
        raise ValueError(f"its name {name!r} stands for something else")


def _is_name(text: str) -> bool:
    return 0 < len(text) <= 80 and text.replace("-", "").replace("_", "").isalnum() and text.isascii()


# ------------------------------------------------------------------------------------------------ files and hashes


def _text_hash(values: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()


def _shapes_hash(arrays: Mapping[str, np.ndarray]) -> str:
    return _text_hash({name: [array.dtype.str, *array.shape] for name, array in arrays.items()})


def file_hash(path: Path) -> str:
    """SHA-256 of a file."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def _write_text(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8", newline="\n")
