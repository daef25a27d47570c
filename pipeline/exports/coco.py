"""Form coco: results as pycocotools reads them, one for each expression, and the ground truth of each beside them.

Result and annotation n are about the same expression: ``COCO(truth).loadRes(FILE)`` numbers results from 1 in their order,
and so are the annotations. ``image_id`` is the data set's own.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from pycocotools import mask as masks

from pipeline.exports.predictions import Prediction, predictions
from pipeline.exports.registry import FORMS, Asked, Form, Written
from store.publish import write_file
from store.segmentation import as_rle

Json = dict[str, Any]


def write(asked: Asked, out: Path) -> Written:
    """Write the results to ``out`` and the ground truth to ``<stem>.truth.json`` beside it."""
    rule = asked.rules[0]
    found = predictions(asked.run, rule, asked.groups)
    truth = out.with_name(f"{out.stem}.truth.json")
    write_file(out, lines_of(result(each, rule) for each in found))
    write_file(truth, _truth_file(found))
    written = Written({out: f"{len(found):,} results of rule {rule}", truth: f"{len(found):,} ground truths"})
    if note := _shared_ids(found):
        written.notes.append(note)
    return written


def lines_of(rows: Iterable[Mapping[str, Any]]) -> str:
    """A JSON list with a row on each line."""
    return "[\n" + ",\n".join(json.dumps(row, allow_nan=False) for row in rows) + "\n]\n"


def result(each: Prediction, rule: str) -> Json:
    """A row of the results: what COCO asks for, and what tells the expression. Without a choice the mask is empty, its
    score 0 and ``proposal`` -1."""
    return {
        "image_id": each.image_id,
        "category_id": each.category_id,
        "segmentation": segmentation(each, each.mask),
        "score": 0.0 if each.score is None else each.score,
        **each.ids(),
        "rule": rule,
        **each.answer(),
    }


def annotation(each: Prediction, number: int, image_id: int, counts: bytes) -> Json:
    """An annotation of COCO's detection form: a mask, its area and its box XYWH in pixels."""
    rle = as_rle(counts, each.height, each.width)
    return {
        "id": number,
        "image_id": image_id,
        "category_id": each.category_id,
        "segmentation": segmentation(each, counts),
        "area": int(masks.area(rle)),
        "bbox": masks.toBbox(rle).tolist(),
        "iscrowd": 0,
        **each.ids(),
    }


def segmentation(each: Prediction, counts: bytes) -> Json:
    """A mask as COCO's compressed run-length encoding: size (height, width), counts as text."""
    return {"size": [each.height, each.width], "counts": counts.decode("ascii")}


def categories(found: Sequence[Prediction]) -> list[Json]:
    """The categories of these expressions, by id."""
    names = {each.category_id: each.category for each in found}
    return [{"id": number, "name": names[number] or "object"} for number in sorted(names)]


def _truth_file(found: Sequence[Prediction]) -> str:
    images = {
        each.image_row: {"id": each.image_id, "file_name": each.image, "height": each.height, "width": each.width}
        for each in found
    }
    content = {
        "info": {"description": "ground truth of each expression, in the order of the results"},
        "images": list(images.values()),
        "categories": categories(found),
        "annotations": [annotation(each, 1 + n, each.image_id, each.truth) for n, each in enumerate(found)],
    }
    return json.dumps(content, allow_nan=False) + "\n"


def _shared_ids(found: Sequence[Prediction]) -> str:
    """What to say where an image id does not name one image; "" where it does."""
    rows: dict[int, set[int]] = {}
    for each in found:
        rows.setdefault(each.image_id, set()).add(each.image_row)
    shared = sorted(number for number, own in rows.items() if len(own) > 1)
    if not shared:
        return ""
    return (
        f"{len(shared):,} image ids stand for several images (the first is {shared[0]}): data sets number their images "
        "apart or not at all; tell expressions by dataset, split and expression_id, or export one data set (--dataset)"
    )


FORMS.add(
    Form(
        name="coco",
        module=__name__,
        meaning="COCO results JSON, a row for each expression, and the ground truths beside it (<stem>.truth.json)",
        folder=False,
        write=write,
    )
)
