"""Proposals of any generator through COCO result JSON: [{image_id, segmentation, score, category_id}, ...].

A row names its image by ``file_name`` where it has one, otherwise by ``image_id``. What is wrong with a row costs that row
alone; what is wrong with the file as a whole is an error.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from stages.contract import Summary
from stages.datasets.fields import NO_ID, is_number, shown, whole_number
from stages.datasets.ground_truth import annotation_mask_rle
from stages.proposals.items import item_of, no_proposals
from stages.proposals.registry import SOURCES, Found, ProposalSource, Request
from store.errors import DataError, reason
from store.regular import read_regular
from store.segmentation import areas
from store.table import Table
from store.usable import Lost, require_usable
from store.work import Item

_REMEDY = "name another file in propose.input, or have the generator write it again"
_FORM = (
    "expected rows of image_id, score and segmentation: polygons [[x, y, x, y, ...]] in pixels or an RLE of the image's "
    "[height, width]"
)
_SHOWN = 4


def read_items(
    file: Path,
    index: Table,
    limit: int,
    summary: Summary,
    track: Callable[[Sequence[Any], str], Iterable[Any]],
) -> list[Item]:
    """An item for each image of the index: its ``limit`` best proposals, highest score first, equal scores in the file's
    order. Adds to ``summary`` how many rows it read and, with the reason, those that it skipped.

    Raises:
        DataError: the file cannot be read or is no such JSON, only some of its rows have a score, no row is of an image
            of the index, or none of those rows can be used.
    """
    with summary.timed("read"):
        rows = _rows(file)
    reader = _Reader(file, index, _have_scores(file, rows), summary.skipped)
    with summary.timed("masks"):
        for number, row in enumerate(track(rows, "rows")):
            reader.add(number, row)
    reader.check(len(rows), summary)
    summary.read["rows"] = len(rows)
    summary.warnings += reader.warnings(len(rows), limit)
    with summary.timed("boxes"):
        return [reader.item(image, limit) for image in track(range(len(index["image_name"])), "images")]


class _Images:
    """The images of the index by id and by name. Ids of two data sets may coincide, ends of names too."""

    def __init__(self, index: Table) -> None:
        self._names: list[str] = index["image_name"]
        self._ids: list[int] = index["image_id"].tolist()
        self._of_id: dict[int, list[int]] = {}
        self._of_name = {name: [row] for row, name in enumerate(self._names)}
        self._of_end: dict[str, list[int]] = {}
        for row, (name, image_id) in enumerate(zip(self._names, self._ids, strict=True)):
            if image_id != NO_ID:
                self._of_id.setdefault(image_id, []).append(row)
            while "/" in name:
                name = name.partition("/")[2]
                self._of_end.setdefault(name, []).append(row)

    def named_by(self, row: Mapping[str, Any]) -> tuple[str, list[int]]:
        """What a row calls its image, and the images that this may be.

        A ``file_name`` is a name of the index, or its end after a "/": the images of a data set may lie in a folder.

        Raises:
            DataError: it calls it nothing, or by something that is no id and no name.
        """
        name, image_id = row.get("file_name"), row.get("image_id")
        if isinstance(name, str):
            return f"file_name {name}", self._of_name.get(name) or self._of_end.get(name, [])
        if name is not None:
            raise DataError(f"file_name: expected text, got {shown(name)}")
        number = image_id if type(image_id) is int else whole_number(image_id)
        if number is None:
            raise DataError(f"image_id: expected an integer, got {shown(image_id)}")
        return f"image_id {shown(number).partition(' ')[2]}", self._of_id.get(number, [])

    def shown(self, rows: Iterable[int]) -> str:
        return _listed(f"image_id {self._ids[row]} ({self._names[row]})" for row in rows)


class _Reader:
    """Sorts the rows of a file to the images of the index; ``skipped`` gets a line for each that cannot be used."""

    def __init__(self, file: Path, index: Table, scored: bool, skipped: list[str]) -> None:
        self._file, self._scored, self._skipped = file, scored, skipped
        self._images = _Images(index)
        self._sizes = [(int(height), int(width)) for height, width in index["image_size"]]
        self._usable = [not status for status in index["image_status"]]
        self._proposals: list[list[tuple[float, bytes]]] = [[] for _ in self._usable]
        self._rows_of = [0] * len(self._usable)
        self._unknown_images: dict[str, int] = {}
        self._rows_of_unusable = 0
        self._lost: list[Lost] = []
        self._read_as_id: list[object] = []

    def add(self, number: int, row: object) -> None:
        """Take in one row of the file."""
        where = f"{self._file} [{number}]"
        try:
            if not isinstance(row, dict):
                raise DataError(f"expected an object, got {shown(row)}")
            if row.get("file_name") is None and whole_number(row.get("image_id")) is not None:
                self._read_as_id.append(row["image_id"])
            called, candidates = self._images.named_by(row)
            if not candidates:
                self._unknown_images[called] = self._unknown_images.get(called, 0) + 1
                return
            for image in candidates:
                self._rows_of[image] += 1
            if len(candidates) > 1:
                raise DataError(f"{called} may be any of {self._images.shown(candidates)}; add the whole file_name")
            if self._usable[image]:
                score = _score(row) if self._scored else 1.0
                self._proposals[image].append((score, self._mask(row, image, where)))
            else:
                self._rows_of_unusable += 1
        except DataError as error:
            self._skipped.append(f"{where}: {error}")
            self._lost.append(Lost("unusable row", str(error), where))

    def _mask(self, row: Mapping[str, Any], image: int, where: str) -> bytes:
        height, width = self._sizes[image]
        odd: list[str] = []
        segmentation = row.get("segmentation")
        if _is_normalised(segmentation):
            raise DataError(
                "segmentation: expected pixels, got numbers from 0 to 1; multiply x by the width, y by the height"
            )
        rle = annotation_mask_rle(segmentation, height, width, skipped=odd)
        counts: bytes = rle["counts"]  # type: ignore[assignment]
        if not areas([counts], height, width)[0]:
            raise DataError("segmentation: the mask has no pixel")
        self._skipped += [f"{where}: {reason}; the rest of the mask is used" for reason in odd]
        return counts

    def check(self, rows: int, summary: Summary) -> None:
        """Raise a DataError if no row is of an image of the index (the file belongs to other images), or none is usable."""
        if any(self._rows_of):
            ours = rows - sum(self._unknown_images.values()) - self._rows_of_unusable
            if ours:
                require_usable(summary, f"rows of {self._file}", ours, self._lost, f"{_FORM}; {_REMEDY}")
            return
        theirs = _listed(self._unknown_images) if self._unknown_images else (self._skipped or ["it has no row"])[0]
        raise DataError(
            f"{self._file}: expected proposals for images of the index, such as "
            f"{self._images.shown(range(len(self._usable)))}; got {rows} rows, none of them of such an image: {theirs}; "
            f"{_REMEDY} (a row may name its image by file_name, too)"
        )

    def warnings(self, rows: int, limit: int) -> list[str]:
        """What holds for the file as a whole."""
        unknown = sum(self._unknown_images.values())
        too_many = sum(max(0, len(proposals) - limit) for proposals in self._proposals)
        warnings = [
            (not self._scored, "no row has a score: all count as 1.0, and the file's order is kept"),
            (
                self._read_as_id,
                f"{len(self._read_as_id)} of {rows} rows have no integer as image_id, such as "
                f"{shown((self._read_as_id or [0])[0])}; taken for the integer",
            ),
            (unknown, f"{unknown} of {rows} rows are of images that no chosen data set has"),
            (
                self._rows_of_unusable,
                f"{self._rows_of_unusable} of {rows} rows are of images that cannot be used (see stage index)",
            ),
            (too_many, f"{too_many} of {rows} rows are not among the {limit} best of their image (max_proposals)"),
        ]
        return [f"{self._file}: {text}" for holds, text in warnings if holds]

    def item(self, image: int, limit: int) -> Item:
        """The proposals of an image, best first."""
        best = sorted(self._proposals[image], key=lambda proposal: -proposal[0])[:limit]
        if best:
            scores, counts = zip(*best, strict=True)
            height, width = self._sizes[image]
            return item_of(counts, scores, height, width)
        named = self._rows_of[image]
        return no_proposals(
            f"no usable proposal in {self._file.name}, where {named} rows name the image"
            if named
            else f"no proposal in {self._file.name}"
        )


def _rows(file: Path) -> list[Any]:
    expected = f"{file}: expected COCO result JSON, a list of rows with image_id, segmentation and score"
    try:
        rows = json.loads(read_regular(file))
    except OSError as error:
        raise DataError(f"{expected}; the file cannot be read ({reason(error)}); {_REMEDY}") from error
    except (ValueError, RecursionError) as error:
        raise DataError(f"{expected}; this is no JSON ({reason(error)}); {_REMEDY}") from error
    if not isinstance(rows, list):
        raise DataError(f"{expected}, got {shown(rows)}; {_REMEDY}")
    return rows


def _have_scores(file: Path, rows: Sequence[object]) -> bool:
    """Whether the rows have scores.

    Raises:
        DataError: only some have.
    """
    lacking = [number for number, row in enumerate(rows) if isinstance(row, dict) and "score" not in row]
    if lacking and any(isinstance(row, dict) and "score" in row for row in rows):
        raise DataError(
            f"{file} [{lacking[0]}]: expected a score as in other rows, found none ({len(lacking)} of {len(rows)} rows "
            f"have none); give one to every row, or to none to keep the file's order"
        )
    return not lacking


def _score(row: Mapping[str, Any]) -> float:
    if not is_number(row["score"]):
        raise DataError(f"score: expected a finite number, got {shown(row['score'])}")
    return float(row["score"])


def _is_normalised(segmentation: object) -> bool:
    """Whether polygons are given in shares of the image: all numbers lie from 0 to 1."""
    polygons = segmentation if isinstance(segmentation, list) else []
    numbers = [number for polygon in polygons if isinstance(polygon, list) for number in polygon]
    return bool(numbers) and all(is_number(number) and 0 <= number <= 1 for number in numbers)


def _listed(names: Iterable[str]) -> str:
    listed = list(names)
    more = f" and {len(listed) - _SHOWN} more" if len(listed) > _SHOWN else ""
    return ", ".join(listed[:_SHOWN]) + more


def _propose(request: Request) -> Found:
    """The masks that the file has for the images of the index."""
    limit, config = request.values["max_proposals"], {**request.values, "input": request.input_digest()}
    return read_items(request.input, request.index, limit, request.summary, request.context.track), config


SOURCES.add(
    ProposalSource(
        name="coco",
        module=__name__,
        propose=_propose,
        parameters=("max_proposals",),
        input="mask proposals, COCO result JSON (docs/data.md, 'Proposals of another source')",
    )
)
