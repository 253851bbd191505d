# SPDX-License-Identifier: Apache-2.0
"""The derivatives of one image of a data set in BIDS: what they are called, put in place, and described."""

from __future__ import annotations

import contextlib
import json
import os
import re
import secrets
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..jobs.ledger import Done
from ..report.tables import escaped
from ..results.velocity import SUMMARY, VELOCITY
from ..support.errors import InputError
from .bids_dataset import BidsDataset, BidsImage
from .bids_folder import Links, write_json, write_text
from .bids_space import Space

# What else than the velocity the map is written as, by the end of its file.
TRANSFORMS = {"itk": ".h5", "x5": ".x5"}
FORTH, BACK = "from_subject", "from_template"
OUTPUTS = ("labels", "report", "warped")
_FORMAT = 1
_NOT_KEPT = ("history", "files", "largest_change_by_rounding_mm", "timings_seconds")


def transform_stem(image: BidsImage, to: str, back: bool = False) -> str:
    """The name of a map without its end: from-T1w_to-NAME resamples the image on the template."""
    a, b = (to, image.suffix) if back else (image.suffix, to)
    return f"{image.stem}_from-{a}_to-{b}_mode-image_xfm"


def read_record(path: Path) -> dict[str, Any] | None:
    """What `Derivatives.place` wrote of an image; None if there is nothing like it."""
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        good = values["Format"] == _FORMAT and all(
            isinstance(values[name], kind)
            for name, kind in (("Key", str), ("Figures", dict), ("Result", dict), ("Outputs", list), ("Space", str))
        )
        return values if good else None
    except (OSError, ValueError, LookupError, TypeError, RecursionError):
        return None


class Derivatives:
    """What a folder gets of the images of a data set in the space of a template."""

    def __init__(self, dataset: BidsDataset, space: Space, out: Path, labels: str) -> None:
        """``labels``: as Choice.labels."""
        self.links = Links(dataset, out)
        self._dataset, self._space, self._out, self._labels = dataset, space, out, labels

    def record_path(self, image: BidsImage) -> Path:
        """Where it is written what an image has: its derivatives are whole once this is there."""
        return self._out / image.folder / f"{transform_stem(image, self._space.to)}.json"

    def place(self, image: BidsImage, key: str, done: Done, folder: Path, transforms: Mapping[str, Path]) -> None:
        """Puts the files of a registration, and those of its map, in their places, and describes them.

        What lies there of another registration goes; what is right stays.

        Args:
            image: of the data set.
            key: of the job.
            done: what is known of it.
            folder: of its result.
            transforms: folders with the map as FORTH and BACK, by kind.

        Raises:
            InputError, OSError: they cannot be written; a file that is not in its place is neither in the folder.
        """
        record = self.record_path(image)
        before = read_record(record)
        if before is None or before["Key"] != key:
            self._remove(image, before)
        files = self._targets(image, folder, transforms)
        for source, target in files:
            _put(source, target)
        report = self._out / image.participant / "figures" / f"{image.stem}_{self._space.stem}_{image.suffix}.html"
        outputs = [target.relative_to(self._out).as_posix() for target in (*(target for _, target in files), report)]
        _put_report(folder / "report.html", report, outputs)
        result = (
            before["Result"]
            if before and before["Key"] == key
            else json.loads((folder / SUMMARY).read_text(encoding="utf-8"))
        )
        self._describe(image, outputs, transforms)
        figures = {**(done.value if isinstance(done.value, dict) else {}), "tries": done.tries}
        write_json(record, self._record(image, key, outputs, figures, result))

    def _targets(self, image: BidsImage, folder: Path, transforms: Mapping[str, Path]) -> list[tuple[Path, Path]]:
        """Files, and where they belong."""
        place, lies = self._out / image.folder, f"{image.stem}_{self._space.stem}"
        forth, back = (transform_stem(image, self._space.to, way) for way in (False, True))
        files = [
            (folder / VELOCITY, place / f"{forth}.safetensors"),
            (folder / "warped.nii.gz", place / f"{self._warped(image)}.nii.gz"),
        ]
        if image.labels is not None:
            files.append((folder / "labels.nii.gz", place / f"{lies}_{self._labels}.nii.gz"))
        for kind, where in transforms.items():
            end = TRANSFORMS[kind]
            files.append((where / f"{FORTH}{end}", place / f"{forth}{end}"))
            files.append((where / f"{BACK}{end}", place / f"{back}{end}"))
        return files

    def _warped(self, image: BidsImage) -> str:
        return f"{image.stem}_{self._space.stem}_desc-warped_{image.suffix}"

    def _remove(self, image: BidsImage, before: Mapping[str, Any] | None) -> None:
        """Takes away what is of another registration: first that it is whole."""
        self.record_path(image).unlink(missing_ok=True)
        # Maps that another run wrote meanwhile may not be listed.
        stems = [transform_stem(image, self._space.to, back) for back in (False, True)]
        names = {f"{image.folder}/{stem}{end}" for stem in stems for end in TRANSFORMS.values()}
        for name in names.union(before["Outputs"] if before else ()):
            path = (self._out / str(name)).resolve()
            if path.is_relative_to(self._out.resolve()):
                path.unlink(missing_ok=True)
                path.with_name(f"{path.name.removesuffix('.gz').rpartition('.')[0]}.json").unlink(missing_ok=True)

    def _describe(self, image: BidsImage, outputs: Sequence[str], transforms: Mapping[str, Path]) -> None:
        """The files of JSON beside the images and the way back."""
        uri, place = self.links.uri, self._out / image.folder
        common: dict[str, Any] = {"SpatialReference": uri(self._space.image)}
        if "res" in self._space.entities:
            common["Resolution"] = f"that of {self._space.image.name}"
        sources = [uri(image.path), f"bids::{image.folder}/{transform_stem(image, self._space.to)}.safetensors"]
        described = f"{image.path.name} on the voxels of {self._space.image.name}, in its own intensities."
        warped = {"Description": described, "Sources": sources, **common, "SkullStripped": self._skull_stripped(image)}
        write_json(place / f"{self._warped(image)}.json", warped)
        if image.labels is not None:
            values = {
                "Description": f"{image.labels.name}, carried there.",
                "Sources": [uri(image.labels), *sources[1:]],
            }
            values |= common
            write_json(place / f"{image.stem}_{self._space.stem}_{self._labels}.json", values)
        if transforms:
            values = {"Sources": sources, "SpatialReference": uri(image.path), "Invertible": True}
            write_json(place / f"{transform_stem(image, self._space.to, True)}.json", values)

    def _record(
        self,
        image: BidsImage,
        key: str,
        outputs: Sequence[str],
        figures: Mapping[str, Any],
        result: Mapping[str, Any],
    ) -> dict[str, Any]:
        uri, space = self.links.uri, self._space
        velocity = f"{transform_stem(image, space.to)}.safetensors"
        belonging = [path for path in (image.mask, image.labels) if path is not None]
        return {
            "Format": _FORMAT,
            "Description": f"The geodesic of diffeomorphisms between {image.path.name} and {space.image.name}, by its "
            "initial velocity; the affine is within. It leads both ways.",
            "Sources": [uri(path) for path in (image.path, *belonging)],
            "SpatialReference": uri(space.image),
            "Space": space.to,
            "BrainMask": None if image.mask is None else uri(image.mask),
            "Invertible": True,
            "Apply": {
                "ImageToTemplate": f"deepflash apply {velocity} {image.path.name} -o on_{space.name}.nii.gz",
                "LabelsToSubject": f"deepflash apply {velocity} ATLAS.nii.gz --to moving --labels -o in_subject.nii.gz",
                "MapToTemplate": f"deepflash apply {velocity} -o {velocity.removesuffix('.safetensors')}.h5",
                "MapToSubject": f"deepflash apply {velocity} --to moving -o {transform_stem(image, space.to, True)}.h5",
            },
            "Outputs": list(outputs),
            "Key": key,
            "Figures": figures,
            "Result": {name: value for name, value in result.items() if name not in _NOT_KEPT},
        }

    def _skull_stripped(self, image: BidsImage) -> bool:
        """What is said beside the image, or for all of its kind; images as scanners give them are not."""
        beside = image.path.with_name(f"{image.name}.json")
        for path in (beside, self._dataset.folder / f"{image.suffix}.json"):
            with contextlib.suppress(OSError, ValueError):
                values = json.loads(path.read_text(encoding="utf-8-sig"))
                if isinstance(values, dict) and "SkullStripped" in values:
                    return bool(values["SkullStripped"])
        return False


