"""Stage index and what follows it on faulty data: every fault is named, counted and survived."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from pipeline.arguments import checked
from stages import index
from stages.contract import Context, Summary
from store.errors import DataError, ParameterError
from store.table import Table, read_table

SIZE = (60, 80)  # height, width


def square(x: int, y: int, side: int = 20) -> list[list[float]]:
    return [[x, y, x + side, y, x + side, y + side, x, y + side]]


class Benchmark:
    """A REFER data set under construction; one image, annotation, ref and sentence per ``add`` unless told otherwise."""

    def __init__(self, folder: Path, name: str = "shapes") -> None:
        self.folder, self.name = folder, name
        self.refs: list[dict[str, Any]] = []
        self.instances: dict[str, list[dict[str, Any]]] = {
            "images": [],
            "annotations": [],
            "categories": [{"id": 1, "name": "square"}],
        }
        (folder / "images").mkdir(parents=True, exist_ok=True)

    def add(
        self, number: int, raw: str = "the red square", *, file: bytes | None = b"", split: str = "val", **ref: Any
    ) -> str:
        """Add image, annotation and ref ``number``; ``file``: None for no file, b"" for a good one, else its bytes."""
        name = f"image_{number}.png"
        path = self.folder / "images" / name
        if file == b"":
            pixels = np.random.default_rng(number).integers(0, 255, (*SIZE, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(path)
        elif file is not None:
            path.write_bytes(file)
        self.instances["images"].append({"id": number, "file_name": name, "width": SIZE[1], "height": SIZE[0]})
        self.instances["annotations"].append(
            {"id": number, "image_id": number, "category_id": 1, "segmentation": square(10, 10), "bbox": [10, 10, 20, 20],
             "area": 400, "iscrowd": 0}
        )  # fmt: skip
        sentence = {"sent_id": number, "raw": raw, "sent": raw.lower(), "tokens": raw.lower().split()}
        self.refs.append(
            {"ref_id": number, "ann_id": number, "category_id": 1, "image_id": number, "split": split, "sent_ids": [number],
             "file_name": f"image_{number}_{number}.png", "sentences": [sentence], **ref}
        )  # fmt: skip
        return name

    def write(self) -> None:
        folder = self.folder / self.name
        folder.mkdir(exist_ok=True)
        (folder / "instances.json").write_text(json.dumps(self.instances))
        (folder / "refs(synth).p").write_bytes(pickle.dumps(self.refs, protocol=2))

    def index(self, **choice: Any) -> tuple[Table, Summary]:
        self.write()
        values = {"datasets": {self.name: {"split_by": "synth", "splits": ["val"], **choice}}}
        paths = index.Paths(annotations=self.folder, images=self.folder / "images", index=self.folder / "index.h5")
        summary = index.run(checked(index.Params, values, "index"), paths, Context(self.folder / "work"))
        return read_table(paths.index, "index"), summary


@pytest.fixture
def benchmark(tmp_path: Path) -> Benchmark:
    return Benchmark(tmp_path / "refer")


def test_good_rows(benchmark: Benchmark) -> None:
    for number in (3, 1, 2):
        benchmark.add(number, f"square {number}", split="test" if number == 2 else "val")
    table, summary = benchmark.index()
    assert table["image_name"] == ["image_1.png", "image_3.png"]
    assert table["image_status"] == ["", ""]
    assert table["ref_id"].tolist() == [1, 3]
    assert table["expression_raw"] == ["square 1", "square 3"]
    assert table.attrs["groups"] == [["shapes", "val"]]
    assert not summary.skipped
    from store.segmentation import decode

    truth = decode([table["ref_mask"][0]], *SIZE)[0]
    assert truth[10:30, 10:30].all()
    assert truth.sum() == 400


def test_images_that_cannot_be_used_are_recorded_and_the_rest_goes_on(benchmark: Benchmark) -> None:
    benchmark.add(1)
    benchmark.add(2, file=None)
    benchmark.add(3, file=b"\0")
    benchmark.add(4, file=b"not an image at all")
    (benchmark.folder / "images" / "image_3.png").write_bytes(b"")
    benchmark.add(5)
    Image.new("RGB", (8, 8)).save(benchmark.folder / "images" / "image_5.png")
    table, summary = benchmark.index()
    assert table["image_status"][0] == ""
    for row, reason in ((1, "put the right file there"), (2, "0 bytes"), (3, "not an image"), (4, "the file is 8 x 8")):
        assert reason in table["image_status"][row]
        assert any(f"image_{row + 1}.png" in line for line in summary.skipped)
    assert len(table["expression_raw"]) == 5


def test_faulty_refs_stay_with_a_reason(benchmark: Benchmark) -> None:
    benchmark.add(1)
    benchmark.add(2, ann_id=99)
    benchmark.add(3, image_id=77)
    benchmark.add(4)
    benchmark.instances["annotations"][3]["segmentation"] = [[1, 2]]
    benchmark.add(5)
    benchmark.instances["annotations"][4]["image_id"] = 500
    table, summary = benchmark.index()
    status = dict(zip(table["ref_id"].tolist(), table["ref_status"], strict=True))
    assert status[1] == ""
    assert "99" in status[2]
    assert "77" in status[3]
    assert "polygon" in status[4]
    assert "500" in status[5]
    assert len(summary.skipped) >= 4
    assert all(not mask for mask, s in zip(table["ref_mask"], table["ref_status"], strict=True) if s)


@pytest.mark.parametrize("name", ["../secret.png", "/etc/passwd", "a/../../b.png"])
def test_a_file_name_that_climbs_out_of_the_image_root_is_refused(benchmark: Benchmark, name: str) -> None:
    benchmark.add(1)
    benchmark.add(2)
    benchmark.instances["images"][1]["file_name"] = name
    table, _ = benchmark.index()
    row = table["image_name"].index(name)
    assert "climbs out" in table["image_status"][row] or "absolute" in table["image_status"][row]
    assert table["image_digest"][row] == ""


def test_a_split_or_dataset_that_does_not_exist_names_those_that_do(benchmark: Benchmark) -> None:
    benchmark.add(1)
    with pytest.raises(ParameterError, match=r"split 'vall' does not exist.*did you mean 'val'"):
        benchmark.index(splits=["vall"])
    with pytest.raises(ParameterError, match=r"data set 'shape' does not exist.*did you mean 'shapes'"):
        benchmark.index(folder="shape")
    with pytest.raises(ParameterError, match=r"split_by 'unc' does not exist.*synth"):
        benchmark.index(split_by="unc")


def test_datasets_share_their_images(tmp_path: Path) -> None:
    first, second = Benchmark(tmp_path, "a"), Benchmark(tmp_path, "b")
    first.add(1)
    second.add(1)
    second.add(2)
    second.write()
    first.write()
    values = {"datasets": {name: {"split_by": "synth", "splits": ["val"]} for name in ("a", "b")}}
    paths = index.Paths(annotations=tmp_path, images=tmp_path / "images", index=tmp_path / "index.h5")
    index.run(checked(index.Params, values, "index"), paths, Context(tmp_path / "work"))
    table = read_table(paths.index, "index")
    assert table["image_name"] == ["image_1.png", "image_2.png"]
    assert table["ref_image"].tolist() == [0, 0, 1]
    assert table["ref_group"].tolist() == [0, 1, 1]


def test_the_index_does_not_depend_on_the_order_of_refs(benchmark: Benchmark) -> None:
    for number in range(1, 6):
        benchmark.add(number, f"square {number}")
    table, _ = benchmark.index()
    benchmark.refs.reverse()
    again, _ = benchmark.index()
    assert again.digest == table.digest


def words(reading: dict[str, Any]) -> Any:
    """A change of a benchmark's first sentence."""
    return {"sentences": [{"sent_id": 1, **reading}]}


