"""The rule "was anything usable?", and the states of expressions."""

from __future__ import annotations

import numpy as np
import pytest

from stages.contract import Summary
from store.errors import DataError
from store.states import EVALUATED, State, left_out
from store.usable import LOST_SHARE, Lost, lost_vectors, require_usable


def lost(count: int, state: str = State.UNREADABLE_IMAGE, reason: str = "a/{}.png: image file is empty") -> list[Lost]:
    return [Lost(state, reason.format(n), f"{n}.png") for n in range(count)]


def test_none_usable_is_an_error_with_number_reasons_and_remedy() -> None:
    summary = Summary()
    rows = [*lost(2), *lost(5, reason="b/{}.png: cannot be decoded")]
    with pytest.raises(DataError) as error:
        require_usable(summary, "images", 7, rows, "look at the folder")
    assert str(error.value) == (
        "none of 7 images can be used: 5 x unreadable image, such as 0.png: b/0.png: cannot be decoded; "
        "2 x unreadable image, such as 0.png: a/0.png: image file is empty; look at the folder"
    )
    assert summary == Summary()


@pytest.mark.parametrize(("count", "total", "warned"), [(0, 5, 0), (1, 100, 0), (2, 200, 0), (2, 199, 1), (1, 2, 1)])
def test_a_warning_above_the_stated_share(count: int, total: int, warned: int) -> None:
    assert LOST_SHARE == 0.01
    summary = Summary()
    require_usable(summary, "images", total, lost(count), "look at the folder")
    assert len(summary.warnings) == warned
    assert [loss["count"] for loss in summary.losses] == ([count] if count else [])
    if warned:
        assert summary.warnings[0].startswith(f"{count} of {total} images cannot be used: {count} x unreadable image")
        assert summary.warnings[0].endswith("; look at the folder")


def test_no_rows_are_told_apart_from_lost_ones() -> None:
    summary = Summary()
    require_usable(summary, "refs", 0, [], "mend them", empty="check splits")
    assert summary.warnings == ["there are no refs: nothing to use; check splits"]
    assert summary.losses == []


def test_what_is_stored_of_losses() -> None:
    summary = Summary()
    rows = [*lost(3), *lost(1, reason="odd"), *lost(2, State.NO_PROPOSALS, "nothing")]
    require_usable(summary, "images", 9, rows, "")
    assert summary.losses == [
        {
            "state": "unreadable image",
            "what": "images",
            "count": 4,
            "of": 9,
            "reasons": [
                {"reason": "… image file is empty", "count": 3, "example": "0.png: a/0.png: image file is empty"},
                {"reason": "odd", "count": 1, "example": "0.png: odd"},
            ],
        },
        {
            "state": "no proposals",
            "what": "images",
            "count": 2,
            "of": 9,
            "reasons": [{"reason": "nothing", "count": 2, "example": "0.png: nothing"}],
        },
    ]


@pytest.mark.parametrize(
    ("vector", "expected"),
    [
        ([3, 4], False),
        ([0, 0], True),
        ([-0.0, 0], True),
        ([1e-40, 0], True),  # denormal itself
        ([1e-20, 1e-20], True),  # its squared length is denormal
        ([1e-18, 0], False),
        ([np.nan, 1], True),
        ([np.inf, 1], True),
        ([-np.inf, np.inf], True),
        ([1e30, 0], True),  # its squared length overflows
        ([1e18, 0], False),
    ],
)
def test_vectors_without_a_direction(vector: list[float], expected: bool) -> None:
    features = np.array([vector, [1, 1]], np.float32)
    assert lost_vectors(features).tolist() == [expected, False]


def test_left_out() -> None:
    counts = {"expressions": 9, "no proposals": 4, "unreadable image": 2, "faulty sentence": 1, "n": 3}
    assert left_out(counts) == "3 of 9 (unreadable image 2, faulty sentence 1)"
    assert left_out({"expressions": 9, "no proposals": 4}) == ""
    assert [state for state in State if state in EVALUATED] == [State.NO_PROPOSALS]
