# SPDX-License-Identifier: Apache-2.0
"""The settings of a registration: one validated, serializable object for every door. No torch here."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from .methods import METHODS

# What each choice is called in a user's words, with the technical name behind.
_ALIGNMENTS = {
    "none": "None: they lie on each other already",
    "centers": "Only the middles on each other (centers)",
    "rigid": "Shift and turn, same patient (rigid)",
    "affine": "Shift, turn and scale, different patients (affine)",
}
_SIMILARITIES = {
    "lncc": "Local correlation, same or different scanners (LNCC)",
    "ncc": "Correlation, same kind of image (NCC)",
    "ssd": "Difference, same scanner and settings (SSD)",
    "mi": "Mutual information, different modalities (MI)",
}
_WEIGHTINGS = {"boundary": "Each alike (boundary)", "volume": "By its volume (volume)"}
_INTEGRATORS = {
    "euler": "First order (Euler)",
    "multistep": "Second order, with the step before (multistep)",
    "midpoint": "Second order (midpoint)",
    "rk4": "Fourth order (Runge-Kutta)",
}
_SEARCHES = {
    "gauss-newton": "By the curvature of the similarity (Gauss-Newton)",
    "lbfgs": "By the steps so far alone (L-BFGS)",
}
_MAPS = {
    "semi-lagrangian": "On a grid, without folds (semi-Lagrangian)",
    "band-limited": "Of few frequencies, as in FLASH (band-limited)",
}
_NORMALIZATIONS = {
    "auto": "Automatic: window for CT, else percentiles",
    "percentiles": "By most of the object's voxels (percentiles)",
    "window": "By a fixed window (CT)",
    "unigradicon": "Each by what it is: CT from -1000 to 1000, others up to the 99th percentile (uniGradICON)",
    "unicarl": "Each from the 1st to the 99th percentile of all its voxels (uniCARL)",
}
_PRESET_TITLES = {
    "fast": "Fast: for a first look",
    "default": "Default: accurate",
    "fine": "Fine: closest match, takes longest",
    "paper": "As in the paper on DeepFLASH",
}
ALIGNMENTS, SIMILARITIES, INTEGRATORS = tuple(_ALIGNMENTS), tuple(_SIMILARITIES), tuple(_INTEGRATORS)
SEARCHES = tuple(_SEARCHES)
MAPS, NORMALIZATIONS, PRESETS = tuple(_MAPS), tuple(_NORMALIZATIONS), tuple(_PRESET_TITLES)

# Parameters of what steers besides the images, those that switch it on first, then those of further images; and the
# methods that all this steers.
_SWITCHES = ("landmark_weight", "label_weight", "rigid_labels", "volume_labels")
STEERING = (
    *_SWITCHES,
    "landmark_trust_mm",
    "label_trust_mm",
    "label_weighting",
    "steering_labels",
    "channel_weights",
    "channel_similarities",
)
STEERABLE = ("flash", "lddmm")


def _setting(
    default: Any,
    label: str,
    text: str,
    *,
    unit: str = "",
    choices: Mapping[str, str] | None = None,
    limits: tuple[float, float] | None = None,
) -> Any:
    """A field; `choices` are named as in `metadata["choices"]`, and called as in `metadata["titles"]`."""
    titles = dict(choices or {})
    metadata = {"label": label, "help": text, "unit": unit, "choices": tuple(titles), "titles": titles, "range": limits}
    return field(default=default, metadata=metadata)


@dataclass(frozen=True)
class Parameters:
    """What a registration depends on besides its images. The defaults are the preset "default".

    Every field's metadata hold its label, help text, unit, choices with their titles, and range, from which command
    line and windows are made. `resolutions`, `bands` and `iterations` have one entry per level, coarse to fine.

    Raises:
        ValueError: a value of the wrong type or outside its range, by name.
    """

    preset: str = _setting("default", "Preset", "What the other settings started from.", choices=_PRESET_TITLES)
    method: str = _setting(
        "flash",
        "Method",
        "Estimator of the initial velocity: FLASH optimizes it; DeepFLASH predicts it by a trained model, in a "
        "fraction of the time; DeepFLASH + FLASH refines the prediction. The model decides all other settings but the "
        "alignment and the bias correction. A transform that another program found can be taken as it is, or refined; "
        "ANTs and Greedy can be asked for theirs.",
        choices={name: method.title for name, method in METHODS.items()},
    )
    model: str = _setting(
        "",
        "Trained model",
        "Model of DeepFLASH: the name of a bundled or installed one, its folder, or auto for the one that fits both "
        "images.",
    )
    refinement: int = _setting(
        5,
        "Refinement",
        "Iterations of FLASH after the prediction, with DeepFLASH + FLASH, or after a transform.",
        limits=(1, 1000),
    )
    as_geodesic: bool = _setting(
        False,
        "As a geodesic",
        "Of a map that is none, such as a transform found elsewhere, the geodesic nearest to it: it has an exact "
        "inverse, no folds, and a way from the alignment to the map.",
    )
    instance_steps: int = _setting(
        0,
        "Instance optimization",
        "Steps by which the weights of a trained network are fitted to this very pair, by what it was trained with; 0 "
        "takes its prediction as it is. Of VoxelMorph, ICON, GradICON, ConstrICON and uniGradICON. The model itself "
        "stays as it was. It takes long on a processor, and says how long.",
        limits=(0, 10000),
    )
    network_voxels: int = _setting(
        0,
        "Voxels of the network",
        "Along the longest axis, of a network to whose own grid images are stretched (uniGradICON); 0 for those that "
        "it was trained on. Fewer take less memory and time, and show less.",
        limits=(0, 1000),
    )
    samples: int = _setting(
        0, "Random answers", "Of Quicksilver with dropout: how many; their spread is the uncertainty.", limits=(0, 1000)
    )
    initial_alignment: str = _setting(
        "affine", "Initial alignment", "Linear alignment before the deformation.", choices=_ALIGNMENTS
    )
    similarity: str = _setting(
        "lncc",
        "Similarity",
        "What is compared: local correlation (also across contrasts), correlation, squared "
        "differences (same scanner and contrast), or mutual information (other modality).",
        choices=_SIMILARITIES,
    )
    window_mm: float = _setting(
        0.0,
        "Correlation window",
        "Full width of the window of the local correlation at the finest level; at least "
        "five voxels at every level, and at most a quarter of the image. 0 lets it follow the size "
        "of the fixed object (7 mm for an adult's brain).",
        unit="mm",
        limits=(0.0, 200.0),
    )
    symmetric: bool = _setting(
        False, "Symmetric", "Compare the images in both directions, each resampled onto the other; takes longer."
    )
    channel_weights: tuple[float, ...] = _setting(
        (),
        "Weights of further images",
        "How much each further image of the subjects counts beside the first, which counts 1, such as 1, 0.5; 1 each "
        "if it is left empty. At 0 it is only measured.",
        limits=(0.0, 1e3),
    )
    channel_similarities: tuple[str, ...] = _setting(
        (),
        "Similarities of further images",
        "By what each further image is compared, such as lncc, mi; as the first if it is left empty.",
        choices=_SIMILARITIES,
    )
    landmark_weight: float = _setting(
        0.0,
        "Weight of landmarks",
        "How much the landmarks steer: 1 as they are trusted, 0 not at all, and their distances are only measured. A "
        "landmark that the others contradict is set aside, and named.",
        limits=(0.0, 1e3),
    )
    landmark_trust_mm: float = _setting(
        0.0,
        "Trust in landmarks",
        "To within how many mm a landmark is placed (standard deviation along each axis), unless its file tells. 0 "
        "lets it follow the size of the fixed object (2 mm for an adult's brain).",
        unit="mm",
        limits=(0.0, 100.0),
    )
    label_weight: float = _setting(
        0.0,
        "Weight of structures",
        "How much structures that are drawn on both sides steer by their surfaces: 1 as they are trusted, 0 not at "
        "all, and their overlap is only measured.",
        limits=(0.0, 1e3),
    )
    label_trust_mm: float = _setting(
        0.0,
        "Trust in surfaces",
        "To within how many mm the surface of a structure is drawn. 0 lets it follow the size of the fixed object "
        "(1 mm for an adult's brain).",
        unit="mm",
        limits=(0.0, 100.0),
    )
    label_weighting: str = _setting(
        "boundary",
        "Structures count",
        "Whether each structure counts alike, or by its volume.",
        choices=_WEIGHTINGS,
    )
    steering_labels: tuple[int | str, ...] = _setting(
        (),
        "Structures that steer",
        "Numbers of the labels that steer, such as 1, 4, in 3D Slicer also names of segments; all that both sides have "
        "if it is left empty.",
        limits=(1, 2**31 - 1),
    )
    rigid_labels: tuple[int | str, ...] = _setting(
        (),
        "Rigid structures",
        "Numbers of the fixed labels that may move and turn but not change their shape, such as bones; in 3D Slicer "
        "also names of segments.",
        limits=(1, 2**31 - 1),
    )
    volume_labels: tuple[int | str, ...] = _setting(
        (),
        "Structures of constant volume",
        "Numbers of the fixed labels that may change their shape but not their volume, such as a tumor; in 3D Slicer "
        "also names of segments.",
        limits=(1, 2**31 - 1),
    )
    sigma: float = _setting(
        0.05,
        "Sigma",
        "Noise level σ: the dissimilarity (mean over the mask) weighs 1/(2σ²) against the energy of "
        "the deformation. Smaller fits closer.",
        limits=(1e-3, 10.0),
    )
    alpha: float = _setting(
        24.0,
        "Smoothness α",
        "Weight of the second derivative in the metric L = (γ − α∇²)^c. Larger is smoother. "
        "Lengths count in units that follow the size of the fixed object (1.25 mm for an adult's brain).",
        limits=(0.0, 1e4),
    )
    power: float = _setting(1.5, "Smoothness power c", "Exponent of the metric L = (γ − α∇²)^c.", limits=(1.0, 8.0))
    gamma: float = _setting(1.0, "γ", "Weight of the displacement itself in the metric.", limits=(1e-3, 1e3))
    alpha_growth: float = _setting(
        1.0,
        "Growth of α",
        "Factor by which α grows for each coarser level. 1 keeps one metric for all levels.",
        limits=(1.0, 16.0),
    )
    resolutions: tuple[int, ...] = _setting(
        (4, 2, 1), "Resolutions", "Voxel size of each level in working voxels.", limits=(1, 64)
    )
    bands: tuple[int, ...] = _setting(
        (15, 31, 47),
        "Bands",
        "Frequencies of the velocity along the longest axis at each level (odd; shorter axes "
        "get proportionally fewer).",
        limits=(3, 255),
    )
    iterations: tuple[int, ...] = _setting(
        (8, 10, 4), "Iterations", "Most iterations of each level.", limits=(0, 10000)
    )
    tolerance: float = _setting(
        1e-4,
        "Tolerance",
        "A level ends when an iteration lowers the energy by less than this fraction.",
        limits=(0.0, 0.1),
    )
    search: str = _setting(
        "gauss-newton",
        "Search",
        "How the directions of the steps are found: from the similarity's curvature and the steps so far "
        "(Gauss-Newton), or from the steps alone (L-BFGS).",
        choices=_SEARCHES,
    )
    integrator: str = _setting("rk4", "Integrator", "Time stepping of EPDiff while optimizing.", choices=_INTEGRATORS)
    steps: int = _setting(
        0, "Time steps", "Steps of the geodesic while optimizing; 0 chooses them from the velocity.", limits=(0, 200)
    )
    map: str = _setting(
        "semi-lagrangian",
        "Map",
        "How the map follows the velocity: on a grid by semi-Lagrangian steps (no folds), or "
        "as a displacement in the band (FLASH's own).",
        choices=_MAPS,
    )
    spacing_mm: float = _setting(
        0.0,
        "Working voxel",
        "Voxel size at resolution 1; 0 chooses it from the fixed image.",
        unit="mm",
        limits=(0.0, 100.0),
    )
    max_voxels: int = _setting(
        2_700_000,
        "Most voxels",
        "Upper limit of the working grid when its voxel size is chosen automatically.",
        limits=(1000, 1_000_000_000),
    )
    margin_mm: float = _setting(
        0.0,
        "Margin",
        "Space around the fixed foreground in which the deformation fades out; at most a quarter of the image. 0 "
        "lets it follow the size of the fixed object (12 mm for an adult's brain).",
        unit="mm",
        limits=(0.0, 200.0),
    )
    normalization: str = _setting(
        "auto",
        "Intensity scaling",
        "Percentiles of the foreground, or a fixed window; auto takes the window where both images are CT, as "
        "the values tell (air near -1000, water near 0), and percentiles for all else.",
        choices=_NORMALIZATIONS,
    )
    window_low: float = _setting(
        -160.0, "Window from", "Lower end of the fixed intensity window (CT).", unit="image units", limits=(-1e6, 1e6)
    )
    window_high: float = _setting(
        240.0, "Window to", "Upper end of the fixed intensity window (CT).", unit="image units", limits=(-1e6, 1e6)
    )
    bias_correction: bool = _setting(False, "Bias correction", "Correct both images' bias field first (N4).")
    histogram_matching: bool = _setting(
        False, "Histogram matching", "Give the moving image the fixed image's histogram first (same contrast only)."
    )

    def __post_init__(self) -> None:
        for f in dataclasses.fields(self):
            object.__setattr__(self, f.name, _checked(f, getattr(self, f.name)))
        if not len(self.resolutions) == len(self.bands) == len(self.iterations) >= 1:
            raise ValueError(
                "resolutions, bands and iterations need one entry per level each, but have "
                f"{len(self.resolutions)}, {len(self.bands)} and {len(self.iterations)}."
            )
        if any(n % 2 == 0 for n in self.bands):
            raise ValueError(f"bands must be odd numbers, not {self.bands}.")
        if list(self.resolutions) != sorted(self.resolutions, reverse=True):
            raise ValueError(f"resolutions must run from coarse to fine, not {self.resolutions}.")
        if METHODS[self.method].needs_model and not self.model:
            raise ValueError(f"The method {self.method!r} needs a model: its name, its folder, or auto.")
        if self.window_low >= self.window_high:
            raise ValueError(f"window_low must lie below window_high, not {self.window_low} and {self.window_high}.")

    @property
    def steered(self) -> str:
        """The first of the parameters by which something steers besides the images; "" without."""
        return next((name for name in _SWITCHES if getattr(self, name)), "")

    @property
    def steering_of_one(self) -> str:
        """The first of the parameters that ask for what only a single pair has: what steers it, or further images; ""
        without."""
        channels = ("channel_weights", "channel_similarities")
        return self.steered or next((name for name in channels if getattr(self, name)), "")

    @property
    def steerable(self) -> bool:
        """Whether the method, or what refines its result, can be steered."""
        return self.method in STEERABLE or self.method.endswith("+flash")

    @property
    def dense(self) -> bool:
        """Whether the result is a map that is no geodesic."""
        return METHODS[self.method].dense and not self.as_geodesic

    @classmethod
    def from_preset(cls, preset: str, **changes: Any) -> Parameters:
        """The settings of a preset ("fast", "default", "fine", "paper"), with some changed."""
        if preset not in _PRESETS:
            raise ValueError(f"Unknown preset {preset!r}. Choose one of {', '.join(_PRESETS)}.")
        known = {f.name for f in dataclasses.fields(cls)}
        for name in changes:
            if name not in known:
                raise ValueError(f"Unknown parameter {name!r}. There are: {', '.join(sorted(known))}.")
        return cls(**{"preset": preset, **_PRESETS[preset], **changes})

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {k: list(v) if isinstance(v, tuple) else v for k, v in dataclasses.asdict(self).items()}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Parameters:
        """Inverse of to_dict; unknown names are refused, missing ones take the values of the named preset."""
        return cls.from_preset(values.get("preset", "default"), **{k: v for k, v in values.items() if k != "preset"})


_PRESETS: dict[str, dict[str, Any]] = {
    "fast": {"alpha": 22.0, "resolutions": (4, 2), "bands": (15, 31), "iterations": (6, 9), "tolerance": 1e-3},
    "default": {},
    "fine": {
        "resolutions": (4, 2, 1),
        "bands": (15, 31, 47),
        "alpha": 22.0,
        "iterations": (8, 10, 15),
        "sigma": 0.04,
        "symmetric": True,
    },
    # DeepFLASH (Wang & Zhang, CVPR 2020), section 4, and the released FLASH settings.
    "paper": {
        "similarity": "ssd",
        "sigma": 0.03,
        "alpha": 3.0,
        "power": 6.0,
        "resolutions": (1,),
        "bands": (15,),
        "iterations": (100,),
        "search": "lbfgs",
        "integrator": "euler",
        "steps": 10,
        "map": "band-limited",
    },
}


def _checked(f: dataclasses.Field, value: Any) -> Any:
    kind, name = f.type, f.name
    low, high = f.metadata["range"] or (None, None)

    def number(x: Any, whole: bool) -> Any:
        if isinstance(x, bool) or not isinstance(x, (int, float)) or x != x:
            raise ValueError(f"{name} must be {'an integer' if whole else 'a number'}, not {x!r}.")
        if whole and isinstance(x, float) and not x.is_integer():
            raise ValueError(f"{name} must be an integer, not {x!r}.")
        if low is not None and not low <= x <= high:
            raise ValueError(f"{name} must lie between {low:g} and {high:g}, not {x}.")
        return int(x) if whole else float(x)

    def named(x: Any) -> str:
        return x.strip() if isinstance(x, str) else ""

    def text(x: Any) -> str:
        choices = f.metadata["choices"]
        if not choices:
            if not isinstance(x, str):
                raise ValueError(f"{name} must be a text, not {x!r}.")
        elif x not in choices:
            raise ValueError(f"{name} must be one of {', '.join(choices)}, not {x!r}.")
        return x

    if hasattr(value, "tolist"):
        value = value.tolist()  # a NumPy scalar or array
    if kind == "str":
        return text(value)
    if kind == "bool":
        if not isinstance(value, bool):
            raise ValueError(f"{name} must be True or False, not {value!r}.")
        return value
    if kind.startswith("tuple"):
        of, checked = {
            "tuple[int, ...]": ("integers", lambda x: number(x, True)),
            "tuple[float, ...]": ("numbers", lambda x: number(x, False)),
            "tuple[str, ...]": ("names", text),
            # A name may stand for a number.
            "tuple[int | str, ...]": ("integers", lambda x: named(x) or number(x, True)),
        }[kind]
        if isinstance(value, (str, bytes)) or not hasattr(value, "__iter__"):
            raise ValueError(f"{name} must be a list of {of}, not {value!r}.")
        return tuple(map(checked, value))
    return number(value, kind == "int")
