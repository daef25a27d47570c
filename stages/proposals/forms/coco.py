"""Form coco: {"images": [{id, file_name}, ...], "annotations": [{image_id, segmentation}, ...]}, COCO's annotations.

Written by MaskCut (CutLER) and MAL. The file's own image ids are looked up in its images: their file names say which images of
the index they are, and only an image without one is found by its id.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

from stages.datasets.fields import shown
from stages.proposals.forms.documents import document_form, mask_row
from stages.proposals.forms.registry import FORMS, Document, MaskRow


def _recognises(value: object) -> bool:
    return isinstance(value, Mapping) and all(isinstance(value.get(key), list) for key in ("images", "annotations"))


def _rows(value: Mapping[str, Any], where: str, image: str) -> Iterator[MaskRow]:
    names: dict[object, object] = {}
    for entry in value["images"]:
        if isinstance(entry, Mapping) and isinstance(entry.get("id"), int | str):
            names.setdefault(entry["id"], entry.get("file_name"))
    for number, annotation in enumerate(value["annotations"]):
        row = mask_row(annotation, f"{where} annotations[{number}]")
        if not row.fault:
            key = row.image_id
            if not isinstance(key, int | str) or key not in names:
                row = replace(row, fault=f"image_id: {shown(key)} is not among the file's images")
            elif row.file_name is None:
                row = replace(row, file_name=names[key])
        yield row


DOCUMENT = Document(recognises=_recognises, rows=_rows)
FORMS.add(document_form("coco", __name__, "a JSON object with the lists images and annotations", DOCUMENT))
