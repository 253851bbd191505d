# SPDX-License-Identifier: Apache-2.0
"""What to write in the methods section of a paper, told by what was written of each registration."""

from __future__ import annotations

import json
import statistics
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ..problem.methods import METHODS
from ..problem.parameters import Parameters
from ..registration.verdict import LEVELS
from .bids_dataset import BidsDataset

if TYPE_CHECKING:
    from .bids_group import Row

_ALIGNED = {
    "affine": "Each image was first aligned with the template by an affine transform.",
    "rigid": "Each image was first aligned with the template by a rigid transform.",
    "centers": "The middles of each image and the template were first brought together.",
    "none": "No linear alignment came first.",
}
_VERDICT = (
    "By the program's own criteria (agreement of the images, overlap, folds, inverse consistency and others, each with "
    "limits that were fixed beforehand)"
)
_HEAD = """# Methods

Written by the program from what was done; edit it as you like, and cite what is listed below.

"""


def methods_text(dataset: BidsDataset, suffix: str, rows: Sequence[Row]) -> str:
    """Paragraphs in Markdown, one for all images that were registered alike, and what to cite.

    Args:
        dataset: of the images.
        suffix: of the images.
        rows: all images, in each space.
    """
    alike: dict[str, list[Row]] = {}
    for row in rows:
        if row.record is not None:
            alike.setdefault(_how(row.record), []).append(row)
    cited: list[str] = []
    paragraphs = []
    for each in alike.values():
        paragraphs.append(_paragraph(dataset, suffix, each, cited))
    without = sum(row.record is None for row in rows)
    if without:
        paragraphs.append(f"{_images(without, suffix)} of the data set {_have(without)} no result.")
    references = "".join(f"{number}. {text}.\n" for number, text in enumerate(cited, 1))
    return _HEAD + "\n\n".join(paragraphs) + "\n" + (f"\n# References\n\n{references}" if references else "")


def _how(record: Mapping[str, Any]) -> str:
    """What is the same of images that one paragraph is about."""
    result = record["Result"]
    return json.dumps([record["Space"], record.get("SpatialReference"), result.get("parameters"), _program(result)])


def _program(result: Mapping[str, Any]) -> str:
    return str((result.get("provenance") or {}).get("program", ""))


def _images(count: int, suffix: str) -> str:
    return f"{count} {suffix} image{'s' * (count > 1)}"


def _have(count: int) -> str:
    return "has" if count == 1 else "have"


def _paragraph(dataset: BidsDataset, suffix: str, rows: Sequence[Row], cited: list[str]) -> str:
    record = rows[0].record or {}
    result = record["Result"]
    parameters = Parameters.from_dict(result["parameters"])
    method = METHODS[parameters.method]
    people = len({row.image.participant for row in rows})
    name, _, version = _program(result).partition(" ")
    sentences = [
        f"{_images(len(rows), suffix)} of {people} participant{'s' * (people > 1)} of the data set {dataset.title} "
        f"{'was' if len(rows) == 1 else 'were'} registered to the template {record['Space']} with DeepFLASH {version} "
        f"({name}).",
        _ALIGNED.get(parameters.initial_alignment, ""),
        f"The deformation was found by the method {method.title}{_cite(method.citation, cited)}.",
        f"In the program's words: “{method.sentence}”",
    ]
    if method.fitted and not parameters.dense:
        sentences.append("Of its map the nearest geodesic was taken.")
    sentences += [_settings(parameters), _masks(rows), _verdicts(rows), _dice(rows), _versions(result)]
    return " ".join(filter(None, sentences))


def _cite(citation: str, cited: list[str]) -> str:
    if not citation:
        return ""
    if citation not in cited:
        cited.append(citation)
    return f" [{cited.index(citation) + 1}]"


def _settings(parameters: Parameters) -> str:
    preset = Parameters.from_preset(parameters.preset).to_dict()
    apart = ("preset", "method", "initial_alignment")
    values = {name: value for name, value in parameters.to_dict().items() if name not in apart}
    changed = {name: value for name, value in values.items() if preset[name] != value}
    text = f"The settings were those of the preset “{parameters.preset}”"
    if not changed:
        return f"{text}."
    shown = ", ".join(
        f"{name} {'×'.join(map(str, value)) if isinstance(value, list) else value}" for name, value in changed.items()
    )
    return f"{text} but for {shown}."


def _masks(rows: Sequence[Row]) -> str:
    masked = sum(bool((row.record or {}).get("BrainMask")) for row in rows)
    if masked == len(rows):
        return "A brain mask from derivatives of the data set said which voxels of an image count."
    if not masked:
        return "No brain masks were used: all of an image counted."
    return f"For {masked} of the images a brain mask from derivatives said which voxels count; of the others all did."


def _verdicts(rows: Sequence[Row]) -> str:
    levels = Counter(row.outcome.level for row in rows)
    words = dict(zip(LEVELS, ("good", "to be checked", "failed"), strict=True))
    found = ", ".join(f"{levels[level]} {words[level]}" for level in LEVELS if levels[level])
    return f"{_VERDICT} the registrations were: {found}." if found else ""


def _dice(rows: Sequence[Row]) -> str:
    found = [row.outcome.dice for row in rows if row.outcome.dice[1] is not None]
    if not found:
        return ""
    before, after = (
        f"{statistics.fmean(values):.3f}" + (f" ± {statistics.stdev(values):.3f}" if len(values) > 1 else "")
        for values in zip(*found, strict=True)
    )
    return f"The mean Dice overlap of labels rose from {before} after the alignment to {after} ({len(found)} images)."


def _versions(result: Mapping[str, Any]) -> str:
    names = {"torch": "PyTorch", "numpy": "NumPy", "SimpleITK": "SimpleITK", "python": "Python"}
    provenance = result.get("provenance") or {}
    found = ", ".join(f"{title} {provenance[name]}" for name, title in names.items() if provenance.get(name))
    return f"Computed with {found}." if found else ""
