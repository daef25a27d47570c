"""Reading RefCOCO-M from Parquet: a row for each image, with its pixels and ``samples``, each a mask and its sentences.

A mask is an RLE {"size": [height, width], "counts": ...}, as a struct or as JSON text, or a picture that is 0 outside; a
sentence is a text, or a struct with ``raw`` or ``sent``. An image is called by ``file_name``, the path of its picture,
``image_id`` or its row, in this order. A sample is a ref. An ``image_id`` of digits is the image's id; other ids are numbers
made of names.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from stages.datasets import parquet
from stages.datasets.counts import Counts
from stages.datasets.fields import Fields, Problem, Problems, shown, text_number, whole_number
from stages.datasets.refer import refer_data
from stages.datasets.registry import KINDS, Choice, DatasetKind, Split
from stages.datasets.rows import ReferData
from store.errors import DataError
from store.images import MOST_PIXELS, opened_picture
from store.segmentation import encode

_COLUMNS = ("image", "samples", "file_name", "image_id")
_PUBLISHED: Split = ("refcoco-m", "all", "val")


def read_refcoco_m(root: Path, name: str, splits: Sequence[str]) -> ReferData:
    """The refs of the Parquet files ``<split>-*.parquet`` below ``<root>/<name>``.

    Raises:
        CodeError: pyarrow is not installed.
        ParameterError: the data set or a split does not exist; with those that do.
        DataError: a file cannot be read as a whole.
    """
    files = parquet.files_by_split(parquet.found_files(root, name), splits)
    problems = Problems()
    images: list[Fields] = []
    annotations: list[Fields] = []
    refs: list[tuple[Fields, str, tuple[str, ...]]] = []
    for split, number, where, row in _rows(files):
        image = _image(row, split, number, where, problems)
        images.append(Fields(image, where, problems))
        samples = row.get("samples")
        if not isinstance(samples, list):
            problems.append(Problem(where, f"samples: expected a list of masks and sentences, got {shown(samples)}"))
            samples = []
        for position, sample in enumerate(samples):
            sample, place = parquet.as_object(sample), f"{where} samples[{position}]"
            key = f"{split} {image['file_name']} {position}"
            ref_id = text_number(key)
            segmentation = _segmentation(sample.get("mask"), place, problems)
            annotation = {"id": ref_id, "image_id": image["id"], "segmentation": segmentation}
            annotations.append(Fields(annotation, place, problems))
            ref = {"ref_id": ref_id, "ann_id": ref_id, "image_id": image["id"], "sentences": _sentences(sample, key)}
            refs.append((Fields(ref, place, problems), split, (split,)))
    return refer_data(name, refs, images, annotations, {}, problems)


def pictures(root: Path, name: str, choice: Choice) -> Iterator[tuple[str, bytes]]:
    """File name and contents of each image. Raises what ``read_refcoco_m`` raises."""
    files = parquet.files_by_split(parquet.found_files(root, name), choice.splits)
    for split, number, where, row in _rows(files):
        try:
            data = parquet.picture_bytes(row.get("image"))
            yield _file_name(row, split, number, parquet.picture_size(data)[2]), data
        except DataError as error:
            raise DataError(f"{where}: {error}; fetch the file again") from error


def _rows(files: Mapping[str, Sequence[Path]]) -> Iterator[tuple[str, int, str, dict[str, Any]]]:
    """Split, number in it, place and contents of each row."""
    for split, its_files in files.items():
        for number, (where, row) in enumerate(parquet.rows(its_files, _COLUMNS)):
            yield split, number, where, row


def _image(row: Mapping[str, Any], split: str, number: int, where: str, problems: Problems) -> dict[str, Any]:
    """An image with REFER's keys; without a size where its picture cannot be opened."""
    image: dict[str, Any] = {}
    extension = ".jpg"
    try:
        image["width"], image["height"], extension = parquet.picture_size(parquet.picture_bytes(row.get("image")))
    except DataError as error:
        problems.append(Problem(where, str(error)))
    file_name = _file_name(row, split, number, extension)
    image_id = row.get("image_id")
    known = image_id if type(image_id) is int else whole_number(image_id)
    return {**image, "id": text_number(file_name) if known is None else known, "file_name": file_name}


def _file_name(row: Mapping[str, Any], split: str, number: int, extension: str) -> str:
    path = parquet.as_object(row.get("image")).get("path")
    names = (row.get("file_name"), PurePosixPath(path).name if isinstance(path, str) else None, row.get("image_id"))
    name = next((str(name) for name in names if isinstance(name, str | int) and str(name)), f"{split}_{number:06d}")
    return name if PurePosixPath(name).suffix else f"{name}{extension}"


def _segmentation(mask: object, where: str, problems: Problems) -> object:
    """A mask as an RLE; as it stands where it is none, which is then the object's fault."""
    rle = parquet.as_object(mask)
    if "counts" in rle:
        return dict(rle)
    if isinstance(mask, bytes) or "bytes" in rle:
        try:
            data = parquet.picture_bytes(mask)
            width, height, _ = parquet.picture_size(data)
            if width * height > MOST_PIXELS:
                raise DataError(f"{width} x {height} has more than {MOST_PIXELS:,} pixels")
            with opened_picture(io.BytesIO(data)) as picture:
                values = np.asarray(picture.convert("L")) > 0
            return {"size": list(values.shape), "counts": encode(values[None])[0]}
        except (DataError, OSError, SyntaxError, ValueError) as error:
            problems.append(Problem(where, f"mask: {error}"))
            return None
    return mask


def _sentences(sample: Mapping[str, Any], key: str) -> list[Any]:
    """The sentences with REFER's keys."""
    listed = sample.get("sentences")
    texts = listed if isinstance(listed, list) else [listed] if listed is not None else []
    return [
        {**(dict(text) if isinstance(text, Mapping) else {"raw": text}), "sent_id": text_number(f"{key} {number}")}
        for number, text in enumerate(texts)
    ]


KINDS.add(
    DatasetKind(
        name="refcoco_m",
        module=__name__,
        layout="<split>-*.parquet of RefCOCO-M, a row for each image",
        files=lambda folder, choice: parquet.parquet_files(folder),
        read=lambda root, folder, choice: read_refcoco_m(root, folder, choice.splits),
        published_split=lambda origin, split: _PUBLISHED if origin.get("categories", "all") == "all" else None,
        counts={_PUBLISHED: Counts(2080, 1190, 5598)},
        pictures=pictures,
    )
)
