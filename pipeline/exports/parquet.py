"""Form parquet: a row for each expression and proposal of its image, with the score and the choice of every rule.

An expression for which a rule has no choice has a further row, ``proposal`` -1, with intersection 0 and the ground truth's
area as union: so the rows that are chosen and counted are what the rule's metrics are made of.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.commands.scored_runs import Run
from pipeline.exports.predictions import rows_of
from pipeline.exports.rankings import BOUND, Ranking, rankings
from pipeline.exports.registry import FORMS, Asked, Form, Written
from pipeline.listings.arrow import arrow, write_columns
from pipeline.listings.listing import encodable
from stages.scoring.metrics import iou_of
from store.ragged import offsets_of, owners_of
from store.table import read_table, require_same

_INDEX = ("image_name", "image_id", "ref_id", "ref_category", "expression_id", "expression_ref")


@dataclass(frozen=True)
class Lines:
    """The rows of the file: their expression, their proposal's position (-1 for none) and their pair (L,)."""

    expression: NDArray[np.int64]
    proposal: NDArray[np.int64]
    pair: NDArray[np.int64]

    @property
    def filled(self) -> NDArray[np.bool_]:
        filled: NDArray[np.bool_] = self.proposal >= 0
        return filled

    def of_pairs(self, column: NDArray[Any], nothing: Any) -> NDArray[Any]:
        """A column of pairs (P,) for each row; ``nothing`` where there is no proposal."""
        values = np.full(len(self.pair), nothing, column.dtype)
        values[self.filled] = column[self.pair[self.filled]]
        return values


def write(asked: Asked, out: Path) -> Written:
    """Write the pairs and the scores of all rules that are asked for."""
    arrow()
    found = rankings(asked.run, asked.rules)
    first = next(iter(found.values()))
    lines = _lines(found, rows_of(first, asked.groups))
    columns = {**_pair_columns(asked.run, first, lines), **_rule_columns(found, lines)}
    write_columns(columns, out)
    said = f"rule {first.name}" if len(found) == 1 else f"{len(found)} rules"
    expressions = len(np.unique(lines.expression))
    return Written({out: f"{len(lines.pair):,} rows of {expressions:,} expressions; {said}"})


def _lines(found: Mapping[str, Ranking], rows: list[int]) -> Lines:
    expressions = np.asarray(rows, np.int64)
    own = next(iter(found.values())).pairs.offsets
    undecided = np.any([each.chosen[expressions] < 0 for each in found.values()], axis=0)
    counts = np.diff(own)[expressions]
    offsets = offsets_of(counts + undecided)
    owner = owners_of(offsets)
    position = np.arange(offsets[-1]) - offsets[owner]
    position[position == counts[owner]] = -1
    return Lines(expressions[owner], position, own[expressions[owner]] + position)


def _pair_columns(run: Run, ranking: Ranking, lines: Lines) -> dict[str, Any]:
    """What all rules share: ids, the proposal and its overlap with the ground truth."""
    lib, pairs, owner = arrow(), ranking.pairs, lines.expression
    index = read_table(run.path("index"), "index", _INDEX)
    require_same("results", (run.pairs, "index", index))
    ref, image, group = index["expression_ref"][owner], pairs.image[owner], pairs.group[owner]
    assert pairs.columns is not None
    box = pairs.columns["proposal_box"][pairs.columns["proposal"]]
    intersection = lines.of_pairs(pairs.intersection, 0)
    union = np.where(lines.filled, lines.of_pairs(pairs.union, 0), pairs.area[owner])

    def texts(values: list[str], rows: NDArray[Any]) -> Any:
        return lib.DictionaryArray.from_arrays(
            rows.astype(np.int32), lib.array([encodable(v) for v in values], "string")
        )

    return {
        "dataset": texts([dataset for dataset, _ in pairs.groups], group),
        "split": texts([split for _, split in pairs.groups], group),
        "ref_id": index["ref_id"][ref],
        "expression_id": index["expression_id"][owner],
        "image_id": index["image_id"][image],
        "image": texts(index["image_name"], image),
        "category": texts(index["ref_category"], ref),
        "proposal": lines.proposal,
        "confidence": lib.array(lines.of_pairs(pairs.proposal_score, np.nan), mask=~lines.filled),
        "area": lines.of_pairs(pairs.proposal_area, 0),
        **{
            name: lib.array(lines.of_pairs(box[:, side], np.nan), mask=~lines.filled)
            for side, name in enumerate(("x1", "y1", "x2", "y2"))
        },
        "intersection": intersection,
        "union": union,
        "iou": iou_of(intersection, union),
    }


def _rule_columns(found: Mapping[str, Ranking], lines: Lines) -> dict[str, Any]:
    """Of each encoder the states of its expressions, and the pairs that filters and lost features leave; of each rule its
    scores (null where it must not choose), what it chose, and whether its metrics count the expression."""
    lib = arrow()
    by_encoder: dict[str, Any] = {}
    by_rule: dict[str, Any] = {}
    for name, each in found.items():
        prefix = f"{each.encoder}:" if each.encoder else ""
        if f"{prefix}state" not in by_encoder:
            states = lib.array([str(state) for state in each.pairs.state])
            by_encoder[f"{prefix}state"] = states.take(lib.array(lines.expression)).dictionary_encode()
            by_encoder[f"{prefix}kept"] = lines.of_pairs(each.kept, False)
        if not name.endswith(BOUND):
            scores = lines.of_pairs(each.scores, -np.inf)
            by_rule[f"score.{name}"] = lib.array(scores, mask=np.isneginf(scores))
        by_rule[f"chosen.{name}"] = each.chosen[lines.expression] == lines.proposal
        by_rule[f"counted.{name}"] = each.counted[lines.expression]
    return {**by_encoder, **by_rule}


FORMS.add(
    Form(
        name="parquet",
        module=__name__,
        meaning="Parquet, a row for each expression and proposal: overlap, scores and choices of every rule (extra tables)",
        folder=False,
        write=write,
        every_rule=True,
    )
)
