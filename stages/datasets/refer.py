"""Reading one REFER data set: images, annotations, refs and their sentences, with every fault recorded.

A faulty row never stops the reading: it is kept with a ``status`` that says why it cannot be used ("" for a good row),
and each fault is a ``Problem``. Only a file that cannot be read as a whole, or a choice that does not exist, is an
error.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from stages.datasets.counts import Counts
from stages.datasets.fields import NO_ID, Fields, Problem, Problems, is_number, shown, unsafe_name
from stages.datasets.files import REMEDY, data_folder, read_json
from stages.datasets.registry import KINDS, Choice, DatasetKind, Split
from stages.datasets.rows import AnnotationRow, ImageRow, ReferData, RefRow, SentenceRow
from store.errors import DataError, ParameterError, nearest
from store.untrusted import load_refs

_SENTENCES = ("sentences",)
COUNTS: dict[Split, Counts] = {
    ("refcoco", "unc", "val"): Counts(3811, 1500, 10834),
    ("refcoco", "unc", "testA"): Counts(1975, 750, 5657),
    ("refcoco", "unc", "testB"): Counts(1810, 750, 5095),
    ("refcoco+", "unc", "val"): Counts(3805, 1500, 10758, _SENTENCES),
    ("refcoco+", "unc", "testA"): Counts(1975, 750, 5726, _SENTENCES),
    ("refcoco+", "unc", "testB"): Counts(1798, 750, 4889, _SENTENCES),
    ("refcocog", "umd", "val"): Counts(2573, 1300, 4896, _SENTENCES),
    ("refcocog", "umd", "test"): Counts(5023, 2600, 9602, _SENTENCES),
    ("refcocog", "google", "val"): Counts(5000, 4650, 9536, _SENTENCES),
}
"""(folder, split_by, split) -> published counts."""


def in_split(value: str, split: str) -> bool:
    """Whether a ref whose split is ``value`` belongs to ``split``, by the release's ``getRefIds``.

    "testA", "testB" and "testC" take any value that contains their last letter, "test" any that contains "test".
    """
    if split in ("testA", "testB", "testC"):
        return split[-1] in value
    return "test" in value if split == "test" else value == split


def read_refer(root: Path, name: str, split_by: str, splits: Sequence[str]) -> ReferData:
    """Read ``<root>/<name>/refs(<split_by>).p`` and ``<root>/<name>/instances.json``.

    Raises:
        ParameterError: the data set, the split_by or a split does not exist; with those that do.
        DataError: a file is missing or cannot be read as a whole.
    """
    refs_file, instances_file = _files(root, name, split_by)
    problems = Problems()
    chosen = _choose(load_refs(refs_file), splits, refs_file, problems)
    instances = _read_instances(instances_file)
    categories: dict[int, str] = {}
    for fields in _rows(instances, "categories", instances_file, problems):
        categories.setdefault(fields.new_id("id", categories), fields.text("name"))
    categories.pop(NO_ID, None)
    images = _rows(instances, "images", instances_file, problems)
    annotations = _rows(instances, "annotations", instances_file, problems)
    return refer_data(name, chosen, images, annotations, categories, problems)


Chosen = tuple[Fields, str, tuple[str, ...]]
"""A row of the refs, its own split, and the chosen ones it is in."""


def refer_data(
    name: str,
    chosen: Iterable[Chosen],
    image_rows: Iterable[Fields],
    annotation_rows: Iterable[Fields],
    categories: Mapping[int, str],
    problems: Problems,
) -> ReferData:
    """What rows with REFER's keys say, wherever they stand; ``problems`` are those of all these rows."""
    images: dict[int, ImageRow] = {}
    for fields in image_rows:
        image = _image(fields, fields.new_id("id", images))
        images.setdefault(image.image_id, image)
    annotations: dict[int, AnnotationRow] = {}
    for fields in annotation_rows:
        annotation = _annotation(fields, fields.new_id("id", annotations), images, categories)
        annotations.setdefault(annotation.annotation_id, annotation)
    images.pop(NO_ID, None)
    annotations.pop(NO_ID, None)
    refs: dict[int, RefRow] = {}
    rows = []
    for fields, split, its_splits in chosen:
        ref = _ref(fields, fields.new_id("ref_id", refs), split, its_splits, images, annotations, categories)
        refs.setdefault(ref.ref_id, ref)
        rows.append(ref)
    used = {ref.image_id for ref in rows}
    return ReferData(
        name,
        images=tuple(images[image_id] for image_id in sorted(used & images.keys())),
        annotations=tuple(a for a in annotations.values() if a.image_id in used),
        refs=tuple(rows),
        problems=tuple(problems),
    )


