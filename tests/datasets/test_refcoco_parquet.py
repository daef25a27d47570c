"""RefCOCO from Parquet: each layout gives what REFER's own files give, and every fault is named."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from stages.datasets.choice import origin, published_split
from stages.datasets.coco_categories import CATEGORY_NAMES, COCO_CATEGORIES
from stages.datasets.refcoco_parquet import own_rows, pictures, read_refcoco_parquet
from stages.datasets.refer import COUNTS, read_refer
from stages.datasets.registry import Choice
from stages.datasets.rows import ReferData
from store.errors import CodeError, DataError, ParameterError
from tests.helpers.parquet_files import (
    ANNOTATIONS,
    PLAIN,
    flat_row,
    picture,
    write_benchmark,
    write_parquet,
    write_refs,
)
from tests.helpers.refer_files import SQUARE, data_root

pytest.importorskip("pyarrow")
SPLITS = ["val", "testA", "testB"]


def choose(split_by: str, splits: list[str] = SPLITS) -> Choice:
    return Choice(kind="refcoco_parquet", split_by=split_by, splits=splits)


def told(data: ReferData) -> Any:
    """What a data set says, without the order of rows and the categories' names, which Parquet lacks."""
    images = [(image.image_id, image.file_name, image.width, image.height, image.status) for image in data.images]
    objects = {
        a.annotation_id: (a.image_id, a.category_id, a.segmentation, a.bbox, a.area, a.iscrowd)
        for a in data.annotations
    }
    refs = {
        ref.ref_id: (ref.annotation_ids, ref.image_id, ref.category_id, ref.splits, ref.sentences, ref.status)
        for ref in data.refs
    }
    return images, objects, refs


@pytest.mark.parametrize("layout", ["benchmark", "refs"])
def test_the_rows_are_those_of_refers_own_files(tmp_path: Path, layout: str) -> None:
    own = read_refer(data_root(tmp_path / "refer", PLAIN), "refcoco", "unc", SPLITS)
    if layout == "benchmark":
        write_benchmark(tmp_path / "refcoco-benchmark")
        data = read_refcoco_parquet(tmp_path, "refcoco-benchmark", choose("refcoco_unc"))
    else:
        write_refs(tmp_path / "refcoco")
        data = read_refcoco_parquet(tmp_path, "refcoco", choose("unc"))
    images, objects, refs = told(own)
    named = {ref[0][0] for ref in refs.values()}
    assert told(data) == (images, {key: objects[key] for key in named}, refs)
    assert len(refs) == 3
    assert all(ref.category == CATEGORY_NAMES[3] == "car" for ref in data.refs)
    assert data.problems == ()
    assert data.warnings == ()


def test_names_of_coco_categories_by_id() -> None:
    known = {
        1: "person",
        11: "fire hydrant",
        13: "stop sign",
        44: "bottle",
        67: "dining table",
        70: "toilet",
        90: "toothbrush",
    }
    assert {number: CATEGORY_NAMES[number] for number in known} == known
    assert (len(CATEGORY_NAMES), set(CATEGORY_NAMES.values())) == (80, COCO_CATEGORIES)


def test_the_split_is_that_of_the_column_not_of_the_file(tmp_path: Path) -> None:
    write_refs(tmp_path / "refcoco")
    data = read_refcoco_parquet(tmp_path, "refcoco", choose("unc", ["testA"]))
    assert [ref.ref_id for ref in data.refs] == [2]
    with pytest.raises(ParameterError, match=r"split 'test' does not exist .*known: testA, testB, train, val"):
        read_refcoco_parquet(tmp_path, "refcoco", choose("unc", ["test"]))


CHOICES = [
    ("refcoco-benchmark", "refcoco_unc", ["dev"], "split 'refcoco_unc_dev' does not exist"),
    ("refcoco-benchmark", "unc", ["val"], r"split_by 'unc' does not exist .*known: refcoco_unc"),
    ("refcoco", "google", ["val"], r"split_by 'google' does not exist .*: these files have unc"),
    ("refcoco", "umd", ["val"], r"these files have unc"),
    ("nothing", "unc", ["val"], "data set 'nothing' does not exist"),
    (
        "flat",
        "unc",
        ["val"],
        r"folder 'flat': expected the data set in its name; .*known: refcoco, refcoco\+, refcocog",
    ),
    ("RefCOCOg", "unc", ["test"], r"split_by 'unc' does not exist in RefCOCOg; .*known: google, umd"),
    ("RefCOCOg", "umd", ["testA"], r"split 'testA' does not exist .*known: test"),
]


@pytest.mark.parametrize(("name", "split_by", "splits", "message"), CHOICES)
def test_choices_that_do_not_exist(tmp_path: Path, name: str, split_by: str, splits: list[str], message: str) -> None:
    write_benchmark(tmp_path / "refcoco-benchmark")
    write_refs(tmp_path / "refcoco")
    write_parquet(tmp_path / "flat/val-0.parquet", [flat_row(1, 9)])
    write_parquet(tmp_path / "RefCOCOg/test-0.parquet", [flat_row(1, 9)])
    with pytest.raises(ParameterError, match=message):
        read_refcoco_parquet(tmp_path, name, choose(split_by, splits))


