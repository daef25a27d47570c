"""Proposals from COCO result JSON and from annotations, against plain loops over dense masks."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from pycocotools import mask as coco

from stages.contract import Summary
from stages.proposals.boxes import RULES, boxes_by_rule
from store.errors import DataError
from store.segmentation import encode
from tests.helpers.proposal_files import (
    BROKEN,
    NAMES,
    SIZE,
    Mask,
    Project,
    check,
    compressed,
    of_image,
    plain_box,
    rectangle,
    row,
    uncompressed,
)


@pytest.fixture
def project(tmp_path: Path) -> Project:
    return Project(tmp_path)


def about_file(project: Project, summary: Summary) -> list[str]:
    return [warning for warning in summary.warnings if warning.startswith(f"{project.file}: ")]


WITH_GAP = rectangle(0, 0, 2, 6) | rectangle(7, 2, 8, 3)


@pytest.mark.parametrize("rule", RULES)
def test_masks_areas_boxes_and_scores(project: Project, rule: str) -> None:
    table, summary = project.propose([row(11, WITH_GAP, 0.25), row(33, rectangle(1, 2, 3, 4), 0.75)], box=rule)
    check(table, 0, [(WITH_GAP, 0.25)], rule)
    check(table, 2, [(rectangle(1, 2, 3, 4), 0.75)], rule)
    assert table["status"] == ["", "no proposal in rows.json", "", *["no proposal in rows.json"] * 2, "no such file"]
    assert summary.warnings == [
        "3 of 5 images to propose for cannot be used: 3 x no proposals, such as a/two.png: no proposal in rows.json; check "
        "propose.input and the values of propose (source coco), or the image files"
    ]
    assert summary.read == {"images": 6, "rows": 2}
    assert summary.skipped == [f"{n}: {s}" for n, s in zip(NAMES, table["status"], strict=True) if s]


def test_both_boxes_differ_for_a_mask_with_a_gap() -> None:
    assert plain_box(WITH_GAP, "tight") == [0, 0, 8, 6]
    assert plain_box(WITH_GAP, "reference") == pytest.approx([8 / 3 - 1.5, -0.5, 8 / 3 + 1.5, 5.5])


def test_all_forms_of_a_mask_are_equal(project: Project) -> None:
    """Polygons of whole pixels, one RLE of either kind, or a list of RLEs whose union counts."""
    parts = [rectangle(1, 1, 4, 3), rectangle(3, 2, 8, 5)]
    polygons = [[1, 1, 4, 1, 4, 3, 1, 3], [3.0, 2.0, 8.0, 2.0, 8.0, 5.0, 3.0, 5.0]]
    whole = parts[0] | parts[1]
    forms = [polygons, compressed(whole), uncompressed(whole), [compressed(parts[0]), uncompressed(parts[1])]]
    table, _ = project.propose([{**row(11, whole), "segmentation": form} for form in forms])
    check(table, 0, [(whole, 0.5)] * 4)
    assert len(set(table["mask"])) == 1


def test_the_best_come_first_and_equal_scores_keep_the_order_of_the_file(project: Project) -> None:
    scores = [0.5, 0.9, 0.5, -3, 0.9, 7.25, 0.5]
    masks = [rectangle(0, 0, number + 1, 1) for number in range(len(scores))]
    rows = [row(11, mask, score) for mask, score in zip(masks, scores, strict=True)]
    order = [5, 1, 4, 0, 2, 6, 3]
    table, _ = project.propose(rows)
    check(table, 0, [(masks[n], scores[n]) for n in order])
    table, summary = project.propose([*rows, row(22, masks[0])], max_proposals=4)
    check(table, 0, [(masks[n], scores[n]) for n in order[:4]])
    assert about_file(project, summary) == [
        f"{project.file}: 3 of 8 rows are not among the 4 best of their image (max_proposals)"
    ]


def test_without_any_score_the_order_of_the_file_counts(project: Project) -> None:
    masks = [rectangle(0, 0, n, 1) for n in (3, 1, 2)]
    table, summary = project.propose([row(11, mask, None) for mask in masks])
    check(table, 0, [(mask, 1.0) for mask in masks])
    assert about_file(project, summary) == [
        f"{project.file}: no row has a score: all count as 1.0, and the file's order is kept"
    ]
    with pytest.raises(DataError, match=r"rows\.json \[1\]: expected a score as in other rows, found none \(2 of 3"):
        project.propose([row(11, masks[0]), row(11, masks[1], None), row(99, masks[2], None)])


def test_rows_of_other_images_are_counted_in_one_warning(project: Project) -> None:
    mask = rectangle(1, 1, 2, 2)
    rows = [row(9, mask), row(11, mask), row(10**30, mask), row(-1, mask), row(11, mask, file_name="no.png")]
    table, summary = project.propose(rows)
    check(table, 0, [(mask, 0.5)])
    assert about_file(project, summary) == [f"{project.file}: 4 of 5 rows are of images that no chosen data set has"]
    assert not any("rows.json [" in line for line in summary.skipped)


def test_rows_of_an_image_that_cannot_be_used(project: Project) -> None:
    table, summary = project.propose([row(66, rectangle(1, 1, 2, 2)), row(11, rectangle(1, 1, 2, 2))])
    assert of_image(table, BROKEN) == []
    assert table["status"][BROKEN] == "no such file"
    assert about_file(project, summary) == [
        f"{project.file}: 1 of 2 rows are of images that cannot be used (see stage index)"
    ]


def test_an_id_of_two_images_is_refused_unless_the_row_has_a_name(project: Project) -> None:
    mask, small = rectangle(1, 1, 2, 2), rectangle(1, 1, 2, 2, (4, 5))
    rows = [row(44, mask), row(44, mask, file_name="four.png"), row(44, small, file_name="three.png")]
    table, summary = project.propose(rows)
    check(table, 4, [(mask, 0.5)])
    check(table, 3, [(small, 0.5)])
    (line,) = [line for line in summary.skipped if "[0]" in line]
    assert "image_id 44 may be any of image_id 44 (three.png), image_id 44 (four.png); add the whole file_name" in line
    table, _ = project.propose([rows[0], row(11, mask)])
    assert table["status"][3:5] == ["no usable proposal in rows.json, where 1 rows name the image"] * 2


def test_a_file_name_wins_and_may_be_the_end_of_a_name(project: Project) -> None:
    mask = rectangle(1, 1, 2, 2)
    rows = [
        row(22, mask, 0.1, file_name="one.png"),  # the end of a/one.png
        row(22, mask, 0.2, file_name="a/one.png"),
        {"file_name": "b/two.png", "segmentation": compressed(mask), "score": 0.3},
        row(22, mask, 0.4, file_name="two.png"),  # the end of two names
        row(22, mask, 0.5, file_name=None),
    ]
    table, summary = project.propose(rows)
    check(table, 0, [(mask, 0.2), (mask, 0.1)])
    check(table, 1, [(mask, 0.5)])
    check(table, 2, [(mask, 0.3)])
    (line,) = [line for line in summary.skipped if "rows.json [" in line]
    assert "[3]: file_name two.png may be any of" in line


MALFORMED: list[tuple[str, Callable[[dict[str, Any]], Any], str]] = [
    ("no object", lambda good: [1, 2], "expected an object, got list"),
    ("no image", lambda good: {k: v for k, v in good.items() if k != "image_id"}, "image_id: expected an integer"),
    ("text as id", lambda good: {**good, "image_id": "eleven"}, "image_id: expected an integer, got str"),
    ("true as id", lambda good: {**good, "image_id": True}, "image_id: expected an integer, got bool"),
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


def test_a_part_of_a_mask_that_cannot_be_used_is_named_and_the_rest_counts(project: Project) -> None:
    polygons = [[1, 1, 4, 1, 4, 3, 1, 3], [5, 5]]
    table, summary = project.propose([{**row(11, WITH_GAP), "segmentation": polygons}])
    check(table, 0, [(rectangle(1, 1, 4, 3), 0.5)])
    (line,) = [line for line in summary.skipped if "rows.json [" in line]
    assert "[0]: segmentation part 1: polygon: expected 3 or more points" in line
    assert line.endswith("the rest of the mask is used")


def test_an_image_whose_rows_are_all_malformed_says_so(project: Project) -> None:
    table, _ = project.propose([row(11, WITH_GAP, float("nan")), row(11, WITH_GAP, float("nan")), row(22, WITH_GAP)])
    assert table["status"][0] == "no usable proposal in rows.json, where 2 rows name the image"
    assert table["state"] == ["no proposals", "", *["no proposals"] * 3, "unreadable image"]
    assert table["image_offsets"].tolist() == [0, 0, 1, 1, 1, 1, 1]


def test_a_file_for_other_images_shows_ids_of_both_sides(project: Project) -> None:
    with pytest.raises(DataError) as error:
        project.propose([row(number, WITH_GAP) for number in (1, 1, 2, 3, 4, 5)])
    said = str(error.value)
    assert f"{project.file}: expected" in said
    assert "got 6 rows" in said
    assert "image_id 1, image_id 2, image_id 3, image_id 4 and 1 more" in said
    assert "image_id 11 (a/one.png), image_id 22 (a/two.png)" in said
    assert "propose.input" in said
    with pytest.raises(DataError, match="got 0 rows, none of them of such an image: it has no row"):
        project.propose([])
    with pytest.raises(DataError, match=r"of such an image: .*rows\.json \[0\]: expected an object, got int 3"):
        project.propose([3])


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"", "this is no JSON"),
        (b'[{"image_id": 11', "this is no JSON"),
        (b"\x80\x02binary", "this is no JSON"),
        (b"[" * 100_000, "this is no JSON"),
        (b'{"annotations": []}', "a list of rows with image_id, segmentation and score, got dict"),
        (None, "No such file"),
    ],
)
def test_a_file_that_is_none_is_one_error_with_a_remedy(project: Project, data: bytes | None, expected: str) -> None:
    if data is not None:
        project.file.write_bytes(data)
    with pytest.raises(DataError, match=expected) as error:
        project.propose()
    assert str(project.file) in str(error.value)
    assert "propose.input" in str(error.value)
    assert not (project.folder / "proposals.h5").exists()


def test_a_folder_is_no_file(project: Project) -> None:
    project.file.mkdir()
    for source in ("coco", "freesolo"):
        with pytest.raises(DataError, match=r"rows\.json: .*correct propose\.input or propose\.source"):
            project.propose(source=source)


def test_a_file_with_a_byte_order_mark_is_read(project: Project) -> None:
    project.file.write_bytes(b"\xef\xbb\xbf" + json.dumps([row(11, WITH_GAP)]).encode())
    check(project.propose()[0], 0, [(WITH_GAP, 0.5)])


def test_the_table_says_what_it_was_made_of(project: Project, tmp_path_factory: pytest.TempPathFactory) -> None:
    table, _ = project.propose([row(11, WITH_GAP)])
    digest = table.attrs["config"]["input"]
    assert table.attrs["config"] == {"source": "coco", "box": "reference", "max_proposals": 100, "input": digest}
    again, _ = project.propose([row(11, WITH_GAP)], short_side=32, score_threshold=0.9)
    assert (again.digest, again.attrs) == (table.digest, table.attrs), "FreeSOLO's parameters are not used"
    other, _ = project.propose([row(11, WITH_GAP, 0.25)])
    assert other.attrs["config"]["input"] != digest
    assert not (project.folder / "work").exists(), "no parts"
    instances = Project(tmp_path_factory.mktemp("drawn"), {0: [WITH_GAP]})
    table, _ = instances.propose(source="instances", box="tight")
    assert table.attrs["config"] == {"source": "instances", "box": "tight"}


@given(masks=arrays(np.bool_, st.tuples(st.integers(0, 4), st.integers(1, 7), st.integers(1, 7))))
def test_boxes_from_run_lengths_are_those_of_dense_masks(masks: Mask) -> None:
    import torch

    from stages.proposals.decode import mask_boxes

    masks = masks[masks.any((1, 2))]
    found = boxes_by_rule(encode(masks), *masks.shape[1:])
    for rule in RULES:
        assert found[rule].shape == (len(masks), 4)
        np.testing.assert_array_equal(found[rule], mask_boxes(torch.from_numpy(masks), rule).numpy())
        plain = [plain_box(mask, rule) for mask in masks]
        np.testing.assert_allclose(found[rule], np.reshape(plain, (-1, 4)), atol=1e-5)


def test_boxes_of_masks_with_runs_of_no_pixel() -> None:
    """Some writers leave them in: 3 outside, 0 inside, 2 outside, 4 inside."""
    counts = coco.frPyObjects({"size": [4, 5], "counts": [3, 0, 2, 4, 11]}, 4, 5)["counts"]
    boxes = boxes_by_rule([counts], 4, 5)
    assert boxes["tight"].tolist() == [[1, 0, 3, 4]]
    assert boxes["reference"].tolist() == [[0.5, -0.5, 2.5, 3.5]]


@pytest.mark.parametrize("rule", RULES)
def test_instances_are_the_annotated_objects_in_their_order(tmp_path: Path, rule: str) -> None:
    drawn = {0: [rectangle(5, 0, 9, 6), WITH_GAP, rectangle(0, 0, 1, 1)], 3: [rectangle(1, 1, 3, 2, (4, 5))]}
    project = Project(tmp_path, {**drawn, BROKEN: [WITH_GAP]})
    table, summary = project.propose(source="instances", box=rule, max_proposals=1)
    for image in range(len(NAMES)):
        check(table, image, [(mask, 1.0) for mask in drawn.get(image, [])], rule)
    nothing = "no annotated object"
    assert table["status"] == ["", nothing, nothing, "", nothing, "no such file"]
    assert not project.file.exists(), "no input is read"
    assert summary.wrote == {"proposals": 4}


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


def test_ids_as_text_or_float_are_taken_for_the_integer_and_noted(project: Project) -> None:
    """000000000022 is how COCO's file names write 22."""
    rows = [row(n, WITH_GAP) for n in ("11", 22.0, "000000000022", 33)]  # type: ignore[arg-type]
    table, summary = project.propose(rows)
    assert np.diff(table["image_offsets"]).tolist() == [1, 2, 1, 0, 0, 0]
    (said,) = about_file(project, summary)
    assert said == f"{project.file}: 3 of 4 rows have no integer as image_id, such as str '11'; taken for the integer"
    for image_id in (11.5, "11.0", "0x11", True, "-11", " 11", "¹¹", 1e300, float("nan")):
        with pytest.raises(DataError, match=r"of such an image|none of 1 rows"):
            project.propose([row(image_id, WITH_GAP)])  # type: ignore[arg-type]


def test_no_image_with_a_proposal_is_an_error(tmp_path: Path) -> None:
    """All rows are good, and of the one image that cannot be used."""
    project = Project(tmp_path)
    with pytest.raises(
        DataError, match=r"none of 5 images to propose for can be used: 5 x no proposals, such as a/one\.png"
    ):
        project.propose([row(66, WITH_GAP)])
    with pytest.raises(
        DataError, match=r"none of 5 images to propose for can be used: 5 x no proposals.*no annotated object"
    ):
        project.propose(source="instances")


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
