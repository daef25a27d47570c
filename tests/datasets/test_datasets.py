"""From files in the published structure to the index table: every value against expectations worked out from the rows."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter
from pycocotools import mask as coco

from pipeline.arguments import checked
from pipeline.project import load_project
from stages import index
from stages.contract import Context, Summary
from stages.datasets.choice import COCO_CATEGORIES, annotation_files, is_unseen
from stages.datasets.phrasecut import task_number
from stages.datasets.registry import Choice
from store.errors import ParameterError
from store.table import Table, read_table
from tests.helpers.profile import ROOT
from tests.helpers.refer_generator import CATEGORIES, SPLITS, flat, random_pictures, write_phrasecut, write_refer

SIZES = [(96, 64), (80, 120), (70, 70), (128, 96), (64, 48)]
FAMILY: dict[str, dict[str, Any]] = {
    "refcoco": {"split_by": "unc", "splits": ["val", "testA", "testB"]},
    "refcoco_google": {"folder": "refcoco", "split_by": "google", "splits": ["val", "test"]},
    "refcoco+": {"split_by": "unc", "splits": ["val", "testA", "testB"]},
    "refcocog": {"split_by": "umd", "splits": ["val", "test"]},
    "refcocog_google": {"folder": "refcocog", "split_by": "google", "splits": ["val"]},
}
PHRASECUT: dict[str, dict[str, Any]] = {
    "phrasecut": {"kind": "phrasecut", "splits": ["test", "val"]},
    "phrasecut_unseen": {"kind": "phrasecut", "folder": "phrasecut", "splits": ["test"], "categories": "unseen"},
}


class World:
    """All generated data sets and their index."""

    def __init__(self, root: Path) -> None:
        self.root = root
        pictures = random_pictures(0, SIZES)
        self.refer = write_refer(root, pictures, seed=1, missing=1)
        self.phrasecut = write_phrasecut(root, pictures, seed=2, missing=1, splits=("test", "val"))
        self.table, self.summary = self.index()

    def index(self, polygon_overlap: str = "union", names: tuple[str, ...] = ()) -> tuple[Table, Summary]:
        choices = {**{name: {**c, "images": "train2014"} for name, c in FAMILY.items()},
                   **{name: {**c, "images": "phrasecut"} for name, c in PHRASECUT.items()}}  # fmt: skip
        chosen = {name: choices[name] for name in names or choices}
        params = checked(index.Params, {"datasets": chosen, "polygon_overlap": polygon_overlap}, "index")
        paths = index.Paths(annotations=self.root / "refer", images=self.root / "images", index=self.root / "index.h5")
        summary = index.run(params, paths, Context(self.root / "work"))
        return read_table(paths.index, "index"), summary


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return World(tmp_path_factory.mktemp("world"))


def refs_of(table: Table) -> Iterator[tuple[tuple[str, str], int, int]]:
    """(data set, split), id and row of each ref."""
    for row, (group, ref_id) in enumerate(zip(table["ref_group"], table["ref_id"], strict=True)):
        name, split = table.attrs["groups"][group]
        yield (name, split), int(ref_id), row


def dense(table: Table, row: int) -> NDArray[np.bool_]:
    height, width = table["image_size"][table["ref_image"][row]].tolist()
    return coco.decode({"size": [height, width], "counts": table["ref_mask"][row]}).astype(bool)


def rasterised(polygons: list[list[float]], height: int, width: int) -> NDArray[np.int64]:
    """How many polygons cover each pixel, by pycocotools alone."""
    shape = (height, width)
    layers = [coco.decode(coco.frPyObjects([p], height, width)[0]).astype(np.int64) for p in polygons]
    return sum(layers, np.zeros(shape, np.int64))


def expected_mask(segmentation: Any, height: int, width: int, rule: str = "union") -> NDArray[np.bool_]:
    if isinstance(segmentation, dict):
        values = np.arange(len(segmentation["counts"])) % 2
        return np.repeat(values, segmentation["counts"]).reshape(width, height).T.astype(bool)
    covered = rasterised(segmentation, height, width)
    return covered > 0 if rule == "union" else covered == 1


def polygons_of(task: dict[str, Any]) -> list[list[float]]:
    return [flat(polygon) for instance in task["Polygons"] for polygon in instance]


def in_group(split: str, chosen: str) -> bool:
    """The release's rule, in other words: test takes anything with "test", testA and testB anything with their letter."""
    pattern = {"test": "test", "testA": "A", "testB": "B"}.get(chosen)
    return split == chosen if pattern is None else pattern in split