def test_flat_rows(tmp_path: Path) -> None:
    rows = [flat_row(1, 9), flat_row(2, 9, segmentation=[1.0, 1.0, 5.0, 1.0, 5.0, 7.0]), flat_row(3, 5)]
    write_parquet(tmp_path / "RefCOCO/data/testA-00000-of-00001.parquet", rows)
    data = read_refcoco_parquet(tmp_path, "RefCOCO", choose("unc", ["testA"]))
    assert [(i.image_id, i.file_name, i.width, i.height, i.status) for i in data.images] == [
        (5, "COCO_train2014_000000000005.jpg", 14, 8, ""),
        (9, "COCO_train2014_000000000009.jpg", 14, 8, ""),
    ]
    assert [a.segmentation for a in data.annotations] == [SQUARE, [[1.0, 1.0, 5.0, 1.0, 5.0, 7.0]], SQUARE]
    assert [[s.raw for s in ref.sentences] for ref in data.refs] == [
        [f"first of {n}", f"second of {n}"] for n in (1, 2, 3)
    ]
    assert [ref.status for ref in data.refs] == [""] * 3
    ids = [ref.ref_id for ref in data.refs] + [s.sentence_id for ref in data.refs for s in ref.sentences]
    assert len(set(ids)) == 9
    assert data.warnings == ("its objects have one polygon each: those in several parts lack some (lmms-lab's files)",)
    again = read_refcoco_parquet(tmp_path, "RefCOCO", choose("unc", ["testA"]))
    assert again == data


def mixed(dataset: str, first: bool) -> tuple[list[int], int]:
    """Image ids of a val with the published numbers of unc (umd), at its start or end, and 5,000 of google; where it starts."""
    counts = COUNTS[dataset, "umd" if dataset == "refcocog" else "unc", "val"]
    own = [number % counts.images for number in range(counts.refs)]
    google = [10_000 + number % 4650 for number in range(5000)]
    return (own + google, 0) if first else (google + own, 5000)


@pytest.mark.parametrize("dataset", ["refcoco", "refcoco+", "refcocog"])
@pytest.mark.parametrize("first", [True, False])
def test_the_mixed_val_is_told_apart_by_the_published_numbers(dataset: str, first: bool) -> None:
    images, start = mixed(dataset, first)
    refs = len(images) - 5000
    assert own_rows(list(map(str, images)), dataset) == (start, start + refs)
    alone = images[start : start + refs]
    assert own_rows(list(map(str, alone)), dataset) == (0, refs)
    assert own_rows(list(map(str, sorted(images, key=lambda n: n % 7))), dataset) is None, "mixed row by row"
    assert own_rows(list(map(str, alone + alone)), dataset) is None, "both ends fit"
    assert own_rows(["1"] * 9, dataset) is None


def test_the_mixed_val_is_split_with_a_warning(tmp_path: Path) -> None:
    images, _ = mixed("refcoco", True)
    rows = [
        flat_row(number, 1, file_name=f"COCO_train2014_{image:012d}_{number}.jpg")
        for number, image in enumerate(images)
    ]
    half = len(rows) // 2
    write_parquet(tmp_path / "RefCOCO/data/val-00000-of-00002.parquet", rows[:half])
    write_parquet(tmp_path / "RefCOCO/data/val-00001-of-00002.parquet", rows[half:])
    own = read_refcoco_parquet(tmp_path, "RefCOCO", choose("unc", ["val"]))
    google = read_refcoco_parquet(tmp_path, "RefCOCO", choose("google", ["val"]))
    assert (len(rows), len(own.refs), len(google.refs)) == (8811, 3811, 5000)
    assert own.refs[-1].sentences[0].raw == "first of 3810"
    assert google.refs[0].sentences[0].raw == "first of 3811"
    note = "its split val mixes the refs of unc and google; the"
    assert own.warnings[0] == f"{note} 5,000 others than unc's are left out"
    assert google.warnings[0] == f"{note} 3,811 others than google's are left out"
    write_parquet(tmp_path / "RefCOCOplus/val-0.parquet", rows[:50])
    with pytest.raises(DataError, match=r"mixes the refs of unc and google.*expected 3,805 rows .* of 1,500 images"):
        read_refcoco_parquet(tmp_path, "RefCOCOplus", choose("unc", ["val"]))


FAULTY: list[tuple[dict[str, Any], str]] = [
    ({"image": None}, "image: expected a picture with its bytes, got NoneType"),
    ({"image": {"bytes": b"no picture", "path": None}}, "not a picture that Pillow can open (unknown format)"),
    ({"segmentation": None}, "segmentation: expected polygons or an RLE"),
    ({"answer": None}, "sentences: expected a list of one or more"),
    ({"file_name": None}, "file_name: expected text"),
    ({"file_name": "../up.jpg"}, "climbs out of the image root"),
]


