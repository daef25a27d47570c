"""Stage index: all chosen data sets as one list of images, with their refs, expressions and ground-truth masks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, ClassVar

from pydantic import AfterValidator, Field

from stages.contract import Context, Summary
from stages.contract import Params as BaseParams
from stages.contract import Paths as BasePaths
from stages.datasets.choice import differing_counts, origin, read
from stages.datasets.fields import NO_ID, is_blank
from stages.datasets.ground_truth import Overlap, annotation_mask_rle, union
from stages.datasets.registry import KINDS, Choice
from stages.datasets.rows import AnnotationRow, ImageRow, ReferData, RefRow, SentenceRow
from store.document import RUN
from store.errors import DataError, TransientError
from store.images import open_image
from store.ragged import offsets_of
from store.segmentation import Rle, areas
from store.states import State
from store.table import as_rows, write_table
from store.usable import Lost, require_usable

MOST_CHARACTERS = 10_000
"""Of a sentence: CLIP reads some 300, and spaCy takes 10 kB of memory for each, and no more than a million."""


def _free_name(name: str) -> str:
    if name == RUN:
        raise ValueError(f"{RUN!r} stands for the run itself in the metrics; give the data set another name")
    return name


class Params(BaseParams):
    """The data sets, by the name under which they appear in the metrics."""

    datasets: dict[Annotated[str, AfterValidator(_free_name)], Choice] = Field(
        min_length=1, description="name in the metrics -> which refs"
    )
    polygon_overlap: Overlap = Field(
        "union",
        description="kinds with the rule (refer): pixels under two polygons of one object are inside, or dropped as in the "
        "released code",
    )


class Paths(BasePaths):
    annotations: Path
    images: Path
    index: Path
    outputs: ClassVar[tuple[str, ...]] = ("index",)


@dataclass
class _Image:
    """One image of the union, and why it cannot be used; ``instances`` are the distinct masks of its annotated objects.

    ``height`` and ``width`` are 0 until the file says them, where the annotations do not. ``upright``: see `DatasetKind`.
    """

    name: str
    height: int
    width: int
    status: str
    image_id: int = NO_ID
    digest: str = ""
    upright: bool = False
    instances: dict[bytes, None] = field(default_factory=dict)


@dataclass
class _Ref:
    image: str
    group: int
    row: RefRow
    mask: bytes
    status: str


@dataclass
class _Masks:
    """The masks of a data set's annotated objects by annotation id: RLE, or why there is none; and what was left out."""

    rle: dict[int, Rle] = field(default_factory=dict)
    reason: dict[int, str] = field(default_factory=dict)
    odd: dict[int, list[str]] = field(default_factory=dict)


@dataclass
class _Union:
    """What the data sets add up to; images by file name, since all data sets share one image root."""

    images: dict[str, _Image] = field(default_factory=dict)
    refs: list[_Ref] = field(default_factory=list)


def run(params: Params, paths: Paths, context: Context) -> Summary:
    """Write the index table. Faulty rows stay in it with a status.

    Raises:
        DataError: none of a data set's refs, images or sentences can be used.
    """
    summary = Summary()
    merged = _Union()
    groups: list[tuple[str, str]] = []
    with summary.timed("read"):
        for name, choice in params.datasets.items():
            data = read(paths.annotations, name, choice)
            summary.skipped += [f"{problem.where}: {problem.reason}" for problem in data.problems]
            summary.warnings += _warnings(name, choice, data)
            first = len(groups)
            groups += [(name, split) for split in choice.splits]
            group_of = {split: first + i for i, split in enumerate(choice.splits)}
            summary.skipped += _add(merged, data, choice, group_of, params)
    images = [merged.images[name] for name in sorted(merged.images)]
    absent: list[str] = []
    with summary.timed("digest images"):
        for image in context.track(images, "images"):
            absent += _open(image, paths.images)
    for name in params.datasets:
        _require_usable(name, [ref for ref in merged.refs if groups[ref.group][0] == name], merged.images, summary)
    summary.transient = absent
    columns = _columns(images, merged.refs)
    summary.skipped += [f"{image.name}: {image.status}" for image in images if image.status]
    origins = {name: origin(name, choice) for name, choice in params.datasets.items()}
    more = {"groups": groups, "origins": origins, "losses": summary.losses}
    write_table(paths.index, "index", columns, params.config(), {}, **more)
    summary.read = {"data sets": len(params.datasets)}
    summary.wrote = {
        "images": len(images),
        "refs": len(columns["ref_id"]),
        "expressions": len(columns["expression_id"]),
    }
    return summary


