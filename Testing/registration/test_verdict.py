# SPDX-License-Identifier: Apache-2.0
"""The verdict's limits, and what it says: in codes and figures, and in words."""

import json
import math
import re
import sys
from pathlib import Path

import pytest
from DeepFLASHRegistrationLib.registration import verdict as judging
from DeepFLASHRegistrationLib.registration import verdict_words as words
from DeepFLASHRegistrationLib.registration.verdict import FINDINGS, UNMEASURED, Verdict, verdict
from DeepFLASHRegistrationLib.results.plain import plain

GOOD = {
    "similarity_before": 0.62,
    "similarity_after": 0.91,
    "overlap": 0.97,
    "folds": {"count": 0, "percent": 0.0},
    "folds_strict": {"count": 0, "percent": 0.0},
    "smallest_determinant": 0.31,
    "largest_determinant": 3.2,
    "inverse_error_mm": {"mean": 0.01, "p95": 0.03, "max": 0.2, "outside": 0.0},
    "border_hits": 0.0,
    "cut": {"what": "foreground", "part": 0.0},
    "agreement": {
        "reached": 0.81,
        "floor": 0.43,
        "information": 0.3,
        "information_floor": 0.1,
        "share": 0.67,
        "turned": "left-right",
        "mirrored": "",
    },
    "turn_degrees": 8.0,
    "scale": 1.04,
    "object_mm": 100.0,
    "voxel_mm": 1.0,
    "ndim": 3,
}


def changed(**figures):
    return {**GOOD, **figures}


def agreeing(share, **figures):
    return {**GOOD["agreement"], "share": share, **figures}


def dice(before, after, fixed=1000.0):
    row = {"before": before, "after": after, "volume_fixed_mm3": fixed}
    return {7: {**row, "volume_moving_mm3": 900.0, "volume_warped_mm3": 950.0}}


def test_good_results_say_what_was_found_good():
    found = verdict(GOOD)
    assert found.level == "good"
    assert len(found.reasons) == 8
    assert any("agree to 0.81" in str(reason) and "to 0.43" in str(reason) for reason in found.reasons)


CHANNEL = {"name": "T2", "weight": 1.0, "similarity": "lncc", "before": 0.6, "after": 0.59}

