"""Form mmdet: {"masks": [RLE, ...], "scores": [...], ...} of one image, as mmdet's DetInferencer writes ``preds/<image>.json``.

The file's name says which image it is. mmdet's ``.pkl`` of all images is a pickle, which could run code: it is not read
(docs/data.md says how to have JSON written instead).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from stages.datasets.fields import shown
from stages.proposals.forms.documents import document_form
from stages.proposals.forms.registry import FORMS, UNSCORED, Document, MaskRow


def _recognises(value: object) -> bool:
    return isinstance(value, Mapping) and isinstance(value.get("masks"), list) and "annotations" not in value


def _rows(value: Mapping[str, Any], where: str, image: str) -> Iterator[MaskRow]:
    masks, scores = value["masks"], value.get("scores")
    if scores is None:
        scores = [UNSCORED] * len(masks)
    if not isinstance(scores, list) or len(scores) != len(masks):
        yield MaskRow(where, fault=f"scores: expected a list of {len(masks)} numbers, as of masks, got {shown(scores)}")
        return
    file_name, image_id = value.get("file_name"), value.get("image_id")
    if file_name is None and image_id is None:
        file_name = image or None
    for number, (mask, score) in enumerate(zip(masks, scores, strict=True)):
        yield MaskRow(f"{where} masks[{number}]", image_id, file_name, mask, score)


DOCUMENT = Document(recognises=_recognises, rows=_rows)
FORMS.add(document_form("mmdet", __name__, "a JSON object of one image with the lists masks and scores", DOCUMENT))
