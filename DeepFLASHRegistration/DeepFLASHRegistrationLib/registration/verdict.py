# SPDX-License-Identifier: Apache-2.0
"""The verdict on a registration: good, check or failed, each with its reasons.

docs/verdict.md explains the limits in the user's words; keep it in step with the constants here.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple


class Limits(NamedTuple):
    """Beyond `check` somebody should look; beyond `failed` the result should not be used."""

    check: float
    failed: float


# Dice of the two foregrounds: below.
OVERLAP = Limits(0.85, 0.50)
# Gain in NCC inside the mask: below. No gain is asked for where the images agree this well in the end.
SIMILARITY_GAIN = Limits(0.01, -0.02)
SIMILARITY_ENOUGH = 0.95
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
# Fraction of the fixed foreground that is mapped outside the moving image: above.
BORDER_HITS = Limits(0.01, 0.25)
# Mean landmark error after / before: above, and by more than LANDMARK_SLACK_VOXELS.
LANDMARK_RATIO = Limits(1.05, 1.5)
LANDMARK_SLACK_VOXELS = 0.25
# Loss of mean Dice: above.
MEAN_DICE_LOSS = Limits(0.005, 0.02)
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
    """Every criterion of the verdict that the metrics allow, in the order of the report."""
    measure = _Measure(metrics)
    found = [
        _completion(cancelled),
        _overlap(metrics),
        _similarity(metrics),
        _folds(metrics.get("folds"), "Folds", "by central differences", FOLDED_PERCENT),
        _folds(metrics.get("folds_strict"), "Folds, strict", "by all corner simplices", STRICT_FOLDED_PERCENT),
        _smallest_determinant(metrics),
        _inverse_error(metrics, measure),
        _field_of_view(metrics),
        _volume_change(metrics),
        _landmarks(metrics, measure),
        _mean_dice(metrics),
        _label_dice(metrics, measure),
        _unusual(metrics),
    ]
    return [criterion for criterion in found if criterion is not None]


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
    sentence = f"The foregrounds overlap with a Dice of {value:.2f} (at least {OVERLAP.check:.2f} expected)."
    allowed = f"≥ {OVERLAP.check:g}; failed below {OVERLAP.failed:g}"
    return _graded(name, -value, _reversed(OVERLAP), sentence, allowed)


def _similarity(metrics: Mapping[str, Any]) -> Criterion:
    before, after = metrics.get("similarity_before"), metrics.get("similarity_after")
    name, limits = "Similarity", SIMILARITY_GAIN
    if before is None or after is None:
        return _missing(name)
    # Images of opposite contrast agree the better the nearer their correlation is to -1.
    gain = before - after if before < 0 and after < 0 else after - before
    sentence = f"The correlation inside the mask went from {before:.3f} to {after:.3f} ({_signed(gain, '.3f')}; "
    sentence += f"a gain of {limits.check:g} expected, unless {SIMILARITY_ENOUGH:g} is reached)."
    allowed = f"gain ≥ {limits.check:g}; failed below {_signed(limits.failed)}"
    if abs(after) >= SIMILARITY_ENOUGH and gain > limits.failed:
        return Criterion(name, "good", sentence, allowed)
    return _graded(name, -gain, _reversed(limits), sentence, allowed)


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
    value, limits = metrics.get("border_hits"), BORDER_HITS
    if value is None:
        return None
    sentence = f"{100 * value:.2g} % of the fixed foreground maps outside the moving image"
    sentence += f" (at most {100 * limits.check:g} % expected)."
    allowed = f"≤ {100 * limits.check:g} %; failed above {100 * limits.failed:g} %"
    return _graded("Field of view", value, limits, sentence, allowed)


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
    if after - before <= LANDMARK_SLACK_VOXELS * voxel.edge:
        return Criterion("Landmarks", "good", sentence, allowed)
    return _graded("Landmarks", after / max(before, 1e-9), limits, sentence, allowed)


def _mean_dice(metrics: Mapping[str, Any]) -> Criterion | None:
    before, after = metrics.get("mean_dice_before"), metrics.get("mean_dice_after")
    if before is None or after is None:
        return None
    sentence = f"The mean Dice of the labels went from {before:.3f} to {after:.3f} (it must not fall)."
    allowed = f"loss ≤ {MEAN_DICE_LOSS.check:g}; failed above {MEAN_DICE_LOSS.failed:g}"
    return _graded("Mean Dice", before - after, MEAN_DICE_LOSS, sentence, allowed)


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
