# SPDX-License-Identifier: Apache-2.0
"""The verdict on a registration: good, check or failed, each with its reasons.

What was found is told by codes and figures, for programs and in all languages; `verdict_words` makes sentences of it.
docs/verdict.md explains the limits in the user's words; keep it in step with the constants here.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, NamedTuple

from .verdict_words import sentence


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
# Of a structure that was to be kept, in percent: change of distances within it (all but 5 % of them), and of its
# volume: above.
KEPT_SHAPE, KEPT_VOLUME = Limits(0.5, 2.0), Limits(1.0, 5.0)
# Loss of the similarity of a further image: above. It never fails by itself.
CHANNEL_LOSS = 0.02
# Loss of mean Dice: above.
MEAN_DICE_LOSS = Limits(0.005, 0.02)
# Mean Dice afterwards: below.
MEAN_DICE = Limits(0.40, 0.20)
# Loss of Dice of one label of at least SMALLEST_LABEL_VOXELS voxels: above. It never fails by itself.
LABEL_DICE_LOSS = 0.10
SMALLEST_LABEL_VOXELS = 50

LEVELS = ("good", "check", "failed")
# What may be judged, in the order of the report, and what may be found of each.
FINDINGS: dict[str, tuple[str, ...]] = {
    "completion": ("cancelled",),
    "similarity": ("agree", "alike", "unclear", "turned", "turned-in-plane", "too-little-seen"),
    "channels": ("met", "lost"),
    "mirror": ("mirrored",),
    "overlap": ("met", "low", "low-but-alike"),
    "pose": ("met", "turned", "scaled", "turned-and-scaled"),
    "folds": ("none", "folded"),
    "folds-strict": ("none", "folded"),
    "smallest-determinant": ("met", "low", "folded"),
    "inverse-error": ("met", "large"),
    "field-of-view": ("all-seen", "part-unseen", "mask-cut", "labels-cut", "foreground-cut"),
    "landmarks": ("met", "grew", "far"),
    "landmark-pairs": ("met", "mispaired"),
    "mean-dice": ("met", "lost", "low"),
    "label-dice": ("met", "lost"),
    "volume-change": ("met", "large"),
    "kept": ("met", "changed"),
    "training-data": ("other-fixed-image", "other-moving-image", "other-size", "energy-left", "dropped"),
}
# Found of any of them: there is no figure, or it is no finite number.
UNMEASURED = ("not-measured", "not-finite")


@dataclass(frozen=True)
class Criterion:
    """What one criterion found. As a string it is an English sentence.

    Attributes:
        code: the criterion, a key of FINDINGS.
        level: "good", "check" or "failed".
        finding: what was found, one of FINDINGS[code] or of UNMEASURED.
        arguments: the figures and names that the finding speaks of.
        limits: the figures that it was held against.
        outweighed: labels or landmarks speak against it, so it is one level less grave.
    """

    code: str
    level: str
    finding: str
    arguments: dict[str, Any] = field(default_factory=dict)
    limits: dict[str, float] = field(default_factory=dict)
    outweighed: bool = False

    def __str__(self) -> str:
        return sentence(self)


@dataclass(frozen=True)
class Verdict:
    """What a registration is worth: everything that was judged, in the order of the report."""

    criteria: list[Criterion]

    @property
    def level(self) -> str:
        """ "good", "check" or "failed": that of the worst criterion."""
        return max((c.level for c in self.criteria), key=LEVELS.index)

    @property
    def reasons(self) -> list[Criterion]:
        """Every criterion that is not good, gravest first; all of them if all are good."""
        found = [c for level in ("failed", "check") for c in self.criteria if c.level == level]
        return found or list(self.criteria)

    def named(self, names: Mapping[int, str]) -> Verdict:
        """The same with the names of labels beside their numbers, where they are known."""
        return Verdict([_named(c, names) for c in self.criteria])

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON, with the level."""
        return {"level": self.level, "criteria": [asdict(c) for c in self.criteria]}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Verdict:
        """Inverse of to_dict; also of one in which what is not finite became None."""
        return cls([Criterion(**each) for each in values["criteria"]])


def _named(criterion: Criterion, names: Mapping[int, str]) -> Criterion:
    labels = criterion.arguments.get("labels")
    if not labels:
        return criterion
    labels = [{**each, "name": names[each["label"]]} if each["label"] in names else each for each in labels]
    return replace(criterion, arguments={**criterion.arguments, "labels": labels})


