"""Form label_maps: a PNG for each image, whose pixels are numbers of objects: 0 none, every other value one object.

Grey of 8 or 16 bits, or the indices of a palette. The file's name is the image's. Its objects have no scores: they count in the
order of their numbers.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from stages.proposals.forms.given import Given
from stages.proposals.forms.pictures import read_values
from stages.proposals.forms.registry import FORMS, MaskForm, MaskRow, Track
from store.errors import DataError

MOST_OBJECTS = 10_000
"""Of an image: each is a mask of its own."""
_ENDING = ".png"
_TABLE = "metadata.csv"


def _recognises(given: Given) -> bool:
    return bool(given.named(_ENDING)) and not given.named(_TABLE)


def _rows(given: Given, track: Track) -> Iterator[MaskRow]:
    for file in track(given.named(_ENDING), "files"):
        try:
            values = read_values(file)
        except DataError as error:
            yield MaskRow(str(file), fault=str(error))
            continue
        image = given.image_of(file, _ENDING)
        objects = np.unique(values)
        if len(objects) > MOST_OBJECTS:
            fault = f"expected numbers of at most {MOST_OBJECTS:,} objects, got {len(objects):,}: is it a picture?"
            yield MaskRow(str(file), fault=fault)
            continue
        for value in objects:
            if value:
                yield MaskRow(f"{file} value {value}", file_name=image, segmentation=values == value)


FORMS.add(
    MaskForm(
        name="label_maps",
        module=__name__,
        meaning="a PNG for each image whose pixel values are numbers of objects",
        recognises=_recognises,
        rows=_rows,
    )
)
