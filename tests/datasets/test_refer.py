"""The REFER reader: what is read of a good data set, and choices and files that do not exist."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stages.datasets.fields import unsafe_name
from stages.datasets.refer import in_split, read_refer
from stages.datasets.rows import SentenceRow
from store.errors import DataError, ParameterError
from tests.helpers.refer_files import CROWD, REFS, SQUARE, data_root, python2_pickle, ref_row


def test_round_trip(tmp_path: Path) -> None:
    data = read_refer(data_root(tmp_path), "refcoco", "unc", ["val", "testA"])
    assert (data.name, data.problems) == ("refcoco", ())
    assert [(i.image_id, i.file_name, i.width, i.height, i.status) for i in data.images] == [
        (5, "COCO_train2014_000000000005.jpg", 14, 8, ""),  # the image's own name, not the ref's
        (9, "COCO_train2014_000000000009.jpg", 14, 8, ""),
    ]
    assert [(a.annotation_id, a.image_id, a.category_id, a.category, a.iscrowd) for a in data.annotations] == [
        (90, 9, 3, "cat", False),
        (91, 9, 4, "chien", True),
        (50, 5, 3, "cat", False),
    ]
    assert [a.segmentation for a in data.annotations] == [SQUARE, CROWD, SQUARE]
    assert (data.annotations[0].bbox, data.annotations[0].area) == ((2.0, 1.0, 4.0, 3.0), 12.0)
    found = [(r.ref_id, r.annotation_ids, r.image_id, r.category, r.split, r.splits, r.status) for r in data.refs]
    assert found == [
        (1, (90,), 9, "cat", "val", ("val",), ""),
        (2, (50,), 5, "cat", "testA", ("testA",), ""),
        (3, (91,), 9, "cat", "testAB", ("testA",), ""),
    ]
    assert data.refs[0].sentences == (SentenceRow(10, "Raw 1", ""), SentenceRow(11, "le café à gauche", ""))


def test_python2_data_set_reads_the_same(tmp_path: Path) -> None:
    expected = read_refer(data_root(tmp_path), "refcoco", "unc", ["val", "test"])
    for protocol in (0, 2):
        python2_pickle(REFS, protocol, "utf-8", tmp_path / "refcoco" / "refs(unc).p")
        assert read_refer(tmp_path, "refcoco", "unc", ["val", "test"]) == expected


@pytest.mark.parametrize(
    ("split", "values"),
    [
        ("val", ["val"]),
        ("train", ["train"]),
        ("test", ["test", "testA", "testAB", "testB", "testBC", "testC"]),
        ("testA", ["A", "testA", "testAB"]),
        ("testB", ["B", "testAB", "testB", "testBC"]),
        ("testC", ["testBC", "testC"]),
        ("testAB", ["testAB"]),
        ("minival", ["minival"]),
    ],
)
def test_splits_as_the_release_matches_them(split: str, values: list[str]) -> None:
    every = ["A", "B", "minival", "test", "testA", "testAB", "testB", "testBC", "testC", "train", "val"]
    assert [value for value in every if in_split(value, split)] == values


def test_one_ref_can_be_in_several_splits(tmp_path: Path) -> None:
    data = read_refer(data_root(tmp_path), "refcoco", "unc", ["testB", "testA", "testA"])
    assert [(ref.ref_id, ref.splits) for ref in data.refs] == [
        (2, ("testA",)),
        (3, ("testB", "testA")),
        (4, ("testB",)),
    ]


@pytest.mark.parametrize(
    ("name", "split_by", "splits", "message"),
    [
        ("refcoc", "unc", ["val"], r"data set 'refcoc'.*did you mean 'refcoco'\?.*refcocog"),
        ("..", "unc", ["val"], r"data set '\.\.'"),
        ("", "unc", ["val"], r"data set ''"),
        ("refcoco", "und", ["val"], r"split_by 'und'.*did you mean 'unc'\?.*google, unc"),
        ("refcoco", "../x", ["val"], r"split_by '\.\./x'"),
        (
            "refcoco",
            "unc",
            ["val", "testD"],
            r"split 'testD'.*did you mean 'test.'\?.*testA, testAB, testB, train, val",
        ),
        ("refcocog", "umd", ["testA"], r"split 'testA'.*known: test, val"),
        ("refcoco", "unc", ["testC"], "split 'testC'"),
    ],
)
def test_choices_that_do_not_exist(tmp_path: Path, name: str, split_by: str, splits: list[str], message: str) -> None:
    data_root(data_root(tmp_path), split_by="google")
    data_root(tmp_path, [ref_row(1, 90, 9, "val"), ref_row(2, 90, 9, "test")], name="refcocog", split_by="umd")
    (tmp_path / "images").mkdir()
    with pytest.raises(ParameterError, match=message):
        read_refer(tmp_path, name, split_by, splits)


def test_missing_files(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="expected the folder"):
        read_refer(tmp_path / "nowhere", "refcoco", "unc", ["val"])
    (tmp_path / "refcoco").mkdir()
    with pytest.raises(DataError, match=r"expected refs\(unc\)\.p"):
        read_refer(tmp_path, "refcoco", "unc", ["val"])
    (data_root(tmp_path) / "refcoco" / "instances.json").unlink()
    with pytest.raises(DataError, match=r"instances\.json"):
        read_refer(tmp_path, "refcoco", "unc", ["val"])


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"{",
        b"[]",
        b"5",
        b"\xff\xfe",
        b'{"images": [], "annotations": []}',
        b'{"images": {}, "annotations": [], "categories": []}',
        b"[" * 100_000,
    ],
)
def test_instances_that_are_none(tmp_path: Path, data: bytes) -> None:
    (data_root(tmp_path) / "refcoco" / "instances.json").write_bytes(data)
    with pytest.raises(DataError, match=r"instances\.json.*fetch the file again"):
        read_refer(tmp_path, "refcoco", "unc", ["val"])


def test_images_and_annotations_of_other_splits_are_left_out(tmp_path: Path) -> None:
    data = read_refer(data_root(tmp_path), "refcoco", "unc", ["train"])
    assert [image.image_id for image in data.images] == [7]
    assert [annotation.annotation_id for annotation in data.annotations] == [70]


@given(st.text(max_size=12) | st.lists(st.sampled_from(["..", ".", "", "a", "C:", "b.jpg"]), max_size=5).map("/".join))
def test_a_safe_name_stays_below_the_root(name: str) -> None:
    if unsafe_name(name) is None:
        root = os.path.abspath("root")
        path = os.path.normpath(os.path.join(root, name))
        assert path.startswith(root + os.sep)


@pytest.mark.parametrize("name", ["a.jpg", "train2014/COCO_1.jpg", "é ü.png", "...a", "a..b.jpg", "./a.jpg"])
def test_ordinary_names_are_safe(name: str) -> None:
    assert unsafe_name(name) is None
