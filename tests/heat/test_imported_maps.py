"""Maps of other models: the index of their folder, and files that are no maps."""

from __future__ import annotations

import json
import os
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from stages.contract import Params
from stages.heat_maps import imported
from stages.heat_maps.imported import array_of, located, opened, plain_phrase
from stages.heat_maps.registry import Asked, Opening
from store.errors import DataError, TransientError
from store.table import Table

IMAGES = ["val/one.jpg", "val/two.jpg", "test/two.png"]
ASKED = [
    Asked(0, "the red ball", "ball", raw=("The red ball!", "the  red BALL")),
    Asked(1, "left", "left", raw=("left",)),
    Asked(2, "left", "left", raw=("left",)),
]


def index_of() -> Table:
    return Table(Path("index.h5"), {"image_name": IMAGES, "image_id": np.array([7, 8, -1])}, {})


def npy(array: Any, file: Path) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    np.save(file, array, allow_pickle=True)


def write(folder: Path, *rows: Any) -> None:
    folder.mkdir(exist_ok=True)
    lines = [row if isinstance(row, str) else json.dumps(row) for row in rows]
    (folder / "maps.jsonl").write_text("\n".join(lines))


def found(folder: Path) -> tuple[list[Any], list[str]]:
    """What there is for each of ``ASKED``: the map or the error; and the problems of the index."""
    sources, problems = located(folder, index_of(), ASKED)
    asked = [
        Asked(each.image, each.sentence, each.phrase, sources={"imported": source})
        for each, source in zip(ASKED, sources, strict=True)
    ]
    return list(opened(Opening(Params(), folder, {}))(None, asked)), problems


def test_images_and_phrases_are_found_by_what_others_call_them(tmp_path: Path) -> None:
    heat = np.arange(6, dtype=np.float64).reshape(2, 3)
    npy(heat, tmp_path / "a/x.npy")
    npy(np.asfortranarray(-heat.astype(">f4")), tmp_path / "y.npy")
    npy(heat.astype(np.int16).T, tmp_path / "z.npy")
    write(
        tmp_path,
        {"image": 7, "phrase": "THE red  ball", "file": "a/x.npy"},
        "",
        {"image": "val/two.jpg", "phrase": "left", "file": "y.npy", "more": 1},
        {"image": "two.png", "phrase": "Left ", "file": "z.npy"},
        {"image": "elsewhere.jpg", "phrase": "left", "file": "of an image that the profile has not"},
    )
    maps, problems = found(tmp_path)
    assert problems == []
    for got, expected in zip(maps, (heat, -heat, heat.T), strict=True):
        assert got.dtype == np.float32
        np.testing.assert_array_equal(got, expected)


@pytest.mark.parametrize("phrase", ["the red ball", "The red ball!", " the red BALL"])
def test_the_clean_sentence_and_the_annotated_ones_name_a_phrase(tmp_path: Path, phrase: str) -> None:
    npy(np.eye(2), tmp_path / "x.npy")
    write(tmp_path, {"image": "one", "phrase": phrase, "file": "x.npy"})
    np.testing.assert_array_equal(found(tmp_path)[0][0], np.eye(2))
    assert plain_phrase(" A\tb ") == "a b"


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ("{", "expected a JSON object, got"),
        ("[1]", "expected a JSON object, got"),
        ("[" * 100_000, "expected a JSON object, got"),
        ({"image": "one.jpg", "file": "x.npy"}, "phrase: expected text, got"),
        ({"image": "one.jpg", "phrase": "left", "file": 3}, "file: expected text, got"),
        ({"phrase": "left", "file": "x.npy"}, "image_id: expected"),
        ({"image": [1], "phrase": "left", "file": "x.npy"}, "image_id: expected"),
        ({"image": "two", "phrase": "left", "file": "x.npy"}, "may be image_id 8 (val/two.jpg), image_id -1 (test/two.png)"),
    ],
)  # fmt: skip
def test_a_row_that_says_too_little_is_named_and_left_out(tmp_path: Path, row: Any, said: str) -> None:
    npy(np.eye(2), tmp_path / "x.npy")
    write(tmp_path, row, {"image": "one", "phrase": "the red ball", "file": "x.npy"})
    maps, (problem,) = found(tmp_path)
    assert problem.startswith(f"{tmp_path}/maps.jsonl [1]: ")
    assert said in problem
    assert isinstance(maps[0], np.ndarray), "the other rows count"
    assert "no row of maps.jsonl is about this image and phrase" in str(maps[1])
    assert not isinstance(maps[1], TransientError)


def test_of_two_maps_of_a_phrase_the_first_counts(tmp_path: Path) -> None:
    for name, value in (("x", 1.0), ("y", 2.0)):
        npy(np.array([[0, value]]), tmp_path / f"{name}.npy")
    row = {"image": "one", "phrase": "the red ball"}
    write(tmp_path, row | {"file": "x.npy"}, row | {"file": "x.npy"}, row | {"file": "y.npy"})
    maps, (problem,) = found(tmp_path)
    assert maps[0].tolist() == [[0, 1]]
    assert "[3]: another map of an image and phrase that has one" in problem


