"""RefShapes: the REFER files written from scenes, and the expressions in them."""

from __future__ import annotations

import json
import pickle
import pickletools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from demo import captions, scenes
from demo.refshapes import FAMILIES, SPLIT_BY, write_benchmark
from demo.scenes import ANGULAR, ROUNDED, Scene, draw_scene, evaluation_rng, training_rng
from stages.datasets.refer import read_refer
from store.errors import DataError
from tests.demo.test_scenes import decoded

PER_SPLIT = 14
SPLITS = {
    "refshapes": ("val", "testA", "testB"),
    "refshapes+": ("val", "testA", "testB"),
    "refshapesg": ("val", "test"),
}


@pytest.fixture(scope="module")
def benchmark(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("refshapes") / "data"
    write_benchmark(out, PER_SPLIT)
    return out


def read(folder: Path, family: str) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    refs = pickle.loads((folder / family / f"refs({SPLIT_BY}).p").read_bytes())
    return refs, json.loads((folder / family / "instances.json").read_text())


@pytest.fixture(scope="module")
def drawn(benchmark: Path) -> dict[int, Scene]:
    """Image id -> the scene it shows, found by drawing the evaluation scenes anew and comparing pixels."""
    images = {row["id"]: row["file_name"] for row in read(benchmark, "refshapes")[1]["images"]}
    pixels = {i: np.asarray(Image.open(benchmark / "images" / name)).tobytes() for i, name in images.items()}
    by_pixels = {value: image_id for image_id, value in pixels.items()}
    found = {}
    for index in range(2 * len(images)):
        scene = draw_scene(evaluation_rng(index))
        image_id = by_pixels.get(scene.image.tobytes())
        if image_id is not None:
            found[image_id] = scene
    assert found.keys() == images.keys()
    return found


# --- files


def test_annotations_show_the_visible_masks(benchmark: Path, drawn: dict[int, Scene]) -> None:
    kinds = {"polygon": 0, "polygons": 0, "rle": 0}
    annotations = read(benchmark, "refshapes")[1]["annotations"]
    assert len(annotations) == sum(len(scene.objects) for scene in drawn.values())
    for annotation in annotations:
        item = drawn[annotation["image_id"]].objects[annotation["id"] % 10]
        mask = decoded(annotation, *item.mask.shape)
        assert (mask & item.mask).sum() / (mask | item.mask).sum() > 0.97
        assert annotation["area"] == item.mask.sum()
        x, y, width, height = annotation["bbox"]
        assert (x, y, x + width, y + height) == item.box
        parts = annotation["segmentation"]
        kinds["rle" if isinstance(parts, dict) else "polygons" if len(parts) > 1 else "polygon"] += 1
    assert min(kinds.values()) > 0


def test_the_same_seed_writes_the_same_bytes(tmp_path: Path) -> None:
    folders = [tmp_path / name for name in ("a", "b", "c")]
    for folder, seed, processes in zip(folders, (5, 5, 6), (1, 2, 1), strict=True):
        write_benchmark(folder, 2, seed, processes)
    contents = [{p.relative_to(f): p.read_bytes() for p in sorted(f.rglob("*")) if p.is_file()} for f in folders]
    assert contents[0] == contents[1]
    assert contents[0].keys() == contents[2].keys()
    assert all(contents[0][name] != contents[2][name] for name in contents[0])


def test_a_folder_with_files_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("x")
    with pytest.raises(DataError, match="expected a new or empty folder"):
        write_benchmark(tmp_path, 1)
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


@pytest.mark.parametrize("family", FAMILIES)
def test_files_have_the_form_of_refer(benchmark: Path, family: str) -> None:
    raw = (benchmark / family / f"refs({SPLIT_BY}).p").read_bytes()
    opcodes = {opcode.name for opcode, _, _ in pickletools.genops(raw)}
    assert not opcodes & {"GLOBAL", "STACK_GLOBAL", "REDUCE", "BUILD", "INST", "OBJ", "NEWOBJ", "PERSID", "BINPERSID"}
    refs, instances = read(benchmark, family)
    images = {row["id"]: row for row in instances["images"]}
    annotations = {row["id"]: row for row in instances["annotations"]}
    categories = {row["id"]: row["name"] for row in instances["categories"]}
    assert {row["image_id"] for row in instances["annotations"]} == images.keys()
    assert [ref["ref_id"] for ref in refs] == list(range(len(refs)))
    sentences = [sentence for ref in refs for sentence in ref["sentences"]]
    assert [sentence["sent_id"] for sentence in sentences] == list(range(len(sentences)))
    assert len({ref["ann_id"] for ref in refs}) == len(refs)
    for ref in refs:
        keys = {"ref_id", "ann_id", "category_id", "image_id", "file_name", "split", "sent_ids", "sentences"}
        annotation, image = annotations[ref["ann_id"]], images[ref["image_id"]]
        assert ref.keys() == keys
        assert (annotation["image_id"], annotation["category_id"]) == (ref["image_id"], ref["category_id"])
        assert ref["file_name"] == f"{Path(image['file_name']).stem}_{ref['ann_id']}.png"
        assert ref["sent_ids"] == [sentence["sent_id"] for sentence in ref["sentences"]]
        assert 1 <= len(ref["sentences"]) <= (1 if family == "refshapesg" else 3)
        for sentence in ref["sentences"]:
            assert sentence.keys() == {"tokens", "raw", "sent_id", "sent"}
            assert sentence["sent"] == sentence["raw"].lower().strip(".")
            assert sentence["tokens"] == sentence["sent"].split()
        allowed = {"testA": ROUNDED, "testB": ANGULAR}.get(ref["split"])
        assert allowed is None or categories[ref["category_id"]] in allowed
    assert {sentence["raw"] for sentence in sentences} != {sentence["sent"] for sentence in sentences}
    for row in images.values():
        with Image.open(benchmark / "images" / row["file_name"]) as image:
            assert (image.mode, image.size) == ("RGB", (row["width"], row["height"]))


@pytest.mark.parametrize("family", FAMILIES)
def test_the_project_reads_them_without_a_problem(benchmark: Path, family: str) -> None:
    data = read_refer(benchmark, family, SPLIT_BY, SPLITS[family])
    refs, instances = read(benchmark, family)
    assert data.problems == ()
    assert all(row.status == "" for row in (*data.images, *data.annotations, *data.refs))
    assert len(data.annotations) == len(instances["annotations"])
    assert [(ref.ref_id, [s.raw for s in ref.sentences]) for ref in data.refs] == [
        (ref["ref_id"], [s["raw"] for s in ref["sentences"]]) for ref in refs
    ]
    counts = {split: len({ref.image_id for ref in data.refs if split in ref.splits}) for split in SPLITS[family]}
    assert counts == dict.fromkeys(SPLITS[family], PER_SPLIT)


def test_the_families_share_images_and_annotations(benchmark: Path) -> None:
    first, plus, long = (read(benchmark, family)[1] for family in FAMILIES)
    assert (first["images"], first["annotations"]) == (plus["images"], plus["annotations"])
    assert all(row in first["images"] for row in long["images"])
    assert all(row in first["annotations"] for row in long["annotations"])


# --- expressions: a reader of its own, which knows only words, attributes and masks


WORDS = {
    **dict.fromkeys(("small", "little"), ("size", "small")),
    **dict.fromkeys(("large", "big"), ("size", "large")),
    **dict.fromkeys(("solid", "plain"), ("filling", "solid")),
    **dict.fromkeys(("dotted", "spotted"), ("filling", "dotted")),
    **{word: ("filling", word) for word in ("striped", "checkered")},
    **{word: ("colour", word) for word in scenes.COLOURS},
    **{word: ("shape", word) for word in scenes.SHAPES},
}
PLACE_WORDS = {"left", "right", "top", "upper", "bottom", "middle", "center"}
FILLERS = {"the", "a", "on", "in", "at", "to", "near", "side", "corner", "thing", "shape", "object"}
RELATION_WORDS = (
    ("partly hidden by", "behind"),
    ("that partly covers", "in front"),
    ("in front of", "in front"),
    ("bigger than", "bigger"),
    ("larger than", "bigger"),
    ("left of", "left"),
    ("right of", "right"),
    ("left side of", "left"),
    ("right side of", "right"),
    ("above", "above"),
    ("below", "below"),
    ("under", "below"),
    ("behind", "behind"),
)


def centroid(mask: np.ndarray[Any, Any]) -> tuple[float, float]:
    rows, columns = np.nonzero(mask)
    return float(columns.mean()), float(rows.mean())


def named(scene: Scene, words: list[str]) -> list[int]:
    """Objects that have every attribute and lie in every place that the words name, by plain halves and fifths."""
    height, width = scene.objects[0].mask.shape
    assert all(word in WORDS or word in PLACE_WORDS or word in FILLERS for word in words), words
    found = []
    for index, item in enumerate(scene.objects):
        x, y = centroid(item.mask)
        inside = {
            "left": x < width / 2,
            "right": x > width / 2,
            "top": y < height / 2,
            "upper": y < height / 2,
            "bottom": y > height / 2,
            "middle": abs(x / width - 0.5) < 0.2 and abs(y / height - 0.5) < 0.2,
        }
        inside["center"] = inside["middle"]
        looks = (getattr(item, WORDS[word][0]) == WORDS[word][1] for word in words if word in WORDS)
        if all(looks) and all(inside[word] for word in words if word in PLACE_WORDS):
            found.append(index)
    return found


def related(scene: Scene, relation: str, index: int, anchor: int) -> bool:
    item, other = scene.objects[index], scene.objects[anchor]
    (x, y), (other_x, other_y) = centroid(item.mask), centroid(other.mask)
    return {
        "left": x < other_x,
        "right": x > other_x,
        "above": y < other_y,
        "below": y > other_y,
        "bigger": item.mask.sum() > 1.2 * other.mask.sum(),
        "behind": anchor in item.hidden_by,
        "in front": index in other.hidden_by,
    }[relation]


def understood(scene: Scene, sentence: str) -> list[int]:
    for words, relation in RELATION_WORDS:
        if f" {words} " in sentence:
            head, tail = sentence.split(f" {words} ")
            anchors = named(scene, tail.split())
            assert len(anchors) == 1, sentence
            candidates = named(scene, [w for w in head.split() if w not in ("that", "is", "to", "on", "placed")])
            return [i for i in candidates if i != anchors[0] and related(scene, relation, i, anchors[0])]
    return named(scene, sentence.split())


@pytest.mark.parametrize("family", FAMILIES)
def test_every_expression_means_one_object(benchmark: Path, drawn: dict[int, Scene], family: str) -> None:
    places = relations = 0
    for ref in read(benchmark, family)[0]:
        for sentence in ref["sentences"]:
            assert understood(drawn[ref["image_id"]], sentence["sent"]) == [ref["ann_id"] % 10], sentence["sent"]
            related_by = any(f" {words} " in sentence["sent"] for words, _ in RELATION_WORDS)
            relations += related_by
            places += not related_by and bool(PLACE_WORDS & set(sentence["tokens"]))
    assert (places > 0) == (family == "refshapes")
    assert (relations > 0) == (family == "refshapesg")


def test_all_kinds_of_expressions_hold_in_many_scenes() -> None:
    rng, seen = np.random.default_rng(0), set()
    for index in range(60):
        scene = draw_scene(training_rng(index, seed=3))
        for target in range(len(scene.objects)):
            for writer in (captions.appearance, captions.position, captions.relation):
                expression = writer(rng, scene, target)
                if expression is not None:
                    assert understood(scene, expression.sentence) == [target], expression.sentence
                    assert expression.phrase.fits(scene.objects[target])
                    seen |= {relation for words, relation in RELATION_WORDS if f" {words} " in expression.sentence}
    assert seen == {relation for _, relation in RELATION_WORDS}


def test_twins_cannot_be_told_apart_by_looks() -> None:
    scene = draw_scene(training_rng(0))
    item = scene.objects[0]
    twins = Scene(scene.image, [item, item])
    rng = np.random.default_rng(0)
    assert captions.appearance(rng, twins, 0) is None
    assert captions.position(rng, twins, 0) is None
    assert captions.relation(rng, twins, 0) is None