@pytest.mark.parametrize(
    ("sentence", "expected"),
    [
        ({"raw": "The Left One", "sent": "left", "tokens": ["x"]}, "The Left One"),
        ({"sent": "left one", "tokens": ["x"]}, "left one"),
        ({"tokens": ["the", "left", "one"]}, "the left one"),
        ({"raw": None, "sent": "left one"}, "left one"),
        ({"raw": 5, "tokens": ("left", "one")}, "left one"),
        ({"raw": "", "sent": "left one"}, "left one"),
        ({"raw": " \t\n", "sent": "\u200b", "tokens": ["left"]}, "left"),
        ({"raw": "half \ud800", "sent": "left one"}, "left one"),
        ({"sent": "", "raw": "x"}, "x"),
    ],
)
def test_a_sentence_is_read_from_raw_else_sent_else_tokens(
    benchmark: Benchmark, sentence: dict[str, Any], expected: str
) -> None:
    benchmark.add(1, **words(sentence))
    benchmark.add(2, "the other")
    table, summary = benchmark.index()
    assert table["expression_raw"] == [expected, "the other"]
    assert table["expression_status"] == ["", ""]
    assert not summary.warnings
    noted = [line for line in summary.skipped if "read from" in line]
    assert len(noted) == (expected not in (sentence.get("raw"),))


@pytest.mark.parametrize(
    "sentence",
    [
        {},
        {"raw": ""},
        {"raw": "  ", "sent": "\n", "tokens": []},
        {"raw": None, "sent": None, "tokens": None},
        {"raw": 7, "sent": ["a", 3], "tokens": ["a", None]},
        {"tokens": "the left one"[:0]},
        {"raw": b"bytes"},
        {"raw": "\u200b\u200d"},
    ],
)
def test_a_sentence_without_words_is_faulty_and_says_why(benchmark: Benchmark, sentence: dict[str, Any]) -> None:
    benchmark.add(1, **words(sentence))
    benchmark.add(2, "the other")
    table, summary = benchmark.index()
    assert [bool(status) for status in table["expression_status"]] == [True, False]
    for key in ("raw", "sent", "tokens"):
        assert f"{key}: " in table["expression_status"][0]
    assert table["ref_status"] == ["", ""]
    (loss,) = table.attrs["losses"]
    assert (loss["state"], loss["count"], loss["of"]) == ("faulty sentence", 1, 2)
    (warning,) = summary.warnings
    assert warning.startswith("1 of 2 sentences of data set shapes cannot be used: 1 x faulty sentence, such as ref 1")