def test_an_index_that_cannot_be_read_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(
        DataError, match=r"maps\.jsonl: expected the index of imported heat maps.*No such file.*heat\.maps"
    ):
        located(tmp_path, index_of(), ASKED)
    (tmp_path / "maps.jsonl").write_bytes(b"\xff\xfe\xfa")
    with pytest.raises(DataError, match=r"maps\.jsonl: expected .*cannot read it"):
        located(tmp_path, index_of(), ASKED)


def header(shape: str, dtype: str = "<f4", rest: bytes = b"") -> bytes:
    text = f"{{'descr': '{dtype}', 'fortran_order': False, 'shape': {shape}, }}".encode()
    text = text.ljust(117) + b"\n"
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text + rest


BAD = {
    "nothing": (b"", "cannot read its header"),
    "text": (b"0.1 0.2\n", "cannot read its header"),
    "zip": (b"PK\x03\x04" + b"x" * 40, "cannot read its header"),
    "version": (b"\x93NUMPY\x09\x00" + b"x" * 40, "cannot read its header"),
    "pickled": (header("(2, 2)", "|O", pickle.dumps([1])), "got pickled objects"),
    "complex": (header("(1, 2)", "<c8", b"\0" * 16), "expected numbers, got complex64"),
    "text array": (header("(1, 2)", "<U2", b"\0" * 16), "expected numbers, got <U2"),
    "a row": (header("(4,)", rest=b"\0" * 16), r"expected rows and columns, 1 to 1024 of each, got shape \(4,\)"),
    "empty": (header("(0, 4)"), r"got shape \(0, 4\)"),
    "huge": (header("(1000000000, 1000000000)"), "1 to 1024 of each"),
    "wide": (header("(1, 1025)", rest=b"\0" * 4100), "1 to 1024 of each"),
    "cut off": (header("(2, 2)", rest=b"\0" * 12), "expected 2 x 2 values of float32, got another number of bytes"),
    "longer": (header("(2, 2)", rest=b"\0" * 17), "another number of bytes"),
    "nan": (header("(1, 2)", rest=np.array([0, np.nan], "<f4").tobytes()), "finite numbers of 32 bits"),
    "infinite": (header("(1, 2)", rest=np.array([0, -np.inf], "<f4").tobytes()), "finite numbers of 32 bits"),
    "too large": (header("(1, 2)", "<f8", np.array([0, 1e300], "<f8").tobytes()), "finite numbers of 32 bits"),
}


@pytest.mark.parametrize("name", BAD)
def test_what_is_no_map_is_a_permanent_fault(tmp_path: Path, name: str) -> None:
    data, said = BAD[name]
    with pytest.raises(DataError, match=said):
        array_of(data)
    (tmp_path / "x.npy").write_bytes(data)
    write(tmp_path, {"image": "one", "phrase": "the red ball", "file": "x.npy"})
    fault = found(tmp_path)[0][0]
    assert isinstance(fault, DataError)
    assert not isinstance(fault, TransientError)
    assert str(fault).startswith(f"{tmp_path}/x.npy: expected")


def test_a_map_of_no_file_below_the_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "maps"
    npy(np.eye(2), tmp_path / "outside.npy")
    npy(np.eye(2), folder / "large.npy")
    (folder / "link.npy").symlink_to("../outside.npy")
    os.mkfifo(folder / "pipe.npy")
    (folder / "folder.npy").mkdir()
    monkeypatch.setattr(imported, "MOST_BYTES", 100)
    cases = {
        "../outside.npy": "leads out of heat.folder",
        str(tmp_path / "outside.npy"): "leads out of heat.folder",
        "link.npy": "leads out of heat.folder",
        "pipe.npy": "expected a plain file",
        "folder.npy": "expected a plain file",
        "large.npy": "has more than 100 bytes",
        "zero\0byte.npy": "expected a plain file",
    }
    for file, said in cases.items():
        write(folder, {"image": "one", "phrase": "the red ball", "file": file})
        fault = found(folder)[0][0]
        assert said in str(fault), file
        assert not isinstance(fault, TransientError), file


def test_a_file_that_is_not_there_or_changes_is_transient(tmp_path: Path) -> None:
    write(tmp_path, {"image": "one", "phrase": "the red ball", "file": "x.npy"})
    fault = found(tmp_path)[0][0]
    assert isinstance(fault, TransientError)
    assert "x.npy: expected a heat map, cannot read it (No such file or directory)" in str(fault)
    npy(np.eye(2), tmp_path / "x.npy")
    (source, *_), _ = located(tmp_path, index_of(), ASKED)
    npy(np.eye(3), tmp_path / "x.npy")
    asked = [Asked(0, "the red ball", "ball", sources={"imported": source})]
    (fault,) = opened(Opening(Params(), tmp_path, {}))(None, asked)
    assert isinstance(fault, TransientError)
    assert "changed while the stage ran" in str(fault)
