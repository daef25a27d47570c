"""REFER files: the safe pickle reader, the data set reader, and every fault that must not stop it."""

from __future__ import annotations

import copy
import json
import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stages.datasets.fields import NO_ID, unsafe_name
from stages.datasets.refer import SentenceRow, in_split, read_refer
from stages.datasets.safe_pickle import load_refs
from store.errors import DataError, ParameterError

SQUARE = [[2.0, 1.0, 6.0, 1.0, 6.0, 4.0, 2.0, 4.0]]


class _Python2Pickler(pickle._Pickler):  # type: ignore[name-defined]
    """Writes text as Python 2 wrote ``str``: byte strings of some encoding."""

    dispatch: ClassVar[dict[Any, Any]] = dict(pickle._Pickler.dispatch)  # type: ignore[attr-defined]
    text_encoding = "utf-8"

    def save_str(self, text: str) -> None:
        data = text.encode(self.text_encoding)
        if not self.bin:
            self.write(b"S" + repr(data)[1:].encode() + b"\n")
        elif len(data) < 256:
            self.write(b"U" + bytes([len(data)]) + data)
        else:
            self.write(b"T" + len(data).to_bytes(4, "little") + data)
        self.memoize(text)

    dispatch[str] = save_str


def _python2(value: Any, protocol: int, encoding: str, path: Path) -> None:
    with path.open("wb") as file:
        pickler = _Python2Pickler(file, protocol)
        pickler.text_encoding = encoding
        pickler.dump(value)


