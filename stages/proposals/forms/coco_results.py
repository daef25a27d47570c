"""Form coco_results: [{image_id, segmentation, score, category_id}, ...], COCO's results.

Written by detectron2 (``coco_instances_results.json``), mmdet (``*.segm.json``) and Ultralytics (``predictions.json``). SAM's
``amg.py --convert-to-rle`` writes such a list for each image, without its name: the file's name says it.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from stages.proposals.forms.documents import document_form, mask_row
from stages.proposals.forms.registry import FORMS, Document, MaskRow


def _rows(value: list[Any], where: str, image: str) -> Iterator[MaskRow]:
    for number, row in enumerate(value):
        yield mask_row(row, f"{where} [{number}]", image)


DOCUMENT = Document(recognises=lambda value: isinstance(value, list), rows=_rows)
FORMS.add(
    document_form(
        "coco_results",
        __name__,
        "a JSON list of objects with image_id or file_name, segmentation and score",
        DOCUMENT,
        of_one_image=False,
    )
)
