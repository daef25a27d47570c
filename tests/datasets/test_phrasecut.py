"""The PhraseCut reader: what is read, ids, and every fault kept or noted with its reason."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from pipeline.arguments import checked
from stages import index
from stages.contract import Context
from stages.datasets.fields import NO_ID
from stages.datasets.phrasecut import read_phrasecut, task_number
from stages.datasets.rows import ImageRow, ReferData, SentenceRow
from store.errors import DataError, ParameterError
from store.table import read_table
from tests.helpers.refer_files import without

TRIANGLE = [[1, 1], [6.5, 1], [1, 5]]
BOX = [[4, 2], [9, 2], [9, 7], [4, 7]]


def task(number: int, image_id: int = 5, **changes: Any) -> dict[str, Any]:
    row = {
        "task_id": f"{image_id}__{number}",
        "image_id": image_id,
        "ann_ids": [number],
        "instance_boxes": [[1, 1, 5.5, 4]],
        "Polygons": [[TRIANGLE]],
        "phrase": f"phrase {number}",
        "phrase_structure": {"name": "sky", "attributes": [], "relation_ids": [], "relation_descriptions": [],
                             "type": "name"},
    }  # fmt: skip
    return {**row, **changes}


def image(image_id: int, **changes: Any) -> dict[str, Any]:
    return {"image_id": image_id, "coco_id": None, "width": 14, "height": 8, "split": "test", **changes}


IMAGES = [image(9), image(5), image(6)]


def write(root: Path, images: Any = IMAGES, **splits: Any) -> Path:
    folder = root / "phrasecut"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "image_data_split3000.json").write_text(json.dumps(images))
    for split, rows in splits.items():
        (folder / f"refer_{split}.json").write_text(json.dumps(rows))
    return root


def write_picture(root: Path) -> None:
    """The file of image 5."""
    Image.new("RGB", (14, 8)).save(root / "5.jpg")


def read(root: Path, *splits: str) -> ReferData:
    return read_phrasecut(root, "phrasecut", splits or ("test",))


def test_round_trip(tmp_path: Path) -> None:
    both = task(
        2, Polygons=[[TRIANGLE, BOX], [BOX]], instance_boxes=[[1, 1, 8, 6], [4, 2, 5, 5]], phrase="дом – très beau"
    )
    data = read(write(tmp_path, test=[task(1), both], val=[task(3, 9)]), "val", "test")
    assert (data.name, data.problems) == ("phrasecut", ())
    assert data.images == (ImageRow(5, "5.jpg", 14, 8, ""), ImageRow(9, "9.jpg", 14, 8, ""))
    assert [(r.image_id, r.category, r.split, r.splits, r.annotation_ids, r.status) for r in data.refs] == [
        (9, "sky", "val", ("val",), (0,), ""),
        (5, "sky", "test", ("test",), (1,), ""),
        (5, "sky", "test", ("test",), (2, 3), ""),
    ]
    assert data.refs[2].sentences == (SentenceRow(data.refs[2].ref_id, "дом – très beau", ""),)
    assert [(a.annotation_id, a.image_id, a.segmentation, a.bbox, a.category, a.iscrowd) for a in data.annotations] == [
        (0, 9, [[1, 1, 6.5, 1, 1, 5]], (1, 1, 5.5, 4), "sky", False),
        (1, 5, [[1, 1, 6.5, 1, 1, 5]], (1, 1, 5.5, 4), "sky", False),
        (2, 5, [[1, 1, 6.5, 1, 1, 5], [4, 2, 9, 2, 9, 7, 4, 7]], (1, 1, 8, 6), "sky", False),
        (3, 5, [[4, 2, 9, 2, 9, 7, 4, 7]], (4, 2, 5, 5), "sky", False),
    ]


def test_ids_come_from_the_task_id_alone(tmp_path: Path) -> None:
    rows = [task(number, image_id) for number in range(40) for image_id in (5, 6, 9)]
    data = read(write(tmp_path, test=rows, val=[task(3, 9)]))
    ids = [ref.ref_id for ref in data.refs]
    assert ids == [int.from_bytes(hashlib.sha256(r["task_id"].encode()).digest()[:7], "big") >> 4 for r in rows]
    assert len(set(ids)) == len(rows)
    assert all(0 <= number < 2**52 for number in ids)
    assert read(tmp_path, "val").refs[0].ref_id == task_number("9__3")
    backwards = read(write(tmp_path, test=rows[::-1]))
    assert [ref.ref_id for ref in backwards.refs] == ids[::-1]


def test_choices_and_files_that_do_not_exist(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="expected the folder of the annotations"):
        read_phrasecut(tmp_path / "none", "phrasecut", ["test"])
    write(tmp_path, test=[], val=[], input_test=[])
    (tmp_path / "refcoco").mkdir()
    with pytest.raises(ParameterError, match=r"data set 'phrasecat'.*did you mean 'phrasecut'\? known: phrasecut$"):
        read_phrasecut(tmp_path, "phrasecat", ["test"])
    for split in ("tst", "../test", "input_test", ""):
        with pytest.raises(ParameterError, match=r"split '.*' does not exist.*known: test, val"):
            read(tmp_path, "val", split)
    with pytest.raises(DataError, match=r"refcoco: expected refer_<split>\.json, found no such file at all"):
        read_phrasecut(tmp_path, "refcoco", ["test"])
    (tmp_path / "phrasecut/image_data_split3000.json").unlink()
    with pytest.raises(DataError, match=r"image_data_split3000\.json: expected the images.*docs/data\.md"):
        read(tmp_path)


@pytest.mark.parametrize("file", ["image_data_split3000.json", "refer_test.json"])
@pytest.mark.parametrize("content", [b"", b"{", b"{}", b"5", b"\xff\xfe", b"[" * 100_000])
def test_files_that_are_none(tmp_path: Path, file: str, content: bytes) -> None:
    (write(tmp_path, test=[]) / "phrasecut" / file).write_bytes(content)
    with pytest.raises(DataError, match=rf"{file}.*expected a JSON list.*fetch the file again"):
        read(tmp_path)


_BAD_TASKS: list[tuple[Any, str]] = [
    (task(1, phrase=None), "phrase: expected text, got NoneType"),
    (without(task(1), "phrase"), "phrase: expected text, it is missing"),
    (task(1, phrase="half \ud800"), "phrase: expected text"),
    (task(1, task_id=7), "task_id: expected text, got int 7"),
    (task(1, task_id=""), "task_id: expected text, got an empty one"),
    (without(task(1), "task_id"), "task_id: expected text, it is missing"),
    (task(2), "task_id '5__2' appears a second time"),
    (task(1, image_id="five"), "image_id: expected an integer"),
    (task(1, image_id=-3), "image_id: expected an integer"),
    (task(1, 77), "image 77: is not in image_data_split3000.json"),
    (task(1, Polygons=None), "Polygons: expected a list of one or more instances"),
    (task(1, Polygons=[]), "Polygons: expected a list of one or more instances"),
    (without(task(1), "Polygons"), "Polygons: expected a list of one or more instances"),
    (task(1, Polygons=[None]), "Polygons: none of its instances can be used"),
    (task(1, Polygons=[[]]), "Polygons: none of its instances can be used"),
    (task(1, Polygons=[[TRIANGLE[:2]]]), "Polygons: none of its instances can be used"),
    (task(1, Polygons=[[[1, 1, 5, 1, 5, 5]]]), "Polygons: none of its instances can be used"),
    (task(1, Polygons=[[{"size": [8, 14], "counts": [0, 112]}]]), "Polygons: none of its instances can be used"),
    (task(1, Polygons=[[[*TRIANGLE, [float("nan"), 2]]]]), "Polygons: none of its instances can be used"),
    (None, "expected a dict, got NoneType"),
    ([], "expected a dict, got list"),
    ("text", "expected a dict, got str"),
]


@pytest.mark.parametrize(("bad", "reason"), _BAD_TASKS)
def test_a_bad_phrase_is_kept_with_its_reason(tmp_path: Path, bad: Any, reason: str) -> None:
    data = read(write(tmp_path, test=[task(2), bad, task(3, 9)]))
    assert [bool(ref.status) for ref in data.refs] == [False, True, False]
    assert reason in data.refs[1].status
    assert any("refer_test.json [1]" in p.where and reason in p.reason for p in data.problems)
    if isinstance(bad, dict) and bad.get("task_id"):
        assert all(f"task_id {bad['task_id']!r}" in p.where or p.where.endswith("[1]") for p in data.problems)
    good = read(write(tmp_path, test=[task(2), task(3, 9)]))
    assert [ref.ref_id for ref in (data.refs[0], data.refs[2])] == [ref.ref_id for ref in good.refs]


@pytest.mark.parametrize(
    "instance", [None, 5, [], [None], [[]], [TRIANGLE[:2]], [[[1, 2], [3], [4, 5]]], [[["a", 1]] * 3]]
)
def test_an_instance_that_cannot_be_used_leaves_the_others(tmp_path: Path, instance: Any) -> None:
    data = read(
        write(tmp_path, test=[task(1, Polygons=[[TRIANGLE], instance, [BOX]], instance_boxes=[[1, 2, 3, 4]] * 3)])
    )
    (ref,) = data.refs
    assert (ref.status, ref.annotation_ids) == ("", (0, 2))
    assert [bool(a.status) for a in data.annotations] == [False, True, False]
    assert data.problems
    assert all(p.where.endswith("refer_test.json [0] task_id '5__1' Polygons[1]") for p in data.problems)
    assert any("the instance is left out" in p.reason for p in data.problems)


def test_a_polygon_that_cannot_be_used_leaves_the_others(tmp_path: Path) -> None:
    data = read(write(tmp_path, test=[task(1, Polygons=[[TRIANGLE[:1], BOX, "x"]])]))
    assert data.annotations[0].segmentation == [[4, 2, 9, 2, 9, 7, 4, 7]]
    assert (data.refs[0].status, data.annotations[0].status) == ("", "")
    assert [p.reason.partition(" left out")[0] for p in data.problems] == ["polygon 0", "polygon 2"]


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"phrase_structure": None}, "phrase_structure: expected a dict, got NoneType"),
        ({"phrase_structure": {}}, "name: expected text, it is missing"),
        ({"phrase_structure": {"name": 5}}, "name: expected text, got int 5"),
        ({"instance_boxes": []}, "instance_boxes: expected a list of 1 boxes"),
        ({"instance_boxes": None}, "instance_boxes: expected a list of 1 boxes"),
        ({"instance_boxes": [[1, 2, 3]]}, "instance_boxes: expected 4 numbers"),
    ],
)
def test_what_is_not_needed_is_noted_and_spoils_nothing(tmp_path: Path, changes: dict[str, Any], reason: str) -> None:
    data = read(write(tmp_path, test=[task(1, **changes)]))
    assert (data.refs[0].status, data.refs[0].annotation_ids) == ("", (0,))
    (problem,) = data.problems
    assert problem.reason.startswith(reason)
    assert data.refs[0].category == ("" if "phrase_structure" in changes else "sky")
    assert data.annotations[0].bbox == ((1, 1, 5.5, 4) if "phrase_structure" in changes else None)


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        (image(5, width=0), "1 pixel or more"),
        (image(5, height="8"), "height: expected an integer"),
        (without(image(5), "width"), "width: expected an integer"),
    ],
)
def test_a_bad_image_spoils_only_its_own_phrases(tmp_path: Path, row: dict[str, Any], reason: str) -> None:
    data = read(write(tmp_path, [image(9), row, None, image(9, width=99)], test=[task(1), task(2, 9)]))
    assert reason in data.refs[0].status
    assert data.refs[1].status == ""
    assert [(i.image_id, i.width) for i in data.images if not i.status] == [(9, 14)]
    wheres = {problem.where.rpartition("/")[2].partition(" task_id")[0] for problem in data.problems}
    assert wheres == {f"image_data_split3000.json [{n}]" for n in (1, 2, 3)} | {"refer_test.json [0]"}


def test_an_instance_outside_the_image_leaves_the_phrase_its_others(tmp_path: Path) -> None:
    """What the reader cannot know, the rasteriser says: points far outside, and polygons thinner than a pixel."""
    far, thin = [[x + 5000, y] for x, y in BOX], [[1, 1], [1.01, 1], [1, 1.01]]
    rows = [
        task(1, Polygons=[[BOX], [far]], instance_boxes=[[0, 0, 1, 1]] * 2),
        task(2, Polygons=[[BOX], [BOX]], instance_boxes=[[0, 0, 1, 1]] * 2),
        task(3, Polygons=[[far]]),
        task(4, Polygons=[[thin]]),
    ]
    write(tmp_path, test=rows)
    write_picture(tmp_path)
    values = {"datasets": {"phrasecut": {"kind": "phrasecut", "splits": ["test"]}}}
    paths = index.Paths(annotations=tmp_path, images=tmp_path, index=tmp_path / "index.h5")
    summary = index.run(checked(index.Params, values, "index"), paths, Context(tmp_path / "work"))
    table = read_table(paths.index, "index")
    assert table["ref_id"].tolist() == [task_number(row["task_id"]) for row in rows]
    assert table["ref_mask"][0] == table["ref_mask"][1] == table["instance_mask"][0]
    assert len(table["instance_mask"]) == 1
    assert [bool(status) for status in table["ref_status"]] == [False, False, True, False]
    assert "near the image" in table["ref_status"][2]
    text = "\n".join(summary.skipped)
    assert f"phrasecut ref {task_number('5__1')}: annotation 1: " in text
    assert f"phrasecut ref {task_number('5__4')}: the ground truth has no pixel" in text


ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=4) | st.sampled_from([TRIANGLE, BOX, 5]),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=8,
)
KEYS = ["task_id", "image_id", "Polygons", "instance_boxes", "phrase", "phrase_structure"]
BAD_TASKS = st.dictionaries(st.sampled_from(KEYS), ANYTHING, min_size=1).map(lambda changes: {**task(1), **changes})
BAD_IMAGES = st.dictionaries(st.sampled_from(["image_id", "width", "height"]), ANYTHING).map(
    lambda c: {**image(9), **c}
)


@settings(max_examples=50)
@given(BAD_TASKS | ANYTHING, BAD_IMAGES | ANYTHING)
def test_no_row_stops_the_reading(bad_task: Any, bad_image: Any) -> None:
    """Any row yields a row; the good phrase beside it is untouched, up to the index table."""
    with TemporaryDirectory() as folder:
        root = write(Path(folder), [image(5), bad_image], test=[task(2), bad_task])
        data = read(root)
        assert len(data.refs) == 2
        assert (data.refs[0].status, data.refs[0].annotation_ids) == ("", (0,))
        assert all(problem.where and problem.reason for problem in data.problems)
        assert all(ref.ref_id != NO_ID for ref in data.refs if not ref.status)
        write_picture(root)
        values = {"datasets": {"phrasecut": {"kind": "phrasecut", "splits": ["test"]}}}
        paths = index.Paths(annotations=root, images=root, index=root / "index.h5")
        index.run(checked(index.Params, values, "index"), paths, Context(root / "work"))
        table = read_table(paths.index, "index")
        assert len(table["ref_id"]) == 2
        assert table["ref_mask"][table["ref_id"].tolist().index(task_number("5__2"))]


@pytest.mark.parametrize("phrase", [None, 5, "", "  ", "\u200b", ["a"], "half \ud800"])
def test_a_phrase_without_words_is_a_faulty_sentence_up_to_the_index(tmp_path: Path, phrase: Any) -> None:
    write(tmp_path, test=[task(1, phrase=phrase), task(2)])
    write_picture(tmp_path)
    values = {"datasets": {"phrasecut": {"kind": "phrasecut", "splits": ["test"]}}}
    paths = index.Paths(annotations=tmp_path, images=tmp_path, index=tmp_path / "index.h5")
    index.run(checked(index.Params, values, "index"), paths, Context(tmp_path / "work"))
    table = read_table(paths.index, "index")
    assert [status.partition(":")[0] for status in table["expression_status"]] == ["phrase", ""]
    assert [(loss["state"], loss["count"]) for loss in table.attrs["losses"]] == [("faulty sentence", 1)]
