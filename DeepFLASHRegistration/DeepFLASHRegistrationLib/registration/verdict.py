# SPDX-License-Identifier: Apache-2.0
"""The verdict on a registration: good, check or failed, each with its reasons.

docs/verdict.md explains the limits in the user's words; keep it in step with the constants here.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple


class Limits(NamedTuple):
    """Beyond `check` somebody should look; beyond `failed` the result should not be used."""

    check: float
    failed: float


# Dice of the two foregrounds where both are seen: below. It fails nothing that agrees inside.
OVERLAP = Limits(0.60, 0.30)
# By how much of what is possible the images agree better than turned by half, where nothing can lie right: below.
AGREEMENT = Limits(0.25, -0.10)
# Similarity from which nothing more is asked for, though turned by half the images agree as well (a round object).
AGREEMENT_ENOUGH = 0.95
# Degrees by which the alignment turned against the headers, factor by which it scaled: above. Neither fails by itself.
TURN_DEGREES = 45.0
SCALE_FACTOR = 1.5
# Percent of voxels whose determinant by central differences is not positive: above.
FOLDED_PERCENT = Limits(0.0, 0.1)
# Percent of voxels folded by the strict criterion (all corner simplices): above.
STRICT_FOLDED_PERCENT = Limits(0.0, 1.0)
# Smallest Jacobian determinant: below. Whether too many are not even positive is judged by the folds.
SMALLEST_DETERMINANT = Limits(0.05, -math.inf)
# 95th percentile of the inverse-consistency error in voxels of the fixed image: above.
INVERSE_ERROR_VOXELS = Limits(0.5, 2.0)
# Factor by which a label's volume grew or shrank: above. Anatomy can do that, so it never fails by itself.
VOLUME_FACTOR = 3.0
# Part of a mask or of labels, and of the foreground without either, outside the other field of view: above. It never
# fails by itself: what is not seen is not judged.
CUT_PART = 0.05
CUT_FOREGROUND = 0.5
# Mean landmark error after / before: above, and by more than LANDMARK_SLACK_VOXELS.
LANDMARK_RATIO = Limits(1.05, 1.5)
LANDMARK_SLACK_VOXELS = 0.25
# Mean landmark error afterwards, in parts of the object's edge (that of a cube of its volume): above.
LANDMARK_ERROR = Limits(0.08, 0.25)
# Fraction of landmarks that end at another's partner: above.
LANDMARKS_MISPAIRED = Limits(0.0, 0.3)
# Loss of mean Dice: above.
MEAN_DICE_LOSS = Limits(0.005, 0.02)
# Mean Dice afterwards: below.
MEAN_DICE = Limits(0.40, 0.20)
# Loss of Dice of one label of at least SMALLEST_LABEL_VOXELS voxels: above. It never fails by itself.
LABEL_DICE_LOSS = 0.10
SMALLEST_LABEL_VOXELS = 50

_LEVELS = ("good", "check", "failed")


@dataclass(frozen=True)
class Verdict:
    """What a registration is worth. level: "good", "check" or "failed"; reasons: sentences, gravest first."""

    level: str
    reasons: list[str]


@dataclass(frozen=True)
class Criterion:
    """One figure held against its limits: level as in Verdict, sentence the reason, limits in words."""

    name: str
    level: str
    sentence: str
    limits: str


def verdict(metrics: Mapping[str, Any], cancelled: bool = False) -> Verdict:
    """Judges the metrics of a result (registration.result.Result.metrics) by the limits above.

    The level is that of the worst criterion. The reasons are those of every criterion that is not good,
    gravest first, or, if all are good, those of all. voxel_mm (edge of a fixed voxel, geometric mean, default
    1) and ndim (default 3) among the metrics turn millimeters into voxels.
    """
    found = criteria(metrics, cancelled)
    level = max((c.level for c in found), key=_LEVELS.index)
    reasons = [c.sentence for name in ("failed", "check") for c in found if c.level == name]
    return Verdict(level, reasons or [c.sentence for c in found])


def criteria(metrics: Mapping[str, Any], cancelled: bool = False) -> list[Criterion]:
    """Every criterion of the verdict that the metrics allow, in the order of the report.

    Labels and landmarks weigh more than intensities: where they find the result good, what intensities find is one
    level less grave.
    """
    measure = _Measure(metrics)
    evidence = _given(
        _landmarks(metrics, measure),
        _landmark_pairs(metrics),
        _mean_dice(metrics),
        _label_dice(metrics, measure),
        _volume_change(metrics),
    )
    intensities = _given(_similarity(metrics), _mirror(metrics), _overlap(metrics), _pose(metrics))
    shown = {c.name: c.level for c in evidence}
    if any(name in shown for name in ("Landmarks", "Mean Dice")) and set(shown.values()) == {"good"}:
        intensities = [_lighter(c) for c in intensities]
    return _given(
        _completion(cancelled),
        *intensities,
        _folds(metrics.get("folds"), "Folds", "by central differences", FOLDED_PERCENT),
        _folds(metrics.get("folds_strict"), "Folds, strict", "by all corner simplices", STRICT_FOLDED_PERCENT),
        _smallest_determinant(metrics),
        _inverse_error(metrics, measure),
        _field_of_view(metrics),
        *evidence,
        _unusual(metrics),
    )


def _given(*found: Criterion | None) -> list[Criterion]:
    return [criterion for criterion in found if criterion is not None]


def _lighter(criterion: Criterion) -> Criterion:
    """A finding of the intensities that labels or landmarks contradict."""
    if criterion.level == "good":
        return criterion
    level = _LEVELS[_LEVELS.index(criterion.level) - 1]
    sentence = f"{criterion.sentence} Labels or landmarks speak against it and weigh more."
    return replace(criterion, level=level, sentence=sentence)


class _Measure:
    """The fixed image's voxel: its edge in mm, and its volume."""

    def __init__(self, metrics: Mapping[str, Any]) -> None:
        self.edge = float(metrics.get("voxel_mm") or 1.0)
        self.volume = self.edge ** int(metrics.get("ndim") or 3)


