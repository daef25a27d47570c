"""What the page knows of each expression: the measurements by which its lists are sorted and filtered, and its address."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from stages.page.data import Data
from stages.scoring.comparison import by_length

FAILED = 0.5
"""An expression failed where the IoU of its choice is at most this: it is not counted by P@0.5."""
LISTED = 100
"""Failures of one split that the page lists; all of them could be tens of thousands."""


@dataclass(frozen=True)
class Facts:
    """One expression.

    Attributes:
        anchor: id of its element, see ``anchor_of``.
        iou, best: IoU of the choice of the run's rule and of the best proposal, None without a ground truth.
        margin: score of the choice less that of the next best proposal, None where there is no other.
        category: of the object, "" where the data set has none. length: class of its number of words, "" for none.
        positions, relations: the words of either sort that the sentence has.
    """

    anchor: str
    dataset: str
    split: str
    expression_id: int
    ref_id: int
    image: str
    expression: str
    noun_phrase: str
    iou: float | None
    best: float | None
    margin: float | None
    category: str
    length: str
    positions: tuple[str, ...]
    relations: tuple[str, ...]

    @property
    def regret(self) -> float | None:
        """IoU of the best proposal less IoU of the choice: what the choice lost."""
        return None if self.iou is None or self.best is None else self.best - self.iou


@dataclass(frozen=True)
class Failures:
    """The failures of all measured splits: those listed, and how many there are of how many expressions."""

    rows: list[Facts]
    total: int
    expressions: int


class Expressions:
    """The facts of a run's expressions; what is asked for is worked out once."""

    def __init__(self, data: Data) -> None:
        self.data = data

    @cached_property
    def margin(self) -> NDArray[np.float64]:
        """Score of each choice of the run's rule less the next best score among the proposals that take part (E,).

        NaN without a choice, or without a second proposal; 0 where the two are equal.
        """
        data = self.data
        offsets, chosen = data.pairs["expression_offsets"], data.chosen(data.main)
        others = np.where(data.kept(), data.scores["score"].astype(np.float64), -np.inf)
        decided = np.flatnonzero(chosen >= 0)
        rows = offsets[decided] + chosen[decided]
        scores = data.scores["score"][rows].astype(np.float64)
        others[rows] = -np.inf
        margin = np.full(len(chosen), np.nan)
        if len(decided):
            filled = np.flatnonzero(np.diff(offsets))
            second = np.full(len(chosen), -np.inf)
            second[filled] = np.maximum.reduceat(others, offsets[filled])
            found = scores - second[decided]
            margin[decided] = np.where(np.isfinite(found), found, np.nan)
        return margin

    @cached_property
    def regret(self) -> NDArray[np.float64]:
        """IoU of each best proposal less IoU of the choice (E,); means nothing without a ground truth."""
        difference: NDArray[np.float64] = self.data.iou["upper_bound"] - self.data.iou[self.data.main]
        return difference

    @cached_property
    def _length(self) -> dict[int, str]:
        classes = by_length(self.data.parse["sentence"])
        return {int(row): name for name, rows in classes.items() for row in rows}

    def facts(self, expression: int) -> Facts:
        """What is known of the expression in a row of the tables."""
        data, index, parse = self.data, self.data.index, self.data.parse
        ref, (dataset, split) = int(data.pairs["expression_ref"][expression]), data.groups[data.group[expression]]
        evaluated, margin = bool(data.evaluated[expression]), float(self.margin[expression])
        identifier = int(index["expression_id"][expression])
        return Facts(
            anchor=anchor_of(dataset, split, identifier),
            dataset=dataset,
            split=split,
            expression_id=identifier,
            ref_id=int(index["ref_id"][ref]),
            image=index["image_name"][int(data.pairs["expression_image"][expression])],
            expression=index["expression_raw"][expression],
            noun_phrase=parse["noun_phrase"][expression],
            iou=float(data.iou[data.main][expression]) if evaluated else None,
            best=float(data.iou["upper_bound"][expression]) if evaluated else None,
            margin=None if np.isnan(margin) else margin,
            category=index["ref_category"][ref],
            length=self._length.get(expression, "") if parse["sentence"][expression].strip() else "",
            positions=_words(parse["position_words"][expression]),
            relations=_words(parse["relation_words"][expression]),
        )

    def has_spatial_word(self, expression: int) -> bool:
        """Whether the sentence has a word of position or relation."""
        return any(self.data.parse[f"{sort}_words"][expression] != "[]" for sort in ("position", "relation"))

    def failures(self, listed: int = LISTED) -> Failures:
        """The failures with the greatest regret, up to ``listed`` of each split; of equal regret the lower IoU first."""
        data = self.data
        failed = data.counted & (data.iou[data.main] <= FAILED)
        rows: list[Facts] = []
        for group in data.measured:
            members = np.flatnonzero(failed & (data.group == group))
            order = np.lexsort((members, data.iou[data.main][members], -self.regret[members]))
            rows += [self.facts(int(expression)) for expression in members[order[:listed]]]
        rows.sort(key=lambda facts: -(facts.regret or 0))
        return Failures(rows, int(failed.sum()), int(data.counted.sum()))


def _words(text: str) -> tuple[str, ...]:
    return tuple(dict.fromkeys(str(word).lower() for word in json.loads(text)))


def anchor_of(dataset: str, split: str, expression_id: int) -> str:
    """The id of an expression's element, which an address may end in as it stands; two expressions never share one.

    What is neither an ASCII letter nor a digit, full stop or plus sign becomes its code point in hexadecimal.

    >>> anchor_of("refcoco+", "val", 17), anchor_of("my set", "a-b", 3)
    ('e-refcoco+-val-17', 'e-my_20_set-a_2d_b-3')
    """
    parts = (re.sub(r"[^A-Za-z0-9.+]", lambda found: f"_{ord(found[0]):x}_", part) for part in (dataset, split))
    return f"e-{'-'.join(parts)}-{expression_id}"
