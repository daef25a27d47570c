"""Two rules, two encoders or two runs on the same expressions: ``glimpse compare A B``.

What was chosen stands in the scores table of each run, what it is worth in the pair table of its main encoder, whose
proposals all encoders share.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table as Printed

from pipeline.commands.show import scene_of
from pipeline.commands.tables import VALUES, narrow_table
from pipeline.project import LoadedProject, load_project, profile_line
from pipeline.registry import FILES
from stages.page.comparison import signed
from stages.page.overlay import overlay, png
from stages.page.tables import percent, probability
from stages.scoring.comparison import (
    COMPARED,
    Both,
    breakdown,
    by_length,
    by_size,
    by_value,
    by_words,
    compared,
    flips,
)
from stages.scoring.metrics import Empty, Outcome, outcome_of_choice
from stages.scoring.rules.registry import REFERENCES
from store.errors import ParameterError, StoreError, nearest
from store.fingerprint import canonical
from store.publish import write_file
from store.schema import members
from store.states import EVALUATED
from store.table import Table, read_table, require_same

Json = dict[str, Any]
_FILE = re.compile(r"(?P<file>.+\.(?:ya?ml|h5))(?::(?P<rule>.+))?")
_INDEX = ("expression_id", "expression_ref", "ref_category", "image_size")
_PAIRS = (
    *("expression_offsets", "expression_image", "expression_group", "expression_area", "expression_state"),
    *("intersection", "union"),
)
_PARSE = ("sentence", "position_words", "relation_words")
_SHOWN = 12
"""Classes of a breakdown that the terminal shows; JSON has all."""


@dataclass(frozen=True)
class Run:
    """The outputs of a run that has been scored.

    Attributes:
        name: as the user gave it, "" for the profile's own. data: the data folder. project: None for one given by its scores.
    """

    name: str
    data: Path
    project: LoadedProject | None

    def path(self, field: str) -> Path:
        return self.data / FILES[field].format(encoder=self.encoder)

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
        require_same("compare", (proposals, "index", index), (self.pairs, "proposals", proposals))
        return index, proposals

    @cached_property
    def parse(self) -> Table:
        return read_table(self.path("parse"), "parse", _PARSE)

    @cached_property
    def pairs(self) -> Table:
        """The pair table of the main encoder, checked to belong to the scores."""
        pairs = read_table(self.path("pairs"), "pairs", _PAIRS)
        require_same("compare", (pairs, "index", self.index), (self.scores, "pairs", pairs))
        require_same("compare", (self.parse, "index", self.index), (pairs, "parse", self.parse))
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


def matched(a: Run, b: Run, dataset: str | None = None, split: str | None = None) -> Matched:
    """The expressions that both runs evaluate, matched by data set, split and expression id.

    Raises:
        ParameterError: the runs have none in common, or none of this data set and split.
    """
    groups = [(str(name), str(part)) for name, part in a.pairs.attrs["groups"]]
    for option, wanted, known in (
        ("--dataset", dataset, {name for name, _ in groups}),
        ("--split", split, {part for name, part in groups if dataset in (None, name)}),
    ):
        if wanted is not None and wanted not in known:
            raise ParameterError(f"{option}: no {option[2:]} {wanted!r}; {nearest(wanted, known)}")
    groups = [(name, part) for name, part in groups if dataset in (None, name) and split in (None, part)]
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


def comparison(a: Side, b: Side, both: Matched, resamples: int, seed: int) -> list[Json]:
    """For each split what ``stages.scoring.comparison.compared`` says, flips as expression ids, and the breakdowns.

    Splits without an expression in common are left out. How expressions without a choice count is A's ``score.empty``.
    """
    pairs, index, parse, empty = a.run.pairs, a.run.index, a.run.parse, _empty(a.run)
    whole = Both(a.outcome().at(both.a), b.outcome().at(both.b), pairs["expression_image"][both.a])
    areas = pairs["expression_area"][both.a] != b.run.pairs["expression_area"][both.b]
    height, width = index["image_size"][pairs["expression_image"]].astype(np.float64).T
    share = pairs["expression_area"] / np.maximum(height * width, 1)
    ref = index["expression_ref"]
    place = [(str(dataset), str(split)) for dataset, split in pairs.attrs["groups"]]
    found = []
    for group in both.groups:
        inside = np.flatnonzero(pairs["expression_group"][both.a] == place.index(group))
        if empty == "skip":
            inside = inside[(whole.a.decided & whole.b.decided)[inside]]
        if not len(inside):
            continue
        these, rows = whole.at(inside), both.a[inside]
        classes = {
            "category": by_value([index["ref_category"][ref[row]] for row in rows]),
            "size": by_size(share[rows]),
            "length": by_length([parse["sentence"][row] for row in rows]),
            "position words": by_words([parse["position_words"][row] for row in rows]),
            "relation words": by_words([parse["relation_words"][row] for row in rows]),
        }
        gained, lost = flips(these)
        found.append(
            {
                "dataset": group[0],
                "split": group[1],
                **compared(these, resamples, seed),
                "only_a": both.only[group][0],
                "only_b": both.only[group][1],
                "other_ground_truth": int(areas[inside].sum()),
                "flips": {
                    "gained": index["expression_id"][rows[gained]].tolist(),
                    "lost": index["expression_id"][rows[lost]].tolist(),
                },
                "breakdowns": {
                    what: breakdown(these, members, resamples, seed) for what, members in classes.items() if members
                },
            }
        )
    return found


def _empty(run: Run) -> Empty:
    """How the run's metrics count expressions without a choice."""
    return "skip" if run.scores.attrs["config"].get("empty") == "skip" else "count"


