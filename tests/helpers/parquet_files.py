"""Data sets in Parquet, in the layouts of the Hugging Face hub, with the refs of ``tests.helpers.refer_files``."""

from __future__ import annotations

import io
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from tests.helpers.refer_files import INSTANCES, REFS

IMAGES = {row["id"]: row for row in INSTANCES["images"]}
ANNOTATIONS = {row["id"]: row for row in INSTANCES["annotations"]}
PLAIN = [ref for ref in REFS if ref["ann_id"] != 91]
"""Without the crowd, whose mask is no polygon."""


def picture(image_id: int, size: tuple[int, int] = (14, 8), form: str = "PNG") -> bytes:
    """Pixels that tell the images apart; PNG keeps them."""
    data = io.BytesIO()
    Image.fromarray(np.full((size[1], size[0], 3), image_id * 7 % 256, np.uint8)).save(data, form)
    return data.getvalue()


def write_parquet(file: Path, rows: Sequence[Mapping[str, Any]]) -> Path:
    import pyarrow as pa
    import pyarrow.parquet as pq

    file.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(list(rows)), file)
    return file


def write_benchmark(folder: Path, refs: Iterable[Mapping[str, Any]] = PLAIN, by: str = "refcoco_unc") -> Path:
    """A row for each image of each split, as jxu124/refcoco-benchmark."""
    splits: dict[str, dict[int, list[dict[str, Any]]]] = {}
    for ref in refs:
        listed = splits.setdefault(ref["split"], {}).setdefault(ref["image_id"], [])
        listed.append({"ref_info": dict(ref), "ann_info": ANNOTATIONS[ref["ann_id"]]})
    for split, images in splits.items():
        rows = [
            {
                "ref_list": listed,
                "image_info": IMAGES[image_id],
                "image": {"bytes": picture(image_id), "path": f"{image_id}.jpg"},
            }
            for image_id, listed in images.items()
        ]
        write_parquet(folder / f"data/{by}_{split}-00000-of-00001-0a1b2c3d4e5f.parquet", rows)
    return folder


def write_refs(folder: Path, refs: Sequence[Mapping[str, Any]] = PLAIN) -> Path:
    """A row for each ref, as jxu124/refcoco: the file called test has testA."""
    for name, splits in {"validation": ("val",), "test": ("testA",), "testB": ("testB",), "train": ("train",)}.items():
        rows = [
            {
                **{key: ref[key] for key in ("sent_ids", "file_name", "ann_id", "ref_id", "image_id", "split", "sentences")},
                "category_id": ref["category_id"],
                "raw_anns": json.dumps(ANNOTATIONS.get(ref["ann_id"], {})),
                "raw_image_info": json.dumps(IMAGES[ref["image_id"]]),
                "raw_sentences": json.dumps(ref["sentences"]),
                "image_path": f"coco/train2014/{IMAGES[ref['image_id']]['file_name']}",
                "bbox": [2.0, 1.0, 6.0, 4.0],
            }
            for ref in refs
            if ref["split"] in splits
        ]  # fmt: skip
        if rows:
            write_parquet(folder / f"data/{name}-00000-of-00001.parquet", rows)
    return folder


def flat_row(number: int, image_id: int, **changes: Any) -> dict[str, Any]:
    """A row of lmms-lab/RefCOCO."""
    row = {
        "question_id": f"{number}",
        "image": {"bytes": picture(image_id), "path": None},
        "question": "Please carefully observe the area circled in the image and come up with a caption for the area.",
        "answer": [f"first of {number}", f"second of {number}"],
        "segmentation": [2.0, 1.0, 6.0, 1.0, 6.0, 4.0, 2.0, 4.0],
        "bbox": [2.0, 1.0, 4.0, 3.0],
        "iscrowd": 0,
        "file_name": f"COCO_train2014_{image_id:012d}_{number}.jpg",
    }
    return {**row, **changes}
