# SPDX-License-Identifier: Apache-2.0
"""Published weights made a model: those of uniGradICON, multiGradICON and uniCARL, read in a process of its own.

The files of the first two have the same names and shapes: which one it is, only the user knows. What they hold is
pickled; torch reads weights alone, and a pickle that would run something is refused unrun.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..problem.parameters import Parameters
from ..support.errors import InputError
from ..support.isolation import Crashed, isolated, memory_to_read
from ..support.tensors import read_tensors, write_tensors
from .trained_models import ModelConfig, file_hash, save_model

if TYPE_CHECKING:
    from ..learning.icon import Design

SHAPES = {"unigradicon": (175, 175, 175), "multigradicon": (175, 175, 175), "unicarl": (160, 160, 160)}
_SECONDS = 600.0
_STEP_2 = "Step_2_final.trch of the releases unigradicon_weights or multigradicon_weights"
# By kind: title, who published it, which file of the releases of github.com/uncbiag/uniGradICON it is, and what the
# names of its weights begin with.
_ABOUT = {
    "unigradicon": (
        "uniGradICON",
        "Tian, Greer, Kwitt, Vialard, San José Estépar, Bouix, Rushmore & Niethammer: uniGradICON. A foundation model "
        "for medical image registration. MICCAI 2024",
        _STEP_2,
        "",
    ),
    "multigradicon": (
        "multiGradICON",
        "Demir, Tian, Greer, Kwitt, Vialard, San José Estépar, Bouix, Rushmore, Ebrahim & Niethammer: multiGradICON. A "
        "foundation model for multimodal medical image registration. WBIR 2024",
        _STEP_2,
        "",
    ),
    "unicarl": (
        "uniCARL",
        "Greer, Tian, Vialard, Kwitt, San José Estépar & Niethammer: CARL. A framework for equivariant image "
        "registration. CVPR 2025",
        "longleaf_unicarl_8 of the release v1.0.4",
        "netPsi.netPsi.",  # within what turned and moved the images of its training
    ),
}
CONVERTED = tuple(_ABOUT)


def convert(file: Path, kind: str, out: Path, name: str = "") -> tuple[Path, str]:
    """Makes a model of a file of weights; returns its folder, and the SHA-256 of the file.

    Args:
        file: as it was published.
        kind: what it is: one of CONVERTED.
        out: folder of the model.
        name: of the model; that of its kind by default.

    Raises:
        InputError: the file cannot be read, or does not hold the weights of this network; nothing was written.
    """
    if kind not in CONVERTED:
        raise InputError(f"{kind}: is not known here. Known are {', '.join(CONVERTED)}.")
    name = name or kind
    try:
        memory, digest = memory_to_read(file), file_hash(file)
        config = _config(kind, name, file.name, digest)
    except OSError as error:
        raise InputError(f"{file}: cannot be read ({error.strerror}). Check the path and its permissions.") from error
    except ValueError as error:
        raise InputError(f"{name}: a model cannot be described so ({error}). Choose another name.") from error
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "weights.safetensors"
        given = (str(file), str(path), kind, {**_published(kind).values(), "shape": list(SHAPES[kind])})
        try:
            isolated("methods.converting:read_weights", *given, seconds=_SECONDS, memory=memory)
        except Crashed as error:
            raise InputError(f"{file}: cannot be read ({error}). Download it again.") from error
        arrays, _ = read_tensors(path)
    return save_model(out, config, arrays), digest


def read_weights(file: str, out: str, kind: str, values: dict[str, Any]) -> int:
    """Reads a file of weights, and writes them as tensors, by our names; in the child. Returns how many.

    Args:
        kind: as `convert`.
        values: that describe its network, as prediction_icon.network_of takes them.

    Raises:
        InputError: as `convert`.
    """
    import pickle

    import torch

    from .prediction_icon import network_of

    _, _, source, prefix = _ABOUT[kind]
    try:
        with torch.device("meta"):
            expected = network_of(kind, 3, values).net.state_dict()
    except ImportError as error:
        raise InputError(str(error)) from error
    try:
        found = torch.load(file, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise InputError(
            f"{file}: holds more than weights, and could run anything; it was not run. Take the published file."
        ) from error
    except (RuntimeError, EOFError, OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(f"{file}: is damaged, or no file of weights of PyTorch. Download it again.") from error
    shapes = {k: tuple(v.shape) for k, v in _tensors(found).items()}
    wanted = {prefix + k: tuple(v.shape) for k, v in expected.items()}
    wrong = [k for k in {*shapes, *wanted} if shapes.get(k) != wanted.get(k)]
    if wrong:
        raise InputError(
            f"{file}: holds the weights of another network: {min(wrong)[:80]} is missing or of another shape. Take "
            f"{source}, and say of which kind it is."
        )
    broken = [k for k, v in found.items() if not bool(torch.isfinite(v).all())]
    if broken:
        raise InputError(f"{file}: its weights {broken[0]} are not finite. Download it again.")
    arrays = {f"net.{k}": found[prefix + k].to(v.dtype).detach().contiguous().numpy() for k, v in expected.items()}
    write_tensors(Path(out), arrays, {})
    return len(arrays)


def _tensors(found: Any) -> dict[str, Any]:
    """The entries of a state dict; {} if it is none."""
    import torch

    plain = isinstance(found, dict) and all(isinstance(k, str) and torch.is_tensor(v) for k, v in found.items())
    return dict(found) if plain else {}


def _published(kind: str) -> Design:
    from ..learning import icon, unicarl

    return unicarl.PUBLISHED if kind == "unicarl" else icon.PUBLISHED


def _config(kind: str, name: str, file: str, digest: str) -> ModelConfig:
    title, citation, _, _ = _ABOUT[kind]
    network = {**_published(kind).values(), "shape": list(SHAPES[kind])}
    return ModelConfig(
        name=name,
        kind=kind,
        architecture={**network, "refinement": {"resolutions": [1], "bands": [47]}},
        parameters=Parameters(normalization="unicarl" if kind == "unicarl" else "unigradicon"),
        ndim=3,
        unit_mm=1.25,
        spacing_mm=2.0,  # of a body of 350 mm; it stretches images of any size
        extent_mm=(1.0, 1e4),
        energy=(0.5, 0.25),
        description=f"{title}: images of many regions of the body, CT and MR",
        training_data=f"as published. Weights converted from {file}, SHA-256 {digest}; that it is {title} said who "
        "converted it",
        license="Apache-2.0",
        license_note="The license is that of the program it was published with; the weights have none of their own.",
        attribution=citation,
        limits=f"It sees {SHAPES[kind][0]} voxels along each axis, whatever the images have.",
    )