def _require_usable(name: str, refs: Sequence[_Ref], known: Mapping[str, _Image], summary: Summary) -> None:
    """Count what of data set ``name`` cannot be used; an error where that is all of it."""
    images = {ref.image: known[ref.image] for ref in refs}
    sentences = [(ref, sentence) for ref in refs for sentence in ref.row.sentences]
    faulty = [
        Lost(State.NO_GROUND_TRUTH, ref.status, f"ref {ref.row.ref_id}")
        for ref in refs
        if ref.status
        and not (ref.row.sentences and all(map(_fault_of, ref.row.sentences)))  # else its sentences are counted
    ]
    unreadable = [Lost(State.UNREADABLE_IMAGE, i.status, i.name) for i in images.values() if i.status]
    blank = [
        Lost(State.FAULTY_SENTENCE, _fault_of(s), f"ref {ref.row.ref_id}, sentence {s.sentence_id}")
        for ref, s in sentences
        if _fault_of(s)
    ]
    files = "correct the annotations, or choose others (index.datasets)"
    there = f"are they in the folder that images (and below it index.datasets.{name}.images) names?"
    require_usable(summary, f"refs of data set {name}", len(refs), faulty, files, "check splits and categories")
    if refs:
        require_usable(summary, f"images of data set {name}", len(images), unreadable, there)
        require_usable(summary, f"sentences of data set {name}", len(sentences), blank, files)


def _fault_of(sentence: SentenceRow) -> str:
    """Why a sentence cannot be used; one that lacks only its id can."""
    if len(sentence.raw) > MOST_CHARACTERS:
        return f"{len(sentence.raw):,} characters, expected at most {MOST_CHARACTERS:,}"
    return sentence.status if is_blank(sentence.raw) else ""


def _warnings(name: str, choice: Choice, data: ReferData) -> list[str]:
    """What the reader warns of, and where the refs are fewer or more than published, which are those of all categories."""
    own = [f"data set {name}: {warning}" for warning in data.warnings]
    return [*own, *(differing_counts(name, choice, data.refs) if choice.categories == "all" else ())]


def _add(merged: _Union, data: ReferData, choice: Choice, group_of: dict[str, int], params: Params) -> list[str]:
    """Add a data set to the union; return what is odd about masks that can be used all the same."""
    rows = {row.image_id: row for row in data.images}
    kind = KINDS[choice.kind]
    images = [_image(merged, rows.get(ref.image_id), ref, data, choice) for ref in data.refs]
    masks, notes = _Masks(), []
    overlap = params.polygon_overlap if kind.polygon_rule else "union"
    referred = {annotation_id for ref in data.refs for annotation_id in ref.annotation_ids}
    for annotation in data.annotations:
        row = rows.get(annotation.image_id)
        if row is not None and row.file_name and (not annotation.iscrowd or annotation.annotation_id in referred):
            image = merged.images[name_below_root(row, choice.images)]
            notes += [f"{data.name} {reason}" for reason in _add_instance(image, annotation, masks, overlap)]
    for ref, image in zip(data.refs, images, strict=True):
        mask, status, odd = _truth(ref, image, masks) if kind.annotated else (b"", ref.status, [])
        merged.refs += [_Ref(image.name, group_of[split], ref, mask, status) for split in ref.splits]
        notes += [f"{data.name} ref {ref.ref_id}: {reason}" for reason in odd]
    return notes


def _add_instance(image: _Image, annotation: AnnotationRow, masks: _Masks, overlap: Overlap) -> list[str]:
    """Add an annotated object's mask to ``masks`` and to its image; return why it is none of the image's objects."""
    key = annotation.annotation_id
    try:
        masks.odd[key] = []
        masks.rle[key] = annotation_mask_rle(
            annotation.segmentation, image.height, image.width, overlap, masks.odd[key]
        )
    except DataError as error:
        masks.reason[key] = annotation.status or str(error)
        return [f"annotation {key}: not among the image's objects: {masks.reason[key]}"]
    counts: bytes = masks.rle[key]["counts"]  # type: ignore[assignment]
    if not areas([counts], image.height, image.width)[0]:
        return [f"annotation {key}: not among the image's objects: it has no pixel"]
    image.instances.setdefault(counts)
    return []