# Changed figures, the level that they give, and words of the one reason.
CASES = [
    ({"overlap": 0.7}, "good", ""),
    ({"overlap": 0.55}, "check", "overlap with a Dice of 0.55"),
    # Foregrounds of two contrasts need not be the same: what agrees inside does not fail by its outline.
    ({"overlap": 0.29}, "check", "0.29"),
    ({"agreement": agreeing(0.24)}, "check", "Compare them in the checkerboard"),
    ({"agreement": agreeing(-0.05)}, "check", "−5 % of what is possible"),
    ({"agreement": agreeing(-0.2)}, "failed", "Turned by half about the left-right axis they agree better"),
    # A round object looks the same turned by half.
    ({"agreement": agreeing(-0.2, reached=0.97)}, "good", ""),
    ({"agreement": {**GOOD["agreement"], "mirrored": "left-right"}}, "check", "Mirrored along the left-right axis"),
    ({"agreement": {**GOOD["agreement"], "mirrored": "vertical"}}, "check", "Mirrored along the vertical axis"),
    ({"agreement": {**GOOD["agreement"], "mirrored": "horizontal"}}, "check", "Mirrored along the horizontal axis"),
    ({"agreement": {}}, "check", "Too little is seen of both images"),
    ({"agreement": None}, "check", "not measured"),
    # That the plain correlation moved proves nothing, in either direction.
    ({"similarity_before": -0.2, "similarity_after": 0.1}, "good", ""),
    ({"turn_degrees": 46.0}, "check", "turns the image by 46°"),
    ({"scale": 1.6}, "check", "scales lengths by a factor of 1.60"),
    ({"folds": {"count": 3, "percent": 0.001}}, "check", "3 voxels"),
    ({"folds": {"count": 3000, "percent": 0.2}}, "failed", "not one-to-one"),
    ({"folds_strict": {"count": 1, "percent": 1e-5}}, "check", "corner simplices"),
    ({"folds_strict": {"count": 40_000, "percent": 1.5}}, "failed", "corner simplices"),
    ({"smallest_determinant": 0.04}, "check", "0.04"),
    ({"inverse_error_mm": {"mean": 0.1, "p95": 0.6, "max": 1}}, "check", "0.6 mm"),
    ({"inverse_error_mm": {"mean": 1, "p95": 2.1, "max": 5}}, "failed", "2.1 mm"),
    ({"inverse_error_mm": {"mean": 1, "p95": 2.1, "max": 5}, "voxel_mm": 5.0}, "good", ""),
    # Coverage alone is named, and fails nothing.
    ({"border_hits": 0.3, "cut": {"what": "foreground", "part": 0.3}}, "good", ""),
    ({"border_hits": 0.7, "cut": {"what": "foreground", "part": 0.7}}, "check", "Most of the foreground"),
    ({"border_hits": 0.3, "cut": {"what": "mask", "part": 0.06}}, "check", "6 % of the mask is outside"),
    ({"border_hits": 0.3, "cut": {"what": "labels", "part": 0.2}}, "check", "20 % of the labels are outside"),
    ({"border_hits": 0.3, "cut": {"what": "labels", "part": 0.04}}, "good", ""),
    ({"volume_change": {4: 150.0, 5: -50.0}}, "good", ""),
    ({"channels": [CHANNEL]}, "good", ""),
    ({"channels": [CHANNEL, {**CHANNEL, "after": 0.57}]}, "check", "T2 became less alike, from 0.600 to 0.570"),
    ({"channels": [{**CHANNEL, "after": None}]}, "check", "not measured"),
    ({"kept": {"6": {"kind": "rigid", "mean_percent": 0.1, "p95_percent": 0.3}}}, "good", ""),
    ({"kept": {"6": {"kind": "rigid", "mean_percent": 0.5, "p95_percent": 1.2}}}, "check", "label 6 (+1.2 %)"),
    ({"kept": {"4": {"kind": "volume", "percent": -8.0}}}, "failed", "label 4 (−8 %)"),
    ({"volume_change": {4: 250.0, 5: -100.0, 6: 3.0}}, "check", "label 5 (vanished), label 4 (+250 %)"),
    ({"landmarks": {"before_mm": [4.0], "after_mm": [2.0], "nearer_another": 0.0}}, "good", ""),
    ({"landmarks": {"before_mm": [0.1], "after_mm": [0.2]}}, "good", ""),
    (
        {"landmarks": {"before_mm": [4.0, 4.0, math.nan], "after_mm": [4.8, 4.8, math.nan]}},
        "check",
        "4.80 mm",
    ),
    ({"landmarks": {"before_mm": [2.0], "after_mm": [4.0]}}, "failed", "from 2.00 to 4.00"),
    # Small and unchanged, but a wrong pairing: 30 mm of an object of 100 mm.
    ({"landmarks": {"before_mm": [31.0], "after_mm": [30.0]}}, "failed", "30 % of the object's size"),
    ({"landmarks": {"before_mm": [31.0], "after_mm": [10.0]}}, "check", "10 % of the object's size"),
    ({"landmarks": {"before_mm": [3.0], "after_mm": [2.0], "nearer_another": 0.1}}, "check", "another's partner"),
    ({"landmarks": {"before_mm": [3.0], "after_mm": [2.0], "nearer_another": 0.5}}, "failed", "another's partner"),
    ({"mean_dice_before": 0.25, "mean_dice_after": 0.28}, "check", "the same numbers mean the same structures"),
    ({"mean_dice_before": 0.02, "mean_dice_after": 0.04}, "failed", "0.040"),
    ({"mean_dice_before": 0.5, "mean_dice_after": 0.49}, "check", "0.490"),
    ({"mean_dice_before": 0.5, "mean_dice_after": 0.4}, "failed", "0.400"),
    ({"dice": dice(0.6, 0.8)}, "good", ""),
    ({"dice": dice(0.8, 0.6)}, "check", "label 7 (−0.20)"),
    ({"dice": dice(0.8, 0.6, fixed=20.0)}, "good", ""),
    ({"dice": dice(None, None)}, "good", ""),
    ({"overlap": math.nan}, "failed", "not a finite number"),
    ({"smallest_determinant": -math.inf}, "failed", "not a finite number"),
    ({"folds": None}, "check", "not measured"),
    ({"folds": {"count": 0, "percent": math.nan}}, "failed", "not a finite number"),
    ({"smallest_determinant": -0.1}, "check", "tissue is folded there"),
    ({"turn_degrees": 170.0, "scale": 2.0}, "check", "by 170° against its header and scales lengths"),
    ({"agreement": agreeing(-0.2, turned="")}, "failed", "Turned by half they agree better"),
    ({"border_hits": 0.3, "cut": {"what": "foreground", "part": math.nan}}, "check", "Most of the foreground (–)"),
    # Far off and still going: the worse of the two is said.
    (
        {"landmarks": {"before_mm": [31.0], "after_mm": [31.5]}, "object_mm": 300.0},
        "check",
        "10 % of the object's size",
    ),
    ({"landmarks": {"before_mm": [10.0], "after_mm": [30.0]}, "object_mm": 300.0}, "failed", "from 10.00 to 30.00"),
    ({"unusual": [{"finding": "dropped", "model": "liver"}]}, "check", "the model liver did not"),
    (
        {"unusual": [{"finding": "energy-left", "model": "a", "left": 0.9, "usual": 0.4, "spread": 0.03}]},
        "check",
        "left 90 % of the energy, where in validation it left 40 % (sd 3 %)",
    ),
    (
        {"unusual": [{"finding": "other-fixed-image", "model": "a", "agreement": 0.12, "usual": 0.65}]},
        "check",
        "The fixed image does not look like those that the model a was trained on: it agrees with their mean to 0.12, "
        "where they do to 0.65 on average.",
    ),
    (
        {"unusual": [{"finding": "other-moving-image", "model": "a", "agreement": -0.1, "usual": 0.65}]},
        "check",
        "The moving image does not look like those that the model a was trained on: it agrees with their mean to −0.10",
    ),
    (
        {
            "unusual": [
                {
                    "finding": "other-size",
                    "model": "a",
                    "smallest_mm": 80.0,
                    "largest_mm": 90.0,
                    "low_mm": 24.0,
                    "high_mm": 58.0,
                }
            ]
        },
        "check",
        "measures 80 to 90 mm along its sides; the model a was trained on objects with lengths of 24 to 58 mm",
    ),
]


