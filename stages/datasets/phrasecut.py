"""Reading PhraseCut: one ref for each phrase, whose target is the union of one or more instances.

``refer_<split>.json`` lists the phrases (task_id, image_id, Polygons, instance_boxes, phrase, phrase_structure),
``image_data_split3000.json`` the images of Visual Genome; an image's file is ``<image_id>.jpg``. ``Polygons`` goes from
instance to polygon to point [x, y] in pixels. A faulty row never stops the reading (``stages/datasets/rows.py``): a
polygon that cannot be used is left out of its instance and an instance without one out of its phrase, each noted; a phrase
without any instance is a faulty ref.

Ids: PhraseCut's own ``task_id`` is text, so a ref's id, which is its only sentence's too, is the number in the first 13
hexadecimal digits of the SHA-256 of the ``task_id`` (52 bits: exact in a float64 and in JavaScript too). It depends neither
on the split nor on the order of the file. Messages name the ``task_id``. Categories have a name and no id. Instances are
numbered in the order of reading.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from stages.datasets.counts import Counts
from stages.datasets.fields import NO_ID, Fields, Problems, is_blank, is_number, shown, text_number
from stages.datasets.files import REMEDY, data_folder, read_json
from stages.datasets.registry import KINDS, Choice, DatasetKind, Split
from stages.datasets.rows import AnnotationRow, ImageRow, ReferData, RefRow, SentenceRow
from store.errors import DataError, ParameterError, nearest

IMAGES_FILE = "image_data_split3000.json"
SCORED_SPLITS = ("val", "test")
COUNTS: dict[Split, Counts] = {
    ("phrasecut", "all", "val"): Counts(20316, 2971, 20316),
    ("phrasecut", "all", "test"): Counts(14354, 2545, 14354),
}
"""(phrasecut, categories, split) -> published counts; one sentence, the phrase, for each ref."""
_INPUT_ONLY = "input_"
"""``refer_input_<split>.json`` holds the phrases without their regions."""


def phrases_file(folder: Path, split: str) -> Path:
    """Where the phrases of ``split`` lie."""
    return folder / f"refer_{split}.json"


def task_number(task_id: str) -> int:
    """The int64 id that stands for a ``task_id``, 0 to 2^52 - 1."""
    return text_number(task_id)


def read_phrasecut(root: Path, name: str, splits: Sequence[str]) -> ReferData:
    """Read ``refer_<split>.json`` of every split and ``image_data_split3000.json`` below ``<root>/<name>``.

    Raises:
        ParameterError: the data set or a split does not exist; with those that do.
        DataError: a file is missing or cannot be read as a whole.
    """
    folder = data_folder(root, name, "refer_*.json")
    problems = Problems()
    files = _files(folder, splits)
    images = _read_images(folder / IMAGES_FILE, problems)
    refs: dict[int, RefRow] = {}
    rows: list[RefRow] = []
    instances: list[AnnotationRow] = []
    for split, file in files.items():
        for fields in _rows(file, problems):
            ref, its_instances = _ref(fields, split, refs, images, len(instances))
            refs.setdefault(ref.ref_id, ref)
            rows.append(ref)
            instances += its_instances
    used = {ref.image_id for ref in rows}
    return ReferData(
        name,
        images=tuple(images[image_id] for image_id in sorted(used & images.keys())),
        annotations=tuple(instance for instance in instances if instance.image_id in images),
        refs=tuple(rows),
        problems=tuple(problems),
    )


def _files(folder: Path, splits: Sequence[str]) -> dict[str, Path]:
    """The phrases file of each split, once it is sure that all are there."""
    known = {path.name[len("refer_") : -len(".json")]: path for path in folder.glob("refer_*.json")}
    known = {split: path for split, path in known.items() if not split.startswith(_INPUT_ONLY)}
    if not known:
        raise DataError(f"{folder}: expected refer_<split>.json, found no such file at all; {REMEDY}")
    for split in splits:
        if split not in known:
            raise ParameterError(f"split {split!r} does not exist in {folder}; {nearest(split, known)}")
    if not (folder / IMAGES_FILE).is_file():
        raise DataError(f"{folder / IMAGES_FILE}: expected the images of PhraseCut, found no such file; {REMEDY}")
    return {split: known[split] for split in splits}


def _rows(path: Path, problems: Problems) -> Iterator[Fields]:
    expected = "a JSON list with a dict for each row"
    rows = read_json(path, expected)
    if not isinstance(rows, list):
        raise DataError(f"{path}: expected {expected}, got {type(rows).__name__}; fetch the file again")
    for number, row in enumerate(rows):
        task_id = row.get("task_id") if isinstance(row, dict) else None
        named = f" task_id {task_id!r}" if isinstance(task_id, str) else ""
        yield Fields(row, f"{path} [{number}]{named}", problems)


def _read_images(path: Path, problems: Problems) -> dict[int, ImageRow]:
    images: dict[int, ImageRow] = {}
    for fields in _rows(path, problems):
        image_id = fields.new_id("image_id", images)
        width, height = fields.integer("width"), fields.integer("height")
        if width == 0 or height == 0:
            fields.fault(f"expected a size of 1 pixel or more, got {width} x {height} (width x height)")
        images.setdefault(image_id, ImageRow(image_id, f"{image_id}.jpg", width, height, fields.status))
    images.pop(NO_ID, None)
    return images


def _ref(
    fields: Fields, split: str, known: dict[int, RefRow], images: dict[int, ImageRow], first: int
) -> tuple[RefRow, list[AnnotationRow]]:
    """A phrase and its instances, whose ids count from ``first``."""
    phrase = fields.text("phrase")
    phrase_status = fields.status
    if not phrase_status and is_blank(phrase):
        phrase_status = "phrase: blank"
        fields.note(phrase_status)
    ref_id, image_id, category = _ref_id(fields, known), fields.identifier("image_id"), _category(fields)
    image = images.get(image_id)
    if image_id != NO_ID and (image is None or image.status):
        fields.fault(f"image {image_id}: {image.status if image else f'is not in {IMAGES_FILE}'}")
    instances = list(_instances(fields, first, image_id, category))
    usable = tuple(instance.annotation_id for instance in instances if not instance.status)
    if instances and not usable:
        fields.fault("Polygons: none of its instances can be used")
    sentences = (SentenceRow(ref_id, phrase, phrase_status),)
    return RefRow(ref_id, usable, image_id, NO_ID, category, split, (split,), sentences, fields.status), instances


def _ref_id(fields: Fields, known: dict[int, RefRow]) -> int:
    task_id = fields.text("task_id")
    if not task_id:
        if fields.row.get("task_id") == "":
            fields.fault("task_id: expected text, got an empty one")
        return NO_ID
    number = task_number(task_id)
    if number in known:
        fields.fault(f"task_id {task_id!r} appears a second time; the first row holds")
    return number


def _category(fields: Fields) -> str:
    """The category's name; a missing one spoils nothing but its own name."""
    structure = fields.row.get("phrase_structure")
    if not isinstance(structure, dict):
        fields.note(f"phrase_structure: expected a dict, got {shown(structure)}")
        return ""
    return Fields(structure, f"{fields.where} phrase_structure", fields.problems).text("name")