def _graded(name: str, value: float, limits: Limits, sentence: str, allowed: str) -> Criterion:
    """A criterion whose figure is the worse the larger it is."""
    if not math.isfinite(value):
        sentence = f"{name} could not be measured: the figure is not a finite number."
        return Criterion(name, "failed", sentence, allowed)
    level = "failed" if value > limits.failed else "check" if value > limits.check else "good"
    return Criterion(name, level, sentence, allowed)


def _missing(name: str) -> Criterion:
    return Criterion(name, "check", f"{name} was not measured.", "must be measured")


def _completion(cancelled: bool) -> Criterion | None:
    if not cancelled:
        return None
    sentence = "The registration was cancelled; this is the best result up to then."
    return Criterion("Completion", "check", sentence, "runs to its end")


def _overlap(metrics: Mapping[str, Any]) -> Criterion:
    value, name = metrics.get("overlap"), "Overlap"
    if value is None:
        return _missing(name)
    sentence = f"Where both images see, the foregrounds overlap with a Dice of {value:.2f}"
    sentence += f" (at least {OVERLAP.check:g} expected)."
    allowed = f"≥ {OVERLAP.check:g}; failed below {OVERLAP.failed:g}"
    found = _graded(name, -value, _reversed(OVERLAP), sentence, allowed)
    if found.level == "failed" and math.isfinite(value) and _similarity(metrics).level == "good":
        return replace(found, level="check")
    if found.level != "good":
        advice = " Look at the outlines; if they do not meet, try another initial alignment, or masks."
        found = replace(found, sentence=found.sentence + advice)
    return found


def _similarity(metrics: Mapping[str, Any]) -> Criterion:
    found, name = metrics.get("agreement"), "Similarity"
    if found is None:
        return _missing(name)
    allowed = f"≥ {AGREEMENT.check:g} of the possible; failed below {_signed(AGREEMENT.failed)}"
    if not found:
        sentence = "Too little is seen of both images to tell whether they agree: look at the pictures."
        return Criterion(name, "check", sentence, allowed)
    share, reached, floor = found["share"], found["reached"], found["floor"]
    sentence = (
        f"Inside, the images agree to {reached:.2f}; turned by half, where nothing can lie right, to {floor:.2f}."
    )
    sentence += f" That is {_signed(100 * share, '.0f')} % of what is possible"
    sentence += f" ({100 * AGREEMENT.check:.0f} % expected)."
    graded = _graded(name, -share, _reversed(AGREEMENT), sentence, allowed)
    if graded.level == "good" or (reached >= AGREEMENT_ENOUGH and math.isfinite(share)):
        return replace(graded, level="good")
    about = f" about the {found['turned']} axis" if found.get("turned") else ""
    advice = (
        f" Turned by half{about} they agree better: the alignment went astray, or a header is wrong. Compare the "
        "orientation, and try another initial alignment."
        if graded.level == "failed"
        else " They may show different things, or lie wrongly on each other: compare them in the checkerboard, and try "
        "another initial alignment, similarity, or masks."
    )
    return replace(graded, sentence=sentence + advice)


def _mirror(metrics: Mapping[str, Any]) -> Criterion | None:
    axis = (metrics.get("agreement") or {}).get("mirrored")
    if not axis:
        return None
    sentence = f"Mirrored along the {axis} axis, the moving image agrees better: a header may be mirrored. Check on "
    return Criterion(
        "Mirror image", "check", sentence + "which side the organs lie in both.", "no better when mirrored"
    )


