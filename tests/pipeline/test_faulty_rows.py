"""Rows and files that cannot be used, through all stages: recorded, counted, tried again; they stop nothing."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from store.table import read_table
from tests.datasets.test_index import Benchmark
from tests.helpers.documents import data_sets
from tests.helpers.profile import profile_at, run_stages

Values = dict[str, Any]


@pytest.fixture
def faulty(tmp_path: Path) -> Values:
    """A benchmark of faulty rows between good ones."""
    benchmark = Benchmark(tmp_path / "refer")
    scene = Image.new("RGB", (160, 120), (90, 90, 90))
    scene.paste((220, 30, 30), (30, 30, 90, 90))
    sentences = {
        1: "the red square",
        2: "",
        3: "   ",
        4: "the red square " * 60,
        5: "le carré rouge à gauche · 红色方块 \U0001f7e5",
        6: "the truncated image",
        7: "the empty ground truth",
        8: "an image without a proposal",
        9: "the last red square",
    }
    for number, raw in sentences.items():
        name = benchmark.add(number, raw)
        benchmark.instances["images"][-1] |= {"width": 160, "height": 120}
        benchmark.instances["annotations"][-1]["segmentation"] = [[30, 30, 90, 30, 90, 90, 30, 90]]
        scene.save(benchmark.folder / "images" / name)
    images = benchmark.folder / "images"
    data = (images / "image_6.png").read_bytes()
    (images / "image_6.png").write_bytes(data[: len(data) - 30])
    benchmark.instances["annotations"][6]["segmentation"] = {"size": [120, 160], "counts": [120 * 160]}
    Image.new("RGB", (160, 120)).save(images / "image_8.png")
    benchmark.write()
    values = profile_at(tmp_path, benchmark.folder)
    values["index"]["datasets"] = {"shapes": {"split_by": "synth", "splits": ["val"]}}
    return values


def test_bad_rows_are_recorded_counted_and_stop_nothing(faulty: Values) -> None:
    records = run_stages(faulty)
    data = Path(faulty["data"])
    counts = data_sets(Path(faulty["metrics"]))["shapes"]["val"]["counts"]
    assert counts["expressions"] == counts["refs"] == counts["images"] == 9
    assert counts["truncated_texts"] >= 1
    proposals = read_table(data / "proposals.h5", "proposals")
    status = dict(zip(read_table(data / "index.h5", "index")["image_name"], proposals["status"], strict=True))
    assert "cannot be decoded" in status["image_6.png"]
    state = dict(zip(read_table(data / "index.h5", "index")["image_name"], proposals["state"], strict=True))
    assert {name for name, s in state.items() if s} == {name for name, s in status.items() if s}
    assert state["image_6.png"] == "unreadable image"
    assert counts["images_without_proposals"] == sum(s == "no proposals" for s in state.values()) >= 1
    assert (counts["unreadable image"], counts["faulty sentence"], counts["not_evaluated"]) == (1, 2, 3)
    assert (counts["no ground truth"], counts["lost feature"], counts["lost_pairs"]) == (0, 0, 0)
    assert any("image_6.png" in line for line in records["propose"]["skipped"])
    parse = read_table(data / "parse.h5", "parse")
    assert [row for row, s in enumerate(parse["status"]) if s] == [1, 2]
    assert any("truncated" in line for line in records["embed_text"]["skipped"])
    scores, pairs = read_table(data / "scores.h5", "scores"), read_table(data / "pairs/vit.h5", "pairs")
    empty = np.diff(pairs["expression_offsets"]) == 0
    assert ((scores["chosen.global_local"] == -1) == empty).all()
    assert pairs["expression_state"][1:3] == ["faulty sentence"] * 2
    assert pairs["expression_state"][5] == "unreadable image"
    assert counts["no_choice"] == counts["no proposals"] == empty.sum() - 1, "the unreadable image is none of them"
    assert records["score"]["warnings"] == [
        "shapes val: expressions left out of the metrics: 3 of 9 (unreadable image 1, faulty sentence 2)"
    ]
    assert any("2 of 9 sentences of data set shapes cannot be used" in w for w in records["index"]["warnings"])
    assert any("such as image_6.png" in w for w in records["propose"]["warnings"])
    assert pairs["expression_area"][6] == 0
    page = (data / "report.html").read_text()
    assert "cannot be decoded" in page
    metrics = data_sets(Path(faulty["metrics"]))["shapes"]["val"]["global_local"]
    assert metrics["n"] == 6
    assert metrics["skip"]["n"] == 6 - counts["no_choice"]


@pytest.mark.parametrize("break_it", [lambda path: path.unlink(), lambda path: path.write_bytes(b"other")])
def test_an_image_that_is_not_what_was_indexed_is_recorded_and_tried_again(faulty: Values, break_it: Any) -> None:
    run_stages(faulty, "index")
    run_stages(faulty, "propose", "embed_masks")
    good = {path.name: path.read_bytes() for path in Path(faulty["data"]).rglob("*") if path.is_file()}
    image = Path(faulty["images"], "image_1.png")
    data = image.read_bytes()
    shutil.rmtree(faulty["work"])
    Path(faulty["data"], "proposals.h5").unlink()  # it would serve in place of the parts
    break_it(image)
    record = run_stages(faulty, "propose")["propose"]
    assert any("image_1.png" in line and "run stage index again" in line for line in record["skipped"])
    assert record["stopped"]
    assert len(record["transient"]) == 1
    image.write_bytes(data)
    assert run_stages(faulty, "propose")["propose"]["computed"]["images"] == 1
    shutil.rmtree(Path(faulty["work"], "embed_masks@vit"), ignore_errors=True)
    shutil.rmtree(Path(faulty["data"], "mask_features"))
    break_it(image)
    record = run_stages(faulty, "embed_masks")["embed_masks"]
    assert any("image_1.png" in line for line in record["skipped"])
    assert record["stopped"]
    assert any("lost feature, such as" in line and "image_1.png" in line for line in record["warnings"])
    image.write_bytes(data)
    assert not run_stages(faulty, "embed_masks")["embed_masks"]["stopped"]
    run_stages(faulty, "embed_masks")
    assert {path.name: path.read_bytes() for path in Path(faulty["data"]).rglob("*") if path.is_file()} == good


def test_a_sliver_of_an_image_does_not_fill_the_memory(tmp_path: Path) -> None:
    benchmark = Benchmark(tmp_path / "refer")
    name = benchmark.add(1)
    benchmark.instances["images"][0] |= {"width": 2000, "height": 3}
    Image.new("RGB", (2000, 3)).save(benchmark.folder / "images" / name)
    benchmark.add(2)
    benchmark.write()
    values = profile_at(tmp_path, benchmark.folder)
    values["index"]["datasets"] = {"shapes": {"split_by": "synth", "splits": ["val"]}}
    record = run_stages(values, "index", "propose")["propose"]
    assert any("2000 x 3 is longer than 20 times" in line for line in record["skipped"])
