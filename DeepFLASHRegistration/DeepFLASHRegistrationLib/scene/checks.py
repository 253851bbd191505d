# SPDX-License-Identifier: Apache-2.0
"""What speaks against a registration before it has begun, and what helps."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ..imaging.grid import Grid
from ..imaging.intensities import background_value, foreground
from ..imaging.volume import Volume, checked_image
from ..methods.choosing import Look, is_open, likely
from ..methods.stages import stages as stagesOf
from ..problem.parameters import METHODS, Parameters
from ..registration import needs
from ..support import memory
from ..support.errors import InputError
from .arrays import arrayFromImage
from .carry import meshOf
from .conversion import landmarksFromNode
from .geometry import checkLinear, gridFromVolume, toWorld
from .inputs import Inputs
from .labels import checkLabels, insideOf
from .translation import tr as _

ERROR, WARNING, HINT = "error", "warning", "hint"

# Voxels per axis of the thinned-out images that are looked at: enough for what is judged, and done within 0.1 s.
_LOOKED_AT = 40
# Orientations are compared on a lattice in a ball of this radius in standard deviations of the object: well inside it,
# since the outlines of a head and of the same head turned about are much alike. There two healthy brains correlate with
# 0.5 to 0.6 as they are and with at most 0.25 when turned about.
_FLIP_SAMPLES = 24
_FLIP_RADIUS = 1.8
_FLIP_GAIN = 0.2  # by how much the correlation must be better in another orientation
_FLIP_ENOUGH = 0.35  # and how good it must be there
_TINY_OVERLAP = 0.25  # of the smaller field of view
_VOXEL_RATIO = 8.0  # of volumes
_STRIPPED_RATIO = 1.6  # of foreground volumes
# Voxels along an axis below which too little is seen to tell whether two images agree.
_FEW = {"volume": 8, "mask": 5}


@dataclass(frozen=True)
class Check:
    """Something noticed.

    Attributes:
        name: what was looked at, e.g. "overlap".
        level: ERROR (the registration cannot run), WARNING (it can, but hardly to the user's delight) or HINT (what was
            perhaps meant otherwise).
        text: what is the matter, and what helps.
        changes: parameters that help, for one click; {} if no parameter does.
        action: what to call that click, "" without changes.
    """

    name: str
    level: str
    text: str
    changes: dict[str, Any] = field(default_factory=dict)
    action: str = ""


def checkInputs(
    inputs: Inputs, parameters: Parameters, device: str = "cpu", freeHost: int | None = None, freeDevice: int = 0
) -> list[Check]:
    """Looks at the chosen volumes before they are registered; errors first.

    Args:
        device: where it will be computed; with "auto" as long as it is not known, pass "cpu".
        freeHost, freeDevice: bytes; default what the host says now.

    Returns:
        Nothing for volumes that are not chosen yet.
    """
    images: dict[str, Volume] = {}
    found: list[Check] = []
    for role, node in (("fixed", inputs.fixedVolume), ("moving", inputs.movingVolume)):
        if node is None:
            continue
        try:
            images[role] = thinned(node)
        except InputError as error:
            found.append(Check("input", ERROR, str(error)))
    found += _places(inputs, METHODS[parameters.method].needs_transform)
    if len(images) < 2:
        return found
    fixed, moving = images["fixed"], images["moving"]
    if fixed.ndim != moving.ndim:
        found.append(
            Check(
                "dimension",
                ERROR,
                _("One volume is a single slice and the other is not. Choose two volumes or two slices."),
            )
        )
        return found
    host = memory.free_bytes() if freeHost is None else freeHost
    grids = gridFromVolume(inputs.fixedVolume), gridFromVolume(inputs.movingVolume)
    found += _masks(inputs, grids)
    found += _tiny(*grids, fixed.name, moving.name)
    found += _overlap(*grids, parameters, inputs.initialTransform is not None)
    found += _voxelSize(*grids, fixed.name, moving.name, parameters)
    found += _stripped((fixed, inputs.fixedMask), (moving, inputs.movingMask))
    found += _flipped(fixed, moving, inputs.initialTransform is not None)
    if is_open(parameters):
        sides = zip((fixed, moving), grids)
        parameters = likely(parameters, [Look.at(image, None, float(grid.spacing.max())) for image, grid in sides])
    labelled = (inputs.fixedSegmentation is not None, inputs.movingSegmentation is not None)
    found += _memory(fixed, grids, labelled, parameters, device, (host, freeDevice))
    return sorted(found, key=lambda check: check.level != ERROR)


def thinned(node: Any) -> Volume:
    """Every n-th voxel, so that even a large volume is looked at in no time.

    Raises:
        InputError: it cannot be registered.
    """
    grid = gridFromVolume(node)
    image = node.GetImageData()
    if (
        node.IsA("vtkMRMLVectorVolumeNode")
        or node.IsA("vtkMRMLTensorVolumeNode")
        or (image.GetNumberOfScalarComponents() != 1)
    ):
        raise InputError(
            _(
                "{name} has several values per voxel (a color, vector or tensor image). Make a scalar volume of it "
                "(module Vector to Scalar Volume) and register that."
            ).format(name=node.GetName())
        )
    volume = Volume(grid, arrayFromImage(image).reshape(grid.shape), node.GetName()).thinned(_LOOKED_AT)
    low, high = image.GetScalarRange()
    if low != high and volume.data.min() == volume.data.max():
        return volume.with_data(volume.data.astype(np.float32))  # the little there is lies between the voxels looked at
    return checked_image(volume)


# ------------------------------------------------------------------------------------------------------- geometry


def noTransform() -> str:
    """What is missing for a method that takes a transform."""
    return _(
        "The chosen method takes a transform that was found before. Choose it as the initial transform: the one that "
        "lays the moving volume on the fixed one where it is applied to it."
    )


def _places(inputs: Inputs, takesTransform: bool) -> list[Check]:
    """Nodes beside the volumes that hold nothing or lie where they cannot be used; masks: only where (see _masks).

    ``takesTransform``: whether the method takes a transform of any kind as the initial one."""
    if takesTransform and inputs.initialTransform is None:
        return [*_places(inputs, False), Check("transform", ERROR, noTransform())]
    look = {
        "initialTransform": (lambda node: None) if takesTransform else checkLinear,
        "movingSegmentation": checkLabels,
        "fixedSegmentation": checkLabels,
        "movingMarkups": landmarksFromNode,
        "fixedMarkups": landmarksFromNode,
        "movingModel": meshOf,
    }
    found = []
    for name, node in inputs.nodes().items():
        if name in ("fixedVolume", "movingVolume"):
            continue
        try:
            look.get(name, toWorld)(node)
        except InputError as error:
            found.append(Check("node", ERROR, str(error)))
    if (inputs.fixedChannel is None) != (inputs.movingChannel is None):
        alone = inputs.fixedChannel or inputs.movingChannel
        text = _("{name} is compared with nothing. Choose a further volume of the other subject too, or of none.")
        found.append(Check("node", ERROR, text.format(name=alone.GetName())))
    return list({check.text: check for check in found}.values())  # one node may be of use twice


def _tiny(fixed: Grid, moving: Grid, fixedName: str, movingName: str) -> list[Check]:
    return [
        Check(
            "size",
            WARNING,
            _(
                "{name} has only {voxels} voxels: too few to tell whether the result is right. Choose a finer volume, "
                "if there is one."
            ).format(name=name, voxels=" x ".join(map(str, grid.shape))),
        )
        for grid, name in ((fixed, fixedName), (moving, movingName))
        if grid.size < _FEW["volume"] ** grid.ndim
    ]


def _box(grid: Grid) -> tuple[np.ndarray, np.ndarray]:
    ends = np.array(list(itertools.product(*[(-0.5, size - 0.5) for size in grid.shape])))
    points = grid.index_to_physical(ends)
    return points.min(0), points.max(0)


def _overlap(fixed: Grid, moving: Grid, parameters: Parameters, initial: bool) -> list[Check]:
    (fixedLow, fixedHigh), (movingLow, movingHigh) = _box(fixed), _box(moving)
    common = np.clip(np.minimum(fixedHigh, movingHigh) - np.maximum(fixedLow, movingLow), 0, None).prod()
    share = common / min((fixedHigh - fixedLow).prod(), (movingHigh - movingLow).prod())
    # Affine and centers begin where the objects are, wherever that is.
    if share >= _TINY_OVERLAP or initial or parameters.initial_alignment != "none":
        return []
    if share == 0:
        level, text = ERROR, _("The volumes do not overlap, and no initial alignment is asked for.")
    else:
        level = WARNING
        text = _(
            "The volumes overlap by only {share} % of the smaller one, and no initial alignment is asked for."
        ).format(share=f"{100 * share:.0f}")
    text = " ".join([text, _("Let them be aligned first.")])
    return [Check("overlap", level, text, {"initial_alignment": "affine"}, _("Align first"))]


def _voxelSize(fixed: Grid, moving: Grid, fixedName: str, movingName: str, parameters: Parameters) -> list[Check]:
    ratio = fixed.voxel_volume / moving.voxel_volume
    if 1 / _VOXEL_RATIO <= ratio <= _VOXEL_RATIO:
        return []
    fine, coarse = (movingName, fixedName) if ratio > 1 else (fixedName, movingName)
    factor = max(ratio, 1 / ratio)
    text = _(
        "A voxel of {coarse} is {factor} times as large as one of {fine}: what {coarse} does not show cannot be "
        "matched."
    ).format(coarse=coarse, factor=f"{factor:.0f}", fine=fine)
    if ratio > 1:
        advice = _("The result will have its coarse voxels; exchange fixed and moving to get the fine ones.")
        return [Check("voxel size", WARNING, f"{text} {advice}")]
    if parameters.preset == "fast" or parameters.method != "flash":
        return [Check("voxel size", WARNING, text)]
    advice = _("A preset of fewer levels (fast) is enough.")
    return [Check("voxel size", WARNING, f"{text} {advice}", {"preset": "fast"}, _("Use preset fast"))]


# ------------------------------------------------------------------------------------------------------- contents


def _masks(inputs: Inputs, grids: tuple[Grid, Grid]) -> list[Check]:
    """Masks that hold next to nothing, as seen from the voxels of their volume."""
    found = []
    for mask, volume, grid in (
        (inputs.fixedMask, inputs.fixedVolume, grids[0]),
        (inputs.movingMask, inputs.movingVolume, grids[1]),
    ):
        inside = None if mask is None else insideOf(mask)
        if inside is None:
            continue
        voxels = inside / np.prod(volume.GetSpacing())
        if voxels == 0:
            text = _("The mask {mask} is empty. Draw it, or leave it out.").format(mask=mask.GetName())
            found.append(Check("mask", ERROR, text))
        elif voxels < 2:
            text = _("The mask {mask} covers only one voxel of {volume}. Draw it on the object.").format(
                mask=mask.GetName(), volume=volume.GetName()
            )
            found.append(Check("mask", ERROR, text))
        elif voxels < _FEW["mask"] ** grid.ndim:
            text = _(
                "The mask {mask} covers only {count} voxels of {volume}: too few to tell whether the result is right. "
                "Draw it on the object as a whole."
            ).format(mask=mask.GetName(), count=f"{voxels:.0f}", volume=volume.GetName())
            found.append(Check("mask", WARNING, text))
    return found


def _stripped(fixed: tuple[Volume, Any], moving: tuple[Volume, Any]) -> list[Check]:
    """Each volume with its mask, which says as well as a cut where the object is."""
    background = [background_value(volume) is not None for volume, mask in (fixed, moving)]
    if background[0] == background[1]:
        return []
    (stripped, _own), (whole, mask) = (fixed, moving) if background[0] else (moving, fixed)
    if mask is not None:
        return []
    sizes = [foreground(v).sum() * v.grid.voxel_volume for v in (whole, stripped)]
    if sizes[0] < _STRIPPED_RATIO * sizes[1]:
        return []
    return [
        Check(
            "skull",
            WARNING,
            _(
                "{stripped} shows its object cut out (skull-stripped?), {whole} with what surrounds it. Strip both or "
                "neither, or choose a mask of the object in {whole}."
            ).format(stripped=stripped.name, whole=whole.name),
        )
    ]


def _flipped(fixed: Volume, moving: Volume, initial: bool) -> list[Check]:
    """Compares the objects, centered and scaled to each other, as they are and mirrored or turned about by 180°."""
    if initial or fixed.ndim != 3:
        return []
    lattice = np.stack(np.meshgrid(*[np.linspace(-1, 1, _FLIP_SAMPLES)] * 3, indexing="ij"), -1)
    lattice = _FLIP_RADIUS * lattice[(lattice**2).sum(-1) < 1]
    here = _seen(fixed, lattice)
    scores = {
        signs: _correlation(here, _seen(moving, lattice * signs)) for signs in itertools.product((1, -1), repeat=3)
    }
    own = scores[(1, 1, 1)]
    best = max(scores, key=lambda signs: abs(scores[signs]))
    # A mirror image of a nearly symmetric object (left and right of a head) is never that much better.
    if abs(scores[best]) < max(_FLIP_ENOUGH, abs(own) + _FLIP_GAIN):
        return []
    axes = _("left-right"), _("front-back"), _("up-down")
    names = [name for name, sign in zip(axes, best, strict=True) if sign < 0]
    return [
        Check(
            "orientation",
            WARNING,
            _(
                "{moving} looks like {fixed} turned about ({axes}): correlation {best} that way, {own} as it "
                "is. Its orientation may be stored wrongly. Correct it (Volumes, Volume Information; or put it under a "
                "linear transform) before it is registered."
            ).format(
                moving=moving.name,
                fixed=fixed.name,
                axes=", ".join(names),
                best=f"{scores[best]:.2f}",
                own=f"{own:.2f}",
            ),
        )
    ]


def _seen(volume: Volume, lattice: np.ndarray) -> np.ndarray:
    """The image at points given from the middle of its object in standard deviations of it, along the axes of LPS."""
    inside = foreground(volume)
    points = volume.grid.index_to_physical(np.argwhere(inside))
    center, size = points.mean(0), points.std(0)
    index = np.rint(volume.grid.physical_to_index(center + lattice * size)).astype(int)
    valid = ((index >= 0) & (index < volume.grid.shape)).all(-1)
    index = np.clip(index, 0, np.array(volume.grid.shape) - 1)
    low, high = np.percentile(volume.data[inside], (1, 99))
    values = np.clip(volume.data[tuple(np.moveaxis(index, -1, 0))], low, high)
    return np.where(valid, values, volume.data.min())


def _correlation(one: np.ndarray, other: np.ndarray) -> float:
    one, other = one - one.mean(), other - other.mean()
    scale = np.sqrt((one**2).sum() * (other**2).sum())
    return float((one * other).sum() / scale) if scale > 0 else 0.0


# --------------------------------------------------------------------------------------------------------- memory


def _memory(
    fixed: Volume,
    grids: tuple[Grid, Grid],
    labelled: tuple[bool, bool],
    parameters: Parameters,
    device: str,
    free: tuple[int | None, int],
) -> list[Check]:
    freeHost, freeDevice = free
    if freeHost is None:
        return []
    inside = Volume(fixed.grid, foreground(fixed).astype(np.uint8))
    try:
        stages = stagesOf(parameters)
        labels = tuple(grid.size if there else 0 for grid, there in zip(grids, labelled, strict=True))
        size = needs.sizes(*grids, inside, stages, labels)
    except InputError as error:
        return [Check("settings", ERROR, str(error))]
    host, onDevice = memory.needed_bytes(size, device)
    need = memory.Need(host, freeHost, onDevice, freeDevice)
    if need.fits:
        return []
    spacing = needs.fitting_spacing(*grids, inside, stages, need, device, labels)
    if spacing is None:  # the volumes themselves are too large, or the model has its own voxel
        advice = (
            _("Close other programs, crop {volume} (module Crop Volume), or compute on the CPU.")
            if onDevice
            else _("Close other programs, or crop {volume} (module Crop Volume).")
        ).format(volume=fixed.name)
        return [Check("memory", WARNING, f"{_needed(need)} {advice}")]
    advice = _("A working voxel of {spacing} mm fits.").format(spacing=f"{spacing:g}")
    action = _("Use {spacing} mm").format(spacing=f"{spacing:g}")
    return [Check("memory", WARNING, f"{_needed(need)} {advice}", {"spacing_mm": spacing}, action)]


def _needed(need: memory.Need) -> str:
    sizes = {name: f"{getattr(need, name) / 2**30:.1f}" for name in ("host", "free_host", "device", "free_device")}
    text = (
        _(
            "About {host} GB of memory are needed and {free_host} GB are free; on the GPU {device} GB, and "
            "{free_device} GB are free."
        )
        if need.device
        else _("About {host} GB of memory are needed and {free_host} GB are free.")
    )
    return text.format(**sizes)