def _pose(metrics: Mapping[str, Any]) -> Criterion | None:
    turn, scale = metrics.get("turn_degrees"), metrics.get("scale")
    if turn is None or scale is None:
        return None
    found = []
    if turn > TURN_DEGREES:
        found.append(f"The alignment turns the image by {turn:.0f}° against its header")
    if scale > SCALE_FACTOR:
        found.append(f"{'it' if found else 'The alignment'} scales lengths by a factor of {scale:.2f}")
    sentence = f"The alignment turns by {turn:.0f}° and scales by {scale:.2f} against the headers."
    if found:
        sentence = f"{' and '.join(found)} (up to {TURN_DEGREES:g}° and {SCALE_FACTOR:g} expected): compare both "
        sentence += "images' orientation and voxel size in the pictures."
    allowed = f"≤ {TURN_DEGREES:g}°, factor ≤ {SCALE_FACTOR:g}"
    return Criterion("Pose", "check" if found else "good", sentence, allowed)


def _folds(folds: Mapping[str, Any] | None, name: str, how: str, limits: Limits) -> Criterion:
    if folds is None:
        return _missing(name)
    count, percent = folds["count"], folds["percent"]
    sentence = f"No voxel is folded, {how}."
    if count:
        sentence = f"{count} voxels ({percent:.3g} %) are folded, {how} (none expected): "
        sentence += "the map is not one-to-one there."
    return _graded(name, percent, limits, sentence, f"0; failed above {limits.failed:g} % of voxels")


def _smallest_determinant(metrics: Mapping[str, Any]) -> Criterion:
    value, name, least = (
        metrics.get("smallest_determinant"),
        "Smallest determinant",
        SMALLEST_DETERMINANT.check,
    )
    if value is None:
        return _missing(name)
    sentence = f"The smallest Jacobian determinant is {value:.3g} ({least:g} or more expected)."
    return _graded(name, -value, _reversed(SMALLEST_DETERMINANT), sentence, f"≥ {least:g}")


def _inverse_error(metrics: Mapping[str, Any], voxel: _Measure) -> Criterion:
    error, name, limits = metrics.get("inverse_error_mm"), "Inverse error", INVERSE_ERROR_VOXELS
    if error is None:
        return _missing(name)
    check, failed = limits.check * voxel.edge, limits.failed * voxel.edge
    sentence = f"There and back, 95 % of points return to within {error['p95']:.3g} mm"
    sentence += f" ({limits.check:g} voxel = {check:.3g} mm expected)."
    allowed = f"95 % within {check:.3g} mm; failed above {failed:.3g} mm"
    return _graded(name, error["p95"] / voxel.edge, limits, sentence, allowed)


def _field_of_view(metrics: Mapping[str, Any]) -> Criterion | None:
    hits, cut = metrics.get("border_hits"), metrics.get("cut")
    if hits is None or cut is None:
        return None
    what, part = cut["what"], cut["part"]
    most = CUT_FOREGROUND if what == "foreground" else CUT_PART
    sentence = f"{100 * hits:.2g} % of the fixed foreground lies outside the moving image's field of view"
    sentence += " and was left out of the judgement." if hits else "."
    allowed = f"of {what}, ≤ {100 * most:g} % outside"
    level = "good"
    if not part <= most:
        level = "check"
        subject = "Most of the foreground is" if what == "foreground" else f"{100 * part:.0f} % of the {what} are"
        if what == "mask":
            subject = f"{100 * part:.0f} % of the mask is"
        sentence = f"{subject} outside the other image's field of view: there the map is continued smoothly, and "
        sentence += "carries no information."
    return Criterion("Field of view", level, sentence, allowed)


def _volume_change(metrics: Mapping[str, Any]) -> Criterion | None:
    changes, most = metrics.get("volume_change"), VOLUME_FACTOR
    if not changes:
        return None
    factors = {label: _factor(percent) for label, percent in changes.items()}
    outliers = sorted((k for k in factors if factors[k] > most), key=lambda k: -factors[k])
    sentence = f"No label's volume changed by more than a factor of {most:g}."
    if outliers:
        text = _listed(f"{label} ({change(changes[label])})" for label in outliers)
        sentence = f"The volume changed by more than a factor of {most:g} for {text}."
    return Criterion("Volume change", "check" if outliers else "good", sentence, f"factor ≤ {most:g} per label")


