"""RefCOCO-M, ReCLIP, Ref-ZOM and RRSIS-D: small files of their forms, and the faults of each."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco

from pipeline.arguments import checked
from stages import index
from stages.contract import Context, Summary
from stages.datasets.choice import origin, published_split
from stages.datasets.reclip import read_reclip
from stages.datasets.refcoco_m import pictures, read_refcoco_m
from stages.datasets.refer import read_refer
from stages.datasets.registry import Choice
from store.errors import DataError, ParameterError
from store.table import Table, read_table
from tests.helpers.parquet_files import picture, write_parquet
from tests.helpers.refer_files import INSTANCES, SQUARE, annotation_row, data_root, image_row, ref_row, write_images

MASK = np.zeros((8, 14), np.bool_)
MASK[1:4, 2:6] = True
"""What the polygon ``SQUARE`` covers."""
LEFT = [[0, 0, 3, 0, 3, 8, 0, 8]]
RLE = coco.encode(np.asfortranarray(MASK.astype(np.uint8)))


def png(mask: Any) -> bytes:
    data = io.BytesIO()
    Image.fromarray(mask.astype(np.uint8) * 255).save(data, "PNG")
    return data.getvalue()


def indexed(root: Path, images: Path, choice: dict[str, Any]) -> tuple[Table, Summary]:
    paths = index.Paths(annotations=root, images=images, index=root / "index.h5")
    summary = index.run(checked(index.Params, {"datasets": {"mine": choice}}, "index"), paths, Context(root / "work"))
    return read_table(paths.index, "index"), summary


def truth(table: Table, row: int) -> Any:
    height, width = table["image_size"][table["ref_image"][row]].tolist()
    return coco.decode({"size": [height, width], "counts": table["ref_mask"][row]}).astype(np.bool_)


# RefCOCO-M

AS_STRUCT = {"size": [8, 14], "counts": RLE["counts"].decode()}
FORMS_OF_MASKS = [
    ("struct", AS_STRUCT),
    ("JSON", json.dumps(AS_STRUCT)),
    ("runs", {"size": [8, 14], "counts": [17, 3, 5, 3, 5, 3, 5, 3, 68]}),
    ("picture", {"bytes": png(MASK), "path": None}),
    ("bytes", png(MASK)),
]


@pytest.mark.parametrize("mask", [mask for _, mask in FORMS_OF_MASKS], ids=[name for name, _ in FORMS_OF_MASKS])
@pytest.mark.parametrize("sentences", [["left cat", "the cat"], [{"raw": "left cat"}, {"raw": "the cat"}]])
def test_refcoco_m_up_to_the_index(tmp_path: Path, mask: Any, sentences: Any) -> None:
    pytest.importorskip("pyarrow")
    rows = [
        {"image": {"bytes": picture(1), "path": "COCO_1.png"}, "samples": [{"mask": mask, "sentences": sentences}] * 2},
        {"image": {"bytes": picture(2), "path": None}, "samples": [{"mask": mask, "sentences": sentences[:1]}]},
    ]
    write_parquet(tmp_path / "mine/data/val-00000-of-00001.parquet", rows)
    choice = Choice(kind="refcoco_m", splits=["val"])
    (tmp_path / "images").mkdir()
    for name, data in pictures(tmp_path, "mine", choice):
        (tmp_path / "images" / name).write_bytes(data)
    table, summary = indexed(tmp_path, tmp_path / "images", {"kind": "refcoco_m", "splits": ["val"]})
    assert table["image_name"] == ["COCO_1.png", "val_000001.png"]
    assert table["image_status"] == ["", ""]
    assert table["ref_status"] == [""] * 3
    for row in range(3):
        np.testing.assert_array_equal(truth(table, row), MASK)
    assert table["expression_raw"] == ["left cat", "the cat"] * 2 + ["left cat"]
    assert len(set(table["ref_id"].tolist())) == 3
    assert len(set(table["expression_id"].tolist())) == 5
    assert any("expected 2,080 refs, found 3" in warning for warning in summary.warnings)


def test_faulty_rows_of_refcoco_m_stay_with_a_reason(tmp_path: Path) -> None:
    pytest.importorskip("pyarrow")
    good = {"mask": json.dumps(AS_STRUCT), "sentences": ["a"]}
    rows = [
        {"image": {"bytes": picture(1), "path": "1.png"}, "samples": [good]},
        {"image": {"bytes": b"none", "path": "2.png"}, "samples": [good]},
        {"image": {"bytes": picture(3), "path": "3.png"}, "samples": [{"mask": "{cut", "sentences": ["a"]}]},
        {"image": {"bytes": picture(4), "path": "4.png"}, "samples": [{**good, "sentences": []}]},
        {"image": {"bytes": picture(5), "path": "5.png"}, "samples": None},
    ]
    write_parquet(tmp_path / "mine/val-0.parquet", rows)
    data = read_refcoco_m(tmp_path, "mine", ["val"])
    reasons = [
        "",
        "width: expected an integer",
        "segmentation: expected polygons or an RLE",
        "sentences: expected a list",
    ]
    for ref, reason in zip(data.refs, reasons, strict=True):
        assert reason in ref.status
        assert bool(reason) == bool(ref.status)
    assert any("val-0.parquet [4]" in p.where and "samples: expected a list" in p.reason for p in data.problems)
    with pytest.raises(DataError, match=r"val-0\.parquet \[1\]: image: not a picture"):
        list(pictures(tmp_path, "mine", Choice(kind="refcoco_m", splits=["val"])))
    with pytest.raises(ParameterError, match="split 'test' does not exist"):
        read_refcoco_m(tmp_path, "mine", ["test"])


# ReCLIP


def line(number: int, image_id: int, ann_id: Any, **changes: Any) -> dict[str, Any]:
    anns = [{"id": 90 + k, "bbox": [2, 1.0, 4.0, 3.0], "category_id": 3} for k in range(2)]
    sentences = [{"raw": f"Raw {number}", "sent": "raw"}, {"raw": "le café", "sent": "cafe"}]
    return {"image_id": image_id, "anns": anns, "ann_id": ann_id, "sentences": sentences, **changes}


def write_reclip(root: Path, rows: list[Any], instances: Any = None, split: str = "refcoco_val") -> None:
    folder = root / "mine"
    folder.mkdir(exist_ok=True)
    (folder / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    if instances is not None:
        (folder / "instances.json").write_text(json.dumps(instances))


def test_reclip_with_masks_from_refers_instances(tmp_path: Path) -> None:
    instances = {
        "images": [image_row(9)],
        "annotations": [annotation_row(90, 9), annotation_row(91, 9, segmentation=LEFT)],
    }
    write_reclip(tmp_path, [line(1, 9, 90), line(2, 9, [91]), line(3, 9, [90, 91])], instances)
    write_images(tmp_path, instances)
    choice = {"kind": "reclip", "splits": ["refcoco_val"]}
    table, _ = indexed(tmp_path, tmp_path, choice)
    assert table["image_name"] == ["COCO_train2014_000000000009.jpg"]
    assert table["ref_status"] == [""] * 3
    other = np.zeros((8, 14), np.bool_)
    other[:, :3] = True
    for row, expected in enumerate([MASK, other, MASK | other]):
        np.testing.assert_array_equal(truth(table, row), expected)
    assert table["ref_category"] == ["car"] * 3
    assert table["expression_raw"] == [text for n in (1, 2, 3) for text in (f"Raw {n}", "le café")]
    assert len(set(table["expression_id"].tolist())) == 6


def test_reclip_with_masks_and_sizes_of_its_own(tmp_path: Path) -> None:
    row = line(1, 9, 90, width=14, height=8, file_name="nine.jpg", ref_id=77)
    row["anns"][0]["segmentation"] = SQUARE
    write_reclip(tmp_path, [row])
    data = read_reclip(tmp_path, "mine", ["refcoco_val"])
    assert [(i.image_id, i.file_name, i.width, i.height, i.status) for i in data.images] == [(9, "nine.jpg", 14, 8, "")]
    (ref,) = data.refs
    assert (ref.ref_id, ref.annotation_ids, ref.status) == (77, (90,), "")
    assert data.annotations[0].segmentation == SQUARE
    assert data.annotations[1].status == "segmentation: expected polygons or an RLE, got NoneType None"


BAD_LINES: list[tuple[Any, str]] = [
    (line(2, 9, 55), "annotation 55: is not among the annotations"),
    (line(2, 9, None), "ann_id: expected an integer"),
    (line(2, 9, 90, sentences=None), "sentences: expected a list"),
    (line(2, 9, []), "ann_id: it names no object"),
    ([1], "image_id: expected an integer"),
    (line(2, 6, 90), "annotation 90 is of image 9, the ref of image 6"),
]


@pytest.mark.parametrize(("bad", "reason"), BAD_LINES, ids=[reason for _, reason in BAD_LINES])
def test_a_faulty_line_of_reclip_stays_with_a_reason(tmp_path: Path, bad: Any, reason: str) -> None:
    write_reclip(tmp_path, [line(1, 9, 90), bad], INSTANCES)
    data = read_reclip(tmp_path, "mine", ["refcoco_val"])
    assert [bool(ref.status) for ref in data.refs] == [False, True]
    assert reason in data.refs[1].status
    assert any("refcoco_val.jsonl line 2" in problem.where for problem in data.problems)


def test_boxes_alone_and_lines_that_are_none(tmp_path: Path) -> None:
    write_reclip(tmp_path, [line(1, 9, 90)])
    file = tmp_path / "mine/refcoco_val.jsonl"
    file.write_bytes(file.read_bytes() + b"\n{cut\n")
    data = read_reclip(tmp_path, "mine", ["refcoco_val"])
    assert "segmentation: expected polygons or an RLE" in data.refs[0].status
    assert "width: expected an integer" in data.refs[0].status
    assert any("line 3" in p.where and "this is no JSON" in p.reason for p in data.problems)
    with pytest.raises(ParameterError, match=r"split 'val' does not exist in .*known: refcoco_val"):
        read_reclip(tmp_path, "mine", ["val"])


@pytest.mark.parametrize(
    ("split", "published"),
    [("refcoco_val", ("refcoco", "unc", "val")), ("refcoco+_testA", ("refcoco+", "unc", "testA")),
     ("refcocog_test", ("refcocog", "umd", "test")), ("mine", None)],
)  # fmt: skip
def test_what_publications_call_a_split_of_reclip(split: str, published: Any) -> None:
    assert published_split(origin("x", Choice(kind="reclip", splits=[split])), split) == published


# Ref-ZOM and RRSIS-D: REFER's layout


def test_ref_zom_has_refs_of_one_of_many_and_of_no_object(tmp_path: Path) -> None:
    instances = {
        **INSTANCES,
        "annotations": [*INSTANCES["annotations"], annotation_row(92, 9, segmentation=LEFT)],
    }
    rows = [
        ref_row(1, 90, 9, "test", source="not_zero"),
        ref_row(2, 90, 9, "test", ann_id=[90, 92], category_id=[3, 4], source="not_zero"),
        ref_row(3, 90, 9, "test", ann_id=[], source="zero"),
        ref_row(4, 90, 9, "test", ann_id=[-1], source="zero"),
        ref_row(5, 90, 9, "test", ann_id=[90, 999]),
        ref_row(6, 90, 9, "train"),
    ]  # fmt: skip
    data_root(tmp_path, rows, instances, "mine", "final")
    write_images(tmp_path, instances)
    table, summary = indexed(tmp_path, tmp_path, {"split_by": "final", "splits": ["test"]})
    assert table["ref_id"].tolist() == [1, 2, 3, 4, 5]
    none = "ann_id: it names no object (a sentence without a target)"
    assert table["ref_status"] == ["", "", none, none, "annotation 999: is not among the annotations"]
    other = np.zeros((8, 14), np.bool_)
    other[:, :3] = True
    np.testing.assert_array_equal(truth(table, 0), MASK)
    np.testing.assert_array_equal(truth(table, 1), MASK | other)
    assert table["ref_category"][:2] == ["cat", "cat"]
    assert any("3 of 5 refs of data set mine cannot be used" in text for text in summary.warnings)


def test_rrsis_d_has_masks_as_lists_of_rle(tmp_path: Path) -> None:
    instances = {
        "images": [{"id": 3, "file_name": "00003.jpg", "width": 14, "height": 8}],
        "annotations": [
            annotation_row(3, 3, category_id=1, segmentation=[AS_STRUCT]),
        ],
        "categories": [{"id": 1, "name": "ground track field"}],
    }  # fmt: skip
    data_root(tmp_path, [ref_row(3, 3, 3, "val", category_id=1)], instances, "mine")
    write_images(tmp_path, instances)
    table, _ = indexed(tmp_path, tmp_path, {"split_by": "unc", "splits": ["val"]})
    np.testing.assert_array_equal(truth(table, 0), MASK)
    assert table["ref_category"] == ["ground track field"]
    data = read_refer(tmp_path, "mine", "unc", ["val"])
    assert data.problems == ()
