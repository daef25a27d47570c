"""A small data set in REFER's files: a few images and objects, refs of all kinds of splits; Python 2's pickles."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any, ClassVar

from PIL import Image

SQUARE = [[2.0, 1.0, 6.0, 1.0, 6.0, 4.0, 2.0, 4.0]]


class Python2Pickler(pickle._Pickler):  # type: ignore[name-defined]
    """Writes text as Python 2 wrote ``str``: byte strings of some encoding."""

    dispatch: ClassVar[dict[Any, Any]] = dict(pickle._Pickler.dispatch)  # type: ignore[attr-defined]
    text_encoding = "utf-8"

    def save_str(self, text: str) -> None:
        data = text.encode(self.text_encoding)
        if not self.bin:
            self.write(b"S" + repr(data)[1:].encode() + b"\n")
        elif len(data) < 256:
            self.write(b"U" + bytes([len(data)]) + data)
        else:
            self.write(b"T" + len(data).to_bytes(4, "little") + data)
        self.memoize(text)

    dispatch[str] = save_str


def python2_pickle(value: Any, protocol: int, encoding: str, path: Path) -> None:
    with path.open("wb") as file:
        pickler = Python2Pickler(file, protocol)
        pickler.text_encoding = encoding
        pickler.dump(value)


def image_row(image_id: int, **changes: Any) -> dict[str, Any]:
    name = f"COCO_train2014_{image_id:012d}.jpg"
    return {"id": image_id, "file_name": name, "width": 14, "height": 8, "license": 1, **changes}


def annotation_row(annotation_id: int, image_id: int, **changes: Any) -> dict[str, Any]:
    row = {"id": annotation_id, "image_id": image_id, "category_id": 3, "segmentation": SQUARE, "iscrowd": 0}
    return {**row, "bbox": [2, 1.0, 4.0, 3.0], "area": 12.0, **changes}


def ref_row(ref_id: int, annotation_id: int, image_id: int, split: Any, **changes: Any) -> dict[str, Any]:
    sentences = [
        {"raw": f"Raw {ref_id}", "sent": f"raw {ref_id}", "sent_id": 10 * ref_id, "tokens": ["raw"]},
        {"raw": "le café à gauche", "sent": "cafe", "sent_id": 10 * ref_id + 1, "tokens": []},
    ]
    name = f"COCO_train2014_{image_id:012d}_{annotation_id}.jpg"
    row = {"ref_id": ref_id, "ann_id": annotation_id, "image_id": image_id, "category_id": 3, "split": split}
    return {**row, "file_name": name, "sent_ids": [s["sent_id"] for s in sentences], "sentences": sentences, **changes}


CROWD = {"size": [8, 14], "counts": [0, 112]}
INSTANCES: dict[str, Any] = {
    "info": {},
    "images": [image_row(9), image_row(5), image_row(6), image_row(7)],
    "annotations": [
        annotation_row(90, 9),
        annotation_row(91, 9, segmentation=CROWD, iscrowd=1, category_id=4),
        annotation_row(50, 5),
        annotation_row(60, 6),
        annotation_row(70, 7),
    ],
    "categories": [{"id": 3, "name": "cat", "supercategory": "animal"}, {"id": 4, "name": "chien"}],
}
REFS = [
    ref_row(1, 90, 9, "val"),
    ref_row(2, 50, 5, "testA"),
    ref_row(3, 91, 9, "testAB"),
    ref_row(4, 60, 6, "testB"),
    ref_row(5, 70, 7, "train"),
]


def data_root(
    root: Path, refs: list[Any] = REFS, instances: Any = INSTANCES, name: str = "refcoco", split_by: str = "unc"
) -> Path:
    folder = root / name
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"refs({split_by}).p").write_bytes(pickle.dumps(refs, 2))
    (folder / "instances.json").write_text(json.dumps(instances), "utf-8")
    return root


def write_images(root: Path, instances: Any = INSTANCES) -> None:
    """A picture for every image of ``instances``."""
    for row in instances["images"]:
        Image.new("RGB", (row["width"], row["height"])).save(root / row["file_name"])


def without(row: dict[str, Any], key: str) -> dict[str, Any]:
    return {k: v for k, v in row.items() if k != key}