def _write(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    return path


PLAIN = [
    {
        "ref_id": 7,
        "sentences": [{"raw": "café", "tokens": ["café"]}],
        "box": (1.5, None, True),
        "big": 2**80,
        "none": b"",
    }
]


@pytest.mark.parametrize("protocol", range(6))
def test_python3_pickles(tmp_path: Path, protocol: int) -> None:
    rows = [*PLAIN, {"a": {1, 2}, "b": frozenset("x"), "c": b"\xff\x00", "d": -1.25e300, "e": []}]
    assert load_refs(_write(tmp_path / "refs.p", pickle.dumps(rows, protocol))) == rows


@pytest.mark.parametrize("encoding", ["utf-8", "latin1"])
@pytest.mark.parametrize("protocol", [0, 1, 2])
def test_python2_pickles(tmp_path: Path, protocol: int, encoding: str) -> None:
    rows = [{"ref_id": 7, "split": "val", "sentences": [{"raw": "café 'quoted'\n", "tokens": ["x" * 300]}]}] * 2
    _python2(rows, protocol, encoding, tmp_path / "refs.p")
    assert load_refs(tmp_path / "refs.p") == rows


def test_python2_pickles_byte_by_byte(tmp_path: Path) -> None:
    """Written by hand, after the format's description: a str, a unicode, an int, a bool, a long, a float."""
    text = b"(lp0\n(dp1\nS'ref_id'\np2\nI7\nsS'raw'\np3\nVcaf\\u00e9\np4\nsS'ok'\nI01\nsS'n'\nL12345678901L\nsS'f'\nF0.5\nsa."
    assert load_refs(_write(tmp_path / "0.p", text)) == [
        {"ref_id": 7, "raw": "café", "ok": True, "n": 12345678901, "f": 0.5}
    ]
    binary = b"\x80\x02]q\x01}q\x02(U\x06ref_idq\x03K\x07U\x03rawq\x04X\x05\x00\x00\x00caf\xc3\xa9q\x05ua."
    assert load_refs(_write(tmp_path / "2.p", binary)) == [{"ref_id": 7, "raw": "café"}]


_SCALARS: list[Any] = [
    np.int64(-5),
    np.uint8(200),
    np.float32(2.5),
    np.float64(0.1),
    np.bool_(True),
    np.str_("é"),
    np.bytes_(b"ab"),
    np.array(513, ">i4")[()],
]


@pytest.mark.parametrize("protocol", [0, 2, 4])
def test_numpy_scalars_become_plain_values(tmp_path: Path, protocol: int) -> None:
    (row,) = load_refs(_write(tmp_path / "refs.p", pickle.dumps([_SCALARS], protocol)))
    assert row == [scalar.item() for scalar in _SCALARS]
    assert [type(value) for value in row] == [int, int, float, float, bool, str, bytes, int]


@pytest.mark.parametrize("number", [5, 200, 2**31 - 1, -2, 43459])  # 43459 = bytes c3 a9, which are UTF-8
def test_numpy_scalars_of_python2(tmp_path: Path, number: int) -> None:
    """Old module name, byte strings for the type code and the number."""
    data = (
        b"\x80\x02]cnumpy.core.multiarray\nscalar\ncnumpy\ndtype\nU\x02i4K\x00K\x01\x87R"
        b"(K\x03U\x01<NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tbU\x04"
        + number.to_bytes(4, "little", signed=True)
        + b"\x86Ra."
    )
    assert load_refs(_write(tmp_path / "refs.p", data)) == [number]


class _Runs:
    """What a hostile pickle looks like."""

    def __init__(self, function: Callable[..., Any], *arguments: Any) -> None:
        self.call = function, arguments

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return self.call


@pytest.mark.parametrize("protocol", [0, 2, 4, 5])
def test_code_is_refused(tmp_path: Path, protocol: int) -> None:
    marker = tmp_path / "ran"
    hostile: dict[str, Any] = {
        rf"{os.system.__module__}\.system": _Runs(os.system, f"touch {marker}"),
        r"eval": _Runs(eval, f"open({str(marker)!r}, 'w')"),
        r"getattr": _Runs(getattr, "a", "upper"),
        r"multiarray\._reconstruct|_frombuffer": np.zeros(3),
        r"PosixPath|WindowsPath": tmp_path,
        r"complex": 1j,
    }
    for name, value in hostile.items():
        path = _write(tmp_path / "refs(unc).p", pickle.dumps([{"ref_id": 1, "x": value}], protocol))
        with pytest.raises(DataError, match=rf"(?s)refs\(unc\)\.p.*({name}).*refused.*fetch the file again"):
            load_refs(path)
    assert not marker.exists()


@pytest.mark.parametrize(
    "data",
    [
        b"c_codecs\nencode\n(dS'x'\nI1\nsb.",  # state for what was admitted as a function
        b"cnumpy.core.multiarray\nscalar\n(dS'_encoding'\nS'x'\nsb.",
        b"cnumpy\ndtype\n(NdS'x'\nI1\nstb.",
        b"cbuiltins\nset\n(dS'x'\nI1\nsb.",
        b"(lcnumpy.core.multiarray\nscalar\n(cnumpy\ndtype\n(S'O8'\ntRS'abcdefgh'\ntRa.",  # an object pointer
        b"(lcnumpy.core.multiarray\nscalar\n(cnumpy\ndtype\n(S'i8'\ntRS'abc'\ntRa.",  # too few bytes
        b"(lc__builtin__\nbytes\n(I1000000000000\ntRa.",
        b"\x80\x02P1\n.",
    ],
)
def test_admitted_names_cannot_be_abused(tmp_path: Path, data: bytes) -> None:
    with pytest.raises(DataError, match=r"refs\.p"):
        load_refs(_write(tmp_path / "refs.p", data))
    test_numpy_scalars_become_plain_values(tmp_path, 2)


@pytest.mark.parametrize("data", [b"", b"\n", b"hello world", b"{}", b"PK\x03\x04", b"\x80\xff", b".", b"\x80\x04."])
def test_no_pickle(tmp_path: Path, data: bytes) -> None:
    with pytest.raises(DataError, match=r"refs\.p.*fetch the file again"):
        load_refs(_write(tmp_path / "refs.p", data))


@pytest.mark.parametrize("value", [{"a": 1}, "abc", None, (1,)])
def test_not_a_list(tmp_path: Path, value: object) -> None:
    with pytest.raises(DataError, match="expected a list of refs, got"):
        load_refs(_write(tmp_path / "refs.p", pickle.dumps(value)))


def test_no_file(tmp_path: Path) -> None:
    for path in (tmp_path / "none.p", tmp_path):
        with pytest.raises(DataError, match="cannot read it"):
            load_refs(path)


@settings(max_examples=80, deadline=None)
@given(st.sampled_from([0, 2, 4]), st.floats(0, 1, exclude_max=True))
def test_truncated_anywhere(tmp_path_factory: pytest.TempPathFactory, protocol: int, share: float) -> None:
    data = pickle.dumps([*PLAIN, [np.float32(1)]], protocol)
    path = tmp_path_factory.getbasetemp() / "truncated.p"
    with pytest.raises(DataError):
        load_refs(_write(path, data[: int(len(data) * share)]))


# One small data set: two images, three objects, refs of all kinds of splits.


def _image(image_id: int, **changes: Any) -> dict[str, Any]:
    name = f"COCO_train2014_{image_id:012d}.jpg"
    return {"id": image_id, "file_name": name, "width": 14, "height": 8, "license": 1, **changes}


def _annotation(annotation_id: int, image_id: int, **changes: Any) -> dict[str, Any]:
    row = {"id": annotation_id, "image_id": image_id, "category_id": 3, "segmentation": SQUARE, "iscrowd": 0}
    return {**row, "bbox": [2, 1.0, 4.0, 3.0], "area": 12.0, **changes}


def _ref(ref_id: int, annotation_id: int, image_id: int, split: Any, **changes: Any) -> dict[str, Any]:
    sentences = [
        {"raw": f"Raw {ref_id}", "sent": f"raw {ref_id}", "sent_id": 10 * ref_id, "tokens": ["raw"]},
        {"raw": "le café à gauche", "sent": "cafe", "sent_id": 10 * ref_id + 1, "tokens": []},
    ]
    name = f"COCO_train2014_{image_id:012d}_{annotation_id}.jpg"
    row = {"ref_id": ref_id, "ann_id": annotation_id, "image_id": image_id, "category_id": 3, "split": split}
    return {**row, "file_name": name, "sent_ids": [s["sent_id"] for s in sentences], "sentences": sentences, **changes}


CROWD = {"size": [8, 14], "counts": [0, 112]}
INSTANCES: dict[str, Any] = {
    "info": {},
    "images": [_image(9), _image(5), _image(6), _image(7)],
    "annotations": [
        _annotation(90, 9),
        _annotation(91, 9, segmentation=CROWD, iscrowd=1, category_id=4),
        _annotation(50, 5),
        _annotation(60, 6),
        _annotation(70, 7),
    ],
    "categories": [{"id": 3, "name": "cat", "supercategory": "animal"}, {"id": 4, "name": "chien"}],
}
REFS = [
    _ref(1, 90, 9, "val"),
    _ref(2, 50, 5, "testA"),
    _ref(3, 91, 9, "testAB"),
    _ref(4, 60, 6, "testB"),
    _ref(5, 70, 7, "train"),
]


def _store(
    root: Path, refs: list[Any] = REFS, instances: Any = INSTANCES, name: str = "refcoco", split_by: str = "unc"
) -> Path:
    folder = root / name
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"refs({split_by}).p").write_bytes(pickle.dumps(refs, 2))
    (folder / "instances.json").write_text(json.dumps(instances), "utf-8")
    return root