def _files(root: Path, name: str, split_by: str) -> tuple[Path, Path]:
    folder = data_folder(root, name, "refs(*).p")
    refs = {path.name[len("refs(") : -len(").p")]: path for path in folder.glob("refs(*).p")}
    if not refs:
        raise DataError(f"{folder}: expected refs({split_by}).p, found no refs file at all; {REMEDY}")
    if split_by not in refs:
        raise ParameterError(f"split_by {split_by!r} does not exist in {folder}; {nearest(split_by, refs)}")
    instances = folder / "instances.json"
    if not instances.is_file():
        raise DataError(f"{instances}: expected the images and annotations of {name}, found no such file; {REMEDY}")
    return refs[split_by], instances


def _choose(rows: list[Any], splits: Sequence[str], path: Path, problems: Problems) -> list[Chosen]:
    """The rows of the chosen splits, each with its own split and the chosen ones it belongs to."""
    chosen, values = [], set()
    for number, row in enumerate(rows):
        value = row.get("split") if isinstance(row, dict) else None
        if not isinstance(value, str):
            problems.append(Problem(f"{path} [{number}]", "has no readable split, so it is in none"))
            continue
        values.add(value)
        its_splits = tuple(split for split in dict.fromkeys(splits) if in_split(value, split))
        if its_splits:
            chosen.append((Fields(row, f"{path} [{number}]", problems), value, its_splits))
    for split in splits:
        if not any(in_split(value, split) for value in values):
            raise ParameterError(f"split {split!r} does not exist in {path}; {nearest(split, values)}")
    return chosen


def _read_instances(path: Path) -> dict[str, Any]:
    expected = "JSON with the lists images, annotations and categories"
    data: dict[str, Any] = read_json(path, expected)
    for key in ("images", "annotations", "categories"):
        if not isinstance(data, dict) or not isinstance(data.get(key), list):
            raise DataError(f"{path}: expected {expected}, found no list {key!r}; fetch the file again")
    return data


def _rows(instances: Mapping[str, Any], key: str, path: Path, problems: Problems) -> Iterator[Fields]:
    for number, row in enumerate(instances[key]):
        yield Fields(row, f"{path} {key}[{number}]", problems)


def _image(fields: Fields, image_id: int) -> ImageRow:
    file_name, width, height = fields.text("file_name"), fields.integer("width"), fields.integer("height")
    if file_name and (reason := unsafe_name(file_name)):
        fields.fault(reason)
    if width == 0 or height == 0:
        fields.fault(f"expected a size of 1 pixel or more, got {width} x {height} (width x height)")
    return ImageRow(image_id, file_name, width, height, fields.status)


def _annotation(
    fields: Fields, annotation_id: int, images: Mapping[int, ImageRow], categories: Mapping[int, str]
) -> AnnotationRow:
    image_id = fields.identifier("image_id")
    if image_id != NO_ID and image_id not in images:
        fields.fault(f"image {image_id} is not among the images")
    segmentation = fields.row.get("segmentation")
    if not isinstance(segmentation, list | dict) or not segmentation:
        fields.fault(f"segmentation: expected polygons or an RLE, got {shown(segmentation)}")
    bbox, area = fields.row.get("bbox"), fields.row.get("area")
    box = tuple(map(float, bbox)) if isinstance(bbox, list) and all(map(is_number, bbox)) else ()
    if len(box) != 4 and bbox is not None:
        fields.note(f"bbox: expected 4 numbers, got {shown(bbox)}")
    if not is_number(area) and area is not None:
        fields.note(f"area: expected a number, got {shown(area)}")
    return AnnotationRow(
        annotation_id,
        image_id,
        *fields.category(categories),
        segmentation=segmentation,
        iscrowd=fields.row.get("iscrowd") in (1, True),
        bbox=box if len(box) == 4 else None,
        area=float(area) if area is not None and is_number(area) else None,
        status=fields.status,
    )


