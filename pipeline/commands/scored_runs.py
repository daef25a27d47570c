"""Runs that have been scored: their tables, what A and B of ``glimpse compare`` and ``--rule`` of other commands name in
them, the expressions that two have in common.

What was chosen stands in the scores table of a run, what it is worth in the pair table of its main encoder, whose proposals
all encoders share.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pipeline.project import LoadedProject, load_project
from pipeline.registry import FILES
from stages.scoring.metrics import Outcome, outcome_of_choice
from stages.scoring.rules.registry import REFERENCES
from store.errors import ParameterError, StoreError, nearest
from store.schema import members
from store.states import EVALUATED
from store.table import Table, read_table, require_same

_FILE = re.compile(r"(?P<file>.+\.(?:ya?ml|h5))(?::(?P<rule>.+))?")
_INDEX = ("expression_id", "expression_ref", "ref_category", "image_size")
_PAIRS = (
    *("expression_offsets", "expression_image", "expression_group", "expression_area", "expression_state"),
    *("intersection", "union"),
)
_PARSE = ("sentence", "position_words", "relation_words")


@dataclass(frozen=True)
class Run:
    """The outputs of a run that has been scored.

    Attributes:
        name: as the user gave it, "" for the profile's own. data: the data folder. project: None for one given by its scores.
    """

    name: str
    data: Path
    project: LoadedProject | None

    def path(self, field: str, encoder: str = "") -> Path:
        """The file of a stage's output, of an encoder where it is made for each: by default of the main one."""
        return self.data / FILES[field].format(encoder=encoder or self.encoder)

    @cached_property
    def encoder(self) -> str:
        """The main encoder: the one whose pair table the scores were made from.

        Raises:
            StoreError: none is.
        """
        if self.project is not None:
            return self.project.values.encoder
        made_from = self.scores.attrs["made_from"]["pairs"]
        tables = sorted((self.data / FILES["pair_tables"]).glob("*.h5"))
        found = [table.stem for table in tables if read_table(table, "pairs", ()).digest == made_from]
        if not found:
            raise StoreError(
                f"{self.scores.path}: expected the pair table that it was made from in {self.data / FILES['pair_tables']}, "
                f"found {', '.join(table.name for table in tables) or 'none'}; name the data folder's own scores.h5"
            )
        return found[0]

    @cached_property
    def scores(self) -> Table:
        return read_table(self.data / FILES["scores"], "scores")

    @cached_property
    def index(self) -> Table:
        return read_table(self.path("index"), "index", _INDEX)

    @cached_property
    def pictured(self) -> tuple[Table, Table]:
        """What pictures take of the index and of the proposals."""
        names = (
            "image_name",
            "image_digest",
            "image_size",
            "ref_image",
            "ref_mask",
            "expression_ref",
            "expression_raw",
        )
        index = read_table(self.path("index"), "index", names)
        proposals = read_table(self.path("proposals"), "proposals", ("image_offsets", "mask"))
        require_same("results", (proposals, "index", index), (self.pairs, "proposals", proposals))
        return index, proposals

    @cached_property
    def parse(self) -> Table:
        return read_table(self.path("parse"), "parse", _PARSE)

    @cached_property
    def pairs(self) -> Table:
        """The pair table of the main encoder, checked to belong to the scores."""
        pairs = read_table(self.path("pairs"), "pairs", _PAIRS)
        require_same("results", (pairs, "index", self.index), (self.scores, "pairs", pairs))
        require_same("results", (self.parse, "index", self.index), (pairs, "parse", self.parse))
        return pairs

    @cached_property
    def places(self) -> dict[tuple[str, str, int], int]:
        """(data set, split, expression id) -> row.

        Raises:
            StoreError: two expressions of a split have the same id.
        """
        groups, group = self.pairs.attrs["groups"], self.pairs["expression_group"]
        found: dict[tuple[str, str, int], int] = {}
        for row, (of, number) in enumerate(zip(group.tolist(), self.index["expression_id"].tolist(), strict=True)):
            key = (str(groups[of][0]), str(groups[of][1]), number)
            if found.setdefault(key, row) != row:
                raise StoreError(
                    f"{self.index.path}: expected distinct expression ids within {key[0]} {key[1]} to match two runs by, "
                    f"found {number} twice; correct the annotations"
                )
        return found


@dataclass(frozen=True)
class Side:
    """A or B: a run and one of its columns ``chosen.<name>``."""

    run: Run
    name: str

    @property
    def chosen(self) -> NDArray[np.int64]:
        rows: NDArray[np.int64] = self.run.scores[f"chosen.{self.name}"]
        return rows

    @property
    def label(self) -> str:
        return f"{self.run.name}:{self.name}" if self.run.name else self.name

    def outcome(self) -> Outcome:
        """Of every expression of its run."""
        pairs = self.run.pairs
        columns = ("expression_offsets", "intersection", "union", "expression_area")
        return outcome_of_choice(self.chosen, *(pairs[name] for name in columns))


