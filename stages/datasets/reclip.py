"""Reading ReCLIP's JSON Lines: ``<split>.jsonl``, on each line a ref: image_id, anns, ann_id and sentences, as in REFER.

``anns`` are the objects of the image. Those that have a box only get their mask from ``instances.json`` of the REFER data set,
if it lies in the same folder: the ids are COCO's. So do images without ``width`` and ``height``. ``file_name`` may lack where
it is that of COCO's train2014.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from stages.datasets.coco_categories import CATEGORY_NAMES
from stages.datasets.fields import Fields, Problem, Problems, text_number, whole_number
from stages.datasets.files import REMEDY, data_folder, read_json
from stages.datasets.refer import COUNTS, refer_data
from stages.datasets.registry import KINDS, Choice, DatasetKind, Split
from stages.datasets.rows import ReferData
from store.errors import DataError, ParameterError, nearest
from store.regular import read_regular

_ENDING = ".jsonl"
_INSTANCES = "instances.json"
_AUTHORS = {"refcoco": "unc", "refcoco+": "unc", "refcocog": "umd"}


def read_reclip(root: Path, name: str, splits: Sequence[str]) -> ReferData:
    """Read ``<root>/<name>/<split>.jsonl`` of every split, and ``instances.json`` where it is there.

    Raises:
        ParameterError: the data set or a split does not exist; with those that do.
        DataError: a file is missing or cannot be read as a whole.
    """
    folder = data_folder(root, name, f"*{_ENDING}")
    known = {file.name.removesuffix(_ENDING): file for file in folder.glob(f"*{_ENDING}")}
    if not known:
        raise DataError(f"{folder}: expected <split>{_ENDING}, found no such file at all; {REMEDY}")
    for split in splits:
        if split not in known:
            raise ParameterError(f"split {split!r} does not exist in {folder}; {nearest(split, known)}")
    whole_images, whole_objects = _instances(folder / _INSTANCES)
    problems = Problems()
    images: dict[Any, Fields] = {}
    annotations: dict[Any, Fields] = {}
    refs = []
    for split in splits:
        for number, where, row in _rows(known[split], problems):
            image = _image(row, whole_images)
            images.setdefault(repr(image["id"]), Fields(image, where, problems))
            for annotation in _objects(row, image["id"], whole_objects):
                annotations.setdefault(repr(annotation.get("id")), Fields(annotation, where, problems))
            refs.append((Fields(_ref(row, f"{split} {number}"), where, problems), split, (split,)))
    return refer_data(name, refs, images.values(), annotations.values(), CATEGORY_NAMES, problems)


def _rows(file: Path, problems: Problems) -> Iterator[tuple[int, str, Mapping[str, Any]]]:
    """Number, place and object of each line; a line that holds none is a problem, and a ref without anything."""
    try:
        lines = read_regular(file).splitlines()
    except OSError as error:
        raise DataError(f"{file}: expected JSON Lines, cannot read it ({error.strerror}); fetch it again") from error
    for number, line in enumerate(lines):
        if not line.strip():
            continue
        where = f"{file} line {number + 1}"
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            problems.append(Problem(where, f"this is no JSON ({error})"))
            row = {}
        yield number, where, row if isinstance(row, Mapping) else {}


def _instances(file: Path) -> tuple[dict[Any, Any], dict[Any, Any]]:
    """Image id -> image, annotation id -> annotation, of REFER's file; none without it."""
    if not file.is_file():
        return {}, {}
    value = read_json(file, "JSON with the lists images and annotations")
    return tuple(  # type: ignore[return-value]
        {row["id"]: row for row in (value.get(key) or []) if isinstance(row, dict) and isinstance(row.get("id"), int)}
        if isinstance(value, dict)
        else {}
        for key in ("images", "annotations")
    )


def _image(row: Mapping[str, Any], whole: Mapping[Any, Any]) -> dict[str, Any]:
    image_id = row.get("image_id")
    number = whole_number(image_id)
    known = whole.get(image_id if number is None and isinstance(image_id, int) else number, {})
    digits = image_id if isinstance(image_id, int) else number
    names = (row.get("file_name"), known.get("file_name"), f"COCO_train2014_{digits:012d}.jpg" if digits else None)
    size = {key: known.get(key) if row.get(key) is None else row[key] for key in ("width", "height")}
    return {"id": image_id, "file_name": next((name for name in names if name is not None), None), **size}


def _objects(row: Mapping[str, Any], image_id: object, whole: Mapping[Any, Any]) -> Iterator[dict[str, Any]]:
    """The objects of a line with REFER's keys."""
    listed = row.get("anns")
    for item in _dicts(listed):
        key = item.get("id")
        known = whole.get(key, {}) if isinstance(key, int) else {}
        yield {**known, **{name: value for name, value in item.items() if value}, "id": key, "image_id": image_id}


def _ref(row: Mapping[str, Any], key: str) -> dict[str, Any]:
    """A line with REFER's keys; ids that it lacks are numbers of its place."""
    sentences = row.get("sentences")
    listed = [
        {"sent_id": text_number(f"{key} {number}"), **(item if isinstance(item, dict) else {"raw": item})}
        for number, item in enumerate(sentences if isinstance(sentences, list) else [])
    ]
    named = row.get("ann_id")
    first = named[0] if isinstance(named, list) and named else named
    category = next((item.get("category_id") for item in _dicts(row.get("anns")) if item.get("id") == first), None)
    return {"ref_id": text_number(key), "category_id": category, **row, "sentences": listed}


def _dicts(listed: object) -> Iterable[dict[str, Any]]:
    return [item for item in listed if isinstance(item, dict)] if isinstance(listed, list) else []


def _published(origin: Mapping[str, Any], split: str) -> Split | None:
    """The split's name has the data set: refcoco_val, refcoco+_testA, refcocog_test."""
    dataset, _, part = split.rpartition("_")
    dataset = dataset.replace("plus", "+")
    known = dataset in _AUTHORS and origin.get("categories", "all") == "all"
    return (dataset, _AUTHORS[dataset], part) if known else None


def _needed(folder: Path, choice: Choice) -> list[Path]:
    return [folder / f"{split}{_ENDING}" for split in choice.splits]


KINDS.add(
    DatasetKind(
        name="reclip",
        module=__name__,
        layout=f"<split>{_ENDING}, as ReCLIP has them; {_INSTANCES} of REFER beside them where they have boxes only",
        files=_needed,
        read=lambda root, folder, choice: read_reclip(root, folder, choice.splits),
        polygon_rule=True,
        published_split=_published,
        counts=COUNTS,
    )
)
