# SPDX-License-Identifier: Apache-2.0
"""How long a task still takes: from what was expected, from what was observed, and from what a computer has shown."""

import math

import pytest
from DeepFLASHRegistrationLib.process.remaining import Remaining, learned

EXPECTED = {"start": 2.0, "prepare": 1.0, "level": 10.0, "finish": 5.0, "write": 2.0}


def test_at_first_it_is_what_was_expected():
    assert Remaining(EXPECTED, now=0.0).left(now=0.0) == pytest.approx(20.0)


def test_as_expected_it_counts_down_to_nothing():
    following = Remaining(EXPECTED, now=0.0)
    began = 2.0
    following.reached("prepare", now=began)
    following.reached("level", now=3.0)
    for share in (0.25, 0.5, 0.75):
        now = 3.0 + 10 * share
        following.reached("level", share, now)
        assert following.left(now=now) == pytest.approx(20.0 - now)
        assert following.left(now=now + 1.0) == pytest.approx(19.0 - now)  # also while nothing is heard
    following.reached("finish", now=13.0)
    following.reached("write", now=18.0)
    assert following.left(now=19.0) == pytest.approx(1.0)


def test_a_slow_start_says_nothing_of_the_rest():
    following = Remaining(EXPECTED, now=0.0)
    following.reached("prepare", now=60.0)
    assert following.left(now=60.0) == pytest.approx(18.0)


def test_a_busy_computer_is_noticed_while_it_works():
    following = Remaining(EXPECTED, now=0.0)
    following.reached("prepare", now=2.0)
    following.reached("level", now=6.0)  # four times as long
    following.reached("level", 0.5, now=26.0)  # as well
    true = 20.0 + 20.0 + 8.0
    # What is expected in all weighs a tenth of itself: (24 + 2) / (6 + 2) = 3.25 instead of 4.
    assert following.left(now=26.0) == pytest.approx(3.25 * 12.0)
    assert abs(following.left(now=26.0) - true) < abs(20 - 8 - true) / 3


def test_what_is_late_is_not_promised_for_the_next_moment():
    following = Remaining(EXPECTED, now=0.0)
    following.reached("finish", now=10.0)
    seconds = [following.left(now=10.0 + t) for t in (1, 3, 4, 6, 12, 24)]
    assert seconds[:3] == sorted(seconds[:3], reverse=True)
    # After four fifths of it nobody knows better than that it goes on: a quarter of what it has taken, and "write".
    assert seconds[3:] == pytest.approx([6 / 4 + seconds[-1] - 6, 3 + seconds[-1] - 6, seconds[-1]])


def test_phases_that_are_left_out_are_not_waited_for():
    following = Remaining(EXPECTED, now=0.0)
    following.reached("prepare", now=2.0)
    following.reached("level", now=3.0)
    assert following.left(("prepare", "level", "write"), now=3.0) == pytest.approx(5.0)
    following.reached("finish", now=4.0)
    assert following.left(("prepare", "level", "write"), now=5.0) < 5.0


def test_an_unknown_phase_changes_nothing():
    following = Remaining(EXPECTED, now=0.0)
    following.reached("tea", 0.5, now=1.0)
    assert following.left(now=1.0) == pytest.approx(19.0)


def test_ratios_are_seconds_taken_to_seconds_expected():
    following = Remaining(EXPECTED, now=0.0)
    following.reached("prepare", now=1.0)
    following.reached("level", now=5.0)
    following.reached("finish", now=10.0)
    following.ended(now=25.0)
    assert following.ratios() == pytest.approx({"start": 0.5, "prepare": 4.0, "level": 0.5, "finish": 3.0})


def test_a_computer_four_times_as_slow_is_known_after_one_run_and_stays_so():
    known = learned({}, {"level": 4.0, "finish": 4.0})
    assert known == pytest.approx({"level": 4.0, "finish": 4.0})
    assert learned(known, {"level": 1.0, "finish": 1.0}) == pytest.approx(known)  # as was expected


def test_one_run_on_a_busy_computer_is_forgotten_by_halves():
    known = learned({"level": 1.0}, {"level": 16.0})
    assert known["level"] == pytest.approx(4.0)
    for _ in range(6):
        known = learned(known, {"level": 1.0 / known["level"]})
    assert known["level"] == pytest.approx(1.0, rel=0.03)


def test_nonsense_is_not_learned():
    known = learned({}, {"a": 0.0, "b": math.inf, "c": 1e9})
    assert all(0.0 < value <= 200.0 for value in known.values())