def test_refs_masks_and_sentences_of_the_refcoco_family(world: World) -> None:
    annotations = {row["id"]: row for row in world.refer["instances"]["annotations"]}
    sizes = {row["id"]: (row["height"], row["width"]) for row in world.refer["instances"]["images"]}
    sentences: dict[int, list[tuple[int, str]]] = {}
    for ref, number, raw in zip(
        world.table["expression_ref"], world.table["expression_id"], world.table["expression_raw"], strict=True
    ):
        sentences.setdefault(int(ref), []).append((int(number), raw))
    found = {(group, ref_id): row for group, ref_id, row in refs_of(world.table) if group[0] in FAMILY}
    expected = set()
    for name, choice in FAMILY.items():
        for split in choice["splits"]:
            for ref in world.refer["refs"][choice.get("folder", name), choice["split_by"]]:
                if not in_group(ref["split"], split):
                    continue
                expected.add(((name, split), ref["ref_id"]))
                row = found[(name, split), ref["ref_id"]]
                annotation = annotations[ref["ann_id"]]
                assert world.table["image_id"][world.table["ref_image"][row]] == ref["image_id"]
                assert world.table["ref_category"][row] == CATEGORIES[ref["category_id"]][1]
                assert world.table["ref_status"][row] == ""
                truth = expected_mask(annotation["segmentation"], *sizes[ref["image_id"]])
                assert np.array_equal(dense(world.table, row), truth), ref
                assert sentences[row] == [(s["sent_id"], s["raw"]) for s in ref["sentences"]]
    assert set(found) == expected
    assert {group for group, _ in expected} == {(name, s) for name, c in FAMILY.items() for s in c["splits"]}


def test_the_target_of_a_phrase_is_the_union_of_its_instances(world: World) -> None:
    sizes = {row["image_id"]: (row["height"], row["width"]) for row in world.phrasecut["images"]}
    tasks = {
        task_number(task["task_id"]): (split, task) for split, rows in world.phrasecut["tasks"].items() for task in rows
    }
    rows = {ref_id: row for (name, _), ref_id, row in refs_of(world.table) if name == "phrasecut"}
    expression = {int(ref): position for position, ref in enumerate(world.table["expression_ref"])}
    assert set(rows) == set(tasks)
    assert any(len(task["Polygons"]) > 1 for _, task in tasks.values())
    for ref_id, row in rows.items():
        split, task = tasks[ref_id]
        assert world.table.attrs["groups"][world.table["ref_group"][row]] == ["phrasecut", split]
        assert world.table["image_id"][world.table["ref_image"][row]] == task["image_id"]
        assert world.table["ref_category"][row] == task["phrase_structure"]["name"]
        assert world.table["expression_raw"][expression[row]] == task["phrase"]
        assert world.table["expression_id"][expression[row]] == ref_id
        truth = rasterised(polygons_of(task), *sizes[task["image_id"]]) > 0
        assert np.array_equal(dense(world.table, row), truth)


def drawn(polygons: list[list[float]], height: int, width: int) -> Image.Image:
    canvas = Image.new("L", (width, height))
    for polygon in polygons:
        ImageDraw.Draw(canvas).polygon(polygon, fill=255)
    return canvas


def test_targets_agree_with_another_rasteriser_up_to_the_border(world: World) -> None:
    """Pillow's own drawing of the polygons; the two may differ only in pixels beside an outline."""
    sizes = {row["image_id"]: (row["height"], row["width"]) for row in world.phrasecut["images"]}
    rows = {ref_id: row for (name, _), ref_id, row in refs_of(world.table) if name == "phrasecut"}
    for task in [task for tasks in world.phrasecut["tasks"].values() for task in tasks]:
        picture = drawn(polygons_of(task), *sizes[task["image_id"]])
        inner = np.asarray(picture.filter(ImageFilter.MinFilter(5))) > 0
        outer = np.asarray(picture.filter(ImageFilter.MaxFilter(5))) > 0
        truth = dense(world.table, rows[task_number(task["task_id"])])
        assert (truth | ~inner).all()
        assert (outer | ~truth).all()
        assert inner.any()


