"""Reading RefCOCO, RefCOCO+ and RefCOCOg from Parquet, in the layouts of ``jxu124`` and ``lmms-lab`` on the Hugging Face hub.

The columns say which layout a folder has:

- benchmark (``jxu124/refcoco-benchmark``): a row for each image, with its pixels (``image``), ``image_info``, ``ref_list``;
  a file is a split of one data set by one author, such as ``refcoco_unc_testA``. ``split_by`` names both: ``refcoco_unc``.
- refs (``jxu124/refcoco``, ``refcocoplus``, ``refcocog``): a row for each ref, annotations as JSON text in ``raw_anns`` and
  ``raw_image_info``, no pixels. The column ``split`` counts, not the file's name: there ``test`` is testA. By unc or umd.
- flat (``lmms-lab/RefCOCO``, ``RefCOCOplus``, ``RefCOCOg``): a row for each ref with its picture, sentences in ``answer``,
  and one flat polygon, so an object in parts has lost some. ``val`` mixes two authors' refs, see ``own_rows``.

Rows become those of REFER and are read as such. Only annotated objects that a ref names are in these files.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path, PurePosixPath
from typing import Any

from stages.datasets import parquet
from stages.datasets.coco_categories import CATEGORY_NAMES
from stages.datasets.fields import Fields, Problem, Problems, text_number
from stages.datasets.refer import COUNTS, refer_data
from stages.datasets.registry import KINDS, Choice, DatasetKind, Split
from stages.datasets.rows import ReferData
from store.errors import DataError, ParameterError, nearest

_COCO = re.compile(r"(COCO_(?:train|val)2014_(\d{12}))")
_AUTHORS = {"refcoco": "unc", "refcoco+": "unc", "refcocog": "umd"}
"""Who split a data set the way that has no image in two splits; the other one is google."""
_LAYOUTS = {
    "benchmark": ("ref_list", "image_info"),
    "refs": ("raw_anns", "raw_image_info"),
    "flat": ("answer", "segmentation"),
}
"""Layout -> columns that only it has."""
_MIXED = "val"


@dataclass
class _Found:
    """Rows with REFER's keys, and where each stood."""

    problems: Problems = field(default_factory=Problems)
    images: dict[Any, Fields] = field(default_factory=dict)
    annotations: dict[Any, Fields] = field(default_factory=dict)
    refs: list[tuple[Fields, str, tuple[str, ...]]] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)

    def add(self, where: str, split: str, image: Mapping[str, Any], annotation: Mapping[str, Any], ref: Any) -> None:
        """A ref, its object and its image; of an image or object that is there already, the first row counts."""
        for rows, row in ((self.images, image), (self.annotations, annotation)):
            if row and repr(row.get("id")) not in rows:
                rows[repr(row.get("id"))] = Fields(dict(row), where, self.problems)
        self.refs.append((Fields(ref, where, self.problems), split, (split,)))


def read_refcoco_parquet(root: Path, name: str, choice: Choice) -> ReferData:
    """The refs of ``choice.splits`` of the Parquet files below ``<root>/<name>``.

    Raises:
        CodeError: pyarrow is not installed.
        ParameterError: the data set, the split_by or a split does not exist; with those that do.
        DataError: a file cannot be read as a whole, is of no known layout, or mixes refs that cannot be told apart.
    """
    files = parquet.found_files(root, name)
    layout = _layout(files[0])
    found = _Found()
    if layout == "benchmark":
        _read_benchmark(files, choice, found)
    elif layout == "refs":
        _read_refs(files, name, choice, found)
    else:
        _read_flat(files, name, choice, found)
    data = refer_data(
        name, found.refs, found.images.values(), found.annotations.values(), CATEGORY_NAMES, found.problems
    )
    return ReferData(name, data.images, data.annotations, data.refs, data.problems, tuple(found.warnings))


def pictures(root: Path, name: str, choice: Choice) -> Iterator[tuple[str, bytes]]:
    """File name and contents of each image of ``choice.splits``, once.

    Raises:
        ParameterError: the layout has no pixels. And what ``read_refcoco_parquet`` raises.
    """
    files = parquet.found_files(root, name)
    layout = _layout(files[0])
    if layout == "refs":
        raise ParameterError(
            f"{files[0].parent}: these files hold no pixels; fetch COCO's: glimpse fetch data coco-train2014"
        )
    benchmark = layout == "benchmark"
    chosen = _benchmark_files(files, choice) if benchmark else parquet.files_by_split(files, choice.splits)
    known: set[str] = set()
    for where, row in parquet.rows([f for each in chosen.values() for f in each], ("image", "image_info", "file_name")):
        image = parquet.as_object(row.get("image_info")).get("file_name") if benchmark else row.get("file_name")
        file_name = image if benchmark else _image_name(str(image))
        if isinstance(file_name, str) and file_name not in known:
            known.add(file_name)
            try:
                yield file_name, parquet.picture_bytes(row.get("image"))
            except DataError as error:
                raise DataError(f"{where}: {error}; fetch the file again") from error


