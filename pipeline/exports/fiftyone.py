"""Form fiftyone: the folder that FiftyOne imports as COCODetectionDataset: ``data/`` with the images, ``labels.json`` with
what was chosen; ``truth.json`` has the ground truths of the same images, ``left_out.json`` what neither can hold.

Images are numbered here, since ids of several data sets may coincide. FiftyOne itself is not needed to write it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from pipeline.exports.coco import annotation, categories, lines_of
from pipeline.exports.predictions import Prediction, predictions
from pipeline.exports.registry import FORMS, Asked, Form, Written
from pipeline.setup.unpack import place
from store.errors import DataError
from store.images import open_image
from store.publish import replacing
from store.segmentation import areas

Json = dict[str, Any]
LABELS, TRUTH, LEFT_OUT = "labels.json", "truth.json", "left_out.json"
_NO_TRUTH = "it has no ground truth"


def write(asked: Asked, out: Path) -> Written:
    """Write the folder ``out``; images are linked where the file system can, copied otherwise."""
    rule = asked.rules[0]
    found = predictions(asked.run, rule, asked.groups)
    images = {each.image_row: each for each in found}
    faults = {row: _fault(asked.images, each) for row, each in images.items()}
    names = {row: f"{row:06d}_{PurePosixPath(each.image).name}" for row, each in images.items() if not faults[row]}
    left: list[Json] = []
    chosen = [each for each in found if _holds(left, LABELS, each, faults, each.status if each.proposal < 0 else "")]
    truths = [each for each in found if _holds(left, TRUTH, each, faults, "" if _pixels(each) else _NO_TRUTH)]
    with replacing(out) as folder:
        (folder / "data").mkdir(parents=True)
        for row, name in asked.track(list(names.items()), "images"):
            place(asked.images / images[row].image, folder / "data" / name)
        head = {"images": [_image(images[row], row, name) for row, name in names.items()]}
        labels = [_label(each, n, rule) for n, each in enumerate(chosen)]
        (folder / LABELS).write_text(_content(head, found, labels))
        annotations = [annotation(each, 1 + n, 1 + each.image_row, each.truth) for n, each in enumerate(truths)]
        (folder / TRUTH).write_text(_content(head, found, annotations))
        (folder / LEFT_OUT).write_text(lines_of(left))
    what = f"{len(names):,} images, {len(labels):,} masks of rule {rule} ({LABELS}), {len(truths):,} ground truths ({TRUTH})"
    note = f"{len(left):,} entries that these files cannot hold, with the reason, are in {LEFT_OUT}"
    return Written({out: what}, [note] if left else [])


def _fault(images: Path, each: Prediction) -> str:
    """Why an image cannot be shown, "" if it can."""
    try:
        _, size = open_image(images, each.image)
    except DataError as error:
        return str(error)
    wanted = (each.height, each.width)
    return (
        "" if size == wanted else f"{images / each.image}: expected (height, width) {wanted} as indexed, found {size}"
    )


def _holds(left: list[Json], file: str, each: Prediction, faults: Mapping[int, str], why: str) -> bool:
    """Whether a file can hold an expression; otherwise it is noted in ``left``."""
    if reason := faults[each.image_row] or why:
        left.append({"file": file, **each.ids(), **each.answer(), "reason": reason})
        return False
    return True


def _pixels(each: Prediction) -> int:
    """The area of the ground truth."""
    return int(areas([each.truth], each.height, each.width)[0])


def _image(each: Prediction, row: int, name: str) -> Json:
    return {"id": 1 + row, "file_name": name, "height": each.height, "width": each.width, "image": each.image}


def _label(each: Prediction, place: int, rule: str) -> Json:
    """A chosen mask with what FiftyOne keeps as attributes of a detection; ``score`` becomes its confidence."""
    label = annotation(each, 1 + place, 1 + each.image_row, each.mask)
    return {**label, "score": each.score, "margin": each.margin, "phrase": each.phrase, "rule": rule, **each.answer()}


def _content(head: Json, found: Sequence[Prediction], annotations: list[Json]) -> str:
    about = {"info": {"description": "Glimpse"}, "licenses": []}
    return (
        json.dumps({**about, **head, "categories": categories(found), "annotations": annotations}, allow_nan=False)
        + "\n"
    )


FORMS.add(
    Form(
        name="fiftyone",
        module=__name__,
        meaning="a folder that FiftyOne imports (COCODetectionDataset): data/, labels.json, truth.json, left_out.json",
        folder=True,
        write=write,
    )
)