def name_below_root(row: ImageRow, folder: str) -> str:
    """An image's file name relative to the image root."""
    return f"{folder}/{row.file_name}" if folder else row.file_name


def _image(merged: _Union, row: ImageRow | None, ref: RefRow, data: ReferData, choice: Choice) -> _Image:
    """The ref's image in the union; a placeholder without a file where the annotations have none that is usable."""
    if row is None or not row.file_name:
        image = _Image(
            f"{data.name}: image {ref.image_id}", 1, 1, "not among the annotations' images, or without a file name"
        )
    else:
        image = _Image(name_below_root(row, choice.images), row.height, row.width, row.status, row.image_id)
        image.upright = KINDS[choice.kind].upright
    known = merged.images.setdefault(image.name, image)
    if known.upright != image.upright and not known.status:
        known.status = "taken upright, by EXIF, by one data set and as stored by another; copy it under a name for each"
    if 0 in (known.height, known.width):
        known.height, known.width = image.height, image.width
    declared = 0 not in (image.height, image.width)
    if declared and (known.height, known.width) != (image.height, image.width) and not known.status:
        known.status = (
            f"{data.name} says {image.width} x {image.height}, another data set {known.width} x {known.height} "
            f"(width x height); correct the annotations"
        )
    return known


def _truth(ref: RefRow, image: _Image, masks: _Masks) -> tuple[bytes, str, list[str]]:
    """Ground-truth counts, the ref's status (why it cannot be evaluated), and what is odd about a usable mask."""
    usable = [key for key in ref.annotation_ids if key in masks.rle]
    reasons = [f"annotation {key}: {masks.reason[key]}" for key in ref.annotation_ids if key in masks.reason]
    if ref.status or not usable:
        return b"", ref.status or "; ".join(reasons) or "it names no annotation", []
    odd = [*reasons, *(reason for key in usable for reason in masks.odd[key])]
    counts: bytes = union([masks.rle[key] for key in usable])["counts"]  # type: ignore[assignment]
    if not areas([counts], image.height, image.width)[0]:
        odd.append("the ground truth has no pixel: its IoU is 0 whatever is chosen")
    return counts, "", odd


def _open(image: _Image, root: Path) -> list[str]:
    """Fill in the file's digest, and the status where the file cannot be used; return a line where it is not there."""
    if image.status:
        return []
    try:
        image.digest, size = open_image(root, image.name, image.upright)
    except DataError as error:
        image.status = str(error)
        return [image.status] if isinstance(error, TransientError) else []
    if 0 in (image.height, image.width):
        image.height, image.width = size
    if size != (image.height, image.width):
        image.status = (
            f"the file is {size[1]} x {size[0]}, the annotations say {image.width} x {image.height} (width x height); "
            f"they belong to another version of the image"
        )
    return []


def _columns(images: Sequence[_Image], refs: Sequence[_Ref]) -> dict[str, Any]:
    row_of = {image.name: row for row, image in enumerate(images)}
    ordered = sorted(refs, key=lambda ref: (row_of[ref.image], ref.group))
    sentences = [(row, sentence) for row, ref in enumerate(ordered) for sentence in ref.row.sentences]
    return {
        "image_name": [image.name for image in images],
        "image_size": as_rows([(max(image.height, 1), max(image.width, 1)) for image in images], "int32", 2),
        "image_digest": [image.digest for image in images],
        "image_status": [image.status for image in images],
        "image_id": as_rows([image.image_id for image in images], "int64"),
        "instance_offsets": offsets_of(len(image.instances) for image in images),
        "instance_mask": [counts for image in images for counts in image.instances],
        "ref_id": as_rows([ref.row.ref_id for ref in ordered], "int64"),
        "ref_image": as_rows([row_of[ref.image] for ref in ordered], "int64"),
        "ref_group": as_rows([ref.group for ref in ordered], "int32"),
        "ref_category": [ref.row.category for ref in ordered],
        "ref_mask": [ref.mask for ref in ordered],
        "ref_status": [ref.status for ref in ordered],
        "expression_id": as_rows([sentence.sentence_id for _, sentence in sentences], "int64"),
        "expression_ref": as_rows([row for row, _ in sentences], "int64"),
        "expression_raw": [s.raw if len(s.raw) <= MOST_CHARACTERS else "" for _, s in sentences],
        "expression_status": [_fault_of(sentence) for _, sentence in sentences],
    }
