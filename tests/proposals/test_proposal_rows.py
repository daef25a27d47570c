"""Rows of masks that cannot be used: each skipped with its reason, and any rows against plain loops over dense masks."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from stages.proposals.boxes import RULES
from store.errors import DataError
from tests.helpers.proposal_files import (
    NAMES,
    SIZE,
    WITH_GAP,
    Mask,
    Project,
    about_file,
    check,
    compressed,
    rectangle,
    row,
    uncompressed,
)


@pytest.fixture
def project(tmp_path: Path) -> Project:
    return Project(tmp_path)


MALFORMED: list[tuple[str, Callable[[dict[str, Any]], Any], str]] = [
    ("no object", lambda good: [1, 2], "expected an object, got list"),
    (
        "no image",
        lambda good: {k: v for k, v in good.items() if k != "image_id"},
        "image_id: expected an integer or text",
    ),
    ("true as id", lambda good: {**good, "image_id": True}, "image_id: expected an integer or text, got bool"),
    ("empty id", lambda good: {**good, "image_id": ""}, "image_id: expected an integer or text, got str"),
    ("share as id", lambda good: {**good, "image_id": 11.5}, "image_id: expected an integer or text, got float"),
    ("number as name", lambda good: {**good, "file_name": 5}, "file_name: expected text, got int"),
    ("NaN", lambda good: {**good, "score": float("nan")}, "score: expected a finite number, got float nan"),
    ("infinity", lambda good: {**good, "score": float("-inf")}, "score: expected a finite number"),
    ("beyond float32", lambda good: {**good, "score": 1e300}, "score: expected a finite number"),
    ("huge integer", lambda good: {**good, "score": 10**400}, "score: expected a finite number"),
    ("text as score", lambda good: {**good, "score": "0.5"}, "score: expected a finite number, got str"),
    ("null as score", lambda good: {**good, "score": None}, "score: expected a finite number, got NoneType"),
    ("no mask", lambda good: {k: v for k, v in good.items() if k != "segmentation"}, "expected polygons or an RLE"),
    ("no polygon", lambda good: {**good, "segmentation": []}, "expected polygons or an RLE"),
    ("two points", lambda good: {**good, "segmentation": [[1, 1, 2, 2]]}, "expected 3 or more points"),
    ("NaN point", lambda good: {**good, "segmentation": [[1, 1, 2, 2, float("nan"), 3]]}, "near the image of 9 x 6"),
    ("other size", lambda good: row(11, rectangle(0, 0, 1, 1, (9, 6))), r"expected size [6, 9]"),
    ("short runs", lambda good: {**good, "segmentation": {"size": [6, 9], "counts": [50, 3]}}, "54 in all, got 53"),
    ("damaged", lambda good: {**good, "segmentation": {"size": [6, 9], "counts": "\x01~~"}}, "counts are damaged"),
    ("empty", lambda good: row(11, np.zeros(SIZE, np.bool_)), "the mask has no pixel"),
    ("thin", lambda good: {**good, "segmentation": [[1, 1, 1, 5, 1, 3]]}, "the mask has no pixel"),
]


@pytest.mark.parametrize(("change", "reason"), [m[1:] for m in MALFORMED], ids=[m[0] for m in MALFORMED])
def test_a_malformed_row_is_skipped_with_file_number_and_reason(
    project: Project, change: Callable[[dict[str, Any]], Any], reason: str
) -> None:
    good = row(11, WITH_GAP)
    table, summary = project.propose([row(22, WITH_GAP), change(good), good])
    check(table, 0, [(WITH_GAP, 0.5)])
    check(table, 1, [(WITH_GAP, 0.5)])
    (line,) = [line for line in summary.skipped if not line.startswith(tuple(NAMES))]
    assert line.startswith(f"{project.file} [1]: ")
    assert reason in line


A6 = [
    ("boxes only", {"bbox": [1, 1, 3, 3], "segmentation": None}, "expected polygons or an RLE, got NoneType"),
    ("width before height", {"segmentation": {"size": [9, 6], "counts": [54]}}, "RLE: expected size [6, 9]"),
    ("size of the network", {"segmentation": compressed(rectangle(0, 0, 5, 5, (20, 30)))}, "RLE: expected size [6, 9]"),
    ("text of bytes", {"segmentation": {"size": [6, 9], "counts": str(b"0f1")}}, "counts are damaged"),
    ("base64", {"segmentation": {"size": [6, 9], "counts": "PDE1MjQ+"}}, "RLE"),
    ("text as score", {"score": "0.9"}, "score: expected a finite number, got str"),
    ("points", {"segmentation": [[1, 1], [4, 1], [4, 4]]}, "expected 3 or more points"),
    ("four numbers", {"segmentation": [1, 1, 3, 3]}, "expected a polygon or an RLE, got int"),
    (
        "shares of the image",
        {"segmentation": [[0.1, 0.1, 0.9, 0.1, 0.9, 0.9]]},
        "expected pixels, got numbers from 0 to 1",
    ),
    ("whole shares", {"segmentation": [[0, 0, 1, 0, 1, 1, 0, 1]]}, "expected pixels, got numbers from 0 to 1"),
]


@pytest.mark.parametrize(("change", "reason"), [case[1:] for case in A6], ids=[case[0] for case in A6])
def test_a_file_of_which_no_row_is_usable_is_an_error_with_the_reason(
    project: Project, change: dict[str, Any], reason: str
) -> None:
    rows = [{**row(image_id, WITH_GAP), **change} for image_id in (11, 22, 33, 11)]
    with pytest.raises(DataError) as error:
        project.propose(rows)
    said = str(error.value)
    assert said.startswith(f"none of 4 rows of {project.file} can be used: ")
    assert "x unusable row, such as " in said
    assert f"{project.file} [0]: " in said
    assert reason in said
    assert "propose.input" in said
    assert not (project.folder / "proposals.h5").exists()
    table, summary = project.propose([row(22, WITH_GAP), *rows])
    check(table, 1, [(WITH_GAP, 0.5)])
    (warning,) = [w for w in summary.warnings if w.startswith("4 of 5 rows of ")]
    assert reason in warning
    assert [loss["count"] for loss in table.attrs["losses"] if loss["state"] == "unusable row"] == [4]


def test_the_most_frequent_reason_comes_first(project: Project) -> None:
    rows = [row(11, WITH_GAP, float("nan")), *[{**row(n, WITH_GAP), "segmentation": None} for n in (22, 33, 22)]]
    with pytest.raises(
        DataError,
        match=r"3 x unusable row, such as .* \[1\]: segmentation: .*; 1 x unusable row, such as .* \[0\]: score: .*float nan",
    ):
        project.propose(rows)


# A row and what it means: (image, mask, score), or why it is none.
Meaning = tuple[int, Mask, float] | str
GOOD_IMAGES = [(0, {"image_id": 11}), (1, {"image_id": 22}), (0, {"image_id": 44, "file_name": "one.png"})]


@st.composite
def rows_with_meaning(draw: st.DrawFn) -> tuple[Any, Meaning]:
    mask = draw(arrays(np.bool_, SIZE))
    score = draw(st.sampled_from([0, 0.25, 0.5, 0.5, 1.0, -2.5, 3]))
    form = draw(st.sampled_from([compressed, uncompressed, lambda m: [compressed(m)]]))
    image, naming = draw(st.sampled_from(GOOD_IMAGES))
    good = {**naming, "segmentation": form(mask), "score": score}
    kind = draw(st.sampled_from(["good", "good", "good", "stranger", "collision", *[m[0] for m in MALFORMED]]))
    if kind == "stranger":
        return {**good, "image_id": 5, "file_name": None}, "stranger"
    if kind == "collision":
        return {**good, "image_id": 44, "file_name": None}, "skipped"
    for name, change, _ in MALFORMED:
        if kind == name:
            return change({**row(11, mask), "score": score}), "skipped"
    return good, (image, mask, float(score)) if mask.any() else "skipped"


@settings(max_examples=60)
@given(
    rows=st.lists(rows_with_meaning(), max_size=12),
    limit=st.integers(1, 4),
    rule=st.sampled_from(RULES),
)
def test_any_rows_against_a_plain_loop(
    tmp_path_factory: pytest.TempPathFactory, rows: list[tuple[Any, Meaning]], limit: int, rule: str
) -> None:
    project = Project(tmp_path_factory.mktemp("rows"))
    anchor = row(33, rectangle(0, 0, 1, 1), 0)  # one row is always of an image of the index
    table, summary = project.propose([*[r for r, _ in rows], anchor], max_proposals=limit, box=rule)
    left_out = 0
    for image in (0, 1):
        best: list[tuple[Mask, float]] = []
        for _, meaning in rows:
            if not isinstance(meaning, str) and meaning[0] == image:
                place = sum(score >= meaning[2] for _, score in best)
                best.insert(place, meaning[1:])
        check(table, image, best[:limit], rule)
        assert bool(table["status"][image]) == (not best)
        left_out += len(best[limit:])
    meanings = [meaning for _, meaning in rows]
    strangers = sum(m == "stranger" for m in meanings if isinstance(m, str))
    skipped = [line for line in summary.skipped if not line.startswith(tuple(NAMES))]
    assert len(skipped) == sum(m == "skipped" for m in meanings if isinstance(m, str))
    said = [(strangers, "no chosen data set has"), (left_out, f"the {limit} best")]
    assert len(about_file(project, summary)) == sum(bool(n) for n, _ in said)
    for n, text in said:
        assert not n or any(f": {n} of {len(rows) + 1} rows" in w and text in w for w in summary.warnings)
    unusable = sum(m == "skipped" for m in meanings if isinstance(m, str))
    ours = len(rows) + 1 - strangers
    assert [w.partition(" rows")[0] for w in summary.warnings if f"rows of {project.file}" in w] == (
        [f"{unusable} of {ours}"] if unusable else []
    )
