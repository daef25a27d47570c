"""Additions from files outside the package, each run through all stages to the report: one file and one params entry.

The files are the ones that CONTRIBUTING.md shows. A row of ``ADDITIONS`` says where a file goes, what the params file then
names, and what must come out, by plain loops over the benchmark's own files.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from distributed import LocalCluster
from numpy.typing import NDArray
from PIL import Image
from pycocotools import mask as coco

from demo.refshapes import write_benchmark
from pipeline.commands.segment import segment_file
from pipeline.project import load_project
from pipeline.registry import STAGES
from pipeline.runner import run_words
from pipeline.setup.preflight import check
from stages.clip.weights import load_clip
from stages.visual.encoder import MaskedClip
from store.errors import ParameterError
from store.registry import ROOMS, load_extensions
from store.table import Table, read_table
from store.vectors import Vectors
from tests.helpers.documents import data_sets
from tests.helpers.profile import ROOT, command_of, demo_values, run_stages

Values = dict[str, Any]


@dataclass(frozen=True)
class Addition:
    """One file outside and one entry of the params file.

    Attributes:
        file: its path below the folder of extensions.
        entry: changes the params, and writes the data that the entry names.
        expected: checks the outputs of a run of all stages.
    """

    file: str
    entry: Callable[[Values], None]
    expected: Callable[[Values, dict[str, dict[str, Any]]], None]

    @property
    def text(self) -> str:
        """The file as CONTRIBUTING.md shows it."""
        found = re.search(
            rf"```python\n(# extensions/{self.file}\n.*?)```", (ROOT / "CONTRIBUTING.md").read_text(), re.S
        )
        assert found, f"CONTRIBUTING.md shows no extensions/{self.file}"
        return found[1]


# A data set kind.

FAULTY = {"image": "", "width": 8, "height": 8, "box": [1, 2, 3], "phrase": "a box of three numbers"}


def boxes(values: Values) -> list[dict[str, Any]]:
    """A line for each of the first objects of RefShapes' images: its box, and a phrase of its own."""
    instances = json.loads(Path(values["index"]["annotations"], "refshapes/instances.json").read_text())
    images = {image["id"]: image for image in instances["images"]}
    names = {category["id"]: category["name"] for category in instances["categories"]}
    return [
        {
            "image": (image := images[row["image_id"]])["file_name"],
            "width": image["width"],
            "height": image["height"],
            "box": row["bbox"],
            "phrase": f"the {names[row['category_id']]} number {number}",
        }
        for number, row in enumerate(instances["annotations"][:7])
    ]