def _layout(file: Path) -> str:
    columns = parquet.column_names(file)
    for layout, own in _LAYOUTS.items():
        if all(name in columns for name in own):
            return layout
    expected = ", or ".join(" and ".join(own) for own in _LAYOUTS.values())
    raise DataError(
        f"{file}: expected the columns {expected}, found {', '.join(columns)}; docs/data.md names the layouts"
    )


def _benchmark_files(files: Sequence[Path], choice: Choice) -> dict[str, list[Path]]:
    """Split -> the files of ``<split_by>_<split>``."""
    known = {parquet.split_of(file).rpartition("_")[0] for file in files}
    if choice.split_by not in known:
        raise ParameterError(
            f"split_by {choice.split_by!r} does not exist in {files[0].parent}; {nearest(choice.split_by, known)}"
        )
    mine = [file for file in files if parquet.split_of(file).rpartition("_")[0] == choice.split_by]
    named = {split: f"{choice.split_by}_{split}" for split in choice.splits}
    found = parquet.files_by_split(mine, named.values())
    return {split: found[name] for split, name in named.items()}


def _read_benchmark(files: Sequence[Path], choice: Choice, found: _Found) -> None:
    for split, its_files in _benchmark_files(files, choice).items():
        for where, row in parquet.rows(its_files, ("ref_list", "image_info")):
            image, listed = parquet.as_object(row.get("image_info")), row.get("ref_list")
            if not isinstance(listed, list):
                found.problems.append(Problem(where, "ref_list: expected a list of refs"))
            for number, item in enumerate(listed if isinstance(listed, list) else []):
                item = parquet.as_object(item)
                ref, annotation = parquet.as_object(item.get("ref_info")), parquet.as_object(item.get("ann_info"))
                found.add(f"{where} ref_list[{number}]", split, image, annotation, dict(ref))


def _read_refs(files: Sequence[Path], name: str, choice: Choice, found: _Found) -> None:
    author = _AUTHORS.get(_dataset(name))
    if choice.split_by == "google" or (author and choice.split_by != author):
        raise ParameterError(
            f"split_by {choice.split_by!r} does not exist in {files[0].parent}: these files have {author or 'unc or umd'}"
        )
    columns = ("ref_id", "ann_id", "image_id", "category_id", "split", "sentences", "raw_sentences")
    seen = set()
    for where, row in parquet.rows(files, (*columns, "raw_anns", "raw_image_info")):
        split = row.get("split")
        seen.add(str(split))
        if split not in choice.splits:
            continue
        ref = {key: row.get(key) for key in columns}
        image, annotation = parquet.as_object(row.get("raw_image_info")), parquet.as_object(row.get("raw_anns"))
        found.add(where, split, image, annotation, ref)
    for split in choice.splits:
        if split not in seen:
            raise ParameterError(f"split {split!r} does not exist in {files[0].parent}; {nearest(split, seen)}")


def _read_flat(files: Sequence[Path], name: str, choice: Choice, found: _Found) -> None:
    for split, its_files in parquet.files_by_split(files, choice.splits).items():
        start, stop, warning = _part(its_files, name, choice.split_by, split)
        if warning:
            found.warnings.append(warning)
        columns = ("image", "question_id", "answer", "segmentation", "bbox", "iscrowd", "file_name")
        for number, (where, row) in enumerate(islice(parquet.rows(its_files, columns), start, stop), start):
            _add_flat(where, f"{name} {split} {number}", split, row, found)
    found.warnings.append("its objects have one polygon each: those in several parts lack some (lmms-lab's files)")


