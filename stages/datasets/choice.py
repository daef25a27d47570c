"""A data set as params.yaml chooses it, whatever its kind, and reading it."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Literal

from pydantic import Field, model_validator

from stages.contract import Listed
from stages.contract import Params as BaseParams
from stages.datasets.phrasecut import IMAGES_FILE, phrases_file, read_phrasecut
from stages.datasets.refer import read_refer
from stages.datasets.rows import ReferData

COCO_CATEGORIES = frozenset(
    re.split(
        r",\s+",
        """person, bicycle, car, motorcycle, airplane, bus, train, truck, boat, traffic light, fire hydrant, stop sign,
        parking meter, bench, bird, cat, dog, horse, sheep, cow, elephant, bear, zebra, giraffe, backpack, umbrella,
        handbag, tie, suitcase, frisbee, skis, snowboard, sports ball, kite, baseball bat, baseball glove, skateboard,
        surfboard, tennis racket, bottle, wine glass, cup, fork, knife, spoon, bowl, banana, apple, sandwich, orange,
        broccoli, carrot, hot dog, pizza, donut, cake, chair, couch, potted plant, bed, dining table, toilet, tv, laptop,
        mouse, remote, keyboard, cell phone, microwave, oven, toaster, sink, refrigerator, book, clock, vase, scissors,
        teddy bear, hair drier, toothbrush""",
    )
)
"""The 80 categories of COCO's detection task."""


class Choice(BaseParams):
    """Which refs of which files."""

    kind: Literal["refer", "phrasecut"] = Field("refer", description="the form of the files: REFER's or PhraseCut's")
    folder: str = Field("", description="folder below that of all annotations; the data set's name by default")
    images: str = Field("", description="folder below the image root that holds its images; the root by default")
    split_by: str = Field("", description="kind refer: who split it (unc, umd, google): <folder>/refs(<split_by>).p")
    splits: Listed[str] = Field(
        min_length=1,
        description="kind refer: as the release matches them, testA takes every split with an A; kind phrasecut: "
        "<folder>/refer_<split>.json",
    )
    categories: Literal["all", "unseen"] = Field(
        "all", description="unseen: only refs whose category is none of COCO's 80, by its name"
    )

    @model_validator(mode="after")
    def _splits_have_an_author(self) -> Choice:
        if self.kind == "refer" and not self.split_by:
            raise ValueError("kind refer needs split_by: who split it (unc, umd, google)")
        if self.kind == "phrasecut" and self.split_by:
            raise ValueError(f"kind phrasecut is split in one way only: leave out split_by {self.split_by!r}")
        return self


def annotation_files(root: Path, name: str, choice: Choice) -> list[Path]:
    """The files that data set ``name`` needs below ``root``, whether they are there or not."""
    folder = root / (choice.folder or name)
    if choice.kind == "phrasecut":
        return [*(phrases_file(folder, split) for split in dict.fromkeys(choice.splits)), folder / IMAGES_FILE]
    return [folder / f"refs({choice.split_by}).p", folder / "instances.json"]


def read(root: Path, name: str, choice: Choice) -> ReferData:
    """The refs of data set ``name`` that ``choice`` takes, of all categories or the unseen ones.

    Raises:
        ParameterError: the data set, the split_by or a split does not exist; with those that do.
        DataError: a file is missing or cannot be read as a whole.
    """
    folder = choice.folder or name
    if choice.kind == "phrasecut":
        data = read_phrasecut(root, folder, choice.splits)
    else:
        data = read_refer(root, folder, choice.split_by, choice.splits)
    return data if choice.categories == "all" else _unseen(data)


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
