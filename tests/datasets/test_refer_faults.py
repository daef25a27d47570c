"""Every fault in a row of REFER's files is kept or noted with its reason, and stops nothing."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest

from stages.datasets.fields import NO_ID
from stages.datasets.refer import read_refer
from stages.datasets.rows import SentenceRow
from tests.helpers.refer_files import CROWD, INSTANCES, REFS, annotation_row, data_root, image_row, ref_row, without

_BAD_REFS: list[tuple[dict[str, Any], str]] = [
    (ref_row(8, 999, 9, "val"), "annotation 999: is not among the annotations"),
    (ref_row(8, 90, 999, "val"), "image 999: is not among the images"),
    (ref_row(8, 50, 9, "val"), "annotation 50 is of image 5, the ref of image 9"),
    (ref_row(1, 90, 9, "val"), "ref_id 1 appears a second time"),
    (ref_row(8, 90, 9, "val", sentences=[]), "sentences: expected a list"),
    (ref_row(8, 90, 9, "val", sentences="abc"), "sentences: expected a list"),
    ({**ref_row(8, 90, 9, "val"), "image_id": [9]}, "image_id: expected an integer"),
    ({**ref_row(8, 90, 9, "val"), "ann_id": "ninety"}, "ann_id: expected an integer from 0, got str 'ninety'"),
    ({**ref_row(8, 90, 9, "val"), "ref_id": None}, "ref_id: expected an integer"),
    ({**ref_row(8, 90, 9, "val"), "ref_id": True}, "ref_id: expected an integer"),
    ({**ref_row(8, 90, 9, "val"), "ref_id": -3}, "ref_id: expected an integer"),
    ({**ref_row(8, 90, 9, "val"), "ref_id": 10**5000}, "got a huge int"),
    *((without(ref_row(8, 90, 9, "val"), key), f"{key}: ") for key in ("ref_id", "ann_id", "image_id", "sentences")),
]


@pytest.mark.parametrize(("bad", "reason"), _BAD_REFS, ids=lambda value: value if isinstance(value, str) else "")
def test_a_bad_ref_is_kept_with_its_reason(tmp_path: Path, bad: dict[str, Any], reason: str) -> None:
    data = read_refer(data_root(tmp_path, [REFS[0], bad, REFS[1]]), "refcoco", "unc", ["val", "testA"])
    assert [bool(ref.status) for ref in data.refs] == [False, True, False]
    assert reason in data.refs[1].status
    assert any("refs(unc).p [1]" in problem.where and reason in problem.reason for problem in data.problems)
    whole = read_refer(data_root(tmp_path), "refcoco", "unc", ["val", "testA"])
    assert (data.refs[0], data.refs[2]) == whole.refs[:2]


@pytest.mark.parametrize("bad", [None, 5, "abc", [], {}, without(REFS[0], "split"), {**REFS[0], "split": 3}])
def test_a_ref_without_a_split_is_a_problem(tmp_path: Path, bad: object) -> None:
    data = read_refer(data_root(tmp_path, [bad, REFS[0]]), "refcoco", "unc", ["val"])
    assert [ref.ref_id for ref in data.refs] == [1]
    (problem,) = data.problems
    assert problem.where.endswith("refs(unc).p [0]")
    assert "split" in problem.reason


@pytest.mark.parametrize(
    ("sentence", "reason"),
    [
        ({"sent_id": 1}, "raw: expected text, it is missing"),
        ({"raw": None, "sent_id": 1}, "raw: expected text, got NoneType"),
        ({"raw": "half a pair \ud800", "sent_id": 1}, "raw: expected text"),
        ({"raw": "x"}, "sent_id: expected an integer"),
        ("just text", "expected a dict, got str"),
    ],
)
def test_a_bad_sentence_is_kept(tmp_path: Path, sentence: Any, reason: str) -> None:
    good = {"raw": "the cat", "sent_id": 2}
    data = read_refer(
        data_root(tmp_path, [ref_row(1, 90, 9, "val", sentences=[sentence, good])]), "refcoco", "unc", ["val"]
    )
    assert data.refs[0].status == ""
    assert data.refs[0].sentences[1] == SentenceRow(2, "the cat", "")
    assert reason in data.refs[0].sentences[0].status
    assert data.problems[0].where.endswith("[0] sentences[0]")
    assert reason in data.problems[0].reason


_BAD_ROWS: list[tuple[str, dict[str, Any], str]] = [
    ("images", {"file_name": "../../etc/passwd"}, "climbs out"),
    ("images", {"file_name": "a/../../b.jpg"}, "climbs out"),
    ("images", {"file_name": "..\\b.jpg"}, "climbs out"),
    ("images", {"file_name": "/etc/passwd"}, "absolute"),
    ("images", {"file_name": "C:\\b.jpg"}, "absolute"),
    ("images", {"file_name": "\\\\host\\share\\b.jpg"}, "absolute"),
    ("images", {"file_name": "."}, "names no file"),
    ("images", {"file_name": "a\0.jpg"}, "names no file"),
    ("images", {"file_name": "\ud800.jpg"}, "file_name: expected text"),
    ("images", {"file_name": 5}, "file_name: expected text, got int 5"),
    ("images", {"width": "14"}, "width: expected an integer"),
    ("images", {"width": 0}, "1 pixel or more"),
    ("images", {"height": float("nan")}, "height: expected an integer"),
    ("annotations", {"segmentation": None}, "segmentation: expected"),
    ("annotations", {"segmentation": []}, "segmentation: expected"),
    ("annotations", {"segmentation": "abc"}, "segmentation: expected"),
    ("annotations", {"image_id": 999}, "image 999 is not among the images"),
]


@pytest.mark.parametrize(("table", "changes", "reason"), _BAD_ROWS)
def test_a_bad_image_or_annotation_spoils_only_its_own_refs(
    tmp_path: Path, table: str, changes: dict[str, Any], reason: str
) -> None:
    instances = copy.deepcopy(INSTANCES)
    instances[table][0].update(changes)
    data = read_refer(data_root(tmp_path, REFS[:2], instances), "refcoco", "unc", ["val", "testA"])
    assert reason in data.refs[0].status
    assert data.refs[1].status == ""
    assert any(p.where.endswith(f"{table}[0]") and reason in p.reason for p in data.problems)
    rows = {row.image_id: row.status for row in data.images}
    assert (reason in rows[9]) == (table == "images")
    assert rows[5] == ""


@pytest.mark.parametrize("table", ["images", "annotations", "categories"])
@pytest.mark.parametrize("row", [None, 5, [], "x", {}])
def test_rows_of_no_form_are_problems(tmp_path: Path, table: str, row: object) -> None:
    instances = copy.deepcopy(INSTANCES)
    instances[table].insert(0, row)
    data = read_refer(data_root(tmp_path, instances=instances), "refcoco", "unc", ["val"])
    expected = read_refer(data_root(tmp_path), "refcoco", "unc", ["val"])
    assert (data.images, data.annotations, data.refs) == (expected.images, expected.annotations, expected.refs)
    assert data.problems
    assert {problem.where.rpartition("/")[2] for problem in data.problems} == {f"instances.json {table}[0]"}


def test_annotation_of_an_absent_image_is_a_problem(tmp_path: Path) -> None:
    instances = copy.deepcopy(INSTANCES)
    instances["annotations"].append(annotation_row(80, 888))
    data = read_refer(data_root(tmp_path, instances=instances), "refcoco", "unc", ["val"])
    (problem,) = data.problems
    assert problem.where.endswith("annotations[5]")
    assert problem.reason == "image 888 is not among the images"


def test_the_first_of_two_equal_ids_holds(tmp_path: Path) -> None:
    instances = copy.deepcopy(INSTANCES)
    instances["images"].append(image_row(9, file_name="other.jpg"))
    instances["annotations"].append(annotation_row(90, 9, segmentation=CROWD))
    instances["categories"].append({"id": 3, "name": "other"})
    data = read_refer(data_root(tmp_path, instances=instances), "refcoco", "unc", ["val"])
    expected = read_refer(data_root(tmp_path), "refcoco", "unc", ["val"])
    assert (data.images, data.annotations, data.refs) == (expected.images, expected.annotations, expected.refs)
    assert [problem.reason.split(" appears")[0] for problem in data.problems] == ["id 3", "id 9", "id 90"]


def test_what_is_not_needed_is_noted_and_spoils_nothing(tmp_path: Path) -> None:
    instances = copy.deepcopy(INSTANCES)
    instances["annotations"][0].update(bbox=[1, 2, 3], area=10**400, category_id=77)
    del instances["annotations"][1]["bbox"], instances["annotations"][1]["area"], instances["annotations"][1]["iscrowd"]
    data = read_refer(
        data_root(tmp_path, [ref_row(1, 90, 9, "val", category_id=[])], instances), "refcoco", "unc", ["val"]
    )
    assert [(a.bbox, a.area, a.category_id, a.category, a.status) for a in data.annotations] == [
        (None, None, NO_ID, "", ""),
        (None, None, 4, "chien", ""),
    ]
    assert (data.refs[0].category_id, data.refs[0].category, data.refs[0].status) == (NO_ID, "", "")
    assert [p.reason.split(":")[0] for p in data.problems] == ["bbox", "area", "category_id", "category_id"]
