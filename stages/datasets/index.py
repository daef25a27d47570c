"""Stage index: all chosen data sets as one list of images, with their refs, expressions and ground-truth masks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal

from pydantic import Field

from stages.base import Context, Listed, Summary
from stages.base import Params as BaseParams
from stages.base import Paths as BasePaths
from stages.datasets.fields import NO_ID
from stages.datasets.ground_truth import annotation_mask_rle
from stages.datasets.refer import AnnotationRow, ImageRow, ReferData, RefRow, read_refer
from stages.images import open_image
from store.errors import DataError
from store.masks import areas
from store.ragged import offsets_of
from store.table import as_rows, write_table


class Choice(BaseParams):
    """Which refs of which REFER files."""

    folder: str = Field("", description="folder below that of all annotations; the data set's name by default")
    images: str = Field("", description="folder below the image root that holds its images; the root by default")
    split_by: str = Field(description="who split it: unc, umd, google: <folder>/refs(<split_by>).p")
    splits: Listed[str] = Field(
        min_length=1, description="as the release matches them: testA takes every split with an A"
    )


class Params(BaseParams):
    """The data sets, by the name under which they appear in the metrics."""

    datasets: dict[str, Choice] = Field(min_length=1, description="name in the metrics -> which refs")
    polygon_overlap: Literal["union", "reference"] = Field(
        "union", description="pixels under two polygons of one object: inside, or dropped as in the released code"
    )


class Paths(BasePaths):
    annotations: Path
    images: Path
    index: Path
    outputs: ClassVar[tuple[str, ...]] = ("index",)


@dataclass
class _Image:
    """One image of the union, and why it cannot be used; ``instances`` are the distinct masks of its annotated objects."""

    name: str
    height: int
    width: int
    status: str
    image_id: int = NO_ID
    digest: str = ""
    instances: dict[bytes, None] = field(default_factory=dict)


@dataclass
class _Ref:
    image: str
    group: int
    row: RefRow
    mask: bytes
    status: str


@dataclass
class _Union:
    """What the data sets add up to; images by file name, since all data sets share one image root."""

    images: dict[str, _Image] = field(default_factory=dict)
    refs: list[_Ref] = field(default_factory=list)


def run(params: Params, paths: Paths, context: Context) -> Summary:
    """Write the index table. Faulty rows stay in it with a status."""
    summary = Summary()
    union = _Union()
    groups: list[tuple[str, str]] = []
    with summary.timed("read"):
        for name, choice in params.datasets.items():
            data = read_refer(paths.annotations, choice.folder or name, choice.split_by, choice.splits)
            summary.skipped += [f"{problem.where}: {problem.reason}" for problem in data.problems]
            first = len(groups)
            groups += [(name, split) for split in dict.fromkeys(choice.splits)]
            group_of = {split: first + i for i, split in enumerate(dict.fromkeys(choice.splits))}
            summary.skipped += _add(union, data, choice, group_of, params)
    images = [union.images[name] for name in sorted(union.images)]
    with summary.timed("digest images"):
        for image in context.track(images, "images"):
            _open(image, paths.images)
    columns = _columns(images, union.refs)
    summary.skipped += [f"{image.name}: {image.status}" for image in images if image.status]
    origins = {
        name: {"folder": choice.folder or name, "split_by": choice.split_by} for name, choice in params.datasets.items()
    }
    write_table(paths.index, "index", columns, params.config(), {}, groups=groups, origins=origins)
    summary.read = {"data sets": len(params.datasets)}
    summary.wrote = {
        "images": len(images),
        "refs": len(columns["ref_id"]),
        "expressions": len(columns["expression_id"]),
    }
    return summary


def _add(union: _Union, data: ReferData, choice: Choice, group_of: dict[str, int], params: Params) -> list[str]:
    """Add a data set to the union; return what is odd about masks that can be used all the same."""
    images = {image.image_id: image for image in data.images}
    annotations = {annotation.annotation_id: annotation for annotation in data.annotations}
    notes: list[str] = []
    for ref in data.refs:
        image = _image(union, images.get(ref.image_id), ref, data, choice.images)
        mask, status, odd = _truth(ref, annotations.get(ref.annotation_id), image, params)
        union.refs += [_Ref(image.name, group_of[split], ref, mask, status) for split in ref.splits]
        notes += [f"{data.name} ref {ref.ref_id}: {reason}" for reason in odd]
    referred = {ref.annotation_id for ref in data.refs}
    for annotation in data.annotations:
        row = images.get(annotation.image_id)
        if row is not None and row.file_name and (not annotation.iscrowd or annotation.annotation_id in referred):
            image = union.images[name_below_root(row, choice.images)]
            notes += [f"{data.name} {reason}" for reason in _add_instance(image, annotation, params)]
    return notes


def _add_instance(image: _Image, annotation: AnnotationRow, params: Params) -> list[str]:
    """Add an annotated object's mask to its image; return why it has none."""
    try:
        rle = annotation_mask_rle(annotation.segmentation, image.height, image.width, params.polygon_overlap)
    except DataError as error:
        return [f"annotation {annotation.annotation_id}: not among the image's objects: {error}"]
    counts: bytes = rle["counts"]  # type: ignore[assignment]
    if not areas([counts], image.height, image.width)[0]:
        return [f"annotation {annotation.annotation_id}: not among the image's objects: it has no pixel"]
    image.instances.setdefault(counts)
    return []


