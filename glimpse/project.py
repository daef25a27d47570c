"""A profile's finished run, opened for reading: its tables as data frames, its pair tables, its metrics."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from pipeline.project import LoadedProject, load_project
from pipeline.registry import DEFAULT_PARAMS, FILES
from stages.scoring.metrics import metrics_by_encoder
from stages.scoring.table import PairTable, load_pairs
from store.document import read_document
from store.errors import ParameterError, nearest
from store.ragged import owners_of
from store.schema import TABLES
from store.table import Table, read_table

if TYPE_CHECKING:
    import pandas as pd

ROWS = {"images": "I", "refs": "R", "expressions": "E", "proposals": "N", "pairs": "P"}
"""What the rows of a data frame may be -> the dimension of ``store.schema``."""
_USUAL = {
    "index": "expressions",
    "proposals": "proposals",
    "parse": "expressions",
    "pairs": "pairs",
    "scores": "expressions",
}
"""Table -> the rows of its data frame by default."""
_OWNERS = {"expression_offsets": ("P", "expression"), "image_offsets": ("N", "image")}
"""Offsets -> the rows that they divide, and the column that names the owner of each."""
_LINKS = {"E": ("expression_ref", "R"), "R": ("ref_image", "I")}
"""Rows of the index -> the column that names their row of the next table, and its dimension."""


@dataclass(frozen=True)
class Frames:
    """One table of the store. ``columns`` are as ``store.schema`` describes them, read when they are asked for."""

    path: Path
    name: str

    @cached_property
    def table(self) -> Table:
        """The columns as numpy arrays, lists of text and run-length masks, by name.

        Raises:
            StoreError: there is no such file, or it is damaged; with the command that makes it again.
        """
        return read_table(self.path, self.name)

    @property
    def columns(self) -> list[str]:
        """The names of the columns."""
        return sorted(self.table.columns)

    def __getitem__(self, column: str) -> Any:
        """A column as it is stored."""
        return self.table[column]

    def to_pandas(self, rows: str = "") -> pd.DataFrame:
        """All columns of one kind of rows as a data frame, whose index is the number of the row.

        A column of several numbers becomes one for each (``box_0`` to ``box_3``); offsets become the number of the owner
        (``expression`` of a pair); the number of a group is joined by its ``dataset`` and ``split``. Expressions of the index
        have the columns of their ref and image, too. Masks are the bytes of COCO's run-length counts.

        Args:
            rows: images, refs, expressions, proposals or pairs; by default expressions of index, parse and scores, and
                what the others are named after.

        Raises:
            ParameterError: the table has no such rows. StoreError: as ``table``.
        """
        import pandas as pd

        kinds = {kind for kind, symbol in ROWS.items() if self._of(symbol)}
        kind = rows or _USUAL[self.name]
        if kind not in kinds:
            raise ParameterError(f"rows: table {self.name} has none called {kind!r}; {nearest(kind, kinds)}")
        symbol = ROWS[kind]
        found = {name: column for name in self._of(symbol) for name, column in _flat(name, self.table[name]).items()}
        for offsets, (divided, owner) in _OWNERS.items():
            if divided == symbol and offsets in self.table.columns:
                found = {owner: owners_of(self.table[offsets]), **found}
        frame = pd.DataFrame(found)
        while self.name == "index" and symbol in _LINKS:
            link, symbol = _LINKS[symbol]
            further = {
                name: column for name in self._of(symbol) for name, column in _flat(name, self.table[name]).items()
            }
            frame = frame.join(pd.DataFrame(further), on=link)
        for group in ("ref_group", "expression_group"):
            if group in frame:
                names = pd.DataFrame(self.table.attrs["groups"], columns=["dataset", "split"])
                frame = names.iloc[frame[group]].set_index(frame.index).join(frame)
        return frame

    def _of(self, symbol: str) -> list[str]:
        """The columns with a value for each row of a dimension."""
        described = TABLES[self.name]
        columns = {name: described.column(name) for name in self.table.columns}
        return [name for name, column in columns.items() if column is not None and column.dims[0] == symbol]


def _flat(name: str, column: Any) -> Mapping[str, Any]:
    """A column of a data frame, or one for each number of a row."""
    values: NDArray[Any] | list[Any] = column if isinstance(column, np.ndarray) else list(column)
    if isinstance(values, np.ndarray) and values.ndim == 2:
        return {f"{name}_{place}": values[:, place] for place in range(values.shape[1])}
    return {name: values}


@dataclass(frozen=True)
class Project:
    """A profile and what its run wrote. Nothing is read before it is asked for, and nothing is ever written.

    Attributes:
        loaded: its params file as typed values (``loaded.values``), and where it lies.
    """

    loaded: LoadedProject

    @property
    def params(self) -> dict[str, Any]:
        """The values of the params file, as JSON has them."""
        return self.loaded.values.model_dump(mode="json", exclude_none=True)

    @property
    def encoders(self) -> list[str]:
        """The names of the encoders, the main one first."""
        main = self.loaded.values.encoder
        return [main, *(name for name in self.loaded.values.encoders if name != main)]

    @cached_property
    def index(self) -> Frames:
        """Images, refs and expressions."""
        return self._frames("index")

    @cached_property
    def proposals(self) -> Frames:
        """Masks, boxes and confidences."""
        return self._frames("proposals")

    @cached_property
    def parse(self) -> Frames:
        """Sentences, noun phrases, relations and places."""
        return self._frames("parse")

    @cached_property
    def pairs(self) -> Frames:
        """The pair table of the main encoder."""
        return self._frames("pairs")

    @cached_property
    def scores(self) -> Frames:
        """Of the run's first rule the score of every pair, of all rules the chosen pair of every expression."""
        return self._frames("scores")

    def pairs_of(self, encoder: str) -> Frames:
        """The pair table of an encoder.

        Raises:
            ParameterError: the profile has none of that name.
        """
        return Frames(self.loaded.pairs(self._known(encoder)), "pairs")

    def load_pairs(self, encoder: str = "", k: int | None = None) -> PairTable:
        """The pair table as scores and metrics take it (``stages.scoring.table``), for one k of the global view.

        Args:
            encoder: the main one by default. k: the profile's by default.

        Raises:
            ParameterError: no such encoder, or k was not computed. StoreError: the table is missing or damaged.
        """
        name = self._known(encoder) if encoder else self.loaded.values.encoder
        return load_pairs(self.loaded.pairs(name), self.loaded.values.score.k if k is None else k)[0]

    def metrics(self, encoder: str = "") -> dict[str, Any]:
        """The metrics file: data set -> split -> rule -> value, as fractions, of the main encoder or of another one.

        Raises:
            ParameterError: no such encoder. StoreError: there is no metrics file, or it is damaged.
        """
        document = read_document(self.loaded.path(self.loaded.values.metrics), "score")
        name = "" if encoder in ("", self.loaded.values.encoder) else self._known(encoder)
        return metrics_by_encoder(document)[name]

    def _frames(self, name: str) -> Frames:
        return Frames(self.loaded.table(FILES[name].format(encoder=self.loaded.values.encoder)), name)

    def _known(self, encoder: str) -> str:
        if encoder not in self.loaded.values.encoders:
            raise ParameterError(f"no encoder {encoder!r}; {nearest(encoder, self.loaded.values.encoders)}")
        return encoder


def open_project(params: str | PathLike[str] = "") -> Project:
    """The profile of a params file; by default, as for every command, of GLIMPSE_PARAMS, or params.yaml.

    Raises:
        ParameterError: no such file, or one that is not a profile.
    """
    return Project(load_project(Path(params or os.environ.get("GLIMPSE_PARAMS") or DEFAULT_PARAMS)))