@pytest.mark.parametrize(("changes", "reason"), FAULTY, ids=[reason for _, reason in FAULTY])
def test_a_faulty_row_stays_with_a_reason(tmp_path: Path, changes: dict[str, Any], reason: str) -> None:
    write_parquet(tmp_path / "RefCOCO/testA-0.parquet", [flat_row(1, 9), flat_row(2, 5, **changes)])
    data = read_refcoco_parquet(tmp_path, "RefCOCO", choose("unc", ["testA"]))
    assert [bool(ref.status) for ref in data.refs] == [False, True]
    assert any(reason in problem.reason and "testA-0.parquet [1]" in problem.where for problem in data.problems)


def test_refs_without_their_object_or_image_are_faulty(tmp_path: Path) -> None:
    rows = [
        {"ref_id": 1, "ann_id": 90, "image_id": 9, "category_id": 3, "split": "val", "raw_anns": "{cut", "raw_image_info": "[]",
         "sentences": [{"raw": "a", "sent_id": 1}]},
        {"ref_id": 2, "ann_id": 50, "image_id": 5, "category_id": 3, "split": "val", "raw_anns": json.dumps(ANNOTATIONS[50]),
         "raw_image_info": json.dumps({"id": 5, "file_name": "5.jpg", "width": 14, "height": 8}),
         "sentences": [{"raw": "b", "sent_id": 2}]},
    ]  # fmt: skip
    write_parquet(tmp_path / "refcoco/val.parquet", rows)
    data = read_refcoco_parquet(tmp_path, "refcoco", choose("unc", ["val"]))
    assert data.refs[0].status == "image 9: is not among the images; annotation 90: is not among the annotations"
    assert data.refs[1].status == ""


@pytest.mark.parametrize("data", [b"", b"PAR1", b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 5\n"])
def test_a_file_that_is_no_parquet_is_one_error(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "refcoco").mkdir()
    (tmp_path / "refcoco/val-0.parquet").write_bytes(data)
    with pytest.raises(DataError, match=r"val-0\.parquet: expected a Parquet file, cannot read it .*git lfs pull"):
        read_refcoco_parquet(tmp_path, "refcoco", choose("unc", ["val"]))


def test_other_columns_and_no_file_at_all(tmp_path: Path) -> None:
    write_parquet(tmp_path / "other/val-0.parquet", [{"caption": "a"}])
    with pytest.raises(DataError, match=r"expected the columns ref_list and image_info, or .*found caption"):
        read_refcoco_parquet(tmp_path, "other", choose("unc", ["val"]))
    (tmp_path / "refcoco").mkdir()
    with pytest.raises(DataError, match=r"found no Parquet file at all; docs/data\.md"):
        read_refcoco_parquet(tmp_path, "refcoco", choose("unc", ["val"]))


def test_without_pyarrow_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_refs(tmp_path / "refcoco")
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    with pytest.raises(CodeError, match=r"need the library pyarrow.*pip install -c constraints.txt -e '\.\[tables\]'"):
        read_refcoco_parquet(tmp_path, "refcoco", choose("unc", ["val"]))


def test_pictures_are_those_of_the_files_each_once(tmp_path: Path) -> None:
    write_benchmark(tmp_path / "refcoco-benchmark")
    found = dict(pictures(tmp_path, "refcoco-benchmark", choose("refcoco_unc")))
    assert found == {f"COCO_train2014_{number:012d}.jpg": picture(number) for number in (9, 5, 6)}
    write_parquet(tmp_path / "RefCOCO/testA-0.parquet", [flat_row(1, 9), flat_row(2, 9), flat_row(3, 7)])
    listed = list(pictures(tmp_path, "RefCOCO", choose("unc", ["testA"])))
    assert listed == [(f"COCO_train2014_{number:012d}.jpg", picture(number)) for number in (9, 7)]
    write_refs(tmp_path / "refcoco")
    with pytest.raises(ParameterError, match="hold no pixels; fetch COCO's: glimpse fetch data coco-train2014"):
        list(pictures(tmp_path, "refcoco", choose("unc")))


@pytest.mark.parametrize(
    ("folder", "split_by", "split"),
    [
        ("refcoco", "unc", ("refcoco", "unc", "val")),
        ("RefCOCOplus", "unc", ("refcoco+", "unc", "val")),
        ("hub/RefCOCOg", "google", ("refcocog", "google", "val")),
        ("refcoco-benchmark", "refcocog_umd", ("refcocog", "umd", "val")),
        ("refcoco-benchmark", "refcocoplus_unc", ("refcoco+", "unc", "val")),
    ],
)
def test_what_publications_call_a_split(folder: str, split_by: str, split: tuple[str, str, str]) -> None:
    recorded = origin("mine", choose(split_by).model_copy(update={"folder": folder}))
    assert published_split(recorded, "val") == split
    assert split in COUNTS
    assert published_split({**recorded, "categories": "unseen"}, "val") is None