def test_round_trip(tmp_path: Path) -> None:
    data = read_refer(_store(tmp_path), "refcoco", "unc", ["val", "testA"])
    assert (data.name, data.split_by, data.problems) == ("refcoco", "unc", ())
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
    found = [(r.ref_id, r.annotation_id, r.image_id, r.category, r.split, r.splits, r.status) for r in data.refs]
    assert found == [
        (1, 90, 9, "cat", "val", ("val",), ""),
        (2, 50, 5, "cat", "testA", ("testA",), ""),
        (3, 91, 9, "cat", "testAB", ("testA",), ""),
    ]
    assert data.refs[0].sentences == (SentenceRow(10, "Raw 1", ""), SentenceRow(11, "le café à gauche", ""))


def test_python2_data_set_reads_the_same(tmp_path: Path) -> None:
    expected = read_refer(_store(tmp_path), "refcoco", "unc", ["val", "test"])
    for protocol in (0, 2):
        _python2(REFS, protocol, "utf-8", tmp_path / "refcoco" / "refs(unc).p")
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
    data = read_refer(_store(tmp_path), "refcoco", "unc", ["testB", "testA", "testA"])
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
    _store(_store(tmp_path), split_by="google")
    _store(tmp_path, [_ref(1, 90, 9, "val"), _ref(2, 90, 9, "test")], name="refcocog", split_by="umd")
    (tmp_path / "images").mkdir()
    with pytest.raises(ParameterError, match=message):
        read_refer(tmp_path, name, split_by, splits)


