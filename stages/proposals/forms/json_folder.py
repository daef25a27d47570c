"""Form json_folder: a folder of JSON files, each of any JSON form; where it does not say, its name is that of its image.

SAM's ``amg.py --convert-to-rle`` and SA-1B write such folders, and mmdet's DetInferencer.
"""

from __future__ import annotations

from collections.abc import Iterator

from stages.proposals.forms.documents import JSON_ENDINGS, document_rows
from stages.proposals.forms.given import Given, read_value
from stages.proposals.forms.registry import FORMS, MaskForm, MaskRow, Track
from store.errors import DataError


def _rows(given: Given, track: Track) -> Iterator[MaskRow]:
    for file in track(given.named(*JSON_ENDINGS), "files"):
        image = given.image_of(file, *JSON_ENDINGS[::-1])
        try:
            yield from document_rows(read_value(file), str(file), image)
        except DataError as error:
            yield MaskRow(str(file), fault=str(error))


FORMS.add(
    MaskForm(
        name="json_folder",
        module=__name__,
        meaning="a folder of .json files, one or more of each image",
        recognises=lambda given: given.is_folder and bool(given.named(*JSON_ENDINGS)),
        rows=_rows,
    )
)
