"""Form amg_folder: SAM's and SAM 2's ``amg.py``: a folder for each image, of its name, with metadata.csv and <id>.png.

``metadata.csv`` has a row for each mask: its id and predicted_iou, the score; a PNG is 0 outside of its mask.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from pathlib import Path

from stages.proposals.forms.given import Given
from stages.proposals.forms.pictures import read_values
from stages.proposals.forms.registry import FORMS, UNSCORED, MaskForm, MaskRow, Track
from store.errors import DataError
from store.regular import read_regular

_TABLE = "metadata.csv"


def _rows(given: Given, track: Track) -> Iterator[MaskRow]:
    for table in track(given.named(_TABLE), "folders"):
        folder = table.parent
        image = folder.name if folder == given.path else folder.relative_to(given.path).as_posix()
        yield from _of_image(table, image)


def _of_image(table: Path, image: str) -> Iterator[MaskRow]:
    try:
        text = read_regular(table).decode("utf-8-sig")
        entries = list(csv.DictReader(io.StringIO(text, newline="")))
    except (OSError, ValueError, csv.Error) as error:
        yield MaskRow(str(table), fault=f"cannot be read ({error})")
        return
    listed = set()
    for number, entry in enumerate(entries):
        name = f"{entry.get('id')}.png"
        listed.add(name)
        if entry.get("id") is None or Path(name).name != name:
            yield MaskRow(f"{table} [{number}]", fault="expected an id, the name of a PNG in this folder")
        else:
            yield _mask(table.parent / name, image, _number(entry.get("predicted_iou")))
    for file in sorted(table.parent.glob("*.png")):
        if file.name not in listed:
            yield MaskRow(str(file), fault=f"no row of {_TABLE} has its id")


def _mask(file: Path, image: str, score: object) -> MaskRow:
    try:
        return MaskRow(str(file), file_name=image, segmentation=read_values(file) > 0, score=score)
    except DataError as error:
        return MaskRow(str(file), fault=str(error))


def _number(text: str | None) -> object:
    """The number in a cell; the text where it is none, for the message, and ``UNSCORED`` without such a column."""
    if text is None:
        return UNSCORED
    try:
        return float(text)
    except ValueError:
        return text


FORMS.add(
    MaskForm(
        name="amg_folder",
        module=__name__,
        meaning=f"SAM's folder for each image with {_TABLE} and a PNG for each mask",
        recognises=lambda given: given.is_folder and any(file.name == _TABLE for file in given.files),
        rows=_rows,
    )
)
