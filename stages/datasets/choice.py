"""What a chosen data set needs, holds and is called, whatever its kind: the questions to the registry of kinds.

Importing this module adds the kinds of Glimpse to the registry.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from stages.datasets import phrasecut, phrases, reclip, refcoco_m, refcoco_parquet, refer  # noqa: F401  each adds its kind
from stages.datasets.coco_categories import COCO_CATEGORIES
from stages.datasets.counts import differences
from stages.datasets.registry import KINDS, Choice, Split
from stages.datasets.rows import ReferData, RefRow


def annotation_files(root: Path, name: str, choice: Choice) -> list[Path]:
    """The files that data set ``name`` needs below ``root``, whether they are there or not."""
    return list(KINDS[choice.kind].files(root / (choice.folder or name), choice))


def read(root: Path, name: str, choice: Choice) -> ReferData:
    """The refs of data set ``name`` that ``choice`` takes, of all categories or the unseen ones.

    Raises:
        ParameterError: the data set, the split_by or a split does not exist; with those that do.
        DataError: a file is missing or cannot be read as a whole.
    """
    data = KINDS[choice.kind].read(root, choice.folder or name, choice)
    return data if choice.categories == "all" else _unseen(data)


def origin(name: str, choice: Choice) -> dict[str, str]:
    """What the refs of data set ``name`` are, to compare their metrics with published ones."""
    return {"folder": choice.folder or name, **choice.model_dump(include={"kind", "split_by", "categories"})}


def published_split(recorded: Mapping[str, Any], split: str) -> Split | None:
    """What publications call a split, from the ``origin`` of its data set; None where none has it.

    The name in the metrics plays no part: the same files may stand there under any name.
    """
    kind = recorded.get("kind", Choice.model_fields["kind"].default)
    return KINDS[kind].published_split(recorded, split) if kind in KINDS else None


def differing_counts(name: str, choice: Choice, refs: Sequence[RefRow]) -> list[str]:
    """A line for each chosen split that has fewer or more refs, images or sentences than published."""
    keys = {split: published_split(origin(name, choice), split) for split in choice.splits}
    counts = KINDS[choice.kind].counts
    return differences(
        name, {split: counts[key] for split, key in keys.items() if key is not None and key in counts}, refs
    )


def is_unseen(category: str) -> bool:
    """Whether a category's name is none of COCO's 80; letter case and runs of white space do not count.

    The empty name, which stands for one that cannot be read, is unseen: it is none of them.
    """
    return " ".join(category.casefold().split()) not in COCO_CATEGORIES


def _unseen(data: ReferData) -> ReferData:
    """Only the refs of unseen categories; their images keep all annotated objects."""
    refs = tuple(ref for ref in data.refs if is_unseen(ref.category))
    used = {ref.image_id for ref in refs}
    return replace(
        data,
        images=tuple(image for image in data.images if image.image_id in used),
        annotations=tuple(row for row in data.annotations if row.image_id in used),
        refs=refs,
    )
