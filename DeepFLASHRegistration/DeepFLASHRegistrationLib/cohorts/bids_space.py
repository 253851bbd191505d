# SPDX-License-Identifier: Apache-2.0
"""What images of a data set in BIDS are registered to: an image or a template, and what its space is called."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from ..imaging.files import stem
from ..imaging.grid import Grid
from ..imaging.io import read_grid
from ..support.errors import InputError
from .template_files import LABELS, MASK, TEMPLATE

_NAMED_TEMPLATE = re.compile(r"tpl-([a-zA-Z0-9]+)((?:_[a-zA-Z]+-[a-zA-Z0-9+]+)*)_[a-zA-Z0-9]+")
# Entities of a template's name that belong to the space of what lies on it, in their order.
_OF_SPACE = ("cohort", "res")


@dataclass(frozen=True)
class Space:
    """The space of a template.

    Attributes:
        image: its file.
        grid: of the image.
        name: as in space-NAME.
        entities: cohort and res, where the template's name has them.
        labels, mask: of the template, where there are any.
    """

    image: Path
    grid: Grid
    name: str
    entities: Mapping[str, str] = field(default_factory=dict)
    labels: Path | None = None
    mask: Path | None = None

    @property
    def to(self) -> str:
        """As in from-T1w_to-NAME; a cohort stands behind a plus."""
        return self.name + (f"+{self.entities['cohort']}" if "cohort" in self.entities else "")

    @property
    def stem(self) -> str:
        """As in names of images that lie in it."""
        return "_".join([f"space-{self.name}", *(f"{key}-{value}" for key, value in self.entities.items())])


def read_space(template: str | os.PathLike, name: str = "") -> Space:
    """The space of an image, or of a folder that `deepflash template` made.

    Args:
        template: the image or the folder. Of an image named as in TemplateFlow (tpl-NAME_res-1_T1w.nii.gz) the mask
            beside it is found (desc-brain_mask).
        name: of the space; "" for that of the template or its file.

    Raises:
        InputError: there is none, it is no 3-D image, or its name is none that BIDS allows.
    """
    path = Path(template)
    folder = path.is_dir() and not any(path.glob("*.dcm"))
    if folder and not (path / TEMPLATE).is_file():
        raise InputError(f'{path}: has no {TEMPLATE}. Pass an image, or a folder that "deepflash template" has filled.')
    image = path / TEMPLATE if folder else path
    grid = read_grid(image)
    if grid.ndim != 3 or grid.plane is not None:
        raise InputError(f"{image}: is no 3-D image. Pass one to which 3-D images can be registered.")
    match = _NAMED_TEMPLATE.fullmatch(stem(image))
    said = dict(each.split("-", 1) for each in match[2].split("_")[1:]) if match else {}
    own = match[1] if match else re.sub(r"[^a-zA-Z0-9]", "", path.resolve().name if folder else stem(image))
    name = name or own
    if not re.fullmatch(r"[a-zA-Z0-9]+", name):
        raise InputError(
            f"--template-name {name!r}: is no label in BIDS. Name the space of {image} by letters and digits."
        )
    mask = (
        path / MASK
        if folder
        else image.with_name(image.name.replace(f"_{stem(image).rsplit('_', 1)[-1]}.", "_desc-brain_mask."))
    )
    return Space(
        image,
        grid,
        name,
        {key: said[key] for key in _OF_SPACE if key in said},
        labels if folder and (labels := path / LABELS).is_file() else None,
        mask if (match or folder) and mask.is_file() else None,
    )