def verdict(metrics: Mapping[str, Any], cancelled: bool = False) -> Verdict:
    """Judges the metrics of a result (registration.result.Result.metrics) by the limits above.

    Every criterion that the metrics allow is judged. voxel_mm (edge of a fixed voxel, geometric mean, default 1) and
    ndim (default 3) among the metrics turn millimeters into voxels. Labels and landmarks weigh more than intensities:
    where they find the result good, and did not steer it, what intensities find is one level less grave.
    """
    measure = _Measure(metrics)
    evidence = _given(
        _landmarks(metrics, measure),
        _landmark_pairs(metrics),
        _mean_dice(metrics),
        _label_dice(metrics, measure),
        _volume_change(metrics),
    )
    intensities = _given(_similarity(metrics), _channels(metrics), _mirror(metrics), _overlap(metrics), _pose(metrics))
    shown = {c.code: c.level for c in evidence}
    steered = metrics.get("steered") or ()
    independent = [code for code, by in (("landmarks", "landmarks"), ("mean-dice", "labels")) if by not in steered]
    if any(code in shown for code in independent) and set(shown.values()) == {"good"}:
        intensities = [_lighter(c) for c in intensities]
    found = _given(
        _completion(cancelled),
        *intensities,
        _folds(metrics.get("folds"), "folds", FOLDED_PERCENT),
        _folds(metrics.get("folds_strict"), "folds-strict", STRICT_FOLDED_PERCENT),
        _smallest_determinant(metrics),
        _inverse_error(metrics, measure),
        _field_of_view(metrics),
        *evidence,
        *_given(_kept(metrics)),
        *unlike_training(metrics.get("unusual") or ()),
    )
    return Verdict(found)


def _given(*found: Criterion | None) -> list[Criterion]:
    return [criterion for criterion in found if criterion is not None]


def _lighter(criterion: Criterion) -> Criterion:
    """A finding of the intensities that labels or landmarks contradict."""
    if criterion.level == "good":
        return criterion
    return replace(criterion, level=LEVELS[LEVELS.index(criterion.level) - 1], outweighed=True)


class _Measure:
    """The fixed image's voxel: its edge in mm, and its volume."""

    def __init__(self, metrics: Mapping[str, Any]) -> None:
        self.edge = float(metrics.get("voxel_mm") or 1.0)
        self.volume = self.edge ** int(metrics.get("ndim") or 3)


def _level(value: float, limits: Limits, falling: bool = False) -> str:
    """Of a figure that is the worse the larger it is, or, if `falling`, the smaller."""
    beyond = (lambda limit: value < limit) if falling else (lambda limit: value > limit)
    return "failed" if beyond(limits.failed) else "check" if beyond(limits.check) else "good"


def _unmeasured(code: str, value: Any = None) -> Criterion:
    """Of a figure that is missing, or no finite number."""
    return Criterion(code, "check", "not-measured") if value is None else Criterion(code, "failed", "not-finite")


def _completion(cancelled: bool) -> Criterion | None:
    return Criterion("completion", "check", "cancelled") if cancelled else None


def _overlap(metrics: Mapping[str, Any]) -> Criterion:
    value, code = metrics.get("overlap"), "overlap"
    if value is None or not math.isfinite(value):
        return _unmeasured(code, value)
    level = _level(value, OVERLAP, falling=True)
    finding = "met" if level == "good" else "low"
    if level == "failed" and _similarity(metrics).level == "good":
        level, finding = "check", "low-but-alike"
    return Criterion(code, level, finding, {"dice": value}, OVERLAP._asdict())


def _similarity(metrics: Mapping[str, Any]) -> Criterion:
    found, code, limits = metrics.get("agreement"), "similarity", AGREEMENT._asdict()
    if found is None:
        return _unmeasured(code)
    if not found:
        return Criterion(code, "check", "too-little-seen", {}, limits)
    share = found["share"]
    if not math.isfinite(share):
        return _unmeasured(code, share)
    level = _level(share, AGREEMENT, falling=True)
    arguments = {name: found[name] for name in ("share", "reached", "floor")}
    if level != "good" and found["reached"] >= AGREEMENT_ENOUGH:
        return Criterion(code, "good", "alike", arguments, {**limits, "enough": AGREEMENT_ENOUGH})
    finding = {"good": "agree", "check": "unclear", "failed": "turned-in-plane"}[level]
    if level == "failed" and found.get("turned"):
        finding, arguments = "turned", {**arguments, "axis": found["turned"]}
    return Criterion(code, level, finding, arguments, limits)


