"""What the forms of JSON share: a mask from an object of a list, and a form that is one JSON value in a file."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from stages.datasets.fields import shown
from stages.proposals.forms.given import NO_VALUE, Given
from stages.proposals.forms.registry import FORMS, UNSCORED, Document, MaskForm, MaskRow, Track
from store.errors import DataError

JSON_ENDINGS = (".json", ".json.gz")
_SCORES = ("score", "predicted_iou")
"""The names of a mask's confidence; the first that is there counts."""


def mask_row(row: object, where: str, image: str = "") -> MaskRow:
    """The mask of one object; ``image`` is what its image is called where it does not say."""
    if not isinstance(row, Mapping):
        return MaskRow(where, fault=f"expected an object, got {shown(row)}")
    file_name, image_id = row.get("file_name"), row.get("image_id")
    if file_name is None and "image_id" not in row and image:
        file_name = image
    score = next((row[name] for name in _SCORES if name in row), UNSCORED)
    return MaskRow(where, image_id, file_name, row.get("segmentation"), score)


def document_form(name: str, module: str, meaning: str, document: Document, of_one_image: bool = True) -> MaskForm:
    """The form of a file that is one such JSON value; ``of_one_image``: the file's name may be that of its image."""

    def rows(given: Given, track: Track) -> Iterable[MaskRow]:
        image = given.image_of(given.path, *JSON_ENDINGS[::-1]) if of_one_image else ""
        return track(list(document.rows(given.value, str(given.path), image)), "rows")

    def recognises(given: Given) -> bool:
        return not given.is_lines and given.value is not NO_VALUE and document.recognises(given.value)

    return MaskForm(name=name, module=module, meaning=meaning, recognises=recognises, rows=rows, document=document)


def document_rows(value: object, where: str, image: str) -> Iterable[MaskRow]:
    """The masks of a JSON value of any known form.

    Raises:
        DataError: it is of none.
    """
    for form in FORMS.values():
        if form.document and form.document.recognises(value):
            return form.document.rows(value, where, image)
    raise DataError(f"expected a mask or a list of masks, got {shown(value)}")