@pytest.mark.parametrize(("figures", "level", "said"), CASES)
def test_each_criterion_is_judged_and_says_why(figures, level, said):
    found = verdict(changed(**figures))
    assert found.level == level
    if level != "good":
        assert len(found.reasons) == 1
        assert said in str(found.reasons[0])


def test_labels_and_landmarks_weigh_more_than_intensities():
    """Where they find the result good, what intensities find is one level less grave; where not, they decide."""
    bad = {"agreement": agreeing(-0.3), "overlap": 0.5}
    good = {"mean_dice_before": 0.6, "mean_dice_after": 0.8}
    assert verdict(changed(**bad)).level == "failed"
    found = verdict(changed(**bad, **good))
    assert found.level == "check"
    assert len(found.reasons) == 1
    assert "Labels or landmarks speak against it" in str(found.reasons[0])
    assert verdict(changed(agreement=agreeing(0.1), **good)).level == "good"
    assert verdict(changed(mean_dice_before=0.05, mean_dice_after=0.1)).level == "failed"
    # What steered is no evidence.
    assert verdict(changed(**bad, **good, steered=["labels"])).level == "failed"
    assert verdict(changed(**bad, **good, steered=["landmarks"])).level == "check"
    # Volumes of labels alone say nothing about where they lie.
    assert verdict(changed(**bad, volume_change={4: 1.0})).level == "failed"