def sides_of(project: LoadedProject, a: str, b: str) -> tuple[Side, Side]:
    """What A and B name.

    Raises:
        ParameterError: no such file, rule or encoder.
    """
    runs = {"": Run("", project.table(""), project)}
    return _side_of(runs, a, "A"), _side_of(runs, b, "B")


def own_side(project: LoadedProject, word: str) -> Side:
    """What ``--rule`` names: RULE of the profile's main encoder, ENCODER:RULE or upper_bound; "" for the first rule.

    Raises:
        ParameterError: another run, no such rule, or the random one, which chooses nothing.
    """
    if _FILE.fullmatch(word):
        raise ParameterError(f"--rule: expected RULE or ENCODER:RULE, got {word!r}; another run is named by --params")
    run = Run("", project.table(""), project)
    return _side_of({"": run}, word, "--rule") if word else Side(run, str(run.scores.attrs["rules"][0]))


def _side_of(runs: dict[str, Run], word: str, option: str) -> Side:
    """One of them; ``runs`` has those that are open by their files, "" for the profile's."""
    found = _FILE.fullmatch(word)
    file = found["file"] if found else ""
    if file not in runs:
        runs[file] = _run_of(Path(file), option)
    run = runs[file]
    name = (found["rule"] or "") if found else word
    known = members(run.scores.columns, "chosen")
    if not name:
        return Side(run, str(run.scores.attrs["rules"][0]))
    encoder, _, rule = name.rpartition(":")
    name = rule if encoder == run.encoder else name
    if name not in known:
        why = "; the random rule is an expectation and chooses nothing" if rule in REFERENCES else ""
        raise ParameterError(
            f"{option}: {run.scores.path} holds no choices of {name!r}; {nearest(name, known)}{why}; or give another run's "
            "params file or scores.h5"
        )
    return Side(run, name)


def _run_of(file: Path, option: str) -> Run:
    """The run of a params file or a scores table."""
    if not file.is_file():
        raise ParameterError(f"{option}: expected a params file or a scores.h5, there is no {file}")
    if file.suffix == ".h5":
        return Run(str(file), file.parent, None)
    project = load_project(file)
    return Run(str(file), project.table(""), project)


@dataclass(frozen=True)
class Matched:
    """The expressions of A and B that are compared, in the order of A's run.

    Attributes:
        a, b: rows of each run (M,), evaluated in both. groups: (data set, split) of A's run that are asked for.
        only: (data set, split) -> how many evaluated expressions of A's and of B's run the other lacks.
    """

    a: NDArray[np.int64]
    b: NDArray[np.int64]
    groups: list[tuple[str, str]]
    only: dict[tuple[str, str], tuple[int, int]]


def groups_of(run: Run, dataset: str | None = None, split: str | None = None) -> list[tuple[str, str]]:
    """(data set, split) of a run that are asked for, in its order.

    Raises:
        ParameterError: it has no such data set or split.
    """
    groups = [(str(name), str(part)) for name, part in run.pairs.attrs["groups"]]
    for option, wanted, known in (
        ("--dataset", dataset, {name for name, _ in groups}),
        ("--split", split, {part for name, part in groups if dataset in (None, name)}),
    ):
        if wanted is not None and wanted not in known:
            raise ParameterError(f"{option}: no {option[2:]} {wanted!r}; {nearest(wanted, known)}")
    return [(name, part) for name, part in groups if dataset in (None, name) and split in (None, part)]


def matched(a: Run, b: Run, dataset: str | None = None, split: str | None = None) -> Matched:
    """The expressions that both runs evaluate, matched by data set, split and expression id.

    Raises:
        ParameterError: the runs have none in common, or none of this data set and split.
    """
    groups = groups_of(a, dataset, split)
    evaluated = [np.isin(np.array(run.pairs["expression_state"], np.str_), EVALUATED) for run in (a, b)]
    if a.index.digest == b.index.digest:
        rows = np.arange(len(evaluated[0]))
        two = np.stack([rows, rows], 1)
    else:
        two = np.array([(row, b.places[key]) for key, row in a.places.items() if key in b.places], np.int64)
        two = two.reshape(-1, 2)
    own = np.array([tuple(group) in groups for group in a.pairs.attrs["groups"]], np.bool_)
    two = two[own[a.pairs["expression_group"][two[:, 0]]]]
    two = two[evaluated[0][two[:, 0]] & evaluated[1][two[:, 1]]]
    if not len(two):
        raise ParameterError(
            f"A and B: expected expressions that both runs evaluate, found none in common of {_said(groups)}; choose runs of "
            "the same data sets and splits"
        )
    only = {}
    for group in groups:
        counts = []
        for run, these, rows in ((a, evaluated[0], two[:, 0]), (b, evaluated[1], two[:, 1])):
            its = [place for place, known in enumerate(run.pairs.attrs["groups"]) if tuple(known) == group]
            member = np.isin(run.pairs["expression_group"], its)
            counts.append(int((member & these).sum() - member[rows].sum()))
        only[group] = (counts[0], counts[1])
    return Matched(two[:, 0], two[:, 1], groups, only)


def _said(groups: list[tuple[str, str]]) -> str:
    return ", ".join(f"{dataset} {split}" for dataset, split in groups)