def _ref(
    fields: Fields,
    ref_id: int,
    split: str,
    splits: tuple[str, ...],
    images: Mapping[int, ImageRow],
    annotations: Mapping[int, AnnotationRow],
    categories: Mapping[int, str],
) -> RefRow:
    image_id, annotation_ids = fields.identifier("image_id"), _annotation_ids(fields)
    image = images.get(image_id)
    if image_id != NO_ID and (image is None or image.status):
        fields.fault(f"image {image_id}: {image.status if image else 'is not among the images'}")
    for annotation_id in annotation_ids:
        annotation = annotations.get(annotation_id)
        if annotation is None or annotation.status:
            reason = annotation.status if annotation else "is not among the annotations"
            fields.fault(f"annotation {annotation_id}: {reason}")
        elif image and annotation.image_id != image_id:
            fields.fault(f"annotation {annotation_id} is of image {annotation.image_id}, the ref of image {image_id}")
    listed = fields.row.get("sentences")
    if not isinstance(listed, list) or not listed:
        fields.fault(f"sentences: expected a list of one or more, got {shown(listed)}")
    sentences = tuple(_sentences(listed if isinstance(listed, list) else [], fields))
    category_id, category = fields.category(categories)
    return RefRow(ref_id, annotation_ids, image_id, category_id, category, split, splits, sentences, fields.status)


def _annotation_ids(fields: Fields) -> tuple[int, ...]:
    """The objects of a ref: its ``ann_id``, in Ref-ZOM a list of several or none; a ref of none is faulty."""
    listed = fields.row.get("ann_id")
    if not isinstance(listed, list):
        number = fields.identifier("ann_id")
        return () if number == NO_ID else (number,)
    if not [number for number in listed if number != NO_ID]:
        fields.fault("ann_id: it names no object (a sentence without a target)")
        return ()
    each = [Fields({"ann_id": number}, fields.where, fields.problems) for number in listed]
    numbers = tuple(item.identifier("ann_id") for item in each)
    if faults := [item.status for item in each if item.status]:
        fields.fault("; ".join(faults))
    return tuple(dict.fromkeys(number for number in numbers if number != NO_ID))


def _sentences(rows: list[Any], ref: Fields) -> Iterator[SentenceRow]:
    for number, row in enumerate(rows):
        fields = Fields(row, f"{ref.where} sentences[{number}]", ref.problems)
        text = _text(fields)
        yield SentenceRow(fields.identifier("sent_id"), text, fields.status)


def _text(sentence: Fields) -> str:
    """The sentence as annotated: its `raw`, else its `sent`, else its `tokens`; a fault where none has words."""
    readings = {key: sentence.words(key) for key in ("raw", "sent", "tokens")}
    for key, (text, reason) in readings.items():
        if not reason:
            if key != "raw":
                sentence.note_once(key, f"{readings['raw'][1]}; read from {key}")
            return text
    if not sentence.status:
        sentence.fault("; ".join(reason for _, reason in readings.values()))
    return next((text for text, _ in readings.values() if text), "")


def _published(origin: Mapping[str, Any], split: str) -> Split | None:
    """(folder, split_by, split); publications have all categories."""
    if origin.get("categories", "all") != "all":
        return None
    return (PurePosixPath(str(origin.get("folder", ""))).name, str(origin.get("split_by", "")), split)


def _needed(folder: Path, choice: Choice) -> list[Path]:
    return [folder / f"refs({choice.split_by}).p", folder / "instances.json"]


KINDS.add(
    DatasetKind(
        name="refer",
        module=__name__,
        layout="refs(<split_by>).p and instances.json, as REFER has them; a split testA takes every one with an A",
        files=_needed,
        read=lambda root, folder, choice: read_refer(root, folder, choice.split_by, choice.splits),
        split_by="who split it (unc, umd, google)",
        polygon_rule=True,
        published_split=_published,
        counts=COUNTS,
    )
)
