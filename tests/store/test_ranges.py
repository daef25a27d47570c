"""Tables of another program that are well formed and cannot be: refused with column and row, before a stage counts on them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from store.errors import StoreError
from store.ranges import check_ranges

INDEX: dict[str, Any] = {
    "image_name": ["a", "b"],
    "image_size": np.array([[4, 5], [6, 7]], np.int32),
    "image_status": ["", ""],
    "instance_offsets": np.array([0, 1, 3]),
    "instance_mask": [b"", b"", b""],
    "ref_id": np.array([7, 8, 9]),
    "ref_image": np.array([0, 0, 1]),
    "ref_group": np.array([0, 0, 1], np.int32),
    "expression_ref": np.array([0, 1, 2, 2]),
}
PAIRS: dict[str, Any] = {
    "expression_offsets": np.array([0, 2, 2]),
    "expression_group": np.array([0, 1], np.int32),
    "expression_image": np.array([5, 9]),
    "proposal": np.array([0, 2]),
    "proposal_score": np.array([0.5, 0.25, 0.125], np.float32),
    "intersection": np.array([1, 0]),
    "dot.local*phrase": np.array([1, -2], np.float32),
    "bank_dot.local": np.ones((3, 2), np.float32),
}
GROUPS = {"groups": [["x", "val"], ["x", "test"]]}


def changed(columns: dict[str, Any], column: str, place: Any, value: Any) -> dict[str, Any]:
    copy = np.array(columns[column])
    copy[place] = value
    return {**columns, column: copy}


@pytest.mark.parametrize(("name", "columns"), [("index", INDEX), ("pairs", PAIRS), ("pairs", {})])
def test_what_a_stage_writes_is_accepted(name: str, columns: dict[str, Any]) -> None:
    check_ranges(Path("x"), name, columns, GROUPS, "do this")


def test_a_few_columns_are_checked_as_far_as_they_go() -> None:
    check_ranges(Path("x"), "index", {"ref_image": np.array([10**9])}, GROUPS, "do this")
    with pytest.raises(StoreError, match=r"^x: ref_image \[1\]: expected a row, got -1: .*; do this$"):
        check_ranges(Path("x"), "index", {"ref_image": np.array([0, -1])}, GROUPS, "do this")


@pytest.mark.parametrize(
    ("name", "column", "place", "value", "said"),
    [
        ("index", "ref_image", 1, -1, r"ref_image \[1\]: expected a row from 0 to 1, got -1"),
        ("index", "ref_image", 2, 2, r"ref_image \[2\]: expected a row from 0 to 1, got 2"),
        ("index", "ref_group", 0, 2, r"ref_group \[0\]: expected a row from 0 to 1, got 2"),
        ("index", "expression_ref", 3, 3, r"expression_ref \[3\]"),
        ("index", "instance_offsets", 1, -4, "offsets that divide instance_mask"),
        ("index", "instance_offsets", 0, 1, "offsets that divide instance_mask"),
        ("index", "instance_offsets", 2, 2**40, "offsets that divide instance_mask"),
        ("index", "image_size", (1, 0), 0, r"image_size \[1\]: expected 1 or more"),
        ("index", "image_size", (1, 0), 2**31 - 1, r"image_size \[1\]: expected at most 33,554,432 pixels"),
        ("pairs", "proposal", 1, 3, r"proposal \[1\]: expected a row from 0 to 2"),
        ("pairs", "expression_image", 0, -1, r"expression_image \[0\]: expected a row, got -1"),
        ("pairs", "expression_offsets", 2, 3, "offsets that divide proposal"),
        ("pairs", "intersection", 1, -1, r"intersection \[1\]: expected 0 or more"),
        ("pairs", "dot.local*phrase", 1, np.nan, r"dot\.local\*phrase \[1\]: expected a finite number, got nan"),
        ("pairs", "dot.local*phrase", 0, np.inf, r"dot\.local\*phrase \[0\]: expected a finite number, got inf"),
        ("pairs", "bank_dot.local", (2, 1), np.nan, r"bank_dot\.local \[2\]"),
    ],
)
def test_what_no_stage_writes_is_refused(name: str, column: str, place: Any, value: Any, said: str) -> None:
    columns = changed(INDEX if name == "index" else PAIRS, column, place, value)
    with pytest.raises(StoreError, match=f"{said}.*no stage writes that; do this"):
        check_ranges(Path("x"), name, columns, GROUPS, "do this")


def test_an_image_that_cannot_be_used_may_have_any_size() -> None:
    columns = changed(INDEX, "image_size", (1, 0), 2**31 - 1) | {"image_status": ["", "too large"]}
    check_ranges(Path("x"), "index", columns, GROUPS, "do this")
