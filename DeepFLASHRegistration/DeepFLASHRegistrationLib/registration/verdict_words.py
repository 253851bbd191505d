# SPDX-License-Identifier: Apache-2.0
"""The verdict in words: the one place that turns its codes and figures into sentences, in English or translated."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from ..support.words import Translator, english, filled

if TYPE_CHECKING:
    from .verdict import Criterion

_MOST_LABELS = 6


def title(criterion: Criterion, _: Translator = english) -> str:
    """What is judged, in a word or two."""
    return _TITLES[criterion.code](_)


def sentence(criterion: Criterion, _: Translator = english) -> str:
    """What was found and, where something is wrong, what to do."""
    values = {**criterion.arguments, **criterion.limits}
    if "labels" in values:
        values["labels"] = _listed(values["labels"], _)
    for name, words in (("axis", _AXES), ("of", _PARTS)):
        if name in values:
            values[name] = words[values[name]](_)
    if criterion.finding in _UNMEASURED:
        found = _UNMEASURED[criterion.finding](_)
        values["title"] = title(criterion, _)
    else:
        found = _SENTENCES[criterion.code, criterion.finding](_)
    text = filled(found, **values)
    return " ".join([text, _("Labels or landmarks speak against it and weigh more.")]) if criterion.outweighed else text


def limits(criterion: Criterion, _: Translator = english) -> str:
    """What is allowed."""
    if criterion.finding == "not-measured":
        return _("must be measured")
    if not criterion.limits and criterion.code in _FIXED_LIMITS:
        return _FIXED_LIMITS[criterion.code](_)
    if not criterion.limits:
        return _("must be a finite number")
    text = _LIMITS[criterion.code](_)
    if "check_mm" in criterion.limits and criterion.code == "landmarks":
        text += "; " + _("≤ {check_mm:.3g} mm; failed above {failed_mm:.3g} mm")
    of = {"of": _PARTS[criterion.arguments["of"]](_)} if "of" in criterion.arguments else {}
    return filled(text, **criterion.limits, **of)


def change(percent: float, _: Translator = english) -> str:
    """A volume change."""
    digits = "{:+.0f} %" if abs(percent) >= 10 else "{:+.2g} %"
    return _("vanished") if percent <= -100.0 else filled(digits, percent)


def _listed(labels: list[Mapping[str, Any]], _: Translator) -> str:
    items = []
    for each in labels[:_MOST_LABELS]:
        name = each.get("name") or _("label {number}").format(number=each["label"])
        figure = change(each["percent"], _) if "percent" in each else filled("{:+.2f}", each["change"])
        items.append(f"{name} ({figure})")
    text = ", ".join(items)
    more = len(labels) - _MOST_LABELS
    return _("{labels} and {count} more").format(labels=text, count=more) if more > 0 else text


_AXES = {
    "left-right": lambda _: _("left-right"),
    "front-back": lambda _: _("front-back"),
    "head-foot": lambda _: _("head-foot"),
    "horizontal": lambda _: _("horizontal"),  # of a picture
    "vertical": lambda _: _("vertical"),
}
_PARTS = {
    "mask": lambda _: _("the mask"),
    "labels": lambda _: _("the labels"),
    "foreground": lambda _: _("the foreground"),
}

_TITLES = {
    "completion": lambda _: _("Completion"),
    "similarity": lambda _: _("Similarity"),
    "channels": lambda _: _("Further images"),
    "mirror": lambda _: _("Mirror image"),
    "overlap": lambda _: _("Overlap"),
    "pose": lambda _: _("Pose"),
    "folds": lambda _: _("Folds"),
    "folds-strict": lambda _: _("Folds, strict"),
    "smallest-determinant": lambda _: _("Smallest determinant"),
    "inverse-error": lambda _: _("Inverse error"),
    "field-of-view": lambda _: _("Field of view"),
    "landmarks": lambda _: _("Landmarks"),
    "landmark-pairs": lambda _: _("Landmark pairs"),
    "mean-dice": lambda _: _("Mean Dice"),
    "label-dice": lambda _: _("Dice per label"),
    "volume-change": lambda _: _("Volume change"),
    "kept": lambda _: _("Kept structures"),
    "training-data": lambda _: _("Training data"),
}

_UNMEASURED = {
    "not-measured": lambda _: _("{title}: not measured."),
    "not-finite": lambda _: _("{title}: could not be measured, the figure is not a finite number."),
}

_SENTENCES = {
    ("completion", "cancelled"): lambda _: _("The registration was cancelled; this is the best result up to then."),
    ("similarity", "agree"): lambda _: _(
        "Inside, the images agree to {reached:.2f}; turned by half, where nothing can lie right, to {floor:.2f}. "
        "That is {share:+.0%} of what is possible ({check:.0%} expected)."
    ),
    ("similarity", "alike"): lambda _: _(
        "Inside, the images agree almost perfectly, to {reached:.2f} (from {enough:g} on nothing more is asked for), "
        "though turned by half as well, to {floor:.2f}: a round object looks the same."
    ),
    ("similarity", "unclear"): lambda _: _(
        "The images hardly agree better than if they did not belong together: they may show different things, or lie "
        "wrongly on each other. Compare them in the checkerboard, and try another initial alignment, similarity, or "
        "masks. (Inside they agree to {reached:.2f}; turned by half, where nothing can lie right, to {floor:.2f}; that "
        "is {share:+.0%} of what is possible, {check:.0%} expected.)"
    ),
    ("similarity", "turned"): lambda _: _(
        "Turned by half about the {axis} axis they agree better: the alignment went astray, or a header is wrong. "
        "Compare the orientation, and try another initial alignment. (Inside they agree to {reached:.2f}, turned to "
        "{floor:.2f}; that is {share:+.0%} of what is possible, {check:.0%} expected.)"
    ),
    ("similarity", "turned-in-plane"): lambda _: _(
        "Turned by half they agree better: the alignment went astray, or a header is wrong. Compare the orientation, "
        "and try another initial alignment. (Inside they agree to {reached:.2f}, turned to {floor:.2f}; that is "
        "{share:+.0%} of what is possible, {check:.0%} expected.)"
    ),
    ("similarity", "too-little-seen"): lambda _: _(
        "Too little is seen of both images to tell whether they agree: look at the pictures."
    ),
    ("channels", "met"): lambda _: _(
        "Of the further images none became less alike: {image} went from {before:.3f} to {after:.3f}."
    ),
    ("channels", "lost"): lambda _: _(
        "{image} became less alike, from {before:.3f} to {after:.3f}: it contradicts what else is compared. Look at "
        "it; give it more weight, another similarity, or leave it out."
    ),
    ("mirror", "mirrored"): lambda _: _(
        "Mirrored along the {axis} axis, the moving image agrees better: a header may be mirrored. Check on which side "
        "the organs lie in both."
    ),
    ("overlap", "met"): lambda _: _(
        "Where both images see, the foregrounds overlap with a Dice of {dice:.2f} (at least {check:g} expected)."
    ),
    ("overlap", "low"): lambda _: _(
        "The objects hardly lie on each other: where both images see, the foregrounds overlap with a Dice of "
        "{dice:.2f} (at least {check:g} expected). Look at the outlines; if they do not meet, try another initial "
        "alignment, or masks."
    ),
    ("overlap", "low-but-alike"): lambda _: _(
        "The outlines differ, though inside the images agree: where both images see, the foregrounds overlap with a "
        "Dice of {dice:.2f} (at least {check:g} expected)."
    ),
    ("pose", "met"): lambda _: _(
        "The alignment turns by {degrees:.0f}° and scales by {factor:.2f} against the headers."
    ),
    ("pose", "turned"): lambda _: _(
        "The alignment turns the image by {degrees:.0f}° against its header (up to {most_degrees:g}° expected): "
        "compare both images' orientation in the pictures."
    ),
    ("pose", "scaled"): lambda _: _(
        "The alignment scales lengths by a factor of {factor:.2f} (up to {most_factor:g} expected): compare both "
        "images' voxel size in the pictures."
    ),
    ("pose", "turned-and-scaled"): lambda _: _(
        "The alignment turns the image by {degrees:.0f}° against its header and scales lengths by a factor of "
        "{factor:.2f} (up to {most_degrees:g}° and {most_factor:g} expected): compare both images' orientation and "
        "voxel size in the pictures."
    ),
    ("folds", "none"): lambda _: _("No tissue is turned inside out (no voxel is folded, by central differences)."),
    ("folds", "folded"): lambda _: _(
        "The map turns tissue inside out: {count} voxels ({percent:.3g} %) are folded, by central differences (none "
        "expected). It is not one-to-one there; read nothing off it."
    ),
    ("folds-strict", "none"): lambda _: _(
        "Between neighboring voxels no tissue is turned inside out (no voxel is folded, by all corner simplices)."
    ),
    ("folds-strict", "folded"): lambda _: _(
        "Between neighboring voxels, the map turns tissue inside out: {count} voxels ({percent:.3g} %) are folded, by "
        "all corner simplices (none expected). It is not one-to-one there."
    ),
    ("smallest-determinant", "met"): lambda _: _(
        "No tissue is squeezed too far: the smallest Jacobian determinant is {determinant:.3g} ({check:g} or more "
        "expected)."
    ),
    ("smallest-determinant", "low"): lambda _: _(
        "Somewhere tissue has only {determinant:.3g} of its volume in the moving image (smallest Jacobian determinant; "
        "{check:g} or more expected), which is rarely anatomy. Look there."
    ),
    ("smallest-determinant", "folded"): lambda _: _(
        "The smallest Jacobian determinant is {determinant:.3g} ({check:g} or more expected): tissue is folded there."
    ),
    ("inverse-error", "met"): lambda _: _(
        "There and back, 95 % of points return to within {p95_mm:.3g} mm ({check_mm:.3g} mm expected)."
    ),
    ("inverse-error", "large"): lambda _: _(
        "There and back, 95 % of points return only to within {p95_mm:.3g} mm ({check_mm:.3g} mm expected): "
        "the two transforms are no longer each other's inverse."
    ),
    ("field-of-view", "all-seen"): lambda _: _("The moving image shows all of the fixed foreground."),
    ("field-of-view", "part-unseen"): lambda _: _(
        "{outside:.2g%} of the fixed foreground lies outside the moving image's field of view and was left out of the "
        "judgement."
    ),
    ("field-of-view", "mask-cut"): lambda _: _(
        "{part:.0%} of the mask is outside the other image's field of view: there the map is continued smoothly, and "
        "carries no information."
    ),
    ("field-of-view", "labels-cut"): lambda _: _(
        "{part:.0%} of the labels are outside the other image's field of view: there the map is continued smoothly, "
        "and carries no information."
    ),
    ("field-of-view", "foreground-cut"): lambda _: _(
        "Most of the foreground ({part:.0%}) is outside the other image's field of view: there the map is continued "
        "smoothly, and carries no information."
    ),
    ("landmarks", "met"): lambda _: _(
        "The mean landmark error went from {before_mm:.2f} to {after_mm:.2f} mm (it must not grow)."
    ),
    ("landmarks", "grew"): lambda _: _(
        "The landmarks lie farther from their partners than before: the mean error went from {before_mm:.2f} to "
        "{after_mm:.2f} mm (it must not grow)."
    ),
    ("landmarks", "far"): lambda _: _(
        "The landmarks end far from their partners: the mean error went from {before_mm:.2f} to {after_mm:.2f} mm, "
        "{part_of_object:.0%} of the object's size. Check the pairs, and the alignment."
    ),
    ("landmark-pairs", "met"): lambda _: _("Each landmark ends nearest to its own partner."),
    ("landmark-pairs", "mispaired"): lambda _: _(
        "{part:.0%} of the landmarks end at another's partner: are they paired in the right order?"
    ),
    ("mean-dice", "met"): lambda _: _(
        "The mean Dice of the labels went from {before:.3f} to {after:.3f} (it must not fall, and {check:g} is "
        "expected)."
    ),
    ("mean-dice", "lost"): lambda _: _(
        "The labels overlap less than before: their mean Dice went from {before:.3f} to {after:.3f} (it must not fall)."
    ),
    ("mean-dice", "low"): lambda _: _(
        "The labels hardly overlap: their mean Dice went from {before:.3f} to {after:.3f} ({check:g} is expected). "
        "Check that the same numbers mean the same structures on both sides, and the alignment."
    ),
    ("label-dice", "met"): lambda _: _("No label lost more than {loss:g} in Dice."),
    ("label-dice", "lost"): lambda _: _("Overlapping less than before, by more than {loss:g} in Dice: {labels}."),
    ("volume-change", "met"): lambda _: _("No label's volume changed by more than a factor of {factor:g}."),
    ("volume-change", "large"): lambda _: _(
        "The volume changed by more than a factor of {factor:g}: {labels}. Disease can do that, and so can a wrong "
        "match."
    ),
    ("kept", "met"): lambda _: _("What was to stay rigid, or to keep its volume, did."),
    ("kept", "changed"): lambda _: _(
        "Structures that were to stay rigid, or to keep their volume, changed: {labels}. More iterations, or less that "
        "contradicts it, let them be kept."
    ),
    ("training-data", "other-fixed-image"): lambda _: _(
        "The fixed image does not look like those that the model {model} was trained on: it agrees with their mean to "
        "{agreement:.2f}, where they do to {usual:.2f} on average. Use a model for such images, or the method flash."
    ),
    ("training-data", "other-moving-image"): lambda _: _(
        "The moving image does not look like those that the model {model} was trained on: it agrees with their mean to "
        "{agreement:.2f}, where they do to {usual:.2f} on average. Check the alignment; or use a model for such "
        "images, or the method flash."
    ),
    ("training-data", "other-size"): lambda _: _(
        "The fixed object measures {smallest_mm:.0f} to {largest_mm:.0f} mm along its sides; the model {model} was "
        "trained on objects with lengths of {low_mm:.0f} to {high_mm:.0f} mm."
    ),
    ("training-data", "energy-left"): lambda _: _(
        "These images are unlike those that the model {model} was trained on: its prediction left {left:.0%} of the "
        "energy, where in validation it left {usual:.0%} (sd {spread:.0%})."
    ),
    ("training-data", "dropped"): lambda _: _(
        "The prediction of the model {model} did not make the images more alike, and was dropped."
    ),
}

_FIXED_LIMITS = {
    "completion": lambda _: _("runs to its end"),
    "mirror": lambda _: _("no better when mirrored"),
    "training-data": lambda _: _("like the images the model was trained on"),
}
_LIMITS = {
    "similarity": lambda _: _("≥ {check:g} of the possible; failed below {failed:g}"),
    "channels": lambda _: _("similarity falls by ≤ {loss:g}"),
    "overlap": lambda _: _("≥ {check:g}; failed below {failed:g}"),
    "pose": lambda _: _("≤ {most_degrees:g}°, factor ≤ {most_factor:g}"),
    "folds": lambda _: _("0; failed above {failed:g} % of voxels"),
    "folds-strict": lambda _: _("0; failed above {failed:g} % of voxels"),
    "smallest-determinant": lambda _: _("≥ {check:g}"),
    "inverse-error": lambda _: _("95 % within {check_mm:.3g} mm; failed above {failed_mm:.3g} mm"),
    "field-of-view": lambda _: _("of {of}, ≤ {most:.0%} outside"),
    "landmarks": lambda _: _("× ≤ {check_ratio:g}; failed above × {failed_ratio:g}"),
    "landmark-pairs": lambda _: _("0; failed above {failed:.0%}"),
    "mean-dice": lambda _: _(
        "loss ≤ {check_loss:g}, failed above {failed_loss:g}; ≥ {check:g}, failed below {failed:g}"
    ),
    "label-dice": lambda _: _("loss ≤ {loss:g} each"),
    "volume-change": lambda _: _("factor ≤ {factor:g} per label"),
    "kept": lambda _: _("distances within {shape:g} %, volumes within {volume:g} %"),
}
