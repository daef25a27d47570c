"""Data sets in the structure of the published ones, from a seed: RefCOCO, RefCOCO+, RefCOCOg and PhraseCut.

The caller passes the pictures in, so the same generator makes tiny data for tests and data of the true sizes. Below a root:

    refer/<folder>/refs(<split_by>).p, instances.json     images/train2014/COCO_train2014_<id>.jpg
    refer/phrasecut/refer_<split>.json, image_data...     images/phrasecut/<id>.jpg

As in the real files: Python 2's pickles, annotation suffixes in a ref's file_name, crowds as uncompressed RLE, objects of
several polygons, apart or overlapping, several sentences a ref, sentences beyond ASCII, the same images in all three of
the RefCOCO family; phrases of several instances with several polygons each.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from tests.helpers.refer_files import python2_pickle

SPLITS = {
    ("refcoco", "unc"): ("val", "testA", "testB", "train"),
    ("refcoco", "google"): ("val", "test", "train"),
    ("refcoco+", "unc"): ("val", "testA", "testB", "train"),
    ("refcocog", "umd"): ("val", "test", "train"),
    ("refcocog", "google"): ("val", "train"),
}
CATEGORIES = {1: ("person", "person"), 3: ("vehicle", "car"), 18: ("animal", "dog"), 62: ("furniture", "chair")}
PHRASECUT_NAMES = ("sky", "dog", "window", "Traffic  light", "hot dog", "wall", "Person ", "tree")
SENTENCES = (
    "The {} on the left",
    "left {}",
    "{} à gauche, près du café",
    "右边的 {}",
    "the “big” {} – second from right!",
    "{} closest to you 🙂",
)

Points = list[list[float]]


def random_pictures(seed: int, sizes: Sequence[tuple[int, int]]) -> list[Image.Image]:
    """A picture of noise for each size (width, height)."""
    rng = np.random.default_rng(seed)
    return [Image.fromarray(rng.integers(0, 256, (height, width, 3), dtype=np.uint8)) for width, height in sizes]


def write_refer(root: Path, pictures: Sequence[Image.Image], seed: int = 0, missing: int = 0) -> dict[str, Any]:
    """Write the RefCOCO family over ``pictures`` and ``missing`` more images that have no file.

    An image's objects are: a plain polygon, polygons apart, polygons that overlap, a crowd, and one that no ref names. Refs
    of one image share a split as in the real files, unless the images are fewer than the splits: then every split gets refs.

    Returns:
        What was written: "instances" of all folders (they are equal), "refs" by (folder, split_by), "without_file" names.
    """
    rng = np.random.default_rng(seed)
    folder = root / "images/train2014"
    folder.mkdir(parents=True, exist_ok=True)
    instances: dict[str, Any] = {
        "info": {"description": "generated"},
        "licenses": [],
        "images": [],
        "annotations": [],
        "categories": [{"supercategory": s, "id": i, "name": n} for i, (s, n) in CATEGORIES.items()],
    }
    without_file = []
    for number, picture in enumerate([*pictures, *pictures[:1] * missing]):
        image_id = 1000 + 7 * number
        name = f"COCO_train2014_{image_id:012d}.jpg"
        if number < len(pictures):
            picture.save(folder / name, quality=90)
        else:
            without_file.append(name)
        width, height = picture.size
        instances["images"].append(
            {"license": 1, "file_name": name, "coco_url": "", "height": height, "width": width, "date_captured": "",
             "flickr_url": "", "id": image_id}
        )  # fmt: skip
        for place, segmentation in enumerate(_segmentations(rng, width, height)):
            instances["annotations"].append(_annotation(rng, 10 * image_id + place, image_id, segmentation))
    refs = {key: _refs(rng, instances, splits) for key, splits in SPLITS.items()}
    for (dataset, split_by), rows in refs.items():
        (root / "refer" / dataset).mkdir(parents=True, exist_ok=True)
        python2_pickle(rows, 2, "utf-8", root / "refer" / dataset / f"refs({split_by}).p")
        (root / "refer" / dataset / "instances.json").write_text(json.dumps(instances))
    return {"instances": instances, "refs": refs, "without_file": without_file}


def write_phrasecut(
    root: Path, pictures: Sequence[Image.Image], seed: int = 0, missing: int = 0, splits: Sequence[str] = ("test",)
) -> dict[str, Any]:
    """Write PhraseCut over ``pictures`` and ``missing`` more images that have no file; images take the splits in turn.

    Returns:
        What was written: "images" (rows of the image file), "tasks" by split, "without_file" names.
    """
    rng = np.random.default_rng(seed)
    folder, annotations = root / "images/phrasecut", root / "refer/phrasecut"
    folder.mkdir(parents=True, exist_ok=True)
    annotations.mkdir(parents=True, exist_ok=True)
    images: list[dict[str, Any]] = []
    tasks: dict[str, list[dict[str, Any]]] = {split: [] for split in splits}
    without_file = []
    for number, picture in enumerate([*pictures, *pictures[:1] * missing]):
        image_id, (width, height) = 2_347_567 + 11 * number, picture.size
        split = splits[number % len(splits)]
        if number < len(pictures):
            picture.save(folder / f"{image_id}.jpg", quality=90)
        else:
            without_file.append(f"{image_id}.jpg")
        images.append(
            {"image_id": image_id, "coco_id": None, "flickr_id": number, "width": width, "height": height, "url": "",
             "split": split}
        )  # fmt: skip
        for place in range(4):
            name = PHRASECUT_NAMES[(4 * number + place) % len(PHRASECUT_NAMES)]
            tasks[split].append(_task(rng, image_id, place, name, width, height))
    (annotations / "image_data_split3000.json").write_text(json.dumps(images))
    for split, rows in tasks.items():
        (annotations / f"refer_{split}.json").write_text(json.dumps(rows))
        inputs = [{key: row[key] for key in ("task_id", "image_id", "phrase", "phrase_structure")} for row in rows]
        (annotations / f"refer_input_{split}.json").write_text(json.dumps(inputs))
    return {"images": images, "tasks": tasks, "without_file": without_file}


def blob(rng: np.random.Generator, width: int, height: int, near: Sequence[float] | None = None) -> Points:
    """A star-shaped outline [[x, y], ...] inside the image, around a point of chance or about half its size from ``near``."""
    radius = min(width, height) * rng.uniform(0.12, 0.22)
    if near is None:
        x, y = rng.uniform(0.2, 0.8, 2) * (width, height)
    else:
        x, y = np.asarray(near) + rng.uniform(-0.5, 0.5, 2) * radius
    corners = int(rng.integers(5, 13))
    angles = (np.arange(corners) + rng.uniform(0, 0.8, corners)) * 2 * np.pi / corners
    reach = radius * rng.uniform(0.6, 1, corners)
    xs, ys = np.clip(x + reach * np.cos(angles), 0, width), np.clip(y + reach * np.sin(angles), 0, height)
    return [[round(float(a), 2), round(float(b), 2)] for a, b in zip(xs, ys, strict=True)]


def flat(points: Points) -> list[float]:
    return [number for point in points for number in point]


def _segmentations(rng: np.random.Generator, width: int, height: int) -> list[Any]:
    first, left = blob(rng, width, height), blob(rng, width, height, (0.2 * width, 0.5 * height))
    right, last = blob(rng, width, height, (0.8 * width, 0.5 * height)), blob(rng, width, height)
    crowd = [blob(rng, width, height) for _ in range(4)]
    return [
        [flat(blob(rng, width, height))],
        [flat(left), flat(right)],
        [flat(first), flat(blob(rng, width, height, np.mean(first, axis=0)))],
        _run_lengths(crowd, width, height),
        [flat(last)],
    ]


def _run_lengths(shapes: list[Points], width: int, height: int) -> dict[str, Any]:
    """Shapes as COCO keeps a crowd: counts of 0 and 1 by turns, down the columns, 0 first."""
    canvas = Image.new("1", (width, height))
    for points in shapes:
        ImageDraw.Draw(canvas).polygon([(x, y) for x, y in points], fill=1)
    down = np.asarray(canvas).ravel(order="F").astype(np.int8)
    edges = np.flatnonzero(np.diff(down, prepend=0))
    return {"size": [height, width], "counts": np.diff(edges, prepend=0, append=len(down)).tolist()}


def _annotation(rng: np.random.Generator, annotation_id: int, image_id: int, segmentation: Any) -> dict[str, Any]:
    crowd = isinstance(segmentation, dict)
    points = np.array([[0, 0, 1, 1]] if crowd else [n for part in segmentation for n in part]).reshape(-1, 2)
    (x, y), (right, bottom) = points.min(axis=0).tolist(), points.max(axis=0).tolist()
    area = sum(segmentation["counts"][1::2]) if crowd else (right - x) * (bottom - y) / 2
    return {"segmentation": segmentation, "area": area, "iscrowd": int(crowd), "image_id": image_id,
            "bbox": [x, y, right - x, bottom - y], "category_id": int(rng.choice(list(CATEGORIES))),
            "id": annotation_id}  # fmt: skip


def _refs(rng: np.random.Generator, instances: dict[str, Any], splits: Sequence[str]) -> list[dict[str, Any]]:
    images = instances["images"]
    ref_ids, sentence_ids, suffixes = count(int(rng.integers(1, 1000))), count(int(rng.integers(1, 1000))), count(3)
    rows = []
    for number, image in enumerate(images):
        objects = [row for row in instances["annotations"] if row["image_id"] == image["id"]]
        for place, annotation in enumerate(objects[:4]):
            turn = number + place if len(images) < len(splits) else number
            sentences = []
            for template in rng.choice(SENTENCES, int(rng.integers(1, 4)), replace=False):
                raw = str(template).format(CATEGORIES[annotation["category_id"]][1])
                words = raw.lower().rstrip("!")
                sentences.append({"tokens": words.split(), "raw": raw, "sent_id": next(sentence_ids), "sent": words})
            rows.append(
                {"sent_ids": [s["sent_id"] for s in sentences], "ann_id": annotation["id"], "ref_id": next(ref_ids),
                 "file_name": image["file_name"].replace(".jpg", f"_{next(suffixes)}.jpg"), "image_id": image["id"],
                 "split": splits[turn % len(splits)], "sentences": sentences, "category_id": annotation["category_id"]}
            )  # fmt: skip
    return rows


def _task(rng: np.random.Generator, image_id: int, place: int, name: str, width: int, height: int) -> dict[str, Any]:
    """Phrase ``place`` of an image has place + 1 instances (3 at most), the first of them of two polygons that overlap."""
    polygons = [[blob(rng, width, height)] for _ in range(min(place + 1, 3))]
    polygons[0].append(blob(rng, width, height, np.mean(polygons[0][0], axis=0)))
    boxes = []
    for instance in polygons:
        points = np.array([point for polygon in instance for point in polygon])
        boxes.append([*points.min(axis=0).tolist(), *np.ptp(points, axis=0).tolist()])
    first = int(rng.integers(1, 4_000_000))
    return {
        "task_id": f"{image_id}__{first}",
        "image_id": image_id,
        "ann_ids": [first + i for i in range(len(polygons))],
        "instance_boxes": boxes,
        "Polygons": polygons,
        "phrase": str(rng.choice(SENTENCES)).format(name).lower(),
        "phrase_structure": {"name": name, "attributes": ["big"], "relation_ids": [], "relation_descriptions": [],
                             "type": "attribute"},
    }  # fmt: skip