def _put(source: Path, target: Path) -> None:
    """Makes a file of the work folder appear in its place, whole; without a copy where both are on one disk."""
    if not source.exists():
        if target.exists():
            return
        raise InputError(
            f"{target}: is missing, and so is {source}, of which it was made. Remove {source.parent}, and run again."
        )
    if target.exists():
        one, other = source.stat(), target.stat()
        if os.path.samestat(one, other) or (one.st_size, one.st_mtime_ns) == (other.st_size, other.st_mtime_ns):
            return
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(f".{secrets.token_hex(6)}.{target.name}")
    try:
        try:
            os.link(source, temporary)
        except OSError:  # another disk, or one without such links
            shutil.copy2(source, temporary)
        os.replace(temporary, target)
    finally:
        temporary.unlink(missing_ok=True)


def _put_report(source: Path, target: Path, outputs: Sequence[str]) -> None:
    """The report of a registration, with the names that its files have in the data set."""
    if not source.exists() and target.exists():
        return
    names = "".join(f"<li>{escaped(name)}</li>" for name in outputs)
    section = f'<section class="files"><h2>Files in the data set</h2><ul>{names}</ul></section>'
    page = source.read_text(encoding="utf-8")
    target.parent.mkdir(parents=True, exist_ok=True)
    write_text(target, re.sub(r'<section class="files">.*?</section>', lambda _: section, page, flags=re.DOTALL))


def write_subject_page(out: Path, participant: str) -> None:
    """Writes sub-XX.html of the reports of its images: one after the other in one file."""
    reports = sorted((out / participant / "figures").glob("sub-*.html"))
    if not reports:
        return
    target = out / f"{participant}.html"
    if len(reports) == 1:
        _put(reports[0], target)
        return
    texts = [path.read_text(encoding="utf-8") for path in reports]
    head = texts[0].partition("<main>")[0]
    bodies = [text.partition("<main>")[2].rpartition("</main>")[0] for text in texts]
    marked = [f"<main><p><b>{path.stem}</b></p>{body}</main>" for path, body in zip(reports, bodies, strict=True)]
    write_text(target, f"{head}{''.join(marked)}</body></html>\n")
