"""Rule rectifier: only masks in the half or quadrant that the sentence names (TAS's spatial rectifier)."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from stages.scoring.fusion import Floats
from stages.scoring.others import columns_of
from stages.scoring.rules.based import Based, base_cells, base_scores
from stages.scoring.rules.registry import RULES, Rule
from stages.scoring.segments import ranked_below
from stages.scoring.table import PairTable, Scoring
from stages.text.words import POSITIONS

_SIDES = {"left": (0, -1), "right": (0, 1), "top": (1, -1), "bottom": (1, 1)}
"""Class of words -> axis of the centroid, and on which side of the median."""


class Settings(Based):
    """The rule has no other settings."""


def scores(pairs: PairTable, scoring: Scoring, settings: Settings) -> Floats:
    """s, with the masks outside the named half below all others, float64 (P,)."""
    return ranked_below(base_scores(pairs, scoring, settings.base), outside(pairs), pairs.offsets)


def outside(pairs: PairTable) -> NDArray[np.bool_]:
    """Which pairs' centroids lie on the other side of the median of the image's centroids (P,).

    Of expressions that place their target by a word that stands alone, and set it in relation to no other object. Where no
    mask lies inside, none is outside: the two medians of a quadrant may leave nothing.
    """
    columns, result = columns_of(pairs), np.zeros(len(pairs.union), np.bool_)
    centroids, lost = columns["proposal_centroid"][columns["proposal"]], pairs.lost
    related = columns["relation"][:, 2] >= 0
    related &= columns["relation"][:, 0] < 0
    owner = np.repeat(np.arange(len(pairs.group)), np.diff(columns["relation_offsets"]))
    second = np.zeros(len(pairs.group), np.bool_)
    second[owner[related]] = True
    classes = tuple(POSITIONS)
    for expression in np.flatnonzero(columns["expression_position"].any(1) & ~second):
        own = slice(pairs.offsets[expression], pairs.offsets[expression + 1])
        usable = ~lost[own]
        if not usable.any():
            continue
        inside = usable.copy()
        for place in np.flatnonzero(columns["expression_position"][expression]):
            if classes[place] in _SIDES:
                axis, sign = _SIDES[classes[place]]
                values = centroids[own, axis]
                inside &= sign * values >= sign * np.median(values[usable])
        if inside.any():
            result[own] = ~inside
    return result


RULES.add(
    Rule(
        module=__name__,
        name="rectifier",
        label="Spatial rectifier",
        formula="s, masks outside the named half of the centroids below all others",
        scores=scores,
        settings=Settings,
        needs=base_cells,
    )
)