def test_missing_files(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="expected the folder"):
        read_refer(tmp_path / "nowhere", "refcoco", "unc", ["val"])
    (tmp_path / "refcoco").mkdir()
    with pytest.raises(DataError, match=r"expected refs\(unc\)\.p"):
        read_refer(tmp_path, "refcoco", "unc", ["val"])
    (_store(tmp_path) / "refcoco" / "instances.json").unlink()
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
    (_store(tmp_path) / "refcoco" / "instances.json").write_bytes(data)
    with pytest.raises(DataError, match=r"instances\.json.*fetch the file again"):
        read_refer(tmp_path, "refcoco", "unc", ["val"])


def _drop(row: dict[str, Any], key: str) -> dict[str, Any]:
    return {k: v for k, v in row.items() if k != key}


_BAD_REFS: list[tuple[dict[str, Any], str]] = [
    (_ref(8, 999, 9, "val"), "annotation 999: is not among the annotations"),
    (_ref(8, 90, 999, "val"), "image 999: is not among the images"),
    (_ref(8, 50, 9, "val"), "annotation 50 is of image 5, the ref of image 9"),
    (_ref(1, 90, 9, "val"), "ref_id 1 appears a second time"),
    (_ref(8, 90, 9, "val", sentences=[]), "sentences: expected a list"),
    (_ref(8, 90, 9, "val", sentences="abc"), "sentences: expected a list"),
    ({**_ref(8, 90, 9, "val"), "image_id": [9]}, "image_id: expected an integer"),
    ({**_ref(8, 90, 9, "val"), "ann_id": "90"}, "ann_id: expected an integer from 0, got str '90'"),
    ({**_ref(8, 90, 9, "val"), "ref_id": None}, "ref_id: expected an integer"),
    ({**_ref(8, 90, 9, "val"), "ref_id": True}, "ref_id: expected an integer"),
    ({**_ref(8, 90, 9, "val"), "ref_id": -3}, "ref_id: expected an integer"),
    ({**_ref(8, 90, 9, "val"), "ref_id": 10**5000}, "got a huge int"),
    *((_drop(_ref(8, 90, 9, "val"), key), f"{key}: ") for key in ("ref_id", "ann_id", "image_id", "sentences")),
]


@pytest.mark.parametrize(("bad", "reason"), _BAD_REFS, ids=lambda value: value if isinstance(value, str) else "")
def test_a_bad_ref_is_kept_with_its_reason(tmp_path: Path, bad: dict[str, Any], reason: str) -> None:
    data = read_refer(_store(tmp_path, [REFS[0], bad, REFS[1]]), "refcoco", "unc", ["val", "testA"])
    assert [bool(ref.status) for ref in data.refs] == [False, True, False]
    assert reason in data.refs[1].status
    assert any("refs(unc).p [1]" in problem.where and reason in problem.reason for problem in data.problems)
    whole = read_refer(_store(tmp_path), "refcoco", "unc", ["val", "testA"])
    assert (data.refs[0], data.refs[2]) == whole.refs[:2]


