"""Rule ordinal: "second from left": the n-th of the candidates along an axis (GeoSelect)."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from stages.scoring.boxes import area
from stages.scoring.fusion import Floats
from stages.scoring.others import columns_of
from stages.scoring.rules.based import Based, base_cells, base_scores
from stages.scoring.rules.registry import RULES, Rule
from stages.scoring.segments import ranked_below
from stages.scoring.table import PairTable, Scoring
from stages.text.words import POSITIONS

_AXIS = {"left": (0, 1), "right": (0, -1), "top": (1, 1), "bottom": (1, -1)}
"""Class of words -> axis of the centroid, and in which order it is counted."""


class Settings(Based):
    """Which masks are counted."""

    margin: float = Field(3.0, ge=0, description="candidates score at least the best less this (100 cos)")
    overlap: float = Field(
        0.5, ge=0, le=1, description="of masks whose boxes have this IoU only the best is a candidate"
    )


def scores(pairs: PairTable, scoring: Scoring, settings: Settings) -> Floats:
    """s, with all but the n-th candidate below it, float64 (P,); where there are fewer than n candidates, s."""
    columns, base = columns_of(pairs), base_scores(pairs, scoring, settings.base)
    rejected = np.zeros(len(base), np.bool_)
    classes, ordinals = tuple(POSITIONS), columns["expression_ordinal"]
    for expression in np.flatnonzero(ordinals[:, 0] > 0):
        n, direction = ordinals[expression]
        own = slice(pairs.offsets[expression], pairs.offsets[expression + 1])
        rows = columns["proposal"][own]
        found = candidates(base[own], columns["proposal_box"][rows].astype(np.float64), settings)
        if len(found) < n:
            continue
        axis, sign = _AXIS[classes[direction]]
        along = np.argsort(sign * columns["proposal_centroid"][rows[found], axis], kind="stable")
        rejected[own] = True
        rejected[own.start + found[along[n - 1]]] = False
    return ranked_below(base, rejected, pairs.offsets)


def candidates(scores: Floats, boxes: NDArray[np.float64], settings: Settings) -> NDArray[np.int64]:
    """Which of N masks are counted, best first: near the best score, and no two of them of one object."""
    usable = np.flatnonzero(np.isfinite(scores))
    if not len(usable):
        return usable
    near = usable[scores[usable] >= scores[usable].max() - settings.margin]
    kept: list[int] = []
    for row in near[np.argsort(-scores[near], kind="stable")]:
        low, high = np.maximum(boxes[kept, :2], boxes[row, :2]), np.minimum(boxes[kept, 2:], boxes[row, 2:])
        common = np.maximum(high - low, 0).prod(-1)
        if not (common >= settings.overlap * np.maximum(area(boxes[kept]) + area(boxes[row]) - common, 1e-9)).any():
            kept.append(int(row))
    return np.array(kept, np.int64)


RULES.add(
    Rule(
        module=__name__,
        name="ordinal",
        label="Ordinals",
        formula="s, the n-th candidate along the named axis above all others",
        scores=scores,
        settings=Settings,
        needs=base_cells,
    )
)
