"""Masks of every form, read from a file or folder of that form, against the masks that were written into it."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco_masks

from stages import overlap
from stages.contract import Context
from stages.proposals.forms.known import recognised
from stages.proposals.forms.registry import FORMS
from store.errors import DataError
from store.table import read_table
from tests.helpers.mask_files import (
    IDS,
    MASKS,
    NAMES,
    amg_list,
    coco,
    mmdet,
    rows,
    sa1b,
    write_amg,
    write_arrays,
    write_json,
    write_labels,
    write_lines,
    write_yolo,
)
from tests.helpers.profile import ROOT
from tests.helpers.proposal_files import SIZE, Mask, Project, about_file, check, rectangle

RESULTS = {
    "detectron2": rows(MASKS, image_id=IDS.__getitem__, category_id=lambda stem: 0),
    "text ids": rows(MASKS, image_id=lambda stem: f"{IDS[stem]:012d}", file_name=NAMES.__getitem__),
    "ultralytics": rows(MASKS, image_id=str, category_id=lambda stem: 1),  # a stem that is no number
    "paths": rows(MASKS, file_name=lambda stem: f"coco/train2014/{NAMES[stem]}", image_id=lambda stem: 99),
    "predicted_iou": rows(MASKS, "predicted_iou", image_id=IDS.__getitem__, file_name=NAMES.__getitem__),
}
for _row in RESULTS["detectron2"]:
    if _row["image_id"] == 44:  # the id of two images of the index
        _row["file_name"] = "three.png"

FILES: list[tuple[str, str, Callable[[Path], Any]]] = [
    *[("coco_results", f"{name}.json", lambda path, v=value: write_json(path, v)) for name, value in RESULTS.items()],
    ("coco_results", "results.segm.json.gz", lambda path: write_json(path, RESULTS["detectron2"])),
    ("coco", "imagenet_fixsize.json", lambda path: write_json(path, coco(MASKS))),
    ("coco", "dict.json.gz", lambda path: write_json(path, coco(MASKS))),
    ("json_lines", "masks.jsonl", lambda path: write_lines(path, RESULTS["detectron2"])),
    ("json_lines", "masks.jsonl.gz", lambda path: write_lines(path, RESULTS["paths"])),
    ("json_lines", "images.jsonl", lambda path: write_lines(path, [sa1b(*item) for item in MASKS.items()])),
    ("json_folder", "sa1b", lambda path: [write_json(path / f"sa_{m[0]}.json", sa1b(*m)) for m in MASKS.items()]),
    ("json_folder", "amg", lambda path: [write_json(path / f"{stem}.json", amg_list(m)) for stem, m in MASKS.items()]),
    ("json_folder", "packed", lambda path: [write_json(path / f"{NAMES[s][:-4]}.json.gz", amg_list(MASKS[s])) for s in MASKS]),
    ("json_folder", "preds", lambda path: [write_json(path / f"{stem}.json", mmdet(m)) for stem, m in MASKS.items()]),
    ("amg_folder", "output", lambda path: write_amg(path, MASKS)),
    ("arrays", "npz", lambda path: write_arrays(path, MASKS)),
    ("arrays", "iou", lambda path: write_arrays(path, MASKS, "predicted_iou")),
]  # fmt: skip


@pytest.fixture
def project(tmp_path: Path) -> Project:
    return Project(tmp_path)


def check_all(project: Project, table: Any) -> None:
    """Both images have their masks, best first, and no other has any."""
    check(table, 0, sorted(MASKS["one"], key=lambda scored: -scored[1]))
    check(table, 3, list(MASKS["three"]))
    assert len(table["mask"]) == 3


@pytest.mark.parametrize(("form", "name", "write"), FILES, ids=[f"{form}-{name}" for form, name, _ in FILES])
def test_every_form_gives_the_masks_that_were_written(
    project: Project, form: str, name: str, write: Callable[[Path], Any]
) -> None:
    project.file = project.folder / name
    write(project.file)
    assert recognised(project.file)[0].name == form
    for source in ("masks", "coco"):
        table, summary = project.propose(source=source)
        check_all(project, table)
        assert summary.read["rows"] == 3
        assert not [line for line in summary.skipped if str(project.file) in line]


def test_every_form_is_tried_above_or_below_and_has_a_recipe() -> None:
    tried = {form for form, _, _ in FILES} | {"sa1b", "mmdet", "label_maps", "yolo_labels"}
    assert set(FORMS) == tried
    text = (ROOT / "docs/data.md").read_text()
    assert [form for form in FORMS if f"| `{form}` |" not in text] == []


@pytest.mark.parametrize(("form", "value"), [("sa1b", sa1b("one", MASKS["one"])), ("mmdet", mmdet(MASKS["one"]))])
def test_a_file_of_one_image(project: Project, form: str, value: Any) -> None:
    project.file = write_json(project.folder / "one.json", value)
    assert recognised(project.file)[0].name == form
    table, _ = project.propose()
    check(table, 0, sorted(MASKS["one"], key=lambda scored: -scored[1]))


def test_one_image_of_sam_is_a_folder_too(project: Project) -> None:
    project.file = write_amg(project.folder / "output", MASKS) / "three"
    check(project.propose()[0], 3, list(MASKS["three"]))


def grey16(values: Any) -> Image.Image:
    return Image.fromarray((values * 300).astype(np.uint16))


def palette(values: Any) -> Image.Image:
    image = Image.fromarray(values.astype(np.uint8), "P")
    image.putpalette([0, 0, 0, 255, 0, 0, 255, 0, 0] + [7] * 759)  # equal colours of 1 and 2: the index counts
    return image


LABELS = [
    ("8 bits", lambda values: Image.fromarray((values * 100).astype(np.uint8))),
    ("16 bits", grey16),
    ("palette", palette),
]


@pytest.mark.filterwarnings("ignore:'mode' parameter is deprecated")
@pytest.mark.parametrize("as_image", [as_image for _, as_image in LABELS], ids=[name for name, _ in LABELS])
def test_label_maps(project: Project, as_image: Callable[[Any], Image.Image]) -> None:
    low, high = MASKS["one"][0][0], MASKS["one"][1][0]
    project.file = write_labels(project.folder / "labels", MASKS, as_image)
    assert recognised(project.file)[0].name == "label_maps"
    table, summary = project.propose()
    check(table, 0, [(low & ~high, 1.0), (high, 1.0)])
    check(table, 3, [(MASKS["three"][0][0], 1.0)])
    assert about_file(project, summary) == [
        f"{project.file}: no row has a score: all count as 1.0, and the file's order is kept"
    ]


@pytest.mark.parametrize("scored", [True, False])
def test_labels_of_ultralytics(project: Project, scored: bool) -> None:
    """Corners of whole pixels in shares of 9 x 6: (1, 1) to (4, 3) of image one, in either order of scores."""
    box = [1 / 9, 1 / 6, 4 / 9, 1 / 6, 4 / 9, 3 / 6, 1 / 9, 3 / 6]
    low = [0, 0, 1, 0, 1, 2 / 6, 0, 2 / 6]
    scores = (0.5, 0.75) if scored else (None, None)
    polygons = {"one": [(box, scores[0]), (low, scores[1])]}
    project.file = write_yolo(project.folder / "labels", polygons)
    (project.file / "classes.txt").write_text("object\n")
    assert recognised(project.file)[0].name == "yolo_labels"
    (project.file / "classes.txt").unlink()
    expected = [(MASKS["one"][0][0], scores[0] or 1.0), (MASKS["one"][1][0], scores[1] or 1.0)]
    check(project.propose()[0], 0, sorted(expected, key=lambda pair: -pair[1]))


def test_a_polygon_in_shares_is_that_of_pycocotools_in_pixels(project: Project) -> None:
    shares = [0.13, 0.21, 0.88, 0.4, 0.5, 0.97]
    height, width = SIZE
    pixels = [share * (width, height)[place % 2] for place, share in enumerate(shares)]
    plain = coco_masks.decode(coco_masks.frPyObjects([pixels], height, width))[..., 0].astype(np.bool_)
    project.file = write_yolo(project.folder / "labels", {"one": [(shares, 0.5)]})
    check(project.propose()[0], 0, [(plain, 0.5)])


def test_a_thousand_masks_of_an_image_up_to_their_overlap(tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    masks: list[tuple[Mask, float]] = []
    for number in range(1000):
        mask = generator.random(SIZE) < 0.4
        mask[number % 6, number % 9] = True
        masks.append((mask, float(np.float32(generator.random()))))
    truths = [rectangle(1, 1, 7, 5), rectangle(0, 0, 2, 2)]
    project = Project(tmp_path, truths=truths)
    project.file = write_arrays(project.folder / "masks", {"one": masks})
    best = sorted(masks, key=lambda scored: -scored[1])
    table, _ = project.propose(max_proposals=1000)
    check(table, 0, best)
    paths = overlap.Paths(
        index=tmp_path / "index.h5", proposals=tmp_path / "proposals.h5", overlap=tmp_path / "overlap.h5"
    )
    overlap.run(overlap.Params(), paths, Context(tmp_path / "work"))
    counts = read_table(paths.overlap, "overlap")
    for name, plain in (("intersection", np.logical_and), ("union", np.logical_or)):
        expected = [int(plain(mask, truth).sum()) for truth in truths for mask, _ in best]
        assert counts[name].tolist() == expected


def test_the_digest_of_a_folder_covers_names_and_contents(project: Project) -> None:
    project.file = write_arrays(project.folder / "masks", MASKS)
    first = project.propose()[0].attrs["config"]["input"]
    assert project.propose()[0].attrs["config"]["input"] == first
    (project.file / "three.npz").rename(project.file / "four.npz")  # of another size: its row is skipped
    assert project.propose()[0].attrs["config"]["input"] != first
    (project.file / "four.npz").rename(project.file / "three.npz")
    assert project.propose()[0].attrs["config"]["input"] == first
    write_arrays(project.file, {"one": MASKS["one"][::-1]})
    second = project.propose()[0].attrs["config"]["input"]
    (project.file / "three.npz").unlink()
    third = project.propose()[0].attrs["config"]["input"]
    assert len({first, second, third}) == 3


def test_a_folder_of_two_forms_is_refused(project: Project) -> None:
    project.file = write_arrays(project.folder / "masks", MASKS)
    write_json(project.file / "one.json", amg_list(MASKS["one"]))
    with pytest.raises(DataError, match=r"found several: .*npz .*\.json files.*; leave one of them in the folder"):
        project.propose()


def test_a_damaged_gzip_file_is_one_error(project: Project) -> None:
    data = gzip.compress(json.dumps(RESULTS["detectron2"]).encode())
    lines = b"".join(json.dumps(row).encode() + b"\n" for row in RESULTS["detectron2"] * 5000)
    for damaged in (data[:-12], data[:9], gzip.compress(lines)[:-50]):
        project.file.write_bytes(damaged)
        with pytest.raises(DataError, match=r"rows\.json: .*cannot be read.*propose\.input"):
            project.propose()