def name_below_root(row: ImageRow, folder: str) -> str:
    """An image's file name relative to the image root."""
    return f"{folder}/{row.file_name}" if folder else row.file_name


def _image(union: _Union, row: ImageRow | None, ref: RefRow, data: ReferData, folder: str) -> _Image:
    """The ref's image in the union; a placeholder without a file where the annotations have none that is usable."""
    if row is None or not row.file_name:
        found = _Image(f"{data.name}: image {ref.image_id}", 1, 1, "not in instances.json, or without a file name")
    else:
        found = _Image(name_below_root(row, folder), max(row.height, 1), max(row.width, 1), row.status, row.image_id)
    known = union.images.setdefault(found.name, found)
    if (known.height, known.width) != (found.height, found.width) and not known.status:
        known.status = (
            f"{data.name} says {found.width} x {found.height}, another data set {known.width} x {known.height} "
            f"(width x height); correct instances.json"
        )
    return known


def _truth(
    ref: RefRow, annotation: AnnotationRow | None, image: _Image, params: Params
) -> tuple[bytes, str, list[str]]:
    """Ground-truth counts, the ref's status (why it cannot be evaluated), and what is odd about a usable mask."""
    if ref.status or annotation is None:
        return b"", ref.status or f"annotation {ref.annotation_id} is not among the annotations", []
    odd: list[str] = []
    try:
        rle = annotation_mask_rle(annotation.segmentation, image.height, image.width, params.polygon_overlap, odd)
    except DataError as error:
        return b"", f"annotation {ref.annotation_id}: {error}", []
    counts: bytes = rle["counts"]  # type: ignore[assignment]
    if not areas([counts], image.height, image.width)[0]:
        odd.append("the ground truth has no pixel: its IoU is 0 whatever is chosen")
    return counts, "", odd


def _open(image: _Image, root: Path) -> None:
    """Fill in the file's digest, and the status where the file cannot be used."""
    if image.status:
        return
    try:
        image.digest, size = open_image(root, image.name)
    except DataError as error:
        image.status = str(error)
        return
    if size != (image.height, image.width):
        image.status = (
            f"the file is {size[1]} x {size[0]}, the annotations say {image.width} x {image.height} (width x height); "
            f"they belong to another version of the image"
        )


def _columns(images: Sequence[_Image], refs: Sequence[_Ref]) -> dict[str, Any]:
    row_of = {image.name: row for row, image in enumerate(images)}
    ordered = sorted(refs, key=lambda ref: (row_of[ref.image], ref.group))
    sentences = [(row, sentence) for row, ref in enumerate(ordered) for sentence in ref.row.sentences]
    return {
        "image_name": [image.name for image in images],
        "image_size": as_rows([(image.height, image.width) for image in images], "int32", 2),
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
        "expression_raw": [sentence.raw for _, sentence in sentences],
    }