def _add_flat(where: str, key: str, split: str, row: Mapping[str, Any], found: _Found) -> None:
    number, file_name = text_number(key), row.get("file_name")
    coco = _COCO.search(file_name) if isinstance(file_name, str) else None
    image_id = int(coco[2]) if coco else text_number(str(file_name))
    image: dict[str, Any] = {
        "id": image_id,
        "file_name": _image_name(file_name) if isinstance(file_name, str) else file_name,
    }
    if repr(image_id) not in found.images:
        try:
            image["width"], image["height"], _ = parquet.picture_size(parquet.picture_bytes(row.get("image")))
        except DataError as error:
            found.problems.append(Problem(where, str(error)))
    polygon, answer = row.get("segmentation"), row.get("answer")
    flat = isinstance(polygon, list) and bool(polygon) and not isinstance(polygon[0], list)
    annotation = {
        "id": number,
        "image_id": image_id,
        "segmentation": [polygon] if flat else polygon,
        "bbox": row.get("bbox"),
        "iscrowd": row.get("iscrowd"),
    }
    sentences = [{"sent_id": text_number(f"{key} {n}"), "raw": text} for n, text in enumerate(answer or [])]
    ref = {"ref_id": number, "ann_id": number, "image_id": image_id, "sentences": sentences}
    found.add(where, split, image, annotation, ref)


def _part(files: Sequence[Path], name: str, split_by: str, split: str) -> tuple[int, int | None, str]:
    """First and last row (not included) of ``split_by`` in a split, and a warning where others were left out.

    Raises:
        ParameterError: the data set is unknown, or has no such split_by.
        DataError: the rows of two authors cannot be told apart.
    """
    dataset = _dataset(name)
    if dataset not in _AUTHORS:
        raise ParameterError(f"folder {name!r}: expected the data set in its name; {nearest(name, _AUTHORS)}")
    own = _AUTHORS[dataset]
    if split_by not in (own, "google"):
        raise ParameterError(f"split_by {split_by!r} does not exist in {name}; {nearest(split_by, (own, 'google'))}")
    if split != _MIXED:
        return 0, None, ""
    names = [_image_name(str(row.get("file_name"))) for _, row in parquet.rows(files, ("file_name",))]
    cut = own_rows(names, dataset)
    if cut is None:
        raise DataError(
            f"{files[0]}: split {split} of {dataset} mixes the refs of {own} and google, and they cannot be told apart: "
            f"expected {COUNTS[dataset, own, split].refs:,} rows of {own} at its start or end, of "
            f"{COUNTS[dataset, own, split].images:,} images; take another copy of the data, docs/data.md names them"
        )
    first, last = cut
    chosen = (first, last) if split_by == own else (0, first) if first else (last, len(names))
    if chosen[0] == chosen[1]:
        raise ParameterError(
            f"split_by {split_by!r} does not exist in split {split} of {files[0].parent}; known: {own}"
        )
    left_out = len(names) - (chosen[1] - chosen[0])
    note = (
        f"its split {split} mixes the refs of {own} and google; the {left_out:,} others than {split_by}'s are left out"
    )
    return *chosen, note if left_out else ""


def own_rows(images: Sequence[str], dataset: str) -> tuple[int, int] | None:
    """Where unc's (umd's) refs stand in a val that also has google's: rows from the first to before the last.

    No column tells them apart, but their published numbers do: those of unc (umd) are so many rows, at the start or the
    end, of so few images, since google spread the objects over images and they did not.

    Args:
        images: the image of each row.

    Returns:
        None where neither or both of the places fit.
    """
    expected = COUNTS[dataset, _AUTHORS[dataset], _MIXED]
    places = dict.fromkeys([(0, expected.refs), (len(images) - expected.refs, len(images))])
    fitting = [
        (first, last)
        for first, last in places
        if first >= 0 and last <= len(images) and len(set(images[first:last])) == expected.images
    ]
    return fitting[0] if len(fitting) == 1 else None


def _image_name(file_name: str) -> str:
    """COCO's own name of an image: REFER's file names have a number of the ref behind it."""
    coco = _COCO.search(file_name)
    return f"{coco[1]}.jpg" if coco else file_name


def _dataset(name: str) -> str:
    """What publications call the data set of a folder."""
    return PurePosixPath(name).name.lower().replace("plus", "+").replace("_", "")


def _published(origin: Mapping[str, Any], split: str) -> Split | None:
    if origin.get("categories", "all") != "all":
        return None
    split_by = str(origin.get("split_by", ""))
    dataset, _, author = split_by.rpartition("_")  # of the benchmark
    return (_dataset(dataset or str(origin.get("folder", ""))), author, split)


KINDS.add(
    DatasetKind(
        name="refcoco_parquet",
        module=__name__,
        layout="Parquet files of jxu124/refcoco-benchmark, jxu124/refcoco* or lmms-lab/RefCOCO*",
        files=lambda folder, choice: parquet.parquet_files(folder),
        read=read_refcoco_parquet,
        split_by="who split it (unc, umd, google), in refcoco-benchmark with the data set (refcoco_unc)",
        polygon_rule=True,
        published_split=_published,
        counts=COUNTS,
        pictures=pictures,
    )
)
