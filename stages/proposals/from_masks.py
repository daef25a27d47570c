"""Proposal sources masks and coco: the masks of any generator, from a file or folder of any form in ``stages/proposals/forms``.

The form is recognised by the content. What is wrong with a row costs that row alone; what is wrong with the file or folder as a
whole is an error.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from stages.contract import Summary
from stages.datasets.fields import is_number, shown, whole_number
from stages.datasets.ground_truth import annotation_mask_rle
from stages.proposals.forms.known import REMEDY, recognised
from stages.proposals.forms.registry import UNSCORED, MaskRow, Shares, Track
from stages.proposals.image_names import ImageNames, listed
from stages.proposals.items import item_of, no_proposals
from stages.proposals.registry import SOURCES, Found, ProposalSource, Request
from store.errors import DataError
from store.segmentation import areas, encode
from store.table import Table
from store.usable import Lost, require_usable
from store.work import Item

_FORM = (
    "expected the image's id or name, a score, and a mask: polygons [[x, y, x, y, ...]] in pixels, or an RLE or array of the "
    "image's [height, width]"
)


def read_items(path: Path, index: Table, limit: int, summary: Summary, track: Track) -> list[Item]:
    """An item for each image of the index: its ``limit`` best proposals, highest score first, equal scores in the order of
    the file or folder. Adds to ``summary`` how many rows it read and, with the reason, those that it skipped.

    Raises:
        DataError: the file or folder cannot be read or is of no known form, only some of its rows have a score, no row is of
            an image of the index, or none of those rows can be used.
    """
    with summary.timed("read"):
        form, given = recognised(path)
    reader = _Reader(path, index, summary.skipped)
    with summary.timed("masks"):
        try:
            for row in form.rows(given, track):
                reader.add(row)
        except (OSError, DataError) as error:  # of a file as a whole; what is wrong with a row is in it
            raise DataError(f"{path}: cannot be read to its end ({error}); {REMEDY}") from error
    reader.check(summary)
    summary.read["rows"] = reader.rows
    summary.warnings += reader.warnings(limit)
    with summary.timed("boxes"):
        return [reader.item(image, limit) for image in track(range(len(index["image_name"])), "images")]


class _Reader:
    """Sorts the rows to the images of the index; ``skipped`` gets a line for each that cannot be used."""

    def __init__(self, path: Path, index: Table, skipped: list[str]) -> None:
        self._path, self._skipped = path, skipped
        self.rows = 0
        self._images = ImageNames(index)
        self._sizes = [(int(height), int(width)) for height, width in index["image_size"]]
        self._usable = [not status for status in index["image_status"]]
        self._proposals: list[list[tuple[float, bytes]]] = [[] for _ in self._usable]
        self._rows_of = [0] * len(self._usable)
        self._unknown_images: dict[str, int] = {}
        self._rows_of_unusable = 0
        self._lost: list[Lost] = []
        self._read_as_id: list[object] = []
        self._scored = 0
        self._unscored: list[str] = []

    def add(self, row: MaskRow) -> None:
        """Take in one row."""
        self.rows += 1
        try:
            self._add(row)
        except DataError as error:
            self._skipped.append(f"{row.where}: {error}")
            self._lost.append(Lost("unusable row", str(error), row.where))

    def _add(self, row: MaskRow) -> None:
        if row.fault:
            raise DataError(row.fault)
        if row.score is UNSCORED:
            self._unscored.append(row.where)
        else:
            self._scored += 1
        if row.file_name is None and whole_number(row.image_id) is not None:
            self._read_as_id.append(row.image_id)
        called, candidates = self._images.named_by(row.file_name, row.image_id)
        if not candidates:
            self._unknown_images[called] = self._unknown_images.get(called, 0) + 1
            return
        for image in candidates:
            self._rows_of[image] += 1
        if len(candidates) > 1:
            raise DataError(f"{called} may be any of {self._images.shown(candidates)}; add the whole file_name")
        (image,) = candidates
        if self._usable[image]:
            score = 1.0 if row.score is UNSCORED else _score(row.score)
            self._proposals[image].append((score, self._mask(row, image)))
        else:
            self._rows_of_unusable += 1

    def _mask(self, row: MaskRow, image: int) -> bytes:
        height, width = self._sizes[image]
        odd: list[str] = []
        if isinstance(row.segmentation, np.ndarray):
            counts = _encoded(row.segmentation, height, width)
        else:
            segmentation = _in_pixels(row.segmentation, height, width)
            rle = annotation_mask_rle(segmentation, height, width, skipped=odd)
            counts = rle["counts"]  # type: ignore[assignment]
        if not areas([counts], height, width)[0]:
            raise DataError("segmentation: the mask has no pixel")
        self._skipped += [f"{row.where}: {reason}; the rest of the mask is used" for reason in odd]
        return counts

    def check(self, summary: Summary) -> None:
        """Raise a DataError if only some rows have a score, if no row is of an image of the index (the masks belong to other
        images), or if none is usable."""
        if self._unscored and self._scored:
            raise DataError(
                f"{self._unscored[0]}: expected a score as in other rows, found none ({len(self._unscored)} of {self.rows} "
                f"rows have none); give one to every row, or to none to keep the order"
            )
        if any(self._rows_of):
            ours = self.rows - sum(self._unknown_images.values()) - self._rows_of_unusable
            if ours:
                require_usable(summary, f"rows of {self._path}", ours, self._lost, f"{_FORM}; {REMEDY}")
            return
        theirs = listed(self._unknown_images) if self._unknown_images else (self._skipped or ["it has no row"])[0]
        raise DataError(
            f"{self._path}: expected proposals for images of the index, such as "
            f"{self._images.shown(range(len(self._usable)))}; got {self.rows} rows, none of them of such an image: {theirs}; "
            f"{REMEDY} (a row may name its image by file_name, too)"
        )

    def warnings(self, limit: int) -> list[str]:
        """What holds for the file or folder as a whole."""
        unknown = sum(self._unknown_images.values())
        too_many = sum(max(0, len(proposals) - limit) for proposals in self._proposals)
        warnings = [
            (self.rows and not self._scored, "no row has a score: all count as 1.0, and the file's order is kept"),
            (
                self._read_as_id,
                f"{len(self._read_as_id)} of {self.rows} rows have no integer as image_id, such as "
                f"{shown((self._read_as_id or [0])[0])}; taken for the integer",
            ),
            (unknown, f"{unknown} of {self.rows} rows are of images that no chosen data set has"),
            (
                self._rows_of_unusable,
                f"{self._rows_of_unusable} of {self.rows} rows are of images that cannot be used (see stage index)",
            ),
            (too_many, f"{too_many} of {self.rows} rows are not among the {limit} best of their image (max_proposals)"),
        ]
        return [f"{self._path}: {text}" for holds, text in warnings if holds]

    def item(self, image: int, limit: int) -> Item:
        """The proposals of an image, best first."""
        best = sorted(self._proposals[image], key=lambda proposal: -proposal[0])[:limit]
        if best:
            scores, counts = zip(*best, strict=True)
            height, width = self._sizes[image]
            return item_of(counts, scores, height, width)
        named = self._rows_of[image]
        return no_proposals(
            f"no usable proposal in {self._path.name}, where {named} rows name the image"
            if named
            else f"no proposal in {self._path.name}"
        )


def _score(value: object) -> float:
    if not is_number(value):
        raise DataError(f"score: expected a finite number, got {shown(value)}")
    return float(value)  # type: ignore[arg-type]


def _encoded(mask: np.ndarray[tuple[int, ...], np.dtype[np.bool_]], height: int, width: int) -> bytes:
    """RLE counts of a mask bool (H, W)."""
    if mask.shape != (height, width):
        raise DataError(
            f"mask: expected {height} x {width} (height x width) as the image has, got {mask.shape[0]} x {mask.shape[1]}"
        )
    return encode(mask[None])[0]


def _in_pixels(segmentation: object, height: int, width: int) -> object:
    """A segmentation in COCO's form; polygons in shares are scaled where their form says that they are, else refused."""
    if isinstance(segmentation, Shares):
        if not all(is_number(number) and -1 <= number <= 2 for polygon in segmentation.polygons for number in polygon):
            raise DataError("polygon: expected shares of the image, from 0 to 1, got others")
        return [
            [number * (width, height)[place % 2] for place, number in enumerate(polygon)]
            for polygon in segmentation.polygons
        ]
    if _is_normalised(segmentation):
        raise DataError(
            "segmentation: expected pixels, got numbers from 0 to 1; multiply x by the width, y by the height"
        )
    return segmentation


def _is_normalised(segmentation: object) -> bool:
    """Whether polygons are given in shares of the image: all numbers lie from 0 to 1."""
    polygons = segmentation if isinstance(segmentation, list) else []
    numbers = [number for polygon in polygons if isinstance(polygon, list) for number in polygon]
    return bool(numbers) and all(is_number(number) and 0 <= number <= 1 for number in numbers)


def _propose(request: Request) -> Found:
    """The masks that the file or folder has for the images of the index."""
    limit, config = request.values["max_proposals"], {**request.values, "input": request.contents_digest()}
    return read_items(request.input, request.index, limit, request.summary, request.context.track), config


for _name in ("masks", "coco"):  # coco: the name of this source in earlier params files
    SOURCES.add(
        ProposalSource(
            name=_name,
            module=__name__,
            propose=_propose,
            parameters=("max_proposals",),
            input="mask proposals of any form, a file or a folder (docs/data.md, 'Masks from anywhere')",
        )
    )
