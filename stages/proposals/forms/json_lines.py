"""Form json_lines: JSON Lines, each line a mask like those of COCO's results, or a whole object of another JSON form."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping

from stages.proposals.forms.documents import document_rows, mask_row
from stages.proposals.forms.given import NO_VALUE, Given, lines
from stages.proposals.forms.registry import FORMS, MaskForm, MaskRow, Track
from store.errors import DataError


def _is_mask(value: object) -> bool:
    return isinstance(value, Mapping) and "segmentation" in value


def _recognises(given: Given) -> bool:
    return given.is_lines or (given.value is not NO_VALUE and _is_mask(given.value))


def _rows(given: Given, track: Track) -> Iterator[MaskRow]:
    """The number of lines is not known beforehand, so no progress is shown."""
    for number, line in lines(given.path):
        where = f"{given.path} line {number}"
        try:
            value = json.loads(line)
        except (ValueError, RecursionError) as error:
            yield MaskRow(where, fault=f"this is no JSON ({error})")
            continue
        if _is_mask(value):
            yield mask_row(value, where)
            continue
        try:
            yield from document_rows(value, where, "")
        except DataError as error:
            yield MaskRow(where, fault=str(error))


FORMS.add(
    MaskForm(
        name="json_lines", module=__name__, meaning="JSON Lines, a mask on each", recognises=_recognises, rows=_rows
    )
)
