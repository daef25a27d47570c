"""Reading phrases for pictures of one's own: a table of images and phrases, without ground truth.

``phrases.csv`` (comma, or tab in ``phrases.tsv``), ``phrases.jsonl`` (an object a line) or ``phrases.json`` (a list of
objects) in the data set's folder has the columns ``image``, the file's path below the data set's images, and ``phrase``,
and may have ``split`` (without it all are in split ``all``); other columns are not read. One row is one ref with one
sentence; both have the number of the row, from 1, as id. A faulty row is kept with a status (``stages/datasets/rows.py``).
Photographs are taken upright: EXIF's orientation is applied.
"""

from __future__ import annotations

import csv
import errno
import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from stages.datasets.fields import NO_ID, Fields, Problems, is_blank, unsafe_name
from stages.datasets.files import REMEDY, data_folder
from stages.datasets.registry import KINDS, Choice, DatasetKind
from stages.datasets.rows import ImageRow, ReferData, RefRow, SentenceRow
from store.errors import DataError, ParameterError, nearest
from store.regular import read_regular

FORMS = ("csv", "tsv", "jsonl", "json")
"""Suffixes of the file of phrases, each a form."""
COLUMNS = ("image", "phrase")
MOST_BYTES = 2**28
"""Of a table of phrases: a million rows are a third of it."""
WHOLE = "all"
"""The split of rows that name none."""
_EXPECTED = "a table with the columns image and phrase"


def phrase_rows(file: Path) -> list[Any]:
    """The rows of a file of phrases, in order: dicts, where the file is as it should be.

    Raises:
        DataError: the file cannot be read, is not UTF-8, is of no form in ``FORMS``, or lacks a column.
    """
    form = file.suffix.lower().removeprefix(".")
    if form not in FORMS:
        raise DataError(
            f"{file}: expected {_EXPECTED}, as {', '.join(f'.{known}' for known in FORMS)}; got a file of another suffix"
        )
    try:
        text = read_regular(file, MOST_BYTES).decode("utf-8-sig")
    except OSError as error:
        remedy = "divide it" if error.errno == errno.EFBIG else "correct the path"
        raise DataError(f"{file}: expected {_EXPECTED}, cannot read it ({error.strerror}); {remedy}") from error
    except UnicodeDecodeError as error:
        raise DataError(
            f"{file}: expected UTF-8, got byte {error.object[error.start]:#04x} at {error.start}; save it as UTF-8"
        ) from error
    rows = _separated(file, text, "," if form == "csv" else "\t") if form in ("csv", "tsv") else _json(file, text, form)
    if not rows:
        raise DataError(f"{file}: expected {_EXPECTED}, found no row; add one for each image and phrase")
    return rows


def _separated(file: Path, text: str, delimiter: str) -> list[Any]:
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    try:
        lines = [line for line in reader if line]
    except csv.Error as error:
        raise DataError(
            f"{file}, line {reader.line_num}: expected {_EXPECTED}, got {error}; correct the quotes"
        ) from error
    header = [name.strip().casefold() for name in lines[0]] if lines else []
    _require_columns(file, header)
    return [dict(zip(header, line, strict=False)) for line in lines[1:]]


def _json(file: Path, text: str, form: str) -> list[Any]:
    """The values of a JSON list, or of each line; a line that is no JSON stays as its text: a faulty row."""
    if form == "jsonl":
        rows: Any = [_line(line) for line in text.splitlines() if line.strip()]
    else:
        try:
            rows = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise DataError(f"{file}: expected {_EXPECTED}, this is no JSON ({error}); correct it there") from error
        if not isinstance(rows, list):
            raise DataError(f"{file}: expected a list of objects, got {type(rows).__name__}; write a list")
    if rows and not any(isinstance(row, dict) and set(COLUMNS) <= row.keys() for row in rows):
        _require_columns(file, list(rows[0]) if isinstance(rows[0], dict) else [])
    return list(rows)


def _line(line: str) -> Any:
    try:
        return json.loads(line)
    except (ValueError, RecursionError):
        return line


def _require_columns(file: Path, names: Sequence[object]) -> None:
    absent = [column for column in COLUMNS if column not in names]
    if absent:
        found = ", ".join(map(str, names)) or "none"
        raise DataError(f"{file}: expected the columns image and phrase, found {found}; add {' and '.join(absent)}")


def read_phrases(root: Path, name: str, splits: Sequence[str]) -> ReferData:
    """Read ``<root>/<name>/phrases.<form>``.

    Raises:
        ParameterError: the data set or a split does not exist; with those that do.
        DataError: the file is missing, twice there, or cannot be read as a whole.
    """
    file = _file(data_folder(root, name, "phrases.*"))
    problems, images, refs = Problems(), dict[str, ImageRow](), list[RefRow]()
    known: set[str] = set()
    for number, row in enumerate(phrase_rows(file), 1):
        ref = _ref(Fields(row, f"{file} [{number}]", problems), number, images)
        known.add(ref.split)
        if ref.split in splits:
            refs.append(ref)
    for split in splits:
        if split not in known:
            raise ParameterError(f"split {split!r} does not exist in {file}; {nearest(split, known)}")
    used = {ref.image_id for ref in refs}
    return ReferData(
        name,
        images=tuple(image for image in images.values() if image.image_id in used),
        annotations=(),
        refs=tuple(refs),
        problems=tuple(problems),
    )


def _ref(fields: Fields, number: int, images: dict[str, ImageRow]) -> RefRow:
    phrase = fields.text("phrase")
    faulty = fields.status
    if not faulty and is_blank(phrase):
        faulty = "phrase: blank"
        fields.note(faulty)
    split = fields.text("split") if fields.row.get("split") not in (None, "") else WHOLE
    before, image = fields.status, fields.text("image")
    if fields.row.get("image") == "":
        fields.fault("image: expected the path of a file, got an empty one")
    elif image and (reason := unsafe_name(image)):
        fields.fault(reason)
    image_id = NO_ID
    if fields.status == before:
        image_id = images.setdefault(image, ImageRow(len(images) + 1, image, 0, 0, "")).image_id
    sentence = SentenceRow(number, phrase, faulty)
    return RefRow(number, (), image_id, NO_ID, "", split, (split,), (sentence,), fields.status)


def _file(folder: Path) -> Path:
    found = [file for file in _candidates(folder) if file.is_file()]
    if len(found) != 1:
        names = " or ".join(file.name for file in _candidates(folder))
        raise DataError(
            f"{folder}: expected one of {names}, found {' and '.join(f.name for f in found) or 'none'}; {REMEDY}"
        )
    return found[0]


def _candidates(folder: Path) -> list[Path]:
    return [folder / f"phrases.{form}" for form in FORMS]


def _needed(folder: Path, choice: Choice) -> list[Path]:
    """The file that is there; else the first form, which can be named as missing."""
    return [file for file in _candidates(folder) if file.is_file()] or _candidates(folder)[:1]


KINDS.add(
    DatasetKind(
        name="phrases",
        module=__name__,
        layout=f"phrases.csv (or {', '.join(f'.{form}' for form in FORMS[1:])}) with the columns image and phrase",
        files=_needed,
        read=lambda root, folder, choice: read_phrases(root, folder, choice.splits),
        annotated=False,
        upright=True,
    )
)
