"""Tables of phrases about pictures of one's own: what is read, in every form, and every fault kept with its reason."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from stages import index
from stages.contract import Context, Summary
from stages.datasets.fields import NO_ID
from stages.datasets.phrases import FORMS, phrase_rows, read_phrases
from store.errors import DataError, ParameterError
from store.images import read_image
from store.table import Table, read_table

ROWS = [
    {"image": "a.png", "phrase": "the red star"},
    {"image": "b/c.png", "phrase": "a, quoted \"phrase\"\nof two lines", "split": "hard"},
    {"image": "a.png", "phrase": "étoile à gauche", "more": "7"},
]  # fmt: skip


def write(folder: Path, rows: list[Any], form: str = "jsonl") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / f"phrases.{form}"
    if form == "json":
        file.write_text(json.dumps(rows))
    elif form == "jsonl":
        file.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    else:
        with file.open("w", newline="", encoding="utf-8") as out:
            table = csv.DictWriter(
                out, ["image", "phrase", "split", "more"], delimiter="," if form == "csv" else "\t", restval=""
            )
            table.writeheader()
            table.writerows(rows)
    return file


@pytest.mark.parametrize("form", FORMS)
def test_every_form_gives_the_same_refs(tmp_path: Path, form: str) -> None:
    write(tmp_path / "photos", ROWS, form)
    data = read_phrases(tmp_path, "photos", ["all", "hard"])
    assert [(ref.ref_id, ref.split, ref.status, ref.annotation_ids) for ref in data.refs] == [
        (1, "all", "", ()),
        (2, "hard", "", ()),
        (3, "all", "", ()),
    ]
    assert [(s.sentence_id, s.raw, s.status) for ref in data.refs for s in ref.sentences] == [
        (number, row["phrase"], "") for number, row in enumerate(ROWS, 1)
    ]
    names = {image.image_id: image.file_name for image in data.images}
    assert [names[ref.image_id] for ref in data.refs] == [row["image"] for row in ROWS]
    assert (data.annotations, data.problems) == ((), ())


def test_only_the_chosen_splits(tmp_path: Path) -> None:
    write(tmp_path / "photos", ROWS)
    data = read_phrases(tmp_path, "photos", ["hard"])
    assert [image.file_name for image in data.images] == ["b/c.png"]
    assert len(data.refs) == 1
    with pytest.raises(ParameterError, match=r"split 'hrad' does not exist in .*phrases\.jsonl; did you mean 'hard'\?"):
        read_phrases(tmp_path, "photos", ["hrad"])


@given(rows=st.lists(st.tuples(st.text(), st.text()), min_size=1, max_size=6))
@settings(max_examples=60, deadline=None)
def test_csv_keeps_any_text(rows: list[tuple[str, str]], tmp_path_factory: pytest.TempPathFactory) -> None:
    """What Python's own writer wrote comes back, but for line ends, which CSV readers unite."""
    file = tmp_path_factory.mktemp("csv") / "phrases.csv"
    with file.open("w", newline="", encoding="utf-8") as out:
        csv.writer(out).writerows([("image", "phrase"), *rows])
    with file.open(newline="", encoding="utf-8") as back:
        expected = list(csv.reader(back))[1:]
    found = phrase_rows(file)
    assert [(row["image"], row["phrase"]) for row in found] == [tuple(row) for row in expected if row]


FAULTY = [
    ({"image": "a.png", "phrase": " "}, "phrase: blank", "a.png"),
    ({"image": "a.png"}, "phrase: expected text", "a.png"),
    ({"image": "", "phrase": "x"}, "image: expected the path of a file", None),
    ({"image": 7, "phrase": "x"}, "image: expected text, got int 7", None),
    ({"image": "../a.png", "phrase": "x"}, "climbs out of the image root", None),
    ({"image": "/etc/x.png", "phrase": "x"}, "is absolute", None),
    ("no object", "expected a dict, got str", None),
]