@pytest.mark.parametrize("bad", [None, 5, "abc", [], {}, _drop(REFS[0], "split"), {**REFS[0], "split": 3}])
def test_a_ref_without_a_split_is_a_problem(tmp_path: Path, bad: object) -> None:
    data = read_refer(_store(tmp_path, [bad, REFS[0]]), "refcoco", "unc", ["val"])
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
    good = {"raw": "", "sent_id": 2}  # empty is a sentence
    data = read_refer(_store(tmp_path, [_ref(1, 90, 9, "val", sentences=[sentence, good])]), "refcoco", "unc", ["val"])
    assert data.refs[0].status == ""
    assert data.refs[0].sentences[1] == SentenceRow(2, "", "")
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
    data = read_refer(_store(tmp_path, REFS[:2], instances), "refcoco", "unc", ["val", "testA"])
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
    data = read_refer(_store(tmp_path, instances=instances), "refcoco", "unc", ["val"])
    expected = read_refer(_store(tmp_path), "refcoco", "unc", ["val"])
    assert (data.images, data.annotations, data.refs) == (expected.images, expected.annotations, expected.refs)
    assert data.problems
    assert {problem.where.rpartition("/")[2] for problem in data.problems} == {f"instances.json {table}[0]"}


def test_annotation_of_an_absent_image_is_a_problem(tmp_path: Path) -> None:
    instances = copy.deepcopy(INSTANCES)
    instances["annotations"].append(_annotation(80, 888))
    data = read_refer(_store(tmp_path, instances=instances), "refcoco", "unc", ["val"])
    (problem,) = data.problems
    assert problem.where.endswith("annotations[5]")
    assert problem.reason == "image 888 is not among the images"


def test_the_first_of_two_equal_ids_holds(tmp_path: Path) -> None:
    instances = copy.deepcopy(INSTANCES)
    instances["images"].append(_image(9, file_name="other.jpg"))
    instances["annotations"].append(_annotation(90, 9, segmentation=CROWD))
    instances["categories"].append({"id": 3, "name": "other"})
    data = read_refer(_store(tmp_path, instances=instances), "refcoco", "unc", ["val"])
    expected = read_refer(_store(tmp_path), "refcoco", "unc", ["val"])
    assert (data.images, data.annotations, data.refs) == (expected.images, expected.annotations, expected.refs)
    assert [problem.reason.split(" appears")[0] for problem in data.problems] == ["id 3", "id 9", "id 90"]


def test_what_is_not_needed_is_noted_and_spoils_nothing(tmp_path: Path) -> None:
    instances = copy.deepcopy(INSTANCES)
    instances["annotations"][0].update(bbox=[1, 2, 3], area=10**400, category_id=77)
    del instances["annotations"][1]["bbox"], instances["annotations"][1]["area"], instances["annotations"][1]["iscrowd"]
    data = read_refer(_store(tmp_path, [_ref(1, 90, 9, "val", category_id=[])], instances), "refcoco", "unc", ["val"])
    assert [(a.bbox, a.area, a.category_id, a.category, a.status) for a in data.annotations] == [
        (None, None, NO_ID, "", ""),
        (None, None, 4, "chien", ""),
    ]
    assert (data.refs[0].category_id, data.refs[0].category, data.refs[0].status) == (NO_ID, "", "")
    assert [p.reason.split(":")[0] for p in data.problems] == ["bbox", "area", "category_id", "category_id"]


def test_images_and_annotations_of_other_splits_are_left_out(tmp_path: Path) -> None:
    data = read_refer(_store(tmp_path), "refcoco", "unc", ["train"])
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