def _landmarks(metrics: Mapping[str, Any], voxel: _Measure) -> Criterion | None:
    landmarks, limits = metrics.get("landmarks"), LANDMARK_RATIO
    if not landmarks or not len(landmarks["after_mm"]):
        return None
    before, after = mean(landmarks["before_mm"]), mean(landmarks["after_mm"])
    sentence = f"The mean landmark error went from {before:.2f} to {after:.2f} mm (it must not grow)."
    allowed = f"× ≤ {limits.check:g}; failed above × {limits.failed:g}"
    size = metrics.get("object_mm")
    if size:
        share = after / size
        allowed += f"; ≤ {LANDMARK_ERROR.check * size:.3g} mm; failed above {LANDMARK_ERROR.failed * size:.3g} mm"
        if not share <= LANDMARK_ERROR.check:
            sentence += f" It is {100 * share:.0f} % of the object's size: check the pairs, and the alignment."
            found = _graded("Landmarks", share, LANDMARK_ERROR, sentence, allowed)
            if found.level == "failed" or not after - before > LANDMARK_SLACK_VOXELS * voxel.edge:
                return found
    if after - before <= LANDMARK_SLACK_VOXELS * voxel.edge:
        return Criterion("Landmarks", "good", sentence, allowed)
    return _graded("Landmarks", after / max(before, 1e-9), limits, sentence, allowed)


def _landmark_pairs(metrics: Mapping[str, Any]) -> Criterion | None:
    part = (metrics.get("landmarks") or {}).get("nearer_another")
    if part is None:
        return None
    sentence = "Each landmark ends nearest to its own partner."
    if part > LANDMARKS_MISPAIRED.check:
        sentence = f"{100 * part:.0f} % of the landmarks end at another's partner: are they paired in the right order?"
    allowed = f"0; failed above {100 * LANDMARKS_MISPAIRED.failed:g} %"
    return _graded("Landmark pairs", part, LANDMARKS_MISPAIRED, sentence, allowed)


def _mean_dice(metrics: Mapping[str, Any]) -> Criterion | None:
    before, after = metrics.get("mean_dice_before"), metrics.get("mean_dice_after")
    if before is None or after is None:
        return None
    sentence = f"The mean Dice of the labels went from {before:.3f} to {after:.3f} (it must not fall, and "
    sentence += f"{MEAN_DICE.check:g} is expected)."
    allowed = f"loss ≤ {MEAN_DICE_LOSS.check:g}, failed above {MEAN_DICE_LOSS.failed:g}; "
    allowed += f"≥ {MEAN_DICE.check:g}, failed below {MEAN_DICE.failed:g}"
    lost = _graded("Mean Dice", before - after, MEAN_DICE_LOSS, sentence, allowed)
    low = _graded("Mean Dice", -after, _reversed(MEAN_DICE), sentence, allowed)
    found = max(lost, low, key=lambda c: _LEVELS.index(c.level))
    if low.level != "good" and math.isfinite(after):
        advice = " Check that the same numbers mean the same structures on both sides, and the alignment."
        found = replace(found, sentence=sentence + advice)
    return found


def _label_dice(metrics: Mapping[str, Any], voxel: _Measure) -> Criterion | None:
    rows, most = metrics.get("dice"), LABEL_DICE_LOSS
    if not rows:
        return None
    smallest = SMALLEST_LABEL_VOXELS * voxel.volume
    losses = {
        label: row["before"] - row["after"]
        for label, row in rows.items()
        if row["after"] is not None and row["volume_fixed_mm3"] >= smallest
    }
    losers = sorted((k for k in losses if losses[k] > most), key=lambda k: -losses[k])
    sentence = f"No label lost more than {most:g} in Dice."
    if losers:
        text = _listed(f"{label} ({_signed(-losses[label], '.2f')})" for label in losers)
        sentence = f"A loss of more than {most:g} in Dice: {text}."
    return Criterion("Dice per label", "check" if losers else "good", sentence, f"loss ≤ {most:g} each")


def _unusual(metrics: Mapping[str, Any]) -> Criterion | None:
    reasons = metrics.get("unusual")
    if not reasons:
        return None
    return Criterion("Training data", "check", " ".join(reasons), "like the images the model was trained on")


def _reversed(limits: Limits) -> Limits:
    """Limits of a figure that is the worse the smaller it is, for its negative."""
    return Limits(-limits.check, -limits.failed)


def mean(values: Sequence[float | None]) -> float:
    """Mean of the finite values; nan if there is none."""
    finite = [float(v) for v in values if v is not None and math.isfinite(v)]
    return sum(finite) / len(finite) if finite else math.nan


def _factor(percent: float) -> float:
    ratio = 1.0 + percent / 100.0
    return max(ratio, 1.0 / ratio) if ratio > 0 else math.inf


def change(percent: float) -> str:
    """A volume change in words."""
    return "vanished" if percent <= -100.0 else f"{_signed(percent, '.0f')} %"


def _signed(value: float, form: str = "g") -> str:
    return f"{value:+{form}}".replace("-", "−")


def _listed(items: Iterable[str], most: int = 6) -> str:
    items = list(items)
    rest = f" and {len(items) - most} more" if len(items) > most else ""
    return ("label " if len(items) == 1 else "labels ") + ", ".join(items[:most]) + rest