def test_images_are_shared_and_one_without_a_file_is_named(world: World) -> None:
    names = world.table["image_name"]
    assert len(names) == len(set(names)) == 2 * (len(SIZES) + 1)
    status = dict(zip(names, world.table["image_status"], strict=True))
    lost = {f"train2014/{name}" for name in world.refer["without_file"]}
    lost |= {f"phrasecut/{name}" for name in world.phrasecut["without_file"]}
    assert {name for name, reason in status.items() if reason} == lost
    assert all("put the right file there" in status[name] for name in lost)
    assert {line.partition(":")[0] for line in world.summary.skipped} == lost
    sizes = {f"train2014/{r['file_name']}": [r["height"], r["width"]] for r in world.refer["instances"]["images"]}
    sizes |= {f"phrasecut/{r['image_id']}.jpg": [r["height"], r["width"]] for r in world.phrasecut["images"]}
    assert dict(zip(names, world.table["image_size"].tolist(), strict=True)) == sizes
    shared = {
        name: {int(world.table["ref_image"][row]) for (of, _), _, row in refs_of(world.table) if of == name}
        for name in FAMILY
    }
    assert shared["refcoco"] & shared["refcoco+"] & shared["refcocog"] & shared["refcocog_google"]


def instances_of(table: Table, row: int) -> list[bytes]:
    start, end = table["instance_offsets"][row : row + 2]
    return list(table["instance_mask"][int(start) : int(end)])


def test_the_objects_of_an_image_are_those_of_all_annotations(world: World) -> None:
    sizes = {row["image_id"]: (row["height"], row["width"]) for row in world.phrasecut["images"]}
    for row, name in enumerate(world.table["image_name"]):
        found = [
            coco.decode({"size": world.table["image_size"][row].tolist(), "counts": counts}).astype(bool).tobytes()
            for counts in instances_of(world.table, row)
        ]
        image_id = int(world.table["image_id"][row])
        if name.startswith("phrasecut/"):
            tasks = [
                task for tasks in world.phrasecut["tasks"].values() for task in tasks if task["image_id"] == image_id
            ]
            single = [[flat(polygon) for polygon in instance] for task in tasks for instance in task["Polygons"]]
            expected = [expected_mask(polygons, *sizes[image_id]) for polygons in single]
        else:
            expected = [
                expected_mask(a["segmentation"], *world.table["image_size"][row].tolist())
                for a in world.refer["instances"]["annotations"]
                if a["image_id"] == image_id  # a crowd too: a ref names it
            ]
        assert len(found) == len(set(found))
        assert set(found) == {mask.tobytes() for mask in expected}


def test_the_rule_of_the_release_drops_overlaps_in_refcoco_and_never_in_phrasecut(world: World) -> None:
    other, _ = world.index("reference", ("refcoco", "phrasecut"))
    union, _ = world.index("union", ("refcoco", "phrasecut"))
    annotations = {row["id"]: row for row in world.refer["instances"]["annotations"]}
    refs = {ref["ref_id"]: ref for ref in world.refer["refs"]["refcoco", "unc"]}
    changed = 0
    for (name, _), ref_id, row in refs_of(other):
        if name == "phrasecut":
            assert other["ref_mask"][row] == union["ref_mask"][row]
            continue
        segmentation = annotations[refs[ref_id]["ann_id"]]["segmentation"]
        size = other["image_size"][other["ref_image"][row]].tolist()
        assert np.array_equal(dense(other, row), expected_mask(segmentation, *size, rule="reference"))
        changed += other["ref_mask"][row] != union["ref_mask"][row]
    assert changed


def test_unseen_takes_the_phrases_of_other_categories_and_keeps_all_objects(world: World) -> None:
    seen = {"dog", "hot dog", "Traffic  light", "Person "}
    expected = {
        task_number(task["task_id"])
        for task in world.phrasecut["tasks"]["test"]
        if task["phrase_structure"]["name"] not in seen
    }
    found = {ref_id for (name, _), ref_id, _ in refs_of(world.table) if name == "phrasecut_unseen"}
    assert found == expected
    assert len(expected) < len(world.phrasecut["tasks"]["test"])
    alone, _ = world.index(names=("phrasecut_unseen",))
    together = dict(zip(world.table["image_name"], range(len(world.table["image_name"])), strict=True))
    for row, name in enumerate(alone["image_name"]):
        assert instances_of(alone, row) == instances_of(world.table, together[name])