def test_a_sentence_that_is_no_dict_is_faulty_and_one_without_an_id_is_not(benchmark: Benchmark) -> None:
    benchmark.add(1, sentences=["just text", {"raw": "no id"}])
    table, _ = benchmark.index()
    assert table["expression_raw"] == ["", "no id"]
    assert table["expression_status"][0].startswith("expected a dict, got str; ")
    assert table["expression_status"][1] == ""


def test_many_sentences_without_raw_are_noted_once(benchmark: Benchmark) -> None:
    for number in range(1, 30):
        benchmark.add(number, **words({"sent": f"square {number}"}))
    _, summary = benchmark.index()
    (line,) = summary.skipped
    assert "raw: expected text, it is missing; read from sent; other rows of this kind are not listed" in line


@pytest.mark.parametrize("convert", [str, float, "{:05d}".format])
def test_ids_as_text_or_float_are_taken_for_the_integer_and_noted_once(benchmark: Benchmark, convert: Any) -> None:
    for number in (1, 2, 3):
        benchmark.add(number)
    plain, _ = benchmark.index()
    for row in benchmark.refs:
        row |= {key: convert(row[key]) for key in ("ref_id", "ann_id", "image_id", "category_id")}
        row["sentences"][0]["sent_id"] = convert(row["sentences"][0]["sent_id"])
    for row in benchmark.instances["annotations"]:
        row |= {key: convert(row[key]) for key in ("id", "image_id", "category_id")}
    for row in benchmark.instances["images"] + benchmark.instances["categories"]:
        row["id"] = convert(row["id"])
    table, summary = benchmark.index()
    assert table.digest == plain.digest
    assert len(summary.skipped) == 8, "each key of each list of each file once"
    assert all("taken for 1; other rows" in line for line in summary.skipped)


@pytest.mark.parametrize("bad", [1.5, "one", "1.0", "-1", True, None, [1]])
def test_refs_of_which_none_is_usable_are_an_error(benchmark: Benchmark, bad: Any) -> None:
    for number in (1, 2, 3):
        benchmark.add(number)
        benchmark.refs[-1]["image_id"] = bad
    with pytest.raises(
        DataError, match=r"none of 3 refs of data set shapes can be used: 3 x no ground truth, such as ref 1: "
    ):
        benchmark.index()
    benchmark.refs[0]["image_id"] = 1
    table, summary = benchmark.index()
    assert any(w.startswith("2 of 3 refs of data set shapes cannot be used: ") for w in summary.warnings)
    assert [loss["count"] for loss in table.attrs["losses"] if loss["state"] == "no ground truth"] == [2]


def test_images_of_which_none_is_usable_are_an_error(benchmark: Benchmark) -> None:
    for number in (1, 2):
        benchmark.add(number, file=None)
    with pytest.raises(
        DataError, match=r"none of 2 images of data set shapes can be used: 2 x unreadable image.*images\)"
    ):
        benchmark.index()
    assert not (benchmark.folder / "index.h5").exists()


def test_sentences_of_which_none_is_usable_are_an_error(benchmark: Benchmark) -> None:
    for number in (1, 2):
        benchmark.add(number, " ")
    with pytest.raises(DataError, match=r"none of 2 sentences of data set shapes can be used: 2 x faulty sentence"):
        benchmark.index()


def test_missing_files_are_to_be_tried_again_and_broken_ones_are_not(benchmark: Benchmark) -> None:
    benchmark.add(1)
    benchmark.add(2, file=None)
    benchmark.add(3, file=b"not an image")
    benchmark.add(4, file=b"\0")
    table, summary = benchmark.index()
    assert [bool(status) for status in table["image_status"]] == [False, True, True, True]
    assert len(summary.transient) == 1
    assert "image_2.png" in summary.transient[0]
    (warning,) = summary.warnings
    assert warning.startswith("3 of 4 images of data set shapes cannot be used: ")
    (loss,) = table.attrs["losses"]
    assert (loss["state"], loss["count"], loss["of"]) == ("unreadable image", 3, 4)


def test_images_too_thin_or_too_large_are_known_before_any_work(benchmark: Benchmark) -> None:
    benchmark.add(1)
    benchmark.add(2)
    benchmark.instances["images"][1] |= {"width": 2000, "height": 3}
    Image.new("RGB", (2000, 3)).save(benchmark.folder / "images" / "image_2.png")
    table, summary = benchmark.index()
    assert "2000 x 3 is longer than 20 times its short side" in table["image_status"][1]
    assert not summary.transient