def _channels(metrics: Mapping[str, Any]) -> Criterion | None:
    channels, code, most = metrics.get("channels"), "channels", CHANNEL_LOSS
    if not channels:
        return None
    if any(each[when] is None or not math.isfinite(each[when]) for each in channels for when in ("before", "after")):
        return _unmeasured(code)
    worst = min(channels, key=lambda each: each["after"] - each["before"])
    lost = worst["before"] - worst["after"] > most
    arguments = {"image": worst["name"], "before": worst["before"], "after": worst["after"]}
    return Criterion(code, "check" if lost else "good", "lost" if lost else "met", arguments, {"loss": most})


def _mirror(metrics: Mapping[str, Any]) -> Criterion | None:
    axis = (metrics.get("agreement") or {}).get("mirrored")
    return Criterion("mirror", "check", "mirrored", {"axis": axis}) if axis else None


def _pose(metrics: Mapping[str, Any]) -> Criterion | None:
    turn, scale = metrics.get("turn_degrees"), metrics.get("scale")
    if turn is None or scale is None:
        return None
    found = [name for name, beyond in (("turned", turn > TURN_DEGREES), ("scaled", scale > SCALE_FACTOR)) if beyond]
    limits = {"most_degrees": TURN_DEGREES, "most_factor": SCALE_FACTOR}
    finding = "-and-".join(found) or "met"
    return Criterion("pose", "check" if found else "good", finding, {"degrees": turn, "factor": scale}, limits)


def _folds(folds: Mapping[str, Any] | None, code: str, limits: Limits) -> Criterion:
    if folds is None or not math.isfinite(folds["percent"]):
        return _unmeasured(code, folds)
    finding = "folded" if folds["count"] else "none"
    arguments = {"count": folds["count"], "percent": folds["percent"]}
    return Criterion(code, _level(folds["percent"], limits), finding, arguments, limits._asdict())


def _smallest_determinant(metrics: Mapping[str, Any]) -> Criterion:
    value, code, limits = metrics.get("smallest_determinant"), "smallest-determinant", SMALLEST_DETERMINANT
    if value is None or not math.isfinite(value):
        return _unmeasured(code, value)
    level = _level(value, limits, falling=True)
    finding = "met" if level == "good" else "low" if value > 0 else "folded"
    return Criterion(code, level, finding, {"determinant": value}, {"check": limits.check})


def _inverse_error(metrics: Mapping[str, Any], voxel: _Measure) -> Criterion:
    error, code, limits = metrics.get("inverse_error_mm"), "inverse-error", INVERSE_ERROR_VOXELS
    value = None if error is None else error["p95"]
    if value is None or not math.isfinite(value):
        return _unmeasured(code, value)
    level = _level(value / voxel.edge, limits)
    arguments = {"p95_mm": value, "voxel_mm": voxel.edge}
    allowed = {"check_mm": limits.check * voxel.edge, "failed_mm": limits.failed * voxel.edge}
    return Criterion(code, level, "met" if level == "good" else "large", arguments, allowed)


def _field_of_view(metrics: Mapping[str, Any]) -> Criterion | None:
    hits, cut = metrics.get("border_hits"), metrics.get("cut")
    if hits is None or cut is None:
        return None
    what, part = cut["what"], cut["part"]
    most = CUT_FOREGROUND if what == "foreground" else CUT_PART
    cut_off = not part <= most
    finding = f"{what}-cut" if cut_off else "part-unseen" if hits else "all-seen"
    arguments = {"outside": hits, "of": what, "part": part}
    return Criterion("field-of-view", "check" if cut_off else "good", finding, arguments, {"most": most})


def _volume_change(metrics: Mapping[str, Any]) -> Criterion | None:
    changes, most = metrics.get("volume_change"), VOLUME_FACTOR
    if not changes:
        return None
    factors = {label: _factor(percent) for label, percent in changes.items()}
    outliers = sorted((k for k in factors if factors[k] > most), key=lambda k: -factors[k])
    finding = "large" if outliers else "met"
    labels = [{"label": label, "percent": changes[label]} for label in outliers]
    level = "check" if outliers else "good"
    return Criterion("volume-change", level, finding, {"labels": labels}, {"factor": most})