def test_a_data_set_without_any_unseen_category_is_empty_and_said(world: World) -> None:
    values = {"datasets": {"r": {"folder": "refcoco", "split_by": "unc", "splits": "val", "categories": "unseen",
                                 "images": "train2014"}}}  # fmt: skip
    paths = index.Paths(annotations=world.root / "refer", images=world.root / "images", index=world.root / "r.h5")
    summary = index.run(checked(index.Params, values, "index"), paths, Context(world.root / "work"))
    assert summary.wrote == {"images": 0, "refs": 0, "expressions": 0}
    assert summary.warnings == ["there are no refs of data set r: nothing to use; check splits and categories"]


@pytest.mark.parametrize(
    ("name", "unseen"),
    [("dog", False), ("Dog", False), ("  hot \t dog ", False), ("hotdog", True), ("dogs", True), ("sky", True), ("", True),
     ("hair drier", False), ("stop sign", False), ("parking meter", False), ("toothbrush", False), ("STRASSE", True)],
)  # fmt: skip
def test_unseen_is_none_of_the_80_names(name: str, unseen: bool) -> None:
    assert is_unseen(name) == unseen


def test_there_are_80_names() -> None:
    assert len(COCO_CATEGORIES) == 80
    assert all(name == " ".join(name.lower().split()) and name for name in COCO_CATEGORIES)


def test_where_refs_come_from_is_recorded(world: World) -> None:
    origins = world.table.attrs["origins"]
    assert origins["refcocog_google"] == {
        "folder": "refcocog", "kind": "refer", "split_by": "google", "categories": "all",
    }  # fmt: skip
    assert origins["phrasecut_unseen"] == {
        "folder": "phrasecut", "kind": "phrasecut", "split_by": "", "categories": "unseen",
    }  # fmt: skip


def test_few_pictures_still_fill_every_split(tmp_path: Path) -> None:
    made = write_refer(tmp_path, random_pictures(3, SIZES[:2]), seed=4)
    for key, splits in SPLITS.items():
        assert {ref["split"] for ref in made["refs"][key]} == set(splits)


def test_the_generator_is_a_function_of_its_seed(tmp_path: Path) -> None:
    pictures = random_pictures(3, SIZES[:2])
    same = [write_refer(tmp_path / name, pictures, seed=5) for name in "ab"]
    assert same[0] == same[1]
    assert write_refer(tmp_path / "c", pictures, seed=6) != same[0]
    files = [sorted(p.read_bytes() for p in (tmp_path / name).rglob("*") if p.is_file()) for name in "ab"]
    assert files[0] == files[1]


@pytest.mark.parametrize(
    ("choice", "message"),
    [
        ({"splits": ["val"]}, r"index\.datasets\.x: .*kind refer needs split_by.*unc, umd, google"),
        ({"kind": "phrasecut", "split_by": "unc", "splits": ["val"]}, "kind phrasecut is split in one way only.*'unc'"),
        (
            {"kind": "phrasecuts", "splits": ["val"]},
            r"index\.datasets\.x\.kind: .*no data set kind 'phrasecuts'; did you mean 'phrasecut'\? known: phrasecut, .*refer",
        ),
        ({"split_by": "unc", "splits": ["val"], "categories": "seen"}, r"x\.categories.*'all' or 'unseen'"),
    ],
)
def test_a_choice_that_says_too_little_or_too_much(choice: dict[str, Any], message: str) -> None:
    with pytest.raises(ParameterError, match=message):
        checked(index.Params, {"datasets": {"x": choice}}, "index")


def test_the_files_of_a_choice() -> None:
    root = Path("refer")
    choice = Choice(split_by="umd", splits=["val"], folder="refcocog")
    assert annotation_files(root, "x", choice) == [root / "refcocog/refs(umd).p", root / "refcocog/instances.json"]
    choice = Choice(kind="phrasecut", splits=["test", "val", "test"])
    files = [root / "p" / name for name in ("refer_test.json", "refer_val.json", "image_data_split3000.json")]
    assert annotation_files(root, "p", choice) == files
    assert choice.splits == ["test", "val"], "each once, for every kind's reader"


def test_the_full_benchmark_chooses_phrasecut() -> None:
    datasets = load_project(ROOT / "params.yaml").values.index.datasets
    kinds = {(c.folder or name, c.kind, c.categories, tuple(c.splits)) for name, c in datasets.items()}
    assert {("phrasecut", "phrasecut", "all", ("test",)), ("phrasecut", "phrasecut", "unseen", ("test",))} <= kinds