def name_the_boxes(values: Values) -> None:
    folder = Path(values["index"]["annotations"], "mine")
    folder.mkdir()
    rows = [*boxes(values), {**FAULTY, "image": boxes(values)[0]["image"]}]
    (folder / "val.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    values["index"]["datasets"]["mine"] = {"kind": "boxes", "splits": ["val"]}


def boxes_are_scored(values: Values, records: dict[str, dict[str, Any]]) -> None:
    index, rows = table(values, "index"), boxes(values)
    group = index.attrs["groups"].index(["mine", "val"])
    refs = [ref for ref, its in enumerate(index["ref_group"]) if its == group]
    truth = {index["expression_raw"][e]: ref for e, ref in enumerate(index["expression_ref"]) if ref in refs}
    for row in rows:
        ref = truth.pop(row["phrase"])
        image = index["ref_image"][ref]
        assert index["image_name"][image] == row["image"]
        x, y, w, h = row["box"]
        expected = np.zeros((row["height"], row["width"]), bool)
        expected[y : y + h, x : x + w] = True
        np.testing.assert_array_equal(dense(index["ref_mask"][ref], expected.shape), expected)
    assert list(truth) == [FAULTY["phrase"]], "the faulty row stays"
    (faulty,) = truth.values()
    assert index["ref_status"][faulty].startswith("box: expected [x, y, w, h], got list")
    assert any("val.jsonl [7]: box: expected" in line for line in records["index"]["skipped"])
    metrics = json.loads(Path(values["metrics"]).read_text())["mine"]["val"]
    assert metrics["global_local"]["n"] == len(rows)
    assert 0 < metrics["upper_bound"]["miou"] <= 1
    page = Path(values["data"], "report.html").read_text()
    assert "mine" in page
    assert rows[0]["phrase"] in page


# A proposal source.

SQUARES = 3


def name_the_grid(values: Values) -> None:
    file = Path(values["data"]).parent / "squares.txt"
    file.write_text(f"{SQUARES}\n")
    values["propose"] |= {"source": "grid", "input": str(file)}


def squares_are_the_proposals(values: Values, records: dict[str, dict[str, Any]]) -> None:
    index, proposals = table(values, "index"), table(values, "proposals")
    assert proposals.attrs["config"]["source"] == "grid"
    best: dict[int, float] = {}
    for image, (height, width) in enumerate(index["image_size"].tolist()):
        rows = range(*proposals["image_offsets"][image : image + 2].tolist())
        masks = [dense(proposals["mask"][row], (height, width)) for row in rows]
        expected = squares(height, width)
        assert len(masks) == len(expected)
        for mask, square in zip(masks, expected, strict=True):
            np.testing.assert_array_equal(mask, square)
        for ref in np.flatnonzero(index["ref_image"] == image):
            truth = dense(index["ref_mask"][ref], (height, width))
            best[int(ref)] = max((truth & square).sum() / (truth | square).sum() for square in expected)
    metrics = data_sets(Path(values["metrics"]))
    for group, (dataset, split) in enumerate(index.attrs["groups"]):
        bounds = [best[ref] for ref in index["expression_ref"].tolist() if index["ref_group"][ref] == group]
        found = metrics[dataset][split]["upper_bound"]
        assert found["n"] == len(bounds)
        assert found["miou"] == pytest.approx(np.mean(bounds), abs=1e-9)
    assert Path(values["data"], "report.html").stat().st_size > 0


def squares(height: int, width: int) -> list[NDArray[np.bool_]]:
    """The squares of an image, row by row, the last of each row and column cut off by the edge."""
    side, found = min(height, width) // SQUARES, []
    for top in range(0, height, side):
        for left in range(0, width, side):
            mask = np.zeros((height, width), bool)
            mask[top : top + side, left : left + side] = True
            found.append(mask)
    return found


# A view.


def name_the_crop(values: Values) -> None:
    values["embed_masks"]["views"] = ["global", "local", "crop"]


def crops_are_in_the_store(values: Values, records: dict[str, dict[str, Any]]) -> None:
    """Each image's crops by the public API, with masks that hide nothing; their products with the texts by numpy."""
    encoder = values["encoders"][values["encoder"]]
    model, tokenizer = load_clip(encoder["model"], Path(encoder["weights"]))
    clip = MaskedClip(model, tokenizer, short_side=values["embed_masks"]["short_side"])
    index, proposals, pairs = (table(values, name) for name in ("index", "proposals", "pairs"))
    masks = Vectors(Path(values["data"], "mask_features/vit"), "mask_features")
    found = masks.rows("view.crop")
    for row, name in enumerate(index["image_name"]):
        own = slice(*proposals["image_offsets"][row : row + 2])
        image = Image.open(Path(values["images"], name)).convert("RGB")
        everything = np.ones((own.stop - own.start, image.height, image.width), bool)
        expected = clip.local_features(image, everything, proposals["box"][own])
        np.testing.assert_allclose(found[own], expected, rtol=1e-4, atol=1e-4)
    text = Vectors(Path(values["data"], "text_features/vit"), "text_features")
    phrases = text.rows("feature")[text.column("phrase_string")]
    owner = np.repeat(np.arange(len(phrases)), np.diff(pairs["expression_offsets"]))
    products = (found[pairs["proposal"]] * phrases[owner]).sum(1)
    np.testing.assert_allclose(pairs["dot.crop*phrase"], products, rtol=1e-4, atol=1e-3)
    np.testing.assert_allclose(
        pairs["view_product.crop*local"], (found * masks.rows("view.local")).sum(1), rtol=1e-4, atol=1e-3
    )
    assert records["embed_masks"]["wrote"].keys() == {"global.k3", "local", "crop"}


# A rule.


def enable_the_rule(values: Values) -> None:
    values["rules"] = {"enabled": ["global_local", "phrase_crop"]}


def the_rule_chooses(values: Values, records: dict[str, dict[str, Any]]) -> None:
    """The choices by the vectors, expression by expression; the rule's own row in the metrics and on the page."""
    pairs, scores = table(values, "pairs"), table(values, "scores")
    local = Vectors(Path(values["data"], "mask_features/vit"), "mask_features").rows("view.local")
    text = Vectors(Path(values["data"], "text_features/vit"), "text_features")
    phrases = text.rows("feature")[text.column("phrase_string")]
    for expression, (start, stop) in enumerate(pairwise(pairs["expression_offsets"].tolist())):
        rows = pairs["proposal"][start:stop]
        if not len(rows):
            assert scores["chosen.phrase_crop"][expression] == -1
            continue
        own = local[rows] @ phrases[expression] / np.linalg.norm(local[rows], axis=1)
        assert own[scores["chosen.phrase_crop"][expression]] >= own.max() - 1e-4
    metrics = json.loads(Path(values["metrics"]).read_text())["refshapes"]["val"]
    assert list(metrics)[:4] == ["global_local", "phrase_crop", "upper_bound", "random"]
    assert 0 <= metrics["phrase_crop"]["miou"] <= metrics["upper_bound"]["miou"]
    assert "Crop and phrase" in Path(values["data"], "report.html").read_text()


# An encoder backbone.


def name_the_encoder(values: Values) -> None:
    file = Path(values["data"]).parent / "colours.json"
    file.write_text('{"backbone": "colours"}')
    values["encoders"][values["encoder"]] |= {"model": str(file), "weights": str(file)}
    values["models"] = str(file.parent)


def colours_are_the_features(values: Values, records: dict[str, dict[str, Any]]) -> None:
    text = Vectors(Path(values["data"], "text_features/vit"), "text_features")
    vowels = [[string.lower().count(vowel) + 1 for vowel in "aeiou"] for string in text.column("string")]
    np.testing.assert_array_equal(text.rows("feature"), np.array(vowels, np.float32))
    masks = Vectors(Path(values["data"], "mask_features/vit"), "mask_features")
    assert masks.rows("view.local").shape[1] == masks.rows("view.global.k3").shape[1] == 5
    np.testing.assert_array_equal(masks.rows("view.local")[:, 3:], 1)
    assert np.ptp(masks.rows("view.global.k3")[:, :3], axis=0).min() > 0
    for opened in (masks, text):
        assert opened.attrs["encoder"]["backbone"] == "colours"
    metrics = json.loads(Path(values["metrics"]).read_text())["refshapes"]["val"]
    assert metrics["global_local"]["miou"] <= metrics["upper_bound"]["miou"]
    assert "colours" in Path(values["data"], "report.html").read_text()


ADDITIONS = {
    "data set kind": Addition("datasets/boxes.py", name_the_boxes, boxes_are_scored),
    "proposal source": Addition("proposals/grid.py", name_the_grid, squares_are_the_proposals),
    "view": Addition("views/crop.py", name_the_crop, crops_are_in_the_store),
    "rule": Addition("rules/phrase_crop.py", enable_the_rule, the_rule_chooses),
    "backbone": Addition("clip/colours.py", name_the_encoder, colours_are_the_features),
}


@pytest.fixture
def profile(tmp_path: Path) -> Any:
    write_benchmark(tmp_path / "refer", images_per_split=1)
    values = demo_values(tmp_path)
    values["index"]["datasets"] = {"refshapes": {"split_by": "synth", "splits": ["val", "testA"]}}
    values["sweep"] |= {"alphas": 3, "betas": 3}
    values["report"], values["bootstrap"] = {"cards": 20}, {"resamples": 5, "seed": 0}
    for room in ROOMS:
        (tmp_path / "extensions" / room).mkdir(parents=True)
    yield values
    load_extensions(tmp_path / "none")


def table(values: Values, name: str) -> Table:
    file = "pairs/vit.h5" if name == "pairs" else f"{name}.h5"
    return read_table(Path(values["data"], file), name)


def dense(counts: bytes, size: tuple[int, ...]) -> NDArray[np.bool_]:
    mask: NDArray[np.bool_] = coco.decode({"size": list(size), "counts": counts}).astype(np.bool_)
    return mask


@pytest.mark.parametrize("name", ADDITIONS)
def test_one_file_and_one_entry_run_to_the_report(profile: Values, name: str) -> None:
    addition = ADDITIONS[name]
    addition.entry(profile)
    with pytest.raises(ParameterError, match=r"there is no|is none of"):
        run_stages(profile, *STAGES)  # without the file the name is unknown
    Path(profile["extensions"], addition.file).write_text(addition.text)
    records = run_stages(profile)
    addition.expected(profile, records)
    assert check(load_project(Path(profile["profile"]))) == [], "preflight knows it too"


def test_preflight_says_what_an_addition_lacks(profile: Values) -> None:
    for addition in ADDITIONS.values():
        Path(profile["extensions"], addition.file).write_text(addition.text)
        addition.entry(profile)
    Path(profile["profile"]).write_text(yaml.safe_dump(profile))
    project = load_project(Path(profile["profile"]))
    annotations, squares_file = (
        Path(profile["index"]["annotations"], "mine/val.jsonl"),
        Path(profile["propose"]["input"]),
    )
    assert check(project) == []
    annotations.unlink()
    squares_file.unlink()
    lines = check(project)
    assert [line.partition(": ")[0] for line in lines] == [str(annotations), str(squares_file)]
    assert "annotations of mine; put yours there: <split>.jsonl for each split" in lines[0]
    assert "a text file with a number of squares; put yours there" in lines[1]


# A source that keeps parts, computes in other processes, and proposes for any image.

SLOW = """
from functools import partial

import numpy as np
from PIL import Image

from stages.proposals.items import KIND, Proposals, item_of
from stages.proposals.parts import kept_items
from stages.proposals.registry import SOURCES, ProposalSource
from store.images import read_image
from store.registry import record_digest
from store.segmentation import encode
from store.units import Result

THRESHOLD = {threshold}


def bright(image):
    return (np.asarray(image.convert("L")) > THRESHOLD)[None]


def load(images, device):
    def compute(inputs, kinds):
        found = [bright(read_image(images, name, digest)) for name, digest in inputs]
        return [Result({{KIND: item_of(encode(m), np.ones(1), *m.shape[1:])}}) for m in found]

    return compute


def propose(request):
    config = {{"code": record_digest(SOURCES["bright"])}}
    return kept_items(request, config, partial(load, request.images)), config


SOURCES.add(
    ProposalSource(
        name="bright",
        module=__name__,
        propose=propose,
    )
)
"""


def propose_with(values: Values, *options: str) -> dict[str, Any]:
    Path(values["profile"]).write_text(yaml.safe_dump(values))
    words = command_of("propose", values)
    return run_words("propose", [*words[words.index("propose") + 1 :], *options])


def bright_pixels(values: Values, threshold: int) -> None:
    """Compare the proposals with the images' own pixels."""
    index, proposals = table(values, "index"), table(values, "proposals")
    for row, name in enumerate(index["image_name"]):
        with Image.open(Path(values["images"], name)) as image:
            grey = np.asarray(image.convert("L"))
        np.testing.assert_array_equal(dense(proposals["mask"][row], grey.shape), grey > threshold)


def test_a_source_outside_keeps_parts_and_computes_on_workers(profile: Values) -> None:
    """Workers that outlive a run load other code of the file, and compute again; the same code does not."""
    file = Path(profile["extensions"], "proposals/bright.py")
    file.write_text(SLOW.format(threshold=100))
    profile["propose"] |= {"source": "bright", "input": profile["index"]["annotations"]}
    run_stages(profile, "index")
    images = len(table(profile, "index")["image_name"])
    with LocalCluster(n_workers=1, threads_per_worker=1, dashboard_address="127.0.0.1:0") as cluster:
        there = ("--scheduler", cluster.scheduler_address, "--unit", "1")
        assert propose_with(profile, *there)["computed"] == {"images": images}
        bright_pixels(profile, 100)
        assert propose_with(profile)["reused"] == {"images": images}
        file.write_text(SLOW.format(threshold=200))
        assert propose_with(profile, *there)["computed"] == {"images": images}
        bright_pixels(profile, 200)


def test_segment_takes_a_source_outside(profile: Values, tmp_path: Path) -> None:
    Path(profile["extensions"], "proposals/bright.py").write_text(SLOW.format(threshold=100))
    profile["propose"] |= {"source": "bright", "input": profile["index"]["annotations"]}
    Path(profile["profile"]).write_text(yaml.safe_dump(profile))
    project = load_project(Path(profile["profile"]))
    image = next(Path(profile["images"]).glob("*.png"))
    (row,) = segment_file(project, image, ["the red square"], tmp_path / "out.png")
    assert (row["proposals"], row["noun_phrase"], row["margin"]) == (1, "the red square", None)
    assert (tmp_path / "out.png").read_bytes().startswith(b"\x89PNG")