def _kept(metrics: Mapping[str, Any]) -> Criterion | None:
    kept, code = metrics.get("kept"), "kept"
    if not kept:
        return None
    levels, labels = [], []
    for label, found in kept.items():
        rigid = found["kind"] == "rigid"
        percent = found["p95_percent"] if rigid else found["percent"]
        if not math.isfinite(percent):
            return _unmeasured(code, percent)
        levels.append(_level(abs(percent), KEPT_SHAPE if rigid else KEPT_VOLUME))
        if levels[-1] != "good":
            labels.append({"label": int(label), "percent": percent})
    limits = {"shape": KEPT_SHAPE.check, "volume": KEPT_VOLUME.check}
    level = max(levels, key=LEVELS.index)
    return Criterion(code, level, "met" if level == "good" else "changed", {"labels": labels}, limits)


def _landmarks(metrics: Mapping[str, Any], voxel: _Measure) -> Criterion | None:
    landmarks, code, size = metrics.get("landmarks"), "landmarks", metrics.get("object_mm")
    if not landmarks or not len(landmarks["after_mm"]):
        return None
    before, after = mean(landmarks["before_mm"]), mean(landmarks["after_mm"])
    arguments = {"before_mm": before, "after_mm": after}
    limits = {"check_ratio": LANDMARK_RATIO.check, "failed_ratio": LANDMARK_RATIO.failed}
    if not math.isfinite(before) or not math.isfinite(after):
        return _unmeasured(code, after)
    grew = after - before > LANDMARK_SLACK_VOXELS * voxel.edge
    level = _level(after / max(before, 1e-9), LANDMARK_RATIO) if grew else "good"
    if size:
        share = after / size
        limits |= {"check_mm": LANDMARK_ERROR.check * size, "failed_mm": LANDMARK_ERROR.failed * size}
        far = _level(share, LANDMARK_ERROR)
        if far != "good" and LEVELS.index(far) >= LEVELS.index(level):
            return Criterion(code, far, "far", {**arguments, "part_of_object": share}, limits)
    return Criterion(code, level, "met" if level == "good" else "grew", arguments, limits)


def _landmark_pairs(metrics: Mapping[str, Any]) -> Criterion | None:
    part, code = (metrics.get("landmarks") or {}).get("nearer_another"), "landmark-pairs"
    if part is None:
        return None
    if not math.isfinite(part):
        return _unmeasured(code, part)
    level = _level(part, LANDMARKS_MISPAIRED)
    finding = "met" if level == "good" else "mispaired"
    return Criterion(code, level, finding, {"part": part}, LANDMARKS_MISPAIRED._asdict())


def _mean_dice(metrics: Mapping[str, Any]) -> Criterion | None:
    before, after, code = metrics.get("mean_dice_before"), metrics.get("mean_dice_after"), "mean-dice"
    if before is None or after is None:
        return None
    if not math.isfinite(before) or not math.isfinite(after):
        return _unmeasured(code, after)
    lost, low = _level(before - after, MEAN_DICE_LOSS), _level(after, MEAN_DICE, falling=True)
    level = max(lost, low, key=LEVELS.index)
    finding = "low" if low != "good" else "lost" if lost != "good" else "met"
    limits = {"check_loss": MEAN_DICE_LOSS.check, "failed_loss": MEAN_DICE_LOSS.failed, **MEAN_DICE._asdict()}
    return Criterion(code, level, finding, {"before": before, "after": after}, limits)


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
    if not losses:
        return None
    losers = sorted((k for k in losses if losses[k] > most), key=lambda k: -losses[k])
    labels = [{"label": label, "change": -losses[label]} for label in losers]
    level, finding = ("check", "lost") if losers else ("good", "met")
    return Criterion("label-dice", level, finding, {"labels": labels}, {"loss": most})


def unlike_training(unusual: Sequence[Mapping[str, Any]]) -> list[Criterion]:
    """What a trained model found unlike what it was trained on (methods.prediction)."""
    found = [dict(each) for each in unusual]
    return [Criterion("training-data", "check", each.pop("finding"), each) for each in found]


def mean(values: Sequence[float | None]) -> float:
    """Mean of the finite values; nan if there is none."""
    finite = [float(v) for v in values if v is not None and math.isfinite(v)]
    return sum(finite) / len(finite) if finite else math.nan


def _factor(percent: float) -> float:
    ratio = 1.0 + percent / 100.0
    return max(ratio, 1.0 / ratio) if ratio > 0 else math.inf
