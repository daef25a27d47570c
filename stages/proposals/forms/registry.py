"""The forms in which masks of other generators lie in a file or a folder: one record each.

``stages.proposals.from_masks`` reads what any of them yields. The files of this room add their records
(``stages.proposals.forms.known`` imports them); a file of the profile's ``extensions/proposals`` may add its own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from stages.proposals.forms.given import Given
from store.registry import Record, Registry

Track = Callable[[Sequence[Any], str], Iterable[Any]]
"""Wraps a sequence to show progress under a label."""
UNSCORED = object()
"""The score of a row that has none."""


@dataclass(frozen=True, slots=True)
class Shares:
    """Polygons [[x, y, x, y, ...], ...] in shares of the image's width and height, 0 to 1."""

    polygons: list[list[float]]


@dataclass(frozen=True, slots=True)
class MaskRow:
    """One mask as a generator wrote it; whoever reads it checks its values.

    Attributes:
        where: the file and row, for messages.
        image_id, file_name: what it calls its image; None for nothing. A ``file_name`` counts before an ``image_id``.
        segmentation: COCO's polygons or RLE, a mask bool (H, W), or ``Shares``.
        score: confidence, higher is better, or ``UNSCORED``.
        fault: why this is no mask at all; "" for one.
    """

    where: str
    image_id: object = None
    file_name: object = None
    segmentation: object = None
    score: object = UNSCORED
    fault: str = ""


@dataclass(frozen=True)
class Document:
    """A JSON value that holds masks.

    Attributes:
        recognises: whether a value is one, by its own keys.
        rows: (value, where it stands, name of the image it is about where it does not say: "" for none) -> its masks.
    """

    recognises: Callable[[object], bool]
    rows: Callable[[Any, str, str], Iterator[MaskRow]]


@dataclass(frozen=True, kw_only=True)
class MaskForm(Record):
    """A form of masks.

    Attributes:
        meaning: what it looks like, for messages.
        recognises: whether a file or folder is of this form, by its own content.
        rows: its masks in order; what cannot be read is a row with a ``fault``.
        document: for a form that is one JSON value: such a value may stand in a JSON Lines file and in a folder, too.
    """

    meaning: str
    recognises: Callable[[Given], bool]
    rows: Callable[[Given, Track], Iterable[MaskRow]]
    document: Document | None = None


FORMS: Registry[MaskForm] = Registry("form of masks", room="proposals")