def as_json(a: Side, b: Side, splits: list[Json], resamples: int, seed: int) -> str:
    """The whole comparison as one line of JSON."""
    return canonical({"a": a.label, "b": b.label, "resamples": resamples, "seed": seed, "splits": splits})


def print_comparison(a: Side, b: Side, splits: list[Json]) -> None:
    """The metrics of each split, then its breakdowns; percent, differences in points."""
    console = Console(width=100)
    print(f"A: {a.label}\nB: {b.label}")
    print("percent; A - B in points with the 95 % interval and two-sided p of a paired bootstrap over images")
    table = narrow_table()
    for name in ("data set", "split", "measure", "A", "B", "A - B", "95 % interval", "p", "n"):
        table.add_column(name, justify="left" if name in ("data set", "split", "measure") else "right")
    for line in splits:
        for name in COMPARED:
            first, cell = name == COMPARED[0], line[name]
            table.add_row(
                line["dataset"] if first else "",
                line["split"] if first else "",
                VALUES[name],
                percent(cell["a"]),
                percent(cell["b"]),
                *_difference(cell),
                str(line["n"]),
                end_section=name == COMPARED[-1],
            )
    console.print(table)
    for line in splits:
        gained, lost = (len(line["flips"][kind]) for kind in ("gained", "lost"))
        print(f"{line['dataset']} {line['split']}: only A above IoU 0.5: {gained}, only B: {lost}{_left_out(line)}")
    for line in splits:
        console.print(_breakdowns(line))


def _left_out(line: Json) -> str:
    """What of a split is compared only in part."""
    said = [f"{line[f'only_{side}']} expressions of {side.upper()} alone" for side in "ab" if line[f"only_{side}"]]
    if line["other_ground_truth"]:
        said.append(f"{line['other_ground_truth']} have ground truths of different area")
    return f" ({'; '.join(said)})" if said else ""


def _breakdowns(line: Json) -> Printed:
    table = narrow_table()
    table.title = f"{line['dataset']} {line['split']}: mIoU"
    for name in ("by", "class", "A", "B", "A - B", "95 % interval", "p", "n"):
        table.add_column(name, justify="left" if name in ("by", "class") else "right")
    for what, lines in line["breakdowns"].items():
        shown = lines[:_SHOWN]
        for cell in shown:
            table.add_row(
                what if cell is shown[0] else "",
                str(cell["value"]),
                percent(cell["a"]),
                percent(cell["b"]),
                *_difference(cell),
                str(cell["n"]),
            )
        if len(lines) > _SHOWN:
            table.add_row("", f"{len(lines) - _SHOWN} more: --json")
        table.add_section()
    return table


def _difference(cell: Mapping[str, Any]) -> tuple[str, str, str]:
    """The difference in points, its interval and p."""
    points = None if cell["difference"] is None else 100 * cell["difference"]
    if "ci" not in cell:
        return signed(points), "–", "–"
    low, high = (signed(100 * end) for end in cell["ci"])
    return signed(points), f"{low} to {high}", probability(cell["p"]).removeprefix("p ")


def write_pictures(project: LoadedProject, a: Side, b: Side, splits: list[Json], folder: Path, most: int) -> list[Path]:
    """Overlays of the first ``most`` flips of each kind and split: A's choice as the chosen one, B's as the other rule's.

    Returns:
        The files: ``<data set>_<split>_<only_a or only_b>_<expression id>.png``.
    """
    written = []
    index, proposals = a.run.pictured
    outcomes = a.outcome(), b.outcome()
    for line in splits:
        for kind, name in (("gained", "only_a"), ("lost", "only_b")):
            for number in line["flips"][kind][:most]:
                key = (line["dataset"], line["split"], number)
                rows = a.run.places[key], b.run.places[key]
                scene = scene_of(_images(project, a.run), index, proposals, rows[0])
                rival = scene.masks
                if b.run is not a.run:
                    rival = scene_of(_images(project, b.run), *b.run.pictured, rows[1]).masks
                choice, other = int(a.chosen[rows[0]]), int(b.chosen[rows[1]])
                ious = (outcome.iou[row] for outcome, row in zip(outcomes, rows, strict=True))
                said = [f"{side.label} {percent(iou)}" for side, iou in zip((a, b), ious, strict=True)]
                drawn = overlay(
                    scene.picture,
                    choice=scene.masks[choice] if choice >= 0 else None,
                    truth=scene.truth,
                    rival=rival[other] if other >= 0 else None,
                    proposals=np.delete(scene.masks, choice, axis=0) if choice >= 0 else scene.masks,
                    caption=[index["expression_raw"][rows[0]], f"IoU in percent: chosen {said[0]}, other {said[1]}"],
                    width=max(640, scene.picture.width),
                )
                out = folder / f"{line['dataset']}_{line['split']}_{name}_{number}.png"
                folder.mkdir(parents=True, exist_ok=True)
                write_file(out, png(drawn))
                written.append(out)
    return written


def _images(project: LoadedProject, run: Run) -> Path:
    """The image folder of a run; of one that is given by its scores, the profile's."""
    own = run.project or project
    return own.path(own.values.images)


def other_runs(a: Side, b: Side) -> list[str]:
    """A line for each run that is not the profile's own: its profile, and why its numbers are stale if they are."""
    from pipeline.freshness import stale_line

    lines = []
    for name, side in (("A", a), ("B", b)):
        if (project := side.run.project) is not None and side.run.name:
            lines.append(f"{name}: {profile_line(project)}")
            if said := stale_line(project, "score"):
                lines.append(f"{name}: {said}")
    return lines
