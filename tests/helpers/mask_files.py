"""Files and folders of masks in the forms that generators write, of the images of ``tests.helpers.proposal_files``."""

from __future__ import annotations

import csv
import gzip
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from tests.helpers.proposal_files import Mask, compressed, rectangle

Scored = tuple[Mask, float]
Contents = Mapping[str, Sequence[Scored]]
"""Stem of an image -> its masks and scores."""
MASKS: Contents = {
    "one": [(rectangle(1, 1, 4, 3), 0.5), (rectangle(0, 0, 9, 2), 0.75)],
    "three": [(rectangle(1, 0, 3, 4, (4, 5)), 0.25)],
}
NAMES = {"one": "a/one.png", "three": "three.png"}
IDS = {"one": 11, "three": 44}
COLUMNS = (
    *("id", "area", "bbox_x0", "bbox_y0", "bbox_w", "bbox_h", "point_input_x", "point_input_y"),
    *("predicted_iou", "stability_score", "crop_box_x0", "crop_box_y0", "crop_box_w", "crop_box_h"),
)
"""Of ``metadata.csv``, as SAM's amg.py writes them."""


def rows(contents: Contents, score: str = "score", **naming: Callable[[str], Any]) -> list[dict[str, Any]]:
    """Objects like those of COCO's results; ``naming``: key -> what it holds for a stem."""
    return [
        {**{key: of(stem) for key, of in naming.items()}, "segmentation": compressed(mask), score: value}
        for stem, masks in contents.items()
        for mask, value in masks
    ]


def write_json(path: Path, value: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    data = json.dumps(value).encode()
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)
    return path


def write_lines(path: Path, values: Sequence[Any]) -> Path:
    data = b"".join(json.dumps(value).encode() + b"\n" for value in values)
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)
    return path


def coco(contents: Contents) -> dict[str, Any]:
    """MaskCut's and MAL's object: image ids of its own, which are others of the index."""
    own = {stem: number for number, stem in enumerate(contents, 1)}
    return {
        "info": {"description": "pseudo masks"},
        "images": [
            {"id": own[stem], "file_name": f"train2014/{NAMES.get(stem)}", "height": 6, "width": 9} for stem in own
        ],
        "annotations": rows(contents, image_id=lambda stem: own[stem]),
        "categories": [{"id": 1, "name": "fg"}],
    }


def sa1b(stem: str, masks: Sequence[Scored]) -> dict[str, Any]:
    height, width = masks[0][0].shape
    about = {"image_id": 5, "file_name": f"{stem}.png", "height": height, "width": width}
    return {"image": about, "annotations": rows({stem: masks}, "predicted_iou", id=lambda stem: 1)}


def amg_list(masks: Sequence[Scored]) -> list[dict[str, Any]]:
    """SAM's amg.py --convert-to-rle: masks of one image, which does not stand in it."""
    return [{**row, "stability_score": 0.9} for row in rows({"": masks}, "predicted_iou")]


def mmdet(masks: Sequence[Scored]) -> dict[str, Any]:
    return {
        "labels": [0] * len(masks),
        "scores": [score for _, score in masks],
        "bboxes": [[0.0, 0.0, 1.0, 1.0]] * len(masks),
        "masks": [compressed(mask) for mask, _ in masks],
    }


def write_amg(folder: Path, contents: Contents) -> Path:
    """SAM's amg.py: masks in an order of its own, 255 inside."""
    for stem, masks in contents.items():
        place = folder / stem
        place.mkdir(parents=True)
        with (place / "metadata.csv").open("w", newline="") as opened:
            table = csv.DictWriter(opened, COLUMNS)
            table.writeheader()
            for number, (mask, score) in enumerate(masks):
                Image.fromarray(mask.astype(np.uint8) * 255).save(place / f"{number}.png")
                table.writerow({**dict.fromkeys(COLUMNS, 0), "id": number, "predicted_iou": score})
    return folder


def write_arrays(folder: Path, contents: Contents, scores: str = "scores") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for stem, masks in contents.items():
        values = {scores: np.array([score for _, score in masks], np.float32)} if scores else {}
        np.savez_compressed(folder / f"{stem}.npz", masks=np.stack([mask for mask, _ in masks]), **values)
    return folder


def write_labels(folder: Path, contents: Contents, as_image: Callable[[Any], Image.Image]) -> Path:
    """A PNG for each image: object number n has value 200 n, in the order of the masks; later ones lie above."""
    folder.mkdir(parents=True, exist_ok=True)
    for stem, masks in contents.items():
        values = np.zeros(masks[0][0].shape, np.int64)
        for number, (mask, _) in enumerate(masks, 1):
            values[mask] = number
        as_image(values).save(folder / f"{stem}.png")
    return folder


def write_yolo(folder: Path, polygons: Mapping[str, Sequence[tuple[list[float], float | None]]]) -> Path:
    """Ultralytics' labels: polygons in shares, with a score where there is one."""
    folder.mkdir(parents=True, exist_ok=True)
    for stem, lines in polygons.items():
        text = [" ".join(map(str, [0, *points, *([] if score is None else [score])])) for points, score in lines]
        (folder / f"{stem}.txt").write_text("\n".join(text) + "\n")
    return folder
