"""Form sa1b: {"image": {image_id, file_name}, "annotations": [{segmentation, predicted_iou}, ...]}, as SA-1B has it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

from stages.proposals.forms.documents import document_form, mask_row
from stages.proposals.forms.registry import FORMS, Document, MaskRow


def _recognises(value: object) -> bool:
    return (
        isinstance(value, Mapping)
        and isinstance(value.get("image"), Mapping)
        and isinstance(value.get("annotations"), list)
    )


def _rows(value: Mapping[str, Any], where: str, image: str) -> Iterator[MaskRow]:
    about = value["image"]
    file_name, image_id = about.get("file_name"), about.get("image_id")
    if file_name is None and image_id is None:
        file_name = image or None
    for number, annotation in enumerate(value["annotations"]):
        row = mask_row(annotation, f"{where} annotations[{number}]")
        yield replace(row, file_name=file_name, image_id=image_id)


DOCUMENT = Document(recognises=_recognises, rows=_rows)
FORMS.add(document_form("sa1b", __name__, "a JSON object with image and the list annotations", DOCUMENT))