@pytest.mark.parametrize(("row", "reason", "image"), FAULTY)
def test_a_faulty_row_is_kept_with_its_reason(tmp_path: Path, row: Any, reason: str, image: str | None) -> None:
    write(tmp_path / "photos", [ROWS[0], row])
    data = read_phrases(tmp_path, "photos", ["all"])
    bad = data.refs[1]
    assert reason in (bad.status + bad.sentences[0].status)
    assert any(reason in problem.reason and "[2]" in problem.where for problem in data.problems)
    names = {each.image_id: each.file_name for each in data.images}
    assert names.get(bad.image_id) == image
    assert (bad.image_id == NO_ID) == (image is None)
    assert data.refs[0].status == ""


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("phrases.csv", b"file,phrase\na.png,x\n", r"expected the columns image and phrase, found file, phrase; add image"),
        ("phrases.csv", b"", "found none; add image and phrase"),
        ("phrases.csv", b"image,phrase\n", "found no row"),
        ("phrases.csv", "image,phrase\na.png,\xe9toile\n".encode("latin-1"), "expected UTF-8, got byte 0xe9 at 19; save it"),
        ("phrases.csv", b'image,phrase\na.png,"open\n', r"line 2: .*correct the quotes"),
        ("phrases.json", b"{", "this is no JSON"),
        ("phrases.json", b'{"image": 1}', "expected a list of objects, got dict"),
        ("phrases.json", b"[" * 100_000, "this is no JSON"),
        ("phrases.jsonl", b'{"img": "a.png", "text": "x"}', "found img, text; add image and phrase"),
        ("phrases.xlsx", b"PK", r"expected a table .*as \.csv, \.tsv, \.jsonl, \.json; got a file of another suffix"),
    ],
)  # fmt: skip
def test_a_file_that_is_no_table(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=message):
        phrase_rows(tmp_path / name)


def test_one_file_of_phrases_in_a_folder(tmp_path: Path) -> None:
    write(tmp_path / "photos", ROWS, "csv")
    write(tmp_path / "photos", ROWS, "json")
    with pytest.raises(DataError, match=r"expected one of .*, found phrases\.csv and phrases\.json"):
        read_phrases(tmp_path, "photos", ["all"])


def indexed(folder: Path, rows: list[Any]) -> tuple[Table, Summary]:
    write(folder / "photos", rows)
    params = index.Params(datasets={"photos": {"kind": "phrases", "splits": ["all"]}})
    paths = index.Paths(annotations=folder, images=folder, index=folder / "index.h5")
    summary = index.run(params, paths, Context(folder / "work"))
    return read_table(paths.index, "index"), summary


def test_sizes_come_from_the_files_and_photographs_stand_upright(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (7, 5, 3), np.uint8)
    for orientation in (1, 6, 9):
        picture = Image.fromarray(pixels)
        exif = picture.getexif()
        exif[0x0112] = orientation
        picture.save(tmp_path / f"{orientation}.png", exif=exif)
    table, _ = indexed(tmp_path, [{"image": f"{o}.png", "phrase": "x"} for o in (1, 6, 9)])
    assert table["image_size"].tolist() == [[7, 5], [5, 7], [7, 5]]
    turned = np.rot90(pixels, -1)  # what a viewer shows for 6: a quarter to the right
    for row, expected in enumerate((pixels, turned, pixels)):
        shown = read_image(tmp_path, table["image_name"][row], table["image_digest"][row])
        np.testing.assert_array_equal(np.asarray(shown), expected)
    assert len(set(table["image_digest"])) == 3


def test_pictures_that_cannot_be_used_are_rows(tmp_path: Path) -> None:
    Image.new("RGB", (9, 8)).save(tmp_path / "a.png")
    (tmp_path / "broken.png").write_bytes(b"no picture")
    Image.new("RGB", (900, 2)).save(tmp_path / "thin.png")
    names = ("a.png", "broken.png", "thin.png", "gone.png")
    table, summary = indexed(tmp_path, [{"image": name, "phrase": "x"} for name in names])
    status = dict(zip(table["image_name"], table["image_status"], strict=True))
    assert status["a.png"] == ""
    assert "not an image" in status["broken.png"]
    assert "longer than 20 times its short side" in status["thin.png"]
    assert "cannot be read" in status["gone.png"]
    assert [line for line in summary.transient if "gone.png" in line] == summary.transient
    assert set(table["ref_status"]) == {""}
    assert set(table["ref_mask"]) == {b""}
