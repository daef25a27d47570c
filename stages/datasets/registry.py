"""The kinds of data sets: one record each, and a data set as params.yaml chooses it.

The file of a kind adds its record (``stages.datasets.choice`` imports them), a file of the profile's ``extensions/datasets``
likewise. Whoever wants to know something about a kind asks its record.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, field_validator, model_validator

from stages.contract import Listed
from stages.contract import Params as BaseParams
from stages.datasets.counts import Counts
from stages.datasets.rows import ReferData
from store.registry import Record, Registry

Split = tuple[str, str, str]
"""How publications tell splits apart: (data set, who split it or what was left out, split)."""


def _unpublished(origin: Mapping[str, Any], split: str) -> None:
    return None


@dataclass(frozen=True, kw_only=True)
class DatasetKind(Record):
    """A form in which annotations lie in a folder, and how they are read.

    Attributes:
        layout: the files of the folder, for those who put them there.
        files: (folder, choice) -> the files that it takes, whether they are there or not.
        read: (folder of all annotations, folder of the data set below it, choice) -> the refs of ``choice.splits``, of all
            categories. Raises ParameterError for a data set or split that does not exist, with those that do, and
            DataError for a file that cannot be read as a whole; a faulty row is kept with a status.
        split_by: what ``split_by`` of the params means; "" where there is one way to split only.
        polygon_rule: whether ``index.polygon_overlap`` applies; else pixels under two polygons are always inside.
        published_split: (origin of the index table, split) -> what publications call it, None where none has it.
        counts: published split -> how many refs, images and sentences it has.
        listed_images: file with the list of images -> names of those of the splits that are scored; None where images
            are not fetched one by one.
        annotated: whether refs have a ground truth; without, choices are made and no metric is about them.
        upright: whether EXIF's orientation is applied to images. Annotations are usually about the pixels as stored.
        pictures: (folder of all annotations, folder of the data set below it, choice) -> (file name below the data set's
            folder of images, contents) of each image of the chosen splits, where the files of annotations hold them; None
            where they do not. Raises what ``read`` raises.
    """

    layout: str
    files: Callable[[Path, Choice], Sequence[Path]]
    read: Callable[[Path, str, Choice], ReferData]
    split_by: str = ""
    polygon_rule: bool = False
    published_split: Callable[[Mapping[str, Any], str], Split | None] = _unpublished
    counts: Mapping[Split, Counts] = field(default_factory=dict)
    listed_images: Callable[[Path], frozenset[str]] | None = None
    annotated: bool = True
    upright: bool = False
    pictures: Callable[[Path, str, Choice], Iterator[tuple[str, bytes]]] | None = None


KINDS: Registry[DatasetKind] = Registry("data set kind", room="datasets")


class Choice(BaseParams):
    """Which refs of which files."""

    kind: Annotated[str, AfterValidator(KINDS.checked)] = Field("refer", description="the form of the files")
    folder: str = Field("", description="folder below that of all annotations; the data set's name by default")
    images: str = Field("", description="folder below the image root that holds its images; the root by default")
    split_by: str = Field("", description="who split it, for a kind that is split in several ways")
    splits: Listed[str] = Field(min_length=1, description="the splits, by the names that the kind gives them")
    categories: Literal["all", "unseen"] = Field(
        "all", description="unseen: only refs whose category is none of COCO's 80, by its name"
    )

    @field_validator("splits")
    @classmethod
    def _each_once(cls, splits: list[str]) -> list[str]:
        return list(dict.fromkeys(splits))

    @model_validator(mode="after")
    def _split_by_where_its_kind_has_several_ways(self) -> Choice:
        meaning = KINDS[self.kind].split_by
        if meaning and not self.split_by:
            raise ValueError(f"kind {self.kind} needs split_by: {meaning}")
        if self.split_by and not meaning:
            raise ValueError(f"kind {self.kind} is split in one way only: leave out split_by {self.split_by!r}")
        return self
