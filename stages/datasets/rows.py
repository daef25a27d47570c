"""What a reader of any data set yields: images, annotated objects, refs and their sentences, and every fault.

A faulty row is kept with a ``status`` that says why it cannot be used ("" for a good row), and each fault is a
``Problem``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from stages.datasets.fields import Problem


@dataclass(frozen=True, slots=True)
class ImageRow:
    """An image; ``file_name`` is relative to the image root, sizes are pixels as declared, 0 where only the file says."""

    image_id: int
    file_name: str
    width: int
    height: int
    status: str


@dataclass(frozen=True, slots=True)
class AnnotationRow:
    """An annotated object; ``segmentation`` is COCO's polygons or RLE as written, ``bbox`` XYWH in pixels."""

    annotation_id: int
    image_id: int
    category_id: int
    category: str
    segmentation: Any
    iscrowd: bool
    bbox: tuple[float, float, float, float] | None
    area: float | None
    status: str


@dataclass(frozen=True, slots=True)
class SentenceRow:
    """One sentence of a ref; ``raw`` as annotated, blank where there is none: then ``status`` says why."""

    sentence_id: int
    raw: str
    status: str


@dataclass(frozen=True, slots=True)
class RefRow:
    """What one ref names: the union of the objects ``annotation_ids``, one in REFER, one or more in PhraseCut,
    none where the kind has no ground truth.

    ``split`` is the file's own value, ``splits`` the chosen ones it is in (at least one).
    """

    ref_id: int
    annotation_ids: tuple[int, ...]
    image_id: int
    category_id: int
    category: str
    split: str
    splits: tuple[str, ...]
    sentences: tuple[SentenceRow, ...]
    status: str


@dataclass(frozen=True, slots=True)
class ReferData:
    """What the chosen splits need.

    Attributes:
        name: the data set's folder.
        images: the images that a ref lies in, by ascending id.
        annotations: all annotated objects of these images, in file order.
        refs: the refs of the chosen splits, in file order.
        problems: every fault of the files. A ref whose split cannot be read, or an image or annotation whose id
            cannot, appears here only.
        warnings: what holds for the files as a whole and changes what the metrics are of.
    """

    name: str
    images: tuple[ImageRow, ...]
    annotations: tuple[AnnotationRow, ...]
    refs: tuple[RefRow, ...]
    problems: tuple[Problem, ...]
    warnings: tuple[str, ...] = ()