def _instances(fields: Fields, first: int, image_id: int, category: str) -> Iterator[AnnotationRow]:
    """The instances of a phrase, each with its usable polygons; ids count from ``first``."""
    listed, boxes = fields.row.get("Polygons"), fields.row.get("instance_boxes")
    if not isinstance(listed, list) or not listed:
        fields.fault(f"Polygons: expected a list of one or more instances, got {shown(listed)}")
        return
    if not isinstance(boxes, list) or len(boxes) != len(listed):
        fields.note(
            f"instance_boxes: expected a list of {len(listed)} boxes, one for each instance, got {shown(boxes)}"
        )
        boxes = [None] * len(listed)
    for number, (polygons, box) in enumerate(zip(listed, boxes, strict=True)):
        instance = Fields({}, f"{fields.where} Polygons[{number}]", fields.problems)
        usable = list(_usable(instance, polygons))
        if not usable:
            instance.fault("expected a list of polygons with one or more that can be used; the instance is left out")
        yield AnnotationRow(
            first + number,
            image_id,
            NO_ID,
            category,
            segmentation=usable,
            iscrowd=False,
            bbox=_box(instance, box),
            area=None,
            status=instance.status,
        )


def _usable(instance: Fields, polygons: object) -> Iterator[list[float]]:
    """The polygons of 3 points or more, in COCO's form [x, y, x, y, ...]; the others are noted."""
    for number, polygon in enumerate(polygons if isinstance(polygons, list) else []):
        points = polygon if isinstance(polygon, list) else []
        if len(points) >= 3 and all(_is_point(point) for point in points):
            yield [float(value) for point in points for value in point]
        else:
            instance.note(f"polygon {number} left out: expected 3 or more points [x, y], got {shown(polygon)}")


def _is_point(value: Any) -> bool:
    return isinstance(value, list) and len(value) == 2 and all(map(is_number, value))


def _box(instance: Fields, box: object) -> tuple[float, float, float, float] | None:
    if isinstance(box, list) and len(box) == 4 and all(map(is_number, box)):
        x, y, width, height = map(float, box)
        return x, y, width, height
    if box is not None:
        instance.note(f"instance_boxes: expected 4 numbers, got {shown(box)}")
    return None


def listed_images(file: Path) -> frozenset[str]:
    """File names of the images that ``image_data_split3000.json`` lists for the splits that are scored.

    Raises:
        DataError: the file is missing, is no JSON or has another form.
    """
    rows = read_json(file, "PhraseCut's list of images (image_id, split)")
    try:
        return frozenset(f"{int(row['image_id'])}.jpg" for row in rows if row["split"] in SCORED_SPLITS)
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(
            f"{file}: expected PhraseCut's list of images (image_id, split), got {type(error).__name__}: {error}"
        ) from error


def _needed(folder: Path, choice: Choice) -> list[Path]:
    return [*(phrases_file(folder, split) for split in choice.splits), folder / IMAGES_FILE]


def _published(origin: Mapping[str, Any], split: str) -> Split:
    return ("phrasecut", str(origin.get("categories", "all")), split)


KINDS.add(
    DatasetKind(
        name="phrasecut",
        module=__name__,
        layout=f"refer_<split>.json for each split, and {IMAGES_FILE}",
        files=_needed,
        read=lambda root, folder, choice: read_phrasecut(root, folder, choice.splits),
        published_split=_published,
        counts=COUNTS,
        listed_images=listed_images,
    )
)
