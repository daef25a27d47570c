"""What a rule answers every expression with, a record each: what the forms of one rule, and tables by expression, write."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np

from pipeline.commands.scored_runs import Run
from pipeline.exports.rankings import Ranking, rankings
from stages.scoring.metrics import outcome_of_choice
from store.errors import ParameterError
from store.ragged import owners_of
from store.segmentation import encode
from store.states import State
from store.table import Table, read_table, require_same

_INDEX = (
    *("image_name", "image_id", "image_size", "ref_id", "ref_image", "ref_category", "ref_mask"),
    *("expression_id", "expression_ref", "expression_raw"),
)
_PROPOSALS = ("image_offsets", "mask", "status")
_NOTHING_LEFT = "no proposal is left by the filters of section score, or the rule scores none"


@dataclass(frozen=True, slots=True)
class Prediction:
    """One expression and what a rule chose for it.

    Attributes:
        dataset, split, ref_id, expression_id: the data set's own ids; ``expression_id`` is the annotation file's sent_id.
        image_row: row in the index. image_id: the data set's own, -1 for none. image: file name below the image folder.
        height, width: of the image in pixels.
        category: of the ref, "" for none. category_id: its place among the sorted categories of the run, from 1.
        sentence: as annotated. phrase: the target noun phrase.
        proposal: the chosen one's position among the proposals of its image, -1 for none.
        score, margin: of the chosen one, and by how much it is above the next; None for none.
        proposals: how many could be chosen. truncated: the sentence or phrase is longer than the encoder reads.
        intersection, union: pixels, without a choice 0 and the ground truth's area. iou: their ratio, None without a ground
            truth.
        counted: whether the rule's metrics count the expression.
        state: "" or what is wrong (``store.states.State``). status: why it has no choice, or is not evaluated.
        mask, truth: RLE counts, an empty mask where there is none.
    """

    dataset: str
    split: str
    ref_id: int
    expression_id: int
    image_row: int
    image_id: int
    image: str
    height: int
    width: int
    category: str
    category_id: int
    sentence: str
    phrase: str
    proposal: int
    score: float | None
    margin: float | None
    proposals: int
    truncated: bool
    intersection: int
    union: int
    iou: float | None
    counted: bool
    state: str
    status: str
    mask: bytes
    truth: bytes

    def ids(self) -> dict[str, Any]:
        """What tells the expression from others: data set, split, ids, image, category and sentence."""
        names = ("dataset", "split", "ref_id", "expression_id", "image", "category", "sentence")
        return {name: getattr(self, name) for name in names}

    def answer(self) -> dict[str, Any]:
        """What was chosen and how it counts."""
        names = ("proposal", "iou", "counted", "state", "status")
        return {name: getattr(self, name) for name in names}


def predictions(run: Run, rule: str, groups: Sequence[tuple[str, str]]) -> list[Prediction]:
    """One record for each expression of ``groups``, in the order of the index.

    Args:
        rule: as in ``chosen.<rule>`` of the run's scores table.

    Raises:
        StoreError: tables that do not belong together, see also ``rankings``.
        ParameterError: these splits have no expression.
    """
    ranking = rankings(run, [rule])[rule]
    answers = _Answers(ranking, *_tables(run))
    return [answers.at(row) for row in rows_of(ranking, groups)]


class _Answers:
    """The records of a ranking's expressions, from columns that are computed once for all of them."""

    def __init__(self, ranking: Ranking, index: Table, proposals: Table, parse: Table) -> None:
        pairs = ranking.pairs
        assert pairs.columns is not None
        self.ranking, self.index, self.proposals, self.parse = ranking, index, proposals, parse
        self.status = pairs.columns["expression_status"]
        self.outcome = outcome_of_choice(ranking.chosen, pairs.offsets, pairs.intersection, pairs.union, pairs.area)
        self.score, self.margin, self.counted = ranking.best(), ranking.margins(), ranking.counted
        self.kept = np.bincount(owners_of(pairs.offsets)[ranking.kept], minlength=len(ranking.chosen))
        self.categories = {name: 1 + place for place, name in enumerate(sorted(set(index["ref_category"])))}

    def at(self, row: int) -> Prediction:
        """The record of the expression in ``row``."""
        index, pairs = self.index, self.ranking.pairs
        ref, image, chosen = int(index["expression_ref"][row]), int(pairs.image[row]), int(self.ranking.chosen[row])
        (dataset, split), category = pairs.groups[pairs.group[row]], index["ref_category"][ref]
        height, width = index["image_size"][image].tolist()
        nothing, truth = _no_pixels(height, width), index["ref_mask"][ref]
        return Prediction(
            dataset=dataset,
            split=split,
            ref_id=int(index["ref_id"][ref]),
            expression_id=int(index["expression_id"][row]),
            image_row=image,
            image_id=int(index["image_id"][image]),
            image=index["image_name"][image],
            height=height,
            width=width,
            category=category,
            category_id=self.categories[category],
            sentence=index["expression_raw"][row],
            phrase=self.parse["noun_phrase"][row],
            proposal=chosen,
            score=_number(self.score[row]),
            margin=_number(self.margin[row]),
            proposals=int(self.kept[row]),
            truncated=bool(pairs.truncated[row]),
            intersection=int(self.outcome.intersection[row]),
            union=int(self.outcome.union[row]),
            iou=float(self.outcome.iou[row]) if truth else None,
            counted=bool(self.counted[row]),
            state=str(pairs.state[row]),
            status=self._why(row, image),
            mask=nothing if chosen < 0 else self.proposals["mask"][self.proposals["image_offsets"][image] + chosen],
            truth=truth or nothing,
        )

    def _why(self, row: int, image: int) -> str:
        """Why an expression has no choice, or is not evaluated; "" for one that has and is."""
        why: str = self.status[row]
        if why or self.ranking.chosen[row] >= 0:
            return why
        without = self.ranking.pairs.state[row] == State.NO_PROPOSALS
        return str(self.proposals["status"][image]) if without else _NOTHING_LEFT


def rows_of(ranking: Ranking, groups: Sequence[tuple[str, str]]) -> list[int]:
    """The expressions of these splits, also those that are not evaluated.

    Raises:
        ParameterError: there are none.
    """
    wanted = [place for place, group in enumerate(ranking.pairs.groups) if group in groups]
    rows: list[int] = np.flatnonzero(np.isin(ranking.pairs.group, wanted)).tolist()
    if not rows:
        said = ", ".join(f"{dataset} {split}" for dataset, split in groups) or "no split"
        raise ParameterError(f"expected expressions to write, {said} has none; choose another --dataset or --split")
    return rows


def _tables(run: Run) -> tuple[Table, Table, Table]:
    """Index, proposals and parse, checked to belong to the run's main pair table."""
    index = read_table(run.path("index"), "index", _INDEX)
    proposals = read_table(run.path("proposals"), "proposals", _PROPOSALS)
    parse = read_table(run.path("parse"), "parse", ("noun_phrase",))
    require_same("results", (run.pairs, "index", index), (run.pairs, "proposals", proposals))
    require_same("results", (run.pairs, "parse", parse), (proposals, "index", index), (parse, "index", index))
    return index, proposals, parse


@cache
def _no_pixels(height: int, width: int) -> bytes:
    """The counts of an empty mask."""
    return encode(np.zeros((1, height, width), np.bool_))[0]


def _number(value: float) -> float | None:
    return None if np.isnan(value) else float(value)