def test_the_worst_criterion_decides_and_comes_first():
    found = verdict(changed(smallest_determinant=0.01, agreement=agreeing(-0.5)), cancelled=True)
    assert found.level == "failed"
    assert [reason.code for reason in found.reasons] == ["similarity", "completion", "smallest-determinant"]


def test_a_cancelled_result_is_at_best_to_be_checked():
    assert verdict(GOOD, cancelled=True).level == "check"


def test_nothing_measured_is_not_good():
    found = verdict({})
    assert found.level == "check"
    assert all("not measured" in str(reason) for reason in found.reasons)


def test_the_documented_limits_are_those_of_the_code():
    text = (Path(__file__).resolve().parents[2] / "docs" / "verdict.md").read_text(encoding="utf-8")
    documented = {}
    for line in text.splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        name = re.fullmatch(r"`([A-Z_]+)`", cells[-1])
        if name:
            documented[name[1]] = [float(number) for cell in cells[-3:-1] for number in re.findall(r"-?[\d.]+", cell)]
    kinds = judging.Limits, float, int
    constants = {name: value for name, value in vars(judging).items() if name.isupper() and isinstance(value, kinds)}
    assert set(documented) == set(constants)
    for name, value in constants.items():
        values = [v for v in (value if isinstance(value, tuple) else (value,)) if math.isfinite(v)]
        assert documented[name] == values, name


# Codes and words ---------------------------------------------------------------------------------------------


def every_criterion():
    """Whatever the cases find, judged also beside good labels and after a cancellation."""
    good = {"mean_dice_before": 0.6, "mean_dice_after": 0.8}
    for figures, _, _ in CASES:
        yield from verdict(changed(**figures)).criteria
        yield from verdict({**changed(**figures), **good}, cancelled=True).criteria
    yield from verdict({}).criteria


def test_every_finding_that_there_can_be_is_found_and_has_words():
    found = {(c.code, c.finding) for c in every_criterion()}
    known = {(code, finding) for code, findings in FINDINGS.items() for finding in findings}
    assert {pair for pair in found if pair[1] not in UNMEASURED} == known
    for criterion in every_criterion():
        for text in (words.title(criterion), str(criterion), words.limits(criterion)):
            assert text
            assert not set("{}") & set(text)
        assert re.search(r"[.?)]$", str(criterion)), str(criterion)


def test_criteria_survive_json_with_their_words():
    for figures, _, _ in CASES:
        found = verdict(changed(**figures))
        again = Verdict.from_dict(json.loads(json.dumps(plain(found.to_dict()), allow_nan=False)))
        assert again.level == found.level
        assert [*map(str, again.reasons)] == [*map(str, found.reasons)]
        assert [*map(words.limits, again.criteria)] == [*map(words.limits, found.criteria)]


def test_all_words_can_be_translated():
    """Of a text, the translator here leaves the fields: what remains are figures, and names that a user gave."""

    def fields(text):
        return " ".join(re.findall(r"{[^}]*}", text))

    for criterion in every_criterion():
        for write in (words.title, words.sentence, words.limits):
            rest = write(criterion, fields)
            for name in ("model", "image"):
                rest = rest.replace(criterion.arguments.get(name, " "), "")
            assert not re.search(r"[a-zA-Z]{2}", rest), rest


def test_slicer_finds_the_translation_of_every_word():
    """Its translator looks for the text under the name of the file from which it is called."""
    callers = set()

    def translator(text):
        callers.add(sys._getframe(1).f_code.co_filename)
        return text

    for criterion in every_criterion():
        for write in (words.title, words.sentence, words.limits):
            write(criterion, translator)
    assert callers == {words.__file__}


def test_labels_are_called_by_their_names_where_these_are_known():
    found = verdict(changed(volume_change={4: 250.0, 5: -100.0})).named({5: "Amygdala"})
    assert "Amygdala (vanished), label 4 (+250 %)" in str(found.reasons[0])
    many = verdict(changed(volume_change=dict.fromkeys(range(1, 10), -100.0)))
    assert "label 6 (vanished) and 3 more" in str(many.reasons[0])
