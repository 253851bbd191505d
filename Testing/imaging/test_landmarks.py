# SPDX-License-Identifier: Apache-2.0
import numpy as np
import pytest
from DeepFLASHRegistrationLib.imaging.landmarks import Landmarks, paired
from DeepFLASHRegistrationLib.support.errors import InputError

NOWHERE = (np.nan, np.nan, np.nan)


def landmarks(source: str, **points: tuple[float, ...] | float) -> Landmarks:
    """Points by name; a number n stands for (n, n, n)."""
    positions = [np.broadcast_to(np.asarray(p, dtype=float), 3) for p in points.values()]
    return Landmarks(np.array(positions).reshape(-1, 3), tuple(points), source)


def unnamed(source: str, *values: float, names: tuple[str, ...] = ()) -> Landmarks:
    positions = np.repeat(np.array(values, dtype=float)[:, None], 3, 1)
    return Landmarks(positions, names or ("",) * len(values), source)


def test_the_same_names_are_paired_in_whatever_order() -> None:
    pairs = paired(landmarks("f", a=1, b=2, c=3), landmarks("m", c=30, a=10, b=20))
    assert pairs.names == ("a", "b", "c")
    assert pairs.fixed[:, 0].tolist() == [1, 2, 3]
    assert pairs.moving[:, 0].tolist() == [10, 20, 30]
    assert len(pairs.notes) == 1
    assert "by their names" in pairs.notes[0]
    assert paired(landmarks("f", a=1, b=2), landmarks("m", a=1, b=2)).notes == ()


def test_names_of_one_side_only_are_left_out_and_named() -> None:
    pairs = paired(landmarks("f", a=1, b=2, c=3, d=4), landmarks("m", b=20, c=30, z=50))
    assert pairs.names == ("b", "c")
    assert pairs.moving[:, 0].tolist() == [20, 30]
    notes = " | ".join(pairs.notes)
    assert "f: left out, because m has none of that name: a, d" in notes
    assert "m: left out, because f has none of that name: z" in notes


def test_half_of_the_names_are_enough_and_less_is_not() -> None:
    half = paired(landmarks("f", a=1, b=2, x=3, y=4), landmarks("m", a=10, b=20, p=30, q=40))
    assert half.names == ("a", "b")
    less = paired(landmarks("f", a=1, w=2, x=3, y=4), landmarks("m", p=10, q=20, r=30, a=40))
    assert less.names == ("a", "w", "x", "y")
    assert less.moving[:, 0].tolist() == [10, 20, 30, 40]
    assert "by order" in less.notes[0]


@pytest.mark.parametrize("side", ["f", "m", "both"])
def test_what_has_no_position_is_left_out_on_both_sides(side) -> None:
    """One undefined point in each file, at different places: position by position all between them were wrong."""
    fixed = landmarks("f", a=1, b=2 if side == "m" else NOWHERE, c=3, d=4, e=5)
    moving = landmarks("m", a=10, b=20, c=30, d=40 if side == "f" else NOWHERE, e=50)
    pairs = paired(fixed, moving)
    assert (pairs.moving == 10 * pairs.fixed).all()
    lost = {"f": ["b"], "m": ["d"], "both": ["b", "d"]}[side]
    assert pairs.names == tuple(name for name in "abcde" if name not in lost)
    assert ", ".join(lost) in pairs.notes[0]
    by_order = paired(unnamed("f", *fixed.positions[:, 0]), unnamed("m", *moving.positions[:, 0]))
    assert np.array_equal(by_order.fixed, pairs.fixed)
    assert np.array_equal(by_order.moving, pairs.moving)
    assert f"number {'abcde'.index(lost[0]) + 1}" in by_order.notes[0]


def test_repeated_or_missing_names_are_paired_by_order() -> None:
    for names in (("a", "a", "b"), ("a", "", "b")):
        pairs = paired(unnamed("f", 1, 2, 3, names=names), unnamed("m", 10, 20, 30, names=("b", "a", "c")))
        assert pairs.moving[:, 0].tolist() == [10, 20, 30]
        assert "by order" in pairs.notes[0]
    assert paired(unnamed("f", 1, 2), unnamed("m", 10, 20)).notes == ()
    assert paired(unnamed("f", 1, 2), unnamed("m", 10, 20, names=("a", "b"))).notes == ()


def test_lists_that_cannot_be_paired_are_refused() -> None:
    with pytest.raises(InputError, match="f has 2 landmarks, m 3"):
        paired(unnamed("f", 1, 2), unnamed("m", 1, 2, 3))
    with pytest.raises(InputError, match="do not say"):
        paired(landmarks("f", a=1, b=2, c=3), landmarks("m", a=1, x=2, y=3, z=4))
    with pytest.raises(InputError, match="position on both sides"):
        paired(landmarks("f", a=1, b=NOWHERE), landmarks("m", a=NOWHERE, b=2))
    with pytest.raises(InputError, match="position on both sides"):
        paired(unnamed("f"), unnamed("m"))


def test_many_names_are_not_all_listed() -> None:
    many = {f"n{i}": i for i in range(100)}
    pairs = paired(landmarks("f", **many), landmarks("m", n0=0, n1=1))
    assert "and 90 more" in pairs.notes[0]
    assert len(pairs.notes[0]) < 300


def test_positions_of_two_dimensions_stay_so() -> None:
    flat = Landmarks(np.array([[1.0, 2], [np.nan, np.nan]]), ("a", "b"))
    pairs = paired(flat, Landmarks(np.array([[1.0, 2, 3], [4, 5, 6]]), ("a", "b")))
    assert pairs.fixed.shape == (1, 2)
    assert pairs.moving.shape == (1, 3)
    with pytest.raises(ValueError, match="names"):
        Landmarks(np.zeros((2, 3)), ("a",))
